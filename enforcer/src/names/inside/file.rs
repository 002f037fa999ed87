//! Reading a file of a target's without leaving its root, whatever links lie in the way.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

/// No real `resolv.conf` is longer.
pub(super) const MAX_BYTES: u64 = 64 << 10;

/// Where a target's resolver is described.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Reads a regular file of at most [`MAX_BYTES`], as a process with that root finds it: links lead nowhere else.
///
/// It is opened as a path first, because opening a pipe would wait for a writer, and opening a device does
/// something to it. What was looked at is then what is read.
pub(super) fn read_in_root(root: BorrowedFd<'_>, path: &str) -> io::Result<Vec<u8>> {
    let found = openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    let status = fstat(&found)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    let mut bytes = Vec::new();
    // The size of some files is told wrongly, so it is counted.
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("longer than {MAX_BYTES} octets")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd as _, os::unix::fs::symlink, path::Path};

    use rustix::fs::{CWD, mknodat};

    use super::*;

    /// A root below a folder that has secrets of its own.
    fn with_root(test: impl FnOnce(&Path, &dyn Fn() -> io::Result<Vec<u8>>)) {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("run")).unwrap();
        fs::create_dir_all(outside.path().join("run")).unwrap();
        fs::write(outside.path().join("secret"), "outside").unwrap();
        fs::write(outside.path().join("run/resolv.conf"), "outside").unwrap();
        let handle = File::open(&root).unwrap();
        test(&root, &|| read_in_root(handle.as_fd(), RESOLV_CONF));
    }

    #[test]
    fn links_stay_within_the_root() {
        for target in [
            "../run/resolv.conf",
            "/run/resolv.conf",
            "../../../../run/resolv.conf",
        ] {
            with_root(|root, read| {
                fs::write(root.join("run/resolv.conf"), "inside").unwrap();
                symlink(target, root.join("etc/resolv.conf")).unwrap();
                assert_eq!(read().unwrap(), b"inside", "{target}");
            });
        }
        with_root(|root, read| {
            symlink("../../secret", root.join("etc/resolv.conf")).unwrap();
            assert_eq!(read().unwrap_err().kind(), io::ErrorKind::NotFound);
        });
    }

    #[test]
    fn only_a_regular_file_is_read() {
        with_root(|root, read| {
            let path = root.join("etc/resolv.conf");
            mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
            assert_eq!(read().unwrap_err().to_string(), "not a regular file");
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            assert_eq!(read().unwrap_err().to_string(), "not a regular file");
        });
    }

    #[test]
    fn a_file_that_is_too_long_is_refused_and_not_cut() {
        with_root(|root, read| {
            let path = root.join("etc/resolv.conf");
            fs::write(&path, vec![b'#'; 64 << 10]).unwrap();
            assert_eq!(read().unwrap().len(), 64 << 10);
            fs::write(&path, vec![b'#'; 65 << 10]).unwrap();
            assert_eq!(read().unwrap_err().to_string(), "longer than 65536 octets");
        });
    }

    #[test]
    fn a_loop_of_links_ends() {
        with_root(|root, read| {
            symlink("resolv.conf", root.join("etc/resolv.conf")).unwrap();
            assert!(read().is_err());
        });
    }
}
