//! [`explain`]: what it says of the kinds of connects is what `decide` says of each connect, and its reasons hold.

use std::net::Ipv6Addr;

use enforcer_common::{
    address::octets_from_words,
    clause::{NO_RULE, Proto},
    decide::{Connect, Known, Mode, Unmovable, decide},
};
use ipnet::Ipv6Net;
use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    super::{
        compile::compile,
        compiled::Layered,
        explain::{
            Case, Grounds, Kind, Loser, Membership, Outcome, Question, Reason, Target, exempt, explain,
        },
        live::Live,
        overlay::{Answers, Becomes, overlay},
        rule::{GroupName, RedirectTo, Rule, RuleAction},
    },
    property::{answers, cases, full_connect, full_rule, live, without_mistakes},
    reference::is_left_out,
};

/// The case that a connect of that kind, port and user belongs to, if rollouts take it as they are said to.
fn case_of<'all>(
    cases: &'all [Case],
    kind: Kind,
    connect: &Connect,
    uid: u32,
    is_so: impl Fn(&Membership) -> bool,
) -> Option<&'all Case> {
    let mut of_connect = cases.iter().filter(|case| {
        case.kinds.contains(&kind)
            && case.ports.iter().any(|range| range.contains(&connect.dport))
            && case.users.iter().any(|range| range.contains(&uid))
            && case.memberships.iter().all(&is_so)
    });
    let found = of_connect.next();
    found.filter(|_| of_connect.next().is_none())
}

/// A rule that covers the address of a connect, with what is known of it.
#[derive(Clone, Copy)]
struct Covering<'a> {
    index: u32,
    rule: &'a Rule,
    prefix: Ipv6Net,
    becomes: Option<&'a Becomes>,
}

impl<'a> Covering<'a> {
    fn new(grounds: &Grounds<'a>, index: u32, address: Ipv6Addr) -> Option<Self> {
        let rule = &grounds.rules[index as usize];
        let becomes = grounds.answers.get(&index).and_then(|known| known.get(&address));
        let prefix = match &rule.host {
            Some(_) => becomes.map(|_| Ipv6Net::from(address)),
            None => rule.covering_prefix(address),
        };
        Some(Self {
            index,
            rule,
            prefix: prefix?,
            becomes,
        })
    }

    /// In which order rules count.
    fn rank(&self) -> impl Ord {
        let conditions = std::cmp::Reverse((self.prefix.prefix_len(), self.rule.conditions()));
        (
            conditions,
            self.rule.mode != Mode::Audit,
            self.becomes.is_some(),
            self.index,
        )
    }

    /// Whether a reason is true that has nothing to do with the rule that decides; `None` of one that has.
    fn is_absent_for(
        &self,
        reason: Reason,
        grounds: &Grounds<'_>,
        address: Ipv6Addr,
        connect: &Connect,
        known: &Known,
    ) -> Option<bool> {
        let rule = self.rule;
        let is_proto = |proto: Proto| match proto {
            Proto::Tcp => [6, 262].contains(&connect.protocol),
            Proto::Udp => connect.protocol == 17,
        };
        let has_port = connect.protocol != 58;
        Some(match reason {
            Reason::Disabled => !rule.enabled,
            Reason::Exempt => exempt(address).is_some_and(|(net, _)| !net.contains(&self.prefix)),
            Reason::Proto => !rule.proto.is_none_or(is_proto),
            Reason::Ports => {
                let is_in = rule.ports.iter().any(|range| range.contains(&connect.dport));
                !(rule.ports.is_empty() || has_port && is_in)
            }
            Reason::Uid => !rule.uids.is_empty() && !rule.uids.iter().any(|range| range.contains(&known.uid)),
            Reason::NotYetResolved => match (&rule.action, self.becomes) {
                (_, Some(Becomes::To(to))) => to.is_empty(),
                (RuleAction::Redirect(RedirectTo::Host { .. }), _) => {
                    !grounds.live.destinations.contains_key(&self.index)
                }
                _ => false,
            },
            Reason::WithoutTwin => self.becomes == Some(&Becomes::Absent),
            Reason::TooManyRules => grounds.overlay.leaves_out(&address),
            Reason::Expired => {
                let deadline = grounds.live.deadlines_boot_ns.get(&self.index);
                rule.expires.is_some() && deadline.is_some_and(|deadline| known.boot_ns >= *deadline)
            }
            Reason::LeftOut => rule
                .rollout
                .as_ref()
                .is_some_and(|rollout| is_left_out(rule, rollout, address, connect, known)),
            _ => return None,
        })
    }

    /// Whether a reason is true that is about the rule that decides.
    fn has_lost_for(&self, reason: Reason, decider: Option<&Self>) -> bool {
        let stands_before = decider.is_none_or(|decider| self.rank() < decider.rank());
        if reason == Reason::Audit {
            return self.rule.mode == Mode::Audit && stands_before;
        }
        let Some(decider) = decider.filter(|_| !stands_before) else {
            return false;
        };
        let same_prefix = self.prefix == decider.prefix;
        let same_conditions = self.rule.conditions() == decider.rule.conditions();
        match reason {
            Reason::ShorterPrefix => self.prefix.prefix_len() < decider.prefix.prefix_len(),
            Reason::FewerConditions => same_prefix && self.rule.conditions() < decider.rule.conditions(),
            Reason::WrittenLater => {
                same_prefix
                    && same_conditions
                    && self.rule.action == decider.rule.action
                    && self.becomes == decider.becomes
            }
            Reason::GoesSecond => same_prefix && same_conditions,
            _ => false,
        }
    }
}

/// The reasons that have nothing to do with the rule that decides, in the order in which they are told.
const ABSENT: [Reason; 10] = [
    Reason::Disabled,
    Reason::Exempt,
    Reason::Proto,
    Reason::Ports,
    Reason::Uid,
    Reason::NotYetResolved,
    Reason::WithoutTwin,
    Reason::TooManyRules,
    Reason::Expired,
    Reason::LeftOut,
];

/// What a decision says, as an outcome does.
fn assert_same(outcome: &Outcome, decision: &enforcer_common::decide::Decision) -> Result<(), TestCaseError> {
    prop_assert_eq!(outcome.verdict, decision.verdict);
    let rule = |rule: u32| (rule != NO_RULE).then_some(rule);
    prop_assert_eq!(outcome.rule, rule(decision.rule));
    prop_assert_eq!(outcome.would, rule(decision.would_rule).zip(decision.would));
    prop_assert_eq!(outcome.unmovable.is_some(), decision.unmovable.is_some());
    if let Some(errno) = outcome.errno {
        prop_assert_eq!(errno.number, decision.errno);
    }
    let to = decision.destination().map(|to| {
        let address = Ipv6Addr::from(octets_from_words(to.addr_be)).to_canonical();
        std::net::SocketAddr::new(address, to.port)
    });
    match to {
        Some(to) => prop_assert!(outcome.to.contains(&to), "{to} in {outcome:?}"),
        None => prop_assert!(outcome.to.is_empty(), "{outcome:?}"),
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn what_is_explained_is_what_is_decided_and_the_reasons_hold(
        mut rules in vec(full_rule(), 0..9),
        connects in vec(full_connect(), 8),
        groups in select(vec![vec!["a"], vec!["b"], vec!["a", "b"], vec!["c"]]),
        times in vec(1_u64..4, 9),
        names in vec((0_usize..3, 0_usize..6, 0_u8..5), 0..8),
    ) {
        let groups: Vec<GroupName> = groups.into_iter().map(str::to_owned).collect();
        without_mistakes(&mut rules, &groups, &Live::default())?;
        let live = live(&rules, &times);
        let answers: Answers = answers(&rules, &names);
        let base = compile(&rules, &groups, &live).expect("no mistake is left");
        let overlay = overlay(&rules, &groups, &live, &base, &answers);
        let grounds = Grounds {
            rules: &rules, groups: &groups, live: &live, answers: &answers, base: &base, overlay: &overlay,
        };
        let table = Layered { base: &base, overlay: &overlay.compiled };
        for (address, connect, known) in connects {
            let kind = match connect.protocol {
                17 => Kind::Udp,
                58 => Kind::Ping,
                _ => Kind::Tcp,
            };
            let unmovable = if kind == Kind::Ping { Some(Unmovable::Ping) } else { known.unmovable };
            let known = Known { unmovable, ..known };
            let decision = decide(&table, &known, &connect).unwrap();
            let outcome_of = |case: &Case| match unmovable {
                Some(Unmovable::Bound | Unmovable::V6Only) => {
                    case.immovable.clone().unwrap_or_else(|| case.outcome.clone())
                }
                // Connects are explained.
                Some(Unmovable::Ping | Unmovable::Unconnected) | None => case.outcome.clone(),
            };
            let is_so = |membership: &Membership| {
                let rule = &rules[membership.rule as usize];
                let rollout = rule.rollout.as_ref().unwrap();
                membership.included != is_left_out(rule, rollout, address, &connect, &known)
            };

            let everybody = Question { boot_ns: known.boot_ns, ..Question::new(address, None, None, connect.mode) };
            let all = explain(&grounds, &everybody).unwrap();
            let case = case_of(&all, kind, &connect, known.uid, is_so);
            prop_assert!(case.is_some(), "no case, or two: {all:?}");
            let case = case.unwrap();
            assert_same(&outcome_of(case), &decision)?;

            // Asked about this connect alone, there is one answer, and it is the same.
            let proto = match kind {
                Kind::Tcp => Some(Proto::Tcp),
                Kind::Udp => Some(Proto::Udp),
                Kind::Ping => None,
            };
            let alone = Question {
                port: proto.map(|_| connect.dport),
                proto,
                uid: Some(known.uid),
                process: Some(known.process),
                target: Some(Target { rollout_key: connect.rollout_key, canaries: connect.canaries }),
                ..everybody
            };
            let of_alone = explain(&grounds, &alone).unwrap();
            let mut of_kind = of_alone.iter().filter(|case| case.kinds.contains(&kind));
            let one = of_kind.next().unwrap();
            prop_assert_eq!(of_kind.next(), None);
            prop_assert_eq!(&one.memberships, &[]);
            prop_assert_eq!(&one.outcome, &case.outcome);
            prop_assert_eq!(&one.immovable, &case.immovable);

            let decider = case.outcome.decider().map(|index| Covering::new(&grounds, index, address).unwrap());
            for (case, is_alone) in [(case, false), (one, true)] {
                let expected: Vec<_> = (0..)
                    .zip(&rules)
                    .filter(|(_, rule)| rule.is_in(&groups))
                    .filter_map(|(index, _)| Covering::new(&grounds, index, address))
                    .filter(|one| Some(one.index) != case.outcome.decider())
                    .map(|one| one.index)
                    .collect();
                let mut told: Vec<_> = case.losers.iter().map(|loser| loser.rule).collect();
                told.sort_unstable();
                prop_assert_eq!(told, expected);
                for Loser { rule, prefix, reason } in &case.losers {
                    let loser = Covering::new(&grounds, *rule, address).unwrap();
                    prop_assert_eq!(*prefix, loser.prefix);
                    let holds = |reason| loser.is_absent_for(reason, &grounds, address, &connect, &known);
                    let is_true = holds(*reason).unwrap_or_else(|| loser.has_lost_for(*reason, decider.as_ref()));
                    prop_assert!(is_true, "{:?} of {:?}, decided by {:?}", reason, loser.rule, case.outcome);
                    // Of a rule that does not match this connect, that is said and not that it would have lost anyway.
                    let first = ABSENT.into_iter().find(|reason| holds(*reason) == Some(true));
                    if is_alone && let Some(first) = first.filter(|first| *first != Reason::LeftOut) {
                        prop_assert_eq!(first, *reason);
                    }
                }
            }
        }
    }
}
