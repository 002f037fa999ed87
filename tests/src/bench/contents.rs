//! [`Contents`]: everything that programs share between CPUs, as it is now: what has changed between two of them was
//! written.
//!
//! Maps with a value for each CPU are left out. Of a ring buffer it is how far it was written, of storage of sockets
//! whether a given socket has any. A write of what was there already does not show.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use rustix::{
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};

use super::{
    bpf::{ById, Command, Info, MapElement, address, bpf, bpf_fd, lookup, raw},
    program::ObservedProgram,
};

/// `enum bpf_map_type`, those that are looked at in ways of their own.
const PER_CPU: [u32; 4] = [5, 6, 10, 21];
const ARRAY_OF_MAPS: u32 = 12;
const SOCKET_STORAGE: u32 = 24;

/// How many maps are looked up in an array of maps; generations are numbered from 1. Programs cannot write to such an array,
/// only to the maps in it.
///
/// KERNEL before 6.8: each look waits until every running program is done (`maybe_wait_bpf_programs` in
/// `bpf_map_copy_value`, kernel/bpf/syscall.c), and there are thousands of places.
const INNER_MAPS: usize = 16;
const RING_BUFFER: u32 = 27;

/// `struct bpf_map_info`, as far as it is read.
#[derive(Default)]
#[repr(C)]
struct MapInfo {
    map_type: u32,
    id: u32,
    key_bytes: u32,
    value_bytes: u32,
    max_entries: u32,
    flags: u32,
    name: [u8; 16],
}

/// What is in maps: by the map's name and identifier, keys with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents(BTreeMap<(String, u32), BTreeMap<Vec<u8>, Vec<u8>>>);

impl Contents {
    /// Of all maps that those programs use and of the maps in them, and of the storage of those sockets.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn of(programs: &[ObservedProgram], sockets: &[OwnedFd]) -> Result<Self> {
        let mut left = BTreeSet::new();
        for program in programs {
            left.extend(program.maps()?);
        }
        let mut contents = Self::default();
        while let Some(id) = left.pop_first() {
            let map = open(id)?;
            let info = info(&map)?;
            let name = info.name.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            if PER_CPU.contains(&info.map_type) {
                continue;
            }
            let elements = match info.map_type {
                RING_BUFFER => [(Vec::new(), written(&map)?.to_ne_bytes().to_vec())].into(),
                SOCKET_STORAGE => of_sockets(&map, &info, sockets)?,
                ARRAY_OF_MAPS => {
                    elements(&map, &info, INNER_MAPS).with_context(|| format!("read the maps in {name}"))?
                }
                _ => elements(&map, &info, usize::MAX).with_context(|| format!("read map {name}"))?,
            };
            if info.map_type == ARRAY_OF_MAPS {
                // Read from here, a value is the inner map's identifier.
                let inner = elements
                    .values()
                    .filter_map(|value| value.as_slice().try_into().ok());
                left.extend(inner.map(u32::from_ne_bytes));
            }
            contents.0.insert((name, id), elements);
        }
        Ok(contents)
    }

    /// Names of the maps that differ.
    #[must_use]
    pub fn changed_since(&self, before: &Self) -> BTreeSet<String> {
        let maps: BTreeSet<_> = self.0.keys().chain(before.0.keys()).collect();
        let changed = maps
            .into_iter()
            .filter(|map| self.0.get(map) != before.0.get(map));
        changed.map(|(name, _)| name.clone()).collect()
    }

    /// Names of the maps.
    #[must_use]
    pub fn maps(&self) -> BTreeSet<&str> {
        self.0.keys().map(|(name, _)| name.as_str()).collect()
    }
}

fn open(id: u32) -> Result<OwnedFd> {
    let mut attr = ById {
        id,
        ..ById::default()
    };
    // SAFETY: the attributes of BPF_MAP_GET_FD_BY_ID, without pointers.
    unsafe { bpf_fd(Command::MapFdById, &mut attr) }.with_context(|| format!("open map {id}"))
}

fn info(map: &OwnedFd) -> Result<MapInfo> {
    let mut info = MapInfo::default();
    let mut attr = Info {
        fd: raw(map),
        length: size_of::<MapInfo>() as u32,
        info: address(&raw mut info),
    };
    // SAFETY: the attributes of BPF_OBJ_GET_INFO_BY_FD; `info` has the length given and outlives the call.
    unsafe { bpf(Command::InfoByFd, &mut attr) }.context("ask what a map is")?;
    Ok(info)
}

/// Keys and values, of so many keys at most.
fn elements(map: &OwnedFd, info: &MapInfo, most: usize) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut key = None;
    for _ in 0..most {
        let Some(next) = next_key(map, key.as_deref(), info.key_bytes as usize)? else {
            break;
        };
        if let Some(value) = value_of(map, &next, info)? {
            found.insert(next.clone(), value);
        }
        key = Some(next);
    }
    Ok(found)
}

/// The value of a key, if it has one.
fn value_of(map: &OwnedFd, key: &[u8], info: &MapInfo) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; info.value_bytes as usize];
    match lookup(map, key, &mut value) {
        Ok(()) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn next_key(map: &OwnedFd, key: Option<&[u8]>, key_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    let mut next = vec![0_u8; key_bytes];
    let mut attr = MapElement {
        map_fd: raw(map),
        key: key.map_or(0, |key| address(key.as_ptr())),
        value_or_next: address(next.as_mut_ptr()),
        ..MapElement::default()
    };
    // SAFETY: the attributes of BPF_MAP_GET_NEXT_KEY; the key is read or null, the next is written, both have the map's
    // size and outlive the call.
    match unsafe { bpf(Command::MapNextKey, &mut attr) } {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn of_sockets(map: &OwnedFd, info: &MapInfo, sockets: &[OwnedFd]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for socket in sockets {
        let key = socket.as_raw_fd().to_ne_bytes().to_vec();
        if let Some(value) = value_of(map, &key, info).context("read a socket's storage")? {
            found.insert(key, value);
        }
    }
    Ok(found)
}

/// How far a ring buffer was written: the word at the beginning of its second page.
fn written(map: &OwnedFd) -> Result<u64> {
    let page = page_size();
    // SAFETY: a new mapping at a place of the kernel's choice touches no memory that is in use.
    let at = unsafe {
        mmap(
            std::ptr::null_mut(),
            page,
            ProtFlags::READ,
            MapFlags::SHARED,
            map.as_fd(),
            page as u64,
        )
    }
    .context("map a ring buffer into memory")?;
    // SAFETY: the page was mapped for reading just now and begins with a word of 8 bytes.
    let position = unsafe { at.cast::<u64>().read_volatile() };
    // SAFETY: the mapping was made here, and nothing borrows from it.
    unsafe { munmap(at, page) }.context("give back a mapping")?;
    Ok(position)
}
