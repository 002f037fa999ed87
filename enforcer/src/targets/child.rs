//! A cgroup for one command: made below the caller's own, left behind empty-handed.
//!
//! The cgroup is locked (flock(2)) as long as its owner lives, so that another enforcer can tell one that was left
//! behind by an enforcer that was killed; `stale` sweeps those.
//!
//! Whatever the command leaves running is moved to the caller's cgroup, never ended: that is not this tool's
//! to decide. Running the command is the caller's business; this file only gets it into the cgroup.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{Mode, OFlags},
    io::Errno,
};

mod error;

mod stale;

pub use self::error::{Detour, ExecCgroupError};
use super::{
    cgroup::Cgroup,
    hierarchy::Hierarchy,
    pid::{self, PidError},
    processes::{descendants, fd_path, read_processes},
};

/// How long [`ExecCgroup::close`] goes on emptying the cgroup before it gives up.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// How long one wait for the cgroup to become empty lasts before its processes are listed again: those that
/// were forked meanwhile are not announced.
const RELEASE_ROUND: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// Names tried where earlier ones are taken, by a killed enforcer or one in another PID namespace.
const NAMES_TRIED: usize = 1_000;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The cgroup of one command. Dropping it does what [`close`](Self::close) does, but what fails is only logged:
/// whoever has somebody to tell closes it.
#[derive(Debug)]
pub struct ExecCgroup {
    cgroup: Cgroup,
    /// The directory in the file system, for removing it.
    directory: PathBuf,
    /// The caller's cgroup, where survivors go.
    home: Cgroup,
    detour: Option<Detour>,
    /// Says that its owner lives, unless somebody else keeps a lock on the directory.
    _lock: OwnedFd,
    is_released: bool,
}

/// What was left when the command had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// Processes that outlived the command and were moved.
    pub moved: usize,
}

impl ExecCgroup {
    /// Makes a cgroup `enforcer-exec-<pid>-<n>` below the caller's own.
    ///
    /// A new cgroup has no controllers of its own, so a process may join it wherever the caller may be. Where
    /// the caller's cgroup takes no child (it was removed, it may not be written, a limit is reached), the
    /// nearest cgroup above that does is taken and [`detour`](Self::detour) tells. Survivors go to the
    /// caller's cgroup in any case, or to the top of the mount if that one cannot be seen.
    ///
    /// # Errors
    ///
    /// [`ExecCgroupError`]; nothing is left behind then.
    pub fn create(hierarchy: &Hierarchy) -> Result<Self, ExecCgroupError> {
        let own = match pid::own_cgroup_path() {
            Ok(path) | Err(PidError::CgroupRemoved { path, .. }) => path,
            Err(error) => return Err(ExecCgroupError::Own(error)),
        };
        Self::create_for(hierarchy, &own)
    }

    /// As [`create`](Self::create), for a caller in the cgroup `own`, named as its cgroup namespace does.
    fn create_for(hierarchy: &Hierarchy, own: &Path) -> Result<Self, ExecCgroupError> {
        let located = hierarchy.locate(own);
        let start = located.as_deref().unwrap_or(Path::new("/"));
        let mut obstacle = None;
        for parent in start.ancestors() {
            let directory = hierarchy.absolute(parent);
            stale::sweep(&directory);
            let (made, lock) = match make_below(&directory) {
                Ok(made) => made,
                Err(source) => {
                    obstacle.get_or_insert(source);
                    continue;
                }
            };
            let is_detour = parent != start || located.is_none();
            let detour = is_detour.then(|| Detour {
                from: own.to_owned(),
                under: parent.to_owned(),
                because: obstacle.take(),
            });
            return Self::open(hierarchy, made.clone(), lock, start, detour).inspect_err(|_| {
                // Just made and nobody is in it; the error is what matters.
                let _ = fs::remove_dir(&made);
            });
        }
        Err(ExecCgroupError::Create {
            parent: start.to_owned(),
            source: obstacle.unwrap_or_else(|| Errno::NOENT.into()),
        })
    }

    fn open(
        hierarchy: &Hierarchy,
        directory: PathBuf,
        lock: OwnedFd,
        home: &Path,
        detour: Option<Detour>,
    ) -> Result<Self, ExecCgroupError> {
        let home = home
            .ancestors()
            .map(|path| Cgroup::open_relative(hierarchy, path))
            .reduce(|nearest, above| nearest.or(above))
            .unwrap_or_else(|| Cgroup::open_relative(hierarchy, Path::new("/")))
            .map_err(ExecCgroupError::Open)?;
        let below = directory
            .strip_prefix(hierarchy.mount_point())
            .unwrap_or(&directory);
        let cgroup = Cgroup::open_relative(hierarchy, below).map_err(ExecCgroupError::Open)?;
        Ok(Self {
            cgroup,
            directory,
            home,
            detour,
            _lock: lock,
            is_released: false,
        })
    }

    /// The cgroup, to attach to.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Set where the cgroup does not lie directly below the caller's.
    #[must_use]
    pub fn detour(&self) -> Option<&Detour> {
        self.detour.as_ref()
    }

    /// What makes the process that calls it join the cgroup: to be called in the command's process before it
    /// executes the program, so that not one of its sockets is made outside.
    ///
    /// It makes one write(2) and allocates nothing, so it may be called between fork and exec. It holds for users
    /// that the command changes to as well: the kernel judges by who opened the file.
    ///
    /// # Errors
    ///
    /// [`ExecCgroupError::Join`].
    pub fn joining(&self) -> Result<impl FnMut() -> io::Result<()> + Send + Sync + 'static, ExecCgroupError> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let procs =
            rustix::fs::openat(&self.cgroup, "cgroup.procs", flags, Mode::empty()).map_err(|errno| {
                ExecCgroupError::Join {
                    path: self.directory.join("cgroup.procs"),
                    source: errno.into(),
                }
            })?;
        Ok(move || {
            // "0" is whoever writes.
            rustix::io::write(&procs, b"0")?;
            Ok(())
        })
    }

    /// Moves what is still running in the cgroup, and in cgroups made below it, to the caller's; removes them all.
    ///
    /// Blocks while processes exit, for at most five seconds.
    ///
    /// # Errors
    ///
    /// [`ExecCgroupError::Release`] where it is not empty by then.
    pub fn close(mut self) -> Result<Released, ExecCgroupError> {
        self.release()
    }

    fn release(&mut self) -> Result<Released, ExecCgroupError> {
        self.is_released = true;
        let deadline = Instant::now() + RELEASE_LIMIT;
        let mut moved = BTreeSet::new();
        loop {
            let mut directories = descendants(&self.directory, usize::MAX);
            directories.insert(0, self.directory.clone());
            let mut refusal = None;
            // Depth first: a directory is removed after those in it.
            for directory in directories.iter().rev() {
                // 0 is a process that this PID namespace does not show; written, it would mean this very process.
                for pid in read_processes(directory)
                    .unwrap_or_default()
                    .into_iter()
                    .filter(|&pid| pid != 0)
                {
                    match self.send_home(pid) {
                        Ok(true) => {
                            moved.insert(pid);
                        }
                        Ok(false) => {}
                        Err(source) => refusal = Some(source),
                    }
                }
                match fs::remove_dir(directory) {
                    Err(source) if source.kind() != io::ErrorKind::NotFound => {
                        refusal.get_or_insert(source);
                    }
                    _ => {}
                }
            }
            match refusal {
                _ if self.cgroup.is_gone() => return Ok(Released { moved: moved.len() }),
                Some(source) if Instant::now() >= deadline => {
                    return Err(ExecCgroupError::Release {
                        path: self.cgroup.path().to_owned(),
                        remaining: self.cgroup.count_processes().unwrap_or(0),
                        moved: moved.len(),
                        source,
                    });
                }
                _ => self.wait_until_empty(),
            }
        }
    }

    /// Moves a process to the caller's cgroup; should that take none any more, because controllers were
    /// enabled for its children, to the nearest above it that does. `false` if the process has ended.
    fn send_home(&self, pid: u32) -> io::Result<bool> {
        let mut directory = fd_path(self.home.as_fd());
        let mut refusal = None;
        loop {
            match fs::OpenOptions::new()
                .write(true)
                .open(directory.join("cgroup.procs"))
                .and_then(|mut procs| io::Write::write_all(&mut procs, pid.to_string().as_bytes()))
            {
                Ok(()) => return Ok(true),
                Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => return Ok(false),
                // Above the top of the mount there is no such file.
                Err(error) if error.kind() == io::ErrorKind::NotFound && refusal.is_some() => {
                    return Err(refusal.unwrap_or(error));
                }
                Err(error) => {
                    refusal.get_or_insert(error);
                }
            }
            directory.push("..");
        }
    }

    /// Waits a moment for the kernel to announce that the last process has left.
    fn wait_until_empty(&self) {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(events) = rustix::fs::openat(&self.cgroup, "cgroup.events", flags, Mode::empty()) else {
            return;
        };
        // Whether anything comes of it, the caller finds out by trying again.
        let mut arm = [0; 128];
        let _ = rustix::io::pread(&events, &mut arm, 0);
        let _ = rustix::event::poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&RELEASE_ROUND));
    }
}

impl Drop for ExecCgroup {
    fn drop(&mut self) {
        if !self.is_released
            && let Err(error) = self.release()
        {
            let cause = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            log::warn!("{error}: {cause}");
        }
    }
}

/// Makes a cgroup with a name that is free, ready to be joined, and locks it.
fn make_below(parent: &Path) -> io::Result<(PathBuf, OwnedFd)> {
    let mut obstacle = None;
    for _ in 0..NAMES_TRIED {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = parent.join(format!("{}{}-{number}", stale::NAME, std::process::id()));
        match fs::create_dir(&directory) {
            Ok(()) => match make_ready(&directory) {
                Ok(Some(lock)) => return Ok((directory, lock)),
                Ok(None) => obstacle = Some(Errno::NOENT.into()),
                Err(error) => {
                    let _ = fs::remove_dir(&directory);
                    return Err(error);
                }
            },
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => obstacle = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(obstacle.unwrap_or_else(|| Errno::EXIST.into()))
}

/// Locks a cgroup that was just made and makes it ready to be joined; `None` if another enforcer swept it meanwhile.
fn make_ready(directory: &Path) -> io::Result<Option<OwnedFd>> {
    let Some(lock) = stale::lock(directory)? else {
        return Ok(None);
    };
    match make_joinable(directory) {
        Ok(()) => Ok(Some(lock)),
        // A file of a cgroup that is removed while it is open is no device any more.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NODEV)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Below a threaded cgroup a new one is no valid domain and takes nobody until it is threaded as well
/// (cgroup-v2.rst, "Threads").
fn make_joinable(directory: &Path) -> io::Result<()> {
    let kind = directory.join("cgroup.type");
    if fs::read_to_string(&kind)?.trim_end() == "domain invalid" {
        fs::write(&kind, "threaded")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
