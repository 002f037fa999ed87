//! Cgroups of commands whose enforcer was killed: known for certain, and removed where nobody is left in them.
//!
//! A cgroup's owner holds a lock on its directory (flock(2)). The kernel lets go of it when the owner has ended,
//! however it ended, and no other process has the descriptor: it is closed on exec. So a lock that can be taken says
//! that the owner is gone, also to an enforcer in another PID namespace, to whom the identifier in the name says
//! nothing. A cgroup that has processes is never touched: the kernel refuses to remove it.

use std::{
    ffi::OsStr,
    fs,
    io::{self, ErrorKind},
    os::fd::OwnedFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, FlockOperation, Mode, OFlags},
    io::Errno,
};

use crate::targets::processes::descendants;

/// What names of commands' cgroups begin with; the owner's process identifier and a number follow.
pub(super) const NAME: &str = "enforcer-exec-";

/// The most cgroups below a stale one that are removed with it.
const DESCENDANTS: usize = 1_000;

/// How long [`lock`] waits for somebody else's lock. Whoever sweeps holds one for a moment only.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long it waits before it tries again.
const PAUSE: Duration = Duration::from_millis(5);

/// Locks a cgroup that was just made; `None` if another enforcer took it for a stale one and removed it meanwhile.
///
/// Every user may open and lock the directory, and nobody may keep a command from starting that way. So a lock that
/// others keep is done without: no sweep gets it either as long as they do.
pub(super) fn lock(directory: &Path) -> io::Result<Option<OwnedFd>> {
    let locked = match open(directory) {
        Err(Errno::NOENT | Errno::NODEV) => return Ok(None),
        opened => opened?,
    };
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive) {
        match error {
            Errno::WOULDBLOCK if Instant::now() < deadline => thread::sleep(PAUSE),
            Errno::WOULDBLOCK => {
                log::debug!(
                    "{} stays unlocked: somebody else keeps a lock on it",
                    directory.display()
                );
                break;
            }
            Errno::INTR => {}
            error => return Err(error.into()),
        }
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match rustix::fs::openat(&locked, "cgroup.procs", flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NODEV) => Ok(None),
        _ => Ok(Some(locked)),
    }
}

/// Removes the cgroups below that were left behind and have nobody in them. Whatever stands in the way, they stay:
/// they govern nobody, and cost a directory.
pub(super) fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if is_of_a_dead_process(&entry.file_name()) {
            let directory = entry.path();
            if let Err(error) = remove(&directory)
                && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::WouldBlock)
            {
                log::debug!(
                    "cannot remove {}, which was left behind: {error}",
                    directory.display()
                );
            }
        }
    }
}

/// Whether a name is that of a command's cgroup, and no process has the identifier in it. Such a process may be
/// another one by now; then the cgroup stays until that one has ended.
fn is_of_a_dead_process(name: &OsStr) -> bool {
    let owner = name
        .to_str()
        .and_then(|name| name.strip_prefix(NAME)?.split_once('-'))
        .filter(|(_, number)| number.parse::<u32>().is_ok())
        .and_then(|(owner, _)| owner.parse::<u32>().ok());
    owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists())
}

fn remove(directory: &Path) -> io::Result<()> {
    let stale = open(directory)?;
    rustix::fs::flock(&stale, FlockOperation::NonBlockingLockExclusive)?;
    // Cgroups that the command made are not taken from those who may be in one of them.
    if is_populated(directory)? {
        return Ok(());
    }
    for below in descendants(directory, DESCENDANTS).iter().rev() {
        fs::remove_dir(below)?;
    }
    fs::remove_dir(directory)
}

/// Whether there is a process in the cgroup or below it (cgroup-v2.rst, "cgroup.events").
fn is_populated(directory: &Path) -> io::Result<bool> {
    let events = fs::read_to_string(directory.join("cgroup.events"))?;
    Ok(!events.lines().any(|line| line == "populated 0"))
}

fn open(directory: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(CWD, directory, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::targets::{
        child::ExecCgroup,
        test_support::{Scratch, eventually, is_root},
    };

    /// The identifier of a process that has ended. The kernel gives identifiers in order, so nobody has it for a
    /// while.
    fn dead_process() -> u32 {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    #[test]
    fn what_was_left_behind_is_swept_and_nothing_else() {
        if !is_root("targets::child::stale::what_was_left_behind_is_swept_and_nothing_else") {
            return;
        }
        let mut scratch = Scratch::new("exec-stale");
        let dead = dead_process();
        let name = |owner: u32, number: u32| format!("{NAME}{owner}-{number}");
        let make = |name: &str| fs::create_dir(scratch.absolute().join(name)).unwrap();
        let empty = name(dead, 0);
        let nested = name(dead, 1);
        let inhabited = name(dead, 2);
        let locked = name(dead, 3);
        let of_the_living = name(std::process::id(), 4_000_000);
        let of_somebody = format!("{NAME}else");
        for name in [&empty, &nested, &inhabited, &locked, &of_the_living, &of_somebody] {
            make(name);
        }
        fs::create_dir_all(scratch.absolute().join(&nested).join("a/b")).unwrap();
        fs::create_dir(scratch.absolute().join(&inhabited).join("a")).unwrap();
        let pid = scratch.spawn_sleeper();
        let procs = scratch.absolute().join(&inhabited).join("a/cgroup.procs");
        fs::write(procs, pid.to_string()).unwrap();
        let held = lock(&scratch.absolute().join(&locked)).unwrap().unwrap();

        let exec = ExecCgroup::create_for(scratch.hierarchy(), scratch.path()).unwrap();
        let top = scratch.absolute();
        let is_there = |name: &str| top.join(name).exists();
        assert!(!is_there(&empty) && !is_there(&nested));
        assert!(is_there(&inhabited) && is_there(&format!("{inhabited}/a")));
        assert!(is_there(&locked) && is_there(&of_the_living) && is_there(&of_somebody));
        assert!(exec.cgroup().path().starts_with(scratch.path()));

        // Nobody is in it any more, and its owner is gone.
        drop(held);
        scratch.kill_without_reaping(pid);
        let events = scratch.absolute().join(&inhabited);
        eventually("the sleeper has left", || !is_populated(&events).unwrap());
        // More than once: a command that another thread is starting right now has a copy of each descriptor until it
        // is executed, and with it of the lock.
        eventually("what nobody needs any more is swept", || {
            sweep(&top);
            !is_there(&inhabited) && !is_there(&locked)
        });
        exec.close().unwrap();
    }

    #[test]
    fn the_owner_holds_the_lock_and_its_command_does_not() {
        if !is_root("targets::child::stale::the_owner_holds_the_lock_and_its_command_does_not") {
            return;
        }
        let scratch = Scratch::new("exec-lock");
        let exec = ExecCgroup::create_for(scratch.hierarchy(), scratch.path()).unwrap();
        let directory = scratch.hierarchy().absolute(exec.cgroup().path());
        let refused = remove(&directory).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        let command = Command::new("sh")
            .args(["-c", "ls -l /proc/self/fd"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let descriptors = String::from_utf8(command.stdout).unwrap();
        let name = directory.file_name().unwrap().to_str().unwrap();
        assert!(!descriptors.contains(name), "{descriptors}");
        exec.close().unwrap();
    }

    #[test]
    fn a_cgroup_that_was_swept_before_it_was_locked_is_noticed() {
        if !is_root("targets::child::stale::a_cgroup_that_was_swept_before_it_was_locked_is_noticed") {
            return;
        }
        let scratch = Scratch::new("exec-swept");
        let directory = scratch.absolute().join("gone");
        fs::create_dir(&directory).unwrap();
        fs::remove_dir(&directory).unwrap();
        assert!(lock(&directory).unwrap().is_none());
    }
    #[test]
    fn a_lock_that_somebody_else_keeps_holds_up_nobody() {
        if !is_root("targets::child::stale::a_lock_that_somebody_else_keeps_holds_up_nobody") {
            return;
        }
        let scratch = Scratch::new("exec-kept");
        let directory = scratch.absolute().join("kept");
        fs::create_dir(&directory).unwrap();
        // As any user can, who may open the directory.
        let kept = open(&directory).unwrap();
        rustix::fs::flock(&kept, FlockOperation::NonBlockingLockShared).unwrap();
        let owner = thread::spawn({
            let directory = directory.clone();
            move || lock(&directory)
        });
        eventually("the owner goes on", || owner.is_finished());
        let unlocked = owner.join().unwrap().unwrap();
        assert!(unlocked.is_some());
        assert_eq!(remove(&directory).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(kept);
        eventually("nothing of it stays", || remove(&directory).is_ok());
    }
}
