//! What an eBPF build needs besides Rust, and where it is looked for.
//!
//! Two programs compile this one text: `enforcer/build.rs`, which uses what is there and otherwise names
//! `cargo xtask setup`, and xtask, which brings what is missing. It finds; it installs nothing, and needs
//! nothing but std.

use std::{
    env,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// The linker for eBPF objects. 0.10 links through the compiler's own LLVM; 0.11 and later need an LLVM of
/// their own.
pub(crate) const BPF_LINKER_VERSION: &str = "0.10.4";

/// Folder under the workspace root where `cargo xtask setup` installs tools when PATH holds another version
/// of them. Looked at first.
pub(crate) const TOOLS_BIN: &str = "target/tools/bin";

/// The compiler that `rust-toolchain.toml` pins: its `channel`. Empty if the file names none.
pub(crate) fn pinned_toolchain() -> &'static str {
    include_str!("../../rust-toolchain.toml")
        .lines()
        .find_map(|line| line.strip_prefix("channel"))
        .and_then(|rest| rest.split('"').nth(1))
        .unwrap_or_default()
}

/// The bpf-linker of [`BPF_LINKER_VERSION`], or everywhere it could have been.
///
/// # Errors
///
/// The paths where it would be found, none of which holds that version.
pub(crate) fn bpf_linker(workspace: &Path) -> Result<PathBuf, Vec<PathBuf>> {
    let cargo_bin = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .map(|cargo_home| cargo_home.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let candidates: Vec<_> = [workspace.join(TOOLS_BIN)]
        .into_iter()
        .chain(env::split_paths(&path))
        .chain(cargo_bin)
        .map(|folder| folder.join("bpf-linker"))
        .collect();
    match candidates.iter().find(|candidate| is_our_linker(candidate)) {
        Some(found) => Ok(found.clone()),
        None => Err(candidates),
    }
}

fn is_our_linker(program: &Path) -> bool {
    program.is_file()
        && Command::new(program)
            .arg("--version")
            .output()
            .is_ok_and(|output| {
                // `bpf-linker 0.10.4`
                String::from_utf8_lossy(&output.stdout)
                    .split_whitespace()
                    .any(|word| word == BPF_LINKER_VERSION)
            })
}

/// The folder in which the compiler looks for its own `library/` folder, whether or not that is there.
///
/// # Errors
///
/// Where the compiler cannot be run, or does not say where it lives.
pub(crate) fn rust_src_home(rustc: &OsStr) -> io::Result<PathBuf> {
    let output = Command::new(rustc).args(["--print", "sysroot"]).output()?;
    let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || sysroot.is_empty() {
        return Err(io::Error::other(format!(
            "`rustc --print sysroot` ended with {}",
            output.status
        )));
    }
    Ok(Path::new(&sysroot).join("lib/rustlib/src/rust"))
}

/// The file by which a complete `library/` folder is known: cargo's `build-std` reads it first.
pub(crate) fn rust_src_witness(home: &Path) -> PathBuf {
    home.join("library/Cargo.lock")
}
