//! The eBPF objects, embedded as `build.rs` left them.
//!
//! Where `build.rs` could not build them, everything still type-checks; only generating code fails, with the
//! line that says what to do.

/// The object with the programs that enforce. ELF, aligned for parsing in place.
pub(crate) fn programs() -> &'static [u8] {
    #[cfg(ebpf_objects)]
    return aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer-programs"));
    #[cfg(not(ebpf_objects))]
    return missing::<()>();
}

/// The same programs with a debug channel, which costs the verifier more than all else in them.
pub(crate) fn talking_programs() -> &'static [u8] {
    #[cfg(ebpf_objects)]
    return aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer-programs-talking"));
    #[cfg(not(ebpf_objects))]
    return missing::<()>();
}

/// The object with the probes, one program for each thing a kernel may lack. ELF, aligned likewise.
pub(crate) fn probes() -> &'static [u8] {
    #[cfg(ebpf_objects)]
    return aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer-probes"));
    #[cfg(not(ebpf_objects))]
    return missing::<()>();
}

/// Generic, so that the block is evaluated where code is generated and not by `cargo check` or clippy.
#[cfg(not(ebpf_objects))]
fn missing<T>() -> &'static [u8] {
    const { panic!("{}", env!("ENFORCER_OBJECTS_MISSING")) }
}
