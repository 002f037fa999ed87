//! An answer as one JSON object on one line; its fields are documented in `docs/explain.md`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use enforcer_common::{
    clause::{Action, Proto},
    decide::Unmovable,
    errno::Errno,
};
use serde::Serialize;

use super::{Answer, Subject};
use crate::{
    events::decode::Checked,
    policy::{
        explain::{Case, Kind, Loser, Outcome, Reason, exempt},
        rule::{Origin, Rule},
    },
    sinks::{json::to_line, text::Word},
};

#[derive(Serialize)]
struct Object<'answer> {
    daddr: IpAddr,
    dport: Option<u16>,
    proto: Option<Word>,
    governed: bool,
    exempt: Option<Exempt>,
    mode: Word,
    policies: Vec<PolicyObject<'answer>>,
}

#[derive(Serialize)]
struct Exempt {
    prefix: String,
    what: &'static str,
}

#[derive(Serialize)]
struct PolicyObject<'answer> {
    groups: &'answer [String],
    targets: &'answer [String],
    cases: Vec<CaseObject<'answer>>,
}

#[derive(Serialize)]
struct CaseObject<'answer> {
    protos: Vec<&'static str>,
    ports: Option<Vec<String>>,
    #[serde(flatten)]
    outcome: OutcomeObject<'answer>,
    immovable: Option<OutcomeObject<'answer>>,
    lost: Vec<LoserObject<'answer>>,
}

#[derive(Serialize)]
struct OutcomeObject<'answer> {
    verdict: Word,
    would: Option<Word>,
    rule: Option<&'answer str>,
    would_rule: Option<&'answer str>,
    prefix: Option<String>,
    file: Option<String>,
    line: Option<usize>,
    errno: Option<&'static str>,
    errno_number: Option<u16>,
    redirect_to: Option<String>,
    unmovable: Option<Word>,
}

#[derive(Serialize)]
struct LoserObject<'answer> {
    rule: &'answer str,
    prefix: String,
    file: Option<String>,
    line: Option<usize>,
    action: &'static str,
    reason: &'static str,
}

/// The object, with the end of its line.
pub(super) fn write(answer: &Answer<'_>) -> io::Result<String> {
    let exempt = match answer.address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => exempt(address),
    };
    let object = Object {
        daddr: answer.address,
        dport: answer.port,
        proto: answer.proto.map(|proto| {
            Word::Name(match proto {
                Proto::Tcp => "tcp",
                Proto::Udp => "udp",
            })
        }),
        governed: answer.address.is_ipv6(),
        exempt: exempt.map(|(prefix, exempt)| Exempt {
            prefix: prefix.to_string(),
            what: exempt.what,
        }),
        mode: Word::mode(Checked::Known(answer.mode)),
        policies: answer
            .subjects
            .iter()
            .map(|subject| policy(answer, subject))
            .collect(),
    };
    to_line(&object)
}

fn policy<'answer>(answer: &'answer Answer<'_>, subject: &'answer Subject) -> PolicyObject<'answer> {
    PolicyObject {
        groups: &subject.groups,
        targets: &subject.targets,
        cases: subject.cases.iter().map(|it| case(answer, it)).collect(),
    }
}

fn case<'answer>(answer: &'answer Answer<'_>, case: &'answer Case) -> CaseObject<'answer> {
    CaseObject {
        protos: case
            .kinds
            .iter()
            .map(|kind| match kind {
                Kind::Tcp => "tcp",
                Kind::Udp => "udp",
                Kind::Ping => "ping",
            })
            .collect(),
        ports: (!case.is_any_port()).then(|| case.ports.iter().map(super::human::range).collect()),
        outcome: outcome(answer, &case.outcome),
        immovable: case.immovable.as_ref().map(|it| OutcomeObject {
            // Any socket that cannot be moved: the answer is not about one reason.
            unmovable: None,
            ..outcome(answer, it)
        }),
        lost: case.losers.iter().map(|it| loser(answer, it)).collect(),
    }
}

fn outcome<'answer>(answer: &'answer Answer<'_>, outcome: &Outcome) -> OutcomeObject<'answer> {
    let rule = |index: u32| answer.rules.get(index as usize);
    let decider = outcome.decider().and_then(rule);
    let (file, line) = decider.map_or((None, None), origin);
    let prefix = decider.and_then(|rule| match answer.address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => rule.covering_prefix(address),
    });
    OutcomeObject {
        verdict: word(outcome.verdict),
        would: outcome.would.map(|(_, action)| word(action)),
        rule: outcome.rule.and_then(rule).map(|rule| rule.label.as_str()),
        would_rule: outcome
            .would
            .and_then(|(index, _)| rule(index))
            .map(|rule| rule.label.as_str()),
        prefix: prefix.map(|prefix| prefix.to_string()),
        file,
        line,
        errno: outcome.errno.map(|Errno { name, .. }| name),
        errno_number: outcome.errno.map(|Errno { number, .. }| number),
        redirect_to: outcome.to.map(destination),
        unmovable: outcome
            .unmovable
            .map(|reason: Unmovable| Word::unmovable(Checked::Known(reason))),
    }
}

/// As in events: the port only where the rule changes it.
fn destination(to: SocketAddr) -> String {
    match to.port() {
        0 => to.ip().to_string(),
        _ => to.to_string(),
    }
}

fn loser<'answer>(answer: &'answer Answer<'_>, loser: &Loser) -> LoserObject<'answer> {
    let rule = answer.rules.get(loser.rule as usize);
    let (file, line) = rule.map_or((None, None), origin);
    LoserObject {
        rule: rule.map_or("", |rule| rule.label.as_str()),
        prefix: loser.prefix.to_string(),
        file,
        line,
        action: rule.map_or("", super::human::action),
        reason: match loser.reason {
            Reason::Exempt => "exempt",
            Reason::ShorterPrefix => "shorter-prefix",
            Reason::FewerConditions => "fewer-conditions",
            Reason::WrittenLater => "written-later",
            Reason::Proto => "proto",
            Reason::Ports => "ports",
        },
    }
}

fn origin(rule: &Rule) -> (Option<String>, Option<usize>) {
    match &rule.origin {
        Origin::File { path, line, .. } => (Some(path.display().to_string()), Some(*line)),
        Origin::Argument(_) => (None, None),
    }
}

fn word(action: Action) -> Word {
    Word::action(Checked::Known(action))
}
