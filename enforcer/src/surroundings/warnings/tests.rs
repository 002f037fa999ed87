//! Tests of [`super`] against a policy that is judged naively: the longest prefix that matches decides.

use enforcer_common::address::EXEMPT_PREFIXES;

use super::*;
use crate::{
    policy::rule::{Origin, RedirectTo, RuleGroups},
    surroundings::{InterfaceAddr, Nameserver, Namespace, Owner},
};

fn rule(action: RuleAction, prefixes: &[&str]) -> Rule {
    let mut prefixes: Vec<Ipv6Net> = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
    prefixes.sort_unstable();
    Rule {
        groups: RuleGroups::All,
        ..Rule::plain(
            format!("{action:?} {}", prefixes[0]),
            Origin::Argument(String::new()),
            prefixes,
            action,
        )
    }
}

fn reject(prefixes: &[&str]) -> Rule {
    rule(RuleAction::Reject, prefixes)
}

fn allow(prefixes: &[&str]) -> Rule {
    rule(RuleAction::Allow, prefixes)
}

fn exempt(addr: Ipv6Addr, prefix: Ipv6Net) -> bool {
    EXEMPT_PREFIXES.iter().any(|exempt| {
        let exempt = Ipv6Net::new(exempt.octets.into(), exempt.prefix_len).unwrap();
        exempt.contains(&addr) && !exempt.contains(&prefix)
    })
}

fn naive(rules: &[Rule], addr: Ipv6Addr, port: u16, proto: Proto) -> Option<RejectingRule> {
    rules
        .iter()
        .filter(|rule| rule.ports.is_empty() || rule.ports.iter().any(|ports| ports.contains(&port)))
        .filter(|rule| rule.proto.is_none_or(|wanted| wanted == proto))
        .flat_map(|rule| rule.prefixes.iter().map(move |prefix| (rule, *prefix)))
        .filter(|(_, prefix)| prefix.contains(&addr) && !exempt(addr, *prefix))
        .max_by_key(|(_, prefix)| prefix.prefix_len())
        .filter(|(rule, _)| rule.action == RuleAction::Reject)
        .map(|(rule, prefix)| RejectingRule {
            label: rule.label.clone(),
            prefix,
        })
}

fn warnings(found: &Surroundings, rules: &[Rule]) -> Vec<Warning> {
    found.warnings(rules, &|addr, port, proto| naive(rules, addr, port, proto))
}

fn kinds(found: &Surroundings, rules: &[Rule]) -> Vec<WarningKind> {
    warnings(found, rules)
        .iter()
        .map(|warning| warning.kind)
        .collect()
}

fn nameserver(addr: &str) -> Nameserver {
    Nameserver {
        addr: addr.parse().unwrap(),
        scope: None,
    }
}

/// No NAT64, so that each test sees what it is about.
fn quiet() -> Surroundings {
    Surroundings {
        nat64: Nat64::Absent,
        ..Surroundings::default()
    }
}

fn namespace(addrs: &[&str], peers: &[&str]) -> Namespace {
    Namespace {
        owner: Owner::Host,
        addrs: addrs
            .iter()
            .map(|net| InterfaceAddr {
                net: net.parse().unwrap(),
                interface: "eth0".to_owned(),
            })
            .collect(),
        peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
    }
}

#[test]
fn nameserver_under_a_rejected_prefix_is_warned_of_with_all_that_helps() {
    let found = Surroundings {
        nameservers: vec![nameserver("2001:db8::53"), nameserver("fd00::53")],
        ..quiet()
    };
    let warnings = warnings(&found, &[reject(&["2001:db8::/32"])]);
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}")
    };
    assert_eq!(warning.kind, WarningKind::Nameserver);
    assert_eq!(
        warning.message,
        "rule Reject 2001:db8::/32 rejects 2001:db8::/32, which covers nameservers in use: 2001:db8::53"
    );
    assert_eq!(warning.hint, "add `--allow 2001:db8::53/128`");
}

#[test]
fn exception_by_a_longer_allow_silences() {
    let found = Surroundings {
        nameservers: vec![nameserver("fd00::53")],
        ..quiet()
    };
    let rejecting = [reject(&["fc00::/7"])];
    assert_eq!(kinds(&found, &rejecting), [WarningKind::Nameserver]);
    let excepting = [reject(&["fc00::/7"]), allow(&["fd00::53/128"])];
    assert_eq!(kinds(&found, &excepting), []);
    // A wider allow is no exception.
    let wider = [reject(&["fc00::/7"]), allow(&["::/0"])];
    assert_eq!(kinds(&found, &wider), [WarningKind::Nameserver]);
}

#[test]
fn nameserver_is_of_no_concern_to_other_ports() {
    let found = Surroundings {
        nameservers: vec![nameserver("fd00::53")],
        ..quiet()
    };
    let mut web = reject(&["fd00::/8"]);
    web.ports = vec![443..=443];
    assert_eq!(kinds(&found, &[web.clone()]), []);
    web.ports = vec![50..=60];
    web.proto = Some(Proto::Tcp);
    assert_eq!(
        kinds(&found, &[web]),
        [WarningKind::Nameserver],
        "DNS falls back to TCP"
    );
}

#[test]
fn link_local_nameserver_is_exempt_from_wide_rules_only() {
    let scoped = Nameserver {
        scope: Some("eth0".to_owned()),
        ..nameserver("fe80::1")
    };
    let found = Surroundings {
        nameservers: vec![scoped],
        ..quiet()
    };
    assert!(!kinds(&found, &[reject(&["::/0"])]).contains(&WarningKind::Nameserver));
    let warnings = warnings(&found, &[reject(&["fe80::/10"])]);
    assert!(warnings[0].message.contains("fe80::1%eth0"), "{warnings:?}");
}

#[test]
fn internet_is_offered_where_it_leaves_the_thing_alone() {
    let found = Surroundings {
        nameservers: vec![nameserver("fd00::53")],
        ..quiet()
    };
    let all = warnings(&found, &[reject(&["::/0"])]);
    assert_eq!(
        all[0].hint,
        "write `internet` instead of ::/0, or add `--allow fd00::53/128`"
    );
    let inside = Surroundings {
        nameservers: vec![nameserver("2001:db8::53")],
        ..quiet()
    };
    assert_eq!(
        warnings(&inside, &[reject(&["::/0"])])[0].hint,
        "add `--allow 2001:db8::53/128`"
    );
}

#[test]
fn own_addresses_are_told_in_one_warning_with_their_interfaces() {
    let addrs = ["2001:db8:5::2/64", "fd00::2/64", "fe80::2/64"];
    let found = Surroundings {
        namespaces: vec![namespace(&addrs, &[])],
        ..quiet()
    };
    let warnings = warnings(&found, &[reject(&["fc00::/7"])]);
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}")
    };
    assert_eq!(warning.kind, WarningKind::HostAddress);
    assert!(
        warning.message.ends_with("address fd00::2 (eth0, this host)"),
        "{}",
        warning.message
    );
    assert_eq!(warning.hint, "add `--allow fd00::/64`");
}

#[test]
fn part_of_a_subnet_is_found_though_the_address_is_not_in_it() {
    let found = Surroundings {
        namespaces: vec![namespace(&["2001:db8:5::2/64"], &[])],
        ..quiet()
    };
    let mut part = reject(&["2001:db8::/48", "2001:db8:5:0:8000::/66", "2001:db8:6::/48"]);
    let warnings_of_part = warnings(&found, &[part.clone()]);
    assert!(
        warnings_of_part[0].message.contains("subnet 2001:db8:5::/64"),
        "{warnings_of_part:?}"
    );
    part.prefixes.remove(1);
    assert_eq!(kinds(&found, &[part]), []);
}

#[test]
fn rules_limited_to_a_port_reject_addresses_too() {
    let found = Surroundings {
        namespaces: vec![namespace(&["fd00::2/64"], &[])],
        ..quiet()
    };
    let mut limited = reject(&["fd00::/8"]);
    limited.ports = vec![5432..=5433];
    limited.proto = Some(Proto::Udp);
    assert_eq!(kinds(&found, &[limited]), [WarningKind::HostAddress]);
}

#[test]
fn nat64_is_warned_of_where_found_or_unknown_but_not_where_absent() {
    let all = [reject(&["::/0"])];
    let with = |nat64| {
        kinds(
            &Surroundings {
                nat64,
                ..Surroundings::default()
            },
            &all,
        )
        .contains(&WarningKind::Nat64)
    };
    assert!(!with(Nat64::Absent));
    assert!(with(Nat64::Unknown));
    assert!(with(Nat64::Found(vec!["2001:db8:64::/96".parse().unwrap()])));
    let unknown = Surroundings {
        nat64: Nat64::Unknown,
        ..Surroundings::default()
    };
    assert_eq!(kinds(&unknown, &[reject(&["fc00::/7"])]), []);
    let excepted = [reject(&["::/0"]), allow(&["64:ff9b::/96"])];
    assert_eq!(kinds(&unknown, &excepted), [WarningKind::ChromiumProbe]);
}

#[test]
fn chromium_is_told_of_for_udp_only() {
    assert_eq!(
        kinds(&quiet(), &[reject(&["2000::/3"])]),
        [WarningKind::ChromiumProbe]
    );
    let mut tcp = reject(&["2000::/3"]);
    tcp.proto = Some(Proto::Tcp);
    assert_eq!(kinds(&quiet(), &[tcp]), []);
    assert_eq!(kinds(&quiet(), &[reject(&["2001:db8::/32"])]), []);
}

#[test]
fn established_connections_are_evidence_but_not_those_to_the_host_itself() {
    let peers = [
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8::3",
        "2001:db8::4",
        "2001:db8::5",
        "2001:db8::6",
    ];
    let working = Surroundings {
        namespaces: vec![namespace(&[], &peers)],
        ..quiet()
    };
    let told = warnings(&working, &[reject(&["2001:db8::/32"])]);
    let [warning] = &told[..] else { panic!("{told:?}") };
    assert_eq!(warning.kind, WarningKind::Working);
    assert!(
        warning.message.contains("2001:db8::4 (this host) and 2 more"),
        "{}",
        warning.message
    );
    let own = Surroundings {
        namespaces: vec![namespace(&["2001:db8::1/128"], &["2001:db8::1"])],
        ..quiet()
    };
    assert!(!kinds(&own, &[reject(&["2001:db8::/32"])]).contains(&WarningKind::Working));
}

#[test]
fn redirects_and_allows_alone_warn_of_nothing() {
    let found = Surroundings {
        nameservers: vec![nameserver("fd00::53")],
        ..Surroundings::default()
    };
    let to = std::net::SocketAddrV6::new("::ffff:192.0.2.1".parse().unwrap(), 0, 0, 0);
    assert_eq!(
        kinds(
            &found,
            &[
                rule(RuleAction::Redirect(RedirectTo::Address(to)), &["::/0"]),
                allow(&["fc00::/7"])
            ]
        ),
        []
    );
}

#[test]
fn each_rule_has_its_own_warning() {
    let found = Surroundings {
        nameservers: vec![nameserver("fd00::53"), nameserver("2001:db8::53")],
        ..quiet()
    };
    let told = warnings(&found, &[reject(&["fd00::/8"]), reject(&["2001:db8::/32"])]);
    assert_eq!(
        told.iter().map(|it| it.rule.label.as_str()).collect::<Vec<_>>(),
        ["Reject fd00::/8", "Reject 2001:db8::/32"]
    );
}
