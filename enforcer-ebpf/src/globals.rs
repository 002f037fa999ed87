//! Facts about the running kernel and choices made at load, as read-only globals.
//!
//! The loader writes them before the programs are loaded and freezes them, so the verifier knows their values
//! and removes the branches they switch off. That is what keeps a helper an old kernel lacks from being
//! reached there.

use aya_ebpf::Global;

/// 1 where `bpf_set_retval` exists (5.18 and later). Without it a rejected connect ends in EPERM.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: Global<u32> = Global::new(0);

/// 1 where `bpf_get_current_comm` may be called.
#[unsafe(no_mangle)]
static HAS_COMM: Global<u32> = Global::new(0);

/// 1 where `bpf_probe_read_kernel` may be called and [`V6ONLY_MASK`] is known.
#[unsafe(no_mangle)]
static HAS_V6ONLY: Global<u32> = Global::new(0);

/// Which bits of byte [`V6ONLY_BYTE`](crate::sock_addr::V6ONLY_BYTE) of `struct sock_common` are
/// `skc_ipv6only`, from the kernel's BTF.
#[unsafe(no_mangle)]
static V6ONLY_MASK: Global<u32> = Global::new(0);

/// Overrides the policy slot of every binding, for an instance that governs without any controller.
/// 0: not overridden.
#[unsafe(no_mangle)]
static FIXED_POLICY: Global<u32> = Global::new(0);

#[inline(always)]
pub(crate) fn has_set_retval() -> bool {
    HAS_SET_RETVAL.load() != 0
}

#[inline(always)]
pub(crate) fn has_comm() -> bool {
    HAS_COMM.load() != 0
}

#[inline(always)]
pub(crate) fn v6only_mask() -> Option<u8> {
    (HAS_V6ONLY.load() != 0).then(|| V6ONLY_MASK.load() as u8)
}

#[inline(always)]
pub(crate) fn fixed_policy() -> u32 {
    FIXED_POLICY.load()
}
