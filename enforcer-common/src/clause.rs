//! What a compiled policy is made of: prefixes that point at clause lists with shared tails.
//!
//! An entry of the policy's longest-prefix-match map is the index of the first [`Clause`] of its prefix. Each
//! clause names the next one; the list of a prefix ends by continuing with the list of the prefix that
//! covers it. So one lookup answers, a more specific rule whose conditions do not match falls through to the
//! wider one, and the memory is that of the rules, not of rules times prefixes.

use network_types::ip::IpProto;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{address::AddrWords, decide::Connect};

/// Index of no clause: the end of a list.
pub const NO_CLAUSE: u32 = u32::MAX;

/// Identifier of no rule.
pub const NO_RULE: u32 = u32::MAX;

/// The most clauses that may stand on one walk, from a prefix's first clause to the end of its list. The
/// compiler refuses a policy that exceeds it; the kernel's verifier needs the bound to be a constant.
pub const MAX_WALK: u32 = 32;

/// The most entries (distinct prefixes) of one compiled policy.
pub const MAX_ENTRIES: u32 = 1_000_000;

/// The most cgroups one controller attaches to.
pub const MAX_CGROUPS: u32 = 4_096;

/// `IPPROTO_MPTCP` (`include/uapi/linux/in.h`). It is wider than the 8 bits of a header field.
pub const IPPROTO_MPTCP: u16 = 262;

/// `IPPROTO_TCP`.
pub const IPPROTO_TCP: u16 = IpProto::Tcp as u16;
/// `IPPROTO_UDP`.
pub const IPPROTO_UDP: u16 = IpProto::Udp as u16;
/// `IPPROTO_ICMPV6`: what an IPv6 ping socket has.
pub const IPPROTO_ICMPV6: u16 = IpProto::Ipv6Icmp as u16;

/// What a rule does with a connect it matches, and what was done with one: the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Action {
    /// The connect goes on as if enforcer were not there.
    Allow = 0,
    /// The connect ends at once with the rule's errno.
    Reject = 1,
    /// The connect goes on to another address, unseen by the caller.
    Redirect = 2,
}

impl Action {
    /// How many actions there are; they number 0, 1, … below it.
    pub const COUNT: usize = 3;

    /// The action with that number, or `None` if it is none (a newer or damaged record).
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Allow),
            1 => Some(Self::Reject),
            2 => Some(Self::Redirect),
            _ => None,
        }
    }
}

/// The protocols a rule can be limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Proto {
    /// TCP, and MPTCP, which is TCP to everybody but the kernel.
    Tcp = 1,
    /// UDP.
    Udp = 2,
}

/// [`Clause::proto`] of a clause that matches every protocol.
pub const ANY_PROTO: u8 = 0;

/// One conditional verdict. Immutable once the map it lies in is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Clause {
    /// Index of the clause to try when this one does not match, or [`NO_CLAUSE`].
    pub next: u32,
    /// The controller's identifier of the rule this clause belongs to.
    pub rule: u32,
    /// An [`Action`] as its number.
    pub action: u8,
    /// A [`Proto`] as its number, or [`ANY_PROTO`].
    pub proto: u8,
    /// The errno a rejection ends with: of a rejecting clause, and of a redirecting one on a socket that
    /// cannot be moved. 1 … 511.
    pub errno: u16,
    /// Lowest destination port matched, host byte order. The clause matches every port, and protocols
    /// without ports, when this is 0 and `port_max` is 65535.
    pub port_min: u16,
    /// Highest destination port matched, host byte order.
    pub port_max: u16,
    /// Port to redirect to, host byte order; 0 keeps the one asked for.
    pub to_port: u16,
    /// Zero.
    pub reserved: u16,
    /// Address to redirect to, each word in network byte order; IPv4 is written IPv4-mapped.
    pub to_be: AddrWords,
}

const _: () = assert!(size_of::<Clause>() == 36 && align_of::<Clause>() == 4);

impl Clause {
    /// Whether the clause matches every connect to its prefix, so that nothing after it can ever act.
    #[must_use]
    pub const fn is_unconditional(&self) -> bool {
        self.proto == ANY_PROTO && self.any_port()
    }

    #[inline(always)]
    const fn any_port(&self) -> bool {
        self.port_min == 0 && self.port_max == u16::MAX
    }

    /// Whether the conditions of the clause hold for the connect. Its prefix matched already: that is how
    /// the walk came here.
    #[must_use]
    #[inline(always)]
    pub const fn matches(&self, connect: &Connect) -> bool {
        let is_tcp = connect.protocol == IPPROTO_TCP || connect.protocol == IPPROTO_MPTCP;
        let is_udp = connect.protocol == IPPROTO_UDP;
        if self.proto != ANY_PROTO {
            let wanted =
                (self.proto == Proto::Tcp as u8 && is_tcp) || (self.proto == Proto::Udp as u8 && is_udp);
            if !wanted {
                return false;
            }
        }
        // A ping socket's port is an identifier of the caller's choice, not a service.
        self.any_port()
            || ((is_tcp || is_udp) && self.port_min <= connect.dport && connect.dport <= self.port_max)
    }
}
