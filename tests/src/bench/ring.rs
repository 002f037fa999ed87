//! The reading end of a ring buffer of a baseline's: as any program would read one, waiting until it is woken.
//!
//! Layout: `include/uapi/linux/bpf.h`, `kernel/bpf/ringbuf.c`. A page with the reader's position, which is written here; a
//! page with the writer's; the records, mapped twice so that none is torn.

use std::{
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};

use super::bpf::BpfMap;

/// `BPF_RINGBUF_BUSY_BIT`: the record is being written.
const BUSY: u32 = 1 << 31;
/// `BPF_RINGBUF_DISCARD_BIT`: the record was taken back.
const DISCARDED: u32 = 1 << 30;
/// `BPF_RINGBUF_HDR_SZ`.
const HEADER_BYTES: usize = 8;

/// A ring buffer, to be read.
#[derive(Debug)]
pub struct RingReader<'map> {
    map: &'map BpfMap,
    consumer: Mapping,
    producer: Mapping,
    ring_bytes: usize,
}

#[derive(Debug)]
struct Mapping {
    at: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is memory of the process, of no thread's in particular; what is shared in it with the kernel is
// read and written by atomics only.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(map: BorrowedFd<'_>, bytes: usize, protection: ProtFlags, offset: u64) -> Result<Self> {
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory that is in use.
        let at = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                MapFlags::SHARED,
                map,
                offset,
            )
        }
        .context("map a ring buffer into memory")?;
        let at = NonNull::new(at.cast()).context("map a ring buffer into memory")?;
        Ok(Self { at, bytes })
    }

    /// The position at its beginning.
    fn position(&self) -> &AtomicU64 {
        // SAFETY: the page begins with a word of 8 bytes, aligned, that lives as long as the mapping and that the kernel
        // accesses atomically.
        unsafe { self.at.cast::<AtomicU64>().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing borrowed from it is left.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}

impl<'map> RingReader<'map> {
    /// Of a map of that size.
    ///
    /// # Errors
    ///
    /// When it cannot be mapped into memory.
    pub fn new(map: &'map BpfMap, ring_bytes: usize) -> Result<Self> {
        let page = page_size();
        let writable = ProtFlags::READ | ProtFlags::WRITE;
        Ok(Self {
            map,
            consumer: Mapping::new(map.as_fd(), page, writable, 0)?,
            producer: Mapping::new(map.as_fd(), page + 2 * ring_bytes, ProtFlags::READ, page as u64)?,
            ring_bytes,
        })
    }

    /// Waits until the kernel says that there is something. `false` where it did not in time.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to wait.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        let timeout = Timespec::try_from(timeout).context("convert a timeout")?;
        let mut wanted = [PollFd::from_borrowed_fd(self.map.as_fd(), PollFlags::IN)];
        Ok(poll(&mut wanted, Some(&timeout)).context("wait for a ring buffer")? > 0)
    }

    /// Hands over at most `at_most` records, oldest first, and says how many there were.
    pub fn take(&mut self, at_most: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut taken = 0;
        let mut position = self.consumer.position().load(Ordering::Relaxed);
        while taken < at_most && position < self.producer.position().load(Ordering::Acquire) {
            let offset = page_size() + (position as usize & (self.ring_bytes - 1));
            // SAFETY: the offset lies within the mapping: the page, and less than the ring's size.
            let header = unsafe { self.producer.at.add(offset) };
            // SAFETY: records are aligned to 8 and begin with a word that the kernel writes atomically.
            let length = unsafe { header.cast::<AtomicU32>().as_ref() }.load(Ordering::Acquire);
            if length & BUSY != 0 {
                break;
            }
            let bytes = (length & !(BUSY | DISCARDED)) as usize;
            if length & DISCARDED == 0 {
                // SAFETY: the record follows its header; the ring is mapped twice, so it does not end at the ring's end.
                let record = unsafe { header.add(HEADER_BYTES) };
                // SAFETY: the kernel does not write a record again before the reader's position has passed it.
                each(unsafe { std::slice::from_raw_parts(record.as_ptr(), bytes) });
                taken += 1;
            }
            position += (HEADER_BYTES + bytes.next_multiple_of(8)) as u64;
            self.consumer.position().store(position, Ordering::Release);
        }
        taken
    }
}
