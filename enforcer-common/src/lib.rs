//! The vocabulary that enforcer's kernel programs and its controller share, and [`decide()`](decide::decide).
//!
//! Everything here compiles from the same text for the BPF target and for the host, without a single `cfg`
//! on the target: what a unit test or `enforcer explain` runs is what the kernel runs. This crate knows
//! neither aya nor any other crate of the workspace, allocates nothing and performs no I/O.
//!
//! Reading order: [`address`] and [`errno`] are the words, [`clause`] is what a compiled policy is made of, [`blocks`] finds
//! the clauses of an address, [`decide`] is all precedence there is; [`binding`], [`record`] and [`counters`] are the wire structures
//! that cross between kernel and controller.
#![no_std]

pub mod address;
pub mod blocks;
pub mod clause;
pub mod decide;
pub mod errno;

pub mod binding;
pub mod counters;
pub mod record;
