//! The janitor: a process that outlives the demo by a moment when that is killed, and removes its cgroup. All else
//! the demo makes ends with its processes.

use std::{
    env, fs,
    io::{self, ErrorKind, Read as _},
};

use anyhow::{Context as _, Result};
use enforcer_tests::{
    cgroup::CgroupFixture,
    place::Place,
    process::Running,
    wait::{PATIENCE, eventually},
};

/// The argument with which the demo is its own janitor.
pub(crate) const VERB: &str = "janitor";

/// Starts it. Dropped, it is ended: a demo that lives to drop it removes the cgroup itself.
pub(crate) fn start(cgroup: &CgroupFixture) -> Result<Running> {
    let demo = env::current_exe().context("find the path of the demo")?;
    let mut command = Place::default().command(demo)?;
    command.arg(VERB).arg(cgroup.path());
    // Its standard input is a pipe whose other end is the demo's alone.
    Running::start(command)
}

/// The janitor itself: waits until the demo is gone, and then for its clients and its enforcer, which the kernel
/// ends when it goes.
pub(crate) fn wait_and_remove(cgroup: &str) -> Result<()> {
    io::stdin()
        .read_to_end(&mut Vec::new())
        .context("wait for the demo to end")?;
    eventually("the cgroup to be empty", PATIENCE, || {
        match fs::remove_dir(cgroup) {
            Ok(()) => true,
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    })
}
