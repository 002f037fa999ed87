//! A standing lab: a process in the background that has all of it. When it ends, however it does, nothing is left
//! but a line of text.

use std::{
    env,
    io::{self, BufRead as _, Read as _, Write as _},
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

/// What it is told on standard input once the lab is remembered.
pub(crate) const KEEP: &str = "keep";

/// Makes the lab, says so on standard output in one line, the [`Standing`] lab's own, and keeps it until told to end.
///
/// It is for whoever asked for the lab to remember it: they keep others from doing so meanwhile. Should they have
/// been interrupted, nobody says [`KEEP`], and the lab is removed.
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
            let line = serde_json::to_string(&standing).context("write down the lab")?;
            if writeln!(io::stdout(), "{line}").is_ok() && is_kept() {
                signals.next().await;
            }
            drop(anchor);
            drop(lab);
            registry.forget_own(&standing)
        })?;
    Ok(ExitCode::SUCCESS)
}

/// Waits for what becomes of the lab: standard input says it, or ends.
fn is_kept() -> bool {
    let mut said = String::new();
    io::stdin().lock().read_line(&mut said).is_ok() && said.trim_end() == KEEP
}

/// Waits for the end of standard input, whose other end is the standing lab's alone.
pub(crate) fn anchor() -> Result<()> {
    io::stdin()
        .read_to_end(&mut Vec::new())
        .context("wait for the lab to end")?;
    Ok(())
}
