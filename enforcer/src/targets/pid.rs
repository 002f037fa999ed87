//! From a process to the cgroup it is in.
//!
//! Everything is read through one descriptor of `/proc/<pid>`, which means that very process for ever: once it
//! is gone reads fail, and a new process that was given the same number is never taken for it.

use std::{
    ffi::OsString,
    io::{self, Read as _},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use procfs::{
    FromRead as _, ProcError,
    process::{Process, Stat},
};
use rustix::io::Errno;

use super::{
    cgroup::{Cgroup, CgroupError},
    hierarchy::Hierarchy,
};

/// `PF_KTHREAD` (`include/linux/sched.h`), in the flags of `/proc/<pid>/stat`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// What the kernel appends to the path of a removed cgroup in `/proc/<pid>/cgroup`.
const DELETED: &[u8] = b" (deleted)";

/// How often a process that is just being moved is looked up again.
const ATTEMPTS: usize = 5;

/// Why a process does not lead to a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum PidError {
    /// There is no such process.
    #[error("there is no process {pid}")]
    Gone {
        /// As asked for.
        pid: u32,
    },
    /// It has exited; only its entry in the process table is left.
    #[error("process {pid} has exited and only waits for its parent to notice (a zombie)")]
    Zombie {
        /// As asked for.
        pid: u32,
    },
    /// It is a thread of the kernel.
    #[error("process {pid} ({comm}) is a kernel thread, which makes no connects on a program's behalf")]
    KernelThread {
        /// As asked for.
        pid: u32,
        /// Its name.
        comm: String,
    },
    /// Something under `/proc/<pid>` cannot be read.
    #[error("cannot read /proc/{pid}/{file}")]
    Read {
        /// As asked for.
        pid: u32,
        /// File below `/proc/<pid>`.
        file: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It is in no cgroup of version 2: the file has no `0::` line.
    #[error("process {pid} is in no cgroup of version 2")]
    NoVersion2 {
        /// As asked for.
        pid: u32,
    },
    /// Its cgroup was removed while it exited.
    #[error("the cgroup of process {pid}, {}, was removed: the process is exiting", path.display())]
    CgroupRemoved {
        /// As asked for.
        pid: u32,
        /// The cgroup as the kernel named it.
        path: PathBuf,
    },
    /// Its cgroup cannot be seen from here.
    #[error("the cgroup of process {pid}, {}, lies outside what the cgroup v2 mount {} shows", path.display(), mount_point.display())]
    Outside {
        /// As asked for.
        pid: u32,
        /// The cgroup as this process's cgroup namespace names it.
        path: PathBuf,
        /// Where version 2 is mounted.
        mount_point: PathBuf,
    },
    /// It never stayed in one cgroup for long enough.
    #[error("process {pid} keeps moving from cgroup to cgroup")]
    Moving {
        /// As asked for.
        pid: u32,
    },
    /// The cgroup is known but cannot be opened.
    #[error("cannot use the cgroup of process {pid}")]
    Open {
        /// As asked for.
        pid: u32,
        /// Why.
        #[source]
        source: Box<CgroupError>,
    },
}

impl PidError {
    /// What the person can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Gone { .. } | Self::Zombie { .. } | Self::CgroupRemoved { .. } => Some(
                "a restarted service has a new process: name its cgroup instead, which stays (`--cgroup`)".to_owned(),
            ),
            Self::KernelThread { .. } => Some("name the process whose connects you mean, or its cgroup".to_owned()),
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as root".to_owned())
            }
            Self::Read { .. } => None,
            Self::NoVersion2 { .. } => Some("this kernel was booted without cgroup v2".to_owned()),
            Self::Outside { .. } => Some(
                "run enforcer in the host's cgroup and mount namespaces: `nsenter --target 1 --cgroup --mount`"
                    .to_owned(),
            ),
            Self::Moving { .. } => Some("name the cgroup instead: `--cgroup`".to_owned()),
            Self::Open { source, .. } => source.hint(),
        }
    }
}

/// Opens the cgroup that a process is in. A thread's identifier works too: it leads to that thread's cgroup.
///
/// What was looked up is confirmed after opening: the process is still alive and still in it.
///
/// # Errors
///
/// [`PidError`] for everything that a number can turn out to be.
pub fn cgroup_of(hierarchy: &Hierarchy, pid: u32) -> Result<Cgroup, PidError> {
    let process = open(pid)?;
    for _ in 0..ATTEMPTS {
        let path = cgroup_path(&process, pid)?;
        let relative = located(hierarchy, pid, &path)?;
        let opened = Cgroup::open_relative(hierarchy, &relative);
        if cgroup_path(&process, pid)? == path {
            return opened.map_err(|source| PidError::Open {
                pid,
                source: Box::new(source),
            });
        }
    }
    Err(PidError::Moving { pid })
}

/// Path of the cgroup that a process is in, relative to the mount. Nothing says that it still is, or that the number
/// still means the same process: whoever uses it must find that in the path.
pub(super) fn path_of(hierarchy: &Hierarchy, pid: u32) -> Result<PathBuf, PidError> {
    let process = open(pid)?;
    located(hierarchy, pid, &cgroup_path(&process, pid)?)
}

/// A descriptor of a process that can make connects.
fn open(pid: u32) -> Result<Process, PidError> {
    let process = i32::try_from(pid)
        .ok()
        .filter(|&pid| pid > 0)
        .ok_or(PidError::Gone { pid })
        .and_then(|number| Process::new(number).map_err(|error| failed(pid, "", error.into_io())))?;
    refuse_those_without_connects(&read(&process, pid, "stat")?, pid)?;
    Ok(process)
}

fn located(hierarchy: &Hierarchy, pid: u32, path: &Path) -> Result<PathBuf, PidError> {
    hierarchy.locate(path).ok_or_else(|| PidError::Outside {
        pid,
        path: path.to_owned(),
        mount_point: hierarchy.mount_point().to_owned(),
    })
}

/// The cgroup of this very process, as its cgroup namespace names it.
///
/// # Errors
///
/// [`PidError`] where it is in none of version 2, or in one that was removed.
pub fn own_cgroup_path() -> Result<PathBuf, PidError> {
    let pid = std::process::id();
    let process = Process::myself().map_err(|error| failed(pid, "", error.into_io()))?;
    cgroup_path(&process, pid)
}

fn refuse_those_without_connects(stat: &[u8], pid: u32) -> Result<(), PidError> {
    let stat = Stat::from_read(stat).map_err(|error| failed(pid, "stat", error.into_io()))?;
    if stat.flags & PF_KTHREAD != 0 {
        return Err(PidError::KernelThread { pid, comm: stat.comm });
    }
    // The first thread of a process can have ended while others go on; then it is not the process that ended.
    if stat.state == 'Z' && stat.num_threads <= 1 {
        return Err(PidError::Zombie { pid });
    }
    Ok(())
}

/// The path in the `0::` line of `/proc/<pid>/cgroup`.
fn cgroup_path(process: &Process, pid: u32) -> Result<PathBuf, PidError> {
    let text = read(process, pid, "cgroup")?;
    let path = version2_path(&text).ok_or(PidError::NoVersion2 { pid })?;
    match path.as_os_str().as_bytes().strip_suffix(DELETED) {
        Some(path) => Err(PidError::CgroupRemoved {
            pid,
            path: OsString::from_vec(path.to_vec()).into(),
        }),
        None => Ok(path),
    }
}

/// Bytes, not text: names of cgroups need not be UTF-8. They never contain a line feed (`cgroup_mkdir`).
fn version2_path(cgroup_file: &[u8]) -> Option<PathBuf> {
    cgroup_file
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"0::"))
        .map(|path| Path::new(&OsString::from_vec(path.to_vec())).to_owned())
}

fn read(process: &Process, pid: u32, file: &'static str) -> Result<Vec<u8>, PidError> {
    let mut text = Vec::new();
    process
        .open_relative(file)
        .map_err(ProcErrorExt::into_io)
        .and_then(|mut open| open.read_to_end(&mut text))
        .map_err(|source| failed(pid, file, source))?;
    Ok(text)
}

fn failed(pid: u32, file: &'static str, source: io::Error) -> PidError {
    let gone =
        source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(Errno::SRCH.raw_os_error());
    if gone {
        PidError::Gone { pid }
    } else {
        PidError::Read { pid, file, source }
    }
}

/// procfs wraps the kernel's answer; here only the answer matters.
trait ProcErrorExt {
    fn into_io(self) -> io::Error;
}

impl ProcErrorExt for ProcError {
    fn into_io(self) -> io::Error {
        match self {
            Self::PermissionDenied(_) => io::ErrorKind::PermissionDenied.into(),
            Self::NotFound(_) => io::ErrorKind::NotFound.into(),
            Self::Io(error, _) => error,
            other => io::Error::other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::test_support::{Scratch, is_root};

    fn hierarchy() -> Hierarchy {
        Hierarchy::find().unwrap()
    }

    #[test]
    fn the_line_of_version_2_is_found_among_others() {
        let hybrid = b"9:name=systemd:/x\n1:cpu,cpuacct:/y\n0::/a b:c\n";
        assert_eq!(version2_path(hybrid), Some(PathBuf::from("/a b:c")));
        assert_eq!(version2_path(b"1:cpu:/\n"), None);
        let latin1 = version2_path(b"0::/\xe9\n").unwrap();
        assert_eq!(latin1.as_os_str().as_bytes(), b"/\xe9");
    }

    #[test]
    fn process_leads_to_its_cgroup() {
        if !is_root("targets::pid::process_leads_to_its_cgroup") {
            return;
        }
        let mut scratch = Scratch::new("pid");
        let pid = scratch.spawn_sleeper();
        let other = scratch.spawn_sleeper();
        let found = cgroup_of(&hierarchy(), pid).unwrap();
        assert_eq!(found.path(), scratch.path());
        assert_eq!(found.id(), scratch.cgroup().id());
        let mut listed = found.processes().unwrap();
        listed.sort_unstable();
        let mut expected = vec![pid, other];
        expected.sort_unstable();
        assert_eq!(listed, expected);
        assert_eq!(found.count_processes().unwrap(), 2);
    }

    #[test]
    fn process_that_ended_is_gone_and_before_that_a_zombie() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let open = Process::new(i32::try_from(pid).unwrap()).unwrap();
        child.kill().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while open.stat().unwrap().state != 'Z' {
            assert!(
                std::time::Instant::now() < deadline,
                "the killed child did not become a zombie"
            );
            std::thread::yield_now();
        }
        assert!(matches!(
            cgroup_of(&hierarchy(), pid),
            Err(PidError::Zombie { .. })
        ));
        child.wait().unwrap();
        assert!(matches!(cgroup_of(&hierarchy(), pid), Err(PidError::Gone { .. })));
        // A descriptor from before never means another process, whoever has the number by now.
        assert!(matches!(cgroup_path(&open, pid), Err(PidError::Gone { .. })));
    }

    #[test]
    fn numbers_that_no_process_can_have_are_gone() {
        for pid in [0, u32::MAX, i32::MAX as u32] {
            let error = cgroup_of(&hierarchy(), pid).unwrap_err();
            assert!(matches!(error, PidError::Gone { .. }), "{pid}: {error}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn kernel_thread_is_refused() {
        // As read on 6.18.
        let stat = b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 3 0 0 18446744073709551615 0 0 0 0 0 0 0 \
            2147483647 0 0 0 0 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0";
        let error = refuse_those_without_connects(stat, 2).unwrap_err();
        assert!(
            matches!(&error, PidError::KernelThread { comm, .. } if comm == "kthreadd"),
            "{error}"
        );
    }

    #[test]
    fn first_thread_that_ended_is_not_the_process() {
        let zombie = |threads| {
            format!(
                "7 (a) b) Z 1 7 7 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 {threads} 0 3 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
            )
        };
        assert!(matches!(
            refuse_those_without_connects(zombie(1).as_bytes(), 7),
            Err(PidError::Zombie { .. })
        ));
        assert!(refuse_those_without_connects(zombie(2).as_bytes(), 7).is_ok());
    }

    #[test]
    fn zombie_of_a_removed_cgroup_does_not_lead_to_a_new_one_of_that_name() {
        if !is_root("targets::pid::zombie_of_a_removed_cgroup_does_not_lead_to_a_new_one_of_that_name") {
            return;
        }
        let mut scratch = Scratch::new("pid-deleted");
        let pid = scratch.spawn_sleeper();
        let open = Process::new(i32::try_from(pid).unwrap()).unwrap();
        scratch.kill_without_reaping(pid);
        scratch.remove_directory();
        let error = cgroup_path(&open, pid).unwrap_err();
        assert!(
            matches!(&error, PidError::CgroupRemoved { path, .. } if path == scratch.path()),
            "{error}"
        );
    }
}
