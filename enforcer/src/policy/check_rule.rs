//! One rule, from a table of the file or from the command line, to a checked [`Rule`].
//!
//! Looks at nothing but the rule itself and the defaults.

use std::{ops::RangeInclusive, path::Path};

use enforcer_common::{clause::Proto, errno::Errno};
use ipnet::Ipv6Net;
use toml::Spanned;

use super::{
    argument::RuleArgument,
    document::{ActionName, Field, Port, ProtoName, RuleTable},
    parse::Report,
    prefix_list::{read_prefixes, sort},
    rule::{DEFAULT_GROUP, GroupName, Origin, RedirectTo, Rule, RuleAction, RuleGroups},
    source::Source,
    value::{Problem, check_name, parse_errno, parse_ports, parse_prefix, parse_redirect_to, port_number},
};

/// A rule of the command line.
pub(super) fn rule_of_argument(argument: RuleArgument, default_errno: Errno) -> Rule {
    let mut ports = argument.ports;
    merge_ports(&mut ports);
    let label = argument.name.unwrap_or_else(|| argument.spelling.clone());
    let origin = Origin::Argument(argument.spelling);
    Rule {
        groups: RuleGroups::All,
        errno: argument.errno.unwrap_or(default_errno),
        ports,
        proto: argument.proto,
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
    let prefixes = prefixes(table, source, report);
    let action = action(table, source, report);
    let errno = checked(&table.errno, source, report, |name| parse_errno(name));
    let ports = ports(&table.ports, source, report);
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
        ..Rule::plain(label, origin, prefixes?, action?)
    })
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
fn is_written_empty<T>(list: &Spanned<Vec<T>>, source: &Source) -> bool {
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
    ];
    let given: Vec<_> = given
        .iter()
        .filter(|(_, absent)| !absent)
        .map(|(key, _)| *key)
        .collect();
    match given.as_slice() {
        [] => {
            let problem = Problem::new("the rule covers no prefix");
            let hint = "add `prefix = \"…\"`, `prefixes = [\"…\", …]` or `prefixes_file = \"…\"`";
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
            let problem = Problem::new("the rule has an empty list of prefixes");
            report.error(source, &list.span(), problem.label("such a rule does nothing"));
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
                    let problem = Problem::new(format!("the prefixes file `{}` is empty", file.get_ref()));
                    report.warning(source, &file.span(), problem.label("the rule does nothing"));
                }
                all.extend(prefixes);
            }
            Err(problem) => report.error(source, &file.span(), problem),
        }
    }
    sort(&mut all);
    (!given.is_empty()).then_some(all)
}

fn action(table: &RuleTable<'_>, source: &Source, report: &mut Report) -> Option<RuleAction> {
    let to = checked(&table.to, source, report, |text| parse_redirect_to(text));
    let Some(action) = table.action.good() else {
        if table.action.is_absent() {
            let problem = Problem::new("the rule has no action");
            let hint = "add `action = \"reject\"`, `\"redirect\"` or `\"allow\"`";
            report.missing(source, &table.header, problem.hint(hint));
        }
        return None;
    };
    if let (ActionName::Allow | ActionName::Reject, Some(to)) = (action.get_ref(), table.to.good()) {
        let problem = Problem::new("only a redirect goes `to` an address");
        report.error(
            source,
            &to.span(),
            problem.hint("write `action = \"redirect\"`, or remove `to`"),
        );
    }
    match action.get_ref() {
        ActionName::Reject => Some(RuleAction::Reject),
        ActionName::Redirect => {
            if table.to.is_absent() {
                let problem = Problem::new("the redirect does not say where `to`");
                let hint = "add `to = \"192.0.2.1\"`, with `:PORT` if the port changes too";
                report.missing(source, &action.span(), problem.hint(hint));
            }
            to.map(|to| RuleAction::Redirect(RedirectTo::Address(to)))
        }
        ActionName::Allow => {
            if let Some(errno) = table.errno.good() {
                let problem = Problem::new("a rule that allows has no use for an `errno`");
                report.error(
                    source,
                    &errno.span(),
                    problem.hint("remove it, or write `action = \"reject\"`"),
                );
            }
            Some(RuleAction::Allow)
        }
    }
}

/// The ports of a rule; `None` if there is none among what is given.
fn ports(
    field: &Field<Vec<Spanned<Port>>>,
    source: &Source,
    report: &mut Report,
) -> Option<Vec<RangeInclusive<u16>>> {
    let list = match field {
        Field::Absent => return Some(Vec::new()),
        Field::Bad => return None,
        Field::Good(list) => list,
    };
    if list.get_ref().is_empty() && is_written_empty(list, source) {
        let problem = Problem::new("the rule has an empty list of ports");
        report.error(
            source,
            &list.span(),
            problem.hint("leave `ports` out for every port"),
        );
    }
    let mut ports = Vec::new();
    for port in list.get_ref() {
        let parsed = match port.get_ref() {
            Port::Number(number) => port_number(*number),
            Port::Text(text) => parse_ports(text),
        };
        match parsed {
            Ok(range) => ports.push(range),
            Err(problem) => report.error(source, &port.span(), problem),
        }
    }
    merge_ports(&mut ports);
    (!ports.is_empty()).then_some(ports)
}

/// Sorts port ranges and joins those that overlap or touch: each one left is a clause.
fn merge_ports(ports: &mut Vec<RangeInclusive<u16>>) {
    ports.sort_unstable_by_key(|range| (*range.start(), *range.end()));
    ports.dedup_by(|next, last| {
        let joins = *next.start() <= last.end().saturating_add(1);
        if joins {
            *last = *last.start()..=*last.end().max(next.end());
        }
        joins
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_that_overlap_or_touch_become_one() {
        let mut ports = vec![
            8000..=8999,
            443..=443,
            444..=450,
            8500..=9000,
            1..=1,
            65535..=65535,
        ];
        merge_ports(&mut ports);
        assert_eq!(ports, [1..=1, 443..=450, 8000..=9000, 65535..=65535]);
    }
}
