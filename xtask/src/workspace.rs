//! Where this repository and its build are, and how a command is run in it.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// Cargo's target folder. This program lies in `<target>/<profile>/`, wherever the user has put it.
///
/// # Errors
///
/// Where the program's own path cannot be read.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let this = env::current_exe().context("finding xtask's own path")?;
    match this.ancestors().nth(2) {
        Some(target) => Ok(target.to_owned()),
        None => bail!("{} lies in no target folder", this.display()),
    }
}

/// What cargo shall select for the host. Always the same: with another selection it would unify features
/// otherwise, and build nearly everything once more.
pub(crate) const HOST: [&str; 3] = ["--workspace", "--exclude", "enforcer-ebpf"];

/// The cargo that runs this program, at the repository's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // Each is set by cargo for the program it runs, and would make a nested cargo believe it were a build
    // of xtask.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME"] {
        command.env_remove(name);
    }
    command
}

/// The rustc of [`cargo`]: the program beside it, if there is one, else the one on PATH.
pub(crate) fn rustc() -> OsString {
    env::var_os("CARGO")
        .map(|cargo| Path::new(&cargo).with_file_name("rustc"))
        .filter(|rustc| rustc.is_file())
        .map_or_else(|| "rustc".into(), PathBuf::into_os_string)
}

/// Name of the toolchain in use, as `rustup run` takes it.
pub(crate) fn toolchain() -> String {
    env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| crate::prerequisites::pinned_toolchain().to_owned())
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Path of a program: on PATH, or where an ordinary user's PATH lacks system programs.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    folders.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    let folders = env::join_paths(folders).ok()?;
    which::which_in(name, Some(folders), "/").ok()
}

/// A command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| {
            let word = word.to_string_lossy();
            if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "'\"$*|&;<>()".contains(c)) {
                format!("'{}'", word.replace('\'', r"'\''"))
            } else {
                word.into_owned()
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command whose output goes where ours goes.
///
/// # Errors
///
/// Where it cannot be started or does not end with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command.status().with_context(|| format!("starting `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// Runs a command and returns what it wrote to stdout.
///
/// # Errors
///
/// Where it cannot be started or does not end with 0; what it wrote to stderr is in the message.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command.output().with_context(|| format!("starting `{shown}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` ended with {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs something that depends on a registry up to three times. Installs may be retried, tests never.
///
/// # Errors
///
/// The last attempt's.
pub(crate) fn retried(mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    for pause_secs in [2, 8] {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) => println!("  {error:#}; trying again in {pause_secs} s"),
        }
        std::thread::sleep(std::time::Duration::from_secs(pause_secs));
    }
    attempt()
}
