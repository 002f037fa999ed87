//! How the outcome looks on a terminal.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to a person in a terminal is what it is for"
)]

use crate::{machine::Machine, report::Row};

/// Says what went wrong.
pub(crate) fn problem(text: &str) {
    eprintln!("enforcer-bench: {text}");
}

/// Says what is measured.
pub(crate) fn header(machine: &Machine) {
    for (name, fact) in machine.facts() {
        println!("{name:<12}{fact}");
    }
}

/// Prints rows, aligned, each with its note below.
pub(crate) fn print(what: &str, rows: &[Row]) {
    println!("\n{what}");
    let header = ["", "goal", "reached", "95 %", ""].map(str::to_owned);
    let lines: Vec<[String; 5]> = std::iter::once(header)
        .chain(rows.iter().map(Row::cells))
        .collect();
    let widths: [usize; 5] = std::array::from_fn(|column| {
        let of_column = lines.iter().map(|line| line[column].chars().count());
        of_column.max().unwrap_or(0)
    });
    let notes = std::iter::once(None).chain(rows.iter().map(|row| row.note.as_deref()));
    for (line, note) in lines.iter().zip(notes) {
        let mut text = format!("{:<width$}", line[0], width = widths[0]);
        for column in 1..5 {
            text.push_str(&format!("  {:>width$}", line[column], width = widths[column]));
        }
        println!("{}", text.trim_end());
        if let Some(note) = note {
            println!("    {note}");
        }
    }
}
