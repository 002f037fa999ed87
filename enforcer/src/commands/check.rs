//! `enforcer check`: everything that is wrong with a policy file, or only odd, without governing anything.
//!
//! Problems go to stderr, as `run` and `exec` tell them. stdout gets what is in the file, and with `--compiled` what
//! the kernel would be given.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    io,
    ops::RangeInclusive,
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::anyhow;
use enforcer_common::{clause::Clause, decide::Mode};

use super::{
    check_names,
    cli::CheckArgs,
    console,
    exit::{Exit, Failure},
    prepare::{self, counted},
    warn,
};
use crate::{
    names::Options,
    policy::{
        Policy, PolicyFile,
        compile::compile,
        compiled::CompiledPolicy,
        diagnostic::{self, Diagnostic, Severity},
        live::Live,
        rule::{GroupName, RolloutBy, Rule},
    },
    sinks::text::Shown,
    surroundings::Warning,
};

/// What `-` is called in messages.
const STDIN: &str = "<stdin>";

/// Lists of groups with the same rules, who uses them, and what the rules become.
struct RuleSet {
    groups: Vec<Vec<GroupName>>,
    targets: Vec<String>,
    compiled: Arc<CompiledPolicy>,
}

pub(crate) async fn check(arguments: &CheckArgs) -> Result<ExitCode, Failure> {
    let is_stdin = arguments.file == Path::new("-");
    let read = if is_stdin {
        PolicyFile::from_reader(Path::new(STDIN), io::stdin().lock())
    } else {
        PolicyFile::read(&arguments.file)
    };
    let file = read.map_err(prepare::policy_failure)?;
    let (policy, mut warnings) = file.check().map_err(prepare::policy_failure)?;
    let sets = rule_sets(&policy)?;
    let compiled: Vec<_> = sets.iter().map(|set| Arc::clone(&set.compiled)).collect();
    let of_this_host = warn::of_this_host(&policy.rules, &compiled).await;
    warnings.extend(
        of_this_host
            .iter()
            .map(|warning| placed(warning, &policy.rules, &file)),
    );
    if !arguments.no_resolve {
        let found = check_names::look_up(&policy.rules, Options::default(), check_names::LIMIT).await;
        warnings.extend(found.iter().map(|finding| {
            let place = policy
                .rules
                .get(finding.rule)
                .map(|rule| file.place(&rule.origin));
            let mut warning = Diagnostic::new(Severity::Warning, finding.message.clone(), place);
            warning.hint = Some(finding.hint.to_owned());
            warning
        }));
    }
    let told = diagnostic::render(&warnings, prepare::colour());
    if arguments.strict && !warnings.is_empty() {
        let verdict = anyhow!("--strict takes no warnings, and there {}", are(warnings.len()));
        console::say(told.trim_end());
        return Err(Failure::new(Exit::Policy, verdict));
    }
    if !warnings.is_empty() {
        console::say(told.trim_end());
    }
    let name = if is_stdin {
        Path::new(STDIN)
    } else {
        &arguments.file
    };
    let mut answer = format!("{}: {}\n", Shown(&name.display().to_string()), contents(&policy));
    if arguments.compiled {
        for set in &sets {
            answer.push('\n');
            show(set, &policy.rules, &mut answer);
        }
    }
    console::answer(&answer).map_err(|error| {
        let error = anyhow!(error).context("cannot write to stdout");
        Failure::new(Exit::Failed, error)
    })?;
    Ok(Exit::Done.into())
}

fn are(warnings: usize) -> String {
    match warnings {
        1 => "is 1".to_owned(),
        several => format!("are {several}"),
    }
}

/// A warning of the host's, at the rule that it is about.
fn placed(warning: &Warning, rules: &[Rule], file: &PolicyFile) -> Diagnostic {
    let rule = rules.iter().find(|rule| rule.label == warning.rule.label);
    let place = rule.map(|rule| file.place(&rule.origin));
    let mut diagnostic = Diagnostic::new(Severity::Warning, warning.to_string(), place);
    let in_file = if warning.hint.contains("--allow") {
        "; in the file that is a rule with `action = \"allow\"`"
    } else {
        ""
    };
    diagnostic.hint = Some(format!("{}{in_file}", warning.hint));
    diagnostic
}

/// What is in the policy, in a line.
fn contents(policy: &Policy) -> String {
    let prefixes: usize = policy.rules.iter().map(|rule| rule.prefixes.len()).sum();
    let names = policy.rules.iter().filter(|rule| rule.host.is_some()).count();
    let groups: BTreeSet<_> = policy.group_sets().into_iter().flatten().collect();
    let mut parts = vec![
        counted(policy.rules.len(), "rule"),
        match prefixes {
            1 => "1 prefix".to_owned(),
            several => format!("{several} prefixes"),
        },
    ];
    if names > 0 {
        parts.push(counted(names, "name"));
    }
    parts.push(counted(policy.targets.len(), "target"));
    parts.push(counted(groups.len(), "group"));
    parts.join(", ")
}

/// The sets of rules that differ, in the order of the names of their groups.
fn rule_sets(policy: &Policy) -> Result<Vec<RuleSet>, Failure> {
    let mut sets: Vec<RuleSet> = Vec::new();
    let mut known: HashMap<Arc<CompiledPolicy>, usize> = HashMap::new();
    for groups in policy.group_sets() {
        let compiled = compile(&policy.rules, &groups, &Live::default()).map_err(|diagnostics| {
            Failure::rendered(Exit::Policy, diagnostic::render(&diagnostics, prepare::colour()))
        })?;
        let compiled = Arc::new(compiled);
        let targets = policy.targets.iter().filter(|target| target.groups == groups);
        let targets = targets.map(|target| target.name.clone());
        let index = *known.entry(Arc::clone(&compiled)).or_insert(sets.len());
        match sets.get_mut(index) {
            Some(set) => {
                set.targets.extend(targets);
                set.groups.push(groups);
            }
            None => sets.push(RuleSet {
                targets: targets.collect(),
                groups: vec![groups],
                compiled,
            }),
        }
    }
    Ok(sets)
}

/// A compiled policy for people: who gets it, how large it is, and for each prefix the clauses of its list in the
/// order they are tried.
fn show(set: &RuleSet, rules: &[Rule], out: &mut String) {
    let groups: Vec<_> = set.groups.iter().map(|groups| groups.join(" and ")).collect();
    let who = match set.targets.as_slice() {
        [] => "no target".to_owned(),
        [one] => format!("target {one}"),
        several => format!("targets {}", several.join(", ")),
    };
    let compiled = &set.compiled;
    let title = format!("rules of {}, for {who}", groups.join("; of "));
    let entries = match compiled.entries().len() {
        1 => "1 entry".to_owned(),
        several => format!("{several} entries"),
    };
    let clauses = counted(compiled.clauses().len(), "clause");
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{}\n  {entries}, {clauses}, about {} bytes in the kernel",
        Shown(&title),
        compiled.kernel_bytes()
    );
    for entry in compiled.entries() {
        let mut list = compiled.list(entry.head).peekable();
        let _ = write!(out, "  {}", entry.prefix);
        if list.peek().is_none() {
            let _ = writeln!(out, "\n    nothing is tried: the connect is allowed");
            continue;
        }
        let _ = writeln!(out);
        for (number, clause) in (1_u32..).zip(list) {
            let _ = writeln!(out, "    {number}. {}", describe(clause, rules));
        }
    }
    show_names(set, rules, out);
}

/// The rules of names, for people: what they become is known when the names are.
fn show_names(set: &RuleSet, rules: &[Rule], out: &mut String) {
    let of_set = |rule: &&Rule| rule.enabled && set.groups.iter().any(|groups| rule.is_in(groups));
    for rule in rules.iter().filter(of_set) {
        if let Some(host) = &rule.host {
            let ports = ranges("port", &rule.ports);
            let users = ranges("uid", &rule.uids);
            let told = told(rule, &(ports + &users));
            let _ = writeln!(
                out,
                "  each IPv6 address of {}\n    1. {}",
                host.name,
                Shown(&told)
            );
        }
    }
}

/// `reject with EACCES, tcp, ports 443-450: name`
fn describe(clause: &Clause, rules: &[Rule]) -> String {
    let Some(rule) = rules.get(clause.rule as usize) else {
        return format!("rule {}", clause.rule);
    };
    let ports = match (clause.port_min, clause.port_max) {
        (0, u16::MAX) => String::new(),
        (first, last) => ranges("port", &[first..=last]),
    };
    let users = match (clause.uid_min, clause.uid_max) {
        (0, u32::MAX) => String::new(),
        (first, last) => ranges("uid", &[first..=last]),
    };
    Shown(&told(rule, &(ports + &users))).to_string()
}

/// What a rule does within those limits, and what else it depends on.
fn told(rule: &Rule, limits: &str) -> String {
    let mut text = rule.outcome();
    if let Some(proto) = rule.proto {
        text += &format!(", {proto:?}").to_lowercase();
    }
    text += limits;
    if let Some(rollout) = &rule.rollout {
        let by = match rollout.by {
            RolloutBy::Target => "target",
            RolloutBy::Process => "process",
            RolloutBy::Destination => "destination",
        };
        text += &format!(", {} % by {by}", rollout.percent);
        if !rollout.canary.is_empty() {
            text += &format!(" and always {}", rollout.canary.join(", "));
        }
    }
    if let Some(expires) = rule.expires {
        text += &format!(", until {expires}");
    }
    if rule.mode == Mode::Audit {
        text += ", audit";
    }
    if !rule.transparent {
        text += ", not transparent";
    }
    format!("{text}: {}", rule.label)
}

/// `, port 443`, `, ports 443-450 8000`
fn ranges<N: PartialEq + std::fmt::Display>(what: &str, ranges: &[RangeInclusive<N>]) -> String {
    let texts: Vec<_> = ranges
        .iter()
        .map(|range| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        })
        .collect();
    match ranges {
        [] => String::new(),
        [one] if one.start() == one.end() => format!(", {what} {}", texts.concat()),
        _ => format!(", {what}s {}", texts.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        version = 1
        [[target]]
        name = "web"
        cgroup = "/web"
        use = ["a"]
        [[target]]
        name = "api"
        cgroup = "/api"
        use = ["a", "default"]
        [[target]]
        name = "job"
        cgroup = "/job"
        use = ["b"]
        [[rule]]
        name = "wide"
        groups = ["a"]
        prefix = "::/0"
        action = "reject"
        [[rule]]
        name = "some"
        groups = ["a"]
        prefix = "2001:db8::/32"
        action = "redirect"
        to = "192.0.2.1"
        errno = "EACCES"
        proto = "tcp"
        ports = [443, "8000-8999"]
        [[rule]]
        name = "other"
        groups = ["b"]
        prefix = "2001:db8::/32"
        action = "allow"
    "#;

    #[test]
    fn a_compiled_policy_is_shown_once_with_all_that_use_it_and_clauses_in_order() {
        let (policy, _) = Policy::from_text(Path::new("p.toml"), TEXT.to_owned(), Vec::new()).unwrap();
        assert_eq!(contents(&policy), "3 rules, 3 prefixes, 3 targets, 3 groups");
        let sets = rule_sets(&policy).unwrap();
        let mut shown = Vec::new();
        for set in &sets {
            let mut out = String::new();
            show(set, &policy.rules, &mut out);
            shown.push(out);
        }
        assert_eq!(shown.len(), 2);
        // Eight lines of memory: two roots, three blocks for the second halves within ::/64, and three clauses.
        assert_eq!(
            shown[0],
            "rules of a; of a and default, for targets web, api\n\
             \x20 7 entries, 3 clauses, about 512 bytes in the kernel\n\
             \x20 ::/0\n    1. reject with ENETUNREACH: wide\n\
             \x20 ::/128\n    nothing is tried: the connect is allowed\n\
             \x20 ::1/128\n    nothing is tried: the connect is allowed\n\
             \x20 ::ffff:0.0.0.0/96\n    nothing is tried: the connect is allowed\n\
             \x20 2001:db8::/32\n\
             \x20   1. redirect to 192.0.2.1 (or EACCES if it cannot be moved), tcp, port 443: some\n\
             \x20   2. redirect to 192.0.2.1 (or EACCES if it cannot be moved), tcp, ports 8000-8999: some\n\
             \x20   3. reject with ENETUNREACH: wide\n\
             \x20 fe80::/10\n    nothing is tried: the connect is allowed\n\
             \x20 ff00::/8\n    nothing is tried: the connect is allowed\n"
        );
        assert!(
            shown[1].starts_with("rules of b, for target job\n"),
            "{}",
            shown[1]
        );
        assert!(shown[1].contains("    1. allow: other\n"), "{}", shown[1]);
    }

    #[test]
    fn whatever_a_rule_depends_on_is_shown() {
        let text = r#"
            version = 1
            [[rule]]
            name = "all"
            prefix = "2001:db8::/120"
            action = "redirect"
            to = "198.51.100.0/24"
            uid = [0, "1000-1999"]
            proto = "udp"
            rollout = 25
            by = "process"
            canary = ["web-1"]
            expires = 2030-03-17T17:46:40Z
            mode = "audit"
            transparent = false
            [[rule]]
            name = "pooler"
            prefix = "2001:db8:1::/48"
            action = "redirect"
            to_host = "pooler.example:6543"
            expires = "1h30m"
            [[rule]]
            name = "translated"
            prefix = "64:ff9b::/96"
            action = "redirect"
            to = "embedded"
            [[rule]]
            name = "named"
            host = "db.example"
            ports = [443, "8000-8999"]
        "#;
        let (policy, _) = Policy::from_text(Path::new("p.toml"), text.to_owned(), Vec::new()).unwrap();
        assert_eq!(
            contents(&policy),
            "4 rules, 3 prefixes, 1 name, 0 targets, 1 group"
        );
        let mut out = String::new();
        show(&rule_sets(&policy).unwrap()[0], &policy.rules, &mut out);
        let moved = "(or ENETUNREACH if it cannot be moved)";
        let all = format!("redirect to 198.51.100.0/24 {moved}, udp");
        let depends =
            "25 % by process and always web-1, until 2030-03-17T17:46:40Z, audit, not transparent: all";
        for line in [
            format!(
                "  2001:db8::/120\n    1. {all}, uid 0, {depends}\n    2. {all}, uids 1000-1999, {depends}\n"
            ),
            format!(
                "1. redirect to pooler.example:6543 {moved}, until 1h 30m after its first load: pooler\n"
            ),
            format!("1. redirect to the IPv4 address inside {moved}: translated\n"),
            "  each IPv6 address of db.example\n    1. reject with ENETUNREACH, ports 443 8000-8999: named\n"
                .to_owned(),
        ] {
            assert!(out.contains(&line), "{line}\n{out}");
        }
    }
}
