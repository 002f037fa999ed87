//! What the running kernel can do, found out by loading a small realistic program for each feature. Versions
//! are never compared: stable kernels backport, and vendors take away.

use std::{
    error::Error as _,
    fs::{self, File},
    io::{self, Write as _},
    os::fd::AsRawFd as _,
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{CgroupSockAddr, ProgramError},
};
use enforcer_common::errno::{self, Errno};
use rustix::fs::{MemfdFlags, memfd_create};

use super::{KernelError, objects};

/// A thing some kernels lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// The probe program that shows it.
    probe: &'static str,
    /// What enforcer does without it.
    pub without: &'static str,
}

/// An errno of the rule's choice.
pub const SET_RETVAL: Feature = Feature {
    name: "bpf_set_retval in cgroup/connect6",
    probe: "probe_set_retval",
    without: "a rejected connect ends in EPERM, whatever errno the rule names",
};

/// The thread's name in events.
pub const COMM: Feature = Feature {
    name: "bpf_get_current_comm in cgroup/connect6",
    probe: "probe_comm",
    without: "events carry no comm",
};

/// Whether `IPV6_V6ONLY` is set.
pub const V6ONLY: Feature = Feature {
    name: "bpf_probe_read_kernel in cgroup/connect6, and BTF of struct sock_common",
    probe: "probe_v6only",
    without: "a redirect to IPv4 on an IPV6_V6ONLY socket ends in the kernel's ENETUNREACH instead of the \
              rule's errno",
};

/// What the running kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    /// [`SET_RETVAL`].
    pub set_retval: bool,
    /// [`COMM`].
    pub comm: bool,
    /// [`V6ONLY`]: the bits of byte 19 of `struct sock_common` that hold the flag.
    pub v6only_mask: Option<u8>,
}

impl Support {
    /// Probes the running kernel. Raises this process's locked-memory limit first, without which a 5.10 kernel
    /// refuses even the smallest program.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the smallest possible program: enforcing is impossible here, or this process
    /// may not.
    pub fn probe() -> Result<Self, KernelError> {
        super::loader::raise_limits()?;
        let mut probes = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::DISABLE)
            .load(objects::probes())
            .map_err(|source| KernelError::Object {
                object: "the probes",
                source: Box::new(source),
            })?;
        for floor in ["probe_connect6", "probe_getpeername6"] {
            load(&mut probes, floor)?.map_err(|error| KernelError::load(floor, error))?;
        }
        let mut has = |feature: Feature| match load(&mut probes, feature.probe)? {
            Ok(()) => Ok(true),
            Err(error) => {
                ::log::debug!("without {}: {error}", feature.name);
                Ok(false)
            }
        };
        Ok(Self {
            set_retval: has(SET_RETVAL)?,
            comm: has(COMM)?,
            v6only_mask: if has(V6ONLY)? { v6only_mask() } else { None },
        })
    }

    /// The number a caller gets from a connect rejected with that errno.
    #[must_use]
    pub const fn errno_caller(&self, errno: Errno) -> Errno {
        if self.set_retval { errno } else { errno::EPERM }
    }
}

/// The outer result is about the embedded object, the inner one about the kernel.
fn load(probes: &mut Ebpf, name: &'static str) -> Result<Result<(), ProgramError>, KernelError> {
    let missing = KernelError::Missing {
        kind: "program",
        name,
    };
    let program = probes.program_mut(name).ok_or(missing)?;
    let program: &mut CgroupSockAddr = match program.try_into() {
        Ok(program) => program,
        Err(error) => return Ok(Err(error)),
    };
    Ok(program.load())
}

/// Byte of `struct sock_common` in which the programs look for `skc_ipv6only`.
const V6ONLY_BYTE: u32 = 19;

/// Where `skc_ipv6only` lies within that byte, from the kernel's own BTF; `None` if it lies elsewhere or the
/// kernel has no BTF.
fn v6only_mask() -> Option<u8> {
    let bit = match sock_common_bit("skc_ipv6only") {
        Ok(bit) => bit?,
        Err(error) => {
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            ::log::debug!("cannot read struct sock_common from BTF: {error} {cause}");
            return None;
        }
    };
    (bit / 8 == V6ONLY_BYTE).then(|| bit_mask(bit % 8))
}

/// Bitfields are numbered from the least significant bit on little-endian machines and from the most
/// significant one on big-endian machines (`include/uapi/linux/btf.h`, the C ABI).
const fn bit_mask(bit: u32) -> u8 {
    if cfg!(target_endian = "little") {
        1 << bit
    } else {
        0x80 >> bit
    }
}

/// The kernel's BTF in a file of our own: the one in sysfs cannot be mapped before 6.16.
fn mappable_btf() -> io::Result<File> {
    let btf = fs::read("/sys/kernel/btf/vmlinux")?;
    let mut file = File::from(memfd_create(c"enforcer-btf", MemfdFlags::CLOEXEC)?);
    file.write_all(&btf)?;
    Ok(file)
}

fn sock_common_bit(member: &str) -> Result<Option<u32>, btf_rs::Error> {
    // Mapped, it is searched once; the other backend first makes an object of each of 100,000 types, which took
    // longer than all else that enforcer does before it enforces.
    let file = mappable_btf()?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let btf = btf_rs::Btf::from_file_with_backend(path, btf_rs::Backend::Mmap)?;
    for candidate in btf.resolve_types_by_name("sock_common")? {
        let btf_rs::Type::Struct(sock_common) = candidate else {
            continue;
        };
        for field in &sock_common.members {
            if btf.resolve_name(field)? == member {
                return Ok(Some(field.bit_offset()));
            }
        }
    }
    Ok(None)
}
