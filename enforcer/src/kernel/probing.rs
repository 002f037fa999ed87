//! Asking the running kernel for one feature of the table after the other.

use std::{error::Error, fs::File, io};

use aya::{
    Ebpf, VerifierLogLevel,
    maps::MapType as AyaMapType,
    programs::{CgroupSockAddr, ProgramError},
    sys::is_map_supported,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    KernelError, btf,
    error::os_error,
    features::{FEATURES, Feature, MapKind, Probe},
    kept, loader, objects,
    syscall::{self, MapType},
    undisturbed::undisturbed,
};

/// `BPF_CGROUP_INET6_CONNECT`.
const INET6_CONNECT: u32 = 11;

/// A small ring buffer; every page size of Linux divides it.
const RING_BYTES: u32 = 1 << 16;

/// More than the kernel's own free lists take, or it would be none on a machine of many CPUs.
const LRU_ENTRIES: u32 = 1 << 10;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is there.
    Present,
    /// It is not, and what the kernel said.
    Absent(String),
    /// Nobody can tell, and why.
    Unknown(String),
}

impl Presence {
    /// EPERM is about this process, what passes about the moment, everything else about the kernel.
    fn of_error(error: &(dyn Error + 'static)) -> Self {
        let said = shortly(error);
        if os_error(error) == Some(libc::EPERM) || is_of_the_moment(error) {
            Self::Unknown(said)
        } else {
            Self::Absent(said)
        }
    }

    fn of<T, E: Error + 'static>(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Present,
            Err(error) => Self::of_error(&error),
        }
    }
}

/// Whether an error says nothing of what the kernel can do: it was short of memory or descriptors, or interrupted.
pub(super) fn is_of_the_moment(error: &(dyn Error + 'static)) -> bool {
    matches!(
        os_error(error),
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE)
    )
}

/// The cause at the bottom, in one line: a verifier's log belongs elsewhere.
fn shortly(error: &(dyn Error + 'static)) -> String {
    let mut bottom = error;
    while let Some(cause) = bottom.source() {
        bottom = cause;
    }
    let text = bottom.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// The probe programs.
pub(crate) struct Probes(Ebpf);

impl Probes {
    /// Raises this process's limits first, without which a 5.10 kernel refuses even the smallest program.
    pub(crate) fn open() -> Result<Self, KernelError> {
        loader::raise_limits()?;
        let mut loader = kept::take();
        let probes = loader
            .verifier_log_level(VerifierLogLevel::DISABLE)
            .load(objects::probes())
            .map(Self)
            .map_err(|source| KernelError::Object {
                object: "the probes",
                source: Box::new(source),
            });
        kept::keep(loader);
        probes
    }

    /// Loads one. The outer result is about the embedded object, the inner one about the kernel.
    pub(crate) fn load(&mut self, name: &'static str) -> Result<Result<(), ProgramError>, KernelError> {
        let missing = KernelError::Missing {
            kind: "program",
            name,
        };
        let program = self.0.program_mut(name).ok_or(missing)?;
        let program: &mut CgroupSockAddr = match program.try_into() {
            Ok(program) => program,
            Err(error) => return Ok(Err(error)),
        };
        Ok(program.load())
    }
}

/// Asks for every feature of the table. Takes some tens of milliseconds; attaches nothing, sends nothing. For a
/// moment it changes this process's RLIMIT_MEMLOCK, and raises it and RLIMIT_NOFILE for good.
#[must_use]
pub fn survey() -> Vec<(&'static Feature, Presence)> {
    undisturbed(survey_each)
}

fn survey_each() -> Vec<(&'static Feature, Presence)> {
    // First: once the limit is raised, a process without CAP_SYS_RESOURCE cannot go back beyond it.
    let unlocked = map_without_locked_memory();
    let mut probes = Probes::open();
    FEATURES
        .iter()
        .map(|feature| {
            let presence = match feature.probe {
                Probe::Program(name) => program(&mut probes, name),
                Probe::ProgramAndV6only(name) => match program(&mut probes, name) {
                    Presence::Present if btf::v6only_mask().is_none() => Presence::Absent(
                        "BTF does not place skc_ipv6only in byte 19 of struct sock_common".to_owned(),
                    ),
                    other => other,
                },
                Probe::Map(kind) => map(kind),
                Probe::Link => link(),
                Probe::Btf => Presence::of(File::open(btf::VMLINUX)),
                Probe::BtfFunction(name) => match btf::has_function(name) {
                    Ok(true) => Presence::Present,
                    Ok(false) => Presence::Absent(format!("no function {name} in the kernel's BTF")),
                    Err(error) => Presence::Unknown(shortly(&error)),
                },
                Probe::MptcpSocket => mptcp_socket(),
                Probe::UnlockedMap => unlocked.clone(),
            };
            (feature, presence)
        })
        .collect()
}

fn program(probes: &mut Result<Probes, KernelError>, name: &'static str) -> Presence {
    match probes {
        Ok(probes) => match probes.load(name) {
            Ok(result) => Presence::of(result),
            Err(error) => Presence::Unknown(shortly(&error)),
        },
        Err(error) => Presence::of_error(error),
    }
}

/// As the programs use it.
fn map(kind: MapKind) -> Presence {
    const KEY_BYTES: u32 = 4 + 16;
    let trie = |entries| syscall::make_map(MapType::LpmTrie, KEY_BYTES, 4, entries);
    match kind {
        MapKind::RingBuffer => Presence::of(syscall::make_map(MapType::RingBuffer, 0, 0, RING_BYTES)),
        MapKind::LpmTrie => Presence::of(trie(1)),
        MapKind::ArrayOfMaps => Presence::of(array_of_maps(trie)),
        MapKind::CgroupStorage => Presence::of(syscall::make_map(MapType::CgroupStorage, 8, 64, 0)),
        MapKind::LruHash => Presence::of(syscall::make_map(MapType::LruHash, 32, 8, LRU_ENTRIES)),
        MapKind::SocketStorage => match is_map_supported(AyaMapType::SkStorage) {
            Ok(true) => Presence::Present,
            Ok(false) => Presence::Absent("the kernel does not know this kind of map".to_owned()),
            Err(error) => Presence::of_error(&error),
        },
    }
}

fn array_of_maps(trie: impl Fn(u32) -> io::Result<std::os::fd::OwnedFd>) -> io::Result<std::os::fd::OwnedFd> {
    let array = syscall::make_array_of_maps(&trie(1)?)?;
    syscall::put(&array, 0, &trie(2)?)?;
    Ok(array)
}

fn link() -> Presence {
    let error = syscall::ask_for_link(INET6_CONNECT);
    if error.raw_os_error() == Some(libc::EBADF) {
        Presence::Present
    } else {
        Presence::of_error(&error)
    }
}

fn mptcp_socket() -> Presence {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
    let socket = socket_with(
        AddressFamily::INET6,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        Some(ipproto::MPTCP),
    );
    Presence::of(socket.map_err(io::Error::from))
}

fn map_without_locked_memory() -> Presence {
    let before = getrlimit(Resource::Memlock);
    let none = Rlimit {
        current: Some(0),
        maximum: before.maximum,
    };
    if let Err(error) = setrlimit(Resource::Memlock, none) {
        return Presence::Unknown(io::Error::from(error).to_string());
    }
    let made = syscall::make_map(MapType::Array, 4, 8, 1);
    if let Err(error) = setrlimit(Resource::Memlock, before) {
        ::log::debug!("cannot give RLIMIT_MEMLOCK its former value: {error}");
    }
    match made {
        Ok(_) => Presence::Present,
        // The same number as for a process that may not use bpf(2) at all: only a map with memory tells.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => match with_locked_memory() {
            Ok(()) => Presence::Absent(shortly(&error)),
            Err(error) => Presence::Unknown(shortly(&*error)),
        },
        Err(error) => Presence::Unknown(shortly(&error)),
    }
}

/// Makes the same map with as much locked memory as this process may have.
fn with_locked_memory() -> Result<(), Box<dyn Error>> {
    loader::raise_limits()?;
    syscall::make_map(MapType::Array, 4, 8, 1)?;
    Ok(())
}
