//! What `doctor` found, for people and for programs. `docs/doctor.md` documents the second.

use std::{fmt::Write as _, io};

use anstyle::{AnsiColor, Style};
use serde::{Serialize, ser::SerializeMap};

use super::{json, live::Colour, text::is_plain};
use crate::doctor::{Detail, Item, Level, Report, Section};

/// Columns of a line, at most.
const WIDTH: usize = 110;

/// How far the names go before the states begin, at most.
const WIDEST_NAME: usize = 40;

/// Where names begin: after the mark.
const MARK_WIDTH: usize = 11;

/// The report for people: an item a line, and below it what follows.
#[must_use]
pub fn text(report: &Report, colour: Colour) -> String {
    let name_width = report
        .items
        .iter()
        .map(|(_, item)| item.name.chars().count())
        .max()
        .unwrap_or_default()
        .min(WIDEST_NAME);
    let mut out = String::new();
    let mut last = None;
    for (section, item) in &report.items {
        if last != Some(*section) {
            if last.is_some() {
                out.push('\n');
            }
            out.push_str(title(*section));
            out.push('\n');
            last = Some(*section);
        }
        lines(item, name_width, colour, &mut out);
    }
    out.push('\n');
    out.push_str(&conclusion(report));
    out
}

fn conclusion(report: &Report) -> String {
    let blocking: Vec<_> = report.blocking().map(|item| item.name.as_str()).collect();
    if blocking.is_empty() {
        "Enforcing is possible here.\n".to_owned()
    } else {
        format!("Enforcing is impossible here: {}.\n", blocking.join(", "))
    }
}

const fn title(section: Section) -> &'static str {
    match section {
        Section::Kernel => "Kernel",
        Section::Privileges => "This process",
        Section::Cgroups => "Cgroups",
        Section::Attached => "Programs attached to cgroups",
        Section::Ipv6 => "IPv6 of this network namespace",
        Section::Engines => "Container engines",
        Section::Workloads => "Workloads that cannot be governed from here",
    }
}

/// The mark of a level, which says all that the colour does.
const fn mark(level: Level) -> (&'static str, Style) {
    match level {
        Level::Ok => ("ok", AnsiColor::Green.on_default()),
        Level::Note => ("note", AnsiColor::Cyan.on_default()),
        Level::Limits => ("limits", AnsiColor::Yellow.on_default()),
        Level::Unknown => ("unknown", AnsiColor::Magenta.on_default()),
        Level::Blocks => ("BLOCKS", AnsiColor::Red.on_default().bold()),
    }
}

fn lines(item: &Item, name_width: usize, colour: Colour, out: &mut String) {
    let (mark, style) = mark(item.level);
    let mark_width = MARK_WIDTH - 2;
    match colour {
        Colour::Always => out.push_str(&format!("  {style}{mark:<mark_width$}{style:#}")),
        Colour::Never => out.push_str(&format!("  {mark:<mark_width$}")),
    }
    let name = one_line(&item.name);
    let indent = " ".repeat(MARK_WIDTH + name_width + 2);
    let options = textwrap::Options::new(WIDTH).subsequent_indent(&indent);
    let state = one_line(&item.state);
    // The state begins behind the name, wherever that ends.
    let beginning = format!("{}{name:<name_width$}  ", " ".repeat(MARK_WIDTH));
    let first = textwrap::fill(&state, options.clone().initial_indent(&beginning));
    out.push_str(first.get(MARK_WIDTH..).unwrap_or_default());
    out.push('\n');
    let rest = [("so: ", &item.follows), ("hint: ", &item.hint)];
    for (word, text) in rest {
        if let Some(text) = text {
            let text = format!("{word}{}", one_line(text));
            let filled = textwrap::fill(&text, options.clone().initial_indent(&indent));
            out.push_str(&filled);
            out.push('\n');
        }
    }
}

/// Names of cgroups and programs are others' to choose: no control characters, and no lines of their own.
pub(super) fn one_line(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        if is_plain(c) {
            out.push(c);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "{}", c.escape_debug());
        }
        out
    })
}

/// The whole, for programs.
#[derive(Serialize)]
struct JsonReport<'report> {
    enforcing_possible: bool,
    items: Vec<JsonItem<'report>>,
}

#[derive(Serialize)]
struct JsonItem<'report> {
    section: Section,
    item: &'static str,
    subject: Option<&'report str>,
    name: &'report str,
    state: &'report str,
    level: Level,
    follows: Option<&'report str>,
    hint: Option<&'report str>,
    details: Details<'report>,
}

struct Details<'report>(&'report [(&'static str, Detail)]);

impl Serialize for Details<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The report for programs: one JSON object on one line.
///
/// # Errors
///
/// Whatever serialising fails with; writing to memory itself does not.
pub fn json(report: &Report) -> io::Result<Vec<u8>> {
    let items = report.items.iter().map(|(section, item)| JsonItem {
        section: *section,
        item: item.item,
        subject: item.subject.as_deref(),
        name: &item.name,
        state: &item.state,
        level: item.level,
        follows: item.follows.as_deref(),
        hint: item.hint.as_deref(),
        details: Details(&item.details),
    });
    let mut out = Vec::new();
    json::append(
        &JsonReport {
            enforcing_possible: report.blocking().next().is_none(),
            items: items.collect(),
        },
        &mut out,
    )?;
    out.push(b'\n');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn item(name: &str, state: &str, level: Level, follows: Option<&str>) -> (Section, Item) {
        let item = Item {
            item: "release",
            subject: None,
            name: name.to_owned(),
            state: state.to_owned(),
            level,
            follows: follows.map(str::to_owned),
            hint: None,
            details: vec![
                ("programs", Detail::Number(3)),
                ("held_by", Detail::List(vec!["a".to_owned()])),
            ],
        };
        (Section::Kernel, item)
    }

    fn report(level: Level) -> Report {
        Report {
            items: vec![
                item("release", "6.12", Level::Ok, None),
                item("longer name", "no", level, Some("a consequence")),
            ],
        }
    }

    #[test]
    fn states_stand_in_one_column_and_consequences_below_them() {
        assert_eq!(
            text(&report(Level::Limits), Colour::Never),
            "Kernel\n\
             \x20 ok       release      6.12\n\
             \x20 limits   longer name  no\n\
             \x20                       so: a consequence\n\
             \nEnforcing is possible here.\n"
        );
    }

    #[test]
    fn what_blocks_is_named_at_the_end_and_in_json() {
        let blocked = report(Level::Blocks);
        assert!(text(&blocked, Colour::Never).ends_with("\nEnforcing is impossible here: longer name.\n"));
        let json: serde_json::Value = serde_json::from_slice(&json(&blocked).unwrap()).unwrap();
        assert_eq!(json["enforcing_possible"], false);
        assert_eq!(json["items"][1]["level"], "blocks");
        assert_eq!(json["items"][1]["follows"], "a consequence");
        assert_eq!(json["items"][0]["details"]["programs"], 3);
        assert_eq!(json["items"][0]["details"]["held_by"][0], "a");
    }

    #[test]
    fn colour_changes_nothing_but_itself() {
        let coloured = text(&report(Level::Blocks), Colour::Always);
        assert_ne!(coloured, text(&report(Level::Blocks), Colour::Never));
        assert_eq!(
            anstream::adapter::strip_str(&coloured).to_string(),
            text(&report(Level::Blocks), Colour::Never)
        );
    }

    /// What follows each `Item::new(` and `Item::unknown(` in doctor's files.
    fn items_made() -> BTreeSet<&'static str> {
        const FILES: &[&str] = &[
            include_str!("../doctor/kernel.rs"),
            include_str!("../doctor/privileges.rs"),
            include_str!("../doctor/cgroups.rs"),
            include_str!("../doctor/attached.rs"),
            include_str!("../doctor/ipv6.rs"),
            include_str!("../doctor/engines.rs"),
            include_str!("../doctor/workloads.rs"),
        ];
        FILES
            .iter()
            .flat_map(|file| file.split("Item::new(").chain(file.split("Item::unknown(")))
            .filter_map(|after| after.trim_start().strip_prefix('"')?.split('"').next())
            .collect()
    }

    #[test]
    fn every_item_is_documented_and_no_other() {
        let documented: BTreeSet<_> = include_str!("../../../docs/doctor.md")
            .split("## Items")
            .nth(1)
            .unwrap()
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        assert_eq!(items_made(), documented);
    }

    #[test]
    fn a_hostile_name_stays_within_its_line() {
        let hostile = Report {
            items: vec![item("x\n\x1b[2J", "y\nEnforcing is possible", Level::Note, None)],
        };
        let shown = text(&hostile, Colour::Never);
        assert!(
            shown.contains("x\\n\\u{1b}[2J") && shown.contains("y\\nEnforcing"),
            "{shown}"
        );
    }
}
