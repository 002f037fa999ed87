//! [`NamesFixture`]: what a process believes about names: those in a file, or those that a nameserver knows.
//!
//! A process that is started with it sees, in a mount namespace of its own, another `/etc/hosts` or
//! `/etc/resolv.conf`, and its C library asks nothing else. Nobody outside sees anything, nothing has to be undone,
//! and there is no file that could be left behind: they are in a file system of the namespace's own.

use std::{ffi::CStr, ffi::CString, fs, io, net::IpAddr, os::unix::ffi::OsStrExt as _, path::Path};

use anyhow::{Context as _, Result};
use rustix::{
    fs::{Mode, OFlags, open},
    io::write,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Where a running name service cache listens. The C library asks it before it reads any file.
const CACHE_SOCKETS: [&CStr; 2] = [c"/run/nscd", c"/var/run/nscd"];

/// Where the files are made, before they are mounted where they belong. Every machine has it, and nothing there is
/// needed meanwhile.
const WORKSHOP: &CStr = c"/tmp";

/// The file being made there.
const PIECE: &CStr = c"/tmp/piece";

/// What `/etc/hosts` says in any case.
const LOCALHOST: &str = "127.0.0.1 localhost\n::1 localhost\n";

/// Says where the C library looks names up.
const SWITCH: &str = "/etc/nsswitch.conf";

/// Says how glibc sorts addresses.
const SORTING: &str = "/etc/gai.conf";

/// Files that replace those of the machine for the processes started with it.
#[derive(Clone, Debug)]
pub struct NamesFixture {
    replacements: Vec<Replacement>,
}

/// A file, and what is in it.
#[derive(Clone, Debug)]
pub(crate) struct Replacement {
    path: CString,
    text: String,
}

impl NamesFixture {
    /// Names and their addresses; a name may be given several times. `localhost` is always known.
    ///
    /// # Errors
    ///
    /// When the machine has no `/etc/hosts` to be replaced.
    pub fn new<'a>(names: impl IntoIterator<Item = (&'a str, IpAddr)>) -> Result<Self> {
        let mut hosts = LOCALHOST.to_owned();
        for (name, address) in names {
            hosts.push_str(&format!("{address} {name}\n"));
        }
        Self::sources("files", hosts)
    }

    /// What that nameserver says, at port 53, and nothing else but `localhost`.
    ///
    /// # Errors
    ///
    /// When the machine has no `/etc/hosts` or no `/etc/resolv.conf` to be replaced.
    pub fn of_nameserver(nameserver: IpAddr) -> Result<Self> {
        Self::sources("files dns", LOCALHOST.to_owned())?.with_nameservers([nameserver])
    }

    /// Names from these sources, with that in `/etc/hosts`.
    fn sources(sources: &str, hosts: String) -> Result<Self> {
        let mut fixture = Self {
            replacements: Vec::new(),
        };
        fixture.replace("/etc/hosts", hosts)?;
        // Without the next two glibc reads /etc/hosts and asks DNS, and sorts as the standard says.
        if let Ok(switch) = fs::read_to_string(SWITCH) {
            fixture.replace(SWITCH, with_sources(&switch, sources))?;
        }
        // Emptied because it may sort IPv4 first: people who patch around broken IPv6 write that.
        if Path::new(SORTING).exists() {
            fixture.replace(SORTING, String::new())?;
        }
        Ok(fixture)
    }

    /// The same, with these nameservers in `/etc/resolv.conf`. With names of a file only programs that read it by
    /// themselves take notice.
    ///
    /// # Errors
    ///
    /// When the machine has no such file to be replaced.
    pub fn with_nameservers(mut self, nameservers: impl IntoIterator<Item = IpAddr>) -> Result<Self> {
        let lines = nameservers
            .into_iter()
            .map(|address| format!("nameserver {address}\n"));
        self.replace("/etc/resolv.conf", lines.collect())?;
        Ok(self)
    }

    fn replace(&mut self, file: &str, text: String) -> Result<()> {
        // A mount goes to where a link leads.
        let path = fs::canonicalize(file).with_context(|| format!("find {file}"))?;
        let path = CString::new(path.as_os_str().as_bytes())
            .with_context(|| format!("use path {}", path.display()))?;
        self.replacements.push(Replacement { path, text });
        Ok(())
    }

    /// What to mount, for a process about to start.
    pub(crate) fn replacements(&self) -> Vec<Replacement> {
        self.replacements.clone()
    }
}

/// The text of `nsswitch.conf` with other sources for hosts. What it says of users and groups stays.
fn with_sources(switch: &str, sources: &str) -> String {
    let mut text: String = switch
        .lines()
        .filter(|line| !line.trim_start().starts_with("hosts:"))
        .map(|line| format!("{line}\n"))
        .collect();
    text.push_str(&format!("hosts: {sources}\n"));
    text
}

/// Gives the calling process a mount namespace of its own in which these files are replaced. Makes system calls
/// only, so it may be used between fork and exec.
pub(crate) fn enter(replacements: &[Replacement]) -> io::Result<()> {
    // SAFETY: of what unshare can take apart, the flag takes the mount namespace and the working directory's
    // sharing with other threads only; after fork there is one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    // Otherwise the mounts would spread to where the machine's / is shared with.
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for replacement in replacements {
        // One file system for each file, so that none of the paths has to be made up here.
        memory_file_system(WORKSHOP)?;
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = open(PIECE, flags, Mode::from_raw_mode(0o644))?;
        let mut left = replacement.text.as_bytes();
        while !left.is_empty() {
            left = &left[write(&file, left)?..];
        }
        mount_bind(PIECE, replacement.path.as_c_str())?;
        // The mounted file keeps the file system; the machine's directory is seen again.
        unmount(WORKSHOP, UnmountFlags::DETACH)?;
    }
    for directory in CACHE_SOCKETS {
        match memory_file_system(directory) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// An empty file system over a directory.
fn memory_file_system(directory: &CStr) -> rustix::io::Result<()> {
    mount(
        c"tmpfs",
        directory,
        c"tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        None::<&CStr>,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hosts_line_of_the_switch_is_another() {
        assert_eq!(
            with_sources(
                "passwd: files ldap\n  hosts: resolve dns\nnetworks: files",
                "files"
            ),
            "passwd: files ldap\nnetworks: files\nhosts: files\n"
        );
    }
}
