//! `cargo xtask bench`: makes the machine able, builds as for users, and becomes the program that measures. What it
//! measures and how, `docs/performance.md` says.

use std::{os::unix::process::CommandExt as _, process::Command, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup::{self, Purpose},
    workspace,
};

/// The programs: the one that measures, what it measures, and what connects.
const PROGRAMS: [&str; 3] = ["enforcer-bench", "enforcer", "enforcer-test-client"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install system packages without asking
    #[arg(long)]
    yes: bool,
    /// Few rounds and small tables, in two minutes: checks the set-up and the output, and fails where a ratio is worse than
    /// twice the recorded one in three repeats
    #[arg(long)]
    quick: bool,
    /// Measure one group of rows only; a name that does not exist lists them
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Write docs/performance.md, its plots and the recorded ratios
    #[arg(long, conflicts_with = "quick")]
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
            "the bench makes network namespaces and cgroups and loads kernel programs, which needs root\n\
             hint: run it as root"
        );
    }
    if !setup::is_able(Purpose::Bench)? {
        setup::make_able(Purpose::Bench, args.yes)?;
    }
    println!("building (release)");
    let mut build = workspace::cargo();
    build.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "enforcer",
        "--package",
        "enforcer-tests",
    ]);
    for program in PROGRAMS {
        build.args(["--bin", program]);
    }
    workspace::run(&mut build)?;
    let target = workspace::target_dir()?;
    let built = target.join("release");
    let program = built.join(PROGRAMS[0]);
    let mut command = Command::new(&program);
    command
        .arg("--output")
        .arg(target.join("bench"))
        .arg("--repository")
        .arg(workspace::root())
        .env("ENFORCER_BIN", built.join("enforcer"));
    if args.quick {
        command.arg("--quick");
    }
    if args.bless {
        command.arg("--bless");
    }
    if let Some(only) = &args.only {
        command.arg("--only").arg(only);
    }
    let error = command.exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}
