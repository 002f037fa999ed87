//! Following, with a clock that goes on when nothing else does, and a `hosts` file in place of a nameserver. What
//! nameservers do is tested with real ones, in the package of integration tests.

use std::{fs, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::names::{Families, known::Seen};

/// Longer than anything here takes on the test's clock.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

struct World {
    folder: TempDir,
    follower: Follower,
}

impl World {
    fn new(hosts: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let follower = Follower::new(Options {
            resolv_conf: folder.path().join("resolv.conf"),
            hosts: folder.path().join("hosts"),
            helper: folder.path().join("helper"),
        });
        let world = Self { folder, follower };
        world.write("hosts", hosts);
        world
    }

    fn write(&self, file: &str, text: &str) {
        let made = self.folder.path().join("made");
        fs::write(&made, text).unwrap();
        fs::rename(made, self.folder.path().join(file)).unwrap();
    }

    async fn change(&mut self) -> Change {
        timeout(LONG, self.follower.changed()).await.expect("no change")
    }

    fn addresses(&self, name: &str) -> Vec<(String, bool)> {
        let (_, answers) = self
            .follower
            .answers()
            .find(|(request, _)| request.name.as_str() == name)
            .unwrap();
        let shown = |seen: Seen<std::net::IpAddr>| (seen.address.to_string(), seen.current);
        let aaaa = answers.aaaa.iter().map(|seen| Seen {
            address: seen.address.into(),
            current: seen.current,
        });
        let a = answers.a.iter().map(|seen| Seen {
            address: seen.address.into(),
            current: seen.current,
        });
        aaaa.chain(a).map(shown).collect()
    }
}

fn request(name: &str) -> Request {
    Request {
        name: name.parse().unwrap(),
        families: Families::Both,
        resolver: Resolver::Host,
        allow_private: false,
    }
}

fn of_target(name: &str, target: usize) -> Request {
    Request {
        resolver: Resolver::Target(target),
        ..request(name)
    }
}

fn shown(notes: &[Note]) -> Vec<String> {
    notes.iter().map(ToString::to_string).collect()
}

fn seen(addresses: &[(&str, bool)]) -> Vec<(String, bool)> {
    addresses
        .iter()
        .map(|(address, current)| ((*address).to_owned(), *current))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_changes_is_seen_within_its_time_and_what_was_before_stays() {
    let mut world = World::new("192.0.2.1 db.example\n2001:db8::1 db.example\n");
    world.follower.follow([request("db.example")]).unwrap();
    let change = world.change().await;
    assert_eq!(
        change,
        Change {
            changed: vec![request("db.example")],
            notes: vec![],
            settled: true,
        }
    );
    assert_eq!(
        world.addresses("db.example"),
        seen(&[("2001:db8::1", true), ("192.0.2.1", true)])
    );
    world.write("hosts", "192.0.2.2 db.example\n2001:db8::1 db.example\n");
    let before = Instant::now();
    let change = world.change().await;
    assert_eq!(change.changed, [request("db.example")]);
    assert!(!change.settled);
    // What `hosts` says counts for ten seconds, of which chance takes one at most.
    let waited = before.elapsed().as_secs_f64();
    assert!((9.0..10.01).contains(&waited), "{waited}");
    assert_eq!(
        world.addresses("db.example"),
        seen(&[("2001:db8::1", true), ("192.0.2.1", false), ("192.0.2.2", true)])
    );
    // An hour later the old address is gone, without anything else having happened.
    let change = world.change().await;
    assert_eq!(change.changed, [request("db.example")]);
    assert!(
        before.elapsed() >= Duration::from_secs(3580),
        "{:?}",
        before.elapsed()
    );
    assert_eq!(
        world.addresses("db.example"),
        seen(&[("2001:db8::1", true), ("192.0.2.2", true)])
    );
}

#[tokio::test(start_paused = true)]
async fn failure_takes_nothing_away_however_long_it_lasts_and_is_told_once() {
    let mut world = World::new("192.0.2.1 db.example\n");
    world.follower.follow([request("db.example")]).unwrap();
    world.change().await;
    // Now a nameserver would have to be asked, and none is named anywhere.
    world.write("hosts", "");
    let change = world.change().await;
    let missing = world.folder.path().join("resolv.conf");
    assert_eq!(
        shown(&change.notes),
        [format!(
            "cannot look up db.example: cannot read {}: No such file or directory (os error 2); known addresses stay",
            missing.display()
        )]
    );
    assert_eq!(change.changed, []);
    // Nothing more is told in a whole day of asking.
    assert!(timeout(LONG, world.follower.changed()).await.is_err());
    assert_eq!(world.addresses("db.example"), seen(&[("192.0.2.1", true)]));
    world.write("hosts", "192.0.2.1 db.example\n");
    let before = Instant::now();
    let change = world.change().await;
    assert_eq!(shown(&change.notes), ["db.example: found again"]);
    assert!(
        before.elapsed() <= Duration::from_secs(301),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn an_address_that_cannot_be_used_is_told_once_and_left_out() {
    let mut world = World::new("0.0.0.0 db.example\n192.0.2.1 db.example\n::1 db.example\n");
    world.follower.follow([request("db.example")]).unwrap();
    let change = world.change().await;
    assert_eq!(
        shown(&change.notes),
        [
            "db.example: ::1 is left out, it is the loopback address (RFC 4291 section 2.5.3)",
            "db.example: 0.0.0.0 is left out, it is an address of no host (RFC 1122 section 3.2.1.3)",
        ]
    );
    assert_eq!(world.addresses("db.example"), seen(&[("192.0.2.1", true)]));
    assert!(timeout(LONG, world.follower.changed()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn names_that_stay_keep_what_is_known_and_those_that_go_are_gone() {
    let mut world = World::new("192.0.2.1 a.example\n192.0.2.2 b.example\n192.0.2.3 c.example\n");
    world
        .follower
        .follow([request("a.example"), request("b.example")])
        .unwrap();
    while !world.change().await.settled {}
    world
        .follower
        .follow([request("b.example"), request("c.example")])
        .unwrap();
    assert_eq!(world.addresses("b.example"), seen(&[("192.0.2.2", true)]));
    let change = world.change().await;
    assert_eq!(
        (change.changed.as_slice(), change.settled),
        ([request("c.example")].as_slice(), true)
    );
    assert_eq!(world.follower.answers().count(), 2);
}

#[tokio::test(start_paused = true)]
async fn with_nothing_to_follow_all_is_settled_once() {
    let mut world = World::new("");
    assert!(world.change().await.settled);
    assert!(timeout(LONG, world.follower.changed()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn as_many_names_as_documented_and_no_more() {
    let mut world = World::new("");
    let names = |count: usize| (0..count).map(|number| request(&format!("n{number}.example")));
    assert_eq!(
        world.follower.follow(names(MAX_NAMES + 1)),
        Err(TooManyNames { count: 4097 })
    );
    assert_eq!(world.follower.answers().count(), 0);
    // Each counts once.
    world.follower.follow(names(MAX_NAMES).chain(names(1))).unwrap();
    assert_eq!(world.follower.answers().count(), MAX_NAMES);
    let mut notes = 0;
    loop {
        let change = world.change().await;
        notes += change.notes.len();
        assert!(world.follower.running.len() <= MAX_IN_FLIGHT);
        if change.settled {
            break;
        }
    }
    assert_eq!(notes, MAX_NAMES);
}

#[tokio::test(start_paused = true)]
async fn cancelling_loses_nothing() {
    let mut world = World::new("192.0.2.1 db.example\n");
    world.follower.follow([request("db.example")]).unwrap();
    let mut cancelled = 0;
    let change = loop {
        match timeout(Duration::ZERO, world.follower.changed()).await {
            Ok(change) => break change,
            Err(_elapsed) => cancelled += 1,
        }
        assert!(cancelled < 1000, "nothing comes of it");
        tokio::task::yield_now().await;
    };
    assert_eq!(change.changed, [request("db.example")]);
}

/// A program that is started as the helper.
fn script(folder: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join("helper");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

async fn why_of_target(world: &mut World) -> String {
    loop {
        // Without a limit on the test's clock, which would pass at once while the end of a process, which takes real
        // time, is waited for. A helper has one of its own.
        let change = world.follower.changed().await;
        if let Some(Note::Failed { why, .. }) = change.notes.first() {
            return why.clone();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_not_there_is_asked_as_soon_as_it_comes() {
    let mut world = World::new("192.0.2.1 db.example\n");
    world.follower.follow([of_target("db.example", 3)]).unwrap();
    assert_eq!(why_of_target(&mut world).await, "the target is not there");
    // The host's `hosts` is not the target's.
    assert_eq!(world.addresses("db.example"), []);
    script(
        world.folder.path(),
        r#"echo '{"answer":{"number":0,"round":{"aaaa":{"nothing":{"exists":true,"ttl_secs":60}},"a":{"found":{"addresses":["192.0.2.7","127.0.0.1"],"ttl_secs":60}}}}}'"#,
    );
    world.follower.set_target(3, vec![world.folder.path().to_owned()]);
    // Without a limit, as in `why_of_target`.
    let change = world.follower.changed().await;
    assert_eq!(change.changed, [of_target("db.example", 3)]);
    assert_eq!(
        shown(&change.notes),
        [
            "db.example, as its target resolves it: 127.0.0.1 is left out, it is a loopback address",
            "db.example, as its target resolves it: found again",
        ]
    );
    assert!(change.notes[0].hint().unwrap().contains("allow_private"));
    assert_eq!(world.addresses("db.example"), seen(&[("192.0.2.7", true)]));
}

#[tokio::test]
async fn a_number_given_to_another_target_brings_nothing_of_the_first() {
    let mut world = World::new("");
    script(
        world.folder.path(),
        r#"echo '{"answer":{"number":0,"round":{"aaaa":{"nothing":{"exists":true,"ttl_secs":60}},"a":{"found":{"addresses":["192.0.2.7"],"ttl_secs":60}}}}}'"#,
    );
    world.follower.set_target(0, vec![world.folder.path().to_owned()]);
    world.follower.follow([of_target("db.example", 0)]).unwrap();
    while !world.change().await.settled {}
    assert_eq!(world.addresses("db.example"), seen(&[("192.0.2.7", true)]));
    world.follower.forget_target(0);
    assert_eq!(world.follower.answers().count(), 0);
    world.follower.follow([of_target("db.example", 0)]).unwrap();
    assert_eq!(world.addresses("db.example"), []);
    assert_eq!(why_of_target(&mut world).await, "the target is not there");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_has_no_address_any_more_is_told_and_loses_nothing_yet() {
    let mut world = World::new("192.0.2.1 db.example\n");
    let only_ipv4 = Request {
        families: Families::Ipv4,
        ..request("db.example")
    };
    world.follower.follow([only_ipv4.clone()]).unwrap();
    world.change().await;
    // Only its IPv6 address is left, and that was not asked for.
    world.write("hosts", "2001:db8::1 db.example\n");
    let change = world.change().await;
    assert_eq!(
        change.notes,
        [Note::NoAddress {
            request: only_ipv4,
            exists: true
        }]
    );
    assert_eq!(world.addresses("db.example"), seen(&[("192.0.2.1", true)]));
}

#[tokio::test(start_paused = true)]
async fn a_helper_is_listened_to_with_suspicion() {
    let round = r#""round":{"aaaa":null,"a":{"nothing":{"exists":true,"ttl_secs":null}}}"#;
    for (text, expected) in [
        ("echo nonsense".to_owned(), "the helper wrote what is no message"),
        (
            "printf '{\"unable\"'".to_owned(),
            "the helper wrote a line of more than",
        ),
        (
            "i=0; while [ $i -lt 3000 ]; do printf '%64s' x; i=$((i+1)); done".to_owned(),
            "the helper wrote a line of more than",
        ),
        (
            format!("echo '{{\"answer\":{{\"number\":7,{round}}}}}'"),
            "the helper speaks of a question that was not asked",
        ),
        // Both families were asked for.
        (
            format!("echo '{{\"answer\":{{\"number\":0,{round}}}}}'"),
            "the helper speaks of a question that was not asked",
        ),
        ("exit 1".to_owned(), "the helper ended early"),
        ("exec sleep 3600".to_owned(), "the helper took more than 65 s"),
        (
            "echo '{\"unable\":{\"why\":\"so it is\"}}'".to_owned(),
            "so it is",
        ),
    ] {
        let mut world = World::new("");
        script(world.folder.path(), &text);
        world.follower.set_target(0, vec![world.folder.path().to_owned()]);
        world.follower.follow([of_target("db.example", 0)]).unwrap();
        // The clock of the test stands while a helper works, but for the one that is to be late.
        if !text.contains("sleep") {
            tokio::time::resume();
        }
        let why = why_of_target(&mut world).await;
        assert!(why.starts_with(expected), "{text}: {why}");
        if !text.contains("sleep") {
            tokio::time::pause();
        }
    }
}

#[tokio::test]
async fn a_helper_that_is_not_there_is_named() {
    let mut world = World::new("");
    world.follower.set_target(0, vec![world.folder.path().to_owned()]);
    world.follower.follow([of_target("db.example", 0)]).unwrap();
    let why = why_of_target(&mut world).await;
    let program = world.folder.path().join("helper");
    assert!(
        why.starts_with(&format!("cannot start {}", program.display())),
        "{why}"
    );
}

/// Targets take turns by how long they have waited: not by their numbers, and not by how much they want.
#[test]
fn who_has_waited_longest_is_asked_first() {
    let due = [(7, 70), (1, 10), (7, 71), (3, 30), (1, 11)];
    assert_eq!(
        in_turn(due),
        [(7, vec![70, 71]), (1, vec![10, 11]), (3, vec![30])]
    );
    assert_eq!(in_turn([]), []);
}
