//! What keeps programs attached: a descriptor for each link, and where those would get scarce, a directory.
//!
//! Five links for each governed cgroup are 20,480 descriptors for 4,096 of them, and 20,000 are a common limit that not even
//! root may raise. So once links have taken half of what this process may have, further ones are pinned in a bpffs of its own
//! that is mounted nowhere: it takes one descriptor for all of them, nobody else can come to it, and it ends with the process
//! as descriptors do. Descriptors come first because the kernel lets go of what they hold before anybody hears that the process
//! has ended; what is pinned goes a moment later.

use std::{
    ffi::CString,
    fmt, io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, unlinkat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
    process::{Resource, getrlimit},
};

use super::{attached::AttachType, syscall};

/// Holds links.
#[derive(Debug)]
pub(super) struct Links {
    /// How many are held by descriptors, and how many may be.
    open: Arc<AtomicUsize>,
    most_open: usize,
    /// The directory, once it was needed; none where the kernel does not let this process have one.
    directory: Option<Option<Arc<Directory>>>,
    /// What the next link is called there.
    next: u64,
}

/// A program that is attached. Dropping it detaches it.
pub(super) struct Link(Held);

enum Held {
    Open { _link: OwnedFd, open: Arc<AtomicUsize> },
    Pinned { directory: Arc<Directory>, name: u64 },
}

/// A bpffs that is mounted nowhere.
#[derive(Debug)]
struct Directory(OwnedFd);

impl Links {
    /// As many by descriptors as half of the limit allows.
    pub(super) fn new() -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self {
            open: Arc::default(),
            most_open: usize::try_from(limit / 2).unwrap_or(usize::MAX),
            directory: None,
            next: 0,
        }
    }

    /// Attaches a program and holds its link.
    ///
    /// A link always allows others beside it; the flag for several is refused with links (EINVAL).
    pub(super) fn attach(
        &mut self,
        program: &impl AsFd,
        cgroup: &impl AsFd,
        attach_type: AttachType,
    ) -> io::Result<Link> {
        let link = syscall::make_link(program, cgroup, attach_type as u32)?;
        let pinned = (self.open.load(Ordering::Relaxed) >= self.most_open)
            .then(|| self.pin(&link))
            .flatten();
        Ok(Link(pinned.unwrap_or_else(|| {
            self.open.fetch_add(1, Ordering::Relaxed);
            Held::Open {
                _link: link,
                open: Arc::clone(&self.open),
            }
        })))
    }

    /// Pins it. Where that cannot be, for which CAP_SYS_ADMIN may be lacking, descriptors have to do.
    fn pin(&mut self, link: &OwnedFd) -> Option<Held> {
        let made = self.directory.get_or_insert_with(|| {
            let made = Directory::new();
            if let Err(error) = &made {
                log::debug!("cannot make a bpffs for links: {error}");
            }
            made.ok().map(Arc::new)
        });
        let directory = Arc::clone(made.as_ref()?);
        self.next += 1;
        let name = self.next;
        let pinned = directory.path(name).and_then(|path| syscall::pin(link, &path));
        match pinned {
            Ok(()) => Some(Held::Pinned { directory, name }),
            Err(error) => {
                log::debug!("cannot pin a link: {error}");
                None
            }
        }
    }
}

impl Directory {
    fn new() -> io::Result<Self> {
        let filesystem = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&filesystem)?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        Ok(Self(fsmount(&filesystem, flags, MountAttrFlags::empty())?))
    }

    /// How bpf(2) comes to a file in it: by path only, before 6.7.
    fn path(&self, name: u64) -> io::Result<CString> {
        CString::new(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd())).map_err(io::Error::other)
    }

    /// Detaches at once what is pinned there, and lets go of it. Removing the file alone would let the kernel detach it when it
    /// gets round to it.
    fn remove(&self, name: u64) {
        let detached = self
            .path(name)
            .and_then(|path| syscall::open_pinned(&path))
            .and_then(|link| syscall::detach(&link));
        // ENOLINK: the cgroup was removed before.
        if let Err(error) = detached {
            log::debug!("cannot detach a pinned link: {error}");
        }
        if let Err(error) = unlinkat(&self.0, name.to_string(), AtFlags::empty()) {
            log::debug!("cannot remove a pinned link: {error}");
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        match &self.0 {
            Held::Open { open, .. } => {
                open.fetch_sub(1, Ordering::Relaxed);
            }
            Held::Pinned { directory, name } => directory.remove(*name),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Held::Open { .. } => "Link(open)",
            Held::Pinned { .. } => "Link(pinned)",
        })
    }
}
