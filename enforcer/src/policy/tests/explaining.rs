//! [`explain`]: what it says of the kinds of connects is what `decide` says of each connect, and its reasons hold.

use std::net::Ipv6Addr;

use enforcer_common::{
    clause::{Action, NO_RULE, Proto},
    decide::{Connect, Known, Mode, Unmovable, decide},
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    super::{
        compile::compile,
        explain::{Case, Kind, Question, Reason, exempt, explain},
        live::Live,
        rule::{GroupName, Rule},
    },
    policy_of,
    property::{cases, connect, parse, rule},
};

fn default_group() -> Vec<GroupName> {
    vec!["default".to_owned()]
}

fn explained(rules: &[&str], address: &str) -> Vec<Case> {
    let (policy, _) = policy_of(rules).unwrap();
    let compiled = compile(&policy.rules, &default_group(), &Live::default()).unwrap();
    let question = Question::new(parse(address), None, None, Mode::Enforce);
    explain(&compiled, &policy.rules, &default_group(), &question).unwrap()
}

#[test]
fn one_answer_is_enough_where_nothing_depends_on_port_or_protocol() {
    let cases = explained(&["reject internet"], "2001:db8::1");
    assert_eq!(cases.len(), 1);
    assert_eq!(cases[0].kinds, [Kind::Tcp, Kind::Udp, Kind::Ping]);
    assert!(cases[0].is_any_port() && cases[0].losers.is_empty());
    assert_eq!(cases[0].outcome.verdict, Action::Reject);
    assert_eq!(cases[0].immovable, None);
}

#[test]
fn a_redirect_to_ipv4_says_what_sockets_get_that_cannot_be_moved() {
    let cases = explained(
        &["redirect 2001:db8::/32=192.0.2.1:80,errno=EACCES"],
        "2001:db8::1",
    );
    assert_eq!(cases.len(), 2);
    assert_eq!(cases[0].outcome.verdict, Action::Redirect);
    assert_eq!(cases[0].outcome.to, Some(parse("192.0.2.1:80")));
    let immovable = cases[0].immovable.unwrap();
    assert_eq!(
        (immovable.verdict, immovable.errno.map(|errno| errno.name)),
        (Action::Reject, Some("EACCES"))
    );
    assert_eq!(cases[1].kinds, [Kind::Ping]);
    assert_eq!(cases[1].outcome.unmovable, Some(Unmovable::Ping));
    let to_ipv6 = explained(&["redirect 2001:db8::/32=3fff::1"], "2001:db8::1");
    assert_eq!(to_ipv6.len(), 1);
    assert_eq!(to_ipv6[0].immovable, None);
}

/// The case that a connect of that kind and port belongs to.
fn case_of(cases: &[Case], kind: Kind, port: u16) -> Option<&Case> {
    let mut of_kind = cases.iter().filter(|case| case.kinds.contains(&kind));
    let found = of_kind.find(|case| case.ports.iter().any(|range| range.contains(&port)));
    let another = of_kind.find(|case| case.ports.iter().any(|range| range.contains(&port)));
    found.filter(|_| another.is_none())
}

/// What has to be so for the reason to be true.
fn holds(reason: Reason, loser: &Rule, decider: Option<&Rule>, address: Ipv6Addr, connect: &Connect) -> bool {
    let prefix = loser.covering_prefix(address).unwrap();
    let decider_prefix = decider.map(|rule| rule.covering_prefix(address).unwrap());
    let is_proto = |proto: Proto| match proto {
        Proto::Tcp => [6, 262].contains(&connect.protocol),
        Proto::Udp => connect.protocol == 17,
    };
    let in_proto = loser.proto.is_none_or(is_proto);
    let in_ports = loser.ports.is_empty()
        || (connect.protocol != 58 && loser.ports.iter().any(|range| range.contains(&connect.dport)));
    match reason {
        Reason::Exempt => exempt(address).is_some_and(|(net, _)| !net.contains(&prefix)),
        Reason::ShorterPrefix => decider_prefix.is_some_and(|other| other.prefix_len() > prefix.prefix_len()),
        Reason::FewerConditions => {
            decider_prefix == Some(prefix)
                && decider.is_some_and(|other| other.conditions() > loser.conditions())
        }
        Reason::WrittenLater => {
            let alike =
                |other: &Rule| other.conditions() == loser.conditions() && other.action == loser.action;
            decider_prefix == Some(prefix) && decider.is_some_and(alike) && in_proto && in_ports
        }
        Reason::Proto => !in_proto,
        Reason::Ports => in_proto && !in_ports,
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn what_is_explained_is_what_is_decided_and_the_reasons_hold(
        mut rules in vec(rule(), 0..9),
        connects in vec(connect(), 12),
        groups in select(vec![vec!["a"], vec!["b"], vec!["a", "b"], vec!["c"]]),
    ) {
        let groups: Vec<GroupName> = groups.into_iter().map(str::to_owned).collect();
        // Rules that cannot stand together explain nothing: the last are taken out until the rest can.
        let compiled = loop {
            match compile(&rules, &groups, &Live::default()) {
                Ok(compiled) => break compiled,
                Err(_) => rules.pop(),
            };
        };
        for (address, connect, unmovable) in connects {
            let kind = match connect.protocol {
                17 => Kind::Udp,
                58 => Kind::Ping,
                _ => Kind::Tcp,
            };
            let question = Question::new(address, None, None, connect.mode);
            let all = explain(&compiled, &rules, &groups, &question).unwrap();
            let case = case_of(&all, kind, connect.dport);
            prop_assert!(case.is_some(), "no case, or two: {all:?}");
            let case = case.unwrap();

            let unmovable = if kind == Kind::Ping { Some(Unmovable::Ping) } else { unmovable };
            let decision = decide(&compiled, &Known { unmovable, ..Known::default() }, &connect).unwrap();
            let outcome = match unmovable {
                Some(Unmovable::Bound | Unmovable::V6Only) => case.immovable.unwrap_or(case.outcome),
                // Connects are explained.
                Some(Unmovable::Ping | Unmovable::Unconnected) | None => case.outcome,
            };
            prop_assert_eq!(outcome.verdict, decision.verdict);
            let rule = |rule: u32| (rule != NO_RULE).then_some(rule);
            prop_assert_eq!(outcome.rule, rule(decision.rule));
            prop_assert_eq!(outcome.would, rule(decision.would_rule).zip(decision.would));
            if let Some(errno) = outcome.errno {
                prop_assert_eq!(errno.number, decision.errno);
            }

            let covering = rules.iter().filter(|rule| {
                rule.is_in(&groups) && rule.covering_prefix(address).is_some()
            });
            let deciders = usize::from(outcome.decider().is_some());
            prop_assert_eq!(case.losers.len() + deciders, covering.count());
            let decider = case.outcome.decider().map(|index| &rules[index as usize]);
            for loser in &case.losers {
                prop_assert_ne!(Some(loser.rule), outcome.decider());
                let rule = &rules[loser.rule as usize];
                prop_assert!(
                    holds(loser.reason, rule, decider, address, &connect),
                    "{:?} of {:?} to {}, decided by {:?}", loser, rule, address, decider
                );
            }

            // Asked about this connect alone, the answer is the same.
            if kind != Kind::Ping {
                let proto = if kind == Kind::Tcp { Proto::Tcp } else { Proto::Udp };
                let question = Question { port: Some(connect.dport), proto: Some(proto), ..question };
                let alone = explain(&compiled, &rules, &groups, &question).unwrap();
                prop_assert_eq!(alone.len(), 1);
                prop_assert_eq!(&alone[0].outcome, &case.outcome);
                // Of a rule that is for another port, that is said now and not that it would have lost anyway.
                let indices = |case: &Case| case.losers.iter().map(|it| it.rule).collect::<Vec<_>>();
                prop_assert_eq!(indices(&alone[0]), indices(case));
                for loser in &alone[0].losers {
                    let rule = &rules[loser.rule as usize];
                    let is_exempt = holds(Reason::Exempt, rule, decider, address, &connect);
                    let is_other = [Reason::Proto, Reason::Ports]
                        .into_iter()
                        .find(|reason| holds(*reason, rule, decider, address, &connect));
                    match is_other {
                        Some(other) if !is_exempt => prop_assert_eq!(loser.reason, other),
                        _ => prop_assert!(holds(loser.reason, rule, decider, address, &connect)),
                    }
                }
            }
        }
    }
}
