//! The compiled policy against the [`reference`], for random rules and random connects.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV6},
    ops::RangeInclusive,
    time::Duration,
};

use enforcer_common::{
    address::{octets_from_words, words_from_octets},
    clause::{Action, NO_RULE, Proto},
    decide::{Connect, Decision, Known, Mode, Unmovable, decide},
    errno::CHOICES,
};
use ipnet::Ipv6Net;
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{
    super::{
        compile::compile,
        compiled::Layered,
        live::Live,
        overlay::{Answers, Becomes, Overlay, overlay},
        rule::{
            Expires, GroupName, HostClause, Origin, RedirectTo, Rollout, RolloutBy, Rule, RuleAction,
            RuleGroups, WithoutTwin,
        },
    },
    reference,
};

/// Addresses close to each other and to every border there is, so that a few rules overlap often.
pub(super) const ADDRESSES: [&str; 20] = [
    "::",
    "::1",
    "::2",
    "::fffe:ffff:ffff",
    "::ffff:0.0.0.0",
    "::ffff:192.0.2.1",
    "::1:0:0:0",
    "2001:db8::",
    "2001:db8::1",
    "2001:db8::8000:0:0:0",
    "2001:db8:8000::",
    "2001:db8:8000::1",
    "2001:db9::1",
    "fe7f:ffff::1",
    "fe80::1",
    "fe80::2",
    "fec0::1",
    "feff::1",
    "ff02::1",
    "ff02::2",
];

const LENGTHS: [u8; 18] = [
    0, 1, 3, 7, 8, 9, 10, 11, 16, 31, 32, 33, 64, 80, 95, 127, 128, 128,
];

/// What no wider rule reaches, written down anew.
pub(super) const EXEMPT: [&str; 5] = ["::ffff:0:0/96", "::1/128", "::/128", "fe80::/10", "ff00::/8"];

/// Every port at which something changes.
pub(super) const PORTS: [u16; 16] = [
    0, 1, 2, 79, 80, 81, 399, 400, 442, 443, 444, 500, 501, 65533, 65534, 65535,
];

/// Protocol numbers: TCP, UDP, MPTCP, ICMPv6.
pub(super) const PROTOCOLS: [u16; 4] = [6, 17, 262, 58];

pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// One of all prefixes there are but those in the mapped one, in which no rule may lie. A filter would refuse these as they
/// come, and what filters refuse is counted: a run of some hundred thousand cases ends by that alone.
fn prefix() -> impl Strategy<Value = Ipv6Net> {
    let mapped = parse::<Ipv6Net>("::ffff:0:0/96");
    let all = ADDRESSES.iter().flat_map(|address| {
        let at = |length: &u8| Ipv6Net::new(parse(address), *length).unwrap().trunc();
        LENGTHS.iter().map(at)
    });
    select(all.filter(|prefix| !mapped.contains(prefix)).collect::<Vec<_>>())
}

fn ports() -> impl Strategy<Value = Vec<RangeInclusive<u16>>> {
    // Apart from each other, as checked rules have them.
    select(vec![
        vec![],
        vec![],
        vec![443..=443],
        vec![80..=80, 443..=443],
        vec![1..=65535],
        vec![400..=500],
        vec![65535..=65535],
        vec![1..=1, 80..=80, 400..=443],
    ])
}

/// Every user at whom something changes.
pub(super) const UIDS: [u32; 7] = [0, 1, 999, 1000, 1001, 1002, u32::MAX];

fn action() -> impl Strategy<Value = RuleAction> {
    let to = prop_oneof![
        Just("[::ffff:192.0.2.1]:0"),
        Just("[::ffff:192.0.2.1]:80"),
        Just("[2001:db8:8000::1]:0"),
        Just("[3fff::1]:80"),
    ];
    let to = to.prop_map(|to| RuleAction::Redirect(RedirectTo::Address(parse::<SocketAddrV6>(to))));
    prop_oneof![Just(RuleAction::Allow), Just(RuleAction::Reject), to]
}

/// Rules without anything that can make them as if absent.
pub(super) fn rule() -> impl Strategy<Value = Rule> {
    let groups = prop_oneof![
        2 => Just(RuleGroups::Named(vec!["a".to_owned()])),
        1 => Just(RuleGroups::Named(vec!["b".to_owned()])),
        1 => Just(RuleGroups::Named(vec!["a".to_owned(), "c".to_owned()])),
        1 => Just(RuleGroups::All),
    ];
    (
        vec(prefix(), 1..4),
        action(),
        select(&CHOICES[..3]),
        ports(),
        option::weighted(0.3, select(&[Proto::Tcp, Proto::Udp][..])),
        groups,
    )
        .prop_map(|(mut prefixes, action, errno, ports, proto, groups)| {
            prefixes.sort();
            prefixes.dedup();
            Rule {
                groups,
                errno,
                ports,
                proto,
                ..Rule::plain(String::new(), Origin::Argument(String::new()), prefixes, action)
            }
        })
}

/// Where redirects go that depend on the prefix: what fits the rule's.
fn redirect_for(prefixes: &[Ipv6Net], which: u8) -> Option<RedirectTo> {
    let first = prefixes.first()?.prefix_len();
    let all = |fits: &dyn Fn(u8) -> bool| prefixes.iter().all(|prefix| fits(prefix.prefix_len()));
    let is_same = all(&|length| length == first);
    match which {
        0 if all(&|length| [32, 40, 48, 56, 64, 96].contains(&length)) => Some(RedirectTo::Embedded),
        1 if is_same && first >= 96 => {
            let network = parse::<Ipv6Addr>("::ffff:198.51.100.0");
            Some(RedirectTo::Prefix(Ipv6Net::new(network, first).unwrap().trunc()))
        }
        2 if is_same => {
            let network = parse::<Ipv6Addr>("3fff::");
            Some(RedirectTo::Prefix(Ipv6Net::new(network, first).unwrap().trunc()))
        }
        3 => Some(RedirectTo::Host {
            name: "pooler.example".parse().unwrap(),
            port: 6543,
        }),
        _ => None,
    }
}

fn rollout() -> impl Strategy<Value = Rollout> {
    let by = select(vec![
        RolloutBy::Target,
        RolloutBy::Process,
        RolloutBy::Destination,
    ]);
    (select(vec![0, 1, 25, 50, 75, 99, 100]), by, 0_u8..3).prop_map(|(percent, by, canary_list)| Rollout {
        percent,
        by,
        canary: Vec::new(),
        canary_list,
    })
}

fn uids() -> impl Strategy<Value = Vec<RangeInclusive<u32>>> {
    select(vec![
        vec![],
        vec![],
        vec![],
        vec![1000..=1000],
        vec![0..=0, 1000..=1001],
        vec![1001..=u32::MAX],
        vec![0..=u32::MAX],
    ])
}

/// Rules with everything there is. Each has a name of its own, which salts its rollout.
pub(super) fn full_rule() -> impl Strategy<Value = Rule> {
    (
        rule(),
        uids(),
        (any::<u32>(), option::weighted(0.3, 0_u8..4)),
        (prop::bool::weighted(0.9), prop::bool::weighted(0.2)),
        option::weighted(0.2, Just(Expires::After(Duration::from_secs(1)))),
        option::weighted(0.3, rollout()),
        option::weighted(0.25, select(&["a.example", "b.example", "c.example"][..])),
    )
        .prop_map(
            |(rule, uids, (label, redirect), (enabled, is_audit), expires, rollout, host)| {
                let redirect = redirect.and_then(|which| redirect_for(&rule.prefixes, which));
                let mut rule = Rule {
                    label: label.to_string(),
                    uids,
                    enabled,
                    mode: if is_audit { Mode::Audit } else { Mode::Enforce },
                    expires,
                    rollout,
                    action: redirect.map_or(rule.action.clone(), RuleAction::Redirect),
                    ..rule
                };
                if let Some(name) = host {
                    rule.prefixes.clear();
                    rule.host = Some(HostClause {
                        name: name.parse().unwrap(),
                        without_twin: WithoutTwin::Reject,
                    });
                    if matches!(rule.action, RuleAction::Redirect(_)) {
                        rule.action = RuleAction::Redirect(RedirectTo::Twin);
                    }
                }
                rule
            },
        )
}

pub(super) fn connect() -> impl Strategy<Value = (Ipv6Addr, Connect, Option<Unmovable>)> {
    let address = prop_oneof![
        4 => select(&ADDRESSES[..]).prop_map(parse::<Ipv6Addr>),
        1 => any::<u128>().prop_map(Ipv6Addr::from),
    ];
    let unmovable = select(vec![None, None, Some(Unmovable::Bound), Some(Unmovable::V6Only)]);
    (
        address,
        select(&PORTS[..]),
        select(&PROTOCOLS[..]),
        select(vec![Mode::Enforce, Mode::Audit]),
        unmovable,
    )
        .prop_map(|(address, dport, protocol, mode, unmovable)| {
            let words = words_from_octets(address.octets());
            (address, Connect::new(words, dport, protocol, mode), unmovable)
        })
}

/// A connect with everything that decisions can ask about it.
pub(super) fn full_connect() -> impl Strategy<Value = (Ipv6Addr, Connect, Known)> {
    (
        connect(),
        select(&UIDS[..]),
        1_u32..5,
        any::<u32>(),
        1_u64..4,
        (1_u32..5, 0_u64..4),
    )
        .prop_map(
            |((address, connect, unmovable), uid, process, socket, boot_ns, (key, canaries))| {
                let known = Known {
                    unmovable,
                    uid,
                    process,
                    socket,
                    boot_ns,
                };
                let connect = Connect {
                    rollout_key: key,
                    canaries,
                    mode: if connect.dport % 3 == 0 {
                        connect.mode
                    } else {
                        Mode::Enforce
                    },
                    ..connect
                };
                (address, connect, known)
            },
        )
}

pub(super) fn cases() -> ProptestConfig {
    let cases = std::env::var("ENFORCER_PROPTEST_CASES").ok();
    let cases = cases.map_or(512, |cases| {
        cases.parse().expect("ENFORCER_PROPTEST_CASES is a number")
    });
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Addresses of names: few, so that names share some.
pub(super) fn answers(rules: &[Rule], seed: &[(usize, usize, u8)]) -> Answers {
    let mut answers = Answers::new();
    for (index, rule) in (0..).zip(rules) {
        let Some(host) = &rule.host else { continue };
        let of_name = answers.entry(index).or_default();
        for (name, address, what) in seed {
            if !host.name.as_str().starts_with(char::from(b'a' + *name as u8)) {
                continue;
            }
            let address = parse::<Ipv6Addr>(ADDRESSES[7 + address]);
            let ipv4 = |last| Ipv4Addr::new(192, 0, 2, last);
            let becomes = match (&rule.action, what) {
                (RuleAction::Redirect(_), 0) => Becomes::Rejected,
                (RuleAction::Redirect(_), 1) => Becomes::Absent,
                (RuleAction::Redirect(_), last) => Becomes::To((9..9 + last).map(ipv4).collect()),
                _ => Becomes::AsRuled,
            };
            of_name.insert(address, becomes);
        }
    }
    answers
}

pub(super) fn live(rules: &[Rule], seed: &[u64]) -> Live {
    let mut live = Live::default();
    for (index, rule) in (0..).zip(rules) {
        let of_rule = seed.get(index as usize).copied().unwrap_or(2);
        if rule.expires.is_some() {
            live.deadlines_boot_ns.insert(index, of_rule);
        }
        if matches!(rule.action, RuleAction::Redirect(RedirectTo::Host { .. })) && of_rule != 3 {
            let addresses = (0..=of_rule as u8).map(|last| Ipv4Addr::new(203, 0, 113, last));
            live.destinations.insert(index, addresses.collect());
        }
    }
    live
}

/// Takes rules out until those that are left can stand together, and checks that the compiler agrees at each step.
pub(super) fn without_mistakes(
    rules: &mut Vec<Rule>,
    groups: &[GroupName],
    live: &Live,
) -> Result<(), TestCaseError> {
    let mistaken = |rules: &[Rule], i: usize| {
        rules[..i].iter().any(|a| reference::tie(a, &rules[i], groups))
            || reference::leads_nowhere(rules, i, groups)
    };
    let walks_too_far = |rules: &[Rule]| {
        let answers = Answers::new();
        reference::Policy {
            rules,
            groups,
            live,
            answers: &answers,
        }
        .walks_too_far()
    };
    loop {
        let mistake = (0..rules.len()).find(|&i| mistaken(rules, i));
        let mistake = mistake.or_else(|| walks_too_far(rules).then(|| rules.len() - 1));
        prop_assert_eq!(
            compile(rules, groups, live).is_err(),
            mistake.is_some(),
            "{:#?}",
            rules
        );
        match mistake {
            Some(index) => rules.remove(index),
            None => return Ok(()),
        };
    }
}

/// Whether rules with names are left out at an address exactly where there would be too many clauses.
fn assert_left_out_alike(
    overlay: &Overlay,
    policy: &reference::Policy<'_>,
    address: Ipv6Addr,
) -> Result<(), TestCaseError> {
    let expected = policy.is_named(address) && policy.leaves_names_out(address);
    prop_assert_eq!(
        overlay.leaves_out(&address),
        expected,
        "{} {:#?} {:?}",
        address,
        policy.rules,
        policy.answers
    );
    Ok(())
}

/// The rule, moved to where many others are, and of several clauses.
fn crowded(rule: Rule) -> Rule {
    let around = parse::<Ipv6Net>("2001:db8::/32");
    let prefixes = rule
        .prefixes
        .into_iter()
        .filter(|prefix| prefix.contains(&around) || around.contains(prefix));
    let mut ports = rule.ports;
    if ports.is_empty() && rule.uids.is_empty() && rule.proto.is_none() {
        ports = vec![1..=1, 80..=80, 400..=443];
    }
    Rule {
        prefixes: prefixes.collect(),
        ports,
        ..rule
    }
}

/// What a decision says, without the clauses it says it by.
pub(super) fn told(decision: &Decision) -> reference::Told {
    let rule = |rule: u32| (rule != NO_RULE).then_some(rule as usize);
    reference::Told {
        verdict: decision.verdict,
        rule: rule(decision.rule),
        errno: (decision.verdict == Action::Reject).then_some(decision.errno),
        would: rule(decision.would_rule).zip(decision.would),
        to: decision
            .destination()
            .map(|to| (Ipv6Addr::from(octets_from_words(to.addr_be)), to.port)),
        unmovable: decision.unmovable,
        left_out: rule(decision.left_out_rule),
        name: Some(decision.name),
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_compiled_policy_decides_as_the_rules_say(
        mut rules in vec(full_rule(), 0..9),
        connects in vec(full_connect(), 24),
        groups in select(vec![vec!["a"], vec!["b"], vec!["a", "b"], vec!["c"], vec![]]),
        times in vec(1_u64..4, 9),
        names in vec((0_usize..3, 0_usize..6, 0_u8..5), 0..8),
    ) {
        let groups: Vec<GroupName> = groups.into_iter().map(str::to_owned).collect();
        without_mistakes(&mut rules, &groups, &Live::default())?;
        let live = live(&rules, &times);
        let answers = answers(&rules, &names);
        let compiled = compile(&rules, &groups, &Live::default()).expect("no mistake is left").with_live(&live);
        prop_assert_eq!(&compiled, &compile(&rules, &groups, &live).expect("as before"));
        let overlay = overlay(&rules, &groups, &live, &compiled, &answers);
        prop_assert!(overlay.no_room.is_empty());
        let policy = reference::Policy { rules: &rules, groups: &groups, live: &live, answers: &answers };
        for address in ADDRESSES.map(parse::<Ipv6Addr>) {
            assert_left_out_alike(&overlay, &policy, address)?;
        }
        let table = Layered { base: &compiled, overlay: &overlay.compiled };
        for (address, connect, known) in connects {
            let decision = decide(&table, &known, &connect).expect("a whole table");
            let expected = reference::decide(&policy, address, &connect, &known);
            let mut told = told(&decision);
            if expected.name.is_none() {
                told.name = None;
            }
            prop_assert_eq!(told, expected, "{} {:?} {:?} {:#?} {:?}", address, connect, known, rules, answers);
        }
    }

    /// So many rules that many lists are as long as the kernel walks, and longer.
    #[test]
    fn a_policy_is_refused_where_an_address_has_more_clauses_than_are_walked_and_nowhere_else(
        mut rules in vec(full_rule().prop_map(crowded), 8..24),
        groups in select(vec![vec!["a"], vec!["a", "b"]]),
        names in vec((0_usize..3, 0_usize..6, 0_u8..5), 0..8),
    ) {
        let groups: Vec<GroupName> = groups.into_iter().map(str::to_owned).collect();
        let live = Live::default();
        without_mistakes(&mut rules, &groups, &live)?;
        let answers = answers(&rules, &names);
        let compiled = compile(&rules, &groups, &live).expect("no mistake is left");
        let overlay = overlay(&rules, &groups, &live, &compiled, &answers);
        let policy = reference::Policy { rules: &rules, groups: &groups, live: &live, answers: &answers };
        let table = Layered { base: &compiled, overlay: &overlay.compiled };
        for address in ADDRESSES.map(parse::<Ipv6Addr>) {
            assert_left_out_alike(&overlay, &policy, address)?;
            let connect = Connect::new(words_from_octets(address.octets()), 2, 58, Mode::Audit);
            prop_assert!(decide(&table, &Known::default(), &connect).is_ok());
        }
    }

    #[test]
    fn looking_up_the_longest_prefix_agrees_with_trying_all(
        mut prefixes in vec(prefix(), 0..40),
        covered in vec(prefix(), 1..10),
    ) {
        prefixes.sort();
        prefixes.dedup();
        for covered in covered {
            let expected = prefixes.iter().filter(|prefix| prefix.contains(&covered));
            let expected = expected.max_by_key(|prefix| prefix.prefix_len());
            let found = super::super::rule::longest_match(&prefixes, |prefix| *prefix, covered);
            prop_assert_eq!(found, expected);
        }
    }
}
