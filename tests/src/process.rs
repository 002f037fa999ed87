//! [`Running`]: a child process whose output is collected line by line while it runs.

use std::{
    ffi::OsStr,
    fmt,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal};

use crate::wait::eventually;

/// Lets the kernel send the process a signal should this one be killed.
///
/// What counts is the end of the thread that starts it: call it, and start the command, on the main thread.
pub fn end_with_parent(command: &mut Command, signal: Signal) {
    let parent = Some(getpid());
    let end_with_parent = move || {
        set_parent_process_death_signal(Some(signal))?;
        // Killed before that, it is no longer the parent, and nobody would send the signal.
        if getppid() == parent {
            Ok(())
        } else {
            Err(io::ErrorKind::Interrupted.into())
        }
    };
    // SAFETY: between fork and exec the closure makes system calls: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(end_with_parent) };
}

/// Which of a process's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "standard output",
            Self::Stderr => "standard error",
        })
    }
}

/// What a process wrote, all of it.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Lines of standard output.
    pub stdout: Vec<String>,
    /// Lines of standard error.
    pub stderr: Vec<String>,
}

/// A child process. Killed on drop.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
}

impl Running {
    /// Starts the command with all three standard streams on pipes, in a process group of its own: an interrupt
    /// typed at the terminal is for the test, which then ends its children in order.
    ///
    /// # Errors
    ///
    /// When it cannot be started, for example because it could not join its place.
    pub fn start(command: Command) -> Result<Self> {
        Self::start_writing_to(command, Stdio::piped())
    }

    /// As [`start`](Self::start), with standard output going somewhere else: there are no lines of it then.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_writing_to(mut command: Command, stdout: impl Into<Stdio>) -> Result<Self> {
        let what = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| {
                let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
                format!("start {what} {}", arguments.join(" "))
            })?;
        Ok(Self {
            what,
            stdin: child.stdin.take(),
            stdout: Lines::collect(child.stdout.take()),
            stderr: Lines::collect(child.stderr.take()),
            child,
        })
    }

    /// Process identifier.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines written so far.
    #[must_use]
    pub fn lines(&self, stream: Stream) -> Vec<String> {
        self.stream(stream).lock().lines.clone()
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    ///
    /// When the process closed it, or [`close_stdin`](Self::close_stdin) did.
    pub fn write_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its standard input is closed");
        stdin
            .and_then(|stdin| Ok(stdin.write_all(format!("{line}\n").as_bytes())?))
            .with_context(|| self.describe("write to"))
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The `index`-th line of a stream, counted from 0, when it has come.
    ///
    /// # Errors
    ///
    /// When the stream ended before it, or the timeout passed. Says what was on standard error.
    pub fn line(&self, stream: Stream, index: usize, timeout: Duration) -> Result<String> {
        self.stream(stream)
            .wait(timeout, |lines| lines.get(index).cloned())
            .with_context(|| self.describe(&format!("wait for line {index} of {stream} of")))
    }

    /// The first line of a stream that `wanted` accepts, whether it is there already or comes in time.
    ///
    /// # Errors
    ///
    /// As [`line`](Self::line).
    pub fn wait_for_line(
        &self,
        stream: Stream,
        timeout: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        self.stream(stream)
            .wait(timeout, |lines| lines.iter().find(|line| wanted(line)).cloned())
            .with_context(|| self.describe(&format!("wait for a certain line of {stream} of")))
    }

    /// The lines of a stream, when there are at least that many.
    ///
    /// # Errors
    ///
    /// As [`line`](Self::line).
    pub fn wait_for_lines(&self, stream: Stream, count: usize, timeout: Duration) -> Result<Vec<String>> {
        self.stream(stream)
            .wait(timeout, |lines| (lines.len() >= count).then(|| lines.to_vec()))
            .with_context(|| self.describe(&format!("wait for {count} lines of {stream} of")))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// When it cannot be asked.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("ask whether {} has ended", self.what))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // The number is the child's own until it has ended and was waited for, as `exited` does.
        if let Some(status) = self.exited()? {
            bail!("send {signal:?} to {}: it has ended: {status}", self.what);
        }
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .context("its process identifier is not one")?;
        kill_process(pid, signal).with_context(|| format!("send {signal:?} to {}", self.what))
    }

    /// Waits until it has ended and its output is complete.
    ///
    /// # Errors
    ///
    /// When it has not in time, or a process it left behind keeps its output open. It is killed then.
    pub fn finish(mut self, timeout: Duration) -> Result<Finished> {
        self.close_stdin();
        let deadline = Instant::now() + timeout;
        let ended = eventually("it to end", timeout, || self.exited().transpose());
        let status = ended
            .and_then(|status| status)
            .with_context(|| self.describe("wait for"))?;
        for lines in [&self.stdout, &self.stderr] {
            let left = deadline.saturating_duration_since(Instant::now());
            lines
                .wait_for_end(left)
                .with_context(|| self.describe("read all output of"))?;
        }
        Ok(Finished {
            status,
            stdout: self.lines(Stream::Stdout),
            stderr: self.lines(Stream::Stderr),
        })
    }

    fn stream(&self, stream: Stream) -> &Lines {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    fn describe(&self, operation: &str) -> String {
        let mut text = format!("{operation} {} (process {})", self.what, self.pid());
        let said = self.lines(Stream::Stderr);
        if !said.is_empty() {
            text.push_str(&format!("; it said: {}", said.join(" | ")));
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Neither fails but for a process that was waited for, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of one stream, filled by a thread that ends with the stream.
#[derive(Debug, Default)]
struct Lines {
    state: Mutex<LinesState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LinesState {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn collect(stream: Option<impl Read + Send + 'static>) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let writer = Arc::clone(&lines);
        thread::spawn(move || {
            for line in stream
                .into_iter()
                .flat_map(|stream| BufReader::new(stream).split(b'\n'))
            {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                writer.lock().lines.push(line);
                writer.changed.notify_all();
            }
            writer.lock().ended = true;
            writer.changed.notify_all();
        });
        lines
    }

    fn lock(&self) -> MutexGuard<'_, LinesState> {
        // A line is pushed whole or not at all, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<T>(&self, timeout: Duration, find: impl Fn(&[String]) -> Option<T>) -> Result<T> {
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, |state| {
                !state.ended && find(&state.lines).is_none()
            })
            .unwrap_or_else(PoisonError::into_inner);
        match find(&state.lines) {
            Some(found) => Ok(found),
            None if state.ended => bail!("the stream ended after {} lines", state.lines.len()),
            None => bail!("not within {timeout:?}, {} lines came", state.lines.len()),
        }
    }

    fn wait_for_end(&self, timeout: Duration) -> Result<()> {
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, |state| !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        anyhow::ensure!(state.ended, "a process still holds it open after {timeout:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::PATIENCE;

    fn shell(script: &str) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Running::start(command).unwrap()
    }

    #[test]
    fn lines_are_seen_while_the_process_runs_and_complete_when_it_ended() {
        let mut process = shell("echo one; read answer; echo $answer; echo odd >&2; exit 3");
        assert_eq!(process.line(Stream::Stdout, 0, PATIENCE).unwrap(), "one");
        assert!(process.exited().unwrap().is_none());
        process.write_line("two").unwrap();
        let finished = process.finish(PATIENCE).unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.stdout, ["one", "two"]);
        assert_eq!(finished.stderr, ["odd"]);
    }

    #[test]
    fn waiting_for_a_line_that_cannot_come_any_more_says_what_the_process_said() {
        let process = shell("echo broken >&2");
        process
            .wait_for_line(Stream::Stderr, PATIENCE, |line| line == "broken")
            .unwrap();
        let error = format!("{:#}", process.line(Stream::Stdout, 0, PATIENCE).unwrap_err());
        assert!(
            error.contains("it said: broken: the stream ended after 0 lines"),
            "{error}"
        );
    }

    #[test]
    fn a_signal_reaches_the_process() {
        let mut process = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done");
        process.line(Stream::Stdout, 0, PATIENCE).unwrap();
        process.signal(Signal::TERM).unwrap();
        assert_eq!(process.finish(PATIENCE).unwrap().status.code(), Some(7));
    }
}
