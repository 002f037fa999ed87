//! [`ConnectRecord`]: one governed connect as it crosses the ring buffer.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::AddrWords;

/// Length of a thread name, with its terminating zero (`TASK_COMM_LEN`, `include/linux/sched.h`).
pub const COMM_LEN: usize = 16;

/// [`ConnectRecord::would`] when there is nothing that would have been done.
pub const NO_ACTION: u8 = u8::MAX;

/// One governed connect. Numbers are raw, as the kernel gave them; the controller converts them with a case
/// for the unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnectRecord {
    /// Nanoseconds on CLOCK_BOOTTIME.
    pub time_boot_ns: u64,
    /// The governed cgroup: the one enforcer is attached to.
    pub cgroup_id: u64,
    /// The cgroup of the calling task, which may be another (a child, or where the task moved).
    pub task_cgroup_id: u64,
    /// Destination address asked for, each word in network byte order.
    pub daddr_be: AddrWords,
    /// Address redirected to, each word in network byte order, or the address a rejected connect could not be
    /// moved to (`unmovable`); zero otherwise, and always where no rule acted.
    pub redirect_be: AddrWords,
    /// Thread group: what people call the process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Real user of the thread.
    pub uid: u32,
    /// Index of the target.
    pub target: u32,
    /// Generation of the policy that decided; rule identifiers belong to it.
    pub generation: u32,
    /// Rule that acted, or [`NO_RULE`](crate::clause::NO_RULE).
    pub rule: u32,
    /// Rule that would have acted, or [`NO_RULE`](crate::clause::NO_RULE).
    pub would_rule: u32,
    /// First rule that would have decided if its rollout included the connect, or
    /// [`NO_RULE`](crate::clause::NO_RULE).
    pub left_out_rule: u32,
    /// Destination port asked for, host byte order.
    pub dport: u16,
    /// Port redirected to, host byte order; 0 where not redirected.
    pub redirect_port: u16,
    /// The socket's protocol, `IPPROTO_*`.
    pub protocol: u16,
    /// The rule's errno where the verdict is reject, otherwise 0.
    pub errno: u16,
    /// What was done: an [`Action`](crate::clause::Action) as its number.
    pub verdict: u8,
    /// What would have been done: an [`Action`](crate::clause::Action) as its number, or [`NO_ACTION`].
    pub would: u8,
    /// A [`Mode`](crate::decide::Mode) as its number.
    pub mode: u8,
    /// The socket's type, `SOCK_STREAM` 1 or `SOCK_DGRAM` 2.
    pub socket_type: u8,
    /// An [`Unmovable`](crate::decide::Unmovable) as its number, or 0.
    pub unmovable: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// Name of the thread, zero-terminated; empty where the kernel does not say.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<ConnectRecord>() == 120 && align_of::<ConnectRecord>() == 8);
