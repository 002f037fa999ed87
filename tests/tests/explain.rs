//! `enforcer explain` says of every connect of the verdict table what the kernel does to it, and needs no privilege
//! for that. What the kernel does is in `verdicts.rs`: the table is the same.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

use std::net::{IpAddr, SocketAddr};

use enforcer_common::{clause::Action, decide::Unmovable};
use enforcer_tests::{
    deprive::{Deprivation, deprive},
    enforcer::Enforcer,
    place::Place,
    process::Finished,
    protocol::SocketKind,
    verdicts::{Call, Case, Group, load},
    wait::PATIENCE,
};
use serde_json::{Value, json};

/// Runs `enforcer explain`, which has no capability left.
fn explain(arguments: &[&str]) -> Finished {
    let mut command = Enforcer::command(&Place::default(), ["explain"]).unwrap();
    command.args(arguments);
    deprive(&mut command, Deprivation::AllCapabilities);
    Enforcer::start(command).unwrap().finish(PATIENCE).unwrap()
}

/// The answer to a question, as JSON.
fn ask(arguments: &[&str]) -> Value {
    let finished = explain(&[arguments, &["--output", "json"]].concat());
    assert_eq!(
        finished.status.code(),
        Some(0),
        "{arguments:?}: {:?}",
        finished.stderr
    );
    assert_eq!(finished.stdout.len(), 1, "one object on one line");
    serde_json::from_str(&finished.stdout[0]).unwrap()
}

/// What is said of the case's connect: of a socket as the case has it.
fn said_of(group: &Group, case: &Case) -> Value {
    let port = case.port.to_string();
    let address = case.dest.to_string();
    let mut arguments = vec![address.as_str()];
    // A ping socket's port is none, and the table gives 0 for it.
    let (kind, proto) = match case.socket {
        SocketKind::Ping => ("ping", None),
        SocketKind::Udp => ("udp", Some("udp")),
        SocketKind::Tcp | SocketKind::Fastopen | SocketKind::Mptcp => ("tcp", Some("tcp")),
    };
    if let Some(proto) = proto {
        arguments.extend(["--port", &port, "--proto", proto]);
    }
    arguments.extend(group.arguments());
    let uid = case.uid.unwrap_or(0).to_string();
    arguments.extend(["--uid", &uid]);
    // A file of its own for each group, as it would be in production.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    if let Some(text) = group.policy_file() {
        std::fs::write(&file, text).unwrap();
        arguments.extend([
            "--policy",
            file.to_str().unwrap(),
            "--target",
            group.target_name(),
        ]);
    }
    let answer = ask(&arguments);
    assert_eq!(answer["governed"], json!(true), "{answer}");
    let policies = answer["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 1, "{answer}");
    let cases = policies[0]["cases"].as_array().unwrap();
    let is_about = |said: &&Value| said["protos"].as_array().unwrap().contains(&json!(kind));
    let said = cases.iter().find(is_about).expect("the kind of socket is there");
    let bound = case
        .bind
        .is_some_and(|bind| !bind.is_unspecified() && bind.to_ipv4_mapped().is_none());
    let cannot_be_moved = kind != "ping" && (bound || case.v6only == Some(true));
    // What is said of such sockets apart is what differs.
    if cannot_be_moved && !said["immovable"].is_null() {
        said["immovable"].clone()
    } else {
        said.clone()
    }
}

#[test]
fn every_connect_of_the_table_is_explained_as_the_kernel_decides_it() {
    let mut connects = 0;
    for group in load().unwrap() {
        for case in &group.cases {
            // `explain` is about connects, and of processes about those that there are.
            let of_a_process = !case.included_by.is_empty() || !case.excluded_by.is_empty();
            if of_a_process || case.call == Call::Sendto {
                continue;
            }
            connects += 1;
            let said = said_of(&group, case);
            let context = format!("{}: {case:?}: {said}", group.name);
            let expect = &case.expect;
            let word = |action: Action| match action {
                Action::Allow => "allow",
                Action::Reject => "reject",
                Action::Redirect => "redirect",
            };
            for (field, wanted) in [
                ("verdict", json!(word(expect.verdict))),
                ("rule", json!(expect.rule)),
                ("would", json!(expect.would.map(word))),
                ("would_rule", json!(expect.would_rule)),
            ] {
                assert_eq!(said[field], wanted, "{field} of {context}");
            }
            if expect.verdict == Action::Reject {
                assert_eq!(
                    said["errno"],
                    json!(expect.errno.map(|errno| errno.name)),
                    "{context}"
                );
                assert_eq!(
                    said["errno_number"],
                    json!(expect.errno.map(|errno| errno.number)),
                    "{context}"
                );
            }
            if let Some(to) = expect.redirect_to {
                let told = said["redirect_to"].as_str().unwrap();
                let arrives = told
                    .parse::<SocketAddr>()
                    .unwrap_or_else(|_| SocketAddr::new(told.parse::<IpAddr>().unwrap(), case.port));
                assert_eq!(arrives, to, "{context}");
            }
            let by_nature = (expect.unmovable == Some(Unmovable::Ping)).then_some("ping");
            assert_eq!(said["unmovable"], json!(by_nature), "{context}");
        }
    }
    assert!(connects >= 140, "{connects} connects");
}

const RULES: [&str; 8] = [
    "--reject",
    "internet,name=wide",
    "--allow",
    "2001:db8::/32,port=443,name=web",
    "--reject",
    "2001:db8::/32,errno=EACCES,name=net",
    "--redirect",
    "2001:db8:1::/48=192.0.2.1:80,proto=udp,name=moved",
];

fn with_rules<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &RULES].concat()
}

#[test]
fn a_verdict_that_depends_on_port_or_protocol_is_told_for_each() {
    let answer = ask(&with_rules(&["2001:db8:1::1"]));
    let cases = answer["policies"][0]["cases"].as_array().unwrap();
    let told: Vec<_> = cases
        .iter()
        .map(|case| {
            (
                case["protos"].clone(),
                case["ports"].clone(),
                case["rule"].clone(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (json!(["tcp"]), json!(["0-442", "444-65535"]), json!("net")),
            (json!(["tcp"]), json!(["443"]), json!("web")),
            (json!(["udp"]), json!(null), json!("moved")),
            (json!(["ping"]), json!(null), json!("net")),
        ]
    );
    let lost = |case: usize| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let lost = cases[case]["lost"].as_array().unwrap();
        lost.iter()
            .map(|lost| (text(&lost["rule"]), text(&lost["reason"])))
            .collect()
    };
    let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        let pairs = pairs.iter();
        pairs
            .map(|(rule, why)| ((*rule).to_owned(), (*why).to_owned()))
            .collect()
    };
    assert_eq!(
        lost(0),
        owned(&[("moved", "proto"), ("web", "ports"), ("wide", "shorter-prefix")])
    );
    assert_eq!(
        lost(1),
        owned(&[
            ("moved", "proto"),
            ("net", "fewer-conditions"),
            ("wide", "shorter-prefix")
        ])
    );
    assert_eq!(
        lost(2),
        owned(&[
            ("web", "shorter-prefix"),
            ("net", "shorter-prefix"),
            ("wide", "shorter-prefix")
        ])
    );
}

#[test]
fn destinations_are_written_in_each_usual_way_and_mean_the_same() {
    let asked = |arguments: &[&str]| ask(&with_rules(arguments))["policies"].clone();
    let expected = asked(&["2001:db8::1", "--port", "443"]);
    assert_eq!(asked(&["[2001:db8::1]:443"]), expected);
    assert_eq!(asked(&["[2001:db8::1]", "--port", "443"]), expected);
    assert_eq!(asked(&["2001:0DB8::0001", "--port", "443"]), expected);
}

#[test]
fn ipv4_is_said_to_be_left_alone_and_exempt_addresses_say_why() {
    for destination in ["192.0.2.1", "192.0.2.1:443"] {
        let answer = ask(&with_rules(&[destination]));
        assert_eq!(
            (&answer["governed"], &answer["policies"]),
            (&json!(false), &json!([])),
            "{answer}"
        );
        let finished = explain(&with_rules(&[destination]));
        assert!(
            finished.stdout[0].starts_with("192.0.2.1 is IPv4: enforcer decides IPv6 connects only"),
            "{finished:?}"
        );
    }
    for (address, prefix, rule) in [
        ("::1", "::1/128", None),
        ("fe80::1", "fe80::/10", Some("link")),
        ("::ffff:192.0.2.1", "::ffff:0.0.0.0/96", None),
    ] {
        let rules = ["--reject", "::/0,name=all", "--reject", "fe80::/64,name=link"];
        let answer = ask(&[&[address][..], &rules].concat());
        assert_eq!(answer["exempt"]["prefix"], json!(prefix));
        let case = &answer["policies"][0]["cases"][0];
        assert_eq!(case["rule"], json!(rule), "{answer}");
        assert_eq!(case["lost"][0]["rule"], json!("all"), "{answer}");
        assert_eq!(case["lost"][0]["reason"], json!("exempt"), "{answer}");
    }
}

#[test]
fn each_target_whose_rules_differ_is_answered_with_the_line_of_the_rule() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    let targets = ["web", "api", "job"].map(|name| {
        let group = if name == "job" { "allowing" } else { "rejecting" };
        format!("[[target]]\nname = \"{name}\"\ncgroup = \"/{name}\"\nuse = [\"{group}\"]\n")
    });
    let rules = "[[rule]]\ngroups = [\"rejecting\"]\nprefix = \"2001:db8::/32\"\naction = \"reject\"\n\
                 [[rule]]\nname = \"fine\"\ngroups = [\"allowing\"]\nprefix = \"2001:db8::/32\"\naction = \"allow\"\n";
    std::fs::write(&file, format!("version = 1\n{}{rules}", targets.concat())).unwrap();
    let file = file.to_str().unwrap();
    let answer = ask(&["2001:db8::1", "--policy", file]);
    let told: Vec<_> = answer["policies"].as_array().unwrap().iter().collect();
    assert_eq!(told.len(), 2, "{answer}");
    assert_eq!(told[0]["targets"], json!(["job"]));
    assert_eq!(told[0]["cases"][0]["rule"], json!("fine"));
    assert_eq!(told[1]["targets"], json!(["web", "api"]));
    let rejected = &told[1]["cases"][0];
    assert_eq!((&rejected["file"], &rejected["line"]), (&json!(file), &json!(14)));
    assert_eq!(rejected["rule"], json!(format!("{file}:14")));
    let one = ask(&["2001:db8::1", "--policy", file, "--target", "api"]);
    assert_eq!(one["policies"].as_array().unwrap().len(), 1, "{one}");
    assert_eq!(one["policies"][0]["cases"], told[1]["cases"]);
    let group = ask(&["2001:db8::1", "--policy", file, "--use", "allowing"]);
    assert_eq!(group["policies"][0]["cases"], told[0]["cases"]);
    let people = explain(&["2001:db8::1", "--policy", file]);
    let said = people.stdout.join("\n");
    for expected in [
        "target job\n  TCP and UDP, every port; ping sockets to 2001:db8::1:\n    allow, by fine (2001:db8::/32, ",
        "targets web, api\n",
        "reject, by ",
        "connect() fails at once with ENETUNREACH (101: ",
    ] {
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
}

#[test]
fn whose_rules_they_are_is_said_where_the_default_is_not_meant() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    let rule = "[[rule]]\ngroups = [\"web\"]\nprefix = \"2001:db8::/32\"\naction = \"reject\"\n";
    std::fs::write(&file, format!("version = 1\n{rule}")).unwrap();
    let asked = ["2001:db8::1", "--policy", file.to_str().unwrap()];
    for (chosen, header, verdict) in [
        (&[][..], Some("rules of web, with `--use web`"), "reject, by "),
        (
            &["--use", "web"],
            Some("rules of web, with `--use web`"),
            "reject, by ",
        ),
        // As `run` and `exec` do it without being told.
        (&["--use", "default"], None, "allow: no rule matches"),
    ] {
        let said = explain(&[&asked[..], chosen].concat());
        assert_eq!(said.status.code(), Some(0), "{said:?}");
        let said_first = said.stdout.first().filter(|line| !line.starts_with(' '));
        assert_eq!(said_first.map(String::as_str), header, "{said:?}");
        assert!(said.stdout.join("\n").contains(verdict), "{said:?}");
    }
}

#[test]
fn in_audit_mode_people_are_told_what_would_be_seen() {
    let rules = [
        "--audit",
        "--proto",
        "tcp",
        "--reject",
        "2001:db8:1::/48,errno=EACCES",
        "--redirect",
        "2001:db8:2::/48=192.0.2.1:80,errno=EHOSTDOWN",
    ];
    let unseen = "    the caller sees no difference; enforced, ";
    let unmoved = "    on a socket that cannot be moved to IPv4 (IPV6_V6ONLY, or bound to an IPv6 address): the caller sees no \
                   difference; enforced, connect() would fail at once with EHOSTDOWN (112: ";
    let goes_on = "    the caller sees no difference: the connect goes on";
    for (address, seen) in [
        (
            "2001:db8:1::1",
            &[(unseen, "connect() would fail at once with EACCES (13: ")][..],
        ),
        (
            "2001:db8:2::1",
            &[
                (
                    unseen,
                    "it would connect to 192.0.2.1:80 instead; ss and lsof would show that address, getpeername the one asked for",
                ),
                (unmoved, ""),
            ],
        ),
        ("2001:db8:3::1", &[(goes_on, "")]),
    ] {
        let said = explain(&[&[address][..], &rules].concat()).stdout;
        for (start, rest) in seen {
            let expected = format!("{start}{rest}");
            assert!(
                said.iter().any(|line| line.starts_with(&expected)),
                "{expected:?} in {said:?}"
            );
        }
    }
}

#[test]
fn a_rule_that_does_not_match_has_lost_to_nobody() {
    let rules = [
        "--reject",
        "2001:db8::/32,proto=udp,name=udp",
        "--reject",
        "2001:db8::/32,port=80,name=http",
        "--reject",
        "2001:db8::/32,port=443,name=https",
        "--allow",
        "2001:db8:1::/48,proto=tcp,name=narrow",
    ];
    for (question, reasons) in [
        (
            &["[2001:db8:1::1]:443", "--proto", "tcp"][..],
            &[("udp", "proto"), ("http", "ports"), ("https", "shorter-prefix")][..],
        ),
        (
            &["2001:db8:1::1", "--proto", "tcp"],
            &[
                ("udp", "proto"),
                ("http", "shorter-prefix"),
                ("https", "shorter-prefix"),
            ],
        ),
    ] {
        let answer = ask(&[question, &rules].concat());
        let case = &answer["policies"][0]["cases"][0];
        assert_eq!(case["rule"], json!("narrow"), "{answer}");
        let lost = case["lost"].as_array().unwrap().iter();
        let lost: Vec<_> = lost
            .map(|lost| (lost["rule"].as_str().unwrap(), lost["reason"].as_str().unwrap()))
            .collect();
        assert_eq!(lost, reasons, "{answer}");
    }
}
