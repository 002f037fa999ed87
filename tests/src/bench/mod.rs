//! What `cargo xtask bench` measures with: pieces that know how to attach, connect and count, not what is worth
//! measuring. That is the binary's, `enforcer-bench`.
//!
//! [`network`] is where prefixes and destinations come from, [`governed`] puts them into force by enforcer's own
//! programs, [`baselines`] by the least that would do ([`assembler`], [`bpf`], [`program`]); [`contents`] is what programs have written. [`worker`] connects, [`rounds`] says what
//! came of it.

pub mod assembler;
pub mod bpf;
pub mod program;

pub mod baselines;
pub mod contents;
pub mod governed;
pub mod memory;
pub mod network;

pub mod ring;
pub mod worker;

pub mod rounds;
