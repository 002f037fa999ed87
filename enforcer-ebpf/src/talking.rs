//! The debug channel (`--bpf-log`): lines for the controller's log, in a ring buffer of their own.

pub(crate) use aya_log_ebpf::{info, warn};

/// Whether anybody is told of each call.
pub(crate) const TALKS: bool = true;
