//! bpf(2) for what is measured beside enforcer: the call itself, maps, and which objects there are. Numbers and structures
//! are those of `include/uapi/linux/bpf.h`. Programs are in [`program`](super::program).

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, setrlimit};

/// `enum bpf_cmd`.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapNextKey = 4,
    ProgLoad = 5,
    ProgNextId = 11,
    MapNextId = 12,
    ProgFdById = 13,
    MapFdById = 14,
    InfoByFd = 15,
    MapUpdateBatch = 26,
    LinkCreate = 28,
    LinkNextId = 31,
    EnableStats = 32,
}

/// `enum bpf_map_type`, those that are made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapType {
    /// One value for each CPU and index.
    PerCpuArray = 6,
    /// The longest prefix of an address.
    LpmTrie = 11,
    /// One value for each cgroup that a program is attached to.
    CgroupStorage = 19,
    /// Records for user space.
    RingBuffer = 27,
}

/// Calls bpf(2).
///
/// # Safety
///
/// `attr` must be what the command expects, and every pointer in it valid for what the command does with it.
pub(super) unsafe fn bpf<A>(command: Command, attr: &mut A) -> io::Result<i32> {
    // SAFETY: pointer and size are those of `attr`; the rest is the caller's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// As [`bpf`], for commands that return a new descriptor.
///
/// # Safety
///
/// As for [`bpf`], and the command must return a new descriptor.
pub(super) unsafe fn bpf_fd<A>(command: Command, attr: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: the caller's.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn raw(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

pub(super) fn address<T>(of: *const T) -> u64 {
    of.addr() as u64
}

/// Descriptors that thousands of governed cgroups take, six each, with some to spare.
const DESCRIPTORS: u64 = 1 << 16;

/// Lets this process and what it starts have as many descriptors as are needed, or as it may, and, for kernels before 5.11,
/// lock as much memory as it may.
pub fn raise_limits() {
    for (resource, wanted) in [(Resource::Memlock, None), (Resource::Nofile, Some(DESCRIPTORS))] {
        let hard = rustix::process::getrlimit(resource).maximum;
        // Beyond the hard limit takes CAP_SYS_RESOURCE. What may not be raised need not be: what then fails says so.
        let more = match (hard, wanted) {
            (Some(hard), Some(wanted)) => Some(hard.max(wanted)),
            _ => hard,
        };
        for limit in [more, hard] {
            let raised = Rlimit {
                current: limit,
                maximum: limit,
            };
            if setrlimit(resource, raised).is_ok() {
                break;
            }
        }
    }
}

/// A map.
#[derive(Debug)]
pub struct BpfMap {
    fd: OwnedFd,
    key_bytes: usize,
    value_bytes: usize,
}

#[derive(Default)]
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_bytes: u32,
    value_bytes: u32,
    max_entries: u32,
    flags: u32,
}

#[derive(Default)]
#[repr(C)]
pub(super) struct MapElement {
    pub(super) map_fd: u32,
    pub(super) padding: u32,
    pub(super) key: u64,
    pub(super) value_or_next: u64,
    pub(super) flags: u64,
}

#[derive(Default)]
#[repr(C)]
struct MapBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;

impl BpfMap {
    /// Makes a map.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub fn create(map_type: MapType, key_bytes: u32, value_bytes: u32, max_entries: u32) -> Result<Self> {
        let mut attr = MapCreate {
            map_type: map_type as u32,
            key_bytes,
            value_bytes,
            max_entries,
            flags: if map_type == MapType::LpmTrie {
                NO_PREALLOC
            } else {
                0
            },
        };
        // SAFETY: the attributes of BPF_MAP_CREATE, without pointers.
        let fd = unsafe { bpf_fd(Command::MapCreate, &mut attr) }
            .with_context(|| format!("make a map of type {map_type:?}"))?;
        Ok(Self {
            fd,
            key_bytes: key_bytes as usize,
            value_bytes: value_bytes as usize,
        })
    }

    /// The number of the map's descriptor, for instructions.
    #[must_use]
    pub fn fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// The map's descriptor.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Writes an element.
    ///
    /// # Errors
    ///
    /// When the sizes are not the map's, or the kernel refuses it.
    pub fn update(&self, key: &[u8], value: &[u8]) -> Result<()> {
        ensure!(
            key.len() == self.key_bytes && value.len() == self.value_bytes,
            "update a map: key and value have {} and {} bytes instead of {} and {}",
            key.len(),
            value.len(),
            self.key_bytes,
            self.value_bytes
        );
        let mut attr = MapElement {
            map_fd: raw(&self.fd),
            key: address(key.as_ptr()),
            value_or_next: address(value.as_ptr()),
            ..MapElement::default()
        };
        // SAFETY: the attributes of BPF_MAP_UPDATE_ELEM; key and value are read, have the map's sizes and outlive the
        // call.
        unsafe { bpf(Command::MapUpdate, &mut attr) }.context("update a map")?;
        Ok(())
    }

    /// Writes elements, keys and values one after the other.
    ///
    /// # Errors
    ///
    /// When they are not as many keys as values, or the kernel refuses one.
    pub fn update_all(&self, keys: &[u8], values: &[u8]) -> Result<()> {
        let count = keys.len() / self.key_bytes;
        ensure!(
            keys.len() == count * self.key_bytes && values.len() == count * self.value_bytes,
            "update a map: {} bytes of keys and {} bytes of values do not fit together",
            keys.len(),
            values.len()
        );
        let mut attr = MapBatch {
            keys: address(keys.as_ptr()),
            values: address(values.as_ptr()),
            count: u32::try_from(count).context("count elements of a map")?,
            map_fd: raw(&self.fd),
            ..MapBatch::default()
        };
        // SAFETY: the attributes of BPF_MAP_UPDATE_BATCH; keys and values are read, are `count` of the map's sizes and
        // outlive the call.
        unsafe { bpf(Command::MapUpdateBatch, &mut attr) }
            .with_context(|| format!("write {count} elements of a map"))?;
        Ok(())
    }

    /// The value of a key: for a map of values for each CPU, all of them, each rounded up to 8 bytes.
    ///
    /// # Errors
    ///
    /// When there is no such key.
    pub fn lookup(&self, key: &[u8], value_bytes: usize) -> Result<Vec<u8>> {
        ensure!(
            key.len() == self.key_bytes,
            "look into a map: the key has {} bytes",
            key.len()
        );
        let mut value = vec![0; value_bytes];
        lookup(&self.fd, key, &mut value).context("look into a map")?;
        Ok(value)
    }
}

pub(super) fn lookup(map: &impl AsFd, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let mut attr = MapElement {
        map_fd: raw(map),
        key: address(key.as_ptr()),
        value_or_next: address(value.as_mut_ptr()),
        ..MapElement::default()
    };
    // SAFETY: the attributes of BPF_MAP_LOOKUP_ELEM; the key is read, the value written, both have the map's sizes and
    // outlive the call.
    unsafe { bpf(Command::MapLookup, &mut attr) }?;
    Ok(())
}

#[derive(Default)]
#[repr(C)]
pub(super) struct ById {
    pub(super) id: u32,
    pub(super) next_id: u32,
    pub(super) flags: u32,
}

/// What kinds of objects the kernel numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// Programs.
    Program,
    /// Maps.
    Map,
    /// Links.
    Link,
}

/// Identifiers of all objects of a kind there are, of everybody.
///
/// # Errors
///
/// EPERM without CAP_SYS_ADMIN.
pub fn objects(kind: Object) -> Result<Vec<u32>> {
    let command = match kind {
        Object::Program => Command::ProgNextId,
        Object::Map => Command::MapNextId,
        Object::Link => Command::LinkNextId,
    };
    let mut found = Vec::new();
    loop {
        let mut attr = ById {
            id: found.last().copied().unwrap_or(0),
            ..ById::default()
        };
        // SAFETY: the attributes of the three commands, without pointers.
        match unsafe { bpf(command, &mut attr) } {
            Ok(_) => found.push(attr.next_id),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(found),
            Err(error) => return Err(error).with_context(|| format!("ask for the next {kind:?}")),
        }
    }
}

#[derive(Default)]
#[repr(C)]
pub(super) struct Info {
    pub(super) fd: u32,
    pub(super) length: u32,
    pub(super) info: u64,
}
