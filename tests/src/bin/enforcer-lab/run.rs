//! `run`: a lab for as long as one command runs.

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt as _,
    process::{ExitCode, ExitStatus},
};

use anyhow::{Context as _, Result};
use enforcer::daemon::signals::{ENDING, FORWARDED, Signals};
use enforcer_tests::{
    lab::{Breakage, Lab},
    process::end_with_parent,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

/// As shells have them.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Makes the lab, runs the command on its client's side and removes the lab. The exit code is the command's.
pub(crate) fn run(breakage: Breakage, command: &[OsString]) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime that waits for the command")?
        .block_on(attended(breakage, command))
}

async fn attended(breakage: Breakage, command: &[OsString]) -> Result<ExitCode> {
    // From now on a signal is something to deal with, and not the end of this process.
    let mut signals = Signals::install(&[], FORWARDED).context("watch for signals")?;
    let lab = Lab::new(breakage)?;
    let (program, arguments) = command.split_first().context("find the command")?;
    let mut command = lab.outside().command(program)?;
    command.args(arguments);
    end_with_parent(&mut command, Signal::TERM);
    while let Some(signal) = signals.pending().await {
        // Nobody who ends us by now wants the command to begin.
        if ENDING.contains(&signal.number) {
            return Ok(code(128 + signal.number));
        }
    }
    let child = match tokio::process::Command::from(command).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("error: run {}: {error}", program.display());
            return Ok(ExitCode::from(match error.kind() {
                io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_EXECUTABLE,
            }));
        }
    };
    let status = attend(child, &mut signals).await?;
    drop(lab);
    Ok(exit_code(status))
}

/// Waits until the command has ended, handing on what signals come.
async fn attend(mut child: Child, signals: &mut Signals) -> Result<ExitStatus> {
    loop {
        tokio::select! {
            biased;
            status = child.wait() => return status.context("wait for the command"),
            signal = signals.next() => {
                // What the terminal sends reaches the command by itself: it is in the same process group.
                if signal.from_process {
                    forward(&child, signal.number);
                }
            }
        }
    }
}

fn forward(child: &Child, signal: i32) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
        // It may have ended in this moment; its status is read next.
        let _ = kill_process(pid, signal);
    }
}

/// As a shell does it: 128 + n if signal n ended the command.
fn exit_code(status: ExitStatus) -> ExitCode {
    match (status.code(), status.signal()) {
        (Some(number), _) => code(number),
        (None, Some(signal)) => code(128 + signal),
        (None, None) => ExitCode::FAILURE,
    }
}

fn code(code: i32) -> ExitCode {
    // What a command gives and 128 plus a signal's number are below 256 (wait(2)).
    u8::try_from(code & 0xff).map_or(ExitCode::FAILURE, ExitCode::from)
}
