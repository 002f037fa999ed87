//! The only code that touches `struct bpf_sock_addr` and the socket behind it.
//!
//! Fields are read word by word and volatile: some verifiers refuse the wider loads a compiler likes to make
//! of a 16-byte copy from the context.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_get_socket_cookie, bpf_ktime_get_boot_ns,
        bpf_probe_read_kernel,
    },
    programs::SockAddrContext,
};
use enforcer_common::{
    address::{self, AddrWords},
    clause::IPPROTO_ICMPV6,
    decide::{Circumstances, Destination, Unmovable},
};

use crate::globals;

/// Byte of `struct sock_common` that holds `skc_ipv6only`, on every kernel that enforcer runs on; the loader
/// checks it against BTF.
pub(crate) const V6ONLY_BYTE: usize = 19;

/// The address, port, protocol and type of the connect being judged.
pub(crate) struct Asked {
    pub(crate) daddr_be: AddrWords,
    /// Host byte order.
    pub(crate) dport: u16,
    pub(crate) protocol: u16,
    pub(crate) socket_type: u8,
}

macro_rules! read_field {
    ($pointer:expr, $($field:tt)+) => {
        // SAFETY: the pointer is the context (or the socket in it) that the kernel passed to the program; the
        // verifier checks offset and width of each load.
        unsafe { (&raw const (*$pointer).$($field)+).read_volatile() }
    };
}

macro_rules! write_field {
    ($pointer:expr, $value:expr, $($field:tt)+) => {
        // SAFETY: as for reading; user_ip6 and user_port are writable in connect6.
        unsafe { (&raw mut (*$pointer).$($field)+).write_volatile($value) }
    };
}

/// What the caller asked for.
#[inline(always)]
pub(crate) fn asked(context: &SockAddrContext) -> Asked {
    let raw = context.sock_addr;
    Asked {
        daddr_be: [
            read_field!(raw, user_ip6[0]),
            read_field!(raw, user_ip6[1]),
            read_field!(raw, user_ip6[2]),
            read_field!(raw, user_ip6[3]),
        ],
        dport: u16::from_be(read_field!(raw, user_port) as u16),
        protocol: read_field!(raw, protocol) as u16,
        socket_type: read_field!(raw, type_) as u8,
    }
}

/// Sends the connect elsewhere. A port of 0 keeps the one asked for.
#[inline(always)]
pub(crate) fn redirect(context: &SockAddrContext, to: &Destination) {
    let raw: *mut bpf_sock_addr = context.sock_addr;
    let to_be = &to.addr_be;
    write_field!(raw, to_be[0], user_ip6[0]);
    write_field!(raw, to_be[1], user_ip6[1]);
    write_field!(raw, to_be[2], user_ip6[2]);
    write_field!(raw, to_be[3], user_ip6[3]);
    if to.port != 0 {
        write_field!(raw, u32::from(to.port.to_be()), user_port);
    }
}

/// Caller and socket of a connect.
pub(crate) struct KernelCircumstances<'context> {
    pub(crate) context: &'context SockAddrContext,
    pub(crate) protocol: u16,
}

impl Circumstances for KernelCircumstances<'_> {
    #[inline(always)]
    fn unmovable(&self) -> Option<Unmovable> {
        if self.protocol == IPPROTO_ICMPV6 {
            return Some(Unmovable::Ping);
        }
        let socket: *mut bpf_sock = read_field!(self.context.sock_addr, __bindgen_anon_1.sk);
        let source_be: AddrWords = [
            read_field!(socket, src_ip6[0]),
            read_field!(socket, src_ip6[1]),
            read_field!(socket, src_ip6[2]),
            read_field!(socket, src_ip6[3]),
        ];
        if !address::is_unspecified(&source_be) && !address::is_ipv4_mapped(&source_be) {
            return Some(Unmovable::Bound);
        }
        let mask = globals::v6only_mask()?;
        // SAFETY: `struct sock` begins with `struct sock_common`; the helper reads kernel memory safely and
        // reports what it cannot read.
        let head = unsafe { bpf_probe_read_kernel(socket.cast::<[u8; V6ONLY_BYTE + 1]>()) };
        (head.ok()?[V6ONLY_BYTE] & mask != 0).then_some(Unmovable::V6Only)
    }

    #[inline(always)]
    fn uid(&self) -> u32 {
        bpf_get_current_uid_gid() as u32
    }

    #[inline(always)]
    fn process(&self) -> u32 {
        (bpf_get_current_pid_tgid() >> 32) as u32
    }

    #[inline(always)]
    fn socket(&self) -> u32 {
        // SAFETY: the context is the one the kernel passed.
        let cookie = unsafe { bpf_get_socket_cookie(self.context.sock_addr.cast()) };
        (cookie >> 32) as u32 ^ cookie as u32
    }

    #[inline(always)]
    fn boot_ns(&self) -> u64 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_boot_ns() }
    }
}
