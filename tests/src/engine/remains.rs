//! [`Remains`]: what an engine can leave behind when it does not end in order, and how it goes.
//!
//! Its processes are known by the mount namespace that was made for it, its containers' by their cgroup.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use procfs::process::Process;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::wait::{PATIENCE, eventually};

/// What belongs to an engine and is no child of the test's.
#[derive(Debug)]
pub(super) struct Remains {
    /// Inode number of its mount namespace.
    namespace: u64,
    /// Its cgroup in every hierarchy, version 1 too.
    cgroups: Vec<PathBuf>,
}

impl Remains {
    /// Of the engine with that process, which has entered its namespace, and whose containers' cgroups lie below
    /// `parent`.
    pub(super) fn of(pid: u32, parent: Option<String>) -> Result<Self> {
        let namespace = mount_namespace(pid).context("read an engine's mount namespace")?;
        let mounts = Process::myself()
            .and_then(|process| process.mountinfo())
            .context("read /proc/self/mountinfo")?;
        let cgroups = mounts
            .into_iter()
            .filter(|mount| mount.fs_type == "cgroup" || mount.fs_type == "cgroup2")
            .filter_map(|mount| Some(mount.mount_point.join(parent.as_deref()?)));
        Ok(Self {
            namespace,
            cgroups: cgroups.collect(),
        })
    }

    /// Ends and removes all of it.
    pub(super) fn remove(self) -> Result<()> {
        eventually("an engine's processes to end", PATIENCE, || !self.kill())
            .context("end what an engine left")?;
        for cgroup in &self.cgroups {
            eventually("an engine's cgroups to go", PATIENCE, || remove(cgroup).is_ok())
                .with_context(|| format!("remove {}", cgroup.display()))?;
        }
        Ok(())
    }

    /// Kills every process there is, and says whether there was one.
    fn kill(&self) -> bool {
        let mut any = false;
        for pid in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = pid.file_name().to_str().and_then(|pid| pid.parse().ok()) else {
                continue;
            };
            if !self.owns(pid) {
                continue;
            }
            let Some(handle) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
                continue;
            };
            // Asked again once the descriptor is there: from then on the number cannot mean another process.
            if let Ok(handle) = pidfd_open(handle, PidfdFlags::empty())
                && self.owns(pid)
            {
                any |= pidfd_send_signal(&handle, Signal::KILL) != Err(Errno::SRCH);
            }
        }
        any
    }

    fn owns(&self, pid: u32) -> bool {
        let in_namespace = mount_namespace(pid).is_ok_and(|namespace| namespace == self.namespace);
        in_namespace
            || self
                .cgroups
                .iter()
                .any(|cgroup| processes_below(cgroup).contains(&pid))
    }
}

fn mount_namespace(pid: u32) -> std::io::Result<u64> {
    Ok(fs::metadata(format!("/proc/{pid}/ns/mnt"))?.ino())
}

fn children(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn processes_below(cgroup: &Path) -> Vec<u32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let own = text.lines().filter_map(|line| line.parse().ok());
    let below = children(cgroup);
    own.chain(below.iter().flat_map(|child| processes_below(child)))
        .collect()
}

/// Removes a cgroup with all below it; one that is gone already is fine.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for child in children(cgroup) {
        remove(&child)?;
    }
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
