//! Document and arguments to [`Policy`]: what is required is there, names are unique, groups are defined, and
//! the rules fit together for every target.

use std::collections::{BTreeSet, HashMap};

use enforcer_common::{clause::MAX_CANARY_LISTS, decide::Mode, errno};
use toml::Spanned;

use super::{
    Policy, Selector, TargetSpec, advice,
    argument::RuleArgument,
    check_rule::{checked, groups, rule_of_argument, rule_of_table},
    diagnostic::{Diagnostic, Place, PolicyError, Related, Severity},
    document::{Document, Field, ModeName, TargetTable},
    live::Live,
    parse::{Report, parse},
    review::{self, Findings},
    rule::{DEFAULT_GROUP, GroupName, Origin, Resolve, Rule, RuleGroups},
    source::Source,
    value::{Problem, check_container, check_name, nearest, parse_errno, quote},
};
use crate::names::{MAX_NAMES, Request};

/// The only version of the file format there is.
const VERSION: i64 = 1;

/// The largest process identifier (`PID_MAX_LIMIT`, `include/linux/threads.h`).
const MAX_PID: i64 = 4 << 20;

/// Checks a file (if any) and the command line's rules together.
pub(super) fn check(
    source: Option<&Source>,
    arguments: Vec<RuleArgument>,
) -> Result<(Policy, Vec<Diagnostic>), PolicyError> {
    let mut report = Report::default();
    let mut policy = Policy {
        mode: Mode::Enforce,
        errno: errno::DEFAULT,
        targets: Vec::new(),
        rules: Vec::new(),
    };
    if let Some(source) = source {
        let document = parse(source, &mut report);
        check_version(&document, source, &mut report);
        if let Some(mode) = document.defaults.mode.good() {
            policy.mode = match mode.get_ref() {
                ModeName::Enforce => Mode::Enforce,
                ModeName::Audit => Mode::Audit,
            };
        }
        if let Some(errno) = checked(&document.defaults.errno, source, &mut report, |name| {
            parse_errno(name)
        }) {
            policy.errno = errno;
        }
        for table in &document.rules {
            let rule = rule_of_table(table, source, policy.errno, &mut report);
            policy.rules.extend(rule);
        }
        tell_apart(&mut policy.rules);
        number_canaries(&mut policy.rules, source, &mut report);
        for table in &document.targets {
            policy.targets.extend(target(table, source, &mut report));
        }
        check_names(&document, &arguments, source, &mut report);
        check_groups(&document, source, &mut report);
    }
    if let Some(source) = source {
        check_name_count(&policy, source, &mut report);
    }
    for argument in arguments {
        policy.rules.push(rule_of_argument(argument, policy.errno));
    }
    if !report.has_syntax_errors() {
        check_together(&policy, source, &mut report);
    }
    if !report.has_errors() {
        advice::advise(&policy, source, &mut report);
    }
    let failed = report.has_errors();
    let diagnostics = report.finish();
    if failed {
        Err(PolicyError::new(diagnostics))
    } else {
        Ok((policy, diagnostics))
    }
}

/// Gives rules of the file that begin on one line, and have no name, labels of their own.
fn tell_apart(rules: &mut [Rule]) {
    let line_of = |rule: &Rule| match rule.origin {
        Origin::File { line, .. } => Some(line),
        Origin::Argument(_) => None,
    };
    // They are in the order of the file.
    let lines = rules.chunk_by_mut(|one, next| line_of(one) == line_of(next));
    for of_line in lines.filter(|of_line| of_line.len() > 1) {
        let nameless = of_line.iter_mut().filter(|rule| rule.is_nameless());
        let nameless: Vec<&mut Rule> = nameless.collect();
        if nameless.len() > 1 {
            for rule in nameless {
                rule.label = rule.origin.with_column();
            }
        }
    }
}

/// Gives each list of canaries of the policy its number; equal lists share one.
fn number_canaries(rules: &mut [Rule], source: &Source, report: &mut Report) {
    let mut numbers: HashMap<Vec<String>, u8> = HashMap::new();
    for rule in rules.iter_mut().filter(|rule| rule.enabled) {
        let Some(rollout) = rule.rollout.as_mut().filter(|rollout| !rollout.canary.is_empty()) else {
            continue;
        };
        let next = numbers.len() + 1;
        if next > MAX_CANARY_LISTS && !numbers.contains_key(&rollout.canary) {
            let message = format!("the policy has more than {MAX_CANARY_LISTS} different lists of canaries");
            let place = Some(place_of(&rule.origin, Some(source)));
            let mut diagnostic = Diagnostic::new(Severity::Error, message, place);
            diagnostic.hint = Some("let rules have the same canaries: equal lists count once".to_owned());
            report.push(diagnostic);
            return;
        }
        let number = numbers.entry(rollout.canary.clone());
        rollout.canary_list = *number.or_insert(next as u8);
    }
}

/// Names that are followed cost questions all the time: each for each nameserver that it is asked of.
fn check_name_count(policy: &Policy, source: &Source, report: &mut Report) {
    let mut requests: BTreeSet<Request> = BTreeSet::new();
    for rule in policy.rules.iter().filter(|rule| rule.enabled) {
        let Some(request) = rule.request(None) else {
            continue;
        };
        let users = (0..)
            .zip(&policy.targets)
            .filter(|(_, target)| rule.is_in(&target.groups));
        let mut users = users.map(|(number, _)| number).peekable();
        if rule.resolve == Resolve::Host || users.peek().is_none() {
            // Where no target of the file uses it, one of the command line may.
            requests.insert(request);
        } else {
            requests.extend(users.filter_map(|number| rule.request(Some(number))));
        }
        if requests.len() > MAX_NAMES {
            let message = format!("the policy has more than {MAX_NAMES} names to look up");
            let place = Some(place_of(&rule.origin, Some(source)));
            let mut diagnostic = Diagnostic::new(Severity::Error, message, place);
            diagnostic.hint = Some(
                "write the prefixes of some of them instead; with `resolve = \"target\"` a name counts for each target"
                    .to_owned(),
            );
            report.push(diagnostic);
            return;
        }
    }
}

fn check_version(document: &Document<'_>, source: &Source, report: &mut Report) {
    match &document.version {
        Field::Absent => {
            let problem = Problem::new("the policy file does not say its `version`");
            let hint = format!("begin it with `version = {VERSION}`");
            report.missing(source, &(0..0), problem.hint(hint));
        }
        Field::Good(version) if *version.get_ref() != VERSION => {
            let problem = Problem::new(format!("version {} is not known", version.get_ref()));
            let hint = format!("this enforcer reads version {VERSION}");
            report.error(source, &version.span(), problem.hint(hint));
        }
        Field::Bad | Field::Good(_) => {}
    }
}

fn target(table: &TargetTable, source: &Source, report: &mut Report) -> Option<TargetSpec> {
    let name = checked(&table.name, source, report, |name| {
        check_name(name, "target").map(|()| name.clone())
    });
    if table.name.is_absent() {
        let problem = Problem::new("the target has no name");
        let hint = "add `name = \"…\"`: events and summaries call it by that";
        report.missing(source, &table.header, problem.hint(hint));
    }
    let cgroup = checked(&table.cgroup, source, report, |path| {
        let problem = |why| Problem::new(format!("{} {why}", quote(path)));
        if !path.starts_with('/') {
            let rooted = format!("did you mean `/{path}`? paths count from the cgroup v2 mount");
            return Err(problem("is not an absolute path").hint(rooted));
        }
        if path.contains('\0') || path.split('/').any(|part| part == "..") {
            return Err(problem("is not a plain path"));
        }
        Ok(Selector::Cgroup(path.into()))
    });
    let pid = checked(&table.pid, source, report, |pid| {
        let range = 1..=MAX_PID;
        let valid = u32::try_from(*pid).ok().filter(|_| range.contains(pid));
        let problem = || Problem::new(format!("`{pid}` is not a process identifier"));
        valid.map(Selector::Pid).ok_or_else(problem)
    });
    let container = checked(&table.container, source, report, |name| {
        check_container(name).map(|()| Selector::Container(name.clone()))
    });
    let how = "give one of `cgroup = \"/…\"`, `pid = …` and `container = \"…\"`";
    let given: Vec<&str> = [
        ("`cgroup`", table.cgroup.is_absent()),
        ("`pid`", table.pid.is_absent()),
        ("`container`", table.container.is_absent()),
    ]
    .into_iter()
    .filter_map(|(key, is_absent)| (!is_absent).then_some(key))
    .collect();
    match given[..] {
        [] => {
            let problem = Problem::new("the target does not say which workload it is");
            report.missing(source, &table.header, problem.hint(how));
        }
        [_] => {}
        [first, second] => {
            let problem = Problem::new(format!("the target has both {first} and {second}"));
            report.error(source, &table.header, problem.hint(how));
        }
        _ => {
            let problem = Problem::new(format!("the target has all of {}", given.join(", ")));
            report.error(source, &table.header, problem.hint(how));
        }
    }
    let groups = groups(&table.groups, "target", source, report);
    let (line, column) = source.position(table.header.start);
    Some(TargetSpec {
        name: name?,
        selector: cgroup.or(pid).or(container)?,
        groups,
        origin: Origin::File {
            path: source.path().to_owned(),
            line,
            column,
        },
    })
}

/// Names of targets are unique, and so are names of rules, those of the command line included.
fn check_names(document: &Document<'_>, arguments: &[RuleArgument], source: &Source, report: &mut Report) {
    let mut seen = HashMap::new();
    for name in document.targets.iter().filter_map(|table| table.name.good()) {
        unique(
            &mut seen,
            "target",
            name.get_ref(),
            source.place(&name.span()),
            report,
        );
    }
    seen.clear();
    for name in document.rules.iter().filter_map(|table| table.name.good()) {
        unique(
            &mut seen,
            "rule",
            name.get_ref(),
            source.place(&name.span()),
            report,
        );
    }
    for argument in arguments {
        if let Some(name) = &argument.name {
            let place = Place::Argument(argument.spelling.clone());
            unique(&mut seen, "rule", name, place, report);
        }
    }
}

fn unique<'a>(
    seen: &mut HashMap<&'a str, Place>,
    what: &str,
    name: &'a str,
    place: Place,
    report: &mut Report,
) {
    match seen.get(name) {
        None => {
            seen.insert(name, place);
        }
        Some(first) => {
            let problem = Problem::new(format!("two {what}s are named {}", quote(name)));
            let mut diagnostic = problem
                .hint(format!("events name the {what}, so names must tell them apart"))
                .at(Severity::Error, place);
            diagnostic.related.push(Related {
                message: format!("the first {what} of that name"),
                place: first.clone(),
            });
            report.push(diagnostic);
        }
    }
}

/// Every group that a target uses has a rule, or is the default group.
fn check_groups(document: &Document<'_>, source: &Source, report: &mut Report) {
    let names = |list: &'_ Spanned<Vec<Spanned<String>>>| -> Vec<(String, std::ops::Range<usize>)> {
        let names = list.get_ref().iter();
        names.map(|name| (name.get_ref().clone(), name.span())).collect()
    };
    let mut defined: BTreeSet<GroupName> = BTreeSet::from([DEFAULT_GROUP.to_owned()]);
    for list in document.rules.iter().filter_map(|table| table.groups.good()) {
        defined.extend(names(list).into_iter().map(|(name, _)| name));
    }
    for list in document.targets.iter().filter_map(|table| table.groups.good()) {
        for (name, span) in names(list) {
            if defined.contains(&name) || check_name(&name, "group").is_err() {
                continue;
            }
            let problem = Problem::new(format!("no rule is in the group {}", quote(&name)));
            let hint = match nearest(&name, defined.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("add `groups = [\"{name}\"]` to the rules that belong to it"),
            };
            report.missing(source, &span, problem.hint(hint));
        }
    }
}

/// What only shows when the rules of a target are compiled together.
fn check_together(policy: &Policy, source: Option<&Source>, report: &mut Report) {
    // There may be thousands of groups: looking through all rules for each would take long.
    let mut of_group: HashMap<&str, Vec<u32>> = HashMap::new();
    let mut of_all = Vec::new();
    for (index, rule) in (0..).zip(&policy.rules) {
        match &rule.groups {
            RuleGroups::All => of_all.push(index),
            RuleGroups::Named(names) => {
                for name in names {
                    of_group.entry(name).or_default().push(index);
                }
            }
        }
    }
    let mut findings = Findings::new(policy.rules.len());
    let live = Live::default();
    for groups in policy.group_sets() {
        let named = groups.iter().filter_map(|name| of_group.get(name.as_str()));
        let mut chosen: Vec<u32> = named.flatten().chain(&of_all).copied().collect();
        chosen.retain(|index| policy.rules[*index as usize].enabled);
        chosen.sort_unstable();
        chosen.dedup();
        review::compile_and_review(&policy.rules, &chosen, &live, &mut findings);
    }
    let place_of = |rule: &Rule| place_of(&rule.origin, source);
    for diagnostic in findings.diagnostics(&policy.rules, &place_of) {
        // A rule that was left out for its mistakes may be what a warning misses.
        if diagnostic.is_error() || !report.has_errors() {
            report.push(diagnostic);
        }
    }
}

/// The place that an origin stands for, with its line where the file's text is at hand.
pub(super) fn place_of(origin: &Origin, source: Option<&Source>) -> Place {
    match (origin, source) {
        (Origin::File { line, column, .. }, Some(source)) => source.place_at(*line, *column),
        _ => origin.into(),
    }
}
