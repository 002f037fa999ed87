//! What Node applications are run with, and what they say.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::setting;
use crate::{place::Place, process::Finished};

/// Names the folder of the packages where it is not that of this build.
const VARIABLE: &str = "ENFORCER_NODE_PACKAGES";

/// Where that folder is in cargo's target folder.
const PACKAGES: &str = "clients/node/node_modules";

/// The folder of the npm packages that `cargo xtask setup --for test` brings.
#[must_use]
pub fn packages() -> Option<PathBuf> {
    if let Some(folder) = env::var_os(VARIABLE) {
        return Some(folder.into());
    }
    let running = env::current_exe().ok()?;
    let folders = running.ancestors().map(|folder| folder.join(PACKAGES));
    folders.into_iter().find(|folder| folder.join("ws").is_dir())
}

/// Runs an application of an example there, as Node's own defaults are.
pub(super) fn command(place: &Place<'_>, application: &str) -> Result<Command> {
    let packages = packages().context(
        "find the packages of Node applications (hint: `cargo xtask setup --for test` brings them)",
    )?;
    let mut command = place.command("node")?;
    command
        .env_remove("NODE_OPTIONS")
        .env("NODE_PATH", packages)
        .arg(setting::example(application));
    Ok(command)
}

/// What it wrote to its log, a JSON object a line.
pub(super) fn log(finished: &Finished) -> Result<Vec<Value>> {
    let lines = finished.stdout.iter();
    let log: Result<Vec<Value>> = lines
        .map(|line| serde_json::from_str(line).with_context(|| format!("understand {line:?} of a log")))
        .collect();
    let log = log?;
    anyhow::ensure!(!log.is_empty(), "an application said nothing: {finished:?}");
    Ok(log)
}
