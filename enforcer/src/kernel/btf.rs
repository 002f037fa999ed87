//! What the kernel says about its own types and functions, from its BTF.

use std::{
    error::Error as _,
    fs::{self, File},
    io::{self, Write as _},
    os::fd::AsRawFd as _,
};

use rustix::fs::{MemfdFlags, memfd_create};

/// Where the kernel describes its types.
pub(crate) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Byte of `struct sock_common` in which the programs look for `skc_ipv6only`.
const V6ONLY_BYTE: u32 = 19;

/// Where `skc_ipv6only` lies within that byte; `None` if it lies elsewhere or the kernel has no BTF.
pub(crate) fn v6only_mask() -> Option<u8> {
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

/// Whether the kernel has a function of that name; static ones are listed too, inlined ones are not.
pub(crate) fn has_function(name: &str) -> Result<bool, btf_rs::Error> {
    let types = match open()?.resolve_types_by_name(name) {
        // So the library says that there is none.
        Err(btf_rs::Error::InvalidString(_)) => return Ok(false),
        other => other?,
    };
    Ok(types.iter().any(|it| matches!(it, btf_rs::Type::Func(_))))
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

fn open() -> Result<btf_rs::Btf, btf_rs::Error> {
    // Mapped, it is searched once; the other backend first makes an object of each of 100,000 types, which took
    // longer than all else that enforcer does before it enforces.
    let file = mappable()?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    btf_rs::Btf::from_file_with_backend(path, btf_rs::Backend::Mmap)
}

/// The kernel's BTF in a file of our own: the one in sysfs cannot be mapped before 6.16.
fn mappable() -> io::Result<File> {
    let btf = fs::read(VMLINUX)?;
    let mut file = File::from(memfd_create(c"enforcer-btf", MemfdFlags::CLOEXEC)?);
    file.write_all(&btf)?;
    Ok(file)
}

fn sock_common_bit(member: &str) -> Result<Option<u32>, btf_rs::Error> {
    let btf = open()?;
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
