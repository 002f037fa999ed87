//! `cgroup/getpeername6`: shows the application the address it asked for, where enforcer redirected it.
//!
//! It is attached first, because that creates the cgroup's storage, so that the binding can be written before the first
//! connect is judged.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::maps;

/// The only return value the kernel accepts from this hook.
const PASS: i32 = 1;

#[cgroup_sock_addr(getpeername6)]
fn enforcer_getpeername6(context: SockAddrContext) -> i32 {
    // The call is what makes the storage this program's: the kernel allocates it at attach for programs that
    // reach the helper.
    let _binding = maps::binding();
    maps::show_asked(&context);
    PASS
}
