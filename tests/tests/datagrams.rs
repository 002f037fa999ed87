//! Datagrams of unconnected UDP sockets: judged by the policy of connects, told of once for each socket and destination.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeMap, net::SocketAddr};

use enforcer_tests::{
    client::Client,
    enforcer::{Enforcer, parse_events},
    kernel::expected_errno,
    process::Finished,
    protocol::{CONNECT_TIMEOUT_MS, Connect, Request, SocketKind},
    scene::{A, B, IPV4, PREFIX, Scene},
};

/// Given by nobody but the rule.
const ERRNO: &str = "EHOSTDOWN";

/// An IPv6 UDP socket that is not connected.
fn open(client: &mut Client) -> u32 {
    let any = Connect::new(SocketKind::Udp, "[::]:0".parse().unwrap());
    client.ask(&Request::Open(any)).unwrap().id.unwrap()
}

/// How that many sends end.
fn send(client: &mut Client, id: u32, to: Option<SocketAddr>, times: u32) -> BTreeMap<String, u64> {
    let request = Request::Send {
        id,
        to,
        tclass: None,
        send: "there?".to_owned(),
        times,
    };
    client.ask(&request).unwrap().outcomes.unwrap()
}

fn all(outcome: &str, times: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([(outcome.to_owned(), times)])
}

fn rejected(times: u64) -> BTreeMap<String, u64> {
    all(expected_errno(ERRNO).name, times)
}

/// Sends are answered without anybody's interference.
#[track_caller]
fn assert_answered(client: &mut Client, id: u32, to: SocketAddr) {
    assert_eq!(send(client, id, Some(to), 1), all("ok", 1), "{to}");
    let receive = Request::Receive {
        id,
        timeout_ms: CONNECT_TIMEOUT_MS,
    };
    let answer = client.ask(&receive).unwrap();
    assert_eq!((answer.outcome().as_str(), answer.from), ("ok", Some(to)));
}

fn finish(enforcer: Enforcer) -> Finished {
    let finished = enforcer.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    finished
}

#[track_caller]
fn assert_said(finished: &Finished, line: &str) {
    assert!(finished.stderr.iter().any(|said| said == line), "{finished:?}");
}

#[test]
fn a_rule_rejects_datagrams_with_its_errno_and_leaves_the_rest_alone() {
    let scene = Scene::new("datagram-reject").unwrap();
    let mut client = scene.client().unwrap();
    let id = open(&mut client);
    assert_answered(&mut client, id, scene.to(A));
    let enforcer = scene
        .govern(["--reject", &format!("{PREFIX},errno={ERRNO},name=far")])
        .unwrap();
    assert_eq!(send(&mut client, id, Some(scene.to(A)), 1), rejected(1));
    assert_answered(&mut client, id, scene.to(B));
    let events = parse_events(&finish(enforcer).stdout).unwrap();
    assert_eq!(events.len(), 2, "{events:?}");
    let errno = expected_errno(ERRNO).number;
    for (field, expected) in [
        ("hook", "sendmsg".into()),
        ("verdict", "reject".into()),
        ("errno", ERRNO.into()),
        ("errno_caller", errno.into()),
        ("rule", "far".into()),
        ("daddr", A.to_string().into()),
        ("dport", scene.to(A).port().into()),
        ("proto", "udp".into()),
        ("pid", client.pid().into()),
        ("unmovable", serde_json::Value::Null),
        ("datagrams", 1.into()),
    ] {
        assert_eq!(events[0][field], expected, "{field} of {}", events[0]);
    }
    assert_eq!(events[1]["verdict"], "allow", "{}", events[1]);
    assert_eq!(events[1]["hook"], "sendmsg", "{}", events[1]);
    assert_answered(&mut client, id, scene.to(A));
}

#[test]
fn a_redirect_gives_datagrams_its_errno_and_says_why() {
    for to in [IPV4, B] {
        let scene = Scene::new("datagram-redirect").unwrap();
        let mut client = scene.client().unwrap();
        let id = open(&mut client);
        assert_answered(&mut client, id, scene.to(A));
        let rule = format!("{PREFIX}={to},errno={ERRNO}");
        let enforcer = scene.govern(["--redirect", &rule]).unwrap();
        assert_eq!(send(&mut client, id, Some(scene.to(A)), 1), rejected(1));
        let events = parse_events(&finish(enforcer).stdout).unwrap();
        assert_eq!(events[0]["verdict"], "reject", "{}", events[0]);
        assert_eq!(events[0]["unmovable"], "unconnected", "{}", events[0]);
        assert_eq!(events[0]["redirect_to"], to.to_string(), "{}", events[0]);
        assert_answered(&mut client, id, scene.to(A));
    }
}

#[test]
fn a_connected_send_with_a_traffic_class_is_never_refused_nor_counted() {
    let scene = Scene::new("datagram-tclass").unwrap();
    let mut client = scene.client().unwrap();
    // Connected before anybody governs: a rule that covers the peer comes too late for it.
    let connect = Connect {
        hold: true,
        ..Connect::new(SocketKind::Udp, scene.to(A))
    };
    let id = client.connect(connect).unwrap().id.unwrap();
    let enforcer = scene
        .govern(["--reject", &format!("{PREFIX},errno={ERRNO}")])
        .unwrap();
    // The rule is there.
    scene.rejects(&mut client, A, ERRNO).unwrap();
    for tclass in [None, Some(0), Some(2)] {
        let request = Request::Send {
            id,
            to: None,
            tclass,
            send: "there?".to_owned(),
            times: 10,
        };
        assert_eq!(
            client.ask(&request).unwrap().outcomes,
            Some(all("ok", 10)),
            "{tclass:?}"
        );
    }
    let finished = finish(enforcer);
    assert_eq!(finished.stdout.len(), 1, "{finished:?}");
    assert_said(&finished, "1 connect seen: 0 allowed, 1 rejected, 0 redirected");
}

#[test]
fn a_hundred_datagrams_of_one_socket_are_one_event_and_are_all_counted() {
    let scene = Scene::new("datagram-hundred").unwrap();
    let mut client = scene.client().unwrap();
    let (first, second) = (open(&mut client), open(&mut client));
    assert_answered(&mut client, first, scene.to(A));
    let enforcer = scene
        .govern(["--reject", &format!("{PREFIX},errno={ERRNO}")])
        .unwrap();
    assert_eq!(send(&mut client, first, Some(scene.to(A)), 100), rejected(100));
    enforcer.wait_for_events(1).unwrap();
    // Another socket, and another destination, are events of their own.
    assert_eq!(send(&mut client, second, Some(scene.to(A)), 1), rejected(1));
    let other = SocketAddr::new(A, scene.to(A).port() ^ 1);
    assert_eq!(send(&mut client, first, Some(other), 1), rejected(1));
    assert_eq!(send(&mut client, first, Some(scene.to(A)), 1), rejected(1));
    let finished = finish(enforcer);
    let events = parse_events(&finished.stdout).unwrap();
    let ports: Vec<_> = events
        .iter()
        .map(|event| event["dport"].as_u64().unwrap())
        .collect();
    let port = u64::from(scene.to(A).port());
    assert_eq!(ports, [port, port, u64::from(other.port())], "{events:?}");
    let datagrams = events[0]["datagrams"].as_u64().unwrap();
    assert!((1..=101).contains(&datagrams), "{}", events[0]);
    assert_eq!(events[2]["datagrams"], 1, "{}", events[2]);
    assert_said(
        &finished,
        "103 connects seen: 0 allowed, 103 rejected, 0 redirected",
    );
    assert_said(
        &finished,
        "events: 3 delivered, 0 lost; 100 more datagrams share one",
    );
    assert_answered(&mut client, first, scene.to(A));
}

#[test]
fn in_audit_mode_datagrams_go_and_are_told_of() {
    let scene = Scene::new("datagram-audit").unwrap();
    let mut client = scene.client().unwrap();
    let id = open(&mut client);
    let rule = format!("{PREFIX}={IPV4},errno={ERRNO},name=far");
    let enforcer = scene.govern(["--audit", "--redirect", &rule]).unwrap();
    for _ in 0..3 {
        assert_answered(&mut client, id, scene.to(A));
    }
    let finished = finish(enforcer);
    let events = parse_events(&finished.stdout).unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    for (field, expected) in [
        ("verdict", "allow"),
        ("would", "reject"),
        ("would_rule", "far"),
        ("unmovable", "unconnected"),
        ("hook", "sendmsg"),
        ("mode", "audit"),
    ] {
        assert_eq!(events[0][field], expected, "{field} of {}", events[0]);
    }
    assert_said(
        &finished,
        "audit: of 3 connects in audit mode, 3 would have been rejected, 0 redirected, 0 allowed by a rule",
    );
}
