//! Counting: what libtest printed, and the line everything ends with.

use std::ops::AddAssign;

use crate::vm;

/// How many ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    pub(crate) not_applicable: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.not_applicable += other.not_applicable;
    }
}

impl From<vm::Summary> for Tally {
    fn from(summary: vm::Summary) -> Self {
        let vm::Summary {
            passed,
            failed,
            skipped,
            not_applicable,
        } = summary;
        Self {
            passed,
            failed,
            skipped,
            not_applicable,
        }
    }
}

impl Tally {
    /// Sums what the test programs of one `cargo test` printed. `succeeded` is how cargo itself ended.
    ///
    /// A program that died printed no result, and counts as one failure; so does a cargo that failed though
    /// no test did.
    pub(crate) fn of_libtest(output: &str, succeeded: bool) -> Self {
        let mut tally = Self::default();
        let mut started = 0_usize;
        let mut ended = 0_usize;
        for line in output.lines() {
            let line = line.trim_start();
            if let Some(counts) = line.strip_prefix("test result: ") {
                ended += 1;
                tally.passed += count(counts, "passed");
                tally.failed += count(counts, "failed");
                tally.skipped += count(counts, "ignored");
            } else if line.starts_with("Running ") || line.starts_with("Doc-tests ") {
                started += 1;
            }
        }
        tally.failed += started.saturating_sub(ended);
        if !succeeded && tally.failed == 0 {
            tally.failed = 1;
        }
        tally
    }

    /// The same, with every skipped test a failed one.
    pub(crate) fn strictly(self) -> Self {
        Self {
            failed: self.failed + self.skipped,
            skipped: 0,
            ..self
        }
    }

    /// `N passed, N failed`, and `, N skipped` if any were.
    pub(crate) fn line(&self) -> String {
        let mut line = format!("{} passed, {} failed", self.passed, self.failed);
        if self.skipped > 0 {
            line.push_str(&format!(", {} skipped", self.skipped));
        }
        line
    }
}

/// The number before a word: `ok. 5 passed; 0 failed; …`.
fn count(counts: &str, word: &str) -> usize {
    let mut words = counts.split([' ', ';']).filter(|part| !part.is_empty());
    let mut last = "";
    words
        .find_map(|part| {
            let before = std::mem::replace(&mut last, part);
            (part == word).then_some(before)
        })
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_PROGRAMS: &str = "\
     Running unittests src/lib.rs (target/debug/deps/a-1)

running 3 tests
test x ... ok
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

     Running tests/b.rs (target/debug/deps/b-2)
test result: FAILED. 40 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s
";

    #[test]
    fn results_of_all_programs_are_summed() {
        let tally = Tally::of_libtest(TWO_PROGRAMS, false);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (42, 2, 1));
        assert_eq!(tally.line(), "42 passed, 2 failed, 1 skipped");
        assert_eq!(tally.strictly().line(), "42 passed, 3 failed");
    }

    #[test]
    fn a_program_that_died_is_a_failure() {
        let died = TWO_PROGRAMS.replace("test result: FAILED", "signal: 11");
        assert_eq!(Tally::of_libtest(&died, false).failed, 1);
    }

    #[test]
    fn a_cargo_that_failed_without_a_failing_test_is_a_failure() {
        assert_eq!(
            Tally::of_libtest("error: could not compile", false).line(),
            "0 passed, 1 failed"
        );
    }
}
