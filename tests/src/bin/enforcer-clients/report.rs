//! [`Report`]: what came of everything, kept as JSON and told as lines.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use enforcer_tests::{
    clients::{
        judge::{Cells, judge},
        measure::{Measured, Outcome},
        table::{self, Client},
        world::Mode,
    },
    lab::Breakage,
};
use serde::{Deserialize, Serialize};

/// A client against a breakage, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) client: String,
    pub(crate) breakage: String,
    /// Whether it ran in a Docker container.
    pub(crate) contained: bool,
    pub(crate) cells: Cells,
}

/// The same, with what is known of the client.
pub(crate) struct Line<'a> {
    pub(crate) client: Client,
    pub(crate) breakage: Breakage,
    pub(crate) contained: bool,
    pub(crate) cells: &'a Cells,
}

/// Everything that is known: what was run now, and what before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) kernel: String,
    /// Versions of what was run.
    pub(crate) software: BTreeMap<String, String>,
    pub(crate) rows: Vec<Row>,
}

impl Report {
    /// What was found now, and, from that file, what was found before with the same software on the same kernel.
    pub(crate) fn new(mut rows: Vec<Row>, before: &Path) -> Result<Self> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
        let kernel = kernel.trim().to_owned();
        let software: BTreeMap<_, _> = SOFTWARE
            .into_iter()
            .filter_map(|(name, words)| Some((name.to_owned(), version(words)?)))
            .collect();
        let kept = fs::read_to_string(before).ok();
        let kept: Option<Self> = kept.and_then(|text| serde_json::from_str(&text).ok());
        if let Some(kept) = kept.filter(|kept| kept.kernel == kernel && kept.software == software) {
            let key = |row: &Row| (row.client.clone(), row.breakage.clone(), row.contained);
            let new: BTreeSet<_> = rows.iter().map(key).collect();
            rows.extend(kept.rows.into_iter().filter(|row| !new.contains(&key(row))));
        }
        Ok(Self {
            kernel,
            software,
            rows,
        })
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("write results as JSON")?;
        fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
    }

    /// All rows of clients that there are, a breakage after the other, and in the order of the table.
    pub(crate) fn lines(&self) -> Vec<Line<'_>> {
        let clients = table::all();
        let mut lines = Vec::new();
        for breakage in Breakage::ALL {
            for contained in [false, true] {
                for client in &clients {
                    let row = self.rows.iter().find(|row| {
                        row.client == client.name
                            && row.breakage == breakage.name()
                            && row.contained == contained
                    });
                    lines.extend(row.map(|row| Line {
                        client: *client,
                        breakage,
                        contained,
                        cells: &row.cells,
                    }));
                }
            }
        }
        lines
    }

    /// Fails unless every client has been run against every breakage.
    pub(crate) fn check_complete(&self) -> Result<()> {
        let clients = table::all();
        let contained = clients.iter().filter(|client| client.contained).count();
        let wanted = (clients.len() + contained) * Breakage::ALL.len();
        let found = self.lines().len();
        anyhow::ensure!(
            found == wanted,
            "{found} of {wanted} rows are there\nhint: run all clients against all breakages, at once or one after the other"
        );
        Ok(())
    }

    /// Prints the rows of those clients and breakages, and returns how many things are wrong.
    pub(crate) fn tell(&self, clients: &[Client], breakages: &[Breakage]) -> usize {
        let mut section = None;
        let mut lines = self.lines();
        lines.retain(|line| {
            clients.iter().any(|client| client.name == line.client.name) && breakages.contains(&line.breakage)
        });
        let mut wrong = Vec::new();
        for line in &lines {
            if section != Some((line.breakage, line.contained)) {
                section = Some((line.breakage, line.contained));
                let place = if line.contained { ", in a container" } else { "" };
                say(&format!("\n{}{place}", line.breakage));
                let columns = ["IPv4 name", "without", "reject", "redirect"];
                let [plain, without, reject, redirect] = columns;
                say(&format!(
                    "{:<34}{plain:>12}{without:>16}{reject:>16}{redirect:>16}",
                    ""
                ));
            }
            let plain = text(&line.cells.plain);
            let [without, reject, redirect] = Mode::ALL.map(|mode| text(line.cells.of(mode)));
            let name = line.client.name;
            say(&format!(
                "{name:<34}{plain:>12}{without:>16}{reject:>16}{redirect:>16}"
            ));
            wrong.extend(judge(&line.client, line.breakage, line.cells, true));
        }
        say(&format!(
            "\n{} rows, {} things are not as they must be",
            lines.len(),
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
        Outcome::Arrived(_) if measured.by_ipv6() => format!("{}, IPv6", time(measured.ms)),
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
    println!("{line}");
}

/// What is wrong.
#[expect(clippy::print_stderr, reason = "talking to a person in a terminal")]
pub(crate) fn problem(line: &str) {
    eprintln!("enforcer-clients: {line}");
}
