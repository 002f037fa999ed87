//! Real clients against the lab's breakages: what each does alone, what it does where its IPv6 is rejected, and what where
//! it is redirected.
//!
//! [`table`] is the clients, a row each; [`services`] what they talk to; [`world`] a lab with three workloads, one without
//! enforcer, one with a `reject` and one with a redirect; [`measure`] runs a client in one of them; [`judge`] says what
//! must come of it, [`crowd`] runs many at once. `cargo xtask clients` measures all of it for `docs/clients.md`, tests/tests/clients.rs a part for
//! every change.

pub mod table;

pub mod services;

pub mod world;

pub mod measure;

pub mod judge;

pub mod crowd;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::unique;

/// Names the folder in which `cargo xtask setup --for clients` has installed client software, where it is not the target
/// folder's.
pub const VARIABLE: &str = "ENFORCER_CLIENTS";

/// The folder of a set of client software: `node`, `python`, `c`, `go`, `java`.
///
/// # Errors
///
/// When it has not been installed.
pub fn installed(set: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os(VARIABLE) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let running = std::env::current_exe().context("find the path of the running program")?;
            let mut above = running.ancestors().skip(1);
            above
                .find(|folder| folder.join("clients").is_dir())
                .map(|target| target.join("clients"))
                .with_context(|| format!("find client software above {}\n{HINT}", running.display()))?
        }
    };
    let folder = folder.join(set);
    anyhow::ensure!(
        folder.join(".made-from").is_file(),
        "find client software in {}\n{HINT}",
        folder.display()
    );
    Ok(folder)
}

const HINT: &str = "hint: `cargo xtask setup --for clients` installs it";

/// Path of the program that is the Rust clients.
///
/// # Errors
///
/// When it was not built.
pub fn rust_clients() -> Result<PathBuf> {
    unique::built_program("enforcer-rust-clients", "ENFORCER_RUST_CLIENTS")
}

/// The folder with the clients' own sources.
#[must_use]
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}
