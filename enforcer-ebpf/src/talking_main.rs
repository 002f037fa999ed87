//! The programs of `main.rs`, with a debug channel in them: what they say costs the verifier more than all they do.
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

#[path = "talking.rs"]
mod debug;
