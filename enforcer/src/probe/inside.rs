//! Measuring from within a target's network namespace.
//!
//! As with a target's nameservers ([`crate::names::inside`]) a helper is started: this program, with a verb that no help
//! shows ([`VERB`]). It enters the network namespace of a process of the target, makes sockets for echoes, gives up every
//! privilege, reads the target's `resolv.conf` and `hosts` without leaving the target's root, measures, and writes a line
//! for each step and one with the findings. It stays in the cgroup of whoever started it: a policy that governs the target
//! does not govern it.

use std::{
    error::Error as _,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    sync::mpsc::{self, UnboundedSender},
};

use super::{
    Asking, Echoes, Findings, Limits, Progress, Subject,
    measure::{MAX_ADDRESSES, measure},
};
use crate::names::{Once, inside::enter_target};

/// The verb of the program that starts [`answer`].
pub const VERB: &str = "probe-inside";

/// Beyond a helper's own limit: it should be the one to end.
const GRACE: Duration = Duration::from_secs(10);

/// Octets that a helper may write, all in all.
const MAX_BYTES: u64 = 1 << 20;

/// What a helper is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Who started it, and with whom it dies.
    pub parent: u32,
    /// Directories of the target's cgroups.
    pub cgroups: Vec<PathBuf>,
    /// The process that was named, where one was.
    pub process: Option<u32>,
    /// What to look at.
    pub subject: Subject,
    /// How long.
    pub limits: Limits,
}

/// What a helper writes: a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Message {
    Step(Progress),
    Findings(Box<Findings>),
    Unable { why: String },
}

/// Does the job and writes what comes of it. Nothing is left of this process's privileges afterwards, so it should end.
/// Needs a runtime that has one thread.
///
/// # Errors
///
/// When it cannot write: then nobody reads any more.
pub async fn answer(job: Job, mut out: impl Write) -> io::Result<()> {
    let (asking, echoes) = match enter(&job) {
        Ok(entered) => entered,
        Err(why) => return say(&mut out, &Message::Unable { why }),
    };
    let (progress, mut steps) = mpsc::unbounded_channel();
    let measuring = measure(&job.subject, &asking, &echoes, job.limits, Some(progress));
    tokio::pin!(measuring);
    let findings = loop {
        tokio::select! {
            findings = &mut measuring => break findings,
            Some(step) = steps.recv() => say(&mut out, &Message::Step(step))?,
        }
    };
    say(&mut out, &Message::Findings(Box::new(findings)))
}

fn enter(job: &Job) -> Result<(Asking, Echoes), String> {
    let entered = enter_target(job.parent, &job.cgroups, job.process, || {
        Echoes::open(MAX_ADDRESSES)
    });
    let (place, echoes) = entered.map_err(|error| {
        let cause = error
            .source()
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        format!("{error}{cause}")
    })?;
    // What is not there, or not for everybody to read, is as if it said nothing.
    let read = |path| place.read(path).ok();
    let (hosts, resolv_conf) = (read("/etc/hosts"), read("/etc/resolv.conf"));
    let asking = Asking {
        once: Once::new(hosts.as_deref(), resolv_conf.as_deref())?,
        c_library: false,
    };
    Ok((asking, echoes))
}

/// One line, at once.
fn say(out: &mut impl Write, message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

/// Why a helper brought no findings.
#[derive(Debug, thiserror::Error)]
pub enum InsideError {
    /// It could not be started.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// This program.
        program: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It could not enter the target.
    #[error("{0}")]
    Unable(String),
    /// It did not end in time.
    #[error("the helper took too long")]
    Late,
    /// It ended without findings.
    #[error("the helper ended early")]
    Early,
    /// It wrote what is no message.
    #[error("the helper wrote what is no message")]
    Nonsense,
    /// Nothing more could be read.
    #[error("cannot hear the helper")]
    Read(#[source] io::Error),
}

/// Has a helper measure. Dropping the future ends it, and so does the end of the calling thread.
///
/// # Errors
///
/// [`InsideError`] where it brings no findings.
pub async fn ask(
    program: &Path,
    job: &Job,
    progress: Option<UnboundedSender<Progress>>,
) -> Result<Findings, InsideError> {
    let mut command = Command::new(program);
    command
        .arg(VERB)
        .args(["--parent", &job.parent.to_string()])
        .args(
            job.cgroups
                .iter()
                .flat_map(|cgroup| [Path::new("--cgroup"), cgroup]),
        )
        .args(
            job.process
                .iter()
                .flat_map(|pid| ["--process".to_owned(), pid.to_string()]),
        )
        .args(["--each-ms", &job.limits.each.as_millis().to_string()])
        .args(["--all-ms", &job.limits.all.as_millis().to_string()])
        .args(["--", &job.subject.to_string()])
        // Nothing of this process's is of use inside.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let spawn = |source| InsideError::Spawn {
        program: program.to_owned(),
        source,
    };
    let mut command = tokio::process::Command::from(command);
    let mut helper = command.kill_on_drop(true).spawn().map_err(spawn)?;
    let Some(out) = helper.stdout.take() else {
        return Err(spawn(io::ErrorKind::BrokenPipe.into()));
    };
    let listening = listen(BufReader::new(out.take(MAX_BYTES)), progress);
    let heard = tokio::time::timeout(job.limits.all + GRACE, listening).await;
    // It has nothing more to do; its end is collected, so that it does not stay behind as a zombie.
    let _ended_already = helper.start_kill();
    let _status = helper.wait().await;
    heard.unwrap_or(Err(InsideError::Late))
}

async fn listen(
    out: impl tokio::io::AsyncBufRead + Unpin,
    progress: Option<UnboundedSender<Progress>>,
) -> Result<Findings, InsideError> {
    let mut lines = out.lines();
    while let Some(line) = lines.next_line().await.map_err(InsideError::Read)? {
        match serde_json::from_str(&line).map_err(|_| InsideError::Nonsense)? {
            Message::Step(step) => {
                if let Some(progress) = &progress {
                    // Whoever does not listen any more needs no news.
                    let _ = progress.send(step);
                }
            }
            Message::Findings(findings) => return Ok(*findings),
            Message::Unable { why } => return Err(InsideError::Unable(why)),
        }
    }
    Err(InsideError::Early)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn heard(text: &str) -> Result<Findings, InsideError> {
        listen(text.as_bytes(), None).await
    }

    #[tokio::test]
    async fn findings_survive_being_a_line() {
        let findings = Findings {
            host: "shop.example".to_owned(),
            port: 80,
            ..Findings::default()
        };
        let mut line = Vec::new();
        say(&mut line, &Message::Findings(Box::new(findings.clone()))).unwrap();
        let text = String::from_utf8(line).unwrap();
        assert_eq!(heard(&text).await.unwrap(), findings);
    }

    #[tokio::test]
    async fn what_is_no_message_is_not_believed() {
        assert!(matches!(heard("").await, Err(InsideError::Early)));
        for nonsense in ["hello\n", "{\"findings\":{}}\n", "{\"step\":{\"done\":1}}\n"] {
            assert!(
                matches!(heard(nonsense).await, Err(InsideError::Nonsense)),
                "{nonsense}"
            );
        }
        let unable = heard("{\"unable\":{\"why\":\"no way\"}}\n").await.unwrap_err();
        assert_eq!(unable.to_string(), "no way");
    }
}
