//! Signals as a stream, with where they came from.
//!
//! Handlers are in place from [`Signals::install`] on, so that a signal during start or stop is not the end of
//! this process but one more thing to deal with. A signal that was ignored when enforcer started stays ignored
//! where that is what somebody meant: a hangup (`nohup`), and whatever `exec` would hand on to its command, which
//! starts as it would without enforcer. `run` obeys SIGINT and SIGTERM always: a script's shell ignores SIGINT on
//! behalf of everything it starts in the background (POSIX, XCU 2.12), and nobody could stop it as documented.

use std::io;

use futures_util::StreamExt as _;
use nix::sys::signal::{SigHandler, Signal as ChildSignal};
use procfs::process::Process;
use signal_hook::{
    consts::signal::{
        SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
    },
    iterator::exfiltrator::{WithOrigin, origin::Origin},
};
use signal_hook_tokio::SignalsInfo;

/// What ends `run`, whatever its parent thought of it.
pub const STOPPING: &[i32] = &[SIGINT, SIGTERM];

/// What ends `run` unless it was started to outlive its terminal.
pub const HANGING_UP: &[i32] = &[SIGHUP];

/// What ends `run` with a policy file, or lets it read that again.
pub const RELOADING: &[i32] = &[SIGINT, SIGTERM, SIGHUP];

impl Signal {
    /// Whether it is a hangup.
    #[must_use]
    pub const fn is_hangup(self) -> bool {
        self.number == SIGHUP
    }
}

/// What ends `exec` before its command runs.
pub const ENDING: &[i32] = &[SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// What `exec` hands on to its command.
pub const FORWARDED: &[i32] = &[
    SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGCONT, SIGWINCH,
];

/// A signal this process received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Its number.
    pub number: i32,
    /// Whether a process sent it, rather than the kernel: the terminal driver sends ctrl-c to the whole
    /// foreground process group, a command that runs in it included.
    pub from_process: bool,
}

/// Received signals, in order.
pub struct Signals {
    stream: SignalsInfo<WithOrigin>,
    /// What was ignored when this process started, as [`ignored`] gives it.
    ignored: u64,
}

impl Signals {
    /// Catches the first, and of the second those that this process was not started to ignore.
    ///
    /// # Errors
    ///
    /// When this process's signal dispositions cannot be read or changed.
    pub fn install(always: &[i32], unless_ignored: &[i32]) -> io::Result<Self> {
        let ignored = ignored()?;
        let heeded = |number: &&i32| ignored & (1 << (**number - 1)) == 0;
        let caught = always.iter().chain(unless_ignored.iter().filter(heeded));
        Ok(Self {
            stream: SignalsInfo::with_exfiltrator(caught, WithOrigin::default())?,
            ignored,
        })
    }

    /// Whether this process was started to ignore that signal.
    #[must_use]
    pub const fn was_ignored(&self, number: i32) -> bool {
        self.ignored & (1 << (number - 1)) != 0
    }

    /// A signal that has come already, if one has.
    pub async fn pending(&mut self) -> Option<Signal> {
        // The runtime looks at descriptors between turns, so there has to be one.
        tokio::task::yield_now().await;
        tokio::select! {
            biased;
            signal = self.next() => Some(signal),
            () = std::future::ready(()) => None,
        }
    }

    /// The next signal. Pends for ever if there is none any more.
    pub async fn next(&mut self) -> Signal {
        match self.stream.next().await {
            Some(Origin { signal, process, .. }) => Signal {
                number: signal,
                from_process: process.is_some(),
            },
            None => std::future::pending().await,
        }
    }
}

/// Lets this process learn how its children ended, and returns whether it could not before: where SIGCHLD is
/// ignored, as some supervisors leave it to those they start, children vanish without a status (wait(2)).
///
/// # Errors
///
/// When the disposition cannot be changed.
pub fn heed_children() -> io::Result<bool> {
    // SAFETY: the default disposition runs no code of ours.
    let before = unsafe { nix::sys::signal::signal(ChildSignal::SIGCHLD, SigHandler::SigDfl) };
    Ok(matches!(before?, SigHandler::SigIgn))
}

/// The mask of ignored signals; bit n - 1 is signal n (`SigIgn` in proc_pid_status(5)).
fn ignored() -> io::Result<u64> {
    let status = Process::myself()
        .and_then(|process| process.status())
        .map_err(io::Error::other)?;
    // The Rust runtime ignores SIGPIPE by itself, whatever it was before.
    Ok(status.sigign & !(1 << (SIGPIPE - 1)))
}
