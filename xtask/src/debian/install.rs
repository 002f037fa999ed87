//! Installing Debian packages: lists refreshed only where needed, no service started, what was there kept.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

use crate::workspace::{read, retried, run};

/// Whether this system installs packages with apt.
pub(crate) fn is_there() -> bool {
    crate::workspace::program("apt-get").is_some() && crate::workspace::program("dpkg").is_some()
}

/// Whether the lists the machine has name a version of that package that can be installed.
pub(crate) fn has_candidate(package: &str) -> bool {
    // `apt-cache policy` prints nothing for an unknown name, and "(none)" for one that only others mention.
    read(
        Command::new("apt-cache")
            .args(["policy", package])
            .env("LC_ALL", "C"),
    )
    .is_ok_and(|said| said.contains("Candidate:") && !said.contains("Candidate: (none)"))
}

/// Fetches the lists.
///
/// # Errors
///
/// Where apt fails three times.
pub(crate) fn update() -> Result<()> {
    retried(|| run(apt_get().arg("update")))
}

/// Installs these packages, without what they merely recommend.
///
/// # Errors
///
/// Where apt fails three times.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let services = ServicesHeld::hold()?;
    let outcome = retried(|| {
        let installed = run(apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages));
        if installed.is_err() {
            // The likeliest cause: the lists name versions that the mirror no longer has.
            run(apt_get().arg("update"))?;
        }
        installed
    });
    services.release()?;
    outcome
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // Somebody else's apt may be running; waiting is better than failing.
    command.args(["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

const POLICY: &str = "/usr/sbin/policy-rc.d";
const MARK: &str = "# Made by `cargo xtask setup` while it installs packages; safe to delete.";

/// While it lives, package scripts start no service: they ask `policy-rc.d`
/// (invoke-rc.d(8), deb-systemd-invoke(1p)), and it answers 101, "forbidden". Signals that would end this
/// process before it has cleaned up wait; apt hears them too, and stops.
///
/// A machine that has a policy of its own keeps it: that is its administrator's word.
struct ServicesHeld {
    made: Option<PathBuf>,
    signals_end_us: Arc<AtomicBool>,
}

impl ServicesHeld {
    fn hold() -> Result<Self> {
        let signals_end_us = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register_conditional_default(signal, Arc::clone(&signals_end_us))
                .context("catching signals")?;
        }
        let path = Path::new(POLICY);
        // One of ours that an earlier run was killed over.
        if fs::read_to_string(path).is_ok_and(|text| text.contains(MARK)) {
            fs::remove_file(path).with_context(|| format!("removing {POLICY}"))?;
        }
        let mut held = Self {
            made: None,
            signals_end_us,
        };
        match fs::OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(mut file) => {
                held.made = Some(path.to_owned());
                write!(file, "#!/bin/sh\n{MARK}\nexit 101\n").with_context(|| format!("writing {POLICY}"))?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o755))
                    .with_context(|| format!("making {POLICY} executable"))?;
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("creating {POLICY}")),
        }
        Ok(held)
    }

    fn release(mut self) -> Result<()> {
        match self.made.take() {
            Some(path) => fs::remove_file(path).with_context(|| format!("removing {POLICY}")),
            None => Ok(()),
        }
    }
}

impl Drop for ServicesHeld {
    fn drop(&mut self) {
        if let Some(path) = self.made.take() {
            // Only on the way out of an error, which is the one to report.
            let _ = fs::remove_file(path);
        }
        self.signals_end_us.store(true, Ordering::Relaxed);
    }
}
