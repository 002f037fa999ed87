//! What the controller computes: instructions, counted rather than timed, so that a busy machine does not matter.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use enforcer_tests::{
    bench::{
        governed::{MIXED, write_policy},
        network,
        rounds::Estimate,
    },
    enforcer::Enforcer,
};

use crate::{
    bench::Bench,
    report::{Outcome, Row, Unit},
};

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    bench.progress("the controller's instructions");
    let directory = tempfile::tempdir().context("make a directory for a policy")?;
    let path = directory.path().join("policy.toml");
    let entries = if bench.quick { 2_000 } else { 50_000 };
    write_policy(&path, &network::table(entries, 95), MIXED)?;
    let what = format!(
        "instructions of the controller for each of {entries} prefixes, reading, checking, compiling"
    );
    let rows = [
        ("controller/callgrind", callgrind as Counter),
        ("controller/perf", perf),
    ]
    .map(|(id, count)| {
        let tool = id.rsplit('/').next().unwrap_or_default();
        let row = |reached| Row::fact(id, format!("{what} ({tool})"), Unit::Count, reached);
        match count(&path) {
            Ok(instructions) => row(Some(Estimate::once(instructions / entries as f64))),
            Err(error) => row(None).note(format!("{error:#}")),
        }
    });
    Ok(Outcome {
        rows: rows.into(),
        plots: Vec::new(),
    })
}

/// Counts the instructions of `enforcer check` of a policy.
type Counter = fn(&Path) -> Result<f64>;

fn callgrind(policy: &Path) -> Result<f64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    let said = standard_error(command, policy)?;
    // `==1== Collected : 1234`
    let count = said.lines().find_map(|line| line.split_once("Collected :"));
    number(count.map(|(_, number)| number), "callgrind")
}

fn perf(policy: &Path) -> Result<f64> {
    let mut command = Command::new("perf");
    command.args(["stat", "--field-separator=,", "--event=instructions:u", "--"]);
    let said = standard_error(command, policy)?;
    // `1234,,instructions:u,…`
    let count = said.lines().find(|line| line.contains("instructions:u"));
    number(count.and_then(|line| line.split(',').next()), "perf stat")
}

fn standard_error(mut counting: Command, policy: &Path) -> Result<String> {
    let program = counting.get_program().to_string_lossy().into_owned();
    let output = counting
        .arg(Enforcer::program()?)
        .arg("check")
        .arg(policy)
        .output()
        .with_context(|| format!("run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success(),
        "{program}: {}",
        said.lines().last().unwrap_or_default()
    );
    Ok(said)
}

fn number(text: Option<&str>, tool: &str) -> Result<f64> {
    let text = text.unwrap_or_default().trim();
    let number: f64 = text.parse().map_err(|_| {
        anyhow::anyhow!("{tool} does not count instructions on this machine: it says {text:?}")
    })?;
    Ok(number)
}
