//! Booting a guest under qemu and reading what it says, until it powers off or its time is up.
//!
//! What the guest says means nothing here; transcript.rs reads it.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{initramfs::Initramfs, with_suffix};

/// The emulator.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

const KVM: &str = "/dev/kvm";
/// A machine whose KVM works is through in one second; one whose KVM does not may never say so.
const KVM_TRY: Duration = Duration::from_secs(5);
const KVM_TRY_INIT: &str = "#!/bin/busybox sh\n\
    /bin/busybox mount -t devtmpfs devtmpfs /dev\n\
    echo alive >/dev/ttyS1\n\
    /bin/busybox poweroff -f\n";

/// Per-CPU maps and concurrent connects are different things on one CPU.
const CPUS: &str = "2";
const MEBIBYTE: u64 = 1 << 20;
/// Memory of a guest without its file system.
pub(crate) const MEMORY_MIB: u64 = 640;

/// Kernel messages that tests must not cause go to the first port, warnings included; an oops ends the guest.
/// The watchdogs measure a clock that runs on while the host has others to serve, and mitigations cost time and
/// print warnings of their own. That timer interrupts come is not checked: a kernel panics ("IO-APIC + timer doesn't
/// work!") when the host has others to serve just then.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off nowatchdog \
    no_timer_check rcupdate.rcu_cpu_stall_suppress=1";

/// How instructions of the guest are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// By the processor.
    Kvm,
    /// By translation: works everywhere, and is some twenty times slower.
    Tcg,
}

impl Accelerator {
    /// What this machine has: KVM only if a kernel boots with it. `/dev/kvm` may exist and still not work.
    ///
    /// # Errors
    ///
    /// When the guest for the try cannot be made.
    pub(crate) fn of_this_machine(image: &Path, busybox: &Path, folder: &Path) -> Result<Self> {
        if OpenOptions::new().read(true).write(true).open(KVM).is_err() {
            return Ok(Self::Tcg);
        }
        let initramfs = folder.join("kvm-try.cpio");
        Initramfs::bare(busybox, KVM_TRY_INIT)?.write(&initramfs)?;
        let guest = Guest {
            image,
            initramfs: &initramfs,
            disks: &[],
            arguments: "",
            memory_mib: MEMORY_MIB,
            accelerator: Self::Kvm,
            logs: folder.join("kvm-try"),
        };
        let tried = guest.boot(KVM_TRY)?;
        Ok(if tried.said.lines().any(|line| line.trim() == "alive") {
            Self::Kvm
        } else {
            Self::Tcg
        })
    }

    /// As people call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "no KVM",
        }
    }

    const fn argument(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            // One thread for all CPUs of the guest: with one each, a CPU can run an instruction that another has
            // patched meanwhile (qemu 7.2; "Oops: int3" while the kernel of 7.2 switches a static key).
            Self::Tcg => "tcg,thread=single",
        }
    }
}

/// A guest to boot.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    /// The kernel.
    pub(crate) image: &'a Path,
    /// Its first file system, and without disks its only one.
    pub(crate) initramfs: &'a Path,
    /// Its disks; what it writes to them is forgotten.
    pub(crate) disks: &'a [&'a Path],
    /// Kernel arguments beside those of all guests.
    pub(crate) arguments: &'a str,
    /// Memory beside what the first file system takes.
    pub(crate) memory_mib: u64,
    /// How it is run.
    pub(crate) accelerator: Accelerator,
    /// Where its logs go: this path with an ending for each.
    pub(crate) logs: PathBuf,
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It powered off, or its kernel panicked: qemu exits either way.
    Off,
    /// Qemu failed; what it printed.
    Qemu(String),
    /// Its time was up, and it was killed.
    TimeUp,
}

/// A guest's life.
#[derive(Debug)]
pub(crate) struct Life {
    /// What the second serial port said: init and the tests.
    pub(crate) said: String,
    /// What the first said: the kernel.
    pub(crate) kernel_log: String,
    /// How it ended.
    pub(crate) ended: Ended,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Guest<'_> {
    /// Runs the guest to its end, or for `limit`.
    ///
    /// # Errors
    ///
    /// When qemu cannot be run or a log cannot be written.
    pub(crate) fn boot(&self, limit: Duration) -> Result<Life> {
        let started = Instant::now();
        let kernel_log = with_suffix(&self.logs, ".kernel.log");
        let qemu_log = with_suffix(&self.logs, ".qemu.log");
        let said_log = with_suffix(&self.logs, ".tests.log");
        let mut record = create(&said_log)?;
        // An earlier guest's words must not be taken for this one's.
        create(&kernel_log)?;
        let mut qemu = self.qemu(&kernel_log, create(&qemu_log)?)?;
        let stdout = qemu.0.stdout.take().context("running qemu: it has no stdout")?;
        let (sender, chunks) = mpsc::channel();
        // Ends with the pipe, that is with qemu.
        let reader = thread::spawn(move || read_chunks(stdout, &sender));
        let mut said = Vec::new();
        let mut time_up = false;
        loop {
            match chunks.recv_timeout(limit.saturating_sub(started.elapsed())) {
                Ok(chunk) => {
                    record
                        .write_all(&chunk)
                        .with_context(|| format!("writing {}", said_log.display()))?;
                    said.extend(chunk);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    time_up = true;
                    break;
                }
            }
        }
        if time_up {
            qemu.0.kill().context("killing qemu")?;
        }
        let status = qemu.0.wait().context("waiting for qemu")?;
        // The pipe is closed now; it has nothing left to wait for.
        drop(reader.join());
        said.extend(chunks.try_iter().flatten());
        Ok(Life {
            said: String::from_utf8_lossy(&said).into_owned(),
            kernel_log: text(&kernel_log)?,
            ended: match (time_up, status.success()) {
                (true, _) => Ended::TimeUp,
                (false, true) => Ended::Off,
                (false, false) => Ended::Qemu(format!("{status}: {}", text(&qemu_log)?.trim())),
            },
            took: started.elapsed(),
        })
    }

    fn qemu(&self, kernel_log: &Path, qemu_log: File) -> Result<Running> {
        let archive_bytes = fs::metadata(self.initramfs)
            .with_context(|| format!("reading {}", self.initramfs.display()))?
            .len();
        // Once as the archive and once unpacked, into a file system that may take half of the memory.
        let memory = self.memory_mib + 3 * archive_bytes.div_ceil(MEBIBYTE);
        let mut command = Command::new(QEMU);
        for disk in self.disks {
            // A comma in a value is written twice (qemu(1), "-drive").
            let file = disk.display().to_string().replace(',', ",,");
            command
                .arg("-drive")
                .arg(format!("file={file},if=virtio,format=raw,snapshot=on"));
        }
        command
            .args(["-nodefaults", "-display", "none", "-no-reboot", "-machine", "q35", "-cpu", "max"])
            .args(["-smp", CPUS, "-accel", self.accelerator.argument(), "-m", &format!("{memory}M")])
            .arg("-kernel")
            .arg(self.image)
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-append")
            .arg(format!("{KERNEL_ARGUMENTS} {}", self.arguments).trim_end())
            .arg("-serial")
            .arg(format!("file:{}", kernel_log.display()))
            .args(["-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(qemu_log)
            .spawn()
            .map(Running)
            .with_context(|| {
                format!("running {QEMU}\nhint: `cargo xtask setup --for test` says what is missing and installs it")
            })
    }
}

/// A qemu that does not outlive its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended and been waited for, which is what is wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn read_chunks(stdout: impl Read, sender: &mpsc::Sender<Vec<u8>>) {
    let mut lines = BufReader::new(stdout);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        if sender.send(std::mem::take(&mut line)).is_err() {
            return;
        }
    }
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("creating {}", path.display()))
}

fn text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
