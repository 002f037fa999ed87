//! `cgroup/connect4`: judges nothing. An IPv6 UDP socket can be connected again with an IPv4 address, and then what was
//! kept of its redirect is no longer true.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{
    judge::{PROCEED, may_be_redirected},
    maps, sock_addr,
};

#[cgroup_sock_addr(connect4)]
fn enforcer_connect4(context: SockAddrContext) -> i32 {
    // No IPv4 socket was ever redirected.
    if may_be_redirected(maps::binding()) && sock_addr::is_ipv6_socket(&context) {
        maps::forget_asked_ipv4(&context);
    }
    PROCEED
}
