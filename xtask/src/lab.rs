//! `cargo xtask lab`: makes the machine able, builds, and becomes the program that makes labs. What a lab is,
//! `docs/lab.md` says.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    setup::{self, Purpose},
    workspace::{self, HOST},
};

/// The program.
const PROGRAM: &str = "enforcer-lab";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install system packages without asking
    #[arg(long)]
    yes: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// List the breakages, and the labs that are up; so does no verb at all
    List,
    /// Make a lab, run a command on its client's side, remove the lab; the exit code is the command's
    Run {
        /// What is broken
        breakage: OsString,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Make a lab that stands until `down`, and say how to enter it
    Up {
        /// What is broken
        breakage: OsString,
        /// What to call the lab; as its breakage if absent
        name: Option<OsString>,
    },
    /// Remove labs that are up
    Down {
        /// Which; all if absent
        names: Vec<OsString>,
    },
}

impl What {
    /// As the program takes it.
    fn arguments(&self) -> Vec<&OsString> {
        match self {
            Self::List => vec![],
            Self::Run { breakage, command } => [breakage].into_iter().chain(command).collect(),
            Self::Up { breakage, name } => [breakage].into_iter().chain(name).collect(),
            Self::Down { names } => names.iter().collect(),
        }
    }

    /// What the machine must be able to do for it.
    fn purpose(&self) -> Purpose {
        match self {
            Self::List | Self::Down { .. } => Purpose::Build,
            Self::Run { .. } | Self::Up { .. } => Purpose::Lab,
        }
    }

    fn verb(&self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Run { .. } => "run",
            Self::Up { .. } => "up",
            Self::Down { .. } => "down",
        }
    }
}

/// The verb. Returns only if the program could not be started: this process becomes it, so that signals reach it
/// and its exit code is ours.
///
/// # Errors
///
/// Where setup or the build fails.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let what = args.what.as_ref().unwrap_or(&What::List);
    // Standard output is that of the command in the lab, so nothing is said where nothing is missing.
    if !setup::is_able(what.purpose())? {
        setup::make_able(what.purpose(), args.yes)?;
    }
    // The selection that the tests are built with, so that nothing is built twice.
    workspace::run(
        workspace::cargo()
            .args(["build", "--quiet"])
            .args(HOST)
            .args(["--bin", PROGRAM]),
    )?;
    let program = workspace::target_dir()?.join("debug").join(PROGRAM);
    let error = Command::new(&program)
        .arg(what.verb())
        .args(what.arguments())
        .exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}
