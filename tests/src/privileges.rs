//! Starting a program with fewer capabilities than root has.

use std::{io, os::unix::process::CommandExt as _, process::Command};

use rustix::{
    io::Errno,
    thread::{CapabilitySet, capability_is_in_bounding_set, remove_capability_from_bounding_set},
};

/// What loading and attaching cgroup programs takes, and nothing else. It may not raise its limit of locked memory.
pub const LEAST: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN);

/// The same, and raising limits: without that a 5.10 kernel has no memory for maps.
pub const LEAST_AND_LIMITS: CapabilitySet = LEAST.union(CapabilitySet::SYS_RESOURCE);

/// Lets the command run as root with those capabilities only, and whatever it starts.
pub fn limit_to(command: &mut Command, kept: CapabilitySet) {
    // The kernel gives a program of root's what the bounding set holds at exec.
    let limit = move || -> io::Result<()> {
        for capability in CapabilitySet::all() {
            if kept.contains(capability) {
                continue;
            }
            match capability_is_in_bounding_set(capability) {
                Ok(true) => remove_capability_from_bounding_set(capability)?,
                Ok(false) => {}
                // An older kernel does not know it.
                Err(Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only: no allocation, no lock.
    unsafe { command.pre_exec(limit) };
}
