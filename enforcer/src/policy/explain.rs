//! Why a connect gets the verdict it gets: [`explain`] asks [`decide`] about every kind of connect to one address,
//! and says of each rule that covers the address and did not act why it did not.
//!
//! The verdicts are those of `decide`, on the compiled policy that the kernel would get. The reasons are told from
//! the rules, and decide nothing. Knows no targets and prints nothing.

use std::{
    collections::BTreeSet,
    net::{Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
};

use enforcer_common::{
    address::{EXEMPT_PREFIXES, ExemptPrefix, octets_from_words, words_from_octets},
    clause::{Action, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, NO_RULE, Proto},
    decide::{Connect, Decision, Known, Mode, PolicyTable, TableFault, Unmovable, decide},
    errno::{self, Errno},
};
use ipnet::Ipv6Net;

use super::rule::{GroupName, Rule};

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
    /// Real user of the caller.
    pub uid: u32,
    /// Process of the caller.
    pub process: u32,
    /// What rollouts by target hash.
    pub rollout_key: u32,
    /// The canary lists that name the target.
    pub canaries: u64,
    /// When: nanoseconds on CLOCK_BOOTTIME.
    pub boot_ns: u64,
}

impl Question {
    /// A question about root's connects, of a process and a target that nothing is known of, before anything expires.
    #[must_use]
    pub const fn new(address: Ipv6Addr, port: Option<u16>, proto: Option<Proto>, mode: Mode) -> Self {
        Self {
            address,
            port,
            proto,
            mode,
            uid: 0,
            process: 0,
            rollout_key: 0,
            canaries: 0,
            boot_ns: 1,
        }
    }

    fn circumstances(&self, unmovable: Option<Unmovable>) -> Known {
        Known {
            unmovable,
            uid: self.uid,
            process: self.process,
            socket: 0,
            boot_ns: self.boot_ns,
        }
    }

    fn kinds(&self) -> impl Iterator<Item = Kind> {
        let asked = *self;
        Kind::ALL.into_iter().filter(move |kind| match kind {
            Kind::Tcp => asked.proto.is_none_or(|proto| proto == Proto::Tcp),
            Kind::Udp => asked.proto.is_none_or(|proto| proto == Proto::Udp),
            Kind::Ping => asked.proto.is_none() && asked.port.is_none(),
        })
    }
}

/// What comes of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What is done.
    pub verdict: Action,
    /// Index of the rule that acts; none does where no rule matches, and in audit mode.
    pub rule: Option<u32>,
    /// In audit mode, the rule that would have acted, and what would have been done.
    pub would: Option<(u32, Action)>,
    /// Errno of what is, or would have been, a rejection.
    pub errno: Option<Errno>,
    /// Where what is, or would have been, redirected goes; port 0 is the port asked for. Set too where a socket
    /// cannot be moved there.
    pub to: Option<SocketAddr>,
    /// Why what was to be a redirect is, or would have been, a rejection.
    pub unmovable: Option<Unmovable>,
}

impl Outcome {
    fn of(decision: &Decision) -> Self {
        let rule = |rule: u32| (rule != NO_RULE).then_some(rule);
        // Beside a rule that acts, one that would have is told, but not what it would have led to.
        let action = match rule(decision.rule) {
            Some(_) => decision.verdict,
            None => decision.would.unwrap_or(decision.verdict),
        };
        let is_redirect = action == Action::Redirect || decision.unmovable.is_some();
        Self {
            verdict: decision.verdict,
            rule: rule(decision.rule),
            would: rule(decision.would_rule).zip(decision.would),
            errno: (action == Action::Reject)
                .then(|| errno::by_number(decision.errno))
                .flatten(),
            to: decision.destination().filter(|_| is_redirect).map(|to| {
                let address = Ipv6Addr::from(octets_from_words(to.addr_be));
                SocketAddr::new(address.to_canonical(), to.port)
            }),
            unmovable: decision.unmovable,
        }
    }

    /// Index of the rule that decided, whether it acted or would have.
    #[must_use]
    pub fn decider(&self) -> Option<u32> {
        self.rule.or(self.would.map(|(rule, _)| rule))
    }
}

/// Why a rule that covers an address does not decide a connect there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The address is exempt from rules as wide as this one.
    Exempt,
    /// The rule that decides has a longer prefix.
    ShorterPrefix,
    /// The rule that decides has the same prefix and more conditions.
    FewerConditions,
    /// The rule that decides has the same prefix and as many conditions, does the same, and is written first.
    WrittenLater,
    /// It is for another protocol.
    Proto,
    /// It is for other ports.
    Ports,
}

/// A rule that covers the address and did not decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loser {
    /// Its index.
    pub rule: u32,
    /// The longest of its prefixes that covers the address.
    pub prefix: Ipv6Net,
    /// Why.
    pub reason: Reason,
}

/// Connects that get the same for the same reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What kinds of sockets.
    pub kinds: Vec<Kind>,
    /// Which ports, host byte order, in order; every port, where kinds have ports at all, is one range.
    pub ports: Vec<RangeInclusive<u16>>,
    /// What comes of them.
    pub outcome: Outcome,
    /// What comes of them on a TCP or UDP socket that cannot be moved to IPv4 (`IPV6_V6ONLY`, or bound to an IPv6
    /// address), where that is something else.
    pub immovable: Option<Outcome>,
    /// The other rules that cover the address: longest prefix first, then more conditions, then as written.
    pub losers: Vec<Loser>,
}

/// The prefix that is exempt from wider rules and covers the address, if one does.
#[must_use]
pub fn exempt(address: Ipv6Addr) -> Option<(Ipv6Net, &'static ExemptPrefix)> {
    EXEMPT_PREFIXES.iter().find_map(|exempt| {
        let net = Ipv6Net::new(exempt.octets.into(), exempt.prefix_len).ok()?;
        net.contains(&address).then_some((net, exempt))
    })
}

/// What comes of the connects asked about under the policy compiled from the rules of those groups, as few cases as
/// there are differences.
///
/// # Errors
///
/// [`TableFault`] if the policy is not one that the compiler made.
pub fn explain(
    table: &impl PolicyTable,
    rules: &[Rule],
    groups: &[GroupName],
    question: &Question,
) -> Result<Vec<Case>, TableFault> {
    let covering = Covering::new(rules, groups, question);
    let mut cases: Vec<Case> = Vec::new();
    for kind in question.kinds() {
        let mut of_kind: Vec<Case> = Vec::new();
        for ports in covering.port_ranges(kind) {
            let connect = Connect {
                daddr_be: words_from_octets(question.address.octets()),
                dport: *ports.start(),
                protocol: kind.protocol(),
                mode: question.mode,
                rollout_key: question.rollout_key,
                canaries: question.canaries,
                zero: 0,
            };
            let by_nature = (kind == Kind::Ping).then_some(Unmovable::Ping);
            let outcome = Outcome::of(&decide(table, &question.circumstances(by_nature), &connect)?);
            // One reason stands for both: they lead to the same.
            let immovable = Outcome::of(&decide(
                table,
                &question.circumstances(Some(Unmovable::V6Only)),
                &connect,
            )?);
            let case = Case {
                kinds: vec![kind],
                ports: vec![ports],
                losers: covering.losers(&outcome, &connect),
                immovable: (kind != Kind::Ping && immovable != outcome).then_some(immovable),
                outcome,
            };
            match of_kind.iter_mut().find(|known| known.is_alike(&case)) {
                Some(known) => known.add_ports(case.ports),
                None => of_kind.push(case),
            }
        }
        for case in of_kind {
            match cases
                .iter_mut()
                .find(|known| known.is_alike(&case) && known.ports == case.ports)
            {
                Some(known) => known.kinds.push(kind),
                None => cases.push(case),
            }
        }
    }
    Ok(cases)
}

impl Case {
    /// Whether only kinds and ports tell them apart.
    fn is_alike(&self, other: &Self) -> bool {
        self.outcome == other.outcome && self.immovable == other.immovable && self.losers == other.losers
    }

    /// Adds ports that come after those it has.
    fn add_ports(&mut self, ports: Vec<RangeInclusive<u16>>) {
        for range in ports {
            match self.ports.last_mut() {
                Some(last) if last.end().checked_add(1) == Some(*range.start()) => {
                    *last = *last.start()..=*range.end();
                }
                _ => self.ports.push(range),
            }
        }
    }

    /// Whether it is about every port.
    #[must_use]
    pub fn is_any_port(&self) -> bool {
        self.ports == [0..=u16::MAX]
    }
}

/// The rules that cover an address, with the longest of their prefixes that does.
struct Covering<'rules> {
    rules: &'rules [Rule],
    covering: Vec<(u32, Ipv6Net)>,
    exempt: Option<Ipv6Net>,
    /// The one port that is asked about.
    port: Option<u16>,
}

impl<'rules> Covering<'rules> {
    fn new(rules: &'rules [Rule], groups: &[GroupName], question: &Question) -> Self {
        let address = question.address;
        let mut covering: Vec<_> = (0..)
            .zip(rules)
            .filter(|(_, rule)| rule.is_in(groups))
            .filter_map(|(index, rule)| Some((index, rule.covering_prefix(address)?)))
            .collect();
        // Stable: rules that are alike stay as written.
        covering.sort_by_key(|(index, prefix): &(u32, Ipv6Net)| {
            let conditions = rules[*index as usize].conditions();
            std::cmp::Reverse((prefix.prefix_len(), conditions))
        });
        Self {
            rules,
            covering,
            exempt: exempt(address).map(|(net, _)| net),
            port: question.port,
        }
    }

    fn rule(&self, index: u32) -> &'rules Rule {
        &self.rules[index as usize]
    }

    /// The ports that are asked about, in ranges within which no rule tells one from another.
    fn port_ranges(&self, kind: Kind) -> Vec<RangeInclusive<u16>> {
        if let Some(port) = self.port {
            return vec![port..=port];
        }
        if kind == Kind::Ping {
            return vec![0..=u16::MAX];
        }
        let ranges = self
            .covering
            .iter()
            .flat_map(|(index, _)| &self.rule(*index).ports);
        let mut starts = BTreeSet::from([0]);
        for range in ranges {
            starts.insert(*range.start());
            starts.extend(range.end().checked_add(1));
        }
        let starts: Vec<u16> = starts.into_iter().collect();
        let ends = starts[1..].iter().map(|next| next - 1).chain([u16::MAX]);
        starts.iter().zip(ends).map(|(start, end)| *start..=end).collect()
    }

    /// Why the rules that did not decide did not.
    fn losers(&self, outcome: &Outcome, connect: &Connect) -> Vec<Loser> {
        let decider = outcome.decider().and_then(|decider| {
            let found = self.covering.iter().find(|(index, _)| *index == decider);
            found.map(|(index, prefix)| (*index, *prefix))
        });
        self.covering
            .iter()
            .filter(|(index, _)| decider.is_none_or(|(decider, _)| decider != *index))
            .map(|&(rule, prefix)| Loser {
                rule,
                prefix,
                reason: self.reason(rule, prefix, decider, connect),
            })
            .collect()
    }

    fn reason(
        &self,
        index: u32,
        prefix: Ipv6Net,
        decider: Option<(u32, Ipv6Net)>,
        connect: &Connect,
    ) -> Reason {
        if self.exempt.is_some_and(|exempt| !exempt.contains(&prefix)) {
            return Reason::Exempt;
        }
        let rule = self.rule(index);
        // A rule that does not match has lost to nobody.
        let wanted = |proto: Proto| match proto {
            Proto::Tcp => connect.protocol == IPPROTO_TCP,
            Proto::Udp => connect.protocol == IPPROTO_UDP,
        };
        if rule.proto.is_some_and(|proto| !wanted(proto)) {
            return Reason::Proto;
        }
        let has_ports = connect.protocol != IPPROTO_ICMPV6;
        let in_ports = has_ports && rule.ports.iter().any(|range| range.contains(&connect.dport));
        let is_out_of_ports = !rule.ports.is_empty() && !in_ports;
        // Where every port is asked about, ports that get the same by the same rule stay one case: of a rule that
        // would lose anyway it does not matter which it is for.
        if is_out_of_ports && (self.port.is_some() || !has_ports) {
            return Reason::Ports;
        }
        if let Some((decider, decider_prefix)) = decider {
            if prefix.prefix_len() < decider_prefix.prefix_len() {
                return Reason::ShorterPrefix;
            }
            let same = prefix == decider_prefix;
            if same && rule.conditions() < self.rule(decider).conditions() {
                return Reason::FewerConditions;
            }
        }
        if is_out_of_ports {
            return Reason::Ports;
        }
        Reason::WrittenLater
    }
}
