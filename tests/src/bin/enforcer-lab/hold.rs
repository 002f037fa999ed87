//! A standing lab: a process in the background that has all of it. When it ends, however it does, nothing is left
//! but a line of text.

use std::{
    env,
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use enforcer::daemon::signals::{HANGING_UP, STOPPING, Signals};
use enforcer_tests::{
    lab::{Breakage, Lab},
    process::Running,
};

use crate::standing::{Registry, Standing};

/// The verb with which this program is a standing lab.
pub(crate) const VERB: &str = "hold";

/// The verb with which it is the process on the client's side that others enter the lab by.
pub(crate) const ANCHOR: &str = "anchor";

/// What it says on standard output once the lab stands.
pub(crate) const READY: &str = "ready";

/// Makes the lab, remembers it, and keeps it until told to end.
pub(crate) fn hold(name: &str, breakage: Breakage) -> Result<ExitCode> {
    let registry = Registry::new();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime that waits for signals")?
        .block_on(async {
            let mut signals = Signals::install(STOPPING, HANGING_UP).context("watch for signals")?;
            let lab = Lab::new(breakage)?;
            let program = env::current_exe().context("find the path of this program")?;
            let mut anchor = lab.outside().command(program)?;
            anchor.arg(ANCHOR);
            let anchor = Running::start(anchor)?;
            let standing = Standing::of_this_process(name, breakage, anchor.pid())?;
            registry.remember(&standing)?;
            // Whoever asked for the lab may have been interrupted, and then nobody knows of it.
            let is_heard = writeln!(io::stdout(), "{READY}").is_ok();
            if is_heard {
                signals.next().await;
            }
            drop(anchor);
            drop(lab);
            registry.forget(name)
        })?;
    Ok(ExitCode::SUCCESS)
}

/// Waits for the end of standard input, whose other end is the standing lab's alone.
pub(crate) fn anchor() -> Result<()> {
    io::stdin()
        .read_to_end(&mut Vec::new())
        .context("wait for the lab to end")?;
    Ok(())
}
