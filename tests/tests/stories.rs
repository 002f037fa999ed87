//! The stories from the field, as `cargo xtask story` tells them. What is asserted is what came of everything, not how long
//! it took: that is for the program that tells them, on a machine that does nothing else.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::IpAddr;

use enforcer_common::clause::{rollout_below, rollout_hash, text_hash};
use enforcer_tests::{
    lab::{Breakage, SERVER_IPV4, SERVER_IPV6},
    need::{Need, need},
    stories::{
        Screen, compose,
        firewall::{self, PROCESSES},
        orm::{self, Orm},
        websocket::{self, Circumstance, ROOMS},
    },
};
use serde_json::{Value, json};

/// Whether everything is there that the test needs.
fn all(test: &str, needs: &[Need]) -> bool {
    needs.iter().all(|one| need(test, *one))
}

/// Each event has these values.
#[track_caller]
fn are(events: &[Value], expected: &Value) {
    for event in events {
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&event[key], value, "{key} of {event}");
        }
    }
}

#[test]
fn an_orm_connects_at_once_where_it_hung_or_had_no_route() {
    let test = "an_orm_connects_at_once_where_it_hung_or_had_no_route";
    let needs = [Need::Node, Need::NodePackages, Need::Postgres, Need::Pgbouncer];
    if !all(test, &needs) {
        return;
    }
    let told = orm::tell(&mut Screen::nobody()).unwrap();
    assert_eq!(told.shortfalls(), [""; 0]);

    assert_eq!(told.black_hole.len(), 2);
    for case in &told.black_hole {
        for failure in &case.before.failures {
            assert!(orm::timed_out(failure), "{}: {failure}", case.orm);
        }
        assert_eq!(case.before.failures.len(), 2, "{}", case.orm);
        // A probe of the C library's for each connection; no connect by IPv6, as nobody tried.
        assert_eq!(case.after.events.len(), case.orm.connections(), "{}", case.orm);
        let probe = json!({"verdict": "reject", "proto": "udp", "daddr": SERVER_IPV6.to_string()});
        are(&case.after.events, &probe);
    }
    // Two URLs by two policies, for each service.
    assert_eq!(told.no_route.len(), 8);
    for case in &told.no_route {
        assert_eq!(case.before.failures, ["ENETUNREACH"; 2], "{}", case.orm);
        assert_eq!(case.after.events.len(), case.orm.connections(), "{}", case.orm);
        let moved = json!({
            "verdict": "redirect",
            "proto": "tcp",
            "daddr": SERVER_IPV6.to_string(),
            "dport": 5432,
            "redirect_to": format!("{SERVER_IPV4}:6432"),
        });
        are(&case.after.events, &moved);
    }
    // Neither server has had a connection more than those, and behind the pooler all came from it.
    let (came, expected) = &told.black_hole_connections;
    assert_eq!((came.len(), *expected), (3, 3));
    let (came, expected) = &told.pooler_connections;
    assert_eq!((came.len(), *expected), (4 * 3, 4 * 3));
    assert!(!told.behind_pooler.is_empty());
    for came in &told.behind_pooler {
        assert_eq!(*came, IpAddr::from(SERVER_IPV4));
    }
    assert_eq!(told.undone.len(), 3);
    for undone in &told.undone {
        assert_eq!((undone.failures.len(), undone.connected_ms), (2, None));
    }
    assert_eq!(Orm::ALL.map(Orm::connections), [1, 2]);
}

#[test]
fn one_service_of_a_compose_file_is_mended_and_its_neighbour_is_untouched() {
    let test = "one_service_of_a_compose_file_is_mended_and_its_neighbour_is_untouched";
    let needs = [
        Need::Node,
        Need::NodePackages,
        Need::Postgres,
        Need::Docker,
        Need::Compose,
    ];
    if !all(test, &needs) {
        return;
    }
    let told = compose::tell(&mut Screen::nobody()).unwrap();
    assert_eq!(told.shortfalls(), [""; 0]);
    let [orders, reports] = &told.governed;
    assert_eq!(orders.server, Some(SERVER_IPV4.into()));
    assert_eq!(orders.remote, Some(SERVER_IPV6.into()), "what it asked for");
    let [before, undone] = [&told.before, &told.undone];
    for answer in before.iter().chain(undone).chain([reports]) {
        assert_eq!(answer.code.as_deref(), Some("EADDRNOTAVAIL"), "{answer:?}");
    }
    assert_eq!(told.events.len(), 1, "{:?}", told.events);
    let moved =
        json!({"verdict": "redirect", "target": "shop-orders", "redirect_to": SERVER_IPV4.to_string()});
    are(&told.events, &moved);
    assert_eq!(told.connections.len(), 1, "{:?}", told.connections);
}

#[test]
fn a_bridge_joins_a_hundred_rooms_by_a_hundred_sockets() {
    let test = "a_bridge_joins_a_hundred_rooms_by_a_hundred_sockets";
    if !all(test, &[Need::Node, Need::NodePackages]) {
        return;
    }
    let told = websocket::tell(&mut Screen::nobody()).unwrap();
    assert_eq!(told.chapters.len(), Circumstance::ALL.len());
    for chapter in &told.chapters {
        let Circumstance {
            breakage,
            happy_eyeballs,
            ..
        } = chapter.circumstance;
        let counts = |account: &websocket::Account| {
            (
                account.attempts,
                account.successes,
                account.timeouts,
                account.enetunreach,
            )
        };
        let before = match (breakage, happy_eyeballs) {
            (_, true) => (ROOMS, ROOMS, 0, 0),
            (Breakage::BlackHole, false) => (ROOMS, 0, ROOMS, 0),
            (_, false) => (ROOMS, 0, 0, ROOMS),
        };
        assert_eq!(counts(&chapter.before), before, "{}", chapter.circumstance);
        let sockets = if happy_eyeballs { 2 * ROOMS } else { ROOMS };
        assert_eq!(chapter.before.sockets, sockets, "{}", chapter.circumstance);

        assert_eq!(
            counts(&chapter.after),
            (ROOMS, ROOMS, 0, 0),
            "{}",
            chapter.circumstance
        );
        assert_eq!(chapter.after.sockets, ROOMS, "{}", chapter.circumstance);
        // Each lookup ranks the addresses once more.
        assert_eq!(chapter.after.events.len(), ROOMS, "{}", chapter.circumstance);
        are(
            &chapter.after.events,
            &json!({"verdict": "reject", "proto": "udp"}),
        );
        // For each room its A and its AAAA records.
        for account in [&chapter.before, &chapter.after] {
            assert_eq!(account.questions, 2 * ROOMS, "{}", chapter.circumstance);
        }
        assert_eq!(chapter.undone.sockets, if happy_eyeballs { 2 } else { 1 });
        assert_eq!(
            chapter.undone.successes == 1,
            happy_eyeballs,
            "{}",
            chapter.circumstance
        );
    }
}

#[test]
fn what_a_firewall_drops_is_rejected_for_all_or_for_a_quarter_of_the_processes() {
    let test = "what_a_firewall_drops_is_rejected_for_all_or_for_a_quarter_of_the_processes";
    if !all(test, &[Need::Python3, Need::Node, Need::Curl, Need::Nft]) {
        return;
    }
    let told = firewall::tell(&mut Screen::nobody()).unwrap();
    assert_eq!(told.shortfalls(), [""; 0]);
    assert_eq!(told.clients.len(), 3);
    assert_eq!(told.by_ipv6, (3, 0), "before the firewall, and since");
    let rollout = &told.rollout;
    assert_eq!(rollout.fetched.len() + rollout.hung.len(), PROCESSES);
    let salt = text_hash(b"the-firewall-drops-ipv6");
    let is_in = |pid: &u64| rollout_hash(salt, u32::try_from(*pid).unwrap()) < rollout_below(25);
    assert!(rollout.fetched.iter().all(is_in), "{rollout:?}");
    assert!(!rollout.hung.iter().any(is_in), "{rollout:?}");
}
