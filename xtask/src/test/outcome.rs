//! The two outcomes libtest has no word for: skipped, and not applicable.
//!
//! A test that ends so returns normally, so libtest counts it as passed, and first appends a line to the file
//! that [`VARIABLE`] names: `skipped<TAB>test<TAB>reason` or `n/a<TAB>test<TAB>why`. A test may skip for a
//! reason of the machine's, which strict runs count as a failure; what can never apply on some kernel
//! is not skipped but has a row in `tests/not-applicable.toml` that says why.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::tally::Tally;
use crate::workspace;

/// Names the file.
pub(crate) const VARIABLE: &str = "ENFORCER_OUTCOMES";

/// The file in which one stage's tests leave their outcomes. Removed on drop.
pub(crate) struct Outcomes {
    file: tempfile::TempPath,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Skipped,
    NotApplicable,
}

/// Test name → how it ended and why. A test that said several things ended in the worst.
type Reported = BTreeMap<String, (Kind, String)>;

impl Outcomes {
    /// An empty file.
    ///
    /// # Errors
    ///
    /// Where it cannot be made.
    pub(crate) fn collect() -> Result<Self> {
        let file = tempfile::Builder::new().prefix("enforcer-outcomes-").tempfile();
        Ok(Self {
            file: file.context("making a file for test outcomes")?.into_temp_path(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.file
    }

    /// Moves what tests reported out of `passed`, and says what was wrong with it.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read.
    pub(crate) fn settle(&self, tally: &mut Tally, rows: &NotApplicable) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.file).context("reading the test outcomes")?;
        Ok(settle(&text, tally, rows))
    }
}

fn settle(text: &str, tally: &mut Tally, rows: &NotApplicable) -> Vec<String> {
    let mut said = Vec::new();
    let mut reported = Reported::new();
    for line in text.lines() {
        let entry = match *line.split('\t').collect::<Vec<_>>() {
            ["skipped", test, reason] => (test, Kind::Skipped, reason),
            ["n/a", test, why] => (test, Kind::NotApplicable, why),
            _ => {
                said.push(format!(
                    "a test left an outcome that nobody understands: {line:?}"
                ));
                tally.failed += 1;
                continue;
            }
        };
        let (test, kind, why) = entry;
        let known = reported.entry(test.to_owned()).or_insert((kind, why.to_owned()));
        if kind == Kind::Skipped {
            *known = (kind, why.to_owned());
        }
    }
    for (test, (kind, why)) in reported {
        tally.passed = tally.passed.saturating_sub(1);
        match kind {
            Kind::Skipped => {
                tally.skipped += 1;
                said.push(format!("skipped: {test}: {why}"));
            }
            Kind::NotApplicable if rows.has(&test) => tally.not_applicable += 1,
            Kind::NotApplicable => {
                tally.failed += 1;
                said.push(format!(
                    "{test} calls itself not applicable ({why}), and tests/not-applicable.toml has no row for it"
                ));
            }
        }
    }
    said
}

/// `tests/not-applicable.toml`: which tests cannot apply everywhere, and why. The fixtures, which know what a
/// row may say about where it holds, read it more closely.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct NotApplicable {
    #[serde(default)]
    row: Vec<Row>,
}

/// One `[[row]]`.
#[derive(Debug, Deserialize)]
struct Row {
    /// Name of the test, as it calls itself.
    test: String,
    /// Where it cannot apply, and why. For people.
    why: String,
}

impl NotApplicable {
    fn path() -> PathBuf {
        workspace::root().join("tests/not-applicable.toml")
    }

    /// The table; empty where there is no file.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, or [`Self::parse`] refuses it.
    pub(crate) fn read() -> Result<Self> {
        let path = Self::path();
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("parsing {}", path.display()))
    }

    /// The table that a text holds.
    ///
    /// # Errors
    ///
    /// Where it is malformed, or a row gives no reason.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let table: Self = toml::from_str(text)?;
        if let Some(row) = table.row.iter().find(|row| row.why.trim().is_empty()) {
            bail!("the row of {} does not say why", row.test);
        }
        Ok(table)
    }

    /// Names of the tests it has rows for.
    pub(crate) fn tests(&self) -> impl Iterator<Item = &str> {
        self.row.iter().map(|row| row.test.as_str())
    }

    fn has(&self, test: &str) -> bool {
        self.tests().any(|name| name == test)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(tests: &[&str]) -> NotApplicable {
        let row = |test: &&str| Row {
            test: (*test).to_owned(),
            why: "5.10 has no MPTCP".to_owned(),
        };
        NotApplicable {
            row: tests.iter().map(row).collect(),
        }
    }

    fn ten_passed() -> Tally {
        Tally {
            passed: 10,
            ..Tally::default()
        }
    }

    #[test]
    fn reported_tests_do_not_count_as_passed() {
        let mut tally = ten_passed();
        let said = settle(
            "skipped\ta\tno node\nn/a\tmptcp\told kernel\n",
            &mut tally,
            &rows(&["mptcp"]),
        );
        assert_eq!(
            (tally.passed, tally.failed, tally.skipped, tally.not_applicable),
            (8, 0, 1, 1)
        );
        assert_eq!(said, ["skipped: a: no node"]);
    }

    #[test]
    fn not_applicable_without_a_row_is_a_failure() {
        let mut tally = ten_passed();
        let said = settle("n/a\tmptcp\told kernel\n", &mut tally, &rows(&[]));
        assert_eq!((tally.passed, tally.failed, tally.not_applicable), (9, 1, 0));
        assert!(said[0].contains("no row"), "{said:?}");
    }

    #[test]
    fn a_test_that_reports_twice_is_one_test() {
        let mut tally = ten_passed();
        settle(
            "n/a\ta\tx\nskipped\ta\ty\nskipped\ta\tz\n",
            &mut tally,
            &rows(&["a"]),
        );
        assert_eq!((tally.passed, tally.skipped, tally.not_applicable), (9, 1, 0));
    }

    #[test]
    fn an_outcome_nobody_understands_is_a_failure() {
        let mut tally = ten_passed();
        settle("maybe\ta\tx\n", &mut tally, &rows(&[]));
        assert_eq!((tally.passed, tally.failed), (10, 1));
    }
}
