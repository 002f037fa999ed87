//! Finding a process of a target, and holding on to its network namespace and its root.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::file;

/// Cgroups looked into for a process, a target's own and those below.
const MAX_CGROUPS: usize = 256;

/// Octets read of one list of processes: the first few thousand are enough.
const MAX_LIST_BYTES: u64 = 64 << 10;

/// Where a target is.
#[derive(Debug)]
pub(crate) struct Place {
    /// The process it was taken from.
    pub(crate) pid: u32,
    /// Its network namespace.
    pub(super) netns: OwnedFd,
    /// Its root directory, opened as a path only.
    pub(super) root: OwnedFd,
}

impl Place {
    /// Reads a short file of the target's, as its processes find it.
    pub(crate) fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        file::read_in_root(self.root.as_fd(), path)
    }
}

/// Why there is no place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("the target has no process")]
    NoProcess,
    #[error("process {pid} is no longer in its cgroup")]
    Gone { pid: u32 },
    #[error("cannot look at process {pid} of the target")]
    Process {
        pid: u32,
        #[source]
        source: io::Error,
    },
}

/// The place of the process with that number, or of the one with the lowest in these cgroups and those below them: who
/// began there.
pub(super) fn find(cgroups: &[PathBuf], wanted: Option<u32>) -> Result<Place, PlaceError> {
    let mut last = wanted.map_or(PlaceError::NoProcess, |pid| PlaceError::Gone { pid });
    let directories = with_those_below(cgroups);
    let mut found: Vec<(u32, &Path)> = Vec::new();
    for directory in &directories {
        let pids = processes(directory).unwrap_or_default();
        found.extend(pids.into_iter().map(|pid| (pid, directory.as_path())));
    }
    found.retain(|(pid, _)| wanted.is_none_or(|wanted| *pid == wanted));
    found.sort_unstable();
    for (pid, directory) in found {
        match open(pid, directory) {
            Ok(Some(place)) => return Ok(place),
            // It has ended meanwhile.
            Ok(None) => {}
            Err(source) => last = PlaceError::Process { pid, source },
        }
    }
    Err(last)
}

/// These cgroups, and then those below, within the limit.
fn with_those_below(cgroups: &[PathBuf]) -> Vec<PathBuf> {
    let mut directories: VecDeque<PathBuf> = cgroups.iter().cloned().collect();
    let mut looked_into = Vec::new();
    while looked_into.len() < MAX_CGROUPS
        && let Some(directory) = directories.pop_front()
    {
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        directories.extend(
            below
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
                .take(MAX_CGROUPS),
        );
        looked_into.push(directory);
    }
    looked_into
}

/// Processes of a cgroup, sorted. Those of another PID namespace have no number here.
fn processes(directory: &Path) -> io::Result<Vec<u32>> {
    let mut text = String::new();
    File::open(directory.join("cgroup.procs"))?
        .take(MAX_LIST_BYTES)
        .read_to_string(&mut text)?;
    Ok(numbers(&text))
}

/// The numbers of a list, sorted. What stands behind the last newline was cut off, and is another number.
fn numbers(list: &str) -> Vec<u32> {
    let whole = list.rfind('\n').map_or("", |end| &list[..end]);
    let mut numbers: Vec<u32> = whole
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid != 0)
        .collect();
    numbers.sort_unstable();
    numbers
}

/// Opens what belongs to a process, if it is still in that cgroup. A number can become another process's: its
/// directory in /proc never does, so it is opened first, and then the cgroup is asked again.
fn open(pid: u32, directory: &Path) -> io::Result<Option<Place>> {
    let directory_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = || -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let process = openat(CWD, format!("/proc/{pid}"), directory_flags, Mode::empty())?;
        let netns = openat(
            &process,
            "ns/net",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let root = openat(&process, "root", directory_flags, Mode::empty())?;
        Ok((netns, root))
    };
    let opened = opened();
    if !processes(directory)?.contains(&pid) {
        return Ok(None);
    }
    let (netns, root) = opened?;
    Ok(Some(Place { pid, netns, root }))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::targets::{Hierarchy, test_support};

    /// A process that does nothing until it is dropped.
    struct Idle(Child);

    impl Idle {
        fn new() -> Self {
            let mut command = Command::new("cat");
            command.stdin(Stdio::piped()).stdout(Stdio::null());
            Self(command.spawn().unwrap())
        }
    }

    impl Drop for Idle {
        fn drop(&mut self) {
            let _ended_already = self.0.kill();
            let _status = self.0.wait();
        }
    }

    #[test]
    fn a_number_that_was_cut_off_is_no_process() {
        assert_eq!(numbers("424217\n300\n0\n4242"), [300, 424_217]);
        assert_eq!(numbers("4242"), [] as [u32; 0]);
        assert_eq!(numbers(""), [] as [u32; 0]);
    }

    #[test]
    fn the_lowest_number_of_all_cgroups_is_found_wherever_it_is() {
        const NAME: &str =
            "names::inside::process::tests::the_lowest_number_of_all_cgroups_is_found_wherever_it_is";
        if !test_support::is_root(NAME) {
            return;
        }
        let processes = [Idle::new(), Idle::new(), Idle::new()];
        let mut pids = processes.each_ref().map(|one| one.0.id());
        pids.sort_unstable();
        // The folders are looked into in this order; whichever has the lowest number, it is that process.
        for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
            let folder = tempfile::tempdir().unwrap();
            let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
            let below = two.join("below");
            for (directory, which) in [&one, &two, &below].into_iter().zip(order) {
                fs::create_dir(directory).unwrap();
                fs::write(directory.join("cgroup.procs"), format!("{}\n", pids[which])).unwrap();
            }
            assert_eq!(find(&[one, two], None).unwrap().pid, pids[0], "{order:?}");
        }
    }

    #[test]
    fn without_a_process_there_is_no_place() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(find(&[], None), Err(PlaceError::NoProcess)));
        assert!(matches!(
            find(&[folder.path().to_owned()], None),
            Err(PlaceError::NoProcess)
        ));
        fs::write(folder.path().join("cgroup.procs"), "0\n").unwrap();
        assert!(matches!(
            find(&[folder.path().to_owned()], None),
            Err(PlaceError::NoProcess)
        ));
    }

    #[test]
    fn a_process_below_is_found() {
        if !test_support::is_root("names::inside::process::tests::a_process_below_is_found") {
            return;
        }
        // Everything that can be opened here is in the lists of a folder, as in a cgroup.
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("below");
        fs::create_dir(&below).unwrap();
        fs::write(folder.path().join("cgroup.procs"), "").unwrap();
        fs::write(below.join("cgroup.procs"), format!("{}\n", std::process::id())).unwrap();
        let place = find(&[folder.path().to_owned()], None).unwrap();
        assert_eq!(place.pid, std::process::id());
        assert!(Hierarchy::find().is_ok());
    }
}
