//! Placing the programs on a cgroup, in the order that leaves no connect ungoverned or misjudged.

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData},
    programs::{
        CgroupAttachMode,
        cgroup_sock_addr::{CgroupSockAddrLink, CgroupSockAddrLinkId},
    },
};
use enforcer_common::binding::Binding;

use super::{
    KernelError, attached,
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
    _connect6: CgroupSockAddrLink,
    _sendmsg6: CgroupSockAddrLink,
    _connect4: CgroupSockAddrLink,
    _recvmsg6: CgroupSockAddrLink,
    _getpeername6: CgroupSockAddrLink,
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
pub(crate) fn attach(
    ebpf: &mut Ebpf,
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
    let getpeername6 = link(ebpf, GETPEERNAME6, cgroup)?;
    bindings.write(binding)?;
    let recvmsg6 = link(ebpf, RECVMSG6, cgroup)?;
    let connect4 = link(ebpf, CONNECT4, cgroup)?;
    let sendmsg6 = link(ebpf, SENDMSG6, cgroup)?;
    let connect6 = link(ebpf, CONNECT6, cgroup)?;
    Ok(Attachment {
        _connect6: connect6,
        _sendmsg6: sendmsg6,
        _connect4: connect4,
        _recvmsg6: recvmsg6,
        _getpeername6: getpeername6,
        cgroup_id: binding.cgroup_id,
    })
}

fn link(ebpf: &mut Ebpf, name: &'static str, cgroup: &Cgroup) -> Result<CgroupSockAddrLink, KernelError> {
    let failed = |source| KernelError::Attach {
        program: name,
        cgroup: cgroup.path().to_owned(),
        source: Box::new(source),
    };
    let program = loader::program(ebpf, name)?;
    // A bpf_link always allows others beside it; the flag for several is refused with links (EINVAL).
    let id: CgroupSockAddrLinkId = program.attach(cgroup, CgroupAttachMode::Single).map_err(failed)?;
    program.take_link(id).map_err(failed)
}
