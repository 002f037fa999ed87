//! Targets within targets: the nearest one decides, alone, and one connect is one event.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, path::PathBuf};

use enforcer_tests::{
    cgroup::CgroupFixture,
    client::Client,
    enforcer::{Enforcer, parse_events},
    kernel::expected_errno,
    place::Place,
    protocol::{CONNECT_TIMEOUT_MS, Connect, Request, SocketKind},
    scene::{A, B, IPV4, Scene},
    wait::{PATIENCE, eventually},
};
use serde_json::Value;
use tempfile::TempDir;

/// A policy with a target of that name at each cgroup, using the group of its name, and these rules.
fn policy(targets: &[(&str, String)], rules: &str) -> (TempDir, PathBuf) {
    let mut text = "version = 1\n".to_owned();
    for (name, cgroup) in targets {
        text.push_str(&format!(
            "[[target]]\nname = \"{name}\"\ncgroup = \"{cgroup}\"\nuse = [\"{name}\"]\n"
        ));
    }
    text.push_str(rules);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.toml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

fn run(scene: &Scene, policy: &(TempDir, PathBuf)) -> Enforcer {
    let arguments = ["--policy", policy.1.to_str().unwrap(), "--output", "json"];
    Enforcer::run(&scene.outside(), arguments).unwrap()
}

/// A target within a target, with a client on each level that is not governed yet.
struct Nested {
    outside: Client,
    inside: Client,
    inner: CgroupFixture,
    scene: Scene,
}

impl Nested {
    fn new(what: &str) -> Self {
        let scene = Scene::new(what).unwrap();
        let inner = scene.cgroup.child("inner").unwrap();
        let outside = scene.client().unwrap();
        let inside = Client::start(&Place::new(&inner, &scene.netns)).unwrap();
        let mut nested = Self {
            outside,
            inside,
            inner,
            scene,
        };
        nested.assert_free();
        nested
    }

    /// Starts enforcer with these rules; the groups are `outer` and `inner`.
    fn govern(&self, rules: &str) -> Enforcer {
        let targets = [
            ("outer", self.scene.path()),
            ("inner", self.inner.relative_path()),
        ];
        run(&self.scene, &policy(&targets, rules))
    }

    /// Nobody governs anybody.
    #[track_caller]
    fn assert_free(&mut self) {
        for client in [&mut self.outside, &mut self.inside] {
            self.scene.connects(client, A).unwrap();
            self.scene.connects(client, B).unwrap();
        }
    }
}

/// What each event says of target and verdict.
fn told(events: &[Value]) -> Vec<(&str, &str)> {
    events
        .iter()
        .map(|event| {
            (
                event["target"].as_str().unwrap(),
                event["verdict"].as_str().unwrap(),
            )
        })
        .collect()
}

#[test]
fn an_inner_target_allows_and_redirects_what_the_outer_one_rejects() {
    let mut nested = Nested::new("inner");
    let enforcer = nested.govern(
        r#"
        [[rule]]
        groups = ["outer"]
        prefix = "::/0"
        action = "reject"
        errno = "EHOSTDOWN"
        [[rule]]
        groups = ["inner"]
        prefix = "2001:db8:a::/48"
        action = "allow"
        [[rule]]
        groups = ["inner"]
        prefix = "2001:db8:b::/48"
        action = "redirect"
        to = "192.0.2.1"
        "#,
    );
    let Nested {
        outside,
        inside,
        inner,
        scene,
    } = &mut nested;
    let newest = || scene.server.accepted().last().map(|accepted| accepted.at);
    let arrives = |at| eventually("the connection to arrive", PATIENCE, || newest() == Some(at)).unwrap();
    scene.rejects(outside, A, "EHOSTDOWN").unwrap();
    scene.rejects(outside, B, "EHOSTDOWN").unwrap();
    scene.connects(inside, A).unwrap();
    let connect = Connect {
        send: Some("there?".to_owned()),
        ..Connect::new(SocketKind::Tcp, scene.to(B))
    };
    assert_eq!(
        inside.connect(connect).unwrap().received.as_deref(),
        Some("there?")
    );
    arrives(scene.to(IPV4));
    let finished = enforcer.terminate().unwrap();
    let events = parse_events(&finished.stdout).unwrap();
    assert_eq!(
        told(&events),
        [
            ("outer", "reject"),
            ("outer", "reject"),
            ("inner", "allow"),
            ("inner", "redirect")
        ]
    );
    assert_eq!(events[3]["cgroup_id"], inner.id());
    assert!(
        finished
            .stderr
            .contains(&"4 connects seen: 1 allowed, 2 rejected, 1 redirected".to_owned()),
        "{:?}",
        finished.stderr
    );
    nested.assert_free();
}

#[test]
fn what_an_inner_target_redirects_is_hidden_although_the_outer_one_is_attached_too() {
    let mut nested = Nested::new("hidden");
    let rules = |group: &str, prefix: &str| {
        format!(
            "[[rule]]\ngroups = [\"{group}\"]\nprefix = \"{prefix}\"\naction = \"redirect\"\nto = \"192.0.2.1\"\n"
        )
    };
    let outer = rules("outer", "2001:db8:b::/48");
    let enforcer = nested.govern(&[outer, rules("inner", "2001:db8:a::/48")].concat());
    let Nested {
        outside,
        inside,
        scene,
        ..
    } = &mut nested;
    for (client, redirected, other) in [(inside, A, B), (outside, B, A)] {
        let port = scene.to(A).port();
        for socket in [SocketKind::Tcp, SocketKind::Udp] {
            for (address, family) in [(redirected, "192.0.2.1"), (other, "2001:db8")] {
                let answer = client
                    .connect(Connect::new(socket, (address, port).into()))
                    .unwrap();
                assert_eq!(answer.peer, Some((address, port).into()), "{answer:?}");
                // Its own address shows where it went: the namespace's addresses are its own.
                let local = answer.local.unwrap().ip().to_canonical().to_string();
                assert!(local.starts_with(family), "{answer:?}");
            }
        }
    }
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    nested.assert_free();
}

#[test]
fn the_nearest_target_judges_datagrams_alone() {
    let mut nested = Nested::new("datagrams");
    let enforcer = nested.govern(
        r#"
        [[rule]]
        groups = ["outer"]
        prefix = "::/0"
        action = "reject"
        errno = "EHOSTDOWN"
        [[rule]]
        groups = ["inner"]
        prefix = "2001:db8:b::/48"
        action = "reject"
        errno = "ENETDOWN"
        "#,
    );
    let Nested {
        outside,
        inside,
        scene,
        ..
    } = &mut nested;
    let outer = expected_errno("EHOSTDOWN").name;
    let inner = expected_errno("ENETDOWN").name;
    for (client, outcomes) in [(inside, ["ok", inner, "ok"]), (outside, [outer; 3])] {
        let any = Connect::new(SocketKind::Udp, "[::]:0".parse().unwrap());
        let id = client.ask(&Request::Open(any)).unwrap().id.unwrap();
        for (address, outcome) in [A, B, A].into_iter().zip(outcomes) {
            let send = Request::Send {
                id,
                to: Some(scene.to(address)),
                tclass: None,
                send: "x".to_owned(),
                times: 2,
            };
            let expected = [(outcome.to_owned(), 2)].into();
            assert_eq!(client.ask(&send).unwrap().outcomes, Some(expected), "{address}");
        }
    }
    let finished = enforcer.terminate().unwrap();
    let events = parse_events(&finished.stdout).unwrap();
    assert_eq!(
        told(&events),
        [
            ("inner", "allow"),
            ("inner", "reject"),
            ("outer", "reject"),
            ("outer", "reject")
        ]
    );
    nested.assert_free();
}

#[test]
fn what_no_rule_of_the_nearest_target_matches_goes_on() {
    let mut nested = Nested::new("silent");
    let enforcer = nested.govern(
        r#"
        [[rule]]
        groups = ["outer"]
        prefix = "2001:db8::/32"
        action = "reject"
        errno = "EHOSTDOWN"
        [[rule]]
        groups = ["inner"]
        prefix = "2001:db8:b::/48"
        action = "reject"
        errno = "ENETDOWN"
        "#,
    );
    let Nested { inside, scene, .. } = &mut nested;
    scene.connects(inside, A).unwrap();
    scene.rejects(inside, B, "ENETDOWN").unwrap();
    let finished = enforcer.terminate().unwrap();
    let events = parse_events(&finished.stdout).unwrap();
    assert_eq!(told(&events), [("inner", "allow"), ("inner", "reject")]);
    nested.assert_free();
}

#[test]
fn of_three_levels_the_nearest_decides() {
    let scene = Scene::new("three").unwrap();
    let middle = scene.cgroup.child("middle").unwrap();
    // A level that is no target lies between.
    let between = middle.child("between").unwrap();
    let inner = between.child("inner").unwrap();
    let cgroups = [&scene.cgroup, &middle, &inner];
    let mut clients = cgroups.map(|cgroup| Client::start(&Place::new(cgroup, &scene.netns)).unwrap());
    let mut in_between = Client::start(&Place::new(&between, &scene.netns)).unwrap();
    let levels = [
        ("outer", "EHOSTDOWN"),
        ("middle", "ENETDOWN"),
        ("inner", "ECONNABORTED"),
    ];
    let mut rules = String::new();
    for (level, errno) in levels {
        rules.push_str(&format!(
            "[[rule]]\ngroups = [\"{level}\"]\nprefix = \"2001:db8:a::/48\"\naction = \"reject\"\nerrno = \"{errno}\"\n"
        ));
    }
    let targets: Vec<_> = levels
        .iter()
        .zip(cgroups)
        .map(|((level, _), cgroup)| (*level, cgroup.relative_path()))
        .collect();
    let policy = policy(&targets, &rules);
    for client in clients.iter_mut().chain([&mut in_between]) {
        scene.connects(client, A).unwrap();
    }
    let enforcer = run(&scene, &policy);
    for (client, (_, errno)) in clients.iter_mut().zip(levels) {
        scene.rejects(client, A, errno).unwrap();
    }
    scene.rejects(&mut in_between, A, "ENETDOWN").unwrap();
    let finished = enforcer.terminate().unwrap();
    let events = parse_events(&finished.stdout).unwrap();
    assert_eq!(
        told(&events),
        [
            ("outer", "reject"),
            ("middle", "reject"),
            ("inner", "reject"),
            ("middle", "reject")
        ]
    );
    // On a kernel where every rejection ends in EPERM, this tells them apart.
    for (event, (_, errno)) in events.iter().zip(levels) {
        assert_eq!(event["errno"], errno);
        assert_eq!(event["errno_caller"], expected_errno(errno).number);
    }
    for client in clients.iter_mut().chain([&mut in_between]) {
        scene.connects(client, A).unwrap();
    }
}

#[test]
fn a_socket_that_connects_again_and_again_is_judged_each_time_by_the_nearest() {
    let mut nested = Nested::new("again");
    let enforcer = nested.govern(
        r#"
        [[rule]]
        groups = ["outer"]
        prefix = "::/0"
        action = "reject"
        errno = "EHOSTDOWN"
        [[rule]]
        groups = ["inner"]
        prefix = "2001:db8:b::/48"
        action = "reject"
        errno = "ENETDOWN"
        "#,
    );
    let Nested { inside, scene, .. } = &mut nested;
    let held = Connect {
        hold: true,
        ..Connect::new(SocketKind::Udp, scene.to(A))
    };
    let id = inside.connect(held).unwrap().id.unwrap();
    let rejected = expected_errno("ENETDOWN").name;
    for (address, outcome) in [(B, rejected), (A, "ok"), (A, "ok"), (B, rejected), (A, "ok")] {
        let again = Request::Reconnect {
            id,
            to: scene.to(address),
            timeout_ms: CONNECT_TIMEOUT_MS,
        };
        assert_eq!(inside.ask(&again).unwrap().outcome(), outcome, "{address}");
    }
    let exchange = Request::Exchange {
        id,
        send: "still there?".to_owned(),
        timeout_ms: CONNECT_TIMEOUT_MS,
    };
    assert_eq!(
        inside.ask(&exchange).unwrap().received.as_deref(),
        Some("still there?")
    );
    let finished = enforcer.terminate().unwrap();
    let events = parse_events(&finished.stdout).unwrap();
    assert_eq!(
        told(&events),
        [
            ("inner", "allow"),
            ("inner", "reject"),
            ("inner", "allow"),
            ("inner", "allow"),
            ("inner", "reject"),
            ("inner", "allow")
        ]
    );
    nested.assert_free();
}
