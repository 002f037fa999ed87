//! Every developer and CI verb: `cargo xtask VERB`.
//!
//! xtask must compile on a machine that has nothing but Rust and a C linker, because it is what brings the
//! rest: it does not depend on enforcer's own crates, and the libraries it uses are pure Rust.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to a person in a terminal is what xtask is for"
)]

mod prerequisites;
mod workspace;

mod debian;

mod setup;

mod tidy;

mod vm;

mod test;

mod demo;

mod lab;

mod story;

mod bench;

mod clients;

mod fresh;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer and CI verbs of enforcer.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Xtask {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring what a build, the demo or the tests need
    Setup(setup::Args),
    /// Show the problem and its cure on this machine, in a namespace of its own (root)
    Demo(demo::Args),
    /// Make a network whose IPv6 is broken, to try things in (root)
    Lab(lab::Args),
    /// Tell a story from the field, before and after, with its applications (root)
    Story(story::Args),
    /// Measure what enforcer costs and what the alternatives cost, side by side (root)
    Bench(bench::Args),
    /// Run the clients people use against each breakage of the lab, with and without enforcer (root)
    Clients(clients::Args),
    /// Run every check and every test
    Test(test::Args),
    /// Run the integration tests on every kernel line, under qemu
    Vm(vm::Args),
    /// Check the rules that no compiler and no lint keeps
    Tidy,
    /// Run a verb in a Debian root that has nothing but Rust and a C linker (root)
    Fresh(fresh::Args),
}

fn main() -> ExitCode {
    let outcome = match Xtask::parse().verb {
        Verb::Setup(args) => setup::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Demo(args) => demo::run(&args),
        Verb::Lab(args) => lab::run(&args),
        Verb::Story(args) => story::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Clients(args) => clients::run(&args),
        Verb::Test(args) => Ok(test::run(&args)),
        Verb::Vm(args) => vm::run(&args).map(|summary| ExitCode::from(u8::from(summary.failed > 0))),
        Verb::Tidy => tidy::run(),
        Verb::Fresh(args) => fresh::run_in_root(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
