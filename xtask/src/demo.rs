//! `cargo xtask demo`: makes the machine able, builds, and becomes the demo.

use std::{os::unix::process::CommandExt as _, process::Command, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup::{self, Purpose},
    workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install system packages without asking
    #[arg(long)]
    yes: bool,
    /// Handed to the demo
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// The verb. Returns only if the demo could not be started: this process becomes the demo, so that signals
/// reach it and its exit code is ours.
///
/// # Errors
///
/// Where setup or the build fails.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !workspace::is_root() {
        bail!(
            "the demo makes a network namespace and loads kernel programs, which needs root\nhint: run it as root"
        );
    }
    setup::make_able(Purpose::Demo, args.yes)?;
    println!("building (release)");
    let packages = ["--package", "enforcer", "--package", "enforcer-tests"];
    let bins = ["--bin", "enforcer", "--bin", "enforcer-demo"];
    let mut build = workspace::cargo();
    build
        .args(["build", "--quiet", "--release"])
        .args(packages)
        .args(bins);
    workspace::run(&mut build)?;
    let built = workspace::target_dir()?.join("release");
    let demo = built.join("enforcer-demo");
    let error = Command::new(&demo)
        .args(&args.arguments)
        .env("ENFORCER_BIN", built.join("enforcer"))
        .exec();
    Err(error).with_context(|| format!("starting {}", demo.display()))
}
