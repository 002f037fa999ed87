//! What was measured on each kernel: `kernels.toml`, and the page that is made of it.
//!
//! A record says which features of enforcer's table a kernel has and how many instructions its verifier walks for each
//! program. Kernels are told apart by the beginning of their release here, because a record is of one kernel; enforcer
//! itself never looks at it.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use enforcer::kernel::features::{FEATURES, Without};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    enforcer::Enforcer,
    need::tests_directory,
    place::Place,
    privileges::{LEAST_AND_LIMITS, limit_to},
    wait::PATIENCE,
};

/// Set to `1` when records are being made: then nothing is compared with them.
pub const BLESS_VARIABLE: &str = "ENFORCER_BLESS";

/// The feature is there for every process that may load programs at all.
pub const YES: &str = "yes";
/// It is there for a process with CAP_PERFMON.
pub const PERFMON: &str = "perfmon";
/// It is not there.
pub const NO: &str = "no";

/// What was measured on one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Kernel line: `6.12`, or `7.x`.
    pub line: String,
    /// Release of the kernel that was measured.
    pub release: String,
    /// Whether it loads enforcer's programs for a process without CAP_PERFMON: [`YES`] or [`PERFMON`].
    pub programs: String,
    /// By the feature's identifier: [`YES`], [`PERFMON`] or [`NO`].
    pub features: BTreeMap<String, String>,
    /// By program: instructions that the verifier walked.
    pub instructions: BTreeMap<String, u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordFile {
    kernel: Vec<Record>,
}

/// All records, oldest kernel first.
///
/// # Errors
///
/// When the file cannot be read or understood.
pub fn records() -> Result<Vec<Record>> {
    let path = tests_directory().join("kernels.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let file: RecordFile = toml::from_str(&text).with_context(|| format!("understand {}", path.display()))?;
    Ok(file.kernel)
}

/// Whether records are being made.
#[must_use]
pub fn blessing() -> bool {
    env::var_os(BLESS_VARIABLE).is_some_and(|value| value == "1")
}

/// The running kernel's line: what the guest was told, or the first two numbers of its release.
///
/// # Errors
///
/// When the release does not begin with two numbers.
pub fn running_line() -> Result<String> {
    if let Ok(line) = env::var("ENFORCER_KERNEL") {
        return Ok(line);
    }
    let release = running_release()?;
    let mut numbers = release.split('.');
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => Ok(format!("{major}.{minor}")),
        _ => bail!("read the kernel's release: {release:?} does not begin with two numbers"),
    }
}

fn running_release() -> Result<String> {
    let path = "/proc/sys/kernel/osrelease";
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(text.trim_end().to_owned())
}

/// What `enforcer doctor` says as JSON, run by that command.
///
/// # Errors
///
/// When it does not end with `code`, or what it says is no JSON.
pub fn doctor(command: Command, code: i32) -> Result<Value> {
    let (found, report) = any_doctor(command)?;
    anyhow::ensure!(
        found == Some(code),
        "run enforcer doctor: it ended with {found:?}: {report}"
    );
    Ok(report)
}

/// With the code it ended with.
fn any_doctor(command: Command) -> Result<(Option<i32>, Value)> {
    let finished = Enforcer::start(command)?.finish(PATIENCE)?;
    anyhow::ensure!(finished.stderr.is_empty(), "run enforcer doctor: {finished:?}");
    let text = finished.stdout.join("\n");
    let report = serde_json::from_str(&text)
        .with_context(|| format!("understand what enforcer doctor says: {text}"))?;
    Ok((finished.status.code(), report))
}

/// The items of that kind in what `doctor` said.
pub fn items<'report>(report: &'report Value, item: &str) -> Vec<&'report Value> {
    report["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|found| found["item"] == item)
        .collect()
}

/// Measures the running kernel, through `enforcer doctor`: as root, and with the least capabilities.
///
/// # Errors
///
/// When doctor does not say what it should.
pub fn measure() -> Result<Record> {
    let arguments = ["doctor", "--output", "json"];
    let full = doctor(Enforcer::command(&Place::default(), arguments)?, 0)?;
    let mut command = Enforcer::command(&Place::default(), arguments)?;
    limit_to(&mut command, LEAST_AND_LIMITS);
    let (code, least) = any_doctor(command)?;
    let mut record = Record {
        line: running_line()?,
        release: running_release()?,
        programs: match code {
            Some(0) => YES.to_owned(),
            Some(4) => PERFMON.to_owned(),
            other => bail!("run enforcer doctor: it ended with {other:?}"),
        },
        ..Record::default()
    };
    for feature in FEATURES {
        let found = |report| -> Result<bool> {
            let items = items(report, "feature");
            let item = items.iter().find(|item| item["subject"] == feature.id);
            let item = item.with_context(|| format!("doctor says nothing of {}", feature.id))?;
            match item["details"]["found"].as_str() {
                Some("yes") => Ok(true),
                Some("no") => Ok(false),
                _ => bail!("doctor cannot tell whether there is {}: {item}", feature.id),
            }
        };
        let value = match (found(&full)?, found(&least)?) {
            (true, true) => YES,
            (true, false) => PERFMON,
            (false, false) => NO,
            (false, true) => bail!("{} is there with fewer capabilities only", feature.id),
        };
        record.features.insert(feature.id.to_owned(), value.to_owned());
    }
    for item in items(&full, "program") {
        let name = item["subject"].as_str().context("a program without a name")?;
        let count = item["details"]["verified_instructions"]
            .as_u64()
            .and_then(|count| u32::try_from(count).ok())
            .with_context(|| {
                format!("doctor does not say how much work {name} is to the verifier: {item}")
            })?;
        record.instructions.insert(name.to_owned(), count);
    }
    Ok(record)
}

/// Path of the page that is made of the records.
#[must_use]
pub fn page_path() -> PathBuf {
    tests_directory().join("../docs/kernels.md")
}

/// The page that is made of the table in code and the records.
#[must_use]
pub fn page(records: &[Record]) -> String {
    let mut page = String::from(INTRODUCTION);
    page.push_str("| feature | how it is asked for | without it |\n|---|---|---|\n");
    for feature in FEATURES {
        line(
            &mut page,
            &[
                format!("{} (`{}`)", feature.name, feature.id),
                feature.probe.describe(),
                feature.without.text().to_owned(),
            ],
        );
    }
    page.push_str(MATRIX);
    let header: Vec<_> = records.iter().map(|record| record.line.clone()).collect();
    line(&mut page, &[vec!["feature".to_owned()], header.clone()].concat());
    page.push_str(&format!("|---|{}\n", "---|".repeat(records.len())));
    for feature in FEATURES {
        let values = records.iter().map(|record| {
            let value = record.features.get(feature.id).map_or("", String::as_str);
            match value {
                PERFMON => "CAP_PERFMON".to_owned(),
                NO if feature.without == Without::Impossible => "**no**".to_owned(),
                other => other.to_owned(),
            }
        });
        line(
            &mut page,
            &[vec![format!("`{}`", feature.id)], values.collect()].concat(),
        );
    }
    let programs = records.iter().map(|record| match record.programs.as_str() {
        PERFMON => "CAP_PERFMON".to_owned(),
        other => other.to_owned(),
    });
    line(
        &mut page,
        &[vec!["loads enforcer's programs".to_owned()], programs.collect()].concat(),
    );
    page.push_str(VERIFIER);
    line(&mut page, &[vec!["program".to_owned()], header].concat());
    page.push_str(&format!("|---|{}\n", "---|".repeat(records.len())));
    let programs: std::collections::BTreeSet<_> = records
        .iter()
        .flat_map(|record| record.instructions.keys())
        .collect();
    for program in programs {
        let counts = records.iter().map(|record| {
            record
                .instructions
                .get(program)
                .map(ToString::to_string)
                .unwrap_or_default()
        });
        line(
            &mut page,
            &[vec![format!("`{program}`")], counts.collect()].concat(),
        );
    }
    page.push_str(MEASURED);
    for record in records {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "- {}: {}", record.line, record.release);
    }
    page
}

fn line(page: &mut String, cells: &[String]) {
    let _ = writeln!(page, "| {} |", cells.join(" | "));
}

const INTRODUCTION: &str = "\
# Kernels

What enforcer needs of a kernel, how it finds out, and what it does without. Versions are never compared: stable kernels
backport, and vendors take away. `enforcer doctor` asks the running kernel for every line of the first table.

This page is made from the table in `enforcer/src/kernel/features.rs` and the records in `tests/kernels.toml`, by
`cargo xtask vm --bless`; a test compares it, and on each kernel a test compares the record with what it measures.

## Features

";

const MATRIX: &str = "
## What each kernel has

As measured on the newest patch release of each line: Debian's cloud kernels, and a host's own where the line is none of
theirs. CAP_PERFMON means that a process needs this capability besides CAP_BPF and CAP_NET_ADMIN, when it loads the programs; where
that is said in the last line, enforcer cannot govern without it.

";

const VERIFIER: &str = "
## What the verifier walks

Instructions that the kernel's verifier processed for each program; it refuses one that takes more than a million. A
program may take a fifth more than is on record, or a test fails until the record is changed on purpose.

";

const MEASURED: &str = "
## What was measured

";
