//! `cargo xtask setup`: makes a fresh machine able to build, to show the demo, or to run every test.
//!
//! It looks, says what is missing and what it will do, and only then acts: system packages with `--yes` or
//! on a person's word, the rest at once, because nothing of it leaves the toolchain's and cargo's own
//! folders and the target folder. What nothing here can bring ends in commands that a person can type.

mod system;

mod bpf_linker;
mod clients;
mod rust_src;

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{debian::install as apt, prerequisites, workspace};

/// What the machine shall be able to do. Each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Purpose {
    /// `cargo build`
    Build,
    /// `cargo xtask demo`
    Demo,
    /// `cargo xtask lab`
    Lab,
    /// `cargo xtask bench`
    Bench,
    /// `cargo xtask clients`
    Clients,
    /// `cargo xtask test`
    Test,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Demo => "demo",
            Self::Lab => "lab",
            Self::Bench => "bench",
            Self::Clients => "clients",
            Self::Test => "test",
        }
    }
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What the machine shall be able to do
    #[arg(long = "for", value_enum, default_value = "build")]
    purpose: Purpose,
    /// Install system packages without asking
    #[arg(long)]
    yes: bool,
}

/// The verb.
///
/// # Errors
///
/// Where something is still missing at the end.
pub(crate) fn run(args: &Args) -> Result<()> {
    make_able(args.purpose, args.yes)
}

/// Everything that is missing for a purpose.
struct Missing {
    system: Vec<&'static system::Need>,
    bpf_linker: bool,
    rust_src: bool,
    clients: Vec<&'static clients::Set>,
}

impl Missing {
    fn look(purpose: Purpose) -> Result<Self> {
        Ok(Self {
            system: system::missing(purpose),
            bpf_linker: prerequisites::bpf_linker(&workspace::root()).is_err(),
            rust_src: !rust_src::is_there()?,
            clients: clients::missing(purpose)?,
        })
    }

    fn is_nothing(&self) -> bool {
        self.system.is_empty() && !self.bpf_linker && !self.rust_src && self.clients.is_empty()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.system.iter().map(|need| need.what.to_owned()).collect();
        names.extend(self.rust_src.then(rust_src::name));
        names.extend(self.bpf_linker.then(bpf_linker::name));
        names.extend(self.clients.iter().map(|set| format!("clients of {}", set.name)));
        names
    }
}

/// Whether nothing is missing. Says nothing.
///
/// # Errors
///
/// As [`make_able`], where the compiler is not the pinned one or cannot be asked.
pub(crate) fn is_able(purpose: Purpose) -> Result<bool> {
    check_compiler()?;
    Ok(Missing::look(purpose)?.is_nothing())
}

/// Brings what a purpose needs.
///
/// # Errors
///
/// Where something is still missing at the end; the message holds what a person can do.
pub(crate) fn make_able(purpose: Purpose, yes: bool) -> Result<()> {
    check_compiler()?;
    let missing = Missing::look(purpose)?;
    if missing.is_nothing() {
        println!("setup for {}: nothing is missing", purpose.name());
        return Ok(());
    }
    let packages = system::packages(&missing.system);
    list(purpose, &missing, &packages);

    let mut failures = Vec::new();
    if !packages.is_empty()
        && let Err(error) = install_system(&missing.system, yes)
    {
        failures.push(error);
    }
    if missing.rust_src
        && let Err(error) = rust_src::bring()
    {
        failures.push(error);
    }
    if missing.bpf_linker
        && let Err(error) = bpf_linker::bring()
    {
        failures.push(error);
    }
    for set in &missing.clients {
        if let Err(error) = set.bring() {
            failures.push(error);
        }
    }
    let still = Missing::look(purpose)?;
    if still.is_nothing() {
        println!("setup for {}: done", purpose.name());
        return Ok(());
    }
    for failure in &failures {
        eprintln!("error: {failure:#}\n");
    }
    bail!(
        "setup for {}: still missing: {}",
        purpose.name(),
        still.names().join(", ")
    )
}

/// rust-src must be that of the compiler which builds, and the repository names exactly one.
fn check_compiler() -> Result<()> {
    let pinned = prerequisites::pinned_toolchain();
    let said = workspace::read(
        std::process::Command::new(workspace::rustc())
            .arg("--version")
            .current_dir(workspace::root()),
    )?;
    if said.split_whitespace().nth(1) == Some(pinned) {
        return Ok(());
    }
    bail!(
        "this is {}, and the repository is built with rustc {pinned} alone\n\
         hint: `rustup toolchain install {pinned}`; rustup then picks it by itself in this folder",
        said.trim()
    )
}

fn list(purpose: Purpose, missing: &Missing, packages: &[&str]) {
    println!("setup for {}: missing are", purpose.name());
    for need in &missing.system {
        println!("  {:<24} {}", need.what, need.why);
    }
    if missing.rust_src {
        println!(
            "  {:<24} the eBPF programs are built with a core of their own",
            rust_src::name()
        );
    }
    if missing.bpf_linker {
        println!("  {:<24} links the eBPF programs", bpf_linker::name());
    }
    for set in &missing.clients {
        println!("  {:<24} {}", format!("clients of {}", set.name), set.why);
    }
    println!("and this will be done:");
    if !packages.is_empty() {
        println!("  install Debian packages  {}", packages.join(" "));
    }
    if missing.rust_src {
        println!("  unpack rust-src          {}", rust_src::PLAN);
    }
    if missing.bpf_linker {
        println!(
            "  build bpf-linker         {}",
            workspace::shown(&bpf_linker::command())
        );
    }
    for set in &missing.clients {
        println!("  {:<24} {}", format!("install for {}", set.name), set.plan());
    }
}

/// Installs packages if that is wanted and possible; otherwise says what a person can type.
fn install_system(needs: &[&system::Need], yes: bool) -> Result<()> {
    let packages = system::packages(needs).join(" ");
    if !apt::is_there() {
        bail!(
            "this system has no apt, so the missing programs are yours to install; Debian's packages with \
             them are: {packages}"
        );
    }
    let by_hand = format!("apt-get install --no-install-recommends {packages}");
    if !workspace::is_root() {
        bail!("installing system packages needs root\nhint: sudo {by_hand}");
    }
    if !yes && !asked_and_agreed()? {
        bail!("system packages are installed only with --yes\nhint: {by_hand}");
    }
    if !needs.iter().all(|need| need.has_candidate()) {
        apt::update()?;
    }
    // Only now does it show which of several packages this suite has.
    apt::install(&system::packages(needs))
        .with_context(|| format!("installing system packages\nhint: {by_hand}"))
}

/// Asks on a terminal; where there is none the answer is no.
fn asked_and_agreed() -> Result<bool> {
    let stdin = io::stdin();
    if !stdin.is_terminal() || !io::stdout().is_terminal() {
        return Ok(false);
    }
    print!("install these system packages? [y/N] ");
    io::stdout().flush().context("writing the question")?;
    let mut answer = String::new();
    stdin
        .lock()
        .read_line(&mut answer)
        .context("reading the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
