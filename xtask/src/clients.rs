//! `cargo xtask clients`: makes the machine able, builds, and becomes the program that runs real clients. What it found is
//! in `docs/clients.md`.

use std::{os::unix::process::CommandExt as _, process::Command, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup::{self, Purpose},
    workspace::{self, HOST},
};

/// The programs: the one that runs clients, what it shows, and the clients that are our own.
const PROGRAMS: [&str; 4] = [
    "enforcer-clients",
    "enforcer",
    "enforcer-rust-clients",
    "enforcer-test-client",
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install system packages without asking
    #[arg(long)]
    yes: bool,
    /// Clients of that family, or with that in their name, only; a name that does not exist lists them
    #[arg(long, value_name = "CLIENT")]
    only: Option<String>,
    /// One breakage of the lab only
    #[arg(long, value_name = "NAME")]
    breakage: Option<String>,
    /// Write docs/clients.md and its picture, of what was found now and before
    #[arg(long)]
    bless: bool,
}

/// The verb. Returns only if the program could not be started: this process becomes it, so that signals reach it
/// and its exit code is ours.
///
/// # Errors
///
/// Where setup or the build fails.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !workspace::is_root() {
        bail!(
            "the clients run in network namespaces and cgroups of their own, beside kernel programs, which needs root\n\
             hint: run it as root"
        );
    }
    if !setup::is_able(Purpose::Clients)? {
        setup::make_able(Purpose::Clients, args.yes)?;
    }
    // The selection that the tests are built with, so that nothing is built twice.
    let mut build = workspace::cargo();
    build.args(["build", "--quiet"]).args(HOST);
    for program in PROGRAMS {
        build.args(["--bin", program]);
    }
    workspace::run(&mut build)?;
    let target = workspace::target_dir()?;
    let program = target.join("debug").join(PROGRAMS[0]);
    let mut command = Command::new(&program);
    command
        .arg("--output")
        .arg(target.join("clients"))
        .arg("--repository")
        .arg(workspace::root());
    for (option, value) in [("--only", &args.only), ("--breakage", &args.breakage)] {
        if let Some(value) = value {
            command.arg(option).arg(value);
        }
    }
    if args.bless {
        command.arg("--bless");
    }
    let error = command.exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}
