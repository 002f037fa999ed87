//! What can go wrong, or only differently, with a command's cgroup.

use std::{fmt, io, path::PathBuf};

use rustix::io::Errno;

use crate::targets::{CgroupError, PidError};

/// Why the cgroup does not lie directly below the caller's.
#[derive(Debug)]
pub struct Detour {
    /// The caller's cgroup.
    pub from: PathBuf,
    /// The cgroup it lies below instead, relative to the mount.
    pub under: PathBuf,
    /// What stood in the way; `None` where the caller's cgroup cannot be seen from here.
    pub because: Option<io::Error>,
}

impl fmt::Display for Detour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the command runs below cgroup {}, not below {}: ",
            self.under.display(),
            self.from.display()
        )?;
        match &self.because {
            Some(error) => write!(f, "{error}"),
            None => f.write_str("that one is outside what the cgroup v2 mount shows"),
        }?;
        f.write_str("; resource limits set on the caller's cgroup do not hold for it")
    }
}

/// Why a command cannot be given a cgroup, or the cgroup not be removed.
#[derive(Debug, thiserror::Error)]
pub enum ExecCgroupError {
    /// The caller's own cgroup is unknown.
    #[error("cannot find out which cgroup this process is in")]
    Own(#[source] PidError),
    /// No cgroup could be made, neither below the caller's nor below any above it.
    #[error("cannot make a cgroup below {}", parent.display())]
    Create {
        /// The cgroup tried first, relative to the mount.
        parent: PathBuf,
        /// The kernel's answer there.
        #[source]
        source: io::Error,
    },
    /// A cgroup cannot be opened.
    #[error("cannot open a cgroup for the command")]
    Open(#[source] CgroupError),
    /// Processes cannot be put into the new cgroup.
    #[error("cannot open {} for writing", path.display())]
    Join {
        /// The `cgroup.procs` file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It could not be emptied or removed in time.
    #[error("cannot remove cgroup {} ({remaining} processes remain)", path.display())]
    Release {
        /// Relative to the mount.
        path: PathBuf,
        /// Processes still in it.
        remaining: usize,
        /// Processes that were moved to the caller's cgroup.
        moved: usize,
        /// The last refusal.
        #[source]
        source: io::Error,
    },
}

impl ExecCgroupError {
    /// Whether this process may not make the cgroup, rather than that something failed.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.cause().is_some_and(|source| {
            matches!(
                Errno::from_io_error(source),
                Some(Errno::ACCESS | Errno::PERM | Errno::ROFS)
            )
        })
    }

    /// The kernel's answer to making, opening or joining the cgroup.
    fn cause(&self) -> Option<&io::Error> {
        match self {
            Self::Create { source, .. }
            | Self::Join { source, .. }
            | Self::Open(CgroupError::Open { source, .. }) => Some(source),
            Self::Own(_) | Self::Open(_) | Self::Release { .. } => None,
        }
    }

    /// What the person can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Own(source) => source.hint(),
            Self::Open(source) if !self.is_refusal() => source.hint(),
            Self::Create { .. } | Self::Open(_) | Self::Join { .. } => match Errno::from_io_error(self.cause()?)? {
                Errno::ACCESS | Errno::PERM => Some("run as root (`sudo enforcer exec …`)".to_owned()),
                Errno::ROFS => Some(
                    "the cgroup file system is mounted read-only, as in most containers: run enforcer on the host"
                        .to_owned(),
                ),
                Errno::AGAIN => Some(
                    "a limit of the cgroup tree is reached: see cgroup.max.descendants and cgroup.max.depth".to_owned(),
                ),
                _ => None,
            },
            Self::Release { path, .. } => Some(format!(
                "move them with `echo PID > …/cgroup.procs`, then `rmdir` {} below the cgroup v2 mount",
                path.display()
            )),
        }
    }
}
