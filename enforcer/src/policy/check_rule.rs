//! One rule, from a table of the file or from the command line, to a checked [`Rule`].
//!
//! Looks at nothing but the rule itself and the defaults. What it does is checked in `check_action`, and what limits it
//! in `check_limits`.

use std::path::Path;

use enforcer_common::{clause::Proto, decide::Mode, errno::Errno};
use ipnet::Ipv6Net;
use toml::Spanned;

use super::{
    argument::RuleArgument,
    check_action::{action, host, resolve},
    check_limits::{merge, ports, rollout, uids},
    document::{Field, ModeName, ProtoName, RuleTable},
    parse::Report,
    prefix_list::{read_prefixes, sort},
    rule::{DEFAULT_GROUP, GroupName, Origin, Rule, RuleGroups},
    source::Source,
    value::{Problem, check_name, check_reason, parse_errno, parse_prefix},
    when::parse_when,
};

/// A rule of the command line.
pub(super) fn rule_of_argument(argument: RuleArgument, default_errno: Errno) -> Rule {
    let (mut ports, mut uids) = (argument.ports, argument.uids);
    merge(&mut ports);
    merge(&mut uids);
    let label = argument.name.unwrap_or_else(|| argument.spelling.clone());
    let origin = Origin::Argument(argument.spelling);
    Rule {
        groups: RuleGroups::All,
        errno: argument.errno.unwrap_or(default_errno),
        ports,
        proto: argument.proto,
        uids,
        mode: argument.mode.unwrap_or(Mode::Enforce),
        expires: argument.expires,
        transparent: argument.transparent.unwrap_or(true),
        ..Rule::plain(label, origin, vec![argument.prefix], argument.action)
    }
}

/// A rule of the file; `None` if there is a mistake in it, so that what is left of it is not held against
/// other rules.
pub(super) fn rule_of_table(
    table: &RuleTable<'_>,
    source: &Source,
    default_errno: Errno,
    report: &mut Report,
) -> Option<Rule> {
    let errors_before = report.errors();
    let name = checked(&table.name, source, report, |name| {
        check_name(name, "rule").map(|()| name.clone())
    });
    let groups = groups(&table.groups, "rule", source, report);
    let host = host(table, source, report);
    let prefixes = prefixes(table, source, report);
    let action = action(table, prefixes.as_deref().unwrap_or_default(), source, report);
    let resolve = resolve(table, source, report);
    let errno = checked(&table.errno, source, report, |name| parse_errno(name));
    let ports = ports(&table.ports, source, report);
    let uids = uids(&table.uid, source, report);
    let reason = checked(&table.reason, source, report, |text| {
        check_reason(text).map(|()| text.clone())
    });
    let expires = checked(&table.expires, source, report, parse_when);
    let rollout = rollout(table, source, report);
    if report.errors() > errors_before {
        return None;
    }
    let (line, column) = source.position(table.header.start);
    let origin = Origin::File {
        path: source.path().to_owned(),
        line,
        column,
    };
    let label = name.unwrap_or_else(|| origin.to_string());
    Some(Rule {
        groups: RuleGroups::Named(groups),
        host,
        resolve: resolve?,
        allow_private: given(&table.allow_private, false)?,
        errno: errno.unwrap_or(default_errno),
        ports: ports?,
        proto: match table.proto {
            Field::Absent => None,
            Field::Bad => return None,
            Field::Good(ref proto) => Some(match proto.get_ref() {
                ProtoName::Tcp => Proto::Tcp,
                ProtoName::Udp => Proto::Udp,
            }),
        },
        uids: uids?,
        reason,
        enabled: given(&table.enabled, true)?,
        mode: match given(&table.mode, ModeName::Enforce)? {
            ModeName::Enforce => Mode::Enforce,
            ModeName::Audit => Mode::Audit,
        },
        expires,
        rollout: rollout?,
        transparent: given(&table.transparent, true)?,
        ..Rule::plain(label, origin, prefixes?, action?)
    })
}

/// The value of a field, or what holds without it; `None` if it is of the wrong type.
pub(super) fn given<T: Copy>(field: &Field<T>, default: T) -> Option<T> {
    match field {
        Field::Absent => Some(default),
        Field::Bad => None,
        Field::Good(value) => Some(*value.get_ref()),
    }
}

/// The value of a field after its check; problems are reported.
pub(super) fn checked<T, V>(
    field: &Field<T>,
    source: &Source,
    report: &mut Report,
    check: impl FnOnce(&T) -> Result<V, Problem>,
) -> Option<V> {
    let value = field.good()?;
    check(value.get_ref())
        .map_err(|problem| report.error(source, &value.span(), problem))
        .ok()
}

/// Names of groups, sorted; the default group if there are none.
pub(super) fn groups(
    field: &Field<Vec<Spanned<String>>>,
    what: &str,
    source: &Source,
    report: &mut Report,
) -> Vec<GroupName> {
    let mut names = Vec::new();
    if let Some(list) = field.good() {
        if list.get_ref().is_empty() && is_written_empty(list, source) {
            let problem = Problem::new(format!("the {what} has an empty list of groups"));
            let hint = format!("leave the key out for the group `{DEFAULT_GROUP}`");
            report.error(source, &list.span(), problem.hint(hint));
        }
        for name in list.get_ref() {
            match check_name(name.get_ref(), "group") {
                Ok(()) => names.push(name.get_ref().clone()),
                Err(problem) => report.error(source, &name.span(), problem),
            }
        }
    }
    if names.is_empty() {
        names.push(DEFAULT_GROUP.to_owned());
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether an array is empty in the file, rather than after its bad elements were taken out.
pub(super) fn is_written_empty<T>(list: &Spanned<Vec<T>>, source: &Source) -> bool {
    let text = source.text().get(list.span()).unwrap_or_default();
    text.trim_start_matches('[')
        .trim_end_matches(']')
        .trim()
        .is_empty()
}

fn prefixes(table: &RuleTable<'_>, source: &Source, report: &mut Report) -> Option<Vec<Ipv6Net>> {
    let given = [
        ("prefix", table.prefix.is_absent()),
        ("prefixes", table.prefixes.is_absent()),
        ("prefixes_file", table.prefixes_file.is_absent()),
        ("host", table.host.is_absent()),
    ];
    let given: Vec<_> = given
        .iter()
        .filter(|(_, absent)| !absent)
        .map(|(key, _)| *key)
        .collect();
    match given.as_slice() {
        [] => {
            let problem = Problem::new("the rule covers no prefix");
            let hint = "add `prefix = \"…\"`, `prefixes = [\"…\", …]`, `prefixes_file = \"…\"`, or a name: `host = \"…\"`";
            report.missing(source, &table.header, problem.hint(hint));
        }
        [_] => {}
        several => {
            let problem = Problem::new(format!("the rule has `{}`", several.join("` and `")));
            report.error(
                source,
                &table.header,
                problem.hint("keep one of them, or make two rules"),
            );
        }
    }
    let mut all = Vec::new();
    if let Some(prefix) = checked(&table.prefix, source, report, |text| parse_prefix(&text.0)) {
        all.push(prefix);
    }
    if let Some(list) = table.prefixes.good() {
        if list.get_ref().is_empty() && is_written_empty(list, source) {
            let problem = Problem::new("the rule has an empty list of prefixes")
                .label("such a rule does nothing")
                .hint("give it a prefix, or remove the rule");
            report.error(source, &list.span(), problem);
        }
        all.reserve_exact(list.get_ref().len());
        for text in list.get_ref() {
            match parse_prefix(&text.get_ref().0) {
                Ok(prefix) => all.push(prefix),
                Err(problem) => report.error(source, &text.span(), problem),
            }
        }
    }
    if let Some(file) = table.prefixes_file.good() {
        let directory = source.path().parent().unwrap_or(Path::new(""));
        match read_prefixes(&directory.join(file.get_ref()), &mut |diagnostic| {
            report.push(diagnostic);
        }) {
            Ok(prefixes) => {
                if prefixes.is_empty() && !report.has_errors() {
                    let problem = Problem::new(format!("the prefixes file `{}` is empty", file.get_ref()))
                        .label("the rule does nothing")
                        .hint("write a prefix a line into it, or remove the rule");
                    report.warning(source, &file.span(), problem);
                }
                all.extend(prefixes);
            }
            Err(problem) => report.error(source, &file.span(), problem),
        }
    }
    sort(&mut all);
    (!given.is_empty()).then_some(all)
}
