//! The compiled policy against a reference that knows only rules: for one connect, every rule that covers it
//! is looked at, one by one. The reference shares no code with the compiler, nor with the clauses' matching.

use std::{
    net::{Ipv6Addr, SocketAddrV6},
    ops::RangeInclusive,
};

use enforcer_common::{
    address::words_from_octets,
    clause::{Action, Proto},
    decide::{Connect, Mode, Socket, Unmovable, decide},
    errno::CHOICES,
};
use ipnet::Ipv6Net;
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::super::{
    compile::compile,
    rule::{GroupName, Origin, Rule, RuleAction, RuleGroups},
};

/// Addresses close to each other and to every border there is, so that a few rules overlap often.
const ADDRESSES: [&str; 20] = [
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
const EXEMPT: [&str; 5] = ["::ffff:0:0/96", "::1/128", "::/128", "fe80::/10", "ff00::/8"];

/// Every port at which something changes.
const PORTS: [u16; 16] = [
    0, 1, 2, 79, 80, 81, 399, 400, 442, 443, 444, 500, 501, 65533, 65534, 65535,
];

/// Protocol numbers: TCP, UDP, MPTCP, ICMPv6.
const PROTOCOLS: [u16; 4] = [6, 17, 262, 58];

pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn prefix() -> impl Strategy<Value = Ipv6Net> {
    (select(&ADDRESSES[..]), select(&LENGTHS[..]))
        .prop_map(|(address, length)| Ipv6Net::new(parse(address), length).unwrap().trunc())
        .prop_filter("no rule may lie in the mapped prefix", |prefix| {
            !parse::<Ipv6Net>("::ffff:0:0/96").contains(prefix)
        })
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

pub(super) fn rule() -> impl Strategy<Value = Rule> {
    let to = prop_oneof![
        Just("[::ffff:192.0.2.1]:0"),
        Just("[::ffff:192.0.2.1]:80"),
        Just("[2001:db8:8000::1]:0"),
        Just("[3fff::1]:80"),
    ];
    let action = prop_oneof![
        Just(RuleAction::Allow),
        Just(RuleAction::Reject),
        to.prop_map(|to| RuleAction::Redirect(parse::<SocketAddrV6>(to))),
    ];
    let groups = prop_oneof![
        2 => Just(RuleGroups::Named(vec!["a".to_owned()])),
        1 => Just(RuleGroups::Named(vec!["b".to_owned()])),
        1 => Just(RuleGroups::Named(vec!["a".to_owned(), "c".to_owned()])),
        1 => Just(RuleGroups::All),
    ];
    (
        vec(prefix(), 1..4),
        action,
        select(&CHOICES[..3]),
        ports(),
        option::weighted(0.3, select(&[Proto::Tcp, Proto::Udp][..])),
        groups,
    )
        .prop_map(|(mut prefixes, action, errno, ports, proto, groups)| {
            prefixes.sort();
            prefixes.dedup();
            Rule {
                label: String::new(),
                origin: Origin::Argument(String::new()),
                groups,
                prefixes,
                action,
                errno,
                ports,
                proto,
            }
        })
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
            let connect = Connect {
                daddr_be: words_from_octets(address.octets()),
                dport,
                protocol,
                mode,
            };
            (address, connect, unmovable)
        })
}

struct FixedSocket(Option<Unmovable>);

impl Socket for FixedSocket {
    fn unmovable(&self) -> Option<Unmovable> {
        self.0
    }
}

mod reference {
    use super::*;

    /// Whether the rule's conditions hold.
    fn matches(rule: &Rule, dport: u16, protocol: u16) -> bool {
        let proto_holds = match rule.proto {
            None => true,
            Some(Proto::Tcp) => protocol == 6 || protocol == 262,
            Some(Proto::Udp) => protocol == 17,
        };
        let port_holds = rule.ports.is_empty()
            || (protocol != 58 && rule.ports.iter().any(|range| range.contains(&dport)));
        proto_holds && port_holds
    }

    /// Whether an exempt prefix keeps the address out of the rule's reach.
    fn barred(prefix: &Ipv6Net, address: Ipv6Addr) -> bool {
        let mut exempt = EXEMPT.iter().map(|exempt| parse::<Ipv6Net>(exempt));
        exempt.any(|exempt| exempt.contains(&address) && !exempt.contains(prefix))
    }

    fn in_groups(rule: &Rule, groups: &[GroupName]) -> bool {
        match &rule.groups {
            RuleGroups::All => true,
            RuleGroups::Named(names) => names.iter().any(|name| groups.iter().any(|group| group == name)),
        }
    }

    fn conditions(rule: &Rule) -> usize {
        [!rule.ports.is_empty(), rule.proto.is_some()]
            .into_iter()
            .filter(|is| *is)
            .count()
    }

    /// The rule that decides: longest prefix, then most conditions, then first written.
    pub(super) fn decide<'a>(
        rules: &'a [Rule],
        groups: &[GroupName],
        address: Ipv6Addr,
        connect: &Connect,
    ) -> Option<(usize, &'a Rule)> {
        let mut best: Option<((u8, usize), usize)> = None;
        for (index, rule) in rules.iter().enumerate() {
            if !in_groups(rule, groups) || !matches(rule, connect.dport, connect.protocol) {
                continue;
            }
            for prefix in &rule.prefixes {
                if !prefix.contains(&address) || barred(prefix, address) {
                    continue;
                }
                let rank = (prefix.prefix_len(), conditions(rule));
                if best.is_none_or(|(best_rank, _)| rank > best_rank) {
                    best = Some((rank, index));
                }
            }
        }
        best.map(|(_, index)| (index, &rules[index]))
    }

    /// Whether two rules tie: at one prefix, for one connect, with as many conditions and another outcome.
    /// Every protocol and port is tried.
    pub(super) fn tie(a: &Rule, b: &Rule, groups: &[GroupName]) -> bool {
        let errno = |rule: &Rule| (rule.action != RuleAction::Allow).then_some(rule.errno.number);
        in_groups(a, groups)
            && in_groups(b, groups)
            && conditions(a) == conditions(b)
            && (a.action, errno(a)) != (b.action, errno(b))
            && a.prefixes.iter().any(|prefix| b.prefixes.contains(prefix))
            && PROTOCOLS.iter().any(|&protocol| {
                PORTS
                    .iter()
                    .any(|&port| matches(a, port, protocol) && matches(b, port, protocol))
            })
    }

    /// Whether a redirect makes a connect that would be rejected, or redirected by the same rule again.
    pub(super) fn leads_nowhere(rules: &[Rule], index: usize, groups: &[GroupName]) -> bool {
        let rule = &rules[index];
        let RuleAction::Redirect(to) = rule.action else {
            return false;
        };
        in_groups(rule, groups)
            && PROTOCOLS.iter().any(|&protocol| {
                let mut ports = PORTS.iter().filter(|&&port| matches(rule, port, protocol));
                ports.any(|&port| {
                    let connect = Connect {
                        daddr_be: [0; 4],
                        dport: if to.port() == 0 { port } else { to.port() },
                        protocol,
                        mode: Mode::Enforce,
                    };
                    decide(rules, groups, *to.ip(), &connect)
                        .is_some_and(|(decider, rule)| decider == index || rule.action == RuleAction::Reject)
                })
            })
    }
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

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_compiled_policy_decides_as_the_rules_say(
        mut rules in vec(rule(), 0..9),
        connects in vec(connect(), 24),
        groups in select(vec![vec!["a"], vec!["b"], vec!["a", "b"], vec!["c"], vec![]]),
    ) {
        let groups: Vec<GroupName> = groups.into_iter().map(str::to_owned).collect();
        let mistaken = |rules: &[Rule], i: usize| {
            rules[..i].iter().any(|a| reference::tie(a, &rules[i], &groups))
                || reference::leads_nowhere(rules, i, &groups)
        };
        // Without its mistakes there is always something to decide.
        loop {
            let mistake = (0..rules.len()).find(|&i| mistaken(&rules, i));
            prop_assert_eq!(compile(&rules, &groups).is_err(), mistake.is_some(), "{:#?}", rules);
            match mistake {
                Some(index) => rules.remove(index),
                None => break,
            };
        }
        let compiled = compile(&rules, &groups).expect("no mistake is left");

        for (address, connect, unmovable) in connects {
            let decision = decide(&compiled, &FixedSocket(unmovable), &connect).expect("a whole table");
            let expected = reference::decide(&rules, &groups, address, &connect);
            let (verdict, moved_to, reason) = match expected.map(|(_, rule)| rule.action) {
                None | Some(RuleAction::Allow) => (Action::Allow, None, None),
                Some(RuleAction::Reject) => (Action::Reject, None, None),
                Some(RuleAction::Redirect(to)) => {
                    let to_ipv4 = to.ip().to_ipv4_mapped().is_some();
                    match unmovable.filter(|_| to_ipv4) {
                        Some(reason) => (Action::Reject, Some(to), Some(reason)),
                        None => (Action::Redirect, Some(to), None),
                    }
                }
            };
            let clause = match connect.mode {
                Mode::Enforce => {
                    prop_assert_eq!(decision.verdict, verdict);
                    prop_assert!(decision.would.is_none());
                    decision.acted
                }
                Mode::Audit => {
                    prop_assert_eq!(decision.verdict, Action::Allow);
                    prop_assert!(decision.acted.is_none());
                    prop_assert_eq!(decision.would.map(|(_, would)| would), expected.map(|_| verdict));
                    decision.would.map(|(clause, _)| clause)
                }
            };
            prop_assert_eq!(
                clause.map(|clause| clause.rule as usize),
                expected.map(|(index, _)| index),
                "{} {:?} {:#?}", address, connect, rules
            );
            prop_assert_eq!(decision.unmovable, reason);
            if let (Some(clause), Some((_, rule))) = (clause, expected) {
                prop_assert_eq!(clause.errno, rule.errno.number);
                if let Some(to) = moved_to {
                    prop_assert_eq!(clause.to_be, words_from_octets(to.ip().octets()));
                    prop_assert_eq!(clause.to_port, to.port());
                }
            }
        }
    }

    #[test]
    fn looking_up_the_longest_prefix_agrees_with_trying_all(
        mut prefixes in vec(prefix(), 0..40),
        addresses in vec(select(&ADDRESSES[..]), 1..10),
    ) {
        prefixes.sort();
        prefixes.dedup();
        for address in addresses {
            let address = parse::<Ipv6Addr>(address);
            let expected = prefixes.iter().filter(|prefix| prefix.contains(&address));
            let expected = expected.max_by_key(|prefix| prefix.prefix_len());
            let found = super::super::rule::longest_match(&prefixes, |prefix| *prefix, address);
            prop_assert_eq!(found, expected);
        }
    }
}
