//! The eBPF objects that build.rs left, embedded.

pub(crate) fn programs() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer-programs"))
}

pub(crate) fn probes() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer-probes"))
}
