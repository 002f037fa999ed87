//! A rule after every check: what the compiler compiles and what events name.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    ops::RangeInclusive,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use enforcer_common::{
    address::{embedded_ipv4, octets_from_words, with_low_bits, words_from_octets},
    clause::Proto,
    decide::Mode,
    errno::{self, Errno},
};
use ipnet::Ipv6Net;

use super::when::{show_duration, show_time};
pub use crate::names::HostName;
use crate::names::{Families, Request, Resolver};

/// Name of a group of rules. Targets `use` groups.
pub type GroupName = String;

/// The group of rules and targets that name none.
pub const DEFAULT_GROUP: &str = "default";

/// Where a rule was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a policy file. Line and column count from 1; the column counts characters.
    File {
        /// As the user named the file.
        path: PathBuf,
        /// Line of the `[[rule]]` header.
        line: usize,
        /// Column of the `[[rule]]` header.
        column: usize,
    },
    /// On the command line, as written: `--reject 2001:db8::/32`.
    Argument(String),
}

impl Origin {
    /// As it is displayed, with the column too: `file:line:column`. Rules on one line are told apart by that.
    #[must_use]
    pub fn with_column(&self) -> String {
        match self {
            Self::File { column, .. } => format!("{self}:{column}"),
            Self::Argument(text) => text.clone(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                path,
                line,
                column: _,
            } => write!(f, "{}:{line}", path.display()),
            Self::Argument(text) => f.write_str(text),
        }
    }
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RuleAction {
    /// Let the connect go on: an exception to a wider rule.
    Allow,
    /// End it with the rule's errno.
    Reject,
    /// Send it elsewhere.
    Redirect(RedirectTo),
}

/// Where a redirect goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RedirectTo {
    /// One address. IPv4 is held IPv4-mapped; port 0 keeps the port asked for. Flow information and scope are zero.
    Address(SocketAddrV6),
    /// The same low bits in another prefix, which has as many host bits as each prefix of the rule (RFC 7757). IPv4 is
    /// held IPv4-mapped.
    Prefix(Ipv6Net),
    /// The IPv4 address inside the address asked for (RFC 6052).
    Embedded,
    /// The IPv4 addresses of a name, followed as they change.
    Host {
        /// The name.
        name: HostName,
        /// Port, host byte order; 0 keeps the port asked for.
        port: u16,
    },
    /// The IPv4 addresses that the rule's own name has.
    Twin,
}

impl fmt::Display for RuleAction {
    /// `allow`, `reject`, `redirect to 192.0.2.1`, `redirect to [2001:db8::1]:443`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::Reject => f.write_str("reject"),
            Self::Redirect(to) => write!(f, "redirect to {to}"),
        }
    }
}

impl fmt::Display for RedirectTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(to) => {
                let ip = to.ip().to_canonical();
                match to.port() {
                    0 => write!(f, "{ip}"),
                    port => write!(f, "{}", SocketAddr::new(ip, port)),
                }
            }
            Self::Prefix(to) => match to.network().to_ipv4_mapped() {
                Some(network) => write!(f, "{network}/{}", to.prefix_len().saturating_sub(96)),
                None => write!(f, "{to}"),
            },
            Self::Embedded => f.write_str("the IPv4 address inside"),
            Self::Host { name, port: 0 } => name.fmt(f),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
            Self::Twin => f.write_str("its IPv4 addresses"),
        }
    }
}

/// A name instead of prefixes: the rule covers each IPv6 address that the name is found to have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostClause {
    /// The name.
    pub name: HostName,
    /// What becomes of connects to a name that has no IPv4 address, of a redirect.
    pub without_twin: WithoutTwin,
}

/// What a redirect of a name does where the name has no IPv4 address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WithoutTwin {
    /// Reject: fast and clear, but it cannot make the name reachable.
    #[default]
    Reject,
    /// Let the connect go on.
    Allow,
}

/// Who answers for the names of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Resolve {
    /// The host's nameservers.
    #[default]
    Host,
    /// The nameservers of the target, asked in its network namespace. The answers serve that target only.
    Target,
}

/// When a rule ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expires {
    /// At that time of the wall clock.
    At(SystemTime),
    /// That long after the rule was first loaded.
    After(Duration),
}

impl fmt::Display for Expires {
    /// `2030-01-31T18:00:00Z`, `2h after its first load`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(time) => f.write_str(&show_time(*time)),
            Self::After(duration) => write!(f, "{} after its first load", show_duration(*duration)),
        }
    }
}

/// The share of connects that a rule acts on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rollout {
    /// 0 … 100.
    pub percent: u8,
    /// What is counted.
    pub by: RolloutBy,
    /// Targets that are always in. Sorted, without duplicates.
    pub canary: Vec<String>,
    /// Number of that list among the lists of the policy, from 1; 0 where it is empty.
    pub canary_list: u8,
}

/// What a rollout counts, and keeps together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RolloutBy {
    /// Targets, by name.
    #[default]
    Target,
    /// Processes.
    Process,
    /// Prefixes of the rule, or its name.
    Destination,
}

/// A checked rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What events, summaries and messages call it: its name, or its origin, with the column where several rules
    /// without a name begin on one line.
    pub label: String,
    /// Where it was written.
    pub origin: Origin,
    /// Groups it belongs to, at least one. Rules of the command line belong to every group.
    pub groups: RuleGroups,
    /// Prefixes it covers, sorted by address then length, without duplicates; host bits are zero. Empty only
    /// if its prefixes file is, or if it has a name instead.
    pub prefixes: Vec<Ipv6Net>,
    /// The name whose addresses it covers, instead of prefixes.
    pub host: Option<HostClause>,
    /// Who answers for its names.
    pub resolve: Resolve,
    /// Whether answers of the target's nameservers may be loopback, link-local or metadata addresses.
    pub allow_private: bool,
    /// What it does.
    pub action: RuleAction,
    /// Errno of a rejection, and of a redirect on a socket that cannot be moved.
    pub errno: Errno,
    /// Destination ports it is limited to, host byte order, sorted, neither overlapping nor touching; empty
    /// means every port.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Protocol it is limited to.
    pub proto: Option<Proto>,
    /// Users it is limited to, as the host numbers them, sorted, neither overlapping nor touching; empty means every
    /// user.
    pub uids: Vec<RangeInclusive<u32>>,
    /// Why it is there, for people.
    pub reason: Option<String>,
    /// Whether it counts at all.
    pub enabled: bool,
    /// Whether it acts, or only says what it would do.
    pub mode: Mode,
    /// When it ends.
    pub expires: Option<Expires>,
    /// The share of connects that it acts on; all where absent.
    pub rollout: Option<Rollout>,
    /// Whether a redirect hides where it went, as far as the kernel can.
    pub transparent: bool,
}

impl Rule {
    /// A rule that does that and has nothing else to it, for the group of those that name none.
    #[must_use]
    pub fn plain(label: String, origin: Origin, prefixes: Vec<Ipv6Net>, action: RuleAction) -> Self {
        Self {
            label,
            origin,
            groups: RuleGroups::Named(vec![DEFAULT_GROUP.to_owned()]),
            prefixes,
            host: None,
            resolve: Resolve::Host,
            allow_private: false,
            action,
            errno: errno::DEFAULT,
            ports: Vec::new(),
            proto: None,
            uids: Vec::new(),
            reason: None,
            enabled: true,
            mode: Mode::Enforce,
            expires: None,
            rollout: None,
            transparent: true,
        }
    }

    /// The names that have to be looked up for it: its own, and the one that it redirects to.
    pub fn names(&self) -> impl Iterator<Item = &HostName> {
        let to = match &self.action {
            RuleAction::Redirect(RedirectTo::Host { name, .. }) => Some(name),
            _ => None,
        };
        self.host.iter().map(|host| &host.name).chain(to)
    }

    /// What is asked of nameservers because of it, for the target with that number; of this host's where there is none.
    #[must_use]
    pub fn request(&self, target: Option<usize>) -> Option<Request> {
        let (name, families) = match (&self.host, &self.action) {
            (Some(host), _) => (host.name.clone(), Families::Both),
            (None, RuleAction::Redirect(RedirectTo::Host { name, .. })) => (name.clone(), Families::Ipv4),
            (None, _) => return None,
        };
        Some(Request {
            name,
            families,
            resolver: match (self.resolve, target) {
                (Resolve::Target, Some(target)) => Resolver::Target(target),
                (Resolve::Host, _) | (_, None) => Resolver::Host,
            },
            allow_private: self.allow_private,
        })
    }

    /// Whether it always acts on what it matches: nothing but its conditions can make it as if absent.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        let is_for_all = self.rollout.as_ref().is_none_or(|rollout| rollout.percent >= 100);
        self.enabled && self.mode == Mode::Enforce && self.expires.is_none() && is_for_all
    }

    /// Whether it is called by its origin rather than by a name of its own.
    #[must_use]
    pub fn is_nameless(&self) -> bool {
        self.label == self.origin.to_string() || self.label == self.origin.with_column()
    }

    /// The longest of its prefixes that covers an address: what an event names beside the rule. Of a rule that has a name
    /// it is the address.
    #[must_use]
    pub fn covering_prefix(&self, address: Ipv6Addr) -> Option<Ipv6Net> {
        if self.host.is_some() {
            return Some(address.into());
        }
        longest_match(&self.prefixes, |prefix| *prefix, address.into()).copied()
    }

    /// Where it redirects connects to an address that it covers, as far as the rule alone says that: not where names
    /// have to be looked up. Port 0 keeps the port asked for.
    #[must_use]
    pub fn redirects(&self, address: Ipv6Addr) -> Option<SocketAddrV6> {
        let asked = words_from_octets(address.octets());
        let at = |words| SocketAddrV6::new(octets_from_words(words).into(), 0, 0, 0);
        match &self.action {
            RuleAction::Redirect(RedirectTo::Address(to)) => Some(*to),
            RuleAction::Redirect(RedirectTo::Prefix(to)) => {
                let high = words_from_octets(to.network().octets());
                Some(at(with_low_bits(&high, &asked, 128 - to.prefix_len())))
            }
            RuleAction::Redirect(RedirectTo::Embedded) => {
                let prefix = self.covering_prefix(address)?;
                Some(at(embedded_ipv4(&asked, prefix.prefix_len())))
            }
            _ => None,
        }
    }

    /// How many conditions beside the prefix it has. At one prefix, rules with more go first.
    #[must_use]
    pub fn conditions(&self) -> u8 {
        u8::from(!self.ports.is_empty()) + u8::from(self.proto.is_some()) + u8::from(!self.uids.is_empty())
    }

    /// Whether it is among the rules of a target that uses those groups.
    #[must_use]
    pub fn is_in(&self, groups: &[GroupName]) -> bool {
        match &self.groups {
            RuleGroups::All => true,
            RuleGroups::Named(names) => names.iter().any(|name| groups.contains(name)),
        }
    }

    /// What it does, with its errno where that is what a caller gets: `reject with ENETUNREACH`.
    #[must_use]
    pub fn outcome(&self) -> String {
        match &self.action {
            RuleAction::Allow => self.action.to_string(),
            RuleAction::Reject => format!("reject with {}", self.errno.name),
            RuleAction::Redirect(_) => {
                format!("{} (or {} if it cannot be moved)", self.action, self.errno.name)
            }
        }
    }
}

/// The item with the longest prefix that covers all of a prefix, of items sorted by address then length.
pub(super) fn longest_match<T>(
    items: &[T],
    prefix_of: impl Fn(&T) -> Ipv6Net,
    covered: Ipv6Net,
) -> Option<&T> {
    let mut longest = covered;
    loop {
        let after = items.partition_point(|item| prefix_of(item) <= longest);
        let item = &items[after.checked_sub(1)?];
        let found = prefix_of(item);
        if found.contains(&covered) {
            return Some(item);
        }
        // Whatever covers the prefix and sorts before this one covers this one's address too, so it is no
        // longer than what the two have in common; and that is shorter than `longest`.
        let common = (u128::from(found.network()) ^ u128::from(covered.network())).leading_zeros();
        longest = Ipv6Net::new(covered.network(), u8::try_from(common).ok()?)
            .ok()?
            .trunc();
    }
}

/// The groups a rule belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleGroups {
    /// Every group: rules written on the command line are added to all targets.
    All,
    /// These: at least one, sorted, without duplicates.
    Named(Vec<GroupName>),
}

/// The lists of canaries that name a target, as bits: bit n is list n + 1 of [`Rollout::canary_list`].
#[must_use]
pub fn canary_lists(rules: &[Rule], target: &str) -> u64 {
    let lists = rules.iter().filter_map(|rule| rule.rollout.as_ref());
    let naming = lists.filter(|rollout| rollout.canary.iter().any(|name| name == target));
    naming
        .filter_map(|rollout| rollout.canary_list.checked_sub(1))
        .fold(0, |bits, list| bits | 1_u64 << (list & 63))
}
