//! Starting the command of `exec`: in its cgroup from its first instruction on, and as another user where asked.

use std::{
    ffi::{CString, OsString},
    io,
    os::fd::{AsRawFd as _, BorrowedFd, RawFd},
    path::PathBuf,
};

use anyhow::{Context as _, anyhow};
use nix::unistd::{Gid, Uid, User, getgrouplist};
use tokio::process::{Child, Command};

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

/// Starts the command in the cgroup whose opened `cgroup.procs` is given.
///
/// # Errors
///
/// The operating system's error: `NotFound` and `PermissionDenied` are about the command.
pub(crate) fn spawn(
    command: &[OsString],
    cgroup_procs: BorrowedFd<'_>,
    identity: Option<&Identity>,
) -> io::Result<Child> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no command given"));
    };
    let mut child = Command::new(program);
    child.args(arguments);
    let mut credentials = None;
    if let Some(identity) = identity {
        child.env("USER", &identity.name).env("LOGNAME", &identity.name);
        child.env("HOME", &identity.home).env("SHELL", &identity.shell);
        credentials = Some((identity.uid.as_raw(), identity.gid.as_raw(), identity.groups.clone()));
    }
    let procs = cgroup_procs.as_raw_fd();
    let prepare = move || {
        // First the cgroup, which may need root, then the identity.
        join(procs)?;
        credentials.as_ref().map_or(Ok(()), |(uid, gid, groups)| become_user(*uid, *gid, groups))
    };
    // SAFETY: between fork and exec the closure makes system calls only: no allocation, no lock. The
    // descriptor stays open in this process until spawn returns.
    unsafe { child.pre_exec(prepare) };
    child.spawn()
}

/// Moves the calling process: "0" means the writer (cgroup_procs_write, kernel/cgroup/cgroup.c).
fn join(procs: RawFd) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the buffer is one readable byte.
    match unsafe { libc::write(procs, b"0".as_ptr().cast(), 1) } {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Groups before user: without root's user id they cannot be changed any more. The raw system calls change the
/// calling thread only, and after fork there is no other.
fn become_user(uid: libc::uid_t, gid: libc::gid_t, groups: &[libc::gid_t]) -> io::Result<()> {
    let check = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the pointer and length are those of a live slice.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: no preconditions.
    check(unsafe { libc::setgid(gid) })?;
    // SAFETY: no preconditions.
    check(unsafe { libc::setuid(uid) })
}
