//! Builds the eBPF programs with aya-build and leaves the objects in OUT_DIR, or leaves word why not.
//!
//! What they need beyond Rust (bpf-linker, the compiler's library sources) may be missing. A build script
//! cannot tell `cargo check`, which needs no objects, from `cargo build`, which does; so nothing fails here
//! over that: `src/kernel/objects.rs` fails at code generation, with the line that this script leaves.

#[path = "../xtask/src/prerequisites.rs"]
mod prerequisites;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// Set in the process that runs aya-build.
const NESTED: &str = "ENFORCER_BUILD_EBPF";

/// The binary targets of `enforcer-ebpf`, as src/kernel/objects.rs embeds them.
const OBJECTS: [&str; 3] = [
    "enforcer-programs",
    "enforcer-programs-talking",
    "enforcer-probes",
];

fn main() -> Result<()> {
    if env::var_os(NESTED).is_some() {
        return nested();
    }
    println!("cargo::rustc-check-cfg=cfg(ebpf_objects)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=AYA_BUILD_SKIP");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let missing = match prepare(&workspace)? {
        Ok(linker) => {
            build(&workspace, &linker)?;
            let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("cargo did not set OUT_DIR")?);
            match OBJECTS.iter().find(|object| !out_dir.join(object).is_file()) {
                None => {
                    println!("cargo::rustc-cfg=ebpf_objects");
                    return Ok(());
                }
                Some(object) => format!("the eBPF object {object} was not built"),
            }
        }
        Err(missing) => missing,
    };
    println!("cargo::rustc-env=ENFORCER_OBJECTS_MISSING={missing}");
    Ok(())
}

/// Path of bpf-linker if everything is there, else the one line that says what is not.
///
/// While something is missing, cargo is told to watch a path that does not exist, so it asks again at
/// each build.
fn prepare(workspace: &Path) -> Result<Result<PathBuf, String>> {
    if env::var_os("AYA_BUILD_SKIP").is_some_and(|skip| skip == "1" || skip.eq_ignore_ascii_case("true")) {
        return Ok(Err(
            "AYA_BUILD_SKIP is set, so the eBPF programs were not built".into()
        ));
    }
    let rustc = env::var_os("RUSTC").context("cargo did not set RUSTC")?;
    let home = prerequisites::rust_src_home(&rustc)
        .with_context(|| format!("asking {} for its sysroot", rustc.display()))?;
    let witness = prerequisites::rust_src_witness(&home);
    println!("cargo::rerun-if-changed={}", witness.display());
    let linker = prerequisites::bpf_linker(workspace);
    for path in linker.as_ref().map_or_else(Vec::as_slice, std::slice::from_ref) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let version = prerequisites::BPF_LINKER_VERSION;
    let missing = match (&linker, witness.is_file()) {
        (Ok(_), true) => None,
        (Err(_), true) => Some(format!("bpf-linker {version}")),
        (Ok(_), false) => Some("the compiler's rust-src".to_owned()),
        (Err(_), false) => Some(format!("bpf-linker {version} and the compiler's rust-src")),
    };
    Ok(match (linker, missing) {
        (Ok(linker), None) => Ok(linker),
        (_, missing) => Err(format!(
            "the eBPF programs cannot be built without {}: run `cargo xtask setup`",
            missing.unwrap_or_default()
        )),
    })
}

/// Runs aya-build in a process of its own (this program again), for three reasons: RUSTC_BOOTSTRAP and
/// bpf-linker's folder are then set for that build only, its progress stays out of cargo's warnings, and
/// its failure can be shown as it is.
fn build(workspace: &Path, linker: &Path) -> Result<()> {
    println!(
        "cargo::rerun-if-changed={}",
        workspace.join("rust-toolchain.toml").display()
    );
    let this = env::current_exe().context("finding the build script's own path")?;
    let output = Command::new(this)
        .env(NESTED, "1")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TERM_QUIET", "true")
        .env("PATH", path_with(linker)?)
        .output()
        .context("starting the eBPF build")?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let (warnings, instructions): (Vec<_>, Vec<_>) = stdout
        .lines()
        .partition(|line| line.starts_with("cargo:warning="));
    let warnings = warnings
        .iter()
        .filter_map(|line| line.strip_prefix("cargo:warning="))
        // Without rustup aya-build says that it takes the current toolchain, which is the pinned one.
        .filter(|line| !line.is_empty() && !line.starts_with("which(rustup)="));
    if !output.status.success() {
        let said: Vec<_> = warnings.collect();
        bail!(
            "building the eBPF programs failed\n{}\n{}",
            said.join("\n"),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    for line in instructions {
        println!("{line}");
    }
    for line in warnings {
        println!("cargo::warning={line}");
    }
    Ok(())
}

/// PATH, with the folder of that bpf-linker in front: rustc looks for the linker by name.
fn path_with(linker: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = linker
        .parent()
        .map(Path::to_owned)
        .into_iter()
        .chain(env::split_paths(&path));
    env::join_paths(folders).context("putting bpf-linker's folder in front of PATH")
}

/// What happens in the process that [`build`] starts.
fn nested() -> Result<()> {
    let toolchain =
        env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| prerequisites::pinned_toolchain().to_owned());
    let package = concat!(env!("CARGO_MANIFEST_DIR"), "/../enforcer-ebpf");
    let root_dir = fs::canonicalize(package).with_context(|| format!("finding {package}"))?;
    aya_build::build_ebpf(
        [aya_build::Package {
            name: "enforcer-ebpf",
            root_dir: root_dir.to_str().context("the repository's path is not UTF-8")?,
            ..Default::default()
        }],
        aya_build::Toolchain::Custom(&toolchain),
    )
}
