//! enforcer's kernel programs. One file per attach type, [`maps`] for every map, [`sock_addr`] for the only
//! code that touches `struct bpf_sock_addr`, [`judge`] for what connects and sends have in common, [`emit`] for what the
//! controller hears.
//!
//! What happens to a connect is decided by `enforcer_common::decide` alone; here it is carried out.
#![no_std]
#![no_main]
// The BPF target has atomic addition but no compare-and-swap, and without that core offers no `fetch_add`.
#![feature(core_intrinsics)]
#![allow(internal_features)]

mod connect4;
mod connect6;
mod getpeername6;
mod recvmsg6;
mod sendmsg6;

mod emit;
mod globals;
mod judge;
mod maps;
mod sock_addr;

/// Several helpers (`bpf_probe_read_kernel` among them) are given to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program in which it could be.
    loop {}
}
