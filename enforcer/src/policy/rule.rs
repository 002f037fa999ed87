//! A rule after every check: what the compiler compiles and what events name.

use std::{fmt, net::SocketAddrV6, ops::RangeInclusive, path::PathBuf};

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

/// A checked rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What events, summaries and messages call it: its name, or its origin.
    pub label: String,
    /// Where it was written.
    pub origin: Origin,
    /// Groups it belongs to, at least one. Rules of the command line belong to every group.
    pub groups: RuleGroups,
    /// Prefixes it covers, sorted by address then length, without duplicates; host bits are zero.
    pub prefixes: Vec<Ipv6Net>,
    /// What it does.
    pub action: RuleAction,
    /// Errno of a rejection, and of a redirect on a socket that cannot be moved.
    pub errno: Errno,
    /// Destination ports it is limited to, host byte order; empty means every port.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Protocol it is limited to.
    pub proto: Option<Proto>,
}

/// The groups a rule belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleGroups {
    /// Every group: rules written on the command line are added to all targets.
    All,
    /// These.
    Named(Vec<GroupName>),
}
