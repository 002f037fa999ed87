//! Small realistic programs, one for each thing a kernel may lack. The loader loads each alone and never
//! attaches it: what the verifier accepts here, the real programs may use.
//!
//! A bare helper call would not do: 7.2 refuses `bpf_set_retval` with an argument it cannot bound.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::{
        bpf_get_current_comm, bpf_probe_read_kernel,
        generated::{bpf_get_socket_cookie, bpf_set_retval},
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};

mod license;

/// The floor: a connect6 program at all.
#[cgroup_sock_addr(connect6)]
fn probe_connect6(_context: SockAddrContext) -> i32 {
    1
}

#[cgroup_sock_addr(getpeername6)]
fn probe_getpeername6(_context: SockAddrContext) -> i32 {
    1
}

#[cgroup_sock_addr(recvmsg6)]
fn probe_recvmsg6(_context: SockAddrContext) -> i32 {
    1
}

#[cgroup_sock_addr(connect4)]
fn probe_connect4(_context: SockAddrContext) -> i32 {
    1
}

/// Datagrams of one socket are told apart from those of another by its cookie.
#[cgroup_sock_addr(sendmsg6)]
fn probe_sendmsg6(context: SockAddrContext) -> i32 {
    // SAFETY: the context is the one the kernel passed.
    let cookie = unsafe { bpf_get_socket_cookie(context.sock_addr.cast()) };
    i32::from(cookie != 0)
}

/// An errno of our choice: `bpf_set_retval`.
#[cgroup_sock_addr(connect6)]
fn probe_set_retval(context: SockAddrContext) -> i32 {
    // SAFETY: a field of the context the kernel passed.
    let port = unsafe { &raw const (*context.sock_addr).user_port };
    // SAFETY: as above; the verifier checks the load.
    let port = unsafe { port.read_volatile() };
    let bounded = (port & 0xfff) as i32;
    let errno = if bounded == 0 { 101 } else { bounded };
    // SAFETY: the helper has no preconditions beyond its argument's range.
    unsafe { bpf_set_retval(-errno) };
    0
}

/// The thread's name in events.
#[cgroup_sock_addr(connect6)]
fn probe_comm(_context: SockAddrContext) -> i32 {
    match bpf_get_current_comm() {
        Ok(comm) if comm[0] == 0 => 0,
        _ => 1,
    }
}

/// Reading the head of the socket, where `IPV6_V6ONLY` is.
#[cgroup_sock_addr(connect6)]
fn probe_v6only(context: SockAddrContext) -> i32 {
    // SAFETY: a field of the context the kernel passed.
    let socket = unsafe { &raw const (*context.sock_addr).__bindgen_anon_1.sk };
    // SAFETY: as above; the verifier checks the load.
    let socket: *mut bpf_sock = unsafe { socket.read_volatile() };
    // SAFETY: the helper reads kernel memory safely and reports what it cannot read.
    match unsafe { bpf_probe_read_kernel(socket.cast::<[u8; 20]>()) } {
        Ok(head) if head[19] == 0xff => 0,
        _ => 1,
    }
}
