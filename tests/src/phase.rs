//! [`Phase`]: a number that one process sets and others read before and after each thing they do, at the cost of a load.
//! What is done between two equal readings was done in that phase.

use std::{
    fs::OpenOptions,
    os::fd::OwnedFd,
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The phase in which everybody ends.
pub const LAST: u64 = u64::MAX;

/// What is shared.
#[derive(Debug)]
#[repr(C)]
struct Shared {
    phase: AtomicU64,
    done: AtomicU64,
}

/// A number in memory that processes share, a file's; and how much was done.
#[derive(Debug)]
pub struct Phase {
    shared: NonNull<Shared>,
}

// SAFETY: what is shared is atomics, and stays mapped until this is dropped.
unsafe impl Send for Phase {}
// SAFETY: as above.
unsafe impl Sync for Phase {}

impl Phase {
    /// Makes the file, in phase 0. The file can be removed at any time after the others have opened it.
    ///
    /// # Errors
    ///
    /// When the file cannot be made, or not be mapped.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .with_context(|| format!("make {}", path.display()))?;
        file.set_len(size_of::<Shared>() as u64)
            .with_context(|| format!("size {}", path.display()))?;
        Self::map(file.into(), path)
    }

    /// Opens the file that somebody has made.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, or not be mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.with_context(|| format!("open {}", path.display()))?;
        Self::map(file.into(), path)
    }

    fn map(file: OwnedFd, path: &Path) -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses a place where nothing is.
        let mapped = unsafe {
            mmap(
                std::ptr::null_mut(),
                size_of::<Shared>(),
                protection,
                MapFlags::SHARED,
                &file,
                0,
            )
        };
        let mapped = mapped.with_context(|| format!("map {}", path.display()))?;
        let shared = NonNull::new(mapped.cast()).context("map the phase: nowhere")?;
        Ok(Self { shared })
    }

    fn shared(&self) -> &Shared {
        // SAFETY: a mapping begins at a page, and lasts as long as this; all access is atomic.
        unsafe { self.shared.as_ref() }
    }

    /// The phase. Nothing that is done after this call was done before it.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.shared().phase.load(Ordering::SeqCst)
    }

    /// Says that one more thing was done.
    pub fn count(&self) {
        self.shared().done.fetch_add(1, Ordering::SeqCst);
    }

    /// How many things were done.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.shared().done.load(Ordering::SeqCst)
    }

    /// Begins a phase. What was done before this call was done before it.
    pub fn set(&self, phase: u64) {
        self.shared().phase.store(phase, Ordering::SeqCst);
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        // SAFETY: mapped by us with that size, and nobody has a reference any more.
        let _ = unsafe { munmap(self.shared.as_ptr().cast(), size_of::<Shared>()) };
    }
}
