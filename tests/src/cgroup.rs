//! [`CgroupFixture`]: a cgroup of our own under the real cgroup v2 mount.
//!
//! It enables no controllers and sets no limits: enforcer needs none.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use procfs::process::Process;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::{
    unique,
    wait::{PATIENCE, eventually},
};

/// File of a cgroup that lists its processes, and takes new ones.
const PROCS: &str = "cgroup.procs";

/// How long a process may be without an environment while it becomes another program.
const EXEC: Duration = Duration::from_secs(1);

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside v1.
///
/// # Errors
///
/// When `/proc/self/mountinfo` cannot be read or holds no cgroup v2 mount.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = Process::myself()
        .and_then(|process| process.mountinfo())
        .context("read /proc/self/mountinfo")?;
    mounts
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2")
        .map(|mount| mount.mount_point)
        .context("find the cgroup v2 mount: /proc/self/mountinfo has none")
}

/// Removes the cgroups that [`CgroupFixture::named`] or [`CgroupFixture::of_process`] made with that prefix in a
/// process that was killed since: those without processes whose maker is gone. Descriptors cannot be left behind, but a cgroup can.
///
/// # Errors
///
/// When the mount cannot be listed. A cgroup that is still in use is no error, and stays.
pub fn sweep(prefix: &str) -> Result<()> {
    let mount_point = mount_point()?;
    let entries =
        fs::read_dir(&mount_point).with_context(|| format!("list cgroup {}", mount_point.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let maker = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix)?.strip_prefix('-')?.split('-').next());
        let Some(maker) = maker.and_then(|maker| maker.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new(&format!("/proc/{maker}")).exists() {
            // The kernel refuses to remove a cgroup that has processes or children.
            let _ = fs::remove_dir(entry.path());
        }
    }
    Ok(())
}

/// A cgroup that is removed on drop, with all below it.
///
/// On drop the processes in it that fixtures of this process started, or their children, are killed; a process
/// somebody else put there is moved to the parent.
#[derive(Debug)]
pub struct CgroupFixture {
    mount_point: PathBuf,
    path: PathBuf,
    id: u64,
}

impl CgroupFixture {
    /// Makes a cgroup named after `what`, directly below the mount point.
    ///
    /// # Errors
    ///
    /// When there is no cgroup v2 mount or the directory cannot be made.
    pub fn new(what: &str) -> Result<Self> {
        Self::named(&format!("enforcer-{what}"))
    }

    /// Makes a cgroup whose name begins with `prefix`, directly below the mount point.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn named(prefix: &str) -> Result<Self> {
        let mount_point = mount_point()?;
        let path = mount_point.join(unique::name(prefix));
        Self::make(mount_point, path)
    }

    /// Makes a cgroup named `prefix` and this process's identifier, short enough to be read in a line. A process
    /// can have one for each prefix; [`sweep`] removes it too.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and when it is there already.
    pub fn of_process(prefix: &str) -> Result<Self> {
        let mount_point = mount_point()?;
        let path = mount_point.join(format!("{prefix}-{}", std::process::id()));
        Self::make(mount_point, path)
    }

    /// Makes a cgroup of exactly that name below this one. The parent's drop removes it too.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made, for example because it is there already.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::make(self.mount_point.clone(), self.path.join(name))
    }

    fn make(mount_point: PathBuf, path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("make cgroup {}", path.display()))?;
        let mut fixture = Self {
            mount_point,
            path,
            id: 0,
        };
        fixture.id = fs::metadata(&fixture.path)
            .with_context(|| format!("read the inode number of cgroup {}", fixture.path.display()))?
            .ino();
        Ok(fixture)
    }

    /// The kernel's identifier of the cgroup: the inode number of its directory.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Absolute path of its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path relative to the mount point, with a leading slash, as in the `0::` line of
    /// `/proc/<pid>/cgroup`.
    #[must_use]
    pub fn relative_path(&self) -> String {
        let below = self.path.strip_prefix(&self.mount_point).unwrap_or(&self.path);
        format!("/{}", below.display())
    }

    /// The processes in it, not counting cgroups below.
    ///
    /// # Errors
    ///
    /// When the list cannot be read or understood.
    pub fn processes(&self) -> Result<Vec<u32>> {
        processes(&self.path)
    }

    /// Moves a process here. Sockets it has stay governed through the cgroup it made them in.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, for example because the process is gone.
    pub fn adopt(&self, pid: u32) -> Result<()> {
        let file = self.path.join(PROCS);
        fs::write(&file, pid.to_string())
            .with_context(|| format!("move process {pid} into cgroup {}", self.path.display()))
    }

    /// The file to which a process about to start writes `0` to join.
    pub(crate) fn procs_file(&self) -> Result<File> {
        let path = self.path.join(PROCS);
        OpenOptions::new()
            .write(true)
            .open(&path)
            .with_context(|| format!("open {} for writing", path.display()))
    }

    /// Removes the cgroup and all below it, now. Dropping does the same, but can only print what went wrong.
    ///
    /// # Errors
    ///
    /// When something in it does not go away in time.
    pub fn remove(self) -> Result<()> {
        let removed = remove_tree(&self.path);
        // Whatever happened was tried with all patience; once is enough.
        std::mem::forget(self);
        removed
    }
}

impl Drop for CgroupFixture {
    #[expect(clippy::print_stderr, reason = "drop cannot return what went wrong")]
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            eprintln!("cgroup fixture left behind: {error:#}");
        }
    }
}

fn processes(cgroup: &Path) -> Result<Vec<u32>> {
    let path = cgroup.join(PROCS);
    fs::read_to_string(&path)
        .with_context(|| format!("read {}", path.display()))?
        .lines()
        .map(|line| {
            line.parse()
                .with_context(|| format!("read {}: {line:?} is not a process identifier", path.display()))
        })
        .collect()
}

/// Removes a cgroup depth-first; one that is gone already is fine.
fn remove_tree(cgroup: &Path) -> Result<()> {
    let entries = match fs::read_dir(cgroup) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("list cgroup {}", cgroup.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("list cgroup {}", cgroup.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    // A process can be forked while the list is read, and a killed one takes a moment: so again and again.
    let mut last = None;
    let start = Instant::now();
    eventually("the cgroup to be removed", PATIENCE, || {
        match fs::remove_dir(cgroup) {
            Ok(()) => return true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
            Err(error) => last = Some(anyhow::Error::new(error)),
        }
        if let Err(error) = empty(cgroup, start.elapsed() >= EXEC) {
            last = Some(error);
        }
        false
    })
    .map_err(|late| last.unwrap_or(late))
    .with_context(|| format!("remove cgroup {}", cgroup.display()))
}

/// Kills the processes of a cgroup that are ours, and moves the others to its parent. Those of which it cannot be
/// said yet stay, unless that has been so for long enough.
fn empty(cgroup: &Path, long_enough: bool) -> Result<()> {
    let parent = cgroup
        .parent()
        .with_context(|| format!("find the parent of cgroup {}", cgroup.display()))?;
    for pid in processes(cgroup)? {
        match kill_if_ours(pid).with_context(|| format!("kill process {pid}"))? {
            Whose::Ours => continue,
            Whose::Unknown if !long_enough => continue,
            Whose::Unknown | Whose::Strangers => {}
        }
        match fs::write(parent.join(PROCS), pid.to_string()) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                return Err(error)
                    .with_context(|| format!("move process {pid} to cgroup {}", parent.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Who started a process.
enum Whose {
    Ours,
    Strangers,
    /// It has no environment: it is about to run another program, or was started without one.
    Unknown,
}

/// Kills the process if it carries our mark. One that is gone counts as ours.
fn kill_if_ours(pid: u32) -> Result<Whose> {
    let Some(handle) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        // 0 stands for a process of another PID namespace.
        return Ok(Whose::Strangers);
    };
    // The descriptor comes first: from then on the number cannot come to mean another process.
    let handle = match pidfd_open(handle, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(Errno::SRCH) => return Ok(Whose::Ours),
        Err(error) => return Err(error).context("open a descriptor of the process"),
    };
    let environment = match fs::read(format!("/proc/{pid}/environ")) {
        Ok(environment) => environment,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
            return Ok(Whose::Ours);
        }
        Err(error) => return Err(error).context("read its environment"),
    };
    if environment.is_empty() {
        return Ok(Whose::Unknown);
    }
    let mark = format!("{}={}", unique::MARK_VARIABLE, unique::mark());
    if !environment
        .split(|&byte| byte == 0)
        .any(|variable| variable == mark.as_bytes())
    {
        return Ok(Whose::Strangers);
    }
    match pidfd_send_signal(&handle, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(Whose::Ours),
        Err(error) => Err(error).context("send it SIGKILL"),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::Command};

    use super::*;
    use crate::{place::Place, process::Running};

    #[test]
    fn a_cgroup_is_there_with_its_children_until_it_is_dropped() {
        let cgroup = CgroupFixture::new("test-tree").unwrap();
        let child = cgroup.child("child").unwrap();
        let grandchild = child.child("grandchild").unwrap();
        assert_eq!(grandchild.id(), fs::metadata(grandchild.path()).unwrap().ino());
        assert_eq!(
            grandchild.relative_path(),
            format!("{}/child/grandchild", cgroup.relative_path())
        );
        let path = cgroup.path().to_owned();
        assert!(path.join("child/grandchild").is_dir());
        drop(cgroup);
        assert!(!path.exists(), "{} is still there", path.display());
    }

    #[test]
    fn sweeping_removes_what_a_killed_process_left_and_nothing_else() {
        let prefix = unique::name("enforcer-test-sweep");
        let mine = CgroupFixture::named(&prefix).unwrap();
        // No process has a number this high (`PID_MAX_LIMIT` is 2^22).
        let left = mine.mount_point.join(format!("{prefix}-4194305-0-0"));
        fs::create_dir(&left).unwrap();
        let swept = sweep(&prefix);
        let there = left.exists();
        if there {
            fs::remove_dir(&left).unwrap();
        }
        swept.unwrap();
        assert!(!there);
        assert!(mine.path().exists());
    }

    #[test]
    fn a_cgroup_is_removed_also_when_its_test_panics() {
        let (send, receive) = std::sync::mpsc::channel();
        let panicked = std::thread::spawn(move || {
            let cgroup = CgroupFixture::new("test-panic").unwrap();
            send.send(cgroup.path().to_owned()).unwrap();
            panic!("on purpose");
        })
        .join();
        assert!(panicked.is_err());
        let path = receive.recv().unwrap();
        assert!(!path.exists(), "{} is still there", path.display());
    }

    #[test]
    fn a_stranger_is_moved_to_the_parent_and_lives_on() {
        let outer = CgroupFixture::new("test-stranger").unwrap();
        let inner = outer.child("inner").unwrap();
        // Without the mark it is a stranger to the fixture, though it is ours to end.
        let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
        inner.adopt(stranger.id()).unwrap();
        let removed = inner.remove();
        let moved = outer.processes();
        let alive = stranger.try_wait();
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        removed.unwrap();
        assert_eq!(moved.unwrap(), [stranger.id()]);
        assert!(alive.unwrap().is_none());
    }

    #[test]
    fn a_process_of_ours_is_killed_with_its_children() {
        let cgroup = CgroupFixture::new("test-ours").unwrap();
        let place = Place {
            cgroup: Some(&cgroup),
            ..Place::default()
        };
        let mut command = place.command("sh").unwrap();
        command.args(["-c", "sleep 600 & sleep 600"]);
        let mut ours = Running::start(command).unwrap();
        eventually("the shell and its children", PATIENCE, || {
            cgroup.processes().unwrap().len() >= 2
        })
        .unwrap();
        cgroup.remove().unwrap();
        let status = eventually("the shell to have ended", PATIENCE, || ours.exited().unwrap()).unwrap();
        assert_eq!(status.signal(), Some(9));
        // The children held the shell's outputs, so the end of both shows that they are gone.
        ours.finish(PATIENCE).unwrap();
    }
}
