//! The few uses of bpf(2) that aya has no call for: asking which programs are at a cgroup, opening what is pinned,
//! and making maps only to see whether the kernel does. Structures and numbers are those of
//! `include/uapi/linux/bpf.h`.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// `enum bpf_cmd`.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Command {
    MapCreate = 0,
    MapUpdateElem = 2,
    ObjPin = 6,
    ObjGet = 7,
    ProgQuery = 16,
    MapUpdateBatch = 26,
    LinkCreate = 28,
    LinkDetach = 34,
}

/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;
/// `BPF_F_INNER_MAP` (5.10 and later): arrays of different sizes fit one outer map.
const INNER_MAP: u32 = 1 << 12;

/// Elements that are written by one call. Their keys are made for it.
const BATCH: usize = 4_096;

/// The most programs the kernel has at one cgroup for one attach type (`BPF_CGROUP_MAX_PROGS`, kernel/bpf/cgroup.c).
pub(crate) const MAX_PROGRAMS: usize = 64;

/// `enum bpf_map_type`, those that probes make.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum MapType {
    Array = 2,
    LruHash = 9,
    LpmTrie = 11,
    ArrayOfMaps = 12,
    CgroupStorage = 19,
    RingBuffer = 27,
}

#[derive(Default)]
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_bytes: u32,
    value_bytes: u32,
    max_entries: u32,
    flags: u32,
    inner_map_fd: u32,
}

#[derive(Default)]
#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
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

#[derive(Default)]
#[repr(C)]
struct ObjGet {
    path: u64,
    bpf_fd: u32,
    flags: u32,
}

/// With all fields of newer kernels, which write into some of them.
#[derive(Default)]
#[repr(C)]
struct ProgQuery {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[derive(Default)]
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

#[derive(Default)]
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Calls bpf(2).
///
/// # Safety
///
/// `attr` must be what the command expects, and every pointer in it valid for what the command does with it.
unsafe fn bpf<A>(command: Command, attr: &mut A) -> io::Result<libc::c_int> {
    // SAFETY: the pointer and the size are those of `attr`; the rest is the caller's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// As [`bpf`], for commands that return a descriptor.
///
/// # Safety
///
/// As for [`bpf`], and the command must return a new descriptor.
unsafe fn bpf_fd<A>(command: Command, attr: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: the caller's.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

/// Makes a map without BTF.
pub(crate) fn make_map(
    map_type: MapType,
    key_bytes: u32,
    value_bytes: u32,
    max_entries: u32,
) -> io::Result<OwnedFd> {
    let mut attr = MapCreate {
        map_type: map_type as u32,
        key_bytes,
        value_bytes,
        max_entries,
        flags: match map_type {
            MapType::LpmTrie => NO_PREALLOC,
            _ => 0,
        },
        inner_map_fd: 0,
    };
    // SAFETY: the attributes of BPF_MAP_CREATE, which returns a descriptor; they hold no pointer.
    unsafe { bpf_fd(Command::MapCreate, &mut attr) }
}

/// Makes an array of one map like `template`.
pub(crate) fn make_array_of_maps(template: &OwnedFd) -> io::Result<OwnedFd> {
    let mut attr = MapCreate {
        map_type: MapType::ArrayOfMaps as u32,
        key_bytes: 4,
        value_bytes: 4,
        max_entries: 1,
        flags: 0,
        inner_map_fd: raw(template),
    };
    // SAFETY: as in `make_map`.
    unsafe { bpf_fd(Command::MapCreate, &mut attr) }
}

/// Makes an array that may be within another map, whatever its size.
pub(crate) fn make_inner_array(value_bytes: u32, max_entries: u32) -> io::Result<OwnedFd> {
    let mut attr = MapCreate {
        map_type: MapType::Array as u32,
        key_bytes: 4,
        value_bytes,
        max_entries,
        flags: INNER_MAP,
        inner_map_fd: 0,
    };
    // SAFETY: as in `make_map`.
    unsafe { bpf_fd(Command::MapCreate, &mut attr) }
}

/// Writes elements of that size, one after the other, from the first on.
pub(crate) fn fill_array(array: &OwnedFd, value_bytes: usize, values: &[u8]) -> io::Result<()> {
    let mut key = 0_u32;
    let mut keys = Vec::with_capacity(BATCH);
    for values in values.chunks(BATCH * value_bytes) {
        let count = values.len() / value_bytes;
        keys.clear();
        keys.extend((key..).take(count));
        let mut attr = MapBatch {
            keys: keys.as_ptr().addr() as u64,
            values: values.as_ptr().addr() as u64,
            count: count as u32,
            map_fd: raw(array),
            ..MapBatch::default()
        };
        // SAFETY: the attributes of BPF_MAP_UPDATE_BATCH; there are as many keys, and bytes of values, as are counted, of
        // the array's sizes, and all of them outlive the call, which reads them.
        unsafe { bpf(Command::MapUpdateBatch, &mut attr) }?;
        key += count as u32;
    }
    Ok(())
}

/// Puts a map into a place of an array of maps.
pub(crate) fn put(array: &impl AsFd, key: u32, inner: &impl AsFd) -> io::Result<()> {
    let value = raw(inner);
    let mut attr = MapUpdate {
        map_fd: raw(array),
        key: (&raw const key).addr() as u64,
        value: (&raw const value).addr() as u64,
        ..MapUpdate::default()
    };
    // SAFETY: the attributes of BPF_MAP_UPDATE_ELEM; key and value are read, have the array's sizes, and outlive
    // the call.
    unsafe { bpf(Command::MapUpdateElem, &mut attr) }?;
    Ok(())
}

/// Opens what is pinned there, whatever it is.
pub(crate) fn open_pinned(path: &CStr) -> io::Result<OwnedFd> {
    let mut attr = ObjGet {
        path: path.as_ptr().addr() as u64,
        ..ObjGet::default()
    };
    // SAFETY: the attributes of BPF_OBJ_GET, which returns a descriptor; the path is a string that outlives the call.
    unsafe { bpf_fd(Command::ObjGet, &mut attr) }
}

/// Pins an object there.
pub(crate) fn pin(object: &impl AsFd, path: &CStr) -> io::Result<()> {
    let mut attr = ObjGet {
        path: path.as_ptr().addr() as u64,
        bpf_fd: raw(object),
        flags: 0,
    };
    // SAFETY: the attributes of BPF_OBJ_PIN; the path is a string that outlives the call.
    unsafe { bpf(Command::ObjPin, &mut attr) }?;
    Ok(())
}

/// Attaches a program to a cgroup, for as long as the link is held.
pub(crate) fn make_link(program: &impl AsFd, cgroup: &impl AsFd, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        prog_fd: raw(program),
        target_fd: raw(cgroup),
        attach_type,
        flags: 0,
    };
    // SAFETY: the attributes of BPF_LINK_CREATE, which returns a descriptor, without pointers.
    unsafe { bpf_fd(Command::LinkCreate, &mut attr) }
}

/// Detaches what a link attaches, whoever else holds it.
pub(crate) fn detach(link: &impl AsFd) -> io::Result<()> {
    let mut attr = LinkDetach { link_fd: raw(link) };
    // SAFETY: the attributes of BPF_LINK_DETACH, without pointers.
    unsafe { bpf(Command::LinkDetach, &mut attr) }?;
    Ok(())
}

/// Asks for a link with no program: EBADF where the kernel knows the command, EINVAL where it does not.
pub(crate) fn ask_for_link(attach_type: u32) -> io::Error {
    let mut attr = LinkCreate {
        prog_fd: u32::MAX,
        target_fd: u32::MAX,
        attach_type,
        flags: 0,
    };
    // SAFETY: the attributes of BPF_LINK_CREATE, without pointers. There is no descriptor -1, so no link is made.
    match unsafe { bpf_fd(Command::LinkCreate, &mut attr) } {
        Ok(_) => io::Error::from_raw_os_error(libc::EBADF),
        Err(error) => error,
    }
}

/// The programs attached to a cgroup itself, in no promised order, and the flags they were attached with.
pub(crate) struct Attached {
    /// Identifiers of the programs.
    pub(crate) programs: Vec<u32>,
    /// `BPF_F_ALLOW_OVERRIDE` (1), `BPF_F_ALLOW_MULTI` (2), or 0: exclusive.
    pub(crate) flags: u32,
}

/// The programs attached to that cgroup, not to those above it.
pub(crate) fn programs_at(cgroup: &impl AsFd, attach_type: u32) -> io::Result<Attached> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut attr = ProgQuery {
        target_fd: raw(cgroup),
        attach_type,
        prog_ids: ids.as_mut_ptr().addr() as u64,
        prog_count: MAX_PROGRAMS as u32,
        ..ProgQuery::default()
    };
    // SAFETY: the attributes of BPF_PROG_QUERY; `ids` has room for the number given and outlives the call.
    unsafe { bpf(Command::ProgQuery, &mut attr) }?;
    let count = (attr.prog_count as usize).min(MAX_PROGRAMS);
    Ok(Attached {
        programs: ids[..count].to_vec(),
        flags: attr.attach_flags,
    })
}
