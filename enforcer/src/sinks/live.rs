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
    event::Event,
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
            // Half an address … the longest address with the longest port.
            destination: Column::new(32..47),
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
        Some(would) if event.rule.is_none() => (
            would.action,
            would.errno(),
            would.redirect_to(event.daddr, event.dport),
        ),
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
    let notes = [why(event), datagrams(event)];
    let notes: Vec<_> = notes.into_iter().flatten().collect();
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// That it was not a connect, and how many datagrams there were.
fn datagrams(event: &Event) -> Option<String> {
    let count = event.datagrams?;
    let said = event.unmovable == Some(Checked::Known(Unmovable::Unconnected));
    match (count, said) {
        (1, true) => None,
        (_, true) => Some(format!("{count} datagrams")),
        (1, false) => Some("a datagram, not connected".to_owned()),
        (_, false) => Some(format!("{count} datagrams, not connected")),
    }
}

/// Why it did not become what the rule says.
fn why(event: &Event) -> Option<String> {
    if let Some(reason) = event.unmovable {
        let why = match reason {
            Checked::Known(Unmovable::Unconnected) => "not connected".to_owned(),
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
    if let (Some(would), Some(_)) = (&event.would, &event.rule) {
        let action = Word::action(would.action);
        let rule = would.rule.as_ref().map_or_else(String::new, ToString::to_string);
        return Some(format!("would {action} by {}", Harmless(&rule)));
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
mod tests;
