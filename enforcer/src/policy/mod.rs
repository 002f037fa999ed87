//! From the text a person writes to the policy the kernel reads.
//!
//! [`rule`] is the vocabulary: what a checked rule is, whichever way it was written. This room does no I/O
//! but reading policy files, and knows neither aya nor cgroups.

pub mod rule;
