//! An answer for people: the verdict, what the caller sees of it, and why no other rule decided.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use enforcer_common::{
    clause::Action,
    decide::{Mode, Unmovable},
    errno::{self, Errno},
};

use super::{Answer, Subject};
use crate::{
    policy::{
        explain::{Case, Kind, Loser, Outcome, Reason, exempt},
        rule::{DEFAULT_GROUP, GroupName, Origin, Rule, RuleAction},
    },
    sinks::text::Shown,
};

/// All of it, lines ended.
pub(super) fn write(answer: &Answer<'_>) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let IpAddr::V6(address) = answer.address else {
        let _ = writeln!(
            out,
            "{} is IPv4: enforcer decides IPv6 connects only, so this one goes on as if enforcer were not there",
            answer.address
        );
        return out;
    };
    if let Some((prefix, exempt)) = exempt(address) {
        let reach = if exempt.rules_allowed {
            "only a rule whose own prefix lies within it reaches it, no wider one"
        } else {
            "no rule reaches it, and the connect goes on as IPv4 does"
        };
        let _ = writeln!(out, "{address} is exempt, in {prefix}, {}: {reach}", exempt.what);
    }
    if address.is_unspecified() {
        let _ = writeln!(out, "rules judge ::, and the kernel connects to ::1 afterwards");
    }
    let mut told: Vec<&Subject> = Vec::new();
    for subject in &answer.subjects {
        if told.iter().any(|known| known.cases == subject.cases) {
            continue;
        }
        let alike = answer
            .subjects
            .iter()
            .filter(|other| other.cases == subject.cases);
        let alike: Vec<_> = alike.collect();
        told.push(subject);
        let is_evident = subject.targets.is_empty() && subject.groups == [DEFAULT_GROUP];
        if answer.subjects.len() > 1 || !is_evident {
            let _ = writeln!(out, "{}", Shown(&who(&alike)));
        }
        for case in &subject.cases {
            write_case(answer, case, &mut out);
        }
    }
    out
}

/// `targets web, api`; `rules of a, with `--use a``, as `run` and `exec` choose them.
fn who(subjects: &[&Subject]) -> String {
    let targets: Vec<&str> = subjects
        .iter()
        .flat_map(|subject| &subject.targets)
        .map(String::as_str)
        .collect();
    match targets.as_slice() {
        [] => {
            let groups = subjects.iter().map(|subject| chosen(&subject.groups));
            format!("rules of {}", groups.collect::<Vec<_>>().join("; of "))
        }
        [target] => format!("target {target}"),
        targets => format!("targets {}", targets.join(", ")),
    }
}

/// Groups, and how they are chosen where that has to be said.
fn chosen(groups: &[GroupName]) -> String {
    let names = groups.join(" and ");
    if groups == [DEFAULT_GROUP] {
        return names;
    }
    let options: Vec<_> = groups.iter().map(|group| format!("--use {group}")).collect();
    format!("{names}, with `{}`", options.join(" "))
}

fn write_case(answer: &Answer<'_>, case: &Case, out: &mut String) {
    let _ = writeln!(out, "  {}:", connects(answer, case));
    let _ = writeln!(out, "    {}", Shown(&verdict(answer, &case.outcome)));
    let _ = writeln!(out, "    {}", seen(answer, &case.outcome));
    if let Some(immovable) = &case.immovable {
        let _ = writeln!(
            out,
            "    on a socket that cannot be moved to IPv4 (IPV6_V6ONLY, or bound to an IPv6 address): {}",
            seen(answer, immovable)
        );
    }
    for loser in &case.losers {
        let _ = writeln!(out, "    not by {}", Shown(&lost(answer, case, loser)));
    }
}

/// `TCP and UDP, port 443`.
fn connects(answer: &Answer<'_>, case: &Case) -> String {
    let with_ports: Vec<&str> = case
        .kinds
        .iter()
        .filter_map(|kind| match kind {
            Kind::Tcp => Some("TCP"),
            Kind::Udp => Some("UDP"),
            Kind::Ping => None,
        })
        .collect();
    let ports = match case.ports.as_slice() {
        _ if case.is_any_port() => "every port".to_owned(),
        [one] if one.start() == one.end() => format!("port {}", one.start()),
        several => format!(
            "ports {}",
            several.iter().map(range).collect::<Vec<_>>().join(", ")
        ),
    };
    let mut parts = Vec::new();
    if !with_ports.is_empty() {
        parts.push(format!("{}, {ports}", with_ports.join(" and ")));
    }
    if case.kinds.contains(&Kind::Ping) {
        parts.push("ping sockets".to_owned());
    }
    format!("{} to {}", parts.join("; "), answer.address)
}

/// `443`, `8000-8999`.
pub(super) fn range(ports: &RangeInclusive<u16>) -> String {
    match (ports.start(), ports.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

/// What is done, and by which rule.
fn verdict(answer: &Answer<'_>, outcome: &Outcome) -> String {
    let by = outcome
        .decider()
        .and_then(|index| answer.rules.get(index as usize))
        .map(|rule| format!("by {}", named(answer, rule)));
    match (by, outcome.would) {
        (None, _) => "allow: no rule matches".to_owned(),
        (Some(by), None) => format!("{}, {by}", done(outcome.verdict, outcome)),
        (Some(by), Some((_, Action::Allow))) => format!("allow, {by}"),
        (Some(by), Some((_, would))) => {
            format!(
                "allow: in audit mode nothing is done; would {}, {by}",
                done(would, outcome)
            )
        }
    }
}

fn done(action: Action, outcome: &Outcome) -> String {
    let because = match outcome.unmovable {
        Some(Unmovable::Ping) => " (a ping socket cannot be moved to IPv4)",
        Some(Unmovable::Unconnected) => " (a datagram cannot be moved)",
        Some(Unmovable::Bound | Unmovable::V6Only) => " (the socket cannot be moved to IPv4)",
        None => "",
    };
    match action {
        Action::Allow => "allow".to_owned(),
        Action::Reject => format!("reject{because}"),
        Action::Redirect => match outcome.to {
            Some(to) => format!("redirect to {}", destination(to)),
            None => "redirect".to_owned(),
        },
    }
}

/// Where to, with the port where the rule changes it.
fn destination(to: SocketAddr) -> String {
    match to.port() {
        0 => to.ip().to_string(),
        _ => to.to_string(),
    }
}

/// What the caller sees, and in audit mode what it would see.
fn seen(answer: &Answer<'_>, outcome: &Outcome) -> String {
    let is_audit = answer.mode == Mode::Audit;
    let action = match outcome.would {
        Some((_, would)) if is_audit => would,
        _ => outcome.verdict,
    };
    let fails = if is_audit { "would fail" } else { "fails" };
    let effect = match (action, outcome.errno, outcome.to) {
        (Action::Allow, ..) => return "the caller sees no difference: the connect goes on".to_owned(),
        (Action::Reject, Some(errno), _) => format!("connect() {fails} at once with {}", told(errno)),
        (Action::Reject, None, _) => format!("connect() {fails} at once"),
        (Action::Redirect, _, None) if is_audit => "connect() would go elsewhere".to_owned(),
        (Action::Redirect, _, None) => "connect() goes elsewhere".to_owned(),
        (Action::Redirect, _, Some(to)) => {
            let (connects, show) = if is_audit {
                ("it would connect", "would show")
            } else {
                ("connects", "show")
            };
            let port = if to.port() == 0 {
                ", at the port asked for"
            } else {
                ""
            };
            format!(
                "{connects} to {} instead{port}; ss and lsof {show} that address, getpeername the one asked for",
                destination(to)
            )
        }
    };
    if is_audit {
        format!("the caller sees no difference; enforced, {effect}")
    } else {
        effect
    }
}

/// `EACCES (13: …)`.
fn told(errno: Errno) -> String {
    let Errno {
        name,
        number,
        meaning,
    } = errno;
    let old = if errno == errno::EPERM {
        ""
    } else {
        "; EPERM on kernels before 5.18"
    };
    format!("{name} ({number}: {meaning}{old})")
}

/// A rule by its name, with the prefix that covers the address and where it was written.
fn named(answer: &Answer<'_>, rule: &Rule) -> String {
    let prefix = match answer.address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => rule.covering_prefix(address),
    };
    let prefix = prefix.map_or(String::new(), |prefix| prefix.to_string());
    let origin = rule.origin.to_string();
    if rule.is_nameless() {
        return format!("{} ({prefix})", rule.label);
    }
    match rule.origin {
        Origin::File { .. } => format!("{} ({prefix}, {origin})", rule.label),
        Origin::Argument(_) => format!("{} ({prefix}, `{origin}`)", rule.label),
    }
}

/// A rule that did not decide, and why.
fn lost(answer: &Answer<'_>, case: &Case, loser: &Loser) -> String {
    let Some(rule) = answer.rules.get(loser.rule as usize) else {
        return format!("rule {}", loser.rule);
    };
    let decider = case.outcome.decider();
    let decider = decider
        .and_then(|index| answer.rules.get(index as usize))
        .map_or("the rule that decides", |rule| rule.label.as_str());
    let why = match loser.reason {
        Reason::Exempt => "the address is exempt from rules as wide as this one".to_owned(),
        Reason::ShorterPrefix => format!("its prefix is shorter than that of {decider}"),
        Reason::FewerConditions => format!("at the same prefix, {decider} has more conditions"),
        Reason::WrittenLater => format!("{decider} does the same and is written first"),
        Reason::Proto => match rule.proto {
            Some(proto) => format!("it is for {proto:?} only").to_lowercase(),
            None => "it is for another protocol".to_owned(),
        },
        Reason::Ports => {
            let ports: Vec<_> = rule.ports.iter().map(range).collect();
            match ports.as_slice() {
                [port] if !port.contains('-') => format!("it is for port {port} only"),
                ports => format!("it is for ports {} only", ports.join(", ")),
            }
        }
    };
    format!("{}, which would {}: {why}", named(answer, rule), action(rule))
}

/// The action as a policy file has it.
pub(super) const fn action(rule: &Rule) -> &'static str {
    match rule.action {
        RuleAction::Allow => "allow",
        RuleAction::Reject => "reject",
        RuleAction::Redirect(_) => "redirect",
    }
}
