//! How much of the machine this process sees: whether its namespaces are the host's.

use std::{fs, os::unix::fs::MetadataExt as _};

/// `PROC_PID_INIT_INO` (`include/linux/proc_ns.h`; `PID_NS_INIT_INO` of `include/uapi/linux/nsfs.h` since 6.18): the inode
/// number of the PID namespace that all others are below.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Whether /proc lists every process of the machine; `false` also where that cannot be told.
pub(super) fn is_initial_pid_namespace() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|it| it.ino() == INITIAL_PID_NAMESPACE)
}

/// Whether this process's network namespace is that of the host's first process, in which its services are if nobody
/// put them elsewhere; `false` also where that cannot be told.
pub(super) fn is_hosts_network() -> bool {
    let namespace = |process| fs::metadata(format!("/proc/{process}/ns/net")).map(|it| (it.dev(), it.ino()));
    is_initial_pid_namespace()
        && matches!((namespace("self"), namespace("1")), (Ok(own), Ok(first)) if own == first)
}
