//! Starting a program with fewer capabilities than root has.

use std::{io, os::unix::process::CommandExt as _, process::Command};

use rustix::{
    io::Errno,
    process::{Gid, Uid},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
        set_keep_capabilities, set_thread_gid, set_thread_groups, set_thread_uid,
    },
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

/// The user and the group `nobody`.
const NOBODY: u32 = 65_534;

/// Lets the command run as `nobody`, with what enforcing takes on every kernel, and able to read root's files: the
/// program may lie among them.
pub fn become_nobody(command: &mut Command) {
    let kept = LEAST_AND_LIMITS
        .union(CapabilitySet::PERFMON)
        .union(CapabilitySet::DAC_READ_SEARCH);
    let become_nobody = move || -> io::Result<()> {
        set_thread_groups(&[])?;
        set_thread_gid(Gid::from_raw(NOBODY))?;
        set_keep_capabilities(true)?;
        set_thread_uid(Uid::from_raw(NOBODY))?;
        // A container that the tests run in may lack some.
        let kept = kept.intersection(capabilities(None)?.permitted);
        let sets = CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: kept,
        };
        set_capabilities(None, sets)?;
        // What is in the ambient set survives exec.
        for capability in kept {
            configure_capability_in_ambient_set(capability, true)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only: no allocation, no lock. The process has one
    // thread there, so identifiers of the thread are those of the process.
    unsafe { command.pre_exec(become_nobody) };
}
