//! `cargo xtask vm --bless`: what was measured on each kernel becomes its record, and the records the page.
//!
//! Measuring is a test's work (tests/tests/kernels.rs), and so is writing the page; here the pieces are put together. What
//! was not measured this time keeps its record.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{
    payload::{Payload, TestBinary},
    say,
};
use crate::workspace;

/// The test that measures.
pub(crate) const MEASURING: &str = "the_kernel_has_what_is_on_record_and_its_verifier_walks_little_more";

/// The test that writes the page, with [`BLESS_VARIABLE`] set.
const PAGE: &str = "the_page_is_made_of_the_records";

/// The file of both.
const BINARY: &str = "kernels";

/// Tells both to make records instead of comparing.
pub(crate) const BLESS_VARIABLE: &str = "ENFORCER_BLESS";

const HEADER: &str = "\
# What was measured on each kernel: the features of enforcer's table (enforcer/src/kernel/features.rs) that it has, and how
# many instructions its verifier walks for each program. Made by `cargo xtask vm --bless`; a test on each kernel compares.
# perfmon: only for a process with CAP_PERFMON.

";

/// As tests/src/records.rs reads it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    line: String,
    release: String,
    programs: String,
    features: BTreeMap<String, String>,
    instructions: BTreeMap<String, u32>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Records {
    #[serde(default)]
    kernel: Vec<Record>,
}

/// Writes what guests measured, and this machine where it may, and the page.
///
/// # Errors
///
/// When something measured cannot be understood, or a file not be written.
pub(crate) fn write(tests_folder: &Path, payload: &Payload, mut measured: Vec<String>) -> Result<()> {
    let binary = payload.tests.iter().find(|binary| binary.name == BINARY);
    let binary = binary.with_context(|| format!("looking for the test file {BINARY}"))?;
    if workspace::is_root() {
        measured.extend(measured_here(binary, payload)?);
    } else {
        say("this machine's own kernel keeps the record it has: measuring takes root");
    }
    let path = tests_folder.join("kernels.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let records: Records = toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    let records = merged(records, &measured)?;
    let text = toml::to_string(&records).context("writing records as TOML")?;
    fs::write(&path, format!("{HEADER}{text}")).with_context(|| format!("writing {}", path.display()))?;
    // As the build left it: only there the test knows where the page is.
    workspace::run(
        Command::new(&binary.path)
            .args(["--exact", PAGE])
            .env(BLESS_VARIABLE, "1"),
    )?;
    for record in &records.kernel {
        say(&format!(
            "{:<6}{}: {:?}",
            record.line, record.release, record.instructions
        ));
    }
    Ok(())
}

fn measured_here(binary: &TestBinary, payload: &Payload) -> Result<Vec<String>> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let outcomes = folder.path().join("outcomes");
    let mut command = Command::new(&binary.path);
    command
        .args(["--exact", MEASURING])
        .env(BLESS_VARIABLE, "1")
        .env("ENFORCER_OUTCOMES", &outcomes);
    for (variable, program) in [
        ("ENFORCER_BIN", "enforcer"),
        ("ENFORCER_TEST_CLIENT", "enforcer-test-client"),
    ] {
        if let Some(path) = payload.programs.get(program) {
            command.env(variable, path);
        }
    }
    workspace::run(&mut command)?;
    let text = fs::read_to_string(&outcomes).with_context(|| format!("reading {}", outcomes.display()))?;
    Ok(text
        .lines()
        .filter_map(|line| line.strip_prefix("measured\t")?.split_once('\t'))
        .map(|(_, json)| json.to_owned())
        .collect())
}

/// The records with what was measured in place of what was known, oldest kernel first.
fn merged(known: Records, measured: &[String]) -> Result<Records> {
    let mut by_line: BTreeMap<(u32, u32), Record> = BTreeMap::new();
    for record in known.kernel {
        by_line.insert(order(&record.line), record);
    }
    for json in measured {
        let record: Record =
            serde_json::from_str(json).with_context(|| format!("understanding what was measured: {json}"))?;
        by_line.insert(order(&record.line), record);
    }
    Ok(Records {
        kernel: by_line.into_values().collect(),
    })
}

/// By numbers; what is no number comes last: `6.12` before `6.18` before `7.x`.
fn order(line: &str) -> (u32, u32) {
    let mut numbers = line.split('.').map(|number| number.parse().unwrap_or(u32::MAX));
    (
        numbers.next().unwrap_or(u32::MAX),
        numbers.next().unwrap_or(u32::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(line: &str, count: u32) -> String {
        format!(
            r#"{{"line":"{line}","release":"r","programs":"yes","features":{{"btf":"yes"}},"instructions":{{"p":{count}}}}}"#
        )
    }

    #[test]
    fn what_was_measured_replaces_its_line_and_lines_are_in_order() {
        let known = merged(
            Records { kernel: Vec::new() },
            &[json("6.12", 1), json("5.10", 1)],
        )
        .unwrap();
        let records = merged(
            known,
            &[json("6.1", 1), json("6.12", 2), json("7.x", 1), json("6.18", 1)],
        )
        .unwrap();
        let lines: Vec<_> = records.kernel.iter().map(|record| record.line.as_str()).collect();
        assert_eq!(lines, ["5.10", "6.1", "6.12", "6.18", "7.x"]);
        assert_eq!(records.kernel[2].instructions["p"], 2);
        let text = toml::to_string(&records).unwrap();
        assert_eq!(toml::from_str::<Records>(&text).unwrap().kernel, records.kernel);
    }
}
