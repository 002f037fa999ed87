//! `cargo xtask fresh`: runs a verb in a clone of the last commit, in a Debian root that mmdebstrap made and
//! that has nothing but this Rust toolchain (without rust-src and rustup) and a C linker.
//!
//! What a fresh machine lacks is found here and nowhere else. The kernel, the network and the cgroups are the
//! machine's own; mounts are made in a mount namespace that ends with the command, so nothing of them
//! remains.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    debian,
    workspace::{self, program, run},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave the root where it is, below the target folder
    #[arg(long)]
    keep: bool,
    /// The verb to run in it and its options, for example `test --yes`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, default_values = ["demo", "--yes"])]
    verb: Vec<String>,
}

/// Packages that Rust itself needs, and those by which they are verified and fetched.
const PACKAGES: [&str; 3] = ["gcc", "libc6-dev", "ca-certificates"];

/// Variables of this machine by which its registries, proxies and certificates are found, and what steers
/// the verbs.
const VARIABLES: [&str; 16] = [
    "CI",
    "CARGO_HTTP_CAINFO",
    "CARGO_HTTP_PROXY",
    "CURL_CA_BUNDLE",
    "ENFORCER_STRICT",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NODE_EXTRA_CA_CERTS",
    "NO_PROXY",
    "PIP_CERT",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERM",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// Where the toolchain lies in the root.
const RUST: &str = "opt/rust";
/// Where the clone lies in the root.
const CLONE: &str = "root/enforcer";

/// Run in a mount namespace of its own, so that every mount ends with it. `$1` is the root, the rest the command.
const ENTER: &str = r#"
set -eu
root=$1
shift
# Container engines change their root, which the kernel allows only where it is a mount point (pivot_root(2)).
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
# As switch_root(8) does it. After chroot(2) alone the namespace's own root is still the machine's, and that is where
# setns(2) leads: `docker exec` would look for its program there and not in the container.
cd "$root"
mount --move . /
exec chroot . "$@"
"#;

/// The verb.
///
/// # Errors
///
/// Where the root cannot be made or entered.
pub(crate) fn run_in_root(args: &Args) -> Result<ExitCode> {
    if !workspace::is_root() {
        bail!("making a Debian root needs root\nhint: run it as root");
    }
    if program(debian::MMDEBSTRAP).is_none() {
        bail!(
            "there is no mmdebstrap to make a Debian root with\nhint: apt-get install --no-install-recommends mmdebstrap"
        );
    }
    let root = workspace::target_dir()?.join("xtask/fresh");
    remove(&root)?;
    println!("a Debian root with {} in {}", PACKAGES.join(", "), root.display());
    debian::make_root(&root, &PACKAGES, &[])?;
    configure(&root)?;
    install_rust(&root)?;
    clone(&root)?;
    println!("in it, in a clone of HEAD: cargo xtask {}", args.verb.join(" "));
    let status = enter(&root, &args.verb)
        .status()
        .context("starting the verb in the root")?;
    if !args.keep {
        remove(&root)?;
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn remove(root: &Path) -> Result<()> {
    if !root.exists() {
        return Ok(());
    }
    // `--one-file-system`: should a mount be left in there after all, it is not emptied.
    run(Command::new("rm")
        .args(["--recursive", "--force", "--one-file-system"])
        .arg(root))
}

/// How this machine finds names, trusts servers and reaches its registries. Nothing secret is copied.
fn configure(root: &Path) -> Result<()> {
    let system = [
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/ssl/certs/ca-certificates.crt",
    ]
    .map(|path| (PathBuf::from(path), path.trim_start_matches('/').to_owned()));
    let cargo =
        ["config.toml", "config"].map(|name| (cargo_home().join(name), format!("root/.cargo/{name}")));
    for (from, to) in system.into_iter().chain(cargo).filter(|(from, _)| from.is_file()) {
        let to = root.join(to);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        fs::copy(&from, &to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

fn cargo_home() -> PathBuf {
    let home = || Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cargo");
    env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// Copies the toolchain in use, without rust-src and without documentation.
fn install_rust(root: &Path) -> Result<()> {
    let said = workspace::read(Command::new(workspace::rustc()).args(["--print", "sysroot"]))?;
    let sysroot = Path::new(said.trim());
    let to = root.join(RUST);
    fs::create_dir_all(&to).with_context(|| format!("making {}", to.display()))?;
    let mut pack = Command::new("tar");
    pack.args(["--exclude=lib/rustlib/src", "--exclude=share", "-C"])
        .arg(sysroot)
        .args(["-cf", "-", "."]);
    let mut packing = pack
        .stdout(Stdio::piped())
        .spawn()
        .context("packing the toolchain")?;
    let stream = packing.stdout.take().context("reading the packed toolchain")?;
    run(Command::new("tar")
        .arg("-C")
        .arg(&to)
        .args(["-xf", "-"])
        .stdin(stream))?;
    let status = packing.wait().context("waiting for the packed toolchain")?;
    if !status.success() {
        bail!("`{}` ended with {status}", workspace::shown(&pack));
    }
    Ok(())
}

fn clone(root: &Path) -> Result<()> {
    let mut command = Command::new("git");
    command
        .args(["clone", "--quiet", "--no-hardlinks"])
        .arg(workspace::root())
        .arg(root.join(CLONE));
    run(&mut command)
}

/// The command that runs a verb in the root.
fn enter(root: &Path, verb: &[String]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", ENTER, "sh"]).arg(root);
    command
        .args(["env", "-C", &format!("/{CLONE}"), "cargo", "xtask"])
        .args(verb);
    command.env_clear();
    command.envs(
        VARIABLES
            .iter()
            .filter_map(|name| Some((name, env::var_os(name)?))),
    );
    command.env("HOME", "/root");
    command.env(
        "PATH",
        format!("/{RUST}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    );
    command
}
