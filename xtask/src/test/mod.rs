//! `cargo xtask test`: every check and every test, one summary.
//!
//! A failing stage stops nothing: whatever is wrong is reported at once. Only failing stages show their
//! output.

mod repetitions;

mod outcome;

mod tally;

mod stage;

use std::{env, process::ExitCode, time::Instant};

use anyhow::Result;

pub(crate) use self::{
    outcome::NotApplicable,
    repetitions::{Extent, repetition_variables},
};
use self::{outcome::Outcomes, stage::Runner, tally::Tally};
use crate::{
    setup::{self, Purpose},
    tidy, vm,
    workspace::{self, HOST},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install system packages without asking
    #[arg(long)]
    yes: bool,
    /// Repeat what is repeated as often as a release demands
    #[arg(long)]
    full: bool,
    /// Count a skipped test as failed; so does ENFORCER_STRICT=1
    #[arg(long)]
    strict: bool,
}

/// The verb. The last line on stdout is always `N passed, N failed`, with `, N skipped` if there are any.
pub(crate) fn run(args: &Args) -> ExitCode {
    let strict = args.strict || env::var_os("ENFORCER_STRICT").is_some_and(|value| value == "1");
    let mut runner = Runner::new();
    let started = Instant::now();
    let able = setup::make_able(Purpose::Test, args.yes).map_err(|error| format!("{error:#}"));
    if runner.ended("setup", started, able) {
        checks(&mut runner);
        let extent = if args.full { Extent::Full } else { Extent::Small };
        if let Err(error) = tests(&mut runner, extent) {
            runner.check("tests", || Err(format!("{error:#}")));
        }
        let bench = ["xtask", "bench", "--quick"];
        runner.command("bench, quick", workspace::cargo().args(bench));
        runner.counted("tests, other kernels", || {
            vm::run(&vm::Args::everything(args.full)).map(Tally::from)
        });
    }
    let tally = runner.summary(strict);
    println!("{}", tally.line());
    if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Each counts as one.
fn checks(runner: &mut Runner) {
    runner.command("formatting", workspace::cargo().args(["fmt", "--all", "--check"]));
    match tidy::Tree::read() {
        Ok(tree) => {
            for (name, check) in tidy::CHECKS {
                runner.check(&format!("tidy: {name}"), || tidy::outcome(&tree, *check));
            }
        }
        Err(error) => {
            runner.check("tidy", || Err(format!("{error:#}")));
        }
    }
    let deny = ["--", "--deny", "warnings"];
    runner.command(
        "clippy, host",
        workspace::cargo()
            .args(["clippy", "--quiet"])
            .args(HOST)
            .arg("--all-targets")
            .args(deny),
    );
    runner.command(
        "clippy, BPF",
        workspace::cargo()
            .args(BPF_CLIPPY)
            .args(deny)
            .envs(bpf_environment()),
    );
    runner.command(
        "rustdoc",
        workspace::cargo()
            .args(["doc", "--quiet", "--no-deps", "--document-private-items"])
            .args(HOST)
            .env("RUSTDOCFLAGS", "--deny warnings"),
    );
}

/// As aya-build builds it, but with clippy in front, and in a folder of its own: its flags are not those of
/// the host build, and each would throw away what the other made.
const BPF_CLIPPY: [&str; 13] = [
    "clippy",
    "--keep-going",
    "--quiet",
    "--package",
    "enforcer-ebpf",
    "--bins",
    "--release",
    "--target",
    "bpfel-unknown-none",
    "-Z",
    "build-std=core",
    "--target-dir",
    "target/bpf-clippy",
];

/// RUSTC_BOOTSTRAP: `-Z` on the pinned stable compiler, as in enforcer/build.rs.
fn bpf_environment() -> [(&'static str, String); 2] {
    [
        ("RUSTC_BOOTSTRAP", "1".to_owned()),
        (
            "CARGO_ENCODED_RUSTFLAGS",
            format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        ),
    ]
}

/// Unit, documentation and integration tests on the running kernel.
fn tests(runner: &mut Runner, extent: Extent) -> Result<()> {
    let built = runner.command(
        "build",
        workspace::cargo()
            .args(["build", "--quiet", "--all-targets"])
            .args(HOST),
    );
    if !built {
        return Ok(());
    }
    let outcomes = Outcomes::collect()?;
    let mut command = workspace::cargo();
    command
        .args(["test", "--no-fail-fast"])
        .args(HOST)
        .env("ENFORCER_BIN", workspace::target_dir()?.join("debug/enforcer"))
        .env(outcome::VARIABLE, outcomes.path())
        // What strictness means is decided here, when everything is counted, on all kernels alike.
        .env_remove("ENFORCER_STRICT")
        .envs(repetition_variables(extent));
    runner.tests(
        "tests, this kernel",
        &mut command,
        &outcomes,
        &NotApplicable::read()?,
    )
}
