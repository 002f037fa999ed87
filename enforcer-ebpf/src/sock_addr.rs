//! The only code that touches `struct bpf_sock_addr` and the socket behind it.
//!
//! Fields are read word by word and volatile: some verifiers refuse the wider loads a compiler likes to make
//! of a 16-byte copy from the context.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_ktime_get_boot_ns, bpf_probe_read_kernel,
        generated::bpf_get_socket_cookie,
    },
    programs::SockAddrContext,
};
use enforcer_common::{
    address::{self, AddrWords},
    binding::Binding,
    clause::IPPROTO_ICMPV6,
    decide::{Circumstances, Destination, Unmovable},
    record::Hook,
};

use crate::{globals, maps};

/// Byte of `struct sock_common` that holds `skc_ipv6only`, on every kernel that enforcer runs on; the loader
/// checks it against BTF.
pub(crate) const V6ONLY_BYTE: usize = 19;

/// `AF_UNSPEC`, which the kernel also gives where a call has no address.
const AF_UNSPEC: u32 = 0;
/// `AF_INET6`
const AF_INET6: u32 = 10;
/// `BPF_TCP_ESTABLISHED` (`include/uapi/linux/bpf.h`): connected, of a UDP socket too.
const ESTABLISHED: u32 = 1;

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
        // SAFETY: as for reading; user_ip6 and user_port are writable in every hook of ours.
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

/// Sends the connect elsewhere, and says to which port. A port of 0 keeps the one asked for.
#[inline(always)]
pub(crate) fn redirect(context: &SockAddrContext, asked: &Asked, to: &Destination) -> u16 {
    let port = if to.port == 0 { asked.dport } else { to.port };
    set_address(context, &to.addr_be, port);
    port
}

/// Writes an address, and a port in host byte order, into the call.
#[inline(always)]
pub(crate) fn set_address(context: &SockAddrContext, address_be: &AddrWords, port: u16) {
    let raw: *mut bpf_sock_addr = context.sock_addr;
    write_field!(raw, address_be[0], user_ip6[0]);
    write_field!(raw, address_be[1], user_ip6[1]);
    write_field!(raw, address_be[2], user_ip6[2]);
    write_field!(raw, address_be[3], user_ip6[3]);
    write_field!(raw, u32::from(port.to_be()), user_port);
}

/// Whether that address and port, in host byte order, are what the call has.
#[inline(always)]
pub(crate) fn has_address(context: &SockAddrContext, address_be: &AddrWords, port: u16) -> bool {
    let raw = context.sock_addr;
    read_field!(raw, user_ip6[0]) == address_be[0]
        && read_field!(raw, user_ip6[1]) == address_be[1]
        && read_field!(raw, user_ip6[2]) == address_be[2]
        && read_field!(raw, user_ip6[3]) == address_be[3]
        && u16::from_be(read_field!(raw, user_port) as u16) == port
}

/// Whether the call is to the unspecified address, of either family: the kernel connects to this host then, and chooses
/// the address after the programs have run.
#[inline(always)]
pub(crate) fn is_to_this_host(context: &SockAddrContext) -> bool {
    let raw = context.sock_addr;
    let third = read_field!(raw, user_ip6[2]);
    read_field!(raw, user_ip6[0]) == 0
        && read_field!(raw, user_ip6[1]) == 0
        && (third == 0 || third == 0xffff_u32.to_be())
        && read_field!(raw, user_ip6[3]) == 0
}

/// The IPv4 address of a call that has one, in network byte order.
#[inline(always)]
pub(crate) fn ipv4_be(context: &SockAddrContext) -> u32 {
    read_field!(context.sock_addr, user_ip4)
}

/// Whether the call came without an address.
#[inline(always)]
pub(crate) fn has_no_address(context: &SockAddrContext) -> bool {
    read_field!(context.sock_addr, user_family) == AF_UNSPEC
}

/// Whether the socket is an IPv6 one, whatever the family of the address.
#[inline(always)]
pub(crate) fn is_ipv6_socket(context: &SockAddrContext) -> bool {
    read_field!(context.sock_addr, family) == AF_INET6
}

/// Whether the socket has a peer.
#[inline(always)]
pub(crate) fn is_connected(context: &SockAddrContext) -> bool {
    let socket: *mut bpf_sock = read_field!(context.sock_addr, __bindgen_anon_1.sk);
    read_field!(socket, state) == ESTABLISHED
}

/// The socket's cookie: one number for as long as it lives.
#[inline(always)]
pub(crate) fn cookie(context: &SockAddrContext) -> u64 {
    // SAFETY: the context is the one the kernel passed.
    unsafe { bpf_get_socket_cookie(context.sock_addr.cast()) }
}

/// Caller and socket of a connect.
pub(crate) struct KernelCircumstances<'context> {
    pub(crate) context: &'context SockAddrContext,
    pub(crate) binding: &'context Binding,
    pub(crate) protocol: u16,
    pub(crate) hook: Hook,
}

impl Circumstances for KernelCircumstances<'_> {
    #[inline(always)]
    fn opaque(&self, number: u64) -> u64 {
        maps::opaque(self.binding, number)
    }

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
    fn sends_unconnected(&self) -> bool {
        matches!(self.hook, Hook::Sendmsg)
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
        let cookie = cookie(self.context);
        (cookie >> 32) as u32 ^ cookie as u32
    }

    #[inline(always)]
    fn boot_ns(&self) -> u64 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_boot_ns() }
    }
}
