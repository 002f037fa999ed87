//! Placing the programs on a cgroup, in the order that leaves no connect ungoverned or misjudged.

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData},
    programs::ProgramError,
    sys::SyscallError,
};
use enforcer_common::binding::Binding;

use super::{
    KernelError,
    attached::{self, AttachType},
    links::{Link, Links},
    loader::{self, CONNECT4, CONNECT6, GETPEERNAME6, RECVMSG6, SENDMSG6},
    plain::Plain,
};
use crate::targets::Cgroup;

/// Name of the cgroup storage map.
const BINDINGS: &str = "BINDINGS";

/// The cgroup storage map, by cgroup id: one value for all our programs at a cgroup.
#[derive(Debug)]
pub(crate) struct Bindings(HashMap<MapData, u64, Plain<Binding>>);

impl Bindings {
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let data = loader::storage_map(ebpf, BINDINGS)?;
        // Updates and look-ups of a storage map are the same bpf(2) commands as those of a hash map.
        HashMap::try_from(Map::HashMap(data))
            .map(Self)
            .map_err(|source| error("find the expected key and value sizes", source))
    }

    /// Replaces the whole value; no program sees half of it.
    pub(crate) fn write(&mut self, binding: Binding) -> Result<(), KernelError> {
        self.0
            .insert(binding.cgroup_id, Plain(binding), 0)
            .map_err(|source| error("write the cgroup's binding", source))
    }
}

fn error(operation: &'static str, source: aya::maps::MapError) -> KernelError {
    KernelError::Map {
        operation,
        map: BINDINGS,
        source: Box::new(source),
    }
}

/// The programs at one cgroup. Dropping it detaches them.
#[derive(Debug)]
pub struct Attachment {
    // Dropped in this order: judging ends before the storage it reads goes away, and redirecting before what hides it.
    _connect6: Link,
    _sendmsg6: Link,
    _connect4: Link,
    _recvmsg6: Link,
    _getpeername6: Link,
    cgroup_id: u64,
}

impl Attachment {
    /// The governed cgroup.
    #[must_use]
    pub const fn cgroup_id(&self) -> u64 {
        self.cgroup_id
    }
}

/// A program above that gives way to others may be a firewall, and nobody would notice that it went: then nothing is
/// attached. Where this process may attach but not ask (CAP_SYS_ADMIN without CAP_NET_ADMIN, on some kernels), that is
/// for the caller to say.
///
/// getpeername6 first, because attaching it creates the cgroup's storage; then the binding; then the others, connect6
/// last. The other way round a connect between attaching and writing meets a binding of zeroes, and one that is
/// redirected shows for a moment.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    links: &mut Links,
    bindings: &mut Bindings,
    cgroup: &Cgroup,
    binding: Binding,
) -> Result<Attachment, KernelError> {
    match attached::overridden_by_attaching(cgroup) {
        Ok(None) => {}
        Ok(Some(overridden)) => {
            return Err(KernelError::Overrides {
                cgroup: cgroup.path().to_owned(),
                overridden,
            });
        }
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        Err(source) => {
            return Err(KernelError::Neighbours {
                cgroup: cgroup.path().to_owned(),
                source,
            });
        }
    }
    let mut link = |name, attach_type| link(ebpf, links, name, cgroup, attach_type);
    let getpeername6 = link(GETPEERNAME6, AttachType::Getpeername6)?;
    bindings.write(binding)?;
    let recvmsg6 = link(RECVMSG6, AttachType::Recvmsg6)?;
    let connect4 = link(CONNECT4, AttachType::Connect4)?;
    let sendmsg6 = link(SENDMSG6, AttachType::Sendmsg6)?;
    let connect6 = link(CONNECT6, AttachType::Connect6)?;
    Ok(Attachment {
        _connect6: connect6,
        _sendmsg6: sendmsg6,
        _connect4: connect4,
        _recvmsg6: recvmsg6,
        _getpeername6: getpeername6,
        cgroup_id: binding.cgroup_id,
    })
}

fn link(
    ebpf: &mut Ebpf,
    links: &mut Links,
    name: &'static str,
    cgroup: &Cgroup,
    attach_type: AttachType,
) -> Result<Link, KernelError> {
    let failed = |source| KernelError::Attach {
        program: name,
        cgroup: cgroup.path().to_owned(),
        source: Box::new(source),
    };
    let program = loader::program(ebpf, name)?.fd().map_err(failed)?;
    links.attach(program, cgroup, attach_type).map_err(|io_error| {
        failed(ProgramError::SyscallError(SyscallError {
            call: "bpf_link_create",
            io_error,
        }))
    })
}
