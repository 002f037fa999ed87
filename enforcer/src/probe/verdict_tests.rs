//! Each way in which a host can be broken, and what is said of it: a table, so that nobody has to guess.

use super::{
    super::findings::{Connect, Exchange, Large, Names, Order, Protocol, Said, Way},
    *,
};

const V6: &str = "2001:db8:a::80";
const V4: &str = "203.0.113.1";

/// How a connect to an address ends, in a word.
fn address(text: &str, how: &str) -> Address {
    let address: IpAddr = text.parse().unwrap();
    let source = if address.is_ipv6() {
        "2001:db8:77::2"
    } else {
        "192.0.2.2"
    };
    let connect = |end, errno: Option<&str>, retransmits| Connect {
        end,
        errno: errno.map(str::to_owned),
        retransmits,
        time_us: 1000,
    };
    let done = connect(End::Done, None, Some(0));
    let mut found = Address {
        address,
        way: Way {
            source: Some(source.parse().unwrap()),
            ..Way::default()
        },
        connects: vec![done.clone()],
        echo: None,
        exchange: None,
        reverse: None,
    };
    let exchange = |end| {
        Some(Exchange {
            protocol: Protocol::Tls,
            end,
            detail: String::new(),
            time_us: 1,
        })
    };
    match how {
        "ok" => found.exchange = exchange(End::Done),
        "silent" => found.connects = vec![connect(End::Silent, None, None); 2],
        "slow" => found.connects = vec![connect(End::Done, None, Some(2)); 2],
        "stalls" => found.exchange = exchange(End::Silent),
        "stranger" => found.exchange = exchange(End::Failed),
        "long" => {
            found.echo = Some(Echo {
                end: End::Done,
                why: None,
                time_us: 1,
                large: Some(Large {
                    octets: 1500,
                    end: End::Silent,
                    learned: None,
                }),
            });
        }
        "unmeasured" => found.connects.clear(),
        "redirected" => found.way.source = Some("192.0.2.2".parse().unwrap()),
        local if local.starts_with("local ") => {
            let errno = local.trim_start_matches("local ");
            found.way = Way {
                errno: Some(errno.to_owned()),
                ..Way::default()
            };
            found.connects = vec![connect(End::Failed, Some(errno), None)];
        }
        errno => found.connects = vec![connect(End::Failed, Some(errno), None)],
    }
    found
}

fn said(addresses: &[Address], ipv6: bool) -> Said {
    let addresses: Vec<_> = addresses
        .iter()
        .map(|it| it.address)
        .filter(|it| it.is_ipv6() == ipv6)
        .collect();
    Said {
        state: if addresses.is_empty() {
            Lookup::None
        } else {
            Lookup::Found
        },
        addresses,
        ttl_secs: Some(60),
        why: None,
    }
}

fn named(addresses: &[(&str, &str)]) -> Findings {
    let addresses: Vec<_> = addresses.iter().map(|(text, how)| address(text, how)).collect();
    Findings {
        host: "shop.example".to_owned(),
        port: 443,
        ipv6_sockets: true,
        names: Some(Names {
            aaaa: said(&addresses, true),
            a: said(&addresses, false),
            hosts_file: Vec::new(),
            time_us: 1,
        }),
        order: Order::default(),
        addresses,
        ..Findings::default()
    }
}

fn literal(text: &str, how: &str) -> Findings {
    Findings {
        host: text.to_owned(),
        names: None,
        ..named(&[(text, how)])
    }
}

struct Row(
    Findings,
    Diagnosis,
    Ending,
    Effect,
    Effect,
    /// What the rules do, each with its first prefix.
    &'static [&'static str],
);

fn rows() -> Vec<Row> {
    use Diagnosis as D;
    use Effect::{Harms, Helps, NeedsAddress, NoEffect, OnlyFaster};
    use Ending::{Fixable, Healthy, NotFixable};
    const BOTH: &[&str] = &[
        "--reject 2001:db8:a::/48",
        "--redirect 2001:db8:a::80/128=203.0.113.1,proto=tcp",
    ];
    const OF_PORT: &[&str] = &[
        "--reject 2001:db8:a::80/128,port=443",
        "--redirect 2001:db8:a::80/128=203.0.113.1,proto=tcp,port=443",
    ];
    const REDIRECT: &[&str] = &["--redirect 2001:db8:a::80/128=203.0.113.1,proto=tcp"];
    const FAST: &[&str] = &["--reject 2001:db8:a::/48"];
    let dual = |v6, v4| named(&[(V6, v6), (V4, v4)]);
    let with_twin = |mut findings: Findings, of: &str, name: Option<&str>, how| {
        findings.twins = vec![Twin {
            of: of.parse().unwrap(),
            name: name.map(str::to_owned),
            address: address("192.0.2.9", how),
        }];
        findings
    };
    let inside = "64:ff9b::192.0.2.9";
    vec![
        Row(dual("ok", "ok"), D::Healthy, Healthy, Harms, Harms, &[]),
        Row(
            dual("local EADDRNOTAVAIL", "ok"),
            D::NoAddress,
            Fixable,
            NoEffect,
            Helps,
            REDIRECT,
        ),
        Row(
            dual("local ENETUNREACH", "ok"),
            D::NoRoute,
            Fixable,
            NoEffect,
            Helps,
            REDIRECT,
        ),
        Row(dual("silent", "ok"), D::BlackHole, Fixable, Helps, Helps, BOTH),
        Row(
            dual("ENETUNREACH", "ok"),
            D::IcmpNoRoute,
            Fixable,
            Helps,
            Helps,
            BOTH,
        ),
        Row(
            dual("EHOSTUNREACH", "ok"),
            D::Unreachable,
            Fixable,
            Helps,
            Helps,
            BOTH,
        ),
        Row(dual("EACCES", "ok"), D::Prohibited, Fixable, Helps, Helps, BOTH),
        Row(dual("EPERM", "ok"), D::Filtered, Fixable, Helps, Helps, BOTH),
        Row(dual("EPROTO", "ok"), D::Fails, Fixable, Helps, Helps, BOTH),
        Row(
            dual("ECONNREFUSED", "ok"),
            D::Refused,
            Fixable,
            Helps,
            Helps,
            OF_PORT,
        ),
        Row(
            dual("stranger", "ok"),
            D::Stranger,
            Fixable,
            Helps,
            Helps,
            OF_PORT,
        ),
        Row(dual("slow", "ok"), D::Slow, Fixable, Helps, Helps, BOTH),
        Row(dual("stalls", "ok"), D::Stalls, Fixable, Helps, Helps, BOTH),
        Row(dual("long", "ok"), D::PathMtu, Fixable, Helps, Helps, BOTH),
        Row(
            named(&[(V6, "silent")]),
            D::BlackHole,
            NotFixable,
            OnlyFaster,
            NeedsAddress,
            FAST,
        ),
        Row(
            literal(V6, "silent"),
            D::BlackHole,
            NotFixable,
            OnlyFaster,
            NeedsAddress,
            FAST,
        ),
        Row(
            literal(V6, "local ENETUNREACH"),
            D::NoRoute,
            NotFixable,
            NoEffect,
            NeedsAddress,
            &[],
        ),
        Row(
            named(&[(V6, "slow")]),
            D::Slow,
            NotFixable,
            Harms,
            NeedsAddress,
            &[],
        ),
        Row(named(&[(V6, "ok")]), D::Healthy, Healthy, Harms, Harms, &[]),
        Row(literal(V6, "ok"), D::Healthy, Healthy, Harms, Harms, &[]),
        Row(
            with_twin(literal(V6, "silent"), V6, Some("shop.example"), "ok"),
            D::BlackHole,
            Fixable,
            OnlyFaster,
            Helps,
            &["--redirect 2001:db8:a::80/128=192.0.2.9,proto=tcp"],
        ),
        Row(
            with_twin(named(&[(inside, "silent")]), inside, None, "ok"),
            D::BlackHole,
            Fixable,
            OnlyFaster,
            Helps,
            &["--redirect 64:ff9b::c000:209/128=192.0.2.9,proto=tcp"],
        ),
        Row(
            with_twin(named(&[(inside, "silent")]), inside, None, "silent"),
            D::BlackHole,
            NotFixable,
            OnlyFaster,
            NeedsAddress,
            &["--reject 64:ff9b::c000:209/128"],
        ),
        Row(
            named(&[(V4, "ok")]),
            D::Ipv4Only,
            Healthy,
            NoEffect,
            NoEffect,
            &[],
        ),
        Row(literal(V4, "ok"), D::Ipv4Only, Healthy, NoEffect, NoEffect, &[]),
        Row(
            literal(V4, "ECONNREFUSED"),
            D::Ipv4Broken,
            NotFixable,
            NoEffect,
            NoEffect,
            &[],
        ),
        Row(dual("ok", "silent"), D::Ipv4Broken, NotFixable, Harms, Harms, &[]),
        Row(
            dual("silent", "silent"),
            D::BothBroken,
            NotFixable,
            OnlyFaster,
            NoEffect,
            &[],
        ),
        Row(
            dual("local ENETUNREACH", "ECONNREFUSED"),
            D::BothBroken,
            NotFixable,
            NoEffect,
            NoEffect,
            &[],
        ),
        // The server does not speak TLS at all: nothing of IPv6's.
        Row(
            dual("stranger", "stranger"),
            D::Healthy,
            Healthy,
            Harms,
            Harms,
            &[],
        ),
        Row(
            Findings {
                ipv6_sockets: false,
                ..dual("local EAFNOSUPPORT", "ok")
            },
            D::NoIpv6,
            NotFixable,
            NoEffect,
            NoEffect,
            &[],
        ),
        Row(
            dual("redirected", "ok"),
            D::Redirected,
            NotFixable,
            Effect::Unknown,
            Effect::Unknown,
            &[],
        ),
        Row(
            dual("local EPERM", "ok"),
            D::Denied,
            NotFixable,
            Effect::Unknown,
            Effect::Unknown,
            &[],
        ),
        Row(
            dual("unmeasured", "ok"),
            D::Unknown,
            Ending::Unknown,
            Effect::Unknown,
            Effect::Unknown,
            &[],
        ),
        Row(named(&[]), D::NoSuchName, NotFixable, NoEffect, NoEffect, &[]),
    ]
}

#[test]
fn every_breakage_is_told_by_its_name_with_what_helps() {
    for Row(findings, diagnosis, ending, reject, redirect, rules) in rows() {
        let verdict = diagnose(&findings, &[]);
        let shown = format!("{} {verdict:#?}", findings.host);
        assert_eq!(verdict.diagnosis, diagnosis, "{shown}");
        assert_eq!(verdict.ending, ending, "{shown}");
        assert_eq!(
            (verdict.reject.effect, verdict.redirect.effect),
            (reject, redirect),
            "{shown}"
        );
        let found: Vec<_> = verdict
            .rules
            .iter()
            .map(|rule| rule.arguments[..2].join(" "))
            .collect();
        assert_eq!(found, rules, "{shown}");
        assert!(
            verdict.sentence.ends_with('.') && !verdict.sentence.contains('\n'),
            "{shown}"
        );
        // A rule that helps is there exactly where one is promised.
        let helps = verdict
            .rules
            .iter()
            .any(|rule| rule.purpose != RuleFor::FailingFast);
        assert_eq!(helps, ending == Ending::Fixable, "{shown}");
    }
}

#[test]
fn what_is_not_broken_is_not_covered() {
    let findings = named(&[(V6, "silent"), ("2001:db8:a:1::80", "ok"), (V4, "ok")]);
    let verdict = diagnose(&findings, &[]);
    assert_eq!(verdict.rules[0].arguments, ["--reject", "2001:db8:a::/64"]);
    assert_eq!(
        verdict.notes,
        ["2001:db8:a:1::80 works: rules here do not cover it"]
    );
    assert!(verdict.sentence.contains("partly"), "{}", verdict.sentence);
}

#[test]
fn nobody_who_answers_is_not_the_same_as_no_name() {
    let mut findings = named(&[]);
    if let Some(names) = &mut findings.names {
        names.aaaa.state = Lookup::Failed;
    }
    assert_eq!(diagnose(&findings, &[]).diagnosis, Diagnosis::NoAnswer);
}

#[test]
fn a_lost_long_packet_explains_a_stall() {
    let mut findings = named(&[(V6, "long"), (V4, "ok")]);
    findings.addresses[0].exchange = address(V6, "stalls").exchange;
    assert_eq!(diagnose(&findings, &[]).diagnosis, Diagnosis::PathMtu);
}

#[test]
fn a_target_is_named_in_the_command() {
    let target = ["--cgroup".to_owned(), "/web".to_owned()];
    let verdict = diagnose(&named(&[(V6, "silent"), (V4, "ok")]), &target);
    assert_eq!(
        verdict.rules[0].command,
        "enforcer run --cgroup /web --reject 2001:db8:a::/48"
    );
    assert!(verdict.rules[0].policy.starts_with("version = 1\n\n[[rule]]\n"));
}
