//! What can be asked of a compiled policy.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, Ipv6Addr},
};

use enforcer_common::{
    address::words_from_octets,
    clause::{NO_CLAUSE, NO_RULE},
    decide::{Connect, Known, Mode, decide},
};
use ipnet::Ipv6Net;
use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    super::{
        compile::compile,
        compiled::{CompiledPolicy, Entry},
        live::Live,
        rule::DEFAULT_GROUP,
        tree::Tree,
    },
    check,
    property::cases,
};

fn compiled(text: &str, live: &Live) -> CompiledPolicy {
    let (policy, _) = check(text).unwrap();
    compile(&policy.rules, &[DEFAULT_GROUP.to_owned()], live).unwrap()
}

#[test]
fn a_policy_lives_if_one_of_its_rules_ends_or_goes_where_a_name_is() {
    for (rule, is_living) in [
        ("action = \"reject\"", false),
        ("action = \"redirect\"\nto = \"192.0.2.1\"", false),
        ("action = \"reject\"\nexpires = \"1h\"", true),
        ("action = \"redirect\"\nto_host = \"db.example\"", true),
        (
            "action = \"redirect\"\nto_host = \"db.example\"\nexpires = \"1h\"",
            true,
        ),
    ] {
        let text = format!("version = 1\n[[rule]]\nprefix = \"2001:db8::/32\"\n{rule}\n");
        assert_eq!(compiled(&text, &Live::default()).is_living(), is_living, "{rule}");
        let beside = format!("{text}[[rule]]\nprefix = \"2001:db9::/32\"\naction = \"reject\"\n");
        assert_eq!(
            compiled(&beside, &Live::default()).is_living(),
            is_living,
            "{rule}"
        );
    }
}

#[test]
fn what_is_learned_of_times_and_names_is_as_if_it_had_been_known_before() {
    let text = r#"
        version = 1
        [[rule]]
        prefix = "2001:db8:1::/48"
        action = "redirect"
        to_host = "one.example"
        ports = [80, 443]
        expires = "1h"
        [[rule]]
        prefix = "2001:db8::/32"
        action = "redirect"
        to_host = "two.example:5432"
        [[rule]]
        prefix = "::/0"
        action = "reject"
        expires = "2h"
    "#;
    let address = |last| Ipv4Addr::new(192, 0, 2, last);
    let live = Live {
        deadlines_boot_ns: HashMap::from([(0, 7), (2, 9)]),
        destinations: HashMap::from([(0, vec![address(1)]), (1, vec![address(2), address(3)])]),
    };
    let unknown = compiled(text, &Live::default());
    assert_eq!(unknown.with_live(&live), compiled(text, &live));
    assert_ne!(unknown, compiled(text, &live));
    assert_eq!(unknown.with_live(&live).with_live(&Live::default()), unknown);
}

#[test]
fn a_policy_takes_a_line_of_memory_for_each_block_and_each_clause() {
    // The roots of both halves.
    assert_eq!(CompiledPolicy::default().kernel_bytes(), 2 * 64);
    let rule = "[[rule]]\nprefix = \"2001:db8::/32\"\naction = \"reject\"\nports = [80, 443]\n";
    let one = compiled(&format!("version = 1\n{rule}"), &Live::default());
    let tree = Tree::new(one.entries());
    assert_eq!(one.kernel_bytes(), 64 * (tree.blocks().len() as u64 + 2));
}

#[test]
fn only_an_allow_of_everything_need_not_be_read() {
    let rule = |action: &str, more: &str| {
        let text = format!(
            "version = 1\n[[rule]]\nname = \"x\"\nprefix = \"2001:db8::/32\"\naction = \"{action}\"\n{more}\n"
        );
        compiled(&text, &Live::default()).entries()[0].allows_at_once
    };
    assert!(rule("allow", ""));
    assert!(!rule("reject", ""));
    for more in [
        "ports = [443]",
        "proto = \"tcp\"",
        "uid = 0",
        "mode = \"audit\"",
        "rollout = 50",
        "expires = \"2h\"",
    ] {
        assert!(!rule("allow", more), "{more}");
    }
}

#[test]
fn a_policy_by_itself_has_nothing_over_it() {
    let policy = compiled(
        "version = 1\n[[rule]]\nprefix = \"2001:db8::/32\"\naction = \"reject\"\n",
        &Live::default(),
    );
    for (address, rule) in [("2001:db8::1", 0), ("2001:db9::1", NO_RULE)] {
        let words = words_from_octets(address.parse::<Ipv6Addr>().unwrap().octets());
        let connect = Connect::new(words, 443, 6, Mode::Enforce);
        let decision = decide(&policy, &Known::default(), &connect).unwrap();
        assert_eq!(decision.rule, rule, "{address}");
    }
}

/// The heads that answer for the addresses of a prefix, asked for one by one.
fn heads_one_by_one(policy: &CompiledPolicy, prefix: Ipv6Net) -> Vec<u32> {
    let (first, last) = (u128::from(prefix.network()), u128::from(prefix.broadcast()));
    let mut heads = Vec::new();
    for address in first..=last {
        let entry = policy.entry_for(Ipv6Addr::from(address));
        let head = entry.map_or(NO_CLAUSE, |entry| entry.head);
        if !heads.contains(&head) {
            heads.push(head);
        }
    }
    heads
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_heads_within_a_prefix_are_those_of_its_addresses(
        base in select(vec!["2001:db8::", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffc0"]),
        entries in vec((0_u128..64, 121_u8..=128, 0_u32..6), 0..12),
        asked in vec((0_u128..64, 121_u8..=128), 4),
    ) {
        let base = u128::from(base.parse::<Ipv6Addr>().unwrap());
        let prefix = |offset: u128, length: u8| Ipv6Net::new(Ipv6Addr::from(base + offset), length).unwrap().trunc();
        let entries: BTreeMap<Ipv6Net, u32> = entries
            .into_iter()
            .map(|(offset, length, head)| (prefix(offset, length), head))
            .collect();
        let entries = entries.into_iter().map(|(prefix, head)| Entry { prefix, head, allows_at_once: false }).collect();
        let policy = CompiledPolicy::new(entries, Vec::new());
        for (offset, length) in asked {
            let prefix = prefix(offset, length);
            prop_assert_eq!(policy.heads_within(prefix), heads_one_by_one(&policy, prefix), "{} {:?}", prefix, policy);
        }
    }
}
