//! The tables of `docs/clients.md`.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use enforcer_tests::{
    clients::{
        table::{Client, Reject},
        world::Mode,
    },
    lab::Breakage,
};

use crate::report::{Line, Report, text};

/// Between these the document is written by the program.
const BEGIN: &str = "<!-- begin: cargo xtask clients --bless -->\n";
const END: &str = "<!-- end -->\n";

/// The document with other tables.
pub(crate) fn replaced(document: &str, tables: &str) -> Result<String> {
    let (before, rest) = document
        .split_once(BEGIN)
        .context("find where the tables begin")?;
    let (_, after) = rest.split_once(END).context("find where the tables end")?;
    Ok(format!("{before}{BEGIN}\n{tables}\n{END}{after}"))
}

/// A table for each breakage, and one of what does not help.
pub(crate) fn tables(report: &Report) -> String {
    let mut text = String::new();
    let software: Vec<_> = report
        .software
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let _ = writeln!(text, "Linux {}; {}.\n", report.kernel, software.join(", "));
    failures(&mut text, report);
    for breakage in Breakage::ALL {
        let lines = report.lines();
        let rows: Vec<_> = lines.iter().filter(|line| line.breakage == breakage).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(text, "### `{breakage}`: {}\n", breakage.description());
        let _ = writeln!(
            text,
            "| client | IPv4 name | without enforcer | `reject` | redirect |"
        );
        let _ = writeln!(text, "|---|---:|---:|---:|---:|");
        for row in rows {
            line(&mut text, row);
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn line(to: &mut String, row: &Line<'_>) {
    let cells = Mode::ALL.map(|mode| {
        let cell = row.cells.of(mode);
        match cell.arrived() {
            true => text(cell),
            false => format!("**{}**", text(cell)),
        }
    });
    let place = if row.contained { " (container)" } else { "" };
    let plain = text(&row.cells.plain);
    let _ = writeln!(
        to,
        "| {}{place} | {plain} | {} | {} | {} |",
        row.client.name, cells[0], cells[1], cells[2]
    );
}

/// Why a client is not helped, if it is not.
type Why = fn(&Client) -> Option<&'static str>;

/// Who is not helped by a rule, and why.
fn failures(to: &mut String, report: &Report) {
    let lines = report.lines();
    let of_rejects: Why = |client| match client.reject {
        Reject::FirstOnly(why) => Some(why),
        Reject::TriesNext | Reject::Sorts => None,
    };
    let sections: [(&str, Why); 2] = [
        (
            "Whom a `reject` does not help though the name has an IPv4 address",
            of_rejects,
        ),
        (
            "Whom a redirect does not help where there is no IPv4 address",
            |client| client.unmovable,
        ),
    ];
    for (heading, why) in sections {
        let _ = writeln!(to, "### {heading}\n\n| client | because it |\n|---|---|");
        for line in &lines {
            if line.breakage == Breakage::BlackHole
                && !line.contained
                && let Some(why) = why(&line.client)
            {
                let _ = writeln!(to, "| {} | {why} |", line.client.name);
            }
        }
        to.push('\n');
    }
}
