//! Sentences about rules, verdicts and rollouts, for people.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use enforcer_common::{
    clause::Action,
    decide::Unmovable,
    errno::{self, Errno},
};

use super::{Answer, names::to_host};
use crate::names::HostName;
use crate::policy::{
    explain::{Case, Loser, Membership, Outcome, Reason},
    rule::{Expires, Origin, Rollout, RolloutBy, Rule, RuleAction},
};

/// `443`, `8000-8999`.
pub(super) fn range<T: PartialEq + std::fmt::Display>(range: &RangeInclusive<T>) -> String {
    match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

/// `port 443`, `ports 80, 8000-8999`.
pub(super) fn ranges<T: PartialEq + std::fmt::Display>(noun: &str, all: &[RangeInclusive<T>]) -> String {
    match all {
        [one] if one.start() == one.end() => format!("{noun} {}", one.start()),
        several => {
            let several: Vec<_> = several.iter().map(range).collect();
            format!("{noun}s {}", several.join(", "))
        }
    }
}

/// What is done, and by which rule.
pub(super) fn verdict(answer: &Answer<'_>, outcome: &Outcome) -> String {
    let by = outcome
        .decider()
        .and_then(|index| answer.rules.get(index as usize))
        .map(|rule| format!("by {}", named(answer, rule)));
    match (by, outcome.would.filter(|_| is_audit(outcome))) {
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

/// Whether nothing acts: what is told is what would be done.
const fn is_audit(outcome: &Outcome) -> bool {
    outcome.rule.is_none() && outcome.would.is_some()
}

fn done(action: Action, outcome: &Outcome) -> String {
    let because = match outcome.unmovable {
        Some(Unmovable::Ping) => " (a ping socket cannot be moved to IPv4)",
        Some(Unmovable::Unconnected) => " (a datagram cannot be moved)",
        Some(Unmovable::Bound | Unmovable::V6Only) => " (the socket cannot be moved to IPv4)",
        None if outcome.is_without_twin => " (there is no IPv4 address to redirect to)",
        None => "",
    };
    match action {
        Action::Allow => "allow".to_owned(),
        Action::Reject => format!("reject{because}"),
        Action::Redirect => match outcome.to.as_slice() {
            [] => "redirect".to_owned(),
            to => format!("redirect to {}", destinations(to)),
        },
    }
}

/// Where to, with the port where the rule changes it.
pub(super) fn destination(to: &SocketAddr) -> String {
    match to.port() {
        0 => to.ip().to_string(),
        _ => to.to_string(),
    }
}

fn destinations(to: &[SocketAddr]) -> String {
    let to: Vec<_> = to.iter().map(destination).collect();
    to.join(" or ")
}

/// What the caller sees, and in audit mode what it would see.
pub(super) fn seen(answer: &Answer<'_>, outcome: &Outcome) -> String {
    let is_audit = is_audit(outcome);
    let action = match outcome.would {
        Some((_, would)) if is_audit => would,
        _ => outcome.verdict,
    };
    let fails = if is_audit { "would fail" } else { "fails" };
    let effect = match (action, outcome.errno, outcome.to.as_slice()) {
        (Action::Allow, ..) => return "the caller sees no difference: the connect goes on".to_owned(),
        (Action::Reject, Some(errno), _) => format!("connect() {fails} at once with {}", told(errno)),
        (Action::Reject, None, _) => format!("connect() {fails} at once"),
        (Action::Redirect, _, []) if is_audit => "connect() would go elsewhere".to_owned(),
        (Action::Redirect, _, []) => "connect() goes elsewhere".to_owned(),
        (Action::Redirect, _, to) => {
            let (connects, show) = if is_audit {
                ("it would connect", "would show")
            } else {
                ("connects", "show")
            };
            let port = if to.iter().all(|to| to.port() == 0) {
                ", at the port asked for"
            } else {
                ""
            };
            let which = if to.len() > 1 { ", which by socket" } else { "" };
            let decider = outcome
                .decider()
                .and_then(|index| answer.rules.get(index as usize));
            let shows = if decider.is_none_or(|rule| rule.transparent) {
                format!("ss and lsof {show} that address, getpeername the one asked for")
            } else {
                format!("ss, lsof and getpeername {show} that address")
            };
            format!("{connects} to {} instead{port}{which}; {shows}", destinations(to))
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
    let prefix = match (answer.address, &rule.host) {
        (_, Some(host)) => host.name.to_string(),
        (IpAddr::V4(_), None) => String::new(),
        (IpAddr::V6(address), None) => rule
            .covering_prefix(address)
            .map_or(String::new(), |prefix| prefix.to_string()),
    };
    let origin = rule.origin.to_string();
    if rule.is_nameless() {
        return format!("{} ({prefix})", rule.label);
    }
    match rule.origin {
        Origin::File { .. } => format!("{} ({prefix}, {origin})", rule.label),
        Origin::Argument(_) => format!("{} ({prefix}, `{origin}`)", rule.label),
    }
}

/// What else there is to say of the rule that decides: why it is there, whom it takes, until when.
pub(super) fn about(rule: &Rule) -> Vec<String> {
    let mut about = Vec::new();
    if let Some(reason) = &rule.reason {
        about.push(format!("its reason: {reason}"));
    }
    if let Some(rollout) = &rule.rollout {
        about.push(format!("it is for {}", share(rollout)));
    }
    if let Some(name) = to_host(rule) {
        about.push(format!("it goes where {name} is"));
    }
    about.extend(rule.expires.map(ends));
    about
}

/// `25 % of processes, and the canary web-1`.
fn share(rollout: &Rollout) -> String {
    let of = of_what(rollout.by);
    let canaries = match rollout.canary.as_slice() {
        [] => String::new(),
        canaries => format!(", and always for {}", canaries.join(", ")),
    };
    format!("{} % of {of}{canaries}", rollout.percent)
}

const fn of_what(by: RolloutBy) -> &'static str {
    match by {
        RolloutBy::Target => "targets",
        RolloutBy::Process => "processes",
        RolloutBy::Destination => "destinations",
    }
}

fn ends(expires: Expires) -> String {
    match expires {
        Expires::At(_) => format!("it ends at {expires}"),
        Expires::After(_) => {
            format!("it ends {expires}; when that was is not known here, and it is taken as not over")
        }
    }
}

/// Whom a rollout is assumed to take: `the 25 % of processes that the rollout of wide includes`.
pub(super) fn membership(answer: &Answer<'_>, membership: &Membership) -> Option<String> {
    let rule = answer.rules.get(membership.rule as usize)?;
    let rollout = rule.rollout.as_ref()?;
    let (label, percent) = (&rule.label, rollout.percent);
    if membership.as_canary {
        let are = if membership.included { "are" } else { "are not" };
        return Some(format!("targets that {are} canaries of {label}"));
    }
    let (share, includes) = if membership.included {
        (percent, "includes")
    } else {
        (100_u8.saturating_sub(percent), "leaves out")
    };
    let of = of_what(rollout.by);
    Some(format!(
        "the {share} % of {of} that the rollout of {label} {includes}"
    ))
}

/// A rule that did not decide, and why.
pub(super) fn lost(answer: &Answer<'_>, case: &Case, loser: &Loser) -> String {
    let Some(rule) = answer.rules.get(loser.rule as usize) else {
        return format!("rule {}", loser.rule);
    };
    let decider = case.outcome.decider();
    let decider = decider
        .and_then(|index| answer.rules.get(index as usize))
        .map_or("the rule that decides", |rule| rule.label.as_str());
    let why = match loser.reason {
        Reason::Disabled => "it is switched off (`enabled = false`)".to_owned(),
        Reason::Exempt => "the address is exempt from rules as wide as this one".to_owned(),
        Reason::Proto => match rule.proto {
            Some(proto) => format!("it is for {proto:?} only").to_lowercase(),
            None => "it is for another protocol".to_owned(),
        },
        Reason::Ports => format!("it is for {} only", ranges("port", &rule.ports)),
        Reason::Uid => format!("it is for {} only", ranges("user", &rule.uids)),
        Reason::NotYetResolved => format!(
            "no IPv4 address of {} is known",
            to_host(rule).map_or("its name", HostName::as_str)
        ),
        Reason::WithoutTwin => "its name has no IPv4 address, and `without_twin` is \"allow\"".to_owned(),
        Reason::TooManyRules => {
            "so many rules cover the address, or so many addresses have names, that those with a name are left out here"
                .to_owned()
        }
        Reason::Expired => match rule.expires {
            Some(end @ Expires::At(_)) => format!("it ended at {end}"),
            Some(Expires::After(_)) | None => "it has ended".to_owned(),
        },
        Reason::LeftOut => format!(
            "it is for {} only, and this is none of them",
            rule.rollout.as_ref().map_or(String::new(), share)
        ),
        Reason::ShorterPrefix => format!("its prefix is shorter than that of {decider}"),
        Reason::FewerConditions => format!("at the same prefix, {decider} has more conditions"),
        Reason::Audit => "it is in audit mode, which only says so".to_owned(),
        Reason::WrittenLater => format!("{decider} does the same and is written first"),
        Reason::GoesSecond => format!(
            "at the same prefix {decider} goes first: audit mode before others, prefixes before names, then as written"
        ),
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
