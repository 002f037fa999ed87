//! From names to addresses, over time: what each name's addresses are, asked again when answers age.
//!
//! [`Follower`] asks the nameservers of this host, or those of a target from within its network namespace
//! ([`inside`]), again and again, and remembers what was said ([`known`]). [`twins`] is pure: which IPv4 addresses
//! stand for which IPv6 address. This room knows no rules and no maps, decides about no connect, and prints
//! nothing. docs/names.md says for people what it does.

mod ask;
mod due;
mod follow;
mod host;
mod host_name;
pub mod inside;
pub mod known;
mod note;
mod once;
mod resolv;
pub mod twins;
pub mod unusable;

use std::path::PathBuf;

pub use self::{
    ask::Outcome,
    follow::{Change, Follower, TooManyNames},
    host_name::{HostName, HostNameError},
    known::{Answers, Seen},
    note::Note,
    once::Once,
};

/// Names that are followed at once.
pub const MAX_NAMES: usize = 4096;

/// IPv6 addresses remembered of one name.
pub const MAX_AAAA: usize = 256;

/// IPv4 addresses remembered of one name.
pub const MAX_A: usize = 64;

/// Which addresses of a name are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Families {
    /// Its IPv6 and its IPv4 addresses.
    Both,
    /// Its IPv4 addresses: the name is where something goes to, not what is matched.
    Ipv4,
}

/// Whose nameservers are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolver {
    /// This host's. Its `hosts` file counts too.
    Host,
    /// Those of the target with that number, from within its network namespace. The answers serve that target
    /// alone, and are known by its number: see [`Follower::forget_target`] before giving it to another.
    Target(usize),
}

/// A name to follow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// The name.
    pub name: HostName,
    /// Which of its addresses.
    pub families: Families,
    /// Who is asked.
    pub resolver: Resolver,
    /// Whether a target's own nameservers may name loopback, link-local and metadata addresses. Those of the host
    /// may.
    pub allow_private: bool,
}

impl Request {
    /// How far whoever is asked is trusted.
    const fn trust(&self) -> unusable::Trust {
        match (self.resolver, self.allow_private) {
            (Resolver::Target(_), false) => unusable::Trust::Stranger,
            _ => unusable::Trust::Own,
        }
    }
}

/// Where the host's resolver is described, and the program that goes into targets.
#[derive(Clone, Debug)]
pub struct Options {
    /// The host's nameservers (resolv.conf(5)). Read again whenever it has changed.
    pub resolv_conf: PathBuf,
    /// Names that need no nameserver (hosts(5)). Read again whenever it has changed.
    pub hosts: PathBuf,
    /// The program that is started, with the hidden verb of [`inside`], to ask a target's nameservers.
    pub helper: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            hosts: PathBuf::from("/etc/hosts"),
            // This program, also when its file has been replaced by a newer one meanwhile.
            helper: PathBuf::from("/proc/self/exe"),
        }
    }
}
