//! [`Enforcer`]: the real program, run as a person runs it.

use std::{
    ffi::OsStr,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    place::Place,
    process::{Finished, Running, Stream},
    unique,
    wait::PATIENCE,
};

/// Names the program where it does not lie beside the running one.
pub const PROGRAM_VARIABLE: &str = "ENFORCER_BIN";

/// File name of the program.
const PROGRAM: &str = "enforcer";

/// How the line begins that says that it governs.
const READY: [&str; 2] = ["enforcing ", "auditing "];

/// A running `enforcer`. Killed on drop; its links are its own and go with it.
#[derive(Debug)]
pub struct Enforcer {
    process: Running,
}

impl Enforcer {
    /// Path of the program.
    ///
    /// # Errors
    ///
    /// When it was not built.
    pub fn program() -> Result<PathBuf> {
        unique::built_program(PROGRAM, PROGRAM_VARIABLE)
    }

    /// The command that runs it in that place with those arguments, for changing it before
    /// [`start`](Self::start).
    ///
    /// # Errors
    ///
    /// When the program was not built, or the place cannot be prepared.
    pub fn command<A: AsRef<OsStr>>(
        place: &Place<'_>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Command> {
        let mut command = place.command(Self::program()?)?;
        command.args(arguments);
        Ok(command)
    }

    /// Starts a command made by [`command`](Self::command).
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(command: Command) -> Result<Self> {
        Ok(Self {
            process: Running::start(command).context("start enforcer")?,
        })
    }

    /// As [`start`](Self::start), with standard output going somewhere else.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start_writing_to(command: Command, stdout: impl Into<Stdio>) -> Result<Self> {
        Ok(Self {
            process: Running::start_writing_to(command, stdout).context("start enforcer")?,
        })
    }

    /// Starts `enforcer run` with those arguments and waits until it governs.
    ///
    /// # Errors
    ///
    /// When it does not govern in time. Says what it said.
    pub fn run<A: AsRef<OsStr>>(place: &Place<'_>, arguments: impl IntoIterator<Item = A>) -> Result<Self> {
        let mut command = Self::command(place, ["run"])?;
        command.args(arguments);
        Self::start_governing(command)
    }

    /// Starts a command made by [`command`](Self::command) and waits until it governs, in either mode.
    ///
    /// # Errors
    ///
    /// When it does not govern in time. Says what it said.
    pub fn start_governing(command: Command) -> Result<Self> {
        let enforcer = Self::start(command)?;
        enforcer.wait_for_line(Stream::Stderr, PATIENCE, is_ready)?;
        Ok(enforcer)
    }

    /// Runs `enforcer` with those arguments until it ends by itself.
    ///
    /// # Errors
    ///
    /// When it does not end within the timeout.
    pub fn output<A: AsRef<OsStr>>(
        place: &Place<'_>,
        arguments: impl IntoIterator<Item = A>,
        timeout: Duration,
    ) -> Result<Finished> {
        Self::start(Self::command(place, arguments)?)?
            .process
            .finish(timeout)
    }

    /// Process identifier.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process: its lines, and signals to it.
    #[must_use]
    pub const fn process(&mut self) -> &mut Running {
        &mut self.process
    }

    /// The first line of a stream that `wanted` accepts, whether it is there already or comes in time.
    ///
    /// # Errors
    ///
    /// When the stream ended before it, or the timeout passed. Says what was on standard error.
    pub fn wait_for_line(
        &self,
        stream: Stream,
        timeout: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        self.process.wait_for_line(stream, timeout, wanted)
    }

    /// The lines written so far.
    #[must_use]
    pub fn lines(&self, stream: Stream) -> Vec<String> {
        self.process.lines(stream)
    }

    /// The events on standard output, when there are at least that many; for `--output json`.
    ///
    /// # Errors
    ///
    /// When they do not come in time, or a line is not JSON.
    pub fn wait_for_events(&self, count: usize) -> Result<Vec<Value>> {
        parse_events(&self.process.wait_for_lines(Stream::Stdout, count, PATIENCE)?)
    }

    /// The event of that index on standard output, counted from 0; for `--output json`.
    ///
    /// # Errors
    ///
    /// When it does not come in time, or is not JSON.
    pub fn wait_for_event(&self, index: usize) -> Result<Value> {
        let line = self.process.line(Stream::Stdout, index, PATIENCE)?;
        parse_events(&[line])?.pop().context("read an event")
    }

    /// Ends it as an operator does, with SIGTERM, and waits until it has detached and ended.
    ///
    /// # Errors
    ///
    /// When it has ended before, or does not end in time.
    pub fn terminate(self) -> Result<Finished> {
        let mut process = self.process;
        process.signal(Signal::TERM)?;
        process.finish(PATIENCE)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    ///
    /// When it does not within the timeout.
    pub fn finish(self, timeout: Duration) -> Result<Finished> {
        self.process.finish(timeout)
    }
}

/// Whether a line of standard error says that all targets are governed.
#[must_use]
pub fn is_ready(line: &str) -> bool {
    READY.iter().any(|beginning| line.starts_with(beginning))
}

/// Parses the lines of `--output json`.
///
/// # Errors
///
/// Names the first line that is not a JSON object.
pub fn parse_events(lines: &[String]) -> Result<Vec<Value>> {
    lines
        .iter()
        .map(|line| {
            let event: Value = serde_json::from_str(line).with_context(|| format!("parse event {line:?}"))?;
            anyhow::ensure!(event.is_object(), "parse event {line:?}: it is not an object");
            Ok(event)
        })
        .collect()
}
