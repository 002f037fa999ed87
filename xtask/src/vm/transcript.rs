//! Reading what a guest said: init's `@@vm` lines, libtest's `test NAME ... RESULT` lines, and the kernel's
//! complaints. Pure text; nothing is run here.

use std::collections::BTreeMap;

/// What begins a line of init's.
const MARK: &str = "@@vm ";

/// What a kernel says when something went wrong in it that no test may cause.
const COMPLAINTS: &[&str] = &[
    "BUG:",
    "Oops",
    "WARNING:",
    "Kernel panic",
    "general protection fault",
    "Out of memory",
];

/// What became of one test, in the test's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Libtest {
    /// `ok`
    Ok,
    /// `FAILED`
    Failed,
    /// `ignored`
    Ignored,
}

/// What a test said about itself besides, through `ENFORCER_OUTCOMES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It could not be done here, and the reason.
    Skipped(String),
    /// There is nothing to do here, and why.
    NotApplicable(String),
}

/// One test binary's run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// By test.
    pub(crate) results: BTreeMap<String, Libtest>,
    /// By test.
    pub(crate) outcomes: BTreeMap<String, Outcome>,
    /// What tests measured, each as JSON.
    pub(crate) measured: Vec<String>,
    /// Its exit code, 137 when its time was up; `None` if the guest never saw its end.
    pub(crate) exit_code: Option<i32>,
    /// All that it printed.
    pub(crate) printed: String,
}

/// Everything that a guest said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transcript {
    /// The kernel's release, once init had set up the machine.
    pub(crate) release: Option<String>,
    /// What init could not do, and lines of its that nobody understands.
    pub(crate) broken: Vec<String>,
    /// By binary.
    pub(crate) runs: BTreeMap<String, Run>,
    /// Whether init came to its end.
    pub(crate) finished: bool,
}

impl Transcript {
    /// Reads what came through the second serial port.
    pub(crate) fn read(said: &str) -> Self {
        let mut transcript = Self::default();
        let mut current: Option<String> = None;
        for line in said.lines() {
            let line = line.trim_end_matches('\r');
            match line.strip_prefix(MARK) {
                Some(told) => transcript.told(told, &mut current),
                None => {
                    if let Some(run) = current.as_ref().and_then(|name| transcript.runs.get_mut(name)) {
                        run.line(line);
                    }
                }
            }
        }
        transcript
    }

    fn told(&mut self, told: &str, current: &mut Option<String>) {
        let (word, rest) = told.split_once(' ').unwrap_or((told, ""));
        let run = current.as_ref().and_then(|name| self.runs.get_mut(name));
        match (word, run) {
            ("ready", _) => self.release = Some(rest.to_owned()),
            ("finished", _) => self.finished = true,
            ("begin", _) => {
                self.runs.insert(rest.to_owned(), Run::default());
                *current = Some(rest.to_owned());
            }
            ("outcome", Some(run)) => {
                if !run.outcome(rest) {
                    self.broken.push(format!("said `{told}`"));
                }
            }
            ("end", Some(run)) => {
                run.exit_code = rest.rsplit(' ').next().and_then(|code| code.parse().ok());
                *current = None;
            }
            ("broken", _) => self.broken.push(format!("could not {rest}")),
            _ => self.broken.push(format!("said `{told}`")),
        }
    }
}

impl Run {
    fn line(&mut self, line: &str) {
        self.printed.push_str(line);
        self.printed.push('\n');
        let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        let result = match result.split(',').next().unwrap_or(result).trim() {
            "ok" => Libtest::Ok,
            "FAILED" => Libtest::Failed,
            "ignored" => Libtest::Ignored,
            _ => return,
        };
        let name = name.strip_suffix(" - should panic").unwrap_or(name);
        self.results.insert(name.to_owned(), result);
    }

    /// Takes a line `KIND<TAB>TEST<TAB>REASON`, if it is one.
    fn outcome(&mut self, line: &str) -> bool {
        let mut fields = line.splitn(3, '\t');
        let (Some(kind), Some(test), Some(reason)) = (fields.next(), fields.next(), fields.next()) else {
            return false;
        };
        let outcome = match kind {
            "skipped" => Outcome::Skipped(reason.to_owned()),
            "n/a" => Outcome::NotApplicable(reason.to_owned()),
            "measured" => {
                self.measured.push(reason.to_owned());
                return true;
            }
            _ => return false,
        };
        self.outcomes.insert(test.to_owned(), outcome);
        true
    }

    /// What the test printed, as libtest repeats it at the end, or else the last lines of all.
    pub(crate) fn printed_by(&self, test: &str) -> String {
        let heading = format!("---- {test} std");
        let own: Vec<_> = self
            .printed
            .lines()
            .skip_while(|line| !line.starts_with(&heading))
            .skip(1)
            .take_while(|line| !line.starts_with("---- ") && *line != "failures:")
            .collect();
        if own.is_empty() {
            last_lines(&self.printed, 30)
        } else {
            own.join("\n").trim_end().to_owned()
        }
    }
}

/// Lines of the kernel's that no test may cause, each with some that follow it.
pub(crate) fn complaints(kernel_log: &str) -> Vec<String> {
    const FOLLOWING: usize = 25;
    let lines: Vec<_> = kernel_log.lines().map(str::trim_end).collect();
    let mut found = Vec::new();
    let mut next = 0;
    while let Some(offset) = lines[next..]
        .iter()
        .position(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)))
    {
        let start = next + offset;
        next = lines.len().min(start + FOLLOWING);
        found.push(lines[start..next].join("\n"));
    }
    found
}

/// The last `count` lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\n@@vm broken insmod /modules/00-x.ko\n\n@@vm ready 6.1.0\n\n@@vm begin connect\n\
        running 4 tests\r\n\
        test a ... ok\ntest m::b ... FAILED\ntest c ... ignored, slow\ntest d ... ok\n\
        ---- m::b stdout ----\nwanted 101\n\n---- e stdout ----\nother\n\nfailures:\n    m::b\n\
        @@vm outcome n/a\td\tno MPTCP before 5.15\n\
        @@vm outcome measured\ta\t{\"line\":\"6.1\"}\n\
        @@vm end connect 101\n\n@@vm begin hung\nrunning 1 test\n";

    #[test]
    fn results_outcomes_and_the_exit_code_belong_to_their_binary() {
        let transcript = Transcript::read(SAID);
        assert_eq!(transcript.release.as_deref(), Some("6.1.0"));
        assert_eq!(transcript.broken, ["could not insmod /modules/00-x.ko"]);
        assert!(!transcript.finished);
        let run = &transcript.runs["connect"];
        assert_eq!(run.exit_code, Some(101));
        let results: Vec<_> = run
            .results
            .iter()
            .map(|(name, result)| (name.as_str(), result))
            .collect();
        assert_eq!(
            results,
            [
                ("a", &Libtest::Ok),
                ("c", &Libtest::Ignored),
                ("d", &Libtest::Ok),
                ("m::b", &Libtest::Failed)
            ]
        );
        assert_eq!(
            run.outcomes["d"],
            Outcome::NotApplicable("no MPTCP before 5.15".to_owned())
        );
        assert_eq!(run.measured, ["{\"line\":\"6.1\"}"]);
        assert!(!run.outcomes.contains_key("a"));
    }

    #[test]
    fn a_binary_that_never_ended_has_no_exit_code() {
        assert_eq!(Transcript::read(SAID).runs["hung"].exit_code, None);
    }

    #[test]
    fn what_a_failed_test_printed_is_found() {
        let transcript = Transcript::read(SAID);
        assert_eq!(transcript.runs["connect"].printed_by("m::b"), "wanted 101");
        assert!(transcript.runs["hung"].printed_by("x").contains("running 1 test"));
    }

    #[test]
    fn an_outcome_of_an_unknown_kind_is_not_lost() {
        let transcript = Transcript::read("@@vm begin x\n@@vm outcome maybe\ta\tb\n");
        assert_eq!(transcript.broken, ["said `outcome maybe\ta\tb`"]);
    }

    #[test]
    fn a_kernel_warning_is_a_complaint_and_a_quiet_log_has_none() {
        let log = "[0.1] fine\n[2.0] WARNING: CPU: 0 PID: 1 at net/x.c:1\n[2.0] Call Trace:\n";
        assert_eq!(complaints(log).len(), 1);
        assert!(complaints(log)[0].ends_with("Call Trace:"));
        assert!(complaints("[0.1] fine\n").is_empty());
    }
}
