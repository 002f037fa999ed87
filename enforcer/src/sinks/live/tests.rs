//! Golden lines, and what must hold whatever the names are.

use std::sync::Arc;

use enforcer_common::record::ConnectRecord;
use jiff::tz::{Offset, TimeZone};

use super::*;
use crate::{
    events::{
        enrich::{CallerErrno, Catalog},
        fixture::{self, comm, event_of, event_with, rule},
    },
    policy::rule::RuleAction,
};

const DOCS: &str = include_str!("../../../../docs/events.md");

fn plain() -> Live {
    Live::new(Colour::Never, TimeZone::UTC)
}

fn line(live: &mut Live, event: Event) -> String {
    render(live, &Item::Connect(event.into()))
}

fn render(live: &mut Live, item: &Item) -> String {
    let mut block = Vec::new();
    live.render(item, &mut block).unwrap();
    String::from_utf8(block).unwrap()
}

fn lost(count: u64) -> Item {
    let time = "2026-03-01T02:59:59Z".parse().unwrap();
    Item::Lost { time, count }
}

#[test]
fn datagrams_are_told_apart_from_connects_and_counted() {
    let unmoved = "not redirected → 10.77.0.1: the socket is not connected";
    let rejected = ConnectRecord {
        unmovable: 0,
        ..fixture::sent()
    };
    for (record, count, expected) in [
        (fixture::sent(), 1, format!("  ({unmoved})\n")),
        (fixture::sent(), 7, format!("  ({unmoved}; 7 datagrams)\n")),
        (rejected, 1, "  (a datagram, not connected)\n".to_owned()),
        (rejected, 7, "  (7 datagrams, not connected)\n".to_owned()),
    ] {
        let mut event = event_of(record);
        event.datagrams = Some(count);
        let text = line(&mut plain(), event);
        assert!(text.ends_with(&expected), "{text}");
    }
}

#[test]
fn the_documented_lines_are_what_is_printed() {
    let mut live = plain();
    let mut all = String::new();
    for record in [fixture::rejected(), fixture::redirected(), fixture::allowed()] {
        all += &line(&mut live, event_of(record));
    }
    all += &render(&mut live, &lost(12));
    let expected = "\
02:59:58.417  reject    ENETUNREACH    [2406:da1a:7::5]:5432             tcp     psql[4242]      web     aws-apse1-has-no-route-here
02:59:58.417  redirect  → 10.77.0.1    [2001:db8:3::1]:5432              tcp     psql[4242]      web     policy.toml:12
02:59:58.417  allow     -              [2a00:1450:4001:829::200e]:5432   tcp     psql[4242]      web     -
02:59:59.000  lost      12 events could not be delivered; verdicts are not affected
";
    assert_eq!(all, expected);
    assert!(DOCS.contains(&all), "docs/events.md lacks\n{all}");

    let mut audit = plain();
    let all = line(&mut audit, event_of(fixture::audited()))
        + &line(
            &mut audit,
            event_of(ConnectRecord {
                mode: 1,
                ..fixture::allowed()
            }),
        );
    let expected = "\
02:59:58.417  would reject    ENETUNREACH    [2406:da1a:7::5]:5432             tcp     psql[4242]      web     aws-apse1-has-no-route-here
02:59:58.417  allow           -              [2a00:1450:4001:829::200e]:5432   tcp     psql[4242]      web     -
";
    assert_eq!(all, expected);
    assert!(DOCS.contains(&all), "docs/events.md lacks\n{all}");
}

#[test]
fn audit_never_looks_like_done() {
    for would in [0_u8, 1, 2] {
        let text = line(
            &mut plain(),
            event_of(ConnectRecord {
                would,
                would_rule: 1,
                ..fixture::audited()
            }),
        );
        assert_eq!(
            text.split("  ").nth(1).unwrap().split(' ').next(),
            Some("would"),
            "{text}"
        );
    }
}

#[test]
fn audit_shows_where_it_would_have_gone() {
    let record = ConnectRecord {
        would: 2,
        would_rule: 1,
        ..fixture::audited()
    };
    let text = line(&mut plain(), event_of(record));
    assert!(text.contains("would redirect  → 10.77.0.1 "), "{text}");
}

#[test]
fn colour_repeats_the_words_and_adds_none() {
    for record in [
        fixture::rejected(),
        fixture::redirected(),
        fixture::allowed(),
        fixture::audited(),
    ] {
        let coloured = line(&mut Live::new(Colour::Always, TimeZone::UTC), event_of(record));
        let without = anstream::adapter::strip_str(&coloured).to_string();
        assert_ne!(coloured, without);
        assert_eq!(without, line(&mut plain(), event_of(record)));
    }
}

#[test]
fn without_colour_there_is_no_escape_sequence_whatever_a_thread_calls_itself() {
    let mut catalog = Catalog::new(CallerErrno::AsRuled);
    catalog.name_target(1, "t\x1b[31m");
    catalog.publish_rules(
        1,
        0,
        Arc::new([rule("r\r\u{9b}2J\u{202e}", &["::/0"], RuleAction::Reject)]),
    );
    let record = ConnectRecord {
        comm: comm("\x1b[2J\n\x07\u{202e}x".as_bytes()),
        ..fixture::rejected()
    };
    let text = line(&mut plain(), event_with(&catalog, record));
    assert!(text.contains(r"\u{1b}[2J\n\u{7}\u{202e}x[4242]"), "{text}");
    assert!(text.contains(r"r\r\u{9b}2J\u{202e}"), "{text}");
    let body = text.strip_suffix('\n').unwrap();
    assert!(
        body.chars().all(|c| c == '→' || (' '..='~').contains(&c)),
        "{body:?}"
    );
}

#[test]
fn lines_are_aligned_once_the_longest_was_seen_and_an_odd_one_does_not_widen_for_ever() {
    let mut live = plain();
    let long = ConnectRecord {
        daddr_be: fixture::words("2600:1f18:2148:bc00:8c4f:5a1b:1f2e:9d3a"),
        comm: comm("\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b".as_bytes()),
        ..fixture::rejected()
    };
    line(&mut live, event_of(long));
    let columns = |text: String| text.find("web").unwrap();
    let short = columns(line(&mut live, event_of(fixture::rejected())));
    let again = columns(line(&mut live, event_of(fixture::allowed())));
    assert_eq!(short, again);
    assert!(short < 140, "{short}");
}

#[test]
fn what_does_not_go_without_saying_is_said() {
    let bound = ConnectRecord {
        verdict: 1,
        errno: 113,
        unmovable: 2,
        ..fixture::redirected()
    };
    let text = line(&mut plain(), event_of(bound));
    assert!(text.contains(" reject    EHOSTUNREACH "), "{text}");
    let note = "(not redirected → 10.77.0.1: the socket is bound to an IPv6 address)\n";
    assert!(text.ends_with(note), "{text}");

    // One rule acted, another is only tried.
    let both = ConnectRecord {
        would: 2,
        would_rule: 1,
        ..fixture::rejected()
    };
    let text = line(&mut plain(), event_of(both));
    assert!(text.contains(" reject    ENETUNREACH "), "{text}");
    assert!(
        text.ends_with("aws-apse1-has-no-route-here  (would redirect by policy.toml:12)\n"),
        "{text}"
    );

    let old = fixture::catalog(CallerErrno::AlwaysEperm);
    let text = line(&mut plain(), event_with(&old, fixture::rejected()));
    assert!(text.contains(" reject    EPERM "), "{text}");
    assert!(
        text.ends_with("(the rule says ENETUNREACH; this kernel cannot)\n"),
        "{text}"
    );
}

#[test]
fn unknown_numbers_are_shown_as_numbers() {
    let record = ConnectRecord {
        verdict: 9,
        protocol: 132,
        comm: [0; 16],
        target: 99,
        ..fixture::rejected()
    };
    let text = line(&mut plain(), event_of(record));
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(
        words[1..7],
        ["9", "-", "[2406:da1a:7::5]:5432", "132", "?[4242]", "?"]
    );
    let mptcp = ConnectRecord {
        protocol: 262,
        ..fixture::rejected()
    };
    assert!(line(&mut plain(), event_of(mptcp)).contains(" mptcp "));
}

#[test]
fn the_time_of_day_is_local() {
    let zone = TimeZone::fixed(Offset::constant(5));
    let mut live = Live::new(Colour::Never, zone);
    assert!(render(&mut live, &lost(1)).starts_with("07:59:59.000  lost      1 event could"));
}

#[test]
fn memory_is_no_terminal() {
    if std::env::var_os("CLICOLOR_FORCE").is_none() {
        assert_eq!(Colour::for_stream(&Vec::<u8>::new()), Colour::Never);
    }
}
