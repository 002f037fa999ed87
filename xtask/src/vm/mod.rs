//! `cargo xtask vm`: the integration tests on every kernel line, each in a guest under qemu.
//!
//! The guests run the very test binaries that `cargo test` runs here. A guest has no network and no disk; the
//! machine needs no KVM. Nothing on the machine changes: all files are under `target/vm`.

mod boot;
mod initramfs;
mod kernels;
mod lines;
mod modules;
mod payload;
mod records;
mod report;
mod transcript;

use std::{
    fmt, fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::builder::PossibleValuesParser;

use self::{
    boot::{Accelerator, Guest},
    initramfs::Initramfs,
    kernels::Kernel,
    payload::Payload,
    report::Column,
};
use crate::{
    debian::output,
    test::{Extent, repetition_variables},
};

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

/// How many tests of a binary run at once; with more than one, libtest prints a test's name and its result in
/// one piece.
const TEST_THREADS: &str = "2";

/// Time for coming up and going down, without KVM and beside another guest.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// Time for one test binary.
const BINARY_LIMIT: Duration = Duration::from_secs(180);
/// The same with `--full`.
const BINARY_LIMIT_FULL: Duration = Duration::from_secs(900);

/// What `cargo xtask vm` can be told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernel line to boot; repeatable
    #[arg(long, value_name = "LINE", default_value = lines::ALL,
          value_parser = PossibleValuesParser::new(lines::choices()))]
    pub(crate) kernel: Vec<String>,
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
    /// Every test on every line.
    pub(crate) fn everything(full: bool) -> Self {
        Self {
            kernel: vec![lines::ALL.to_owned()],
            full,
            offline: false,
            bless: false,
            filters: Vec::new(),
        }
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
    need_programs()?;
    let busybox = static_busybox()?;

    say("building the tests, fetching kernels");
    let lines = lines::chosen(&args.kernel);
    let mut columns: Vec<Column> = Vec::new();
    let mut ready: Vec<Kernel> = Vec::new();
    let (payload, accelerator) = thread::scope(|scope| {
        let payload = scope.spawn(|| payload::build(&guests, &args.filters));
        let fetches: Vec<_> = lines
            .iter()
            .map(|&line| (line, scope.spawn(|| kernels::kernel(line, &cache, args.offline))))
            .collect();
        for (line, fetch) in fetches {
            match joined(fetch) {
                Ok(kernel) => {
                    announce(&kernel);
                    ready.push(kernel);
                }
                Err(error) => columns.push(Column::unbooted(line.name, format!("{error:#}"))),
            }
        }
        let accelerator = ready
            .first()
            .map(|kernel| Accelerator::of_this_machine(&kernel.image, &busybox, &guests));
        (joined(payload), accelerator.transpose())
    });
    let payload = payload?;
    if payload.tests.is_empty() {
        bail!(
            "finding tests to run: no integration test's name contains any of {:?}",
            args.filters
        );
    }
    if let Some(accelerator) = accelerator? {
        let common = Initramfs::new(&busybox, &payload, &tests_folder)?;
        let plan = Plan {
            args,
            payload: &payload,
            common: &common,
            accelerator,
            guests: &guests,
        };
        columns.extend(plan.boot_all(ready));
    }
    columns.sort_by_key(|column| lines::LINES.iter().position(|line| line.name == column.line));
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

/// What is the same for all guests.
struct Plan<'a> {
    args: &'a Args,
    payload: &'a Payload,
    common: &'a Initramfs,
    accelerator: Accelerator,
    guests: &'a Path,
}

impl Plan<'_> {
    /// Boots all, as many at once as there are cores.
    fn boot_all(&self, kernels: Vec<Kernel>) -> Vec<Column> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let at_once = cores.min(kernels.len());
        say(&format!(
            "booting {} guests, {at_once} at once, {}",
            kernels.len(),
            self.accelerator.name()
        ));
        let waiting = Mutex::new(kernels.into_iter());
        let columns = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    loop {
                        // A statement of its own: in the head of a `while let` the lock would be held for
                        // as long as the guest runs, and the guests would take turns.
                        let next = lock(&waiting).next();
                        let Some(kernel) = next else { break };
                        let column = self
                            .boot(&kernel)
                            .unwrap_or_else(|error| Column::unbooted(kernel.line.name, format!("{error:#}")));
                        lock(&columns).push(column);
                    }
                });
            }
        });
        columns
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn boot(&self, kernel: &Kernel) -> Result<Column> {
        let logs = self.guests.join(kernel.line.name);
        let initramfs = self.guests.join(format!("{}.cpio", kernel.line.name));
        self.common
            .clone()
            .with_kernel(kernel, &self.settings(kernel))?
            .write(&initramfs)?;
        let guest = Guest {
            image: &kernel.image,
            initramfs: &initramfs,
            accelerator: self.accelerator,
            logs: logs.clone(),
        };
        let binaries = u32::try_from(self.payload.tests.len()).unwrap_or(u32::MAX);
        let life = guest.boot(BOOT_LIMIT + self.binary_limit().saturating_mul(binaries))?;
        let column = Column::new(kernel.line.name, kernel.package.clone(), self.payload, &life);
        say(&format!(
            "{:<6}is through; what it said: {}.*.log",
            kernel.line.name,
            logs.display()
        ));
        Ok(column)
    }

    /// A shell script that init reads: variables for the tests and for itself, and the filters as arguments.
    fn settings(&self, kernel: &Kernel) -> String {
        let mut variables = vec![
            ("ENFORCER_PLACE", "vm".to_owned()),
            ("ENFORCER_KERNEL", kernel.line.name.to_owned()),
            ("ENFORCER_BIN", "/bin/enforcer".to_owned()),
            ("ENFORCER_TEST_CLIENT", "/bin/enforcer-test-client".to_owned()),
            ("ENFORCER_LAB", "/bin/enforcer-lab".to_owned()),
            ("ENFORCER_TESTS_DIR", initramfs::TESTS_FOLDER.to_owned()),
            ("LIMIT_SECS", self.binary_limit().as_secs().to_string()),
            ("THREADS", TEST_THREADS.to_owned()),
        ];
        let extent = if self.args.full {
            Extent::Full
        } else {
            Extent::Small
        };
        variables.extend(repetition_variables(extent));
        let whole = self.payload.tests.iter().filter(|binary| binary.whole);
        let whole: Vec<_> = whole.map(|binary| binary.name.as_str()).collect();
        variables.push(("WHOLE", whole.join(" ")));
        if self.args.bless {
            variables.push((records::BLESS_VARIABLE, "1".to_owned()));
        }
        let filters: String = self
            .payload
            .filters
            .iter()
            .map(|filter| format!(" {}", quoted(filter)))
            .collect();
        variables
            .into_iter()
            .map(|(name, value)| format!("export {name}={}\n", quoted(&value)))
            .chain([format!("set --{filters}\n")])
            .collect()
    }

    const fn binary_limit(&self) -> Duration {
        if self.args.full {
            BINARY_LIMIT_FULL
        } else {
            BINARY_LIMIT
        }
    }
}

fn announce(kernel: &Kernel) {
    say(&format!(
        "{:<6}{}: {}",
        kernel.line.name, kernel.package, kernel.line.note
    ));
    if let Some(caveat) = &kernel.caveat {
        say(&format!("      {caveat}"));
    }
}

fn need_programs() -> Result<()> {
    let missing: Vec<_> = NEEDED
        .iter()
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

/// One word to a shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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

    #[test]
    fn a_filter_is_one_word_to_the_guests_shell() {
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
