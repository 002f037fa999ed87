//! `cgroup/connect6`: judges each IPv6 connect of a governed cgroup.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use enforcer_common::record::Hook;

use crate::judge::judge;

#[cgroup_sock_addr(connect6)]
fn enforcer_connect6(context: SockAddrContext) -> i32 {
    judge(&context, Hook::Connect)
}
