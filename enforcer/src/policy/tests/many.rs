//! Policies of very many rules against the [`reference`](super::reference): wide rules around narrow ones around narrower
//! ones, and many of each.

use std::net::Ipv6Addr;

use enforcer_common::{
    address::words_from_octets,
    decide::{Connect, Known, decide},
};
use ipnet::Ipv6Net;
use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    super::{
        compile::compile,
        live::Live,
        overlay::Answers,
        rule::{GroupName, RedirectTo, Rule, RuleAction},
    },
    property::{cases, full_connect, full_rule, live, parse, told},
    reference,
};

/// One policy of these takes as long as very many of eight rules.
const FEWER: u32 = 128;

/// A place among many others: the shorter the prefix, the fewer there are, and each lies within one of the next shorter
/// length.
fn place() -> impl Strategy<Value = Ipv6Net> {
    (
        any::<u32>(),
        select(vec![
            48_u8, 52, 52, 52, 56, 56, 56, 56, 60, 60, 60, 60, 64, 64, 64, 64,
        ]),
    )
        .prop_map(|(bits, length)| {
            let within = u128::from(bits & 0x0077_7777) << 64;
            let around = u128::from(parse::<Ipv6Addr>("2001:db8::"));
            Ipv6Net::new((around | within).into(), length).unwrap().trunc()
        })
}

/// The rule at that place, and nowhere else.
fn placed((rule, prefix): (Rule, Ipv6Net)) -> Rule {
    let action = match rule.action {
        RuleAction::Redirect(RedirectTo::Address(to)) => RuleAction::Redirect(RedirectTo::Address(to)),
        // They depend on prefixes or names.
        RuleAction::Redirect(_) => RuleAction::Reject,
        other => other,
    };
    Rule {
        prefixes: vec![prefix],
        host: None,
        action,
        ..rule
    }
}

/// Takes out what cannot stand together, and then, where lists are too long, the later half of what is left.
fn without_mistakes(rules: &mut Vec<Rule>, groups: &[GroupName], live: &Live) {
    loop {
        let mistaken: Vec<bool> = (0..rules.len())
            .map(|i| {
                let at_its_place = |a: &&Rule| a.prefixes == rules[i].prefixes;
                let mut others = rules[..i].iter().filter(at_its_place);
                others.any(|a| reference::tie(a, &rules[i], groups))
                    || reference::leads_nowhere(rules, i, groups)
            })
            .collect();
        if mistaken.contains(&true) {
            let mut mistaken = mistaken.into_iter();
            rules.retain(|_| !mistaken.next().unwrap());
        } else if compile(rules, groups, live).is_err() {
            rules.truncate(rules.len() / 2);
        } else {
            return;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases().cases.div_ceil(FEWER), ..cases() })]

    #[test]
    fn a_policy_of_two_thousand_rules_decides_as_they_say(
        rules in select(vec![200, 2_000]).prop_flat_map(|count| vec((full_rule(), place()), count)),
        connects in vec((full_connect(), any::<usize>(), any::<u128>()), 200),
        groups in select(vec![vec!["a"], vec!["a", "b"]]),
        times in vec(1_u64..4, 9),
    ) {
        let groups: Vec<GroupName> = groups.into_iter().map(str::to_owned).collect();
        let mut rules: Vec<Rule> = rules.into_iter().map(placed).collect();
        let written = rules.len();
        without_mistakes(&mut rules, &groups, &Live::default());
        // Were nearly all taken out, nothing would be said of many.
        prop_assert!(rules.len() * 4 > written, "{} of {written}", rules.len());
        let live = live(&rules, &times);
        let compiled = compile(&rules, &groups, &live).expect("no mistake is left");
        let policy = reference::Policy { rules: &rules, groups: &groups, live: &live, answers: &Answers::new() };
        for ((_, connect, known), which, low) in connects {
            let prefix = rules[which % rules.len()].prefixes[0];
            let address = Ipv6Addr::from(u128::from(prefix.network()) | low & u128::from(prefix.hostmask()));
            let connect = Connect { daddr_be: words_from_octets(address.octets()), ..connect };
            let (connect, known): (Connect, Known) = (connect, known);
            let mut told = told(&decide(&compiled, &known, &connect).expect("a whole table"));
            let expected = reference::decide(&policy, address, &connect, &known);
            if expected.name.is_none() {
                told.name = None;
            }
            prop_assert_eq!(told, expected, "{} {:?} {:?}", address, connect, known);
        }
    }
}
