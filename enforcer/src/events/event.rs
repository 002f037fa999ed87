//! [`Event`]: one connect of a governed cgroup, or its datagrams to one destination, as subscribers see it.
//!
//! Types and how they read, nothing else: [`enrich`](super::enrich) makes events, the sinks show them.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use enforcer_common::{
    clause::Action,
    decide::{Mode, Unmovable},
    record::Hook,
};
use ipnet::Ipv6Net;
use jiff::Timestamp;

use super::decode::{Checked, Comm, Protocol, SocketType};
use crate::policy::rule::Rule;

/// One connect of a governed cgroup, or the datagrams of an unconnected socket to one destination, with every number resolved that could be.
#[derive(Clone, Debug)]
pub struct Event {
    /// When, by the wall clock.
    pub time: Timestamp,
    /// What was done.
    pub verdict: Checked<Action>,
    /// What would have been done.
    pub would: Option<Would>,
    /// Mode of the governed cgroup.
    pub mode: Checked<Mode>,
    /// The rule's errno, positive, where the verdict is reject.
    pub errno: Option<u16>,
    /// The errno that the caller got, positive, where the verdict is reject.
    pub errno_caller: Option<u16>,
    /// Destination address asked for.
    pub daddr: Ipv6Addr,
    /// Destination port asked for, host byte order.
    pub dport: u16,
    /// The socket's protocol.
    pub protocol: Protocol,
    /// The socket's type.
    pub socket_type: SocketType,
    /// Where the connect went instead, or could not be moved to where `unmovable` is set.
    pub redirect_to: Option<RedirectTo>,
    /// Why a redirect became a rejection (done, or in audit mode one that would have been).
    pub unmovable: Option<Checked<Unmovable>>,
    /// The rule that acted.
    pub rule: Option<RuleRef>,
    /// The prefix, of `rule` or else of `would.rule`, that covers `daddr`.
    pub prefix: Option<Ipv6Net>,
    /// Name of the target; `None` if the catalog does not have it.
    pub target: Option<Arc<str>>,
    /// Thread group: what people call the process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Real user of the thread.
    pub uid: u32,
    /// Name of the thread.
    pub comm: Comm,
    /// The governed cgroup.
    pub cgroup_id: u64,
    /// Path of the governed cgroup relative to the v2 mount; `None` if the catalog does not have it.
    pub cgroup: Option<Arc<str>>,
    /// The cgroup of the calling task.
    pub task_cgroup_id: u64,
    /// The first rule that would have decided if its rollout included the connect.
    pub left_out: Option<RuleRef>,
    /// By which of its hooks the kernel asked.
    pub hook: Checked<Hook>,
    /// How many datagrams were sent by the time of delivery, of the same socket, to the same destination, with the same
    /// verdict; `None` for a connect.
    pub datagrams: Option<u64>,
}

/// What a rule that did not act would have done.
#[derive(Clone, Debug)]
pub struct Would {
    /// What would have been done.
    pub action: Checked<Action>,
    /// The rule.
    pub rule: Option<RuleRef>,
}

impl Would {
    /// The errno, positive, with which it would have been rejected.
    #[must_use]
    pub fn errno(&self) -> Option<u16> {
        let rule = self.rule.as_ref()?.get()?;
        (self.action == Checked::Known(Action::Reject)).then_some(rule.errno.number)
    }

    /// Where a connect to that address would have gone; not known of redirects to a name.
    #[must_use]
    pub fn redirect_to(&self, daddr: Ipv6Addr, dport: u16) -> Option<RedirectTo> {
        let to = self.rule.as_ref()?.get()?.redirects(daddr)?;
        Some(RedirectTo::new(*to.ip(), to.port(), dport))
    }
}

/// A rule by its place in the policy that decided. Cheap to clone: it shares the rules with the catalog.
#[derive(Clone, Debug)]
pub struct RuleRef {
    pub(super) rules: Option<Arc<[Rule]>>,
    pub(super) generation: u32,
    pub(super) index: u32,
}

impl RuleRef {
    /// The rule, or `None` if the catalog never had it.
    #[must_use]
    pub fn get(&self) -> Option<&Rule> {
        self.rules.as_ref()?.get(usize::try_from(self.index).ok()?)
    }
}

/// The rule's label, as it was written: it may hold control characters.
impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Some(rule) => f.write_str(&rule.label),
            None => write!(f, "rule {} of generation {}", self.index, self.generation),
        }
    }
}

/// Where a connect is sent instead. Shown as `addr` or `addr:port`; an IPv4-mapped address as IPv4, an IPv6
/// address with a port in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedirectTo {
    /// The address, IPv4 where it was IPv4-mapped.
    pub addr: IpAddr,
    /// The port, host byte order, if it is another than the one asked for.
    pub port: Option<u16>,
}

impl RedirectTo {
    /// To that address and port (0 keeps the one asked for), in place of `dport`.
    pub(super) fn new(addr: Ipv6Addr, port: u16, dport: u16) -> Self {
        Self {
            addr: IpAddr::V6(addr).to_canonical(),
            port: (port != 0 && port != dport).then_some(port),
        }
    }
}

impl fmt::Display for RedirectTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.addr, port)),
            None => write!(f, "{}", self.addr),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_redirect_is_bracketed_only_with_a_port() {
        let addr = "2001:db8::7".parse().unwrap();
        assert_eq!(RedirectTo::new(addr, 0, 443).to_string(), "2001:db8::7");
        assert_eq!(RedirectTo::new(addr, 8443, 443).to_string(), "[2001:db8::7]:8443");
    }
}
