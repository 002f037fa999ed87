//! What the tests of this room share: cgroups of their own under the real v2 mount, and processes in them.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use super::{cgroup::Cgroup, hierarchy::Hierarchy};

/// How long a test waits for a state that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Whether the test may make cgroups; if not, it is recorded as skipped, and fails in strict mode.
pub(crate) fn is_root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let reason = "not root";
    assert!(
        std::env::var_os("ENFORCER_STRICT").as_deref() != Some(OsStr::new("1")),
        "{test} would be skipped: {reason}"
    );
    if let Some(path) = std::env::var_os("ENFORCER_OUTCOMES") {
        let mut file = fs::File::options().append(true).create(true).open(path).unwrap();
        file.write_all(format!("skipped\t{test}\t{reason}\n").as_bytes())
            .unwrap();
    }
    false
}

/// Waits until a state holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        std::thread::yield_now();
    }
}

/// A cgroup of the test's own. Dropping it ends its processes and removes it with all below it.
pub(crate) struct Scratch {
    hierarchy: Hierarchy,
    path: PathBuf,
    children: Vec<Child>,
}

impl Scratch {
    pub(crate) fn new(purpose: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let hierarchy = Hierarchy::find().unwrap();
        let path = PathBuf::from(format!(
            "/enforcer-test-{purpose}-{}-{number}",
            std::process::id()
        ));
        fs::create_dir(hierarchy.absolute(&path)).unwrap();
        Self {
            hierarchy,
            path,
            children: Vec::new(),
        }
    }

    pub(crate) fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// Relative to the mount.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// In the file system.
    pub(crate) fn absolute(&self) -> PathBuf {
        self.hierarchy.absolute(&self.path)
    }

    pub(crate) fn cgroup(&self) -> Cgroup {
        Cgroup::open(&self.hierarchy, &self.path).unwrap()
    }

    pub(crate) fn child(&self, name: &str) -> Cgroup {
        fs::create_dir(self.absolute().join(name)).unwrap();
        Cgroup::open(&self.hierarchy, &self.path.join(name)).unwrap()
    }

    /// Starts a process in this cgroup that does nothing.
    pub(crate) fn spawn_sleeper(&mut self) -> u32 {
        let child = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        self.children.push(child);
        fs::write(self.absolute().join("cgroup.procs"), pid.to_string()).unwrap();
        pid
    }

    /// Kills a process of ours and leaves the zombie.
    pub(crate) fn kill_without_reaping(&mut self, pid: u32) {
        self.children
            .iter_mut()
            .find(|child| child.id() == pid)
            .unwrap()
            .kill()
            .unwrap();
    }

    /// Removes the directory as soon as its processes have ended.
    pub(crate) fn remove_directory(&self) {
        eventually("the scratch cgroup can be removed", || {
            fs::remove_dir(self.absolute()).is_ok()
        });
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let deadline = Instant::now() + PATIENCE;
        let mut below = super::processes::descendants(&self.absolute(), usize::MAX);
        below.insert(0, self.absolute());
        for dir in below.into_iter().rev() {
            while dir.exists() && fs::remove_dir(&dir).is_err() && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
    }
}
