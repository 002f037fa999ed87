//! What came of each test on each kernel, as a table and as a sum.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use super::{
    Summary,
    boot::{Ended, Life},
    payload::Payload,
    transcript::{self, Libtest, Outcome, Transcript},
};

/// The row for what no test asserts: that the guest came to its end, and its kernel had nothing to complain of.
const GUEST_ROW: &str = "the guest ends well and its kernel is silent";

/// What came of one test on one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// It passed.
    Passed,
    /// It failed, or left no result; what is known about it.
    Failed(String),
    /// It could not be done here, and why.
    Skipped(String),
    /// There is nothing to do here, and why.
    NotApplicable(String),
}

impl Cell {
    const fn word(&self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Failed(_) => "FAILED",
            Self::Skipped(_) => "skipped",
            Self::NotApplicable(_) => "n/a",
        }
    }
}

/// One kernel's column.
#[derive(Debug)]
pub(crate) struct Column {
    /// The line's name.
    pub(crate) line: &'static str,
    /// What was booted.
    pub(crate) package: String,
    /// The kernel's own name of its release, if it came so far.
    pub(crate) release: Option<String>,
    /// How long the guest lived.
    pub(crate) took: Duration,
    /// By `BINARY::TEST`.
    pub(crate) cells: BTreeMap<String, Cell>,
    /// What tests measured, each as JSON.
    pub(crate) measured: Vec<String>,
}

impl Column {
    /// Judges a guest's life by what was to be run in it.
    pub(crate) fn new(line: &'static str, package: String, payload: &Payload, life: &Life) -> Self {
        let transcript = Transcript::read(&life.said);
        let mut cells = BTreeMap::new();
        cells.insert(GUEST_ROW.to_owned(), guest(life, &transcript));
        for binary in &payload.tests {
            let run = transcript.runs.get(&binary.name);
            for test in &binary.tests {
                let cell = match (binary.not_in_guests, run) {
                    (Some(why), _) => Cell::NotApplicable(why.to_owned()),
                    (None, Some(run)) => judged(run, test),
                    (None, None) => Cell::Failed("the guest never came to it".to_owned()),
                };
                cells.insert(format!("{}::{test}", binary.name), cell);
            }
            if let Some(surprise) = run.and_then(|run| exit_surprise(run, &binary.tests)) {
                cells.insert(format!("{} (the binary)", binary.name), Cell::Failed(surprise));
            }
        }
        Self {
            line,
            package,
            measured: transcript
                .runs
                .values()
                .flat_map(|run| run.measured.clone())
                .collect(),
            release: transcript.release,
            took: life.took,
            cells,
        }
    }

    /// A column for a guest that could not be booted at all.
    pub(crate) fn unbooted(line: &'static str, why: String) -> Self {
        Self {
            line,
            package: "not booted".to_owned(),
            release: None,
            took: Duration::ZERO,
            cells: BTreeMap::from([(GUEST_ROW.to_owned(), Cell::Failed(why))]),
            measured: Vec::new(),
        }
    }
}

fn guest(life: &Life, transcript: &Transcript) -> Cell {
    let mut wrong = transcript.broken.clone();
    match &life.ended {
        Ended::Off if transcript.finished => {}
        Ended::Off => wrong.push("it went down before its init was done".to_owned()),
        Ended::TimeUp => wrong.push(format!("it was killed after {} s", life.took.as_secs())),
        Ended::Qemu(why) => wrong.push(format!("qemu ended with {why}")),
    }
    let unfinished = !wrong.is_empty();
    wrong.extend(transcript::complaints(&life.kernel_log));
    if unfinished {
        wrong.push(format!(
            "the kernel's last lines:\n{}",
            transcript::last_lines(&life.kernel_log, 15)
        ));
    }
    if wrong.is_empty() {
        Cell::Passed
    } else {
        Cell::Failed(wrong.join("\n"))
    }
}

fn judged(run: &transcript::Run, test: &str) -> Cell {
    match (run.results.get(test), run.outcomes.get(test)) {
        (Some(Libtest::Ok), None) => Cell::Passed,
        (Some(Libtest::Ok), Some(Outcome::Skipped(why))) => Cell::Skipped(why.clone()),
        (Some(Libtest::Ok), Some(Outcome::NotApplicable(why))) => Cell::NotApplicable(why.clone()),
        (Some(Libtest::Ignored), _) => Cell::Skipped("marked #[ignore]".to_owned()),
        (Some(Libtest::Failed), _) => Cell::Failed(run.printed_by(test)),
        (None, _) => {
            let end = match run.exit_code {
                Some(137) => "its binary's time was up".to_owned(),
                Some(code) => format!("its binary ended with exit code {code}"),
                None => "the guest ended first".to_owned(),
            };
            Cell::Failed(format!(
                "no result: {end}\n{}",
                transcript::last_lines(&run.printed, 30)
            ))
        }
    }
}

/// A binary that fails though none of its tests did.
fn exit_surprise(run: &transcript::Run, tests: &[String]) -> Option<String> {
    let explained = tests
        .iter()
        .any(|test| !matches!(run.results.get(test), Some(Libtest::Ok | Libtest::Ignored)));
    match run.exit_code {
        Some(0) => None,
        _ if explained => None,
        Some(code) => Some(format!("no test failed, but it ended with exit code {code}")),
        None => Some("no test failed, but it never ended".to_owned()),
    }
}

/// The whole report: what failed and why, what was left out and why, and the table.
pub(crate) fn text(columns: &[Column]) -> String {
    let mut text = String::new();
    let mut left_out: BTreeMap<(&str, &str, &str), Vec<&str>> = BTreeMap::new();
    for column in columns {
        for (name, cell) in &column.cells {
            match cell {
                Cell::Passed => {}
                Cell::Failed(why) => {
                    let _ = writeln!(text, "---- {name} on {} ----\n{why}\n", column.line);
                }
                Cell::Skipped(why) | Cell::NotApplicable(why) => {
                    left_out
                        .entry((cell.word(), name, why))
                        .or_default()
                        .push(column.line);
                }
            }
        }
    }
    for ((word, name, why), lines) in left_out {
        let _ = writeln!(text, "{word} on {}: {name}: {why}", lines.join(", "));
    }
    text.push('\n');
    text.push_str(&table(columns));
    for column in columns {
        let release = column.release.as_deref().unwrap_or("never came up");
        let took = column.took.as_secs_f32();
        let _ = writeln!(
            text,
            "{:<8}{} ({release}), {took:.1} s",
            column.line, column.package
        );
    }
    text
}

fn table(columns: &[Column]) -> String {
    const CELL: usize = 9;
    let names: std::collections::BTreeSet<_> =
        columns.iter().flat_map(|column| column.cells.keys()).collect();
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0) + 2;
    let mut table = format!("{:width$}", "");
    for column in columns {
        let _ = write!(table, "{:<CELL$}", column.line);
    }
    for name in names {
        let _ = write!(table, "\n{name:width$}");
        for column in columns {
            let word = column.cells.get(name).map_or("-", Cell::word);
            let _ = write!(table, "{word:<CELL$}");
        }
    }
    let lines: Vec<_> = table.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n\n"
}

/// Adds up all cells.
pub(crate) fn summary(columns: &[Column]) -> Summary {
    let mut summary = Summary::default();
    for cell in columns.iter().flat_map(|column| column.cells.values()) {
        match cell {
            Cell::Passed => summary.passed += 1,
            Cell::Failed(_) => summary.failed += 1,
            Cell::Skipped(_) => summary.skipped += 1,
            Cell::NotApplicable(_) => summary.not_applicable += 1,
        }
    }
    summary
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::vm::payload::TestBinary;

    fn payload(tests: &[&str]) -> Payload {
        let binary = TestBinary {
            name: "connect".to_owned(),
            path: "/nowhere".into(),
            tests: tests.iter().map(|&test| test.to_owned()).collect(),
            not_in_guests: None,
            whole: false,
        };
        Payload {
            tests: vec![binary],
            filters: Vec::new(),
            programs: BTreeMap::new(),
            libraries: BTreeSet::new(),
        }
    }

    fn column(tests: &[&str], said: &str, kernel_log: &str, ended: Ended) -> Column {
        let life = Life {
            said: said.to_owned(),
            kernel_log: kernel_log.to_owned(),
            ended,
            took: Duration::from_secs(9),
        };
        Column::new("6.1", "linux 6.1".to_owned(), &payload(tests), &life)
    }

    #[test]
    fn a_test_without_a_result_has_failed() {
        let said = "@@vm begin connect\ntest a ... ok\n@@vm end connect 134\n@@vm finished\n";
        let column = column(&["a", "b"], said, "", Ended::Off);
        assert_eq!(column.cells["connect::a"], Cell::Passed);
        assert!(matches!(&column.cells["connect::b"], Cell::Failed(why) if why.contains("134")));
        assert_eq!(summary(&[column]).failed, 1);
    }

    #[test]
    fn a_binary_may_not_fail_behind_its_tests_backs() {
        let said = "@@vm begin connect\ntest a ... ok\n@@vm end connect 1\n@@vm finished\n";
        let column = column(&["a"], said, "", Ended::Off);
        assert!(matches!(column.cells["connect (the binary)"], Cell::Failed(_)));
    }

    #[test]
    fn an_oops_and_a_guest_that_hangs_are_failures_though_all_tests_passed() {
        let said = "@@vm begin connect\ntest a ... ok\n@@vm end connect 0\n@@vm finished\n";
        for (kernel_log, ended) in [("BUG: kernel NULL pointer", Ended::Off), ("", Ended::TimeUp)] {
            let column = column(&["a"], said, kernel_log, ended);
            assert!(matches!(column.cells[GUEST_ROW], Cell::Failed(_)));
            assert_eq!(column.cells["connect::a"], Cell::Passed);
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_test_and_a_column_for_each_kernel() {
        let said = "@@vm begin connect\ntest a ... ok\n@@vm outcome skipped\ta\tno docker\n@@vm end connect 0\n\
                    @@vm finished\n";
        let columns = [column(&["a"], said, "", Ended::Off)];
        let text = text(&columns);
        assert!(text.contains("skipped on 6.1: connect::a: no docker"));
        let row = text.lines().find(|line| line.starts_with("connect::a ")).unwrap();
        assert!(row.ends_with("  skipped"), "{row}");
    }
}
