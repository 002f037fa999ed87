//! inotify as a doorbell: it says that something changed in a directory, never what.
//!
//! Whoever waits looks for himself each time, so that a lost, merged or overflowed event costs nothing: watch
//! first, then look, then wait. Of a removed cgroup directory the kernel (seen on 6.18) tells only the
//! directory above it; so it is always parents that are watched.

use std::{io, mem::MaybeUninit, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Why a directory cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {what} for changes")]
pub struct WatchError {
    what: String,
    source: io::Error,
}

impl WatchError {
    /// What the person can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self.source.raw_os_error().map(Errno::from_raw_os_error)? {
            Errno::MFILE => Some("raise fs.inotify.max_user_instances with sysctl".to_owned()),
            Errno::NOSPC => Some("raise fs.inotify.max_user_watches with sysctl".to_owned()),
            _ => None,
        }
    }
}

/// A set of watched directories.
#[derive(Debug)]
pub(super) struct Watches {
    inotify: AsyncFd<OwnedFd>,
}

impl Watches {
    /// Needs a tokio runtime with I/O.
    pub(super) fn new() -> Result<Self, WatchError> {
        let failed = |source| WatchError {
            what: "cgroups".to_owned(),
            source,
        };
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|errno| failed(errno.into()))?;
        // SAFETY: an `OwnedFd` is one and the same open descriptor until it is dropped, and `AsyncFd` owns it: it
        // takes it out of the reactor before that.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        registered
            .map(|inotify| Self { inotify })
            .map_err(|error| failed(error.into()))
    }

    /// Watches for names that come and go in a directory. `false` if there is no such directory (any more).
    /// Watching one again changes nothing.
    pub(super) fn add(&self, directory: &Path) -> Result<bool, WatchError> {
        let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.inotify, directory, flags) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NODEV) => Ok(false),
            Err(source) => Err(WatchError {
                what: directory.display().to_string(),
                source: source.into(),
            }),
        }
    }

    /// Waits until something changed since the last call, and forgets all that did. Cancel safe.
    pub(super) async fn changed(&self) -> Result<(), WatchError> {
        let failed = |source| WatchError {
            what: "cgroups".to_owned(),
            source,
        };
        loop {
            let mut ready = self.inotify.readable().await.map_err(failed)?;
            match ready.try_io(|inotify| drain(inotify.get_ref())) {
                Ok(done) => return done.map_err(failed),
                Err(_nothing_there) => {}
            }
        }
    }
}

/// Reads all events there are; `WouldBlock` if there was none.
fn drain(inotify: &OwnedFd) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    let mut any = false;
    loop {
        match reader.next() {
            // The kernel itself ends a watch with its directory; that alone is no news.
            Ok(event) => any |= event.events() != ReadFlags::IGNORED,
            Err(Errno::WOULDBLOCK) if any => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}
