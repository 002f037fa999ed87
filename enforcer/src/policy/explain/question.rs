//! [`Question`]: which connects are asked about, and what is known of whoever makes them.

use std::net::Ipv6Addr;

use enforcer_common::{
    address::words_from_octets,
    clause::{IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Proto},
    decide::{Connect, Known, Mode, Unmovable},
};

use super::super::{
    compiled::{CompiledPolicy, Layered},
    live::Live,
    overlay::{Answers, Becomes, Overlay},
    rule::{GroupName, Rule},
};

/// Kinds of sockets that rules tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// TCP, and MPTCP, which rules treat as TCP.
    Tcp,
    /// UDP.
    Udp,
    /// An ICMPv6 datagram socket. It has no ports.
    Ping,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Ping];

    const fn protocol(self) -> u16 {
        match self {
            Self::Tcp => IPPROTO_TCP,
            Self::Udp => IPPROTO_UDP,
            Self::Ping => IPPROTO_ICMPV6,
        }
    }
}

/// What rollouts ask about a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// What rollouts by target hash.
    pub rollout_key: u32,
    /// The canary lists that name it, as bits.
    pub canaries: u64,
}

/// Which connects are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Their destination.
    pub address: Ipv6Addr,
    /// Their destination port, host byte order; every port, and ping sockets, which have none, where absent.
    pub port: Option<u16>,
    /// Their protocol; every protocol where absent.
    pub proto: Option<Proto>,
    /// Mode of the governed cgroup.
    pub mode: Mode,
    /// Real user of the caller; every user where absent.
    pub uid: Option<u32>,
    /// Process of the caller; any where absent: then rollouts by process may include it or not.
    pub process: Option<u32>,
    /// The target that connects; any where absent: then rollouts by target, and canaries, may include it or not.
    pub target: Option<Target>,
    /// When: nanoseconds on CLOCK_BOOTTIME.
    pub boot_ns: u64,
}

impl Question {
    /// A question about everybody's connects, before anything expires.
    #[must_use]
    pub const fn new(address: Ipv6Addr, port: Option<u16>, proto: Option<Proto>, mode: Mode) -> Self {
        Self {
            address,
            port,
            proto,
            mode,
            uid: None,
            process: None,
            target: None,
            boot_ns: 1,
        }
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        let asked = *self;
        Kind::ALL.into_iter().filter(move |kind| match kind {
            Kind::Tcp => asked.proto.is_none_or(|proto| proto == Proto::Tcp),
            Kind::Udp => asked.proto.is_none_or(|proto| proto == Proto::Udp),
            Kind::Ping => asked.proto.is_none() && asked.port.is_none(),
        })
    }
}

/// One kind of connect among those asked about: nothing but memberships of rollouts is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instance {
    pub(super) kind: Kind,
    pub(super) connect: Connect,
    /// User, process and time; a process that nobody knows is 0.
    known: Known,
}

impl Instance {
    pub(super) fn new(question: &Question, kind: Kind, port: u16, uid: u32) -> Self {
        Self {
            kind,
            connect: Connect {
                daddr_be: words_from_octets(question.address.octets()),
                dport: port,
                protocol: kind.protocol(),
                mode: question.mode,
                rollout_key: question.target.map_or(0, |target| target.rollout_key),
                canaries: question.target.map_or(0, |target| target.canaries),
            },
            known: Known {
                unmovable: None,
                uid,
                process: question.process.unwrap_or(0),
                socket: 0,
                boot_ns: question.boot_ns,
            },
        }
    }

    /// Of a socket that can be moved to IPv4, if its kind can.
    pub(super) fn movable(&self) -> Known {
        Known {
            unmovable: (self.kind == Kind::Ping).then_some(Unmovable::Ping),
            ..self.known
        }
    }

    /// Of a socket that cannot be moved. One reason stands for both: they lead to the same.
    pub(super) const fn immovable(&self) -> Known {
        Known {
            unmovable: Some(Unmovable::V6Only),
            ..self.known
        }
    }

    pub(super) const fn uid(&self) -> u32 {
        self.known.uid
    }

    pub(super) const fn boot_ns(&self) -> u64 {
        self.known.boot_ns
    }
}

/// A compiled policy, and what it was compiled from.
#[derive(Clone, Copy, Debug)]
pub struct Grounds<'policy> {
    /// Every rule of the policy.
    pub rules: &'policy [Rule],
    /// The groups whose rules count.
    pub groups: &'policy [GroupName],
    /// What is known of times, and of names that are redirected to.
    pub live: &'policy Live,
    /// What is known of names that are matched.
    pub answers: &'policy Answers,
    /// These rules, compiled.
    pub base: &'policy CompiledPolicy,
    /// These answers, compiled.
    pub overlay: &'policy Overlay,
}

impl<'policy> Grounds<'policy> {
    pub(super) const fn table(&self) -> Layered<'policy> {
        Layered {
            base: self.base,
            overlay: &self.overlay.compiled,
        }
    }

    pub(super) fn rule(&self, index: u32) -> Option<&'policy Rule> {
        self.rules.get(index as usize)
    }

    /// What becomes of an address that the name of a rule was found to have.
    pub(super) fn becomes(&self, rule: u32, address: Ipv6Addr) -> Option<&'policy Becomes> {
        self.answers.get(&rule)?.get(&address)
    }
}
