//! [`Report`]: what came of everything, kept as JSON and told as lines.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use enforcer_tests::{
    clients::{
        judge::{Cells, Expected, expected},
        measure::{Measured, Outcome},
        table::{Client, Family, Reject},
        world::Mode,
    },
    lab::Breakage,
};
use serde::Serialize;

/// A client against a breakage.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) client: &'static str,
    pub(crate) family: Family,
    pub(crate) breakage: String,
    #[serde(skip)]
    pub(crate) is: Breakage,
    /// Whether it ran in a Docker container.
    pub(crate) contained: bool,
    #[serde(flatten)]
    pub(crate) cells: Cells,
    /// Why a `reject` does not help it, where it does not.
    pub(crate) why: Option<&'static str>,
    #[serde(skip)]
    pub(crate) pictured: bool,
    /// What is not as it must be.
    pub(crate) wrong: Vec<String>,
}

impl Row {
    pub(crate) fn new(
        client: &Client,
        breakage: Breakage,
        contained: bool,
        cells: Cells,
        wrong: Vec<String>,
    ) -> Self {
        let fails = expected(client, breakage, Mode::Reject) == Expected::Fails;
        let why = match client.reject {
            Reject::FirstOnly(why) if fails => Some(why),
            _ => None,
        };
        Self {
            client: client.name,
            family: client.family,
            breakage: breakage.to_string(),
            is: breakage,
            contained,
            cells,
            why,
            pictured: client.pictured && !contained,
            wrong,
        }
    }
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) kernel: String,
    /// Versions of what was run.
    pub(crate) software: Vec<(&'static str, String)>,
    pub(crate) rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(rows: Vec<Row>) -> Result<Self> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
        let software = SOFTWARE
            .into_iter()
            .filter_map(|(name, words)| Some((name, version(words)?)))
            .collect();
        Ok(Self {
            kernel: kernel.trim().to_owned(),
            software,
            rows,
        })
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("write results as JSON")?;
        fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
    }

    /// Prints every row, and returns how many things are wrong.
    pub(crate) fn tell(&self) -> usize {
        let mut breakage = None;
        for row in &self.rows {
            if breakage != Some((row.is, row.contained)) {
                breakage = Some((row.is, row.contained));
                let place = if row.contained { ", in a container" } else { "" };
                say(&format!("\n{}{place}", row.breakage));
                say(&format!(
                    "{:<38}{:>14}{:>14}{:>14}",
                    "", "without", "reject", "redirect"
                ));
            }
            let texts = Mode::ALL.map(|mode| text(row.cells.of(mode)));
            say(&format!(
                "{:<38}{:>14}{:>14}{:>14}",
                row.client, texts[0], texts[1], texts[2]
            ));
        }
        let wrong: Vec<_> = self.rows.iter().flat_map(|row| &row.wrong).collect();
        say(&format!(
            "\n{} clients and places, {} things are not as they must be",
            self.rows.len(),
            wrong.len()
        ));
        for line in &wrong {
            problem(line);
        }
        wrong.len()
    }
}

/// What a cell shows: the time, and what it stands for.
pub(crate) fn text(measured: &Measured) -> String {
    match &measured.outcome {
        Outcome::Arrived(_) if measured.by_ipv6() => format!("{} v6", time(measured.ms)),
        Outcome::Arrived(_) => time(measured.ms),
        Outcome::Failed(_) => format!("fails, {}", time(measured.ms)),
        Outcome::Deadline => "> 10 s".to_owned(),
    }
}

fn time(ms: f64) -> String {
    match ms {
        ..10.0 => format!("{ms:.1} ms"),
        10.0..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1e3),
    }
}

/// How the versions are found out that documents are to name.
const SOFTWARE: [(&str, &[&str]); 10] = [
    ("curl", &["curl", "--version"]),
    ("wget", &["wget", "--version"]),
    ("git", &["git", "--version"]),
    ("ssh", &["ssh", "-V"]),
    ("psql", &["psql", "--version"]),
    ("redis-cli", &["redis-cli", "--version"]),
    ("python3", &["python3", "--version"]),
    ("node", &["node", "--version"]),
    ("java", &["java", "-version"]),
    ("go", &["go", "version"]),
];

fn version(words: &[&str]) -> Option<String> {
    let output = Command::new(words[0]).args(&words[1..]).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let first = String::from_utf8_lossy(&said).lines().next()?.to_owned();
    let is_number = |word: &&str| word.contains('.') && word.contains(|c: char| c.is_ascii_digit());
    let word = first.split([' ', ',', '"', '_']).find(is_number)?;
    let version = word.trim_start_matches(|c: char| !c.is_ascii_digit());
    Some(version.to_owned())
}

/// For a person.
#[expect(clippy::print_stdout, reason = "talking to a person in a terminal")]
pub(crate) fn say(line: &str) {
    anstream::println!("{line}");
}

/// What is wrong.
#[expect(clippy::print_stderr, reason = "talking to a person in a terminal")]
pub(crate) fn problem(line: &str) {
    anstream::eprintln!("enforcer-clients: {line}");
}
