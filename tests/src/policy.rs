//! [`PolicyFile`]: a policy file that changes, and enforcer being told so.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    enforcer::Enforcer,
    process::Stream,
    wait::{PATIENCE, eventually},
};

/// How long a reload may take: in a guest without KVM that connects without a pause, much longer than anything else.
const RELOAD_PATIENCE: Duration = PATIENCE.saturating_mul(3);

/// How the line begins that says that the file is in force.
const RELOADED: &str = "reloaded: ";

/// The line that says that it is not.
const REFUSED: &str = "enforcer: note: not reloaded: what was in force still is";

/// A policy file in a directory of its own, which goes with it.
#[derive(Debug)]
pub struct PolicyFile {
    directory: TempDir,
}

impl PolicyFile {
    /// Makes one with that text.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn new(text: &str) -> Result<Self> {
        let directory = tempfile::tempdir().context("make a directory")?;
        let file = Self { directory };
        file.write(text)?;
        Ok(file)
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory().join("policy.toml")
    }

    /// Replaces it by that text, after the version. Nobody finds half of it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, text: &str) -> Result<()> {
        let new = self.directory().join("policy.toml.new");
        fs::write(&new, format!("version = 1\n{text}")).context("write a policy file")?;
        fs::rename(new, self.path()).context("replace a policy file")
    }

    /// What `enforcer run` needs to be told of it and of its surroundings.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let path = |name: &str| self.directory().join(name).to_string_lossy().into_owned();
        vec![
            "--policy".to_owned(),
            path("policy.toml"),
            "--state-dir".to_owned(),
            path("state"),
            "--output".to_owned(),
            "json".to_owned(),
        ]
    }

    /// Writes that text, lets enforcer read it, and waits until it is in force. Returns the line that says so.
    ///
    /// # Errors
    ///
    /// When enforcer refuses it, or does not say anything in time.
    pub fn reload(&self, enforcer: &mut Enforcer, text: &str) -> Result<String> {
        self.write(text)?;
        let lines = told_to_reload(enforcer)?;
        let last = lines.last().context("it said something")?;
        ensure!(last.starts_with(RELOADED), "not reloaded: {lines:#?}");
        Ok(last.clone())
    }

    /// Writes that text, lets enforcer read it, and waits until it is refused. Returns what was said.
    ///
    /// # Errors
    ///
    /// When enforcer does not refuse it, or does not say anything in time.
    pub fn refused(&self, enforcer: &mut Enforcer, text: &str) -> Result<String> {
        self.write(text)?;
        let lines = told_to_reload(enforcer)?;
        ensure!(
            lines.last().is_some_and(|line| line == REFUSED),
            "not refused: {lines:#?}"
        );
        Ok(lines.join("\n"))
    }
}

/// Sends SIGHUP, and waits until enforcer says what became of that. Returns what it said since.
///
/// # Errors
///
/// When it has ended, or does not say anything in time.
pub fn told_to_reload(enforcer: &mut Enforcer) -> Result<Vec<String>> {
    let before = enforcer.lines(Stream::Stderr).len();
    enforcer.process().signal(Signal::HUP)?;
    let said = eventually("the reload to be told of", RELOAD_PATIENCE, || {
        let lines = enforcer.lines(Stream::Stderr).split_off(before);
        let last = lines
            .iter()
            .position(|line| line.starts_with(RELOADED) || line == REFUSED)?;
        Some(lines[..=last].to_vec())
    });
    said.with_context(|| format!("it said {:#?}", enforcer.lines(Stream::Stderr).split_off(before)))
}

/// A target of that name at that cgroup, with the groups of rules.
#[must_use]
pub fn target(name: &str, cgroup: &str, groups: &[&str]) -> String {
    format!("[[target]]\nname = \"{name}\"\ncgroup = \"{cgroup}\"\nuse = {groups:?}\n")
}

/// A rule of that group that rejects the prefix with the errno.
#[must_use]
pub fn rejecting(group: &str, prefix: &str, errno: &str) -> String {
    let mut rule = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        rule,
        "[[rule]]\ngroups = [\"{group}\"]\nprefix = \"{prefix}\"\naction = \"reject\"\nerrno = \"{errno}\""
    );
    rule
}
