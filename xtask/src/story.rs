//! `cargo xtask story`: makes the machine able, builds, and becomes the program that tells stories from the field, each
//! before and after. The stories themselves are in `examples/`, one folder each.

use std::{os::unix::process::CommandExt as _, process::Command, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup::{self, Purpose},
    workspace::{self, HOST},
};

/// The program.
const PROGRAM: &str = "enforcer-story";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install system packages without asking
    #[arg(long)]
    yes: bool,
    /// Which
    #[arg(value_enum)]
    story: Story,
}

/// A folder of `examples/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Story {
    /// TypeORM and Sequelize, given a database that they cannot reach
    Orm,
    /// One service of a compose file, and its neighbour
    Compose,
    /// A WebSocket client that connects a hundred times
    Websocket,
    /// A firewall that drops IPv6, and a rollout to a quarter of the processes
    Firewall,
}

impl Story {
    const fn name(self) -> &'static str {
        match self {
            Self::Orm => "orm",
            Self::Compose => "compose",
            Self::Websocket => "websocket",
            Self::Firewall => "firewall",
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
    if !workspace::is_root() {
        bail!(
            "a story makes network namespaces and cgroups and loads kernel programs, which needs root\n\
             hint: run it as root"
        );
    }
    if !setup::is_able(Purpose::Test)? {
        setup::make_able(Purpose::Test, args.yes)?;
    }
    println!("building");
    // The selection that the tests are built with, so that nothing is built twice.
    workspace::run(workspace::cargo().args(["build", "--quiet"]).args(HOST).args([
        "--bin",
        PROGRAM,
        "--bin",
        "enforcer",
        "--bin",
        "enforcer-test-client",
    ]))?;
    let built = workspace::target_dir()?.join("debug");
    let program = built.join(PROGRAM);
    let error = Command::new(&program)
        .arg(args.story.name())
        .env("ENFORCER_BIN", built.join("enforcer"))
        .exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn each_story_is_a_folder_that_says_how_to_run_it() {
        for story in Story::value_variants() {
            let path = workspace::root()
                .join("examples")
                .join(story.name())
                .join("README.md");
            let text = std::fs::read_to_string(&path).unwrap();
            let command = format!("cargo xtask story {}", story.name());
            assert!(text.contains(&command), "{}: {command}", path.display());
            assert_eq!(
                story.to_possible_value().map(|value| value.get_name().to_owned()),
                Some(story.name().to_owned())
            );
        }
    }
}
