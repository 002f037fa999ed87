//! [`ConnectRecord`]: one governed connect, or send, as it crosses the ring buffer. [`DatagramKey`]: by what datagrams of
//! unconnected sockets are told apart, of which only the first becomes a record.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::AddrWords;

/// Length of a thread name, with its terminating zero (`TASK_COMM_LEN`, `include/linux/sched.h`).
pub const COMM_LEN: usize = 16;

/// [`ConnectRecord::would`] when there is nothing that would have been done.
pub const NO_ACTION: u8 = u8::MAX;

/// By which of its hooks the kernel asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Hook {
    /// `cgroup/connect6`: a socket is being connected.
    Connect = 0,
    /// `cgroup/sendmsg6`: a datagram is being sent to an address that comes with it.
    Sendmsg = 1,
}

impl Hook {
    /// The hook with that number, or `None` if it is none.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Connect),
            1 => Some(Self::Sendmsg),
            _ => None,
        }
    }
}

/// One governed connect or send. Numbers are raw, as the kernel gave them; the controller converts them with a case
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
    /// The socket's cookie (`SO_COOKIE`); 0 in the record of a connect.
    pub socket_cookie: u64,
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
    /// A [`Hook`] as its number.
    pub hook: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Name of the thread, zero-terminated; empty where the kernel does not say.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<ConnectRecord>() == 128 && align_of::<ConnectRecord>() == 8);

/// What datagrams have in common that share one record: socket, destination and verdict. How many there were by now is
/// the value that the programs keep under this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DatagramKey {
    /// [`ConnectRecord::socket_cookie`].
    pub socket_cookie: u64,
    /// Destination address, each word in network byte order.
    pub daddr_be: AddrWords,
    /// Generation of the policy that decided: after a reload there is a new record.
    pub generation: u32,
    /// Destination port in host byte order in the upper half, then [`ConnectRecord::verdict`] and
    /// [`ConnectRecord::would`]. One word, because some verifiers refuse narrow stores to the stack.
    pub dport_verdict_would: u32,
}

const _: () = assert!(size_of::<DatagramKey>() == 32 && align_of::<DatagramKey>() == 8);

impl DatagramKey {
    /// The key of a datagram, from the fields of its record that have the same names.
    #[must_use]
    #[inline(always)]
    pub const fn new(
        socket_cookie: u64,
        daddr_be: AddrWords,
        dport: u16,
        generation: u32,
        verdict: u8,
        would: u8,
    ) -> Self {
        Self {
            socket_cookie,
            daddr_be,
            generation,
            dport_verdict_would: (dport as u32) << 16 | (verdict as u32) << 8 | would as u32,
        }
    }

    /// The key under which the datagrams of that record are counted.
    #[must_use]
    pub const fn of(record: &ConnectRecord) -> Self {
        Self::new(
            record.socket_cookie,
            record.daddr_be,
            record.dport,
            record.generation,
            record.verdict,
            record.would,
        )
    }
}
