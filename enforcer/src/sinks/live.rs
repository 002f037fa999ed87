//! One line a connect, for people.
//!
//! From left to right in the order of the questions: when, what was done, how it ended or where it went, to
//! what it was, who asked, and because of which rule. Colour only repeats what the words say. Names that
//! others chose are made harmless first: anyone can call a thread `\x1b[2J`.

use std::{
    borrow::Cow,
    io::{self, Write as _},
    ops::Range,
};

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use anstyle::{AnsiColor, Style};
use enforcer_common::{
    clause::Action,
    decide::{Mode, Unmovable},
};
use jiff::tz::TimeZone;

use super::{
    Render,
    text::{Harmless, Word},
};
use crate::events::{
    decode::{Checked, Protocol},
    enrich::Event,
    hub::Item,
};

/// Whether lines are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Plain text.
    Never,
    /// With ANSI escape sequences.
    Always,
}

impl Colour {
    /// What suits that stream: colour on a terminal, unless `NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE` or
    /// `TERM=dumb` say otherwise.
    #[must_use]
    pub fn for_stream(stream: &impl RawStream) -> Self {
        match AutoStream::choice(stream) {
            ColorChoice::Never => Self::Never,
            ColorChoice::Auto | ColorChoice::AlwaysAnsi | ColorChoice::Always => Self::Always,
        }
    }
}

const DIM: Style = Style::new().dimmed();
const REJECT: Style = AnsiColor::Red.on_default().bold();
const REDIRECT: Style = AnsiColor::Cyan.on_default().bold();
const WOULD: Style = AnsiColor::Yellow.on_default();
const LOST: Style = AnsiColor::Magenta.on_default().bold();
const PLAIN: Style = Style::new();

/// `reject`, and `would redirect` where the mode is audit.
const VERDICT_WIDTH: usize = 8;
const AUDIT_VERDICT_WIDTH: usize = 14;
const PROTO_WIDTH: usize = 6;

/// Renders items as lines for people.
#[derive(Debug)]
pub struct Live {
    colour: Colour,
    zone: TimeZone,
    outcome: Column,
    destination: Column,
    process: Column,
    target: Column,
}

/// A column that begins with a sensible width and grows with what it is given, within limits: lines are
/// aligned after a few events, and one odd name does not push everything off the screen.
#[derive(Debug)]
struct Column {
    width: usize,
    widest: usize,
}

impl Column {
    const fn new(widths: Range<usize>) -> Self {
        Self {
            width: widths.start,
            widest: widths.end,
        }
    }

    fn fit(&mut self, text: &str) -> usize {
        self.width = self.width.max(text.chars().count().min(self.widest));
        self.width
    }
}

impl Live {
    /// Lines with times of day in that zone.
    #[must_use]
    pub const fn new(colour: Colour, zone: TimeZone) -> Self {
        Self {
            colour,
            zone,
            // ENETUNREACH … → an IPv4 address with a port.
            outcome: Column::new(13..24),
            // A short address … the longest address with the longest port.
            destination: Column::new(26..47),
            // A short name … 15 characters and a pid.
            process: Column::new(14..25),
            target: Column::new(6..24),
        }
    }

    fn connect(&mut self, event: &Event, block: &mut Vec<u8>) -> io::Result<()> {
        let (verdict, style) = verdict(event);
        let verdict_width = match event.mode {
            Checked::Known(Mode::Audit) => AUDIT_VERDICT_WIDTH,
            _ => VERDICT_WIDTH,
        };
        self.styled(block, style, &verdict, verdict_width)?;

        let text = outcome(event);
        let width = self.outcome.fit(&text);
        self.styled(block, PLAIN, &text, width)?;

        let text = format!("[{}]:{}", event.daddr, event.dport);
        let width = self.destination.fit(&text);
        self.styled(block, PLAIN, &text, width)?;

        let proto = match event.protocol {
            Protocol::Mptcp => Word::Name("mptcp"),
            other => Word::protocol(other),
        };
        self.styled(block, PLAIN, &proto.to_string(), PROTO_WIDTH)?;

        let comm = event.comm.to_text().unwrap_or(Cow::Borrowed("?"));
        let text = format!("{}[{}]", Harmless(&comm), event.pid);
        let width = self.process.fit(&text);
        self.styled(block, PLAIN, &text, width)?;

        let text = Harmless(event.target.as_deref().unwrap_or("?")).to_string();
        let width = self.target.fit(&text);
        self.styled(block, PLAIN, &text, width)?;

        let would_rule = event.would.as_ref().and_then(|would| would.rule.as_ref());
        match event.rule.as_ref().or(would_rule) {
            Some(rule) => write!(block, "{}", Harmless(&rule.to_string()))?,
            None => block.push(b'-'),
        }
        if let Some(note) = note(event) {
            write!(block, "  ({note})")?;
        }
        Ok(())
    }

    /// The text, then spaces up to the width and two more.
    fn styled(&self, block: &mut Vec<u8>, style: Style, text: &str, width: usize) -> io::Result<()> {
        match self.colour {
            Colour::Never => write!(block, "{text}")?,
            Colour::Always => write!(block, "{style}{text}{style:#}")?,
        }
        let padding = 2 + width.saturating_sub(text.chars().count());
        write!(block, "{:padding$}", "")
    }
}

impl Render for Live {
    fn render(&mut self, item: &Item, block: &mut Vec<u8>) -> io::Result<()> {
        let time = match item {
            Item::Connect(event) => event.time,
            Item::Lost { time, .. } => *time,
        };
        let time = time
            .to_zoned(self.zone.clone())
            .strftime("%H:%M:%S%.3f")
            .to_string();
        self.styled(block, DIM, &time, 0)?;
        match item {
            Item::Connect(event) => self.connect(event, block)?,
            Item::Lost { count, .. } => {
                self.styled(block, LOST, "lost", VERDICT_WIDTH)?;
                let noun = if *count == 1 { "event" } else { "events" };
                write!(
                    block,
                    "{count} {noun} could not be delivered; verdicts are not affected"
                )?;
            }
        }
        block.push(b'\n');
        Ok(())
    }
}

/// What was done, or what would have been, in words that cannot be taken for each other.
fn verdict(event: &Event) -> (String, Style) {
    if let Some(would) = &event.would
        && event.rule.is_none()
    {
        let style = match would.action {
            Checked::Known(Action::Allow) => PLAIN,
            _ => WOULD,
        };
        return (format!("would {}", Word::action(would.action)), style);
    }
    let style = match event.verdict {
        Checked::Known(Action::Allow) => PLAIN,
        Checked::Known(Action::Reject) => REJECT,
        Checked::Known(Action::Redirect) => REDIRECT,
        Checked::Unknown(_) => LOST,
    };
    (Word::action(event.verdict).to_string(), style)
}

/// The errno that the caller got or would have got, or the new address.
fn outcome(event: &Event) -> String {
    let (action, errno, redirect_to) = match &event.would {
        Some(would) if event.rule.is_none() => (would.action, would.errno(), would.redirect_to(event.dport)),
        _ => (event.verdict, event.errno_caller, event.redirect_to),
    };
    let known = match action {
        Checked::Known(Action::Reject) => errno.map(|errno| Word::errno(errno).to_string()),
        Checked::Known(Action::Redirect) => redirect_to.map(|to| format!("→ {to}")),
        Checked::Known(Action::Allow) | Checked::Unknown(_) => None,
    };
    known.unwrap_or_else(|| "-".to_owned())
}

/// What does not go without saying.
fn note(event: &Event) -> Option<String> {
    if let Some(reason) = event.unmovable {
        let why = match reason {
            Checked::Known(Unmovable::Ping) => "a ping socket".to_owned(),
            Checked::Known(Unmovable::Bound) => "bound to an IPv6 address".to_owned(),
            Checked::Known(Unmovable::V6Only) => "IPv6 only".to_owned(),
            Checked::Unknown(raw) => format!("unmovable, reason {raw}"),
        };
        let to = event
            .redirect_to
            .map_or_else(String::new, |to| format!(" → {to}"));
        return Some(format!("not redirected{to}: the socket is {why}"));
    }
    match (event.errno, event.errno_caller) {
        (Some(ruled), Some(caller)) if ruled != caller => Some(format!(
            "the rule says {}; this kernel cannot",
            Word::errno(ruled)
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
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

    const DOCS: &str = include_str!("../../../docs/events.md");

    fn plain() -> Live {
        Live::new(Colour::Never, TimeZone::UTC)
    }

    fn line(live: &mut Live, event: Event) -> String {
        render(live, &Item::Connect(Arc::new(event)))
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
    fn the_documented_lines_are_what_is_printed() {
        let mut live = plain();
        let mut all = String::new();
        for record in [fixture::rejected(), fixture::redirected(), fixture::allowed()] {
            all += &line(&mut live, event_of(record));
        }
        all += &render(&mut live, &lost(12));
        let expected = "\
02:59:58.417  reject    ENETUNREACH    [2406:da1a:7::5]:5432       tcp     psql[4242]      web     aws-apse1-has-no-route-here
02:59:58.417  redirect  → 10.77.0.1    [2001:db8:3::1]:5432        tcp     psql[4242]      web     policy.toml:12
02:59:58.417  allow     -              [2a00:1450:4001:829::200e]:5432  tcp     psql[4242]      web     -
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
02:59:58.417  would reject    ENETUNREACH    [2406:da1a:7::5]:5432       tcp     psql[4242]      web     aws-apse1-has-no-route-here
02:59:58.417  allow           -              [2a00:1450:4001:829::200e]:5432  tcp     psql[4242]      web     -
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
}
