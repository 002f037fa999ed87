//! Reading cgroup directories: what lies below one, and who is in it.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::fd::{AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use rustix::io::Errno;

/// A path that leads to what a descriptor means, whatever its name is by now.
pub(super) fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Directories below one, each after the one it lies in, the directory itself not included. What cannot be
/// read, because it was removed meanwhile, is left out.
pub(super) fn descendants(top: &Path, limit: usize) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut next = 0;
    let mut current = top.to_owned();
    loop {
        for entry in fs::read_dir(&current).into_iter().flatten().flatten() {
            if found.len() < limit && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
        }
        match found.get(next) {
            Some(path) => current.clone_from(path),
            None => return found,
        }
        next += 1;
    }
}

/// Identifiers of the processes in the cgroup with that directory.
pub(super) fn read_processes(dir: &Path) -> io::Result<Vec<u32>> {
    match read_numbers(&dir.join("cgroup.procs")) {
        // A threaded cgroup lists threads only (cgroup-v2.rst, "Threads").
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
            let mut pids: Vec<u32> = read_numbers(&dir.join("cgroup.threads"))?
                .into_iter()
                .filter_map(process_of_thread)
                .collect();
            pids.sort_unstable();
            pids.dedup();
            Ok(pids)
        }
        read => read,
    }
}

fn process_of_thread(tid: u32) -> Option<u32> {
    let task = procfs::process::Process::new(i32::try_from(tid).ok()?).ok()?;
    u32::try_from(task.status().ok()?.tgid).ok()
}

fn read_numbers(path: &Path) -> io::Result<Vec<u32>> {
    let mut text = String::new();
    File::open(path)?.read_to_string(&mut text)?;
    text.lines()
        .map(|line| {
            line.parse()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        })
        .collect()
}
