//! bpf-linker, built by cargo.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{
    prerequisites::{BPF_LINKER_VERSION, TOOLS_BIN},
    workspace,
};

/// What lists call it.
pub(crate) fn name() -> String {
    format!("bpf-linker {BPF_LINKER_VERSION}")
}

/// How it is built. Where PATH has one of another version, that one stays, and ours goes into the
/// repository's target folder, where the build looks first.
pub(crate) fn command() -> Command {
    let mut command = workspace::cargo();
    command.args([
        "install",
        "bpf-linker",
        "--version",
        BPF_LINKER_VERSION,
        "--locked",
    ]);
    if workspace::program("bpf-linker").is_some() {
        let root = workspace::root().join(TOOLS_BIN);
        command.arg("--force").arg("--root").args(root.parent());
    }
    command
}

/// Builds it.
///
/// # Errors
///
/// Where cargo fails three times.
pub(crate) fn bring() -> Result<()> {
    println!("{} (takes about a minute)", workspace::shown(&command()));
    workspace::retried(|| workspace::run(command().arg("--quiet").env_remove("CARGO_TARGET_DIR")))
        .with_context(|| format!("building {}", name()))
}
