//! `cgroup/sendmsg6`: judges each datagram that a UDP socket of a governed cgroup sends to an IPv6 address of its own, by
//! the policy of connects. It can only let it go or refuse it: no kernel sends it to IPv4.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use enforcer_common::record::Hook;

use crate::{
    judge::{PROCEED, judge},
    sock_addr,
};

#[cgroup_sock_addr(sendmsg6)]
fn enforcer_sendmsg6(context: SockAddrContext) -> i32 {
    // The kernel also asks when a connected socket sends with a control message, as QUIC does for each datagram. That
    // goes to the peer, which the connect was judged for, and there is no address to judge.
    if sock_addr::has_no_address(&context) {
        return PROCEED;
    }
    judge(&context, Hook::Sendmsg)
}
