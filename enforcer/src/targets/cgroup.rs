//! One cgroup, held open.
//!
//! Says what a path means, opens it and explains itself where that fails. It attaches nothing: the kernel
//! room does, with the descriptor held here.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::{
    hierarchy::{self, Hierarchy},
    processes::{descendants, fd_path, read_processes},
};

/// The most directories looked at to find a cgroup that a mistyped path may have meant.
const SIMILAR_SEARCH_DIRS: usize = 4_096;

/// Names at least this alike (Jaro-Winkler, 0 to 1) are offered as what was meant.
const SIMILAR_ENOUGH: f64 = 0.85;

/// An open cgroup v2 directory.
///
/// The descriptor pins the identity: if the directory is removed and made again under the same name, this
/// value still means the old one.
#[derive(Debug)]
pub struct Cgroup {
    dir: OwnedFd,
    id: u64,
    path: PathBuf,
}

/// Why a path could not be opened as a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Nothing is there.
    #[error("cgroup {} does not exist", path.display())]
    Absent {
        /// As the person wrote it.
        path: PathBuf,
        /// Longest leading part that does exist, relative to the mount.
        nearest: PathBuf,
        /// What may have been meant, relative to the mount.
        similar: Option<PathBuf>,
        /// Whether the file system has such a path elsewhere, which is no cgroup.
        is_elsewhere: bool,
    },
    /// It lies in a cgroup v1 hierarchy.
    #[error("{} lies in the cgroup v1 hierarchy {}, and BPF programs attach to cgroup v2 only", path.display(), v1_mount.display())]
    Version1 {
        /// As the person wrote it.
        path: PathBuf,
        /// Mount point of the v1 hierarchy.
        v1_mount: PathBuf,
        /// Cgroup of the same name in version 2, if there is one, relative to the mount.
        in_v2: Option<PathBuf>,
        /// Mount point of version 2.
        mount_point: PathBuf,
    },
    /// It is something else.
    #[error("{} is not a cgroup: it does not lie below the cgroup v2 mount {}", path.display(), mount_point.display())]
    NotCgroup {
        /// As the person wrote it.
        path: PathBuf,
        /// Mount point of version 2.
        mount_point: PathBuf,
    },
    /// It is a file within a cgroup.
    #[error("{} is a file, and a cgroup is a directory", path.display())]
    NotDirectory {
        /// As the person wrote it.
        path: PathBuf,
        /// The cgroup it lies in, relative to the mount.
        within: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot open cgroup {}", path.display())]
    Open {
        /// As the person wrote it.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl CgroupError {
    /// What the person can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Absent {
                similar: Some(similar),
                ..
            } => Some(format!("did you mean {}?", similar.display())),
            Self::Absent {
                nearest,
                is_elsewhere,
                ..
            } => Some(format!(
                "{}{} is there; `systemd-cgls` shows the tree",
                if *is_elsewhere {
                    "a directory of that name exists but is no cgroup; "
                } else {
                    ""
                },
                if nearest == Path::new("/") {
                    "of this path only the root cgroup".to_owned()
                } else {
                    format!("of this path {}", nearest.display())
                }
            )),
            Self::Version1 {
                in_v2: Some(path), ..
            } => Some(format!(
                "the same workload in version 2 may be {}",
                path.display()
            )),
            Self::Version1 { mount_point, .. } => Some(format!(
                "version 2 is mounted at {}; the line `0::` of /proc/PID/cgroup names a workload's cgroup there",
                mount_point.display()
            )),
            Self::NotCgroup { mount_point, .. } => Some(format!(
                "write the path relative to {}, as the `0::` line of /proc/PID/cgroup shows it",
                mount_point.display()
            )),
            Self::NotDirectory { within, .. } => {
                Some(format!("the cgroup it lies in is {}", within.display()))
            }
            Self::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as root, or as a user who may read that directory".to_owned())
            }
            Self::Open { source, .. } if source.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
                Some("raise the limit of open files: `ulimit -n 65536`".to_owned())
            }
            Self::Open { .. } => None,
        }
    }
}

impl Cgroup {
    /// Opens the cgroup that a person named.
    ///
    /// The path is taken as relative to the v2 mount first, with or without a leading slash
    /// (`/system.slice/web.service`); if there is none of that name, as a file-system path below the mount
    /// point (`/sys/fs/cgroup/system.slice/web.service`).
    ///
    /// # Errors
    ///
    /// [`CgroupError`], which says what is there instead.
    pub fn open(hierarchy: &Hierarchy, path: &Path) -> Result<Self, CgroupError> {
        match Self::open_exact(hierarchy, path, &hierarchy.absolute(path)) {
            Err(CgroupError::Open { source, .. }) if names_nothing(&source) => {}
            done => return done,
        }
        if path.starts_with(hierarchy.mount_point()) {
            match Self::open_exact(hierarchy, path, path) {
                Err(CgroupError::Open { source, .. }) if names_nothing(&source) => {}
                done => return done,
            }
        }
        Err(diagnose(hierarchy, path))
    }

    /// Opens a cgroup by its path relative to the mount, and nothing else.
    pub(super) fn open_relative(hierarchy: &Hierarchy, path: &Path) -> Result<Self, CgroupError> {
        match Self::open_exact(hierarchy, path, &hierarchy.absolute(path)) {
            Err(CgroupError::Open { source, .. }) if names_nothing(&source) => Err(diagnose(hierarchy, path)),
            done => done,
        }
    }

    fn open_exact(hierarchy: &Hierarchy, written: &Path, absolute: &Path) -> Result<Self, CgroupError> {
        let refused = |source: Errno| CgroupError::Open {
            path: written.to_owned(),
            source: source.into(),
        };
        let not_cgroup = || CgroupError::NotCgroup {
            path: written.to_owned(),
            mount_point: hierarchy.mount_point().to_owned(),
        };
        // Not O_PATH: attaching a BPF program needs a descriptor with a file behind it (`cgroup_get_from_fd`).
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(absolute, flags, Mode::empty()).map_err(refused)?;
        if !hierarchy::is_cgroup2(&rustix::fs::fstatfs(&dir).map_err(refused)?) {
            return Err(not_cgroup());
        }
        // The kernel's own name for it: without `..`, doubled slashes or links that were in what was written.
        let real = fs::read_link(fd_path(dir.as_fd())).map_err(|source| CgroupError::Open {
            path: written.to_owned(),
            source,
        })?;
        let below = real
            .strip_prefix(hierarchy.mount_point())
            .map_err(|_| not_cgroup())?;
        Ok(Self {
            // The inode number of a cgroup directory is the cgroup's 64-bit id (`kernfs_ino`, since 5.5).
            id: rustix::fs::fstat(&dir).map_err(refused)?.st_ino,
            path: Path::new("/").join(below),
            dir,
        })
    }

    /// The identifier that BPF programs see (`bpf_get_current_cgroup_id`, cgroup storage keys): the inode
    /// number of the directory. Never used twice while the host runs.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The path relative to the v2 mount, with a leading slash; `/` for the root.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is the top of the mount: all there is, as far as this process can see. Whether it is the host's root
    /// too, [`Hierarchy::has_true_root`] tells.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.path == Path::new("/")
    }

    /// Whether the directory was removed since it was opened.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        // Neither the link count nor IN_DELETE_SELF tells (seen on 6.18): but nothing is found in a dead directory.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        matches!(
            rustix::fs::openat(&self.dir, "cgroup.procs", flags, Mode::empty()),
            Err(Errno::NOENT | Errno::NODEV)
        )
    }

    /// Identifiers of the processes in this very cgroup, not in those below it; 0 stands for each that this
    /// process's PID namespace does not show.
    ///
    /// # Errors
    ///
    /// What the kernel says to reading `cgroup.procs`; ENODEV or ENOENT for a removed cgroup.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        read_processes(&fd_path(self.dir.as_fd()))
    }

    /// A process in this cgroup or below it that this process's PID namespace shows, if there is one.
    #[must_use]
    pub fn any_process(&self) -> Option<u32> {
        let top = fd_path(self.dir.as_fd());
        let seen = |dir: &Path| read_processes(dir).ok()?.into_iter().find(|&pid| pid != 0);
        seen(&top).or_else(|| descendants(&top, usize::MAX).iter().find_map(|below| seen(below)))
    }

    /// How many processes are in this cgroup and all those below it: those whose new sockets a program
    /// attached here governs.
    ///
    /// # Errors
    ///
    /// As [`processes`](Self::processes), for the cgroup itself; cgroups below it that disappear meanwhile
    /// are not counted.
    pub fn count_processes(&self) -> io::Result<usize> {
        let mut pids = self.processes()?;
        for below in descendants(&fd_path(self.dir.as_fd()), usize::MAX) {
            pids.extend(read_processes(&below).unwrap_or_default());
        }
        // A threaded cgroup's processes are listed by their domain too. Unseen ones (0) are all counted.
        let unseen = pids.iter().filter(|&&pid| pid == 0).count();
        pids.retain(|&pid| pid != 0);
        pids.sort_unstable();
        pids.dedup();
        Ok(pids.len() + unseen)
    }
}

impl AsFd for Cgroup {
    /// The directory, opened for reading: what attaching needs.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Whether an open failed because the path leads nowhere, so that another reading of it may still be right.
fn names_nothing(error: &io::Error) -> bool {
    let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    is(Errno::NOENT) || is(Errno::NOTDIR) || is(Errno::NAMETOOLONG)
}

/// What a path that leads nowhere was perhaps meant to be.
fn diagnose(hierarchy: &Hierarchy, path: &Path) -> CgroupError {
    let mount_point = hierarchy.mount_point().to_owned();
    if let Some(v1_mount) = hierarchy.v1_mount_of(path) {
        let same = path
            .strip_prefix(v1_mount)
            .map(|below| Path::new("/").join(below))
            .unwrap_or_default();
        return CgroupError::Version1 {
            in_v2: Some(same).filter(|same| same != Path::new("/") && hierarchy.absolute(same).is_dir()),
            path: path.to_owned(),
            v1_mount: v1_mount.to_owned(),
            mount_point,
        };
    }
    let relative = path.strip_prefix(&mount_point).unwrap_or(path);
    // No cgroup is called `/sys/…`: whoever writes that means the file system.
    if path.starts_with("/sys") && !path.starts_with(&mount_point) {
        return CgroupError::NotCgroup {
            path: path.to_owned(),
            mount_point,
        };
    }
    let mut nearest = Path::new("/").to_owned();
    let mut missing = None;
    for part in Path::new("/").join(relative).components().skip(1) {
        let next = nearest.join(part);
        let absolute = hierarchy.absolute(&next);
        if absolute.is_file() {
            return CgroupError::NotDirectory {
                path: path.to_owned(),
                within: nearest,
            };
        }
        if !absolute.is_dir() {
            missing = Some(part.as_os_str().to_string_lossy().into_owned());
            break;
        }
        nearest = next;
    }
    CgroupError::Absent {
        similar: missing.and_then(|missing| similar(hierarchy, &nearest, &missing)),
        nearest,
        is_elsewhere: path.is_absolute() && path.exists(),
        path: path.to_owned(),
    }
}

/// The cgroup with the missing name elsewhere in the tree, or the one beside it with the likest name.
fn similar(hierarchy: &Hierarchy, nearest: &Path, missing: &str) -> Option<PathBuf> {
    let all = descendants(hierarchy.mount_point(), SIMILAR_SEARCH_DIRS);
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let beside = hierarchy.absolute(nearest);
    let likest = || {
        all.iter()
            .filter(|path| path.parent() == Some(&beside))
            .map(|path| (strsim::jaro_winkler(&name(path), missing), path))
            .filter(|(likeness, _)| *likeness >= SIMILAR_ENOUGH)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, path)| path)
    };
    let found = all.iter().find(|path| name(path) == missing).or_else(likest)?;
    found
        .strip_prefix(hierarchy.mount_point())
        .ok()
        .map(|below| Path::new("/").join(below))
}

#[cfg(test)]
mod tests;
