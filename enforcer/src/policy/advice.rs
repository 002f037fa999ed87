//! What is no mistake by itself, but seldom what was meant: the warnings that a policy's own text gives rise to.
//!
//! Looks at a checked policy rule by rule and target by target. What only shows when rules are compiled together
//! is in `review`, and what the host's network says in `surroundings`.

use std::{collections::BTreeMap, ops::RangeInclusive, time::SystemTime};

use enforcer_common::clause::Proto;

use super::{
    Policy,
    check::place_of,
    diagnostic::{Diagnostic, Place, Severity},
    parse::Report,
    rule::{Expires, GroupName, Origin, RedirectTo, Rollout, Rule, RuleAction},
    source::Source,
    udp_advice::UdpRules,
    value::{nearest, quote},
};

/// Services whose servers, more often than not, keep a list of the addresses that may connect: mail relays, and
/// databases, above all those that somebody else runs. Ports by the IANA registry of service names; 6432 and 6543
/// are what PgBouncer and hosted poolers use.
const KEPT: [(u16, &str); 12] = [
    (25, "SMTP"),
    (465, "SMTP"),
    (587, "SMTP"),
    (1433, "SQL Server"),
    (1521, "Oracle Database"),
    (3306, "MySQL"),
    (5432, "PostgreSQL"),
    (5439, "Amazon Redshift"),
    (6379, "Redis"),
    (6432, "PostgreSQL"),
    (6543, "PostgreSQL"),
    (27017, "MongoDB"),
];

/// A range of more ports than this is not about one service.
const SERVICE_PORTS: u16 = 16;

/// Adds the warnings of a policy without errors.
pub(super) fn advise(policy: &Policy, source: Option<&Source>, report: &mut Report) {
    if policy.rules.is_empty() {
        let place = source.map(|source| Place::File(source.path().to_owned()));
        report.push(warning(
            "there are no rules: enforcer will only observe",
            place,
            "connects are allowed and reported; add a rule to change that",
        ));
        return;
    }
    if !policy.rules.iter().any(|rule| rule.enabled) {
        let place = source.map(|source| Place::File(source.path().to_owned()));
        report.push(warning(
            "every rule is disabled: enforcer will only observe",
            place,
            "connects are allowed and reported; remove `enabled = false` from a rule to change that",
        ));
        return;
    }
    idle_targets(policy, source, report);
    let udp = UdpRules::new(&policy.rules);
    let now = SystemTime::now();
    for rule in policy.rules.iter().filter(|rule| rule.enabled) {
        let place = || Some(place_of(&rule.origin, source));
        if let Some(Expires::At(time)) = rule.expires
            && time <= now
        {
            let message = format!(
                "{} ended at {}: it is as if it were not there",
                quote(&rule.label),
                Expires::At(time)
            );
            report.push(warning(message, place(), "remove it, or give it a later time"));
        }
        if let Some(rollout) = &rule.rollout {
            if let Some((message, hint)) = idle_rollout(rollout) {
                report.push(warning(
                    format!("{} {message}", quote(&rule.label)),
                    place(),
                    hint,
                ));
            }
            for (message, hint) in strange_canaries(policy, rule, rollout) {
                report.push(warning(message, place(), &hint));
            }
        }
        if let Some((limit, hint)) = order_effect(rule)
            && !udp.steer_the_order_of(rule)
        {
            let message = format!(
                "{} is limited to {limit}, so the C library does not learn from it to try IPv4 first",
                quote(&rule.label)
            );
            report.push(warning(message, Some(place_of(&rule.origin, source)), hint));
        }
    }
    allow_lists(policy, source, report);
    sends(policy, &udp, source, report);
}

fn warning(message: impl Into<String>, place: Option<Place>, hint: &str) -> Diagnostic {
    let mut diagnostic = Diagnostic::new(Severity::Warning, message, place);
    diagnostic.hint = Some(hint.to_owned());
    diagnostic
}

/// Targets that get no rule.
fn idle_targets(policy: &Policy, source: Option<&Source>, report: &mut Report) {
    let mut with_rules: BTreeMap<&[GroupName], bool> = BTreeMap::new();
    for target in &policy.targets {
        let has_rules = *with_rules.entry(&target.groups).or_insert_with(|| {
            policy
                .rules
                .iter()
                .any(|rule| rule.enabled && rule.is_in(&target.groups))
        });
        if !has_rules {
            let groups = target.groups.join("` or `");
            let why = if policy.rules.iter().any(|rule| rule.is_in(&target.groups)) {
                format!("every rule in `{groups}` is disabled")
            } else {
                format!("no rule is in `{groups}`")
            };
            let message = format!("the target {} has no rules: {why}", quote(&target.name));
            report.push(warning(
                message,
                Some(place_of(&target.origin, source)),
                "its connects are allowed and reported; `use` names the groups of rules it gets",
            ));
        }
    }
}

/// A limit of a rule that keeps it from steering the order of addresses: C libraries rank the addresses of a
/// name by connecting a UDP socket to each, glibc with the service's port, the others with one of their own.
fn order_effect(rule: &Rule) -> Option<(&'static str, &'static str)> {
    match (&rule.action, rule.proto, rule.ports.is_empty()) {
        (RuleAction::Allow, ..) | (_, Some(Proto::Udp), true) => None,
        (RuleAction::Redirect(_), Some(Proto::Tcp), _) => Some((
            "TCP",
            "add a rule beside it that rejects UDP (`proto = \"udp\"`): addresses of a name are ranked by UDP connects",
        )),
        (_, Some(Proto::Tcp), _) => Some((
            "TCP",
            "leave the protocol out: addresses of a name are ranked by UDP connects",
        )),
        (_, _, false) => Some((
            "ports",
            "leave the ports out if all of the prefix is unreachable: only glibc ranks addresses by the real port",
        )),
        (_, _, true) => None,
    }
}

/// A share that is none or all, and what to do about it.
fn idle_rollout(rollout: &Rollout) -> Option<(&'static str, &'static str)> {
    match rollout.percent {
        // Canaries alone are how a rollout begins.
        0 if rollout.canary.is_empty() => Some((
            "acts on nothing: its rollout is 0 percent",
            "name targets that are to be first in `canary`, or write `enabled = false`",
        )),
        100 => Some((
            "acts on everything: its rollout is 100 percent",
            "the rollout is done: remove `rollout`, and with it `by` and `canary`",
        )),
        _ => None,
    }
}

/// Canaries that are no targets of the file, or none that the rule is for. Without targets in the file nothing is
/// known of them.
fn strange_canaries(policy: &Policy, rule: &Rule, rollout: &Rollout) -> Vec<(String, String)> {
    if policy.targets.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for name in &rollout.canary {
        let rule_name = quote(&rule.label);
        match policy.targets.iter().find(|target| target.name == *name) {
            None => {
                let names = policy.targets.iter().map(|target| target.name.as_str());
                let hint = match nearest(name, names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "a canary is a target's `name`; those of the command line can be meant, too"
                        .to_owned(),
                };
                found.push((
                    format!(
                        "{rule_name} has the canary {}, which no target is named",
                        quote(name)
                    ),
                    hint,
                ));
            }
            Some(target) if !rule.is_in(&target.groups) => found.push((
                format!(
                    "{rule_name} has the canary {}, and is not among its rules",
                    quote(name)
                ),
                format!("that target uses the groups `{}`", target.groups.join("`, `")),
            )),
            Some(_) => {}
        }
    }
    found
}

/// Redirects that cover UDP: no kernel can move what is sent without a connect. Said once, at the first of them.
fn sends(policy: &Policy, udp: &UdpRules<'_>, source: Option<&Source>, report: &mut Report) {
    let mut covering = policy.rules.iter().filter(|rule| {
        rule.enabled
            && matches!(rule.action, RuleAction::Redirect(_))
            // A policy is written once; a command line is typed again and again.
            && matches!(rule.origin, Origin::File { .. })
            && rule.proto != Some(Proto::Tcp)
            && !(rule.proto.is_none() && udp.decide_all_of(rule))
    });
    let Some(rule) = covering.next() else {
        return;
    };
    let others = match covering.count() {
        0 => String::new(),
        1 => ", and so does one more rule".to_owned(),
        more => format!(", and so do {more} more rules"),
    };
    let message = format!(
        "{} redirects UDP, too{others}: what is sent without a connect cannot be moved, and gets {}",
        quote(&rule.label),
        rule.errno.name
    );
    report.push(warning(
        message,
        Some(place_of(&rule.origin, source)),
        "limit it to `proto = \"tcp\"`, and say with a rule beside it (`proto = \"udp\"`) what becomes of UDP",
    ));
}

/// Redirects to IPv4 of services whose servers look at where a connect comes from. Said once, at the first of them:
/// whoever knows it of one knows it of all.
fn allow_lists(policy: &Policy, source: Option<&Source>, report: &mut Report) {
    let mut kept = policy
        .rules
        .iter()
        .filter(|rule| rule.enabled)
        .filter_map(|rule| Some((rule, kept_service(rule)?)));
    let Some((rule, (port, service))) = kept.next() else {
        return;
    };
    let others = match kept.count() {
        0 => String::new(),
        1 => ", and so does one more rule".to_owned(),
        more => format!(", and so do {more} more rules"),
    };
    let message = format!(
        "{} moves {service} (port {port}) to IPv4{others}: the server sees this host's IPv4 address then",
        quote(&rule.label)
    );
    report.push(warning(
        message,
        Some(place_of(&rule.origin, source)),
        "where the server keeps a list of who may connect (pg_hba.conf, a cloud database's network rules, a mail \
         relay's clients), that address must be on it",
    ));
}

/// The service that a rule moves to another family, if it is one of those, with the port it is known by.
fn kept_service(rule: &Rule) -> Option<(u16, &'static str)> {
    let RuleAction::Redirect(to) = &rule.action else {
        return None;
    };
    let to_port = match to {
        RedirectTo::Address(to) => match to.ip().to_ipv4_mapped() {
            Some(ipv4) if !ipv4.is_loopback() => to.port(),
            _ => return None,
        },
        RedirectTo::Prefix(to) => match to.network().to_ipv4_mapped() {
            Some(_) => 0,
            None => return None,
        },
        RedirectTo::Host { port, .. } => *port,
        RedirectTo::Embedded | RedirectTo::Twin => 0,
    };
    let is_asked_for = |port: u16| {
        let narrow = |range: &RangeInclusive<u16>| range.end() - range.start() < SERVICE_PORTS;
        rule.ports
            .iter()
            .any(|range| narrow(range) && range.contains(&port))
    };
    KEPT.into_iter()
        .find(|(port, _)| to_port == *port || is_asked_for(*port))
}
