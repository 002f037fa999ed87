//! What a compiled policy is made of: prefixes that point at clause lists with shared tails.
//!
//! A prefix's entry is the index of its first [`Clause`]. Each
//! clause names the next one; the list of a prefix ends by continuing with the list of the prefix that
//! covers it. So one lookup answers, a more specific rule whose conditions do not match falls through to the
//! wider one, and the memory is that of the rules, not of rules times prefixes.

use network_types::ip::IpProto;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{address::AddrWords, decide::Circumstances};

/// Index of no clause: the end of a list. Indices have 24 bits, because an entry's value holds its prefix length
/// beside one.
pub const NO_CLAUSE: u32 = (1 << 24) - 1;

/// Bit of a clause's index that says that it lies in the overlay of a policy rather than in its base.
pub const IN_OVERLAY: u32 = 1 << 23;

/// Bit of an entry's head that says that its first clause allows every connect, now and later, and says nothing of names:
/// most of what is allowed is known without reading a clause. No clause has an index with it; [`NO_CLAUSE`] has it, and comes
/// first.
pub const ALLOWS_AT_ONCE: u32 = 1 << 22;

/// The most clauses of a base, and of an overlay. The index after them is what a damaged tree answers
/// ([`DAMAGED`](crate::blocks::DAMAGED)).
pub const MAX_CLAUSES: u32 = ALLOWS_AT_ONCE - 1;

/// Identifier of no rule.
pub const NO_RULE: u32 = u32::MAX;

/// The most clauses that may stand on one walk, from a prefix's first clause to the end of its list. The
/// compiler refuses a policy that exceeds it; the kernel's verifier needs the bound to be a constant.
pub const MAX_WALK: u32 = 32;

/// The most entries (distinct prefixes) of one compiled policy.
pub const MAX_ENTRIES: u32 = 1_000_000;

/// The most addresses that one redirect chooses from.
pub const MAX_CHOICES: usize = 8;

/// The most distinct lists of canaries in one policy: each is a bit of
/// [`Binding::canaries`](crate::binding::Binding::canaries).
pub const MAX_CANARY_LISTS: usize = 64;

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

/// How a redirect's destination comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DestinationForm {
    /// [`Clause::to_be`], with the low [`Clause::width`] bits of the address asked for (RFC 7757 section 3.2); none of
    /// them for a fixed address.
    Fixed = 0,
    /// The IPv4 address inside the address asked for, whose prefix has [`Clause::width`] bits (RFC 6052 section 2.2).
    Embedded = 1,
    /// One of the [`Clause::choices`] addresses that begin with this clause's, by a hash of the socket.
    Choice = 2,
}

/// Whose hash says whether a rule's rollout includes a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RolloutBy {
    /// Nobody's: the rule has no rollout.
    Everybody = 0,
    /// The target's name: [`Binding::rollout_key`](crate::binding::Binding::rollout_key).
    Target = 1,
    /// The process: its thread group's identifier.
    Process = 2,
    /// The rule's prefix, or its name to be looked up. The compiler has mixed it into [`Clause::rollout_salt`] already.
    Destination = 3,
}

/// [`Clause::flags`]: the rule is in audit mode: what it would have done is reported, and the next one counts.
pub const CLAUSE_AUDIT: u8 = 1 << 0;
/// [`Clause::flags`]: the caller may see where a redirect went.
pub const CLAUSE_OPAQUE: u8 = 1 << 1;
/// [`Clause::flags`]: there is no address to redirect to yet, so the clause matches nothing.
pub const CLAUSE_UNRESOLVED: u8 = 1 << 2;
/// [`Clause::flags`]: the prefix is an address that a rule's name is known to have.
pub const CLAUSE_NAME_HIT: u8 = 1 << 3;
/// [`Clause::flags`]: the prefix is the surroundings of such an address. The clause decides nothing.
pub const CLAUSE_NAME_MISS: u8 = 1 << 4;

/// [`Clause::expires_boot_ns`] of a clause that never expires.
pub const NEVER: u64 = 0;

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
    /// Lowest user matched.
    pub uid_min: u32,
    /// Highest user matched. Every user is matched when this is [`u32::MAX`] and `uid_min` is 0.
    pub uid_max: u32,
    /// `CLAUSE_*`.
    pub flags: u8,
    /// A [`DestinationForm`] as its number.
    pub to_form: u8,
    /// Bits of the address asked for that count, see [`DestinationForm`]. 0 … 128.
    pub width: u8,
    /// Addresses to choose from, see [`DestinationForm::Choice`]; at most [`MAX_CHOICES`].
    pub choices: u8,
    /// Port to redirect to, host byte order; 0 keeps the one asked for.
    pub to_port: u16,
    /// A [`RolloutBy`] as its number.
    pub rollout_by: u8,
    /// The canary list whose targets the rollout always includes, counted from 1; 0 is none.
    pub canaries: u8,
    /// Hashes below this are in the rollout; see [`rollout_below`].
    pub rollout_below: u32,
    /// What the rollout's hash is salted with; see [`rollout_hash`].
    pub rollout_salt: u32,
    /// When the clause stops to match: nanoseconds on CLOCK_BOOTTIME, or [`NEVER`].
    pub expires_boot_ns: u64,
    /// Address to redirect to, each word in network byte order; IPv4 is written IPv4-mapped.
    pub to_be: AddrWords,
}

const _: () = assert!(size_of::<Clause>() == 64 && align_of::<Clause>() == 8);

impl Clause {
    /// Whether the clause acts on every connect to its prefix, now and later, so that nothing after it can ever act.
    #[must_use]
    pub const fn is_unconditional(&self) -> bool {
        self.has_no_condition()
            && self.rollout_by == RolloutBy::Everybody as u8
            && self.expires_boot_ns == NEVER
            && self.flags & (CLAUSE_AUDIT | CLAUSE_UNRESOLVED | CLAUSE_NAME_MISS) == 0
    }

    /// Whether it is what [`ALLOWS_AT_ONCE`] says.
    #[must_use]
    pub const fn allows_at_once(&self) -> bool {
        self.action == Action::Allow as u8 && self.is_unconditional() && self.flags & CLAUSE_NAME_HIT == 0
    }

    /// Whether the clause, when it counts at all, matches every connect to its prefix.
    #[must_use]
    pub const fn has_no_condition(&self) -> bool {
        self.proto == ANY_PROTO && self.any_port() && self.any_uid()
    }

    #[inline(always)]
    const fn any_port(&self) -> bool {
        self.port_min == 0 && self.port_max == u16::MAX
    }

    /// Whether the clause matches every user.
    #[must_use]
    #[inline(always)]
    pub const fn any_uid(&self) -> bool {
        self.uid_min | !self.uid_max == 0
    }

    /// Whether protocol and port of the connect are the clause's. Its prefix matched already: that is how the walk came
    /// here.
    #[must_use]
    #[inline(always)]
    pub const fn matches(&self, service: &Service) -> bool {
        self.mismatch(service) == 0
    }

    /// 0 where protocol and port are the clause's. Computed rather than compared: each branch would double what the
    /// kernel's verifier has to follow, in each step of a walk.
    #[inline(always)]
    pub(crate) const fn mismatch(&self, service: &Service) -> u64 {
        let protocol = !(service.protocols >> (self.proto & 31)) & 1;
        protocol
            | outside(
                self.port_min as u64,
                self.port_max as u64,
                service.lowest,
                service.highest,
            )
    }
}

/// 1 unless `min` ≤ `lowest` and `highest` ≤ `max`, else 0. All of them are less than 2^63, so that the sign of a difference
/// tells.
#[inline(always)]
pub(crate) const fn outside(min: u64, max: u64, lowest: u64, highest: u64) -> u64 {
    (lowest.wrapping_sub(min) | max.wrapping_sub(highest)) >> 63
}

/// Protocol and port of a connect, as clauses compare them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Bit [`ANY_PROTO`] is set, and that of the [`Proto`] that it is.
    protocols: u64,
    /// The port, twice. Of protocols without ports everything from the lowest to the highest, which only a clause for
    /// every port has.
    lowest: u64,
    highest: u64,
}

impl Service {
    /// That port of that protocol (`IPPROTO_*`).
    #[must_use]
    #[inline(always)]
    pub const fn new(protocol: u16, dport: u16) -> Self {
        let proto = match protocol {
            IPPROTO_TCP | IPPROTO_MPTCP => Proto::Tcp as u8,
            IPPROTO_UDP => Proto::Udp as u8,
            // A ping socket's port is an identifier of the caller's choice, not a service.
            _ => {
                return Self {
                    protocols: 1 << ANY_PROTO,
                    lowest: 0,
                    highest: u16::MAX as u64,
                };
            }
        };
        Self {
            protocols: 1 << ANY_PROTO | 1 << proto,
            lowest: dport as u64,
            highest: dport as u64,
        }
    }

    /// The same, see [`Circumstances::opaque`]: nobody need follow what becomes of each protocol's constants one by one.
    #[must_use]
    #[inline(always)]
    pub(crate) fn opaque<C: Circumstances>(self, circumstances: &C) -> Self {
        Self {
            protocols: circumstances.opaque(self.protocols),
            lowest: circumstances.opaque(self.lowest),
            highest: circumstances.opaque(self.highest),
        }
    }
}

/// Value of an entry: the length of its prefix, and its head.
#[must_use]
pub const fn entry_value(prefix_len: u8, head: u32) -> u32 {
    (prefix_len as u32) << 24 | head & NO_CLAUSE
}

/// Value that no entry has: it loses against any.
pub const NO_ENTRY: u32 = entry_value(0, NO_CLAUSE);

/// The head that answers, of the entries found in base and overlay: that of the longer prefix. Of one prefix it is the
/// overlay's, whose list goes on with what the base has there. It may have [`ALLOWS_AT_ONCE`] set.
#[must_use]
#[inline(always)]
pub const fn head_of(base: u32, overlay: u32) -> u32 {
    let longer = if overlay != NO_ENTRY && overlay >> 24 >= base >> 24 {
        overlay
    } else {
        base
    };
    longer & NO_CLAUSE
}

/// The same value of an entry without [`ALLOWS_AT_ONCE`], for who reads its clauses: then its head is the index of the first
/// one, or [`NO_CLAUSE`].
#[must_use]
pub const fn to_be_read(value: u32) -> u32 {
    if value & NO_CLAUSE == NO_CLAUSE {
        value
    } else {
        value & !ALLOWS_AT_ONCE
    }
}

/// Mixes a key into a salt so that each bit of either changes about half of the result: the finalizer of MurmurHash3
/// (`fmix32`), which is public domain.
#[must_use]
#[inline(always)]
pub const fn rollout_hash(salt: u32, key: u32) -> u32 {
    let mut hash = salt ^ key.wrapping_mul(0x9e37_79b1);
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

/// The hash of a text, for salts and keys: FNV-1a of 32 bits (RFC 9923).
#[must_use]
pub const fn text_hash(text: &[u8]) -> u32 {
    let mut hash = 0x811c_9dc5_u32;
    let mut i = 0;
    while i < text.len() {
        hash = (hash ^ text[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash
}

/// The bound below which that share of all hashes lies. Of a larger share it is larger: who is in stays in.
#[must_use]
pub const fn rollout_below(percent: u8) -> u32 {
    let below = (1_u64 << 32) * percent as u64 / 100;
    if below > u32::MAX as u64 {
        u32::MAX
    } else {
        below as u32
    }
}

#[cfg(test)]
mod tests;
