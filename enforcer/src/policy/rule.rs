//! A rule after every check: what the compiler compiles and what events name.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddrV6},
    ops::RangeInclusive,
    path::PathBuf,
};

use enforcer_common::{clause::Proto, errno::Errno};
use ipnet::Ipv6Net;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleAction {
    /// Let the connect go on: an exception to a wider rule.
    Allow,
    /// End it with the rule's errno.
    Reject,
    /// Send it elsewhere. IPv4 is held IPv4-mapped; port 0 keeps the port asked for. Flow information and
    /// scope are zero.
    Redirect(SocketAddrV6),
}

impl fmt::Display for RuleAction {
    /// `allow`, `reject`, `redirect to 192.0.2.1`, `redirect to [2001:db8::1]:443`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::Reject => f.write_str("reject"),
            Self::Redirect(to) => {
                let ip = to.ip().to_canonical();
                match to.port() {
                    0 => write!(f, "redirect to {ip}"),
                    port => write!(f, "redirect to {}", std::net::SocketAddr::new(ip, port)),
                }
            }
        }
    }
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
    /// if its prefixes file is.
    pub prefixes: Vec<Ipv6Net>,
    /// What it does.
    pub action: RuleAction,
    /// Errno of a rejection, and of a redirect on a socket that cannot be moved.
    pub errno: Errno,
    /// Destination ports it is limited to, host byte order, sorted, neither overlapping nor touching; empty
    /// means every port.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Protocol it is limited to.
    pub proto: Option<Proto>,
}

impl Rule {
    /// Whether it is called by its origin rather than by a name of its own.
    #[must_use]
    pub fn is_nameless(&self) -> bool {
        self.label == self.origin.to_string() || self.label == self.origin.with_column()
    }

    /// The longest of its prefixes that covers an address: what an event names beside the rule.
    #[must_use]
    pub fn covering_prefix(&self, address: Ipv6Addr) -> Option<Ipv6Net> {
        longest_match(&self.prefixes, |prefix| *prefix, address).copied()
    }

    /// How many conditions beside the prefix it has. At one prefix, rules with more go first.
    #[must_use]
    pub fn conditions(&self) -> u8 {
        u8::from(!self.ports.is_empty()) + u8::from(self.proto.is_some())
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
        match self.action {
            RuleAction::Allow => self.action.to_string(),
            RuleAction::Reject => format!("reject with {}", self.errno.name),
            RuleAction::Redirect(_) => {
                format!("{} (or {} if it cannot be moved)", self.action, self.errno.name)
            }
        }
    }
}

/// The item with the longest prefix that covers the address, of items sorted by address then length.
pub(super) fn longest_match<T>(
    items: &[T],
    prefix_of: impl Fn(&T) -> Ipv6Net,
    address: Ipv6Addr,
) -> Option<&T> {
    let mut longest = Ipv6Net::from(address);
    loop {
        let after = items.partition_point(|item| prefix_of(item) <= longest);
        let item = &items[after.checked_sub(1)?];
        let found = prefix_of(item);
        if found.contains(&address) {
            return Some(item);
        }
        // Whatever covers the address and sorts before this one covers this one's address too, so it is no
        // longer than what the two have in common; and that is shorter than `longest`.
        let common = (u128::from(found.network()) ^ u128::from(address)).leading_zeros();
        longest = Ipv6Net::new(address, u8::try_from(common).ok()?).ok()?.trunc();
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
