//! Starting the command of `exec`: in its cgroup from its first instruction on, and as another user where asked.

use std::{
    ffi::{CString, OsString},
    io,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, anyhow};
use nix::{
    sys::signal::{SigHandler, Signal, signal},
    unistd::{Gid, Uid, User, getgrouplist},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::process::Child;

use crate::targets::ExecCgroup;

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

/// Starts the command in the cgroup, with SIGCHLD ignored where it was when enforcer started.
///
/// # Errors
///
/// The operating system's error: `NotFound` and `PermissionDenied` are about the command.
pub(crate) fn spawn(
    command: &[OsString],
    cgroup: &ExecCgroup,
    limits: Limits,
    identity: Option<&Identity>,
    ignores_children: bool,
) -> anyhow::Result<io::Result<Child>> {
    let (program, arguments) = command.split_first().context("no command given")?;
    let mut child = Command::new(program);
    child.args(arguments);
    // First the cgroup, which may need root, then the limits, then the identity: closures run in the order they
    // were added.
    cgroup.join_on_spawn(&mut child)?;
    // SAFETY: between fork and exec the closure makes system calls only: no allocation, no lock.
    unsafe { child.pre_exec(move || limits.restore()) };
    if ignores_children {
        let ignore = || {
            // SAFETY: ignoring a signal runs no code of ours.
            let ignored = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
            ignored?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes one system call: no allocation, no lock.
        unsafe { child.pre_exec(ignore) };
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
        let become_user = move || become_user(uid, gid, &groups);
        // SAFETY: between fork and exec the closure makes system calls only: no allocation, no lock.
        unsafe { child.pre_exec(become_user) };
    }
    Ok(tokio::process::Command::from(child).spawn())
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
