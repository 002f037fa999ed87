//! `cgroup/recvmsg6`: a datagram from where enforcer redirected a connected UDP socket to is shown as from where the
//! application asked for. QUIC and DTLS drop what comes from anybody else.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{maps, sock_addr};

/// The only return value the kernel accepts from this hook.
const PASS: i32 = 1;

#[cgroup_sock_addr(recvmsg6)]
fn enforcer_recvmsg6(context: SockAddrContext) -> i32 {
    let _binding = maps::binding();
    // Once dissolved, the socket has no peer: whoever sends is whoever they are.
    if sock_addr::is_connected(&context) {
        maps::show_asked(&context);
    }
    PASS
}
