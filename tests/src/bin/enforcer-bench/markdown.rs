//! Results as tables of a document, between two markers in it.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use crate::{
    machine::Machine,
    report::{Row, Standing},
    results::Results,
};

/// What stands before and after the tables in the document.
const BEGIN: &str = "<!-- measured: begin; written by `cargo xtask bench --bless` -->";
const END: &str = "<!-- measured: end -->";

/// The machine, and a table for each group.
pub(crate) fn tables(machine: &Machine, all: &[Results]) -> String {
    let mut text = String::new();
    for (name, fact) in machine.facts() {
        let _ = writeln!(text, "- {name}: {fact}");
    }
    for results in all {
        let _ = write!(
            text,
            "\n### {}\n\n`cargo xtask bench --only {}`\n\n| | goal | reached | 95 % | |\n|---|---|---|---|---|\n",
            results.what, results.group
        );
        for row in &results.outcome.rows {
            text.push_str(&line(row));
        }
        for plot in &results.outcome.plots {
            let _ = write!(text, "\n![{}](img/{}.svg)\n", plot.title, plot.name);
        }
    }
    text
}

fn line(row: &Row) -> String {
    let [what, goal, reached, interval, mark] = row.cells();
    let mark = if row.standing() == Standing::FallsShort {
        format!("**{mark}**")
    } else {
        mark
    };
    let note = row
        .note
        .as_ref()
        .map_or_else(String::new, |note| format!(": {note}"));
    // What is only compared with stands apart, as it does on a terminal.
    let what = if what.starts_with(' ') {
        format!("&emsp;{}", what.trim_start())
    } else {
        what
    };
    format!(
        "| {what} | {goal} | {reached} | {interval} | {}{} |\n",
        mark,
        note.replace('|', "\\|").replace('\n', " ")
    )
}

/// The document with other tables.
pub(crate) fn replaced(document: &str, tables: &str) -> Result<String> {
    let missing = || format!("find the markers of the tables: {BEGIN:?} and {END:?}");
    let (before, rest) = document.split_once(BEGIN).with_context(missing)?;
    let (_, after) = rest.split_once(END).with_context(missing)?;
    Ok(format!("{before}{BEGIN}\n\n{tables}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_by_hand_stays() {
        let document = format!("# Title\n\n{BEGIN}\nold\n{END}\n\nEnd.\n");
        let once = replaced(&document, "new\n").unwrap();
        assert_eq!(once, format!("# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nEnd.\n"));
        assert_eq!(replaced(&once, "new\n").unwrap(), once);
        assert!(replaced("no markers", "new\n").is_err());
    }
}
