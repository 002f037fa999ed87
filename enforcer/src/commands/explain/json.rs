//! An answer as one JSON object on one line; its fields are documented in `docs/explain.md`.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use enforcer_common::{
    clause::{Action, Proto},
    decide::Unmovable,
    errno::Errno,
};
use serde::Serialize;

use super::{
    Answer, Subject,
    names::{Name, to_host},
    words::{action, destination, range},
};
use crate::{
    events::decode::Checked,
    names::HostName,
    policy::{
        explain::{Case, Kind, Loser, Membership, Outcome, Reason, exempt},
        rule::{Expires, Origin, RolloutBy, Rule, RuleAction},
    },
    sinks::{json::to_line, text::Word},
};

#[derive(Serialize)]
struct Object<'answer> {
    daddr: IpAddr,
    dport: Option<u16>,
    proto: Option<Word>,
    uid: Option<u32>,
    pid: Option<u32>,
    governed: bool,
    exempt: Option<Exempt>,
    mode: Word,
    names: Vec<NameObject<'answer>>,
    policies: Vec<PolicyObject<'answer>>,
}

#[derive(Serialize)]
struct NameObject<'answer> {
    name: &'answer str,
    looked_up: bool,
    aaaa: &'answer BTreeSet<Ipv6Addr>,
    a: &'answer BTreeSet<Ipv4Addr>,
    notes: &'answer [String],
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
    notes: &'answer BTreeSet<String>,
    cases: Vec<CaseObject<'answer>>,
}

#[derive(Serialize)]
struct CaseObject<'answer> {
    protos: Vec<&'static str>,
    ports: Option<Vec<String>>,
    users: Option<Vec<String>>,
    memberships: Vec<MembershipObject<'answer>>,
    #[serde(flatten)]
    outcome: OutcomeObject<'answer>,
    immovable: Option<OutcomeObject<'answer>>,
    lost: Vec<LoserObject<'answer>>,
}

#[derive(Serialize)]
struct MembershipObject<'answer> {
    rule: &'answer str,
    included: bool,
    as_canary: bool,
    rollout: Option<RolloutObject<'answer>>,
}

#[derive(Serialize)]
struct RolloutObject<'answer> {
    percent: u8,
    by: &'static str,
    canary: &'answer [String],
}

/// What a rule has beside what it does.
#[derive(Default, Serialize)]
struct Traits<'answer> {
    host: Option<&'answer str>,
    to_host: Option<&'answer str>,
    rule_reason: Option<&'answer str>,
    rollout: Option<RolloutObject<'answer>>,
    expires: Option<String>,
    expires_after_secs: Option<u64>,
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
    redirect_choices: Vec<String>,
    transparent: Option<bool>,
    unmovable: Option<Word>,
    without_twin: bool,
    #[serde(flatten)]
    traits: Traits<'answer>,
}

#[derive(Serialize)]
struct LoserObject<'answer> {
    rule: &'answer str,
    prefix: String,
    file: Option<String>,
    line: Option<usize>,
    action: &'static str,
    reason: &'static str,
    #[serde(flatten)]
    traits: Traits<'answer>,
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
        uid: answer.who.uid,
        pid: answer.who.process,
        governed: answer.address.is_ipv6(),
        exempt: exempt.map(|(prefix, exempt)| Exempt {
            prefix: prefix.to_string(),
            what: exempt.what,
        }),
        mode: Word::mode(Checked::Known(answer.mode)),
        names: answer.names.names.iter().map(name).collect(),
        policies: answer
            .subjects
            .iter()
            .map(|subject| policy(answer, subject))
            .collect(),
    };
    to_line(&object)
}

fn name<'answer>((text, name): (&'answer HostName, &'answer Name)) -> NameObject<'answer> {
    NameObject {
        name: text.as_str(),
        looked_up: name.looked_up,
        aaaa: &name.aaaa,
        a: &name.a,
        notes: &name.notes,
    }
}

fn policy<'answer>(answer: &'answer Answer<'_>, subject: &'answer Subject) -> PolicyObject<'answer> {
    PolicyObject {
        groups: &subject.groups,
        targets: &subject.targets,
        notes: &subject.notes,
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
        ports: (!case.is_any_port()).then(|| case.ports.iter().map(range).collect()),
        users: (!case.is_any_user()).then(|| case.users.iter().map(range).collect()),
        memberships: case.memberships.iter().map(|it| membership(answer, it)).collect(),
        outcome: outcome(answer, &case.outcome),
        immovable: case.immovable.as_ref().map(|it| OutcomeObject {
            // Any socket that cannot be moved: the answer is not about one reason.
            unmovable: None,
            ..outcome(answer, it)
        }),
        lost: case.losers.iter().map(|it| loser(answer, it)).collect(),
    }
}

fn membership<'answer>(answer: &'answer Answer<'_>, membership: &Membership) -> MembershipObject<'answer> {
    let rule = answer.rules.get(membership.rule as usize);
    MembershipObject {
        rule: rule.map_or("", |rule| rule.label.as_str()),
        included: membership.included,
        as_canary: membership.as_canary,
        rollout: rule.and_then(rollout),
    }
}

fn rollout(rule: &Rule) -> Option<RolloutObject<'_>> {
    rule.rollout.as_ref().map(|rollout| RolloutObject {
        percent: rollout.percent,
        by: match rollout.by {
            RolloutBy::Target => "target",
            RolloutBy::Process => "process",
            RolloutBy::Destination => "destination",
        },
        canary: &rollout.canary,
    })
}

fn traits(rule: &Rule) -> Traits<'_> {
    Traits {
        host: rule.host.as_ref().map(|host| host.name.as_str()),
        to_host: to_host(rule).map(HostName::as_str),
        rule_reason: rule.reason.as_deref(),
        rollout: rollout(rule),
        expires: match rule.expires {
            Some(end @ Expires::At(_)) => Some(end.to_string()),
            _ => None,
        },
        expires_after_secs: match rule.expires {
            Some(Expires::After(long)) => Some(long.as_secs()),
            _ => None,
        },
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
        redirect_to: outcome.to.first().map(destination),
        redirect_choices: outcome.to.iter().map(destination).collect(),
        transparent: decider
            .filter(|rule| matches!(rule.action, RuleAction::Redirect(_)))
            .map(|rule| rule.transparent),
        unmovable: outcome
            .unmovable
            .map(|reason: Unmovable| Word::unmovable(Checked::Known(reason))),
        without_twin: outcome.is_without_twin,
        traits: decider.map(traits).unwrap_or_default(),
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
        action: rule.map_or("", action),
        reason: match loser.reason {
            Reason::Disabled => "disabled",
            Reason::Exempt => "exempt",
            Reason::Proto => "proto",
            Reason::Ports => "ports",
            Reason::Uid => "uid",
            Reason::NotYetResolved => "not-yet-resolved",
            Reason::WithoutTwin => "without-twin",
            Reason::TooManyRules => "too-many-rules",
            Reason::Expired => "expired",
            Reason::LeftOut => "left-out",
            Reason::ShorterPrefix => "shorter-prefix",
            Reason::FewerConditions => "fewer-conditions",
            Reason::Audit => "audit",
            Reason::WrittenLater => "written-later",
            Reason::GoesSecond => "goes-second",
        },
        traits: rule.map(traits).unwrap_or_default(),
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
