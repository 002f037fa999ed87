//! Signals as a stream, with where they came from.
//!
//! Handlers are in place from [`Signals::install`] on, so that a signal during start or stop is not the end of
//! this process but one more thing to deal with. A signal that was ignored when enforcer started (`nohup`) stays
//! ignored, here and in the command that `exec` runs.

use std::io;

use futures_util::StreamExt as _;
use procfs::process::Process;
use signal_hook::{
    consts::signal::{
        SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
    },
    iterator::exfiltrator::{WithOrigin, origin::Origin},
};
use signal_hook_tokio::SignalsInfo;

/// What ends `run`.
pub const STOPPING: &[i32] = &[SIGINT, SIGTERM, SIGHUP];

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
}

impl Signals {
    /// Catches those of the given signals that are not ignored.
    ///
    /// # Errors
    ///
    /// When this process's signal dispositions cannot be read or changed.
    pub fn install(numbers: &[i32]) -> io::Result<Self> {
        let ignored = ignored()?;
        let caught = numbers
            .iter()
            .filter(|number| ignored & (1 << (**number - 1)) == 0);
        Ok(Self {
            stream: SignalsInfo::with_exfiltrator(caught, WithOrigin::default())?,
        })
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

/// The mask of ignored signals; bit n - 1 is signal n (`SigIgn` in proc_pid_status(5)).
fn ignored() -> io::Result<u64> {
    let status = Process::myself()
        .and_then(|process| process.status())
        .map_err(io::Error::other)?;
    // The Rust runtime ignores SIGPIPE by itself, whatever it was before.
    Ok(status.sigign & !(1 << (SIGPIPE - 1)))
}
