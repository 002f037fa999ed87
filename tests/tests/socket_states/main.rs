//! Sockets under random calls, by whoever holds them: after each, what they show is what a small model says.
//!
//! `ENFORCER_SEED` repeats a run, `ENFORCER_SEQUENCES` says how many sequences there are; a failure prints its seed and
//! the shortest sequence found that shows it.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod datagrams;
mod streams;
mod world;
