//! `enforcer run`: what it does to connects, what it says about them, and that all is as before when it has ended.

use std::{fs, os::unix::fs::MetadataExt as _};

use enforcer_tests::{
    enforcer::{Enforcer, parse_events},
    kernel::expected_errno,
    process::Stream,
    protocol::{Connect, SocketKind},
    scene::{A, B, IPV4, Scene},
    wait::{PATIENCE, eventually},
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Rejects with an errno that nobody but enforcer gives here.
const REJECT_A: &str = "2001:db8:a::/48,errno=EHOSTDOWN";

/// Every field of an event, as `docs/events.md` lists them.
const FIELDS: [&str; 26] = [
    "time",
    "verdict",
    "would",
    "would_rule",
    "mode",
    "errno",
    "errno_caller",
    "daddr",
    "dport",
    "proto",
    "socket_type",
    "redirect_to",
    "rule",
    "prefix",
    "target",
    "pid",
    "tid",
    "uid",
    "comm",
    "cgroup_id",
    "cgroup",
    "task_cgroup_id",
    "unmovable",
    "hook",
    "datagrams",
    "left_out",
];

/// The fields of a line in the order in which they stand there.
fn fields_in_order(line: &str) -> Vec<&'static str> {
    let place = |field: &str| line.find(&format!("\"{field}\":"));
    let mut found: Vec<_> = FIELDS
        .into_iter()
        .filter_map(|field| Some((place(field)?, field)))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, field)| field).collect()
}

/// Whether process identifiers here are those of the initial PID namespace, which events give
/// (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`).
fn is_initial_pid_namespace() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == 0xEFFF_FFFC)
}

#[test]
fn ten_connects_are_ten_json_lines_and_the_same_connects_succeed_before_and_after() {
    let scene = Scene::new("ten").unwrap();
    let mut client = scene.client().unwrap();
    scene.connects(&mut client, A).unwrap();

    let path = scene.path();
    let arguments = ["--cgroup", &path, "--reject", REJECT_A, "--output", "json"];
    let enforcer = Enforcer::run(&scene.outside(), arguments).unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line == "enforcing 1 rule on 1 cgroup"
        })
        .unwrap();
    for _ in 0..10 {
        scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    }
    enforcer.wait_for_events(10).unwrap();
    let finished = enforcer.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(0), "{:?}", finished.stderr);
    for _ in 0..10 {
        scene.connects(&mut client, A).unwrap();
    }

    assert_eq!(finished.stdout.len(), 10);
    for line in &finished.stdout {
        assert_eq!(fields_in_order(line), FIELDS, "{line}");
    }
    let events = parse_events(&finished.stdout).unwrap();
    for event in &events {
        assert_eq!(event.as_object().unwrap().len(), FIELDS.len(), "{event}");
        let expected = json!({
            "verdict": "reject",
            "would": null,
            "would_rule": null,
            "mode": "enforce",
            "errno": "EHOSTDOWN",
            "errno_caller": expected_errno("EHOSTDOWN").number,
            "daddr": A.to_string(),
            "dport": scene.to(A).port(),
            "proto": "tcp",
            "socket_type": "stream",
            "redirect_to": null,
            "rule": format!("--reject {REJECT_A}"),
            "prefix": "2001:db8:a::/48",
            "target": scene.path(),
            "uid": 0,
            "cgroup_id": scene.cgroup.id(),
            "cgroup": scene.path(),
            "task_cgroup_id": scene.cgroup.id(),
            "unmovable": null,
        });
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&event[field], value, "{field} of {event}");
        }
        if is_initial_pid_namespace() {
            assert_eq!(event["pid"], client.pid());
            assert_eq!(event["tid"], client.pid());
        }
        let time = event["time"].as_str().unwrap();
        assert!(time.len() == 30 && time.ends_with('Z'), "{time}");
    }
    assert!(
        events.is_sorted_by_key(|event| event["time"].as_str().unwrap().to_owned()),
        "{events:?}"
    );
    assert_eq!(
        finished.stderr[finished.stderr.len() - 2..],
        [
            "10 connects seen: 0 allowed, 10 rejected, 0 redirected",
            "events: 10 delivered, 0 lost"
        ]
    );
}

#[test]
fn people_get_one_plain_line_a_connect() {
    let scene = Scene::new("human").unwrap();
    let mut client = scene.client().unwrap();
    scene.connects(&mut client, A).unwrap();
    let path = scene.path();
    let rule = format!("{REJECT_A},name=no way");
    let enforcer = Enforcer::run(&scene.outside(), ["--cgroup", &path, "--reject", &rule]).unwrap();
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    scene.connects(&mut client, B).unwrap();
    let finished = enforcer.terminate().unwrap();
    scene.connects(&mut client, A).unwrap();

    let [rejected, allowed] = &finished.stdout[..] else {
        panic!("{:?}", finished.stdout)
    };
    let errno = expected_errno("EHOSTDOWN").name;
    let port = scene.to(A).port();
    for (line, words) in [
        (
            rejected,
            vec!["reject", errno, &format!("[{A}]:{port}"), "tcp", &path, "no way"],
        ),
        (
            allowed,
            vec!["allow", "-", &format!("[{B}]:{port}"), "tcp", &path, "-"],
        ),
    ] {
        let mut rest = line.as_str();
        for word in words {
            let (_, after) = rest
                .split_once(word)
                .unwrap_or_else(|| panic!("{word:?} in {line:?}"));
            rest = after;
        }
        assert!(!line.contains('\x1b'), "{line:?}");
    }
}

#[test]
fn events_are_those_that_were_asked_for_and_counts_are_of_all() {
    let scene = Scene::new("events").unwrap();
    let mut client = scene.client().unwrap();
    let path = scene.path();
    for (which, verdicts) in [
        ("all", vec!["reject", "allow"]),
        ("acted", vec!["reject"]),
        ("none", vec![]),
    ] {
        scene.connects(&mut client, A).unwrap();
        let arguments = [
            "--cgroup", &path, "--reject", REJECT_A, "--output", "json", "--events", which,
        ];
        let enforcer = Enforcer::run(&scene.outside(), arguments).unwrap();
        scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
        scene.connects(&mut client, B).unwrap();
        let finished = enforcer.terminate().unwrap();
        scene.connects(&mut client, A).unwrap();
        let events = parse_events(&finished.stdout).unwrap();
        let seen: Vec<_> = events
            .iter()
            .map(|event| event["verdict"].as_str().unwrap())
            .collect();
        assert_eq!(seen, verdicts, "--events {which}");
        assert_eq!(
            finished.stderr[finished.stderr.len() - 2..],
            [
                "2 connects seen: 1 allowed, 1 rejected, 0 redirected".to_owned(),
                format!("events: {} delivered, 0 lost", verdicts.len())
            ]
        );
    }
}

#[test]
fn each_signal_that_stops_ends_it_in_order() {
    let scene = Scene::new("signals").unwrap();
    let mut client = scene.client().unwrap();
    let path = scene.path();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        scene.connects(&mut client, A).unwrap();
        let mut enforcer =
            Enforcer::run(&scene.outside(), ["--cgroup", &path, "--reject", REJECT_A]).unwrap();
        scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
        enforcer.process().signal(signal).unwrap();
        let finished = enforcer.finish(PATIENCE).unwrap();
        assert_eq!(
            finished.status.code(),
            Some(0),
            "{signal:?}: {:?}",
            finished.stderr
        );
        assert_eq!(finished.stdout.len(), 1);
        assert_eq!(finished.stderr.last().unwrap(), "events: 1 delivered, 0 lost");
        scene.connects(&mut client, A).unwrap();
    }
}

#[test]
fn audit_tells_what_would_be_done_and_does_not_do_it() {
    let scene = Scene::new("audit").unwrap();
    let mut client = scene.client().unwrap();
    let path = scene.path();
    let rule = format!("{REJECT_A},name=broken");
    let arguments = [
        "--cgroup", &path, "--reject", &rule, "--audit", "--output", "json", "--events", "acted",
    ];
    let enforcer = Enforcer::run(&scene.outside(), arguments).unwrap();
    scene.connects(&mut client, A).unwrap();
    scene.connects(&mut client, B).unwrap();
    let finished = enforcer.terminate().unwrap();
    assert!(
        finished
            .stderr
            .contains(&"auditing 1 rule on 1 cgroup".to_owned())
    );
    let [event] = &parse_events(&finished.stdout).unwrap()[..] else {
        panic!("{:?}", finished.stdout)
    };
    for (field, value) in [
        ("verdict", json!("allow")),
        ("would", json!("reject")),
        ("would_rule", json!("broken")),
        ("mode", json!("audit")),
        ("rule", Value::Null),
        ("errno", Value::Null),
        ("errno_caller", Value::Null),
        ("prefix", json!("2001:db8:a::/48")),
        ("daddr", json!(A.to_string())),
    ] {
        assert_eq!(event[field], value, "{field} of {event}");
    }
    assert!(
        finished.stderr.contains(
            &"audit: of 2 connects in audit mode, 1 would have been rejected, 0 redirected, 0 allowed by a rule"
                .to_owned()
        ),
        "{:?}",
        finished.stderr
    );
}

#[test]
fn a_redirected_connect_arrives_elsewhere_and_the_event_says_where() {
    let scene = Scene::new("redirect").unwrap();
    let mut client = scene.client().unwrap();
    scene.connects(&mut client, A).unwrap();
    let newest = || scene.server.accepted().last().map(|accepted| accepted.at);
    let arrives = |at| eventually("the connection to arrive", PATIENCE, || newest() == Some(at)).unwrap();
    arrives(scene.to(A));
    let path = scene.path();
    let arguments = [
        "--cgroup",
        &path,
        "--redirect",
        "2001:db8:a::/48=192.0.2.1",
        "--output",
        "json",
    ];
    let enforcer = Enforcer::run(&scene.outside(), arguments).unwrap();
    let connect = Connect {
        send: Some("there?".to_owned()),
        ..Connect::new(SocketKind::Tcp, scene.to(A))
    };
    let answer = client.connect(connect).unwrap();
    assert_eq!(answer.received.as_deref(), Some("there?"), "{answer:?}");
    arrives(scene.to(IPV4));
    let event = enforcer.wait_for_events(1).unwrap().remove(0);
    assert_eq!(event["verdict"], "redirect");
    assert_eq!(event["redirect_to"], IPV4.to_string());
    assert_eq!(event["errno"], Value::Null);
    let finished = enforcer.terminate().unwrap();
    assert!(
        finished
            .stderr
            .contains(&"1 connect seen: 0 allowed, 0 rejected, 1 redirected".to_owned())
    );
    scene.connects(&mut client, A).unwrap();
    arrives(scene.to(A));
}

#[test]
fn the_more_specific_rule_wins_whatever_the_order_and_ports_and_protocols_count() {
    let scene = Scene::new("specific").unwrap();
    let mut client = scene.client().unwrap();
    scene.connects(&mut client, A).unwrap();
    scene.connects(&mut client, B).unwrap();
    let path = scene.path();
    let port = scene.to(A).port();
    let arguments = [
        "--cgroup",
        &path,
        "--allow",
        "2001:db8:b::/48",
        "--reject",
        "2001:db8::/32,errno=EHOSTDOWN",
        "--reject",
        &format!("2001:db8:b::/48,errno=ENETDOWN,proto=udp,port={port}"),
    ];
    let enforcer = Enforcer::run(&scene.outside(), arguments).unwrap();
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    scene.connects(&mut client, B).unwrap();
    let probe = client.connect_udp(scene.to(B)).unwrap();
    assert_eq!(probe.outcome(), expected_errno("ENETDOWN").name);
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    scene.connects(&mut client, A).unwrap();
    assert!(client.connect_udp(scene.to(B)).unwrap().ok);
}

#[test]
fn an_idle_run_ends_at_once_and_counts_nothing() {
    let scene = Scene::new("idle").unwrap();
    let path = scene.path();
    let enforcer = Enforcer::run(&scene.outside(), ["--cgroup", &path, "--reject", REJECT_A]).unwrap();
    let finished = enforcer.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(0));
    assert!(finished.stdout.is_empty());
    assert_eq!(
        finished.stderr[finished.stderr.len() - 2..],
        [
            "0 connects seen: 0 allowed, 0 rejected, 0 redirected",
            "events: 0 delivered, 0 lost"
        ]
    );
}
