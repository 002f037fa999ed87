//! `cargo xtask vm`: the integration tests on every kernel line, each in a guest under qemu.
//!
//! The guests run the very test binaries that `cargo test` runs here. A guest has no network, and but for the one with
//! systemd no disk; the machine needs no KVM. Nothing on the machine changes: all files are under `target/vm`.

mod boot;
mod image;
mod initramfs;
mod kernels;
mod lines;
mod modules;
mod payload;
mod plan;
mod records;
mod report;
mod transcript;

use std::{
    fmt, fs,
    io::Write as _,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, bail};
use clap::builder::PossibleValuesParser;

use self::{
    boot::Accelerator,
    initramfs::Initramfs,
    kernels::Kernel,
    lines::Line,
    plan::{Plan, Ready},
    report::Column,
};
use crate::debian::{self, output};

/// Programs of the machine without which no guest can be made, and the Debian packages they are in.
pub(crate) const NEEDED: &[(&str, &str)] = &[
    (boot::QEMU, "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("strip", "binutils"),
    ("ldd", "libc-bin"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
];

/// The same for the guest with systemd.
pub(crate) const NEEDED_FOR_IMAGE: &[(&str, &str)] =
    &[(debian::MMDEBSTRAP, "mmdebstrap"), ("mke2fs", "e2fsprogs")];

/// What `cargo xtask vm` can be told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernel line to boot; repeatable; without it and without --image, every guest is booted
    #[arg(long, value_name = "LINE", value_parser = PossibleValuesParser::new(lines::choices()))]
    pub(crate) kernel: Vec<String>,
    /// Disk to boot: a distribution with systemd and container engines
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new([image::SYSTEMD]))]
    pub(crate) image: Option<String>,
    /// As many repetitions as the issues name, instead of a few
    #[arg(long)]
    pub(crate) full: bool,
    /// Boot the kernels that an earlier run fetched, without looking for newer ones
    #[arg(long)]
    pub(crate) offline: bool,
    /// Measure instead of testing: what each kernel has and what its verifier walks, here too where this is root;
    /// write tests/kernels.toml and docs/kernels.md
    #[arg(long, conflicts_with_all = ["filters", "full"])]
    pub(crate) bless: bool,
    /// Run only the tests whose name contains this, or that are in the file of this name; repeatable
    #[arg(value_name = "TEST-FILTER")]
    pub(crate) filters: Vec<String>,
}

impl Args {
    /// Every test in every guest.
    pub(crate) fn everything(full: bool) -> Self {
        Self {
            kernel: Vec::new(),
            image: None,
            full,
            offline: false,
            bless: false,
            filters: Vec::new(),
        }
    }

    /// The kernel lines to boot.
    fn lines(&self) -> Vec<&'static Line> {
        if self.kernel.is_empty() && self.image.is_none() {
            lines::chosen(&[lines::ALL.to_owned()])
        } else {
            lines::chosen(&self.kernel)
        }
    }

    /// Whether it is every test on every kernel, once: then lines between others are tested in part.
    const fn is_everything(&self) -> bool {
        self.kernel.is_empty() && self.filters.is_empty() && !self.full
    }

    /// Whether the guest with systemd is booted.
    const fn boots_image(&self) -> bool {
        self.image.is_some() || self.kernel.is_empty()
    }
}

/// What came of all tests on all kernels, each test counted once for each kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Passed.
    pub(crate) passed: usize,
    /// Failed, or left no result.
    pub(crate) failed: usize,
    /// Could not be done, for a reason the test gave.
    pub(crate) skipped: usize,
    /// Had nothing to do there, for a reason the test gave.
    pub(crate) not_applicable: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
            not_applicable,
        } = self;
        write!(
            f,
            "{passed} passed, {failed} failed, {skipped} skipped, {not_applicable} not applicable"
        )
    }
}

/// Boots the kernels, runs the tests, prints the table.
///
/// # Errors
///
/// When the tests cannot be built, something the machine needs is missing, or no kernel can be had. A test
/// that fails, or a guest that does not come up, is not an error but a failure in the summary.
pub(crate) fn run(args: &Args) -> Result<Summary> {
    let args = &Args {
        filters: if args.bless {
            vec![records::MEASURING.to_owned()]
        } else {
            args.filters.clone()
        },
        ..args.clone()
    };
    let metadata = cargo_metadata::MetadataCommand::new()
        .no_deps()
        .exec()
        .context("asking cargo where the workspace is")?;
    let tests_folder = metadata.workspace_root.join("tests").into_std_path_buf();
    let cache = metadata.target_directory.join("vm").into_std_path_buf();
    let guests = cache.join("guests");
    fs::create_dir_all(&guests).with_context(|| format!("creating {}", guests.display()))?;
    need_programs(args)?;
    let busybox = static_busybox()?;

    say("building the tests, fetching kernels");
    let lines = args.lines();
    let mut columns: Vec<Column> = Vec::new();
    let mut ready: Vec<Ready> = Vec::new();
    let (payload, accelerator) = thread::scope(|scope| {
        let payload = scope.spawn(|| payload::build(&guests, &args.filters));
        let fetches: Vec<_> = lines
            .iter()
            .map(|&line| (line, scope.spawn(|| kernels::kernel(line, &cache, args.offline))))
            .collect();
        // First in the queue, because it takes longest.
        if args.boots_image() {
            match image::image(&cache) {
                Ok(image) => ready.push(Ready::Image(image)),
                Err(error) => columns.push(Column::unbooted(image::SYSTEMD, format!("{error:#}"))),
            }
        }
        for (line, fetch) in fetches {
            match joined(fetch) {
                Ok(kernel) => {
                    announce(&kernel);
                    ready.push(Ready::Kernel(kernel));
                }
                Err(error) => columns.push(Column::unbooted(line.name, format!("{error:#}"))),
            }
        }
        let accelerator = ready
            .first()
            .map(|guest| Accelerator::of_this_machine(guest.kernel(), &busybox, &guests));
        (joined(payload), accelerator.transpose())
    });
    let payload = payload?;
    if payload.tests.is_empty() {
        bail!(
            "finding tests to run: no integration test's name contains any of {:?}",
            args.filters
        );
    }
    let is_tested_in_image = payload
        .tests
        .iter()
        .any(|binary| image::is_tested_there(&binary.name));
    ready.retain(|guest| matches!(guest, Ready::Kernel(_)) || is_tested_in_image);
    // What takes longest begins first, so that no core waits at the end.
    ready.sort_by_key(Ready::is_between);
    if let Some(accelerator) = accelerator? {
        let common = Initramfs::new(&busybox, &payload, &tests_folder)?;
        let plan = Plan {
            args,
            payload: &payload,
            common: &common,
            tests_folder: &tests_folder,
            accelerator,
            guests: &guests,
        };
        columns.extend(plan.boot_all(ready));
    }
    columns.sort_by_key(|column| {
        let line = lines::LINES.iter().position(|line| line.name == column.line);
        line.unwrap_or(lines::LINES.len())
    });
    let summary = report::summary(&columns);
    if args.bless {
        let measured = columns
            .iter()
            .flat_map(|column| column.measured.clone())
            .collect();
        records::write(&tests_folder, &payload, measured)?;
    }
    print(&format!("{}{summary}\n", report::text(&columns)));
    Ok(summary)
}

fn announce(kernel: &Kernel) {
    say(&format!(
        "{:<8}{}: {}",
        kernel.line.name, kernel.package, kernel.line.note
    ));
    if let Some(caveat) = &kernel.caveat {
        say(&format!("        {caveat}"));
    }
}

fn need_programs(args: &Args) -> Result<()> {
    let for_image = if args.boots_image() { NEEDED_FOR_IMAGE } else { &[] };
    let missing: Vec<_> = NEEDED
        .iter()
        .chain(for_image)
        .filter(|(program, _)| which::which(program).is_err())
        .map(|(program, package)| format!("{program} (package {package})"))
        .collect();
    if !missing.is_empty() {
        bail!(
            "looking for what guests are made with: no {}\nhint: `cargo xtask setup --for test` installs it",
            missing.join(", no ")
        );
    }
    Ok(())
}

/// A busybox that needs no library: in a guest it runs before there is any.
fn static_busybox() -> Result<PathBuf> {
    let path = which::which("busybox").context("looking for busybox")?;
    let shared = output(std::process::Command::new("ldd").arg(&path)).is_ok_and(|said| said.contains("=>"));
    if shared {
        bail!(
            "making guests with {}: it needs shared libraries\nhint: the package busybox-static has one that needs none",
            path.display()
        );
    }
    Ok(path)
}

/// The path with more at its end. `Path::with_extension` would take the `.1` of `6.1` for an extension.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Progress, for people.
fn say(line: &str) {
    // Nobody to tell is no reason to stop.
    drop(writeln!(std::io::stderr().lock(), "vm: {line}"));
}

/// The result.
fn print(text: &str) {
    drop(std::io::stdout().lock().write_all(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_differ_in_their_last_number_do_not_share_files() {
        assert_eq!(with_suffix(Path::new("a/6.1"), ".new"), Path::new("a/6.1.new"));
    }
}
