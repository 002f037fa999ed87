//! Running stages one after the other: progress with times, output kept aside and shown where one failed.

use std::{
    fs::{self, File},
    io::Write as _,
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result};

use super::{
    outcome::{NotApplicable, Outcomes},
    tally::Tally,
};
use crate::workspace;

/// Runs stages and remembers how they ended.
#[derive(Default)]
pub(crate) struct Runner {
    tally: Tally,
    failed_stages: Vec<String>,
    /// What is said at the end whether or not anything failed.
    remarks: Vec<String>,
}

impl Runner {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A check that runs in this process. Counts as one; what it says is shown if it failed.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> Result<(), String>) -> bool {
        let started = begin(name);
        let outcome = check();
        self.one(name, started, outcome)
    }

    /// A check that has already run, because it talks while it does. Counts as one.
    pub(crate) fn ended(&mut self, name: &str, started: Instant, outcome: Result<(), String>) -> bool {
        begin(name);
        self.one(name, started, outcome)
    }

    /// A check that is a command. Counts as one.
    pub(crate) fn command(&mut self, name: &str, command: &mut Command) -> bool {
        let started = begin(name);
        let outcome = match Self::logged(name, command) {
            Ok((_, true)) => Ok(()),
            Ok((output, false)) => Err(format!("$ {}\n{output}", workspace::shown(command))),
            Err(error) => Err(format!("{error:#}")),
        };
        self.one(name, started, outcome)
    }

    /// A `cargo test`. Counts as its tests do.
    ///
    /// # Errors
    ///
    /// Where the tests' outcomes cannot be read.
    pub(crate) fn tests(
        &mut self,
        name: &str,
        command: &mut Command,
        outcomes: &Outcomes,
        rows: &NotApplicable,
    ) -> Result<()> {
        let started = begin(name);
        let (output, succeeded) = Self::logged(name, command)?;
        let mut tally = Tally::of_libtest(&output, succeeded);
        let remarks = outcomes.settle(&mut tally, rows)?;
        end(started, &tally.line());
        if !succeeded {
            show(&format!("$ {}\n{output}", workspace::shown(command)));
        }
        if tally.failed > 0 {
            self.failed_stages.push(name.to_owned());
        }
        self.remarks.extend(remarks);
        self.tally += tally;
        Ok(())
    }

    /// Tests that report and count for themselves. An error counts as one failure.
    pub(crate) fn counted(&mut self, name: &str, stage: impl FnOnce() -> Result<Tally>) {
        println!("{name}");
        let started = Instant::now();
        let outcome = stage();
        begin(name);
        match outcome {
            Ok(tally) => {
                end(started, &tally.line());
                if tally.failed > 0 {
                    self.failed_stages.push(name.to_owned());
                }
                self.tally += tally;
            }
            Err(error) => {
                self.one(name, started, Err(format!("{error:#}")));
            }
        }
    }

    fn one(&mut self, name: &str, started: Instant, outcome: Result<(), String>) -> bool {
        match outcome {
            Ok(()) => {
                end(started, "ok");
                self.tally.passed += 1;
                true
            }
            Err(said) => {
                end(started, "FAILED");
                show(&said);
                self.tally.failed += 1;
                self.failed_stages.push(name.to_owned());
                false
            }
        }
    }

    /// Runs a command with both its streams in one file, and returns what it wrote and whether it ended well.
    fn logged(name: &str, command: &mut Command) -> Result<(String, bool)> {
        let name: String = name
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == ' ')
            .collect();
        let logs = workspace::target_dir()?.join("xtask/logs");
        fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
        let path = logs.join(name.replace(' ', "-")).with_extension("log");
        let log = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let again = log
            .try_clone()
            .with_context(|| format!("sharing {}", path.display()))?;
        let shown = workspace::shown(command);
        let status = command
            .stdin(std::process::Stdio::null())
            .stdout(log)
            .stderr(again)
            .status()
            .with_context(|| format!("starting `{shown}`"))?;
        let output = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok((String::from_utf8_lossy(&output).into_owned(), status.success()))
    }

    /// Prints how everything ended and returns the sum, which strictly counts skipped tests as failed.
    pub(crate) fn summary(self, strict: bool) -> Tally {
        println!();
        for remark in &self.remarks {
            println!("{remark}");
        }
        if !self.failed_stages.is_empty() {
            println!("failed: {}", self.failed_stages.join("; "));
        }
        if self.tally.not_applicable > 0 {
            println!(
                "{} not applicable here, each with its reason in tests/not-applicable.toml",
                self.tally.not_applicable
            );
        }
        if strict && self.tally.skipped > 0 {
            println!("strict: the {} skipped count as failed", self.tally.skipped);
        }
        if strict { self.tally.strictly() } else { self.tally }
    }
}

fn begin(name: &str) -> Instant {
    print!("{name:<36}");
    // A lost progress line is no reason to fail.
    let _ = std::io::stdout().flush();
    Instant::now()
}

fn end(started: Instant, how: &str) {
    println!(" {:>6.1} s  {how}", started.elapsed().as_secs_f64());
}

fn show(output: &str) {
    for line in output.trim_end().lines() {
        println!("    {line}");
    }
}
