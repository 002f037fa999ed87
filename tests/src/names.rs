//! [`NamesFixture`]: what a process believes about names, without a DNS server.
//!
//! A process that is started with it sees, in a mount namespace of its own, another `/etc/hosts`, and its C
//! library asks nothing else. Nobody outside sees anything, and nothing has to be undone.

use std::{
    ffi::CString,
    fs, io,
    net::IpAddr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::{
    mount::{MountPropagationFlags, mount_bind, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};
use tempfile::TempDir;

/// Where a running name service cache listens. The C library asks it before it reads any file.
const CACHE_SOCKETS: [&str; 2] = ["/run/nscd", "/var/run/nscd"];

/// Files that replace those of the machine for the processes started with it.
#[derive(Debug)]
pub struct NamesFixture {
    /// Removed on drop. A process that is still running keeps what it has mounted.
    _directory: TempDir,
    /// What is mounted, and where.
    mounts: Vec<(CString, CString)>,
}

impl NamesFixture {
    /// Names and their addresses; a name may be given several times. `localhost` is always known.
    ///
    /// # Errors
    ///
    /// When the files cannot be written, or the machine has no `/etc/hosts` to be replaced.
    pub fn new<'a>(names: impl IntoIterator<Item = (&'a str, IpAddr)>) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("enforcer-names-")
            .tempdir()
            .context("make a temporary directory")?;
        let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for (name, address) in names {
            hosts.push_str(&format!("{address} {name}\n"));
        }
        let mut mounts = Vec::new();
        // gai.conf is emptied because it may sort IPv4 first: people who patch around broken IPv6 write that.
        for (file, text, required) in [
            ("hosts", hosts.as_str(), true),
            ("nsswitch.conf", "hosts: files\n", false),
            ("gai.conf", "", false),
        ] {
            let target = Path::new("/etc").join(file);
            // Without them glibc reads /etc/hosts, and sorts as the standard says.
            if !required && !target.exists() {
                continue;
            }
            let source = directory.path().join(file);
            fs::write(&source, text).with_context(|| format!("write {}", source.display()))?;
            mounts.push((c_path(&source)?, c_path(&target)?));
        }
        let empty = directory.path().join("empty");
        fs::create_dir(&empty).with_context(|| format!("make directory {}", empty.display()))?;
        for target in CACHE_SOCKETS.map(PathBuf::from) {
            if target.is_dir() {
                mounts.push((c_path(&empty)?, c_path(&target)?));
            }
        }
        Ok(Self {
            _directory: directory,
            mounts,
        })
    }

    /// The mounts to make, for a process about to start.
    pub(crate) fn mounts(&self) -> Vec<(CString, CString)> {
        self.mounts.clone()
    }
}

/// Gives the calling process a mount namespace of its own in which these mounts are made. Makes system calls
/// only, so it may be used between fork and exec.
pub(crate) fn enter(mounts: &[(CString, CString)]) -> io::Result<()> {
    // SAFETY: of what unshare can take apart, the flag takes the mount namespace and the working directory's
    // sharing with other threads only; after fork there is one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    // Otherwise the mounts would spread to where the machine's / is shared with.
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for (source, target) in mounts {
        mount_bind(source.as_c_str(), target.as_c_str())?;
    }
    Ok(())
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).with_context(|| format!("use path {}", path.display()))
}
