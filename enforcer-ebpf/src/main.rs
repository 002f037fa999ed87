//! enforcer's kernel programs. One file per attach type, [`maps`] for every map, [`sock_addr`] for the only
//! code that touches `struct bpf_sock_addr`, [`judge`] for what connects and sends have in common, [`emit`] for what the
//! controller hears.
//!
//! What happens to a connect is decided by `enforcer_common::decide` alone; here it is carried out. `talking_main.rs` makes the same programs
//! with a debug channel.
#![no_std]
#![no_main]
// The BPF target has atomic addition but no compare-and-swap, and without that core offers no `fetch_add`.
#![feature(core_intrinsics)]
// One instruction of assembler, in `maps::opaque`.
#![feature(asm_experimental_arch)]
#![allow(internal_features)]

mod connect4;
mod connect6;
mod getpeername6;
mod recvmsg6;
mod sendmsg6;

mod emit;
mod globals;
mod judge;
mod license;
mod maps;
mod sock_addr;

#[path = "silent.rs"]
mod debug;
