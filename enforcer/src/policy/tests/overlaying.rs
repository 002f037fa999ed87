//! What lies over a policy for the names of its rules: its limits, and what is left out at them.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use enforcer_common::clause::{CLAUSE_NAME_MISS, IN_OVERLAY, MAX_CHOICES, MAX_WALK};

use super::{
    super::{
        compile::compile,
        live::Live,
        overlay::{Answers, Becomes, MAX_OVERLAY_CLAUSES, Overlay, overlay},
        rule::DEFAULT_GROUP,
    },
    check,
};

/// The overlay of a policy file in which the last rule has a name, with those addresses.
fn overlay_of(text: &str, addresses: BTreeMap<Ipv6Addr, Becomes>) -> Overlay {
    let (policy, _) = check(text).unwrap();
    let groups = [DEFAULT_GROUP.to_owned()];
    let live = Live::default();
    let base = compile(&policy.rules, &groups, &live).unwrap();
    let last = policy.rules.len() as u32 - 1;
    overlay(
        &policy.rules,
        &groups,
        &live,
        &base,
        &Answers::from([(last, addresses)]),
    )
}

/// That many ports, no two of which touch: each is a clause.
fn ports(count: u32) -> String {
    let ports: Vec<String> = (0..count).map(|n| (2 * n + 1).to_string()).collect();
    format!("ports = [{}]", ports.join(", "))
}

/// A rule with that many clauses around a name's address, and a rule for the name.
fn crowded(around: u32, exactly: &str, of_name: u32) -> Overlay {
    let text = format!(
        r#"
            version = 1
            [[rule]]
            prefix = "2001:db8::/32"
            action = "reject"
            {}
            {exactly}
            [[rule]]
            host = "db.example"
            {}
        "#,
        ports(around),
        ports(of_name)
    );
    let address = "2001:db8::1".parse().unwrap();
    overlay_of(&text, BTreeMap::from([(address, Becomes::AsRuled)]))
}

/// Prefixes of an overlay, shortest first.
fn lengths(overlay: &Overlay) -> Vec<u8> {
    let entries = overlay.compiled.entries();
    entries.iter().map(|entry| entry.prefix.prefix_len()).collect()
}

#[test]
fn the_rules_of_a_name_are_left_out_where_theirs_and_those_around_are_more_clauses_than_are_walked() {
    let fits = crowded(MAX_WALK - 2, "", 2);
    assert_eq!((lengths(&fits), &fits.too_long[..]), (vec![48, 128], &[][..]));
    let is_too_long = crowded(MAX_WALK - 2, "", 3);
    assert_eq!(is_too_long.too_long, ["2001:db8::1".parse::<Ipv6Addr>().unwrap()]);
    assert_eq!(lengths(&is_too_long), [48]);
    assert!(is_too_long.leaves_out(&is_too_long.too_long[0]));
    assert!(!is_too_long.leaves_out(&Ipv6Addr::LOCALHOST) && is_too_long.no_room.is_empty());
}

#[test]
fn what_stands_behind_a_rule_without_conditions_does_not_count_for_a_name_either() {
    let exactly = r#"
            [[rule]]
            prefix = "2001:db8::1"
            action = "allow"
    "#;
    let overlay = crowded(MAX_WALK, exactly, MAX_WALK - 1);
    assert_eq!(overlay.too_long, [] as [Ipv6Addr; 0]);
    assert_eq!(lengths(&overlay), [128]);
    let overlay = crowded(MAX_WALK, exactly, MAX_WALK);
    assert_eq!(overlay.too_long.len(), 1);
}

#[test]
fn of_rules_for_just_that_address_only_those_that_count_are_tried() {
    let rule = |key: &str| {
        format!("[[rule]]\nprefix = \"2001:db8::1\"\naction = \"allow\"\nproto = \"udp\"\n{key}\n")
    };
    for (key, clauses) in [("", 3), ("enabled = false", 2), ("groups = [\"other\"]", 2)] {
        let overlay = crowded(1, &rule(key), 1);
        let head = overlay
            .compiled
            .entry_for("2001:db8::1".parse().unwrap())
            .unwrap()
            .head;
        // Those of the overlay, and what counts misses.
        assert_eq!(overlay.compiled.clauses().len(), clauses, "{key}");
        assert_ne!(head & IN_OVERLAY, 0, "{key}");
    }
}

#[test]
fn misses_of_a_name_are_counted_where_a_clause_more_can_be_walked() {
    for (around, is_counted) in [(MAX_WALK - 1, true), (MAX_WALK, false)] {
        let overlay = crowded(around, "", 1);
        let clauses = overlay.compiled.clauses();
        let counts = clauses.iter().any(|clause| clause.flags & CLAUSE_NAME_MISS != 0);
        assert_eq!(
            (counts, lengths(&overlay).contains(&48)),
            (is_counted, is_counted),
            "{around}"
        );
    }
}

#[test]
fn addresses_for_which_there_is_no_room_are_left_out_and_told() {
    const RANGES: u32 = 30;
    let text = format!(
        r#"
            version = 1
            [[rule]]
            host = "db.example"
            action = "redirect"
            {}
        "#,
        ports(RANGES)
    );
    let of = |n: u32| Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n));
    let addresses = |count: u32| {
        let to = |n: u32| Becomes::To(vec![Ipv4Addr::from(0xc000_0200 + n)]);
        (0..count).map(|n| (of(n), to(n))).collect::<BTreeMap<_, _>>()
    };
    // One clause counts what misses the name; the last address begins where there is still room.
    let each = RANGES as usize * MAX_CHOICES;
    let most = (MAX_OVERLAY_CLAUSES - 1).div_ceil(each) as u32;
    let whole = overlay_of(&text, addresses(most));
    assert_eq!(
        (&whole.no_room[..], lengths(&whole).len()),
        (&[][..], most as usize + 1)
    );
    assert_eq!(whole.compiled.clauses().len(), most as usize * each + 1);
    let full = overlay_of(&text, addresses(most + 2));
    assert_eq!(full.no_room, [of(most), of(most + 1)]);
    assert!(full.leaves_out(&of(most)) && !full.leaves_out(&of(0)) && full.too_long.is_empty());
    assert_eq!(full.compiled, whole.compiled);
    // What the limit is for: that much memory of the kernel's.
    assert_eq!(
        MAX_OVERLAY_CLAUSES * size_of::<enforcer_common::clause::Clause>(),
        8 << 20
    );
}
