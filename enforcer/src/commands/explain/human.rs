//! An answer for people: the verdict, what the caller sees of it, and why no other rule decided. The sentences are in
//! [`words`](super::words).

use std::{fmt::Write as _, net::IpAddr};

use super::{
    Answer, Subject,
    names::{Name, to_host},
    words::{about, lost, membership, ranges, seen, verdict},
};
use crate::{
    names::HostName,
    policy::{
        explain::{Case, Kind, exempt},
        rule::{DEFAULT_GROUP, GroupName},
    },
    sinks::text::Shown,
};

/// The most names that nothing is known of that are told of one by one.
const MAX_TOLD: usize = 10;

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
    write_names(answer, &mut out);
    let mut told: Vec<&Subject> = Vec::new();
    for subject in &answer.subjects {
        if told.iter().any(|known| is_alike(known, subject)) {
            continue;
        }
        let alike = answer.subjects.iter().filter(|other| is_alike(other, subject));
        let alike: Vec<_> = alike.collect();
        told.push(subject);
        let is_evident = subject.targets.is_empty() && subject.groups == [DEFAULT_GROUP];
        if answer.subjects.len() > 1 || !is_evident {
            let _ = writeln!(out, "{}", Shown(&who(&alike)));
        }
        for note in &subject.notes {
            let _ = writeln!(out, "  {}", Shown(note));
        }
        for case in &subject.cases {
            write_case(answer, case, &mut out);
        }
    }
    out
}

/// Whether two get the same answer.
fn is_alike(one: &Subject, other: &Subject) -> bool {
    (&one.cases, &one.notes) == (&other.cases, &other.notes)
}

/// The names that have something to do with the address: those that have it, those that a rule for it redirects to,
/// and those of which that is not known.
fn write_names(answer: &Answer<'_>, out: &mut String) {
    let IpAddr::V6(address) = answer.address else {
        return;
    };
    let has_it = |name: &Name| name.aaaa.contains(&address);
    let leads_from_it = |text: &HostName| {
        answer.rules.iter().any(|rule| {
            rule.host.is_none() && rule.covering_prefix(address).is_some() && to_host(rule) == Some(text)
        })
    };
    let mut untold = 0;
    for (told, (text, name)) in answer
        .names
        .names
        .iter()
        .filter(|(text, name)| has_it(name) || leads_from_it(text) || !name.notes.is_empty())
        .enumerate()
    {
        if told >= MAX_TOLD && !has_it(name) && !leads_from_it(text) {
            untold += 1;
            continue;
        }
        let aaaa = name.aaaa.iter().map(ToString::to_string);
        let addresses: Vec<String> = aaaa.chain(name.a.iter().map(ToString::to_string)).collect();
        if !addresses.is_empty() {
            let _ = writeln!(out, "{}", Shown(&format!("{text} is {}", addresses.join(", "))));
        }
        for note in &name.notes {
            // Most begin with the name.
            let line = if note.contains(text.as_str()) {
                note.clone()
            } else {
                format!("{text}: {note}")
            };
            let _ = writeln!(out, "{}", Shown(&line));
        }
    }
    if untold > 0 {
        let _ = writeln!(
            out,
            "of {untold} more names there is no address; --output json has them"
        );
    }
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
    let _ = writeln!(out, "  {}:", Shown(&connects(answer, case)));
    let _ = writeln!(out, "    {}", Shown(&verdict(answer, &case.outcome)));
    let _ = writeln!(out, "    {}", seen(answer, &case.outcome));
    if let Some(immovable) = &case.immovable {
        let _ = writeln!(
            out,
            "    on a socket that cannot be moved to IPv4 (IPV6_V6ONLY, or bound to an IPv6 address): {}",
            seen(answer, immovable)
        );
    }
    let decider = case.outcome.decider();
    let decider = decider.and_then(|index| answer.rules.get(index as usize));
    for line in decider.map(about).unwrap_or_default() {
        let _ = writeln!(out, "    {}", Shown(&line));
    }
    for loser in &case.losers {
        let _ = writeln!(out, "    not by {}", Shown(&lost(answer, case, loser)));
    }
}

/// `TCP and UDP, port 443 to 2001:db8::1, as user 1000, of the 25 % of processes that …`.
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
    let ports = if case.is_any_port() {
        "every port".to_owned()
    } else {
        ranges("port", &case.ports)
    };
    let mut parts = Vec::new();
    if !with_ports.is_empty() {
        parts.push(format!("{}, {ports}", with_ports.join(" and ")));
    }
    if case.kinds.contains(&Kind::Ping) {
        parts.push("ping sockets".to_owned());
    }
    let mut connects = format!("{} to {}", parts.join("; "), answer.address);
    if !case.is_any_user() {
        let _ = write!(connects, ", as {}", ranges("user", &case.users));
    }
    let memberships: Vec<String> = case
        .memberships
        .iter()
        .filter_map(|it| membership(answer, it))
        .collect();
    if !memberships.is_empty() {
        let _ = write!(connects, ", of {}", memberships.join(" and of "));
    }
    connects
}
