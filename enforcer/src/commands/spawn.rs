//! Starting the command of `exec`: in its cgroup from its first instruction on, and as another user where asked.

use std::{
    ffi::{CString, OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::PathBuf,
    process::Command,
    sync::Arc,
};

use anyhow::{Context as _, anyhow};
use nix::{
    sys::signal::{SigHandler, Signal, signal},
    unistd::{Gid, Uid, User, getgrouplist},
};
use rustix::{
    pipe::PipeFlags,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tokio::process::Child;

use super::exit::Exit;
use crate::targets::{ExecCgroup, ExecCgroupError};

/// Whom the command runs as.
#[derive(Debug)]
pub(crate) struct Identity {
    name: String,
    uid: Uid,
    gid: Gid,
    groups: Vec<libc::gid_t>,
    home: PathBuf,
    shell: PathBuf,
}

impl Identity {
    /// The user of that name, with all its groups, from the system's user database.
    pub(crate) fn of_user(name: &str) -> anyhow::Result<Self> {
        let user = User::from_name(name)
            .with_context(|| format!("cannot look up user {name:?}"))?
            .ok_or_else(|| anyhow!("there is no user {name:?}"))?;
        let c_name = CString::new(name).with_context(|| format!("cannot look up user {name:?}"))?;
        let groups = getgrouplist(&c_name, user.gid)
            .with_context(|| format!("cannot look up the groups of user {name:?}"))?;
        Ok(Self {
            name: user.name,
            uid: user.uid,
            gid: user.gid,
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            home: user.dir,
            shell: user.shell,
        })
    }
}

/// Limits that enforcer raises for itself (locked memory, open files) as they were before: its command must not
/// find others than without enforcer.
#[derive(Clone, Debug)]
pub(crate) struct Limits([(Resource, Rlimit); 2]);

impl Limits {
    /// Those of this process, now.
    pub(crate) fn current() -> Self {
        Self([Resource::Memlock, Resource::Nofile].map(|resource| (resource, getrlimit(resource))))
    }

    fn restore(&self) -> io::Result<()> {
        for (resource, limit) in &self.0 {
            setrlimit(*resource, *limit)?;
        }
        Ok(())
    }
}

/// What the command's process does between fork and exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    JoinCgroup = 1,
    RestoreLimits = 2,
    IgnoreChildren = 3,
    BecomeUser = 4,
}

impl Step {
    fn from_raw(raw: u8) -> Option<Self> {
        [
            Self::JoinCgroup,
            Self::RestoreLimits,
            Self::IgnoreChildren,
            Self::BecomeUser,
        ]
        .into_iter()
        .find(|step| *step as u8 == raw)
    }
}

/// Why the command does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    /// It cannot be executed: `NotFound` and `PermissionDenied` are about the command.
    #[error("cannot run {program}")]
    Execute {
        program: String,
        #[source]
        source: io::Error,
    },
    /// Its process could not be put into the cgroup.
    #[error("cannot put the command into its cgroup {}", cgroup.display())]
    JoinCgroup {
        cgroup: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The cgroup could not be opened for that.
    #[error("cannot let the command join its cgroup")]
    OpenCgroup(#[source] ExecCgroupError),
    /// Its limits could not be made what they were.
    #[error("cannot give the command the limits that enforcer found")]
    RestoreLimits(#[source] io::Error),
    /// SIGCHLD could not be ignored again.
    #[error("cannot let the command ignore its children as enforcer found them ignored")]
    IgnoreChildren(#[source] io::Error),
    /// Its process could not become another user.
    #[error("cannot run the command as user {name}")]
    BecomeUser {
        name: String,
        #[source]
        source: io::Error,
    },
    /// There is no way to learn what fails.
    #[error("cannot make a pipe to the command's process")]
    Pipe(#[source] io::Error),
}

impl SpawnError {
    /// What `exec` ends with.
    pub(crate) fn exit(&self) -> Exit {
        let by = |error: &io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::Kernel,
            _ => Exit::Failed,
        };
        match self {
            Self::Execute { source, .. } if source.kind() == io::ErrorKind::NotFound => Exit::NotFound,
            Self::Execute { .. } => Exit::NotExecutable,
            Self::JoinCgroup { source, .. }
            | Self::RestoreLimits(source)
            | Self::IgnoreChildren(source)
            | Self::BecomeUser { source, .. } => by(source),
            Self::OpenCgroup(source) => exit_without_cgroup(source),
            Self::Pipe(_) => Exit::Failed,
        }
    }

    /// What a person can do about it, where something can be done.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::OpenCgroup(source) => source.hint(),
            Self::BecomeUser { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("that needs root, or CAP_SETUID and CAP_SETGID".to_owned())
            }
            Self::JoinCgroup { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("that needs root, and a cgroup that may be written".to_owned())
            }
            _ => None,
        }
    }
}

/// A program's name as a person can see it: in quotation marks where its ends could not be seen.
fn quoted(program: &OsStr) -> String {
    let name = program.display().to_string();
    if name.is_empty() || name.contains(char::is_whitespace) {
        format!("'{name}'")
    } else {
        name
    }
}

/// What `exec` ends with where the command gets no cgroup.
pub(crate) fn exit_without_cgroup(error: &ExecCgroupError) -> Exit {
    if error.is_refusal() {
        Exit::Kernel
    } else {
        Exit::Failed
    }
}

/// Adds a step. One that fails writes its number to the pipe: all that the standard library hands on from there is
/// an errno, which could as well be about the command.
fn add_step(
    command: &mut Command,
    failed: &Arc<OwnedFd>,
    step: Step,
    mut take: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    let failed = Arc::clone(failed);
    let take = move || {
        take().inspect_err(|_| {
            let _nobody_reads = rustix::io::write(&failed, &[step as u8]);
        })
    };
    // SAFETY: between fork and exec the closure makes system calls only: no allocation, no lock. The steps below
    // are such, each of them.
    unsafe { command.pre_exec(take) };
}

/// Starts the command in the cgroup, with SIGCHLD ignored where it was when enforcer started.
///
/// # Errors
///
/// [`SpawnError`] says which step failed; the command was not executed then.
pub(crate) fn spawn(
    command: &[OsString],
    cgroup: &ExecCgroup,
    limits: Limits,
    identity: Option<&Identity>,
    ignores_children: bool,
) -> Result<Child, SpawnError> {
    let program = command.first().map(OsString::as_os_str).unwrap_or_default();
    let mut child = Command::new(program);
    child.args(command.get(1..).unwrap_or_default());
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(|error| SpawnError::Pipe(error.into()))?;
    let failed = Arc::new(writer);
    // First the cgroup, which may need root, then the limits, then the identity: steps are taken in the order they
    // were added.
    let join = cgroup.joining().map_err(SpawnError::OpenCgroup)?;
    add_step(&mut child, &failed, Step::JoinCgroup, join);
    add_step(&mut child, &failed, Step::RestoreLimits, move || limits.restore());
    if ignores_children {
        add_step(&mut child, &failed, Step::IgnoreChildren, || {
            // SAFETY: ignoring a signal runs no code of ours.
            let ignored = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
            ignored?;
            Ok(())
        });
    }
    if let Some(Identity {
        name,
        uid,
        gid,
        groups,
        home,
        shell,
    }) = identity
    {
        child
            .env("USER", name)
            .env("LOGNAME", name)
            .env("HOME", home)
            .env("SHELL", shell);
        let (uid, gid, groups) = (uid.as_raw(), gid.as_raw(), groups.clone());
        add_step(&mut child, &failed, Step::BecomeUser, move || {
            become_user(uid, gid, &groups)
        });
    }
    tokio::process::Command::from(child).spawn().map_err(|source| {
        let mut number = [0];
        let step = match rustix::io::read(&reader, &mut number) {
            Ok(1) => Step::from_raw(number[0]),
            _ => None,
        };
        match step {
            None => SpawnError::Execute {
                program: quoted(program),
                source,
            },
            Some(Step::JoinCgroup) => SpawnError::JoinCgroup {
                cgroup: cgroup.cgroup().path().to_owned(),
                source,
            },
            Some(Step::RestoreLimits) => SpawnError::RestoreLimits(source),
            Some(Step::IgnoreChildren) => SpawnError::IgnoreChildren(source),
            Some(Step::BecomeUser) => SpawnError::BecomeUser {
                name: identity.map(|identity| identity.name.clone()).unwrap_or_default(),
                source,
            },
        }
    })
}

/// Groups before user: without root's user id they cannot be changed any more. The C library's wrappers change
/// all threads, and after fork there is only this one: the standard library calls them here in the same way.
fn become_user(uid: libc::uid_t, gid: libc::gid_t, groups: &[libc::gid_t]) -> io::Result<()> {
    let check = |result: libc::c_int| {
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: the pointer and length are those of a live slice.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: no preconditions.
    check(unsafe { libc::setgid(gid) })?;
    // SAFETY: no preconditions.
    check(unsafe { libc::setuid(uid) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::{Hierarchy, test_support::is_root};

    fn ends_with(program: &str, limits: Limits) -> Exit {
        let hierarchy = Hierarchy::find().unwrap();
        let cgroup = ExecCgroup::create(&hierarchy).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let error = runtime
            .unwrap()
            .block_on(async { spawn(&[program.into()], &cgroup, limits, None, false) })
            .unwrap_err();
        error.exit()
    }

    #[test]
    fn a_step_that_fails_is_not_taken_for_the_command() {
        if !is_root("commands::spawn::a_step_that_fails_is_not_taken_for_the_command") {
            return;
        }
        let good = Limits::current();
        assert_eq!(ends_with("/no/such/program", good.clone()), Exit::NotFound);
        assert_eq!(ends_with("/etc/passwd", good.clone()), Exit::NotExecutable);
        // The soft limit may not be above the hard one: EINVAL.
        let wrong = Rlimit {
            current: Some(2),
            maximum: Some(1),
        };
        let limits = Limits([Resource::Memlock, Resource::Nofile].map(|resource| (resource, wrong)));
        assert_eq!(ends_with("/no/such/program", limits), Exit::Failed);
    }

    #[test]
    fn a_cgroup_that_takes_nobody_is_named() {
        if !is_root("commands::spawn::a_cgroup_that_takes_nobody_is_named") {
            return;
        }
        let hierarchy = Hierarchy::find().unwrap();
        let cgroup = ExecCgroup::create(&hierarchy).unwrap();
        let mut command = Command::new("/no/such/program");
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let join = cgroup.joining().unwrap();
        let path = cgroup.cgroup().path().strip_prefix("/").unwrap();
        std::fs::remove_dir(hierarchy.mount_point().join(path)).unwrap();
        add_step(&mut command, &Arc::new(writer), Step::JoinCgroup, join);
        let error = command.spawn().unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::NotFound, "of the program: {error}");
        let mut number = [0];
        assert_eq!(rustix::io::read(&reader, &mut number), Ok(1));
        assert_eq!(Step::from_raw(number[0]), Some(Step::JoinCgroup));
        let error = SpawnError::JoinCgroup {
            cgroup: cgroup.cgroup().path().to_owned(),
            source: error,
        };
        assert_eq!(error.exit(), Exit::Failed);
        assert!(
            error
                .to_string()
                .contains("cannot put the command into its cgroup /")
        );
    }
}
