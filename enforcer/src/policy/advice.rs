//! What is no mistake by itself, but seldom what was meant: the warnings that a policy's own text gives rise to.
//!
//! Looks at a checked policy rule by rule and target by target. What only shows when rules are compiled together
//! is in `review`, and what the host's network says in `surroundings`.

use std::{collections::BTreeMap, ops::RangeInclusive};

use enforcer_common::clause::Proto;

use super::{
    Policy,
    check::place_of,
    diagnostic::{Diagnostic, Place, Severity},
    parse::Report,
    rule::{GroupName, RedirectTo, Rule, RuleAction},
    source::Source,
    value::quote,
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
    idle_targets(policy, source, report);
    for rule in &policy.rules {
        if let Some((limit, hint)) = order_effect(rule) {
            let message = format!(
                "{} is limited to {limit}, so the C library does not learn from it to try IPv4 first",
                quote(&rule.label)
            );
            report.push(warning(message, Some(place_of(&rule.origin, source)), hint));
        }
    }
    allow_lists(policy, source, report);
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
        let has_rules = *with_rules
            .entry(&target.groups)
            .or_insert_with(|| policy.rules.iter().any(|rule| rule.is_in(&target.groups)));
        if !has_rules {
            let message = format!(
                "the target {} has no rules: no rule is in `{}`",
                quote(&target.name),
                target.groups.join("` or `")
            );
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
        (RuleAction::Allow, ..) => None,
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

/// Redirects to IPv4 of services whose servers look at where a connect comes from. Said once, at the first of them:
/// whoever knows it of one knows it of all.
fn allow_lists(policy: &Policy, source: Option<&Source>, report: &mut Report) {
    let mut kept = policy
        .rules
        .iter()
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
