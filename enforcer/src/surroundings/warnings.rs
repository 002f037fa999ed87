//! Where a policy and its surroundings collide.
//!
//! The policy answers for itself, through a question that the caller wires to
//! [`decide()`](enforcer_common::decide::decide): so an allow rule that makes an exception silences the warning by
//! the same precedence that the kernel applies, and exempt addresses are never warned of.

use std::{fmt, net::Ipv6Addr};

use enforcer_common::clause::Proto;
use ipnet::Ipv6Net;

use super::{Nat64, Surroundings, nat64};
use crate::policy::rule::{Rule, RuleAction};

/// Chromium connects a UDP socket to it to learn whether IPv6 works at all: `kIPv6ProbeAddress` in
/// `net/dns/host_resolver_manager.cc`.
const CHROMIUM_PROBE: Ipv6Addr = Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888);

/// The service port of DNS; Chromium's probe uses it too.
const DNS_PORT: u16 = 53;

/// Asked for where a rule is not limited to ports.
const USUAL_PORT: u16 = 443;

/// The most combinations of port and protocol that are tried on each address; more differ only in rules that
/// are limited to different ports.
const MAX_QUESTIONS: usize = 64;

/// The most things that one warning lists.
const MAX_LISTED: usize = 4;

/// The rule that would reject a connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RejectingRule {
    /// Its label.
    pub label: String,
    /// Which of its prefixes matched.
    pub prefix: Ipv6Net,
}

/// Asks a policy which rule would reject a connect to an address, a port (host byte order) and by a
/// protocol; `None` if none would.
pub type Rejecting<'policy> = dyn Fn(Ipv6Addr, u16, Proto) -> Option<RejectingRule> + 'policy;

/// What a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WarningKind {
    /// A nameserver in use is rejected: no name can be resolved through it.
    Nameserver,
    /// An address or a subnet of the host, or of a target's network namespace, is rejected.
    HostAddress,
    /// A NAT64 prefix is rejected: the way to IPv4 on a network that has only IPv6.
    Nat64,
    /// Chromium will take IPv6 for absent.
    ChromiumProbe,
    /// There are connections to what is rejected: IPv6 works.
    Working,
}

/// Something that a rule cuts off and that was perhaps not meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Warning {
    /// What it is about.
    pub kind: WarningKind,
    /// The rule.
    pub rule: RejectingRule,
    /// The whole of it in a sentence, the rule, its prefix and what was found where included.
    pub message: String,
    /// What the person can do about it.
    pub hint: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// One thing found that a rule rejects.
struct Collision {
    rule: RejectingRule,
    /// What was found, and where.
    what: String,
    /// What an exception would have to allow.
    exception: Ipv6Net,
}

impl Surroundings {
    /// What the policy would cut off, one warning for each kind and rule.
    ///
    /// `rules` only tell where to look: which of them rejects is what `rejecting` answers. A prefix within a
    /// subnet is asked for at its first address.
    #[must_use]
    pub fn warnings(&self, rules: &[Rule], rejecting: &Rejecting<'_>) -> Vec<Warning> {
        let policy = Policy::new(rules, rejecting);
        let mut warnings = Vec::new();
        for (kind, collisions) in [
            (WarningKind::Nameserver, self.nameservers(&policy)),
            (WarningKind::HostAddress, self.host_addresses(&policy)),
            (WarningKind::Nat64, self.nat64_prefixes(&policy)),
            (WarningKind::ChromiumProbe, chromium_probe(&policy)),
            (WarningKind::Working, self.working(&policy)),
        ] {
            warnings.extend(combine(kind, collisions));
        }
        warnings
    }

    fn nameservers(&self, policy: &Policy<'_>) -> Vec<Collision> {
        let rejected = |addr| {
            [Proto::Udp, Proto::Tcp]
                .into_iter()
                .find_map(|proto| (policy.rejecting)(addr, DNS_PORT, proto))
        };
        self.nameservers
            .iter()
            .filter_map(|nameserver| {
                let scope = nameserver
                    .scope
                    .as_ref()
                    .map(|scope| format!("%{scope}"))
                    .unwrap_or_default();
                Some(Collision {
                    rule: rejected(nameserver.addr)?,
                    what: format!("{}{scope}", nameserver.addr),
                    exception: nameserver.addr.into(),
                })
            })
            .collect()
    }

    fn host_addresses(&self, policy: &Policy<'_>) -> Vec<Collision> {
        let mut collisions = Vec::new();
        for namespace in &self.namespaces {
            for addr in &namespace.addrs {
                let subnet = addr.net.trunc();
                let rejected = match policy.rejects(addr.addr()) {
                    Some(rule) => Some((rule, format!("address {}", addr.addr()))),
                    None => policy.rejects_within(subnet).map(|rule| {
                        let part = if rule.prefix.contains(&subnet) {
                            ""
                        } else {
                            "part of "
                        };
                        let what = format!("{part}subnet {subnet}");
                        (rule, what)
                    }),
                };
                collisions.extend(rejected.map(|(rule, what)| Collision {
                    rule,
                    what: format!("{what} ({}, {})", addr.interface, namespace.owner),
                    exception: subnet,
                }));
            }
        }
        collisions
    }

    /// The prefixes that were detected; where nobody could tell, the well-known one.
    fn nat64_prefixes(&self, policy: &Policy<'_>) -> Vec<Collision> {
        let (prefixes, how) = match &self.nat64 {
            Nat64::Absent => return Vec::new(),
            Nat64::Found(prefixes) => (prefixes.clone(), "in use by this network's resolver"),
            Nat64::Unknown => (
                vec![nat64::well_known_prefix()],
                "well-known; whether it is in use could not be told",
            ),
        };
        prefixes
            .into_iter()
            .filter_map(|prefix| {
                Some(Collision {
                    rule: policy.rejects_within(prefix)?,
                    what: format!("{prefix} ({how})"),
                    exception: prefix,
                })
            })
            .collect()
    }

    fn working(&self, policy: &Policy<'_>) -> Vec<Collision> {
        let is_own = |peer: Ipv6Addr| {
            self.namespaces
                .iter()
                .flat_map(|it| &it.addrs)
                .any(|addr| addr.addr() == peer)
        };
        self.namespaces
            .iter()
            .flat_map(|namespace| namespace.peers.iter().map(move |&peer| (namespace, peer)))
            .filter(|(_, peer)| !is_own(*peer))
            .filter_map(|(namespace, peer)| {
                Some(Collision {
                    rule: policy.rejects(peer)?,
                    what: format!("{peer} ({})", namespace.owner),
                    exception: peer.into(),
                })
            })
            .collect()
    }
}

fn chromium_probe(policy: &Policy<'_>) -> Vec<Collision> {
    (policy.rejecting)(CHROMIUM_PROBE, DNS_PORT, Proto::Udp)
        .map(|rule| Collision {
            rule,
            what: CHROMIUM_PROBE.to_string(),
            exception: CHROMIUM_PROBE.into(),
        })
        .into_iter()
        .collect()
}

/// The policy's answers, and what to ask it.
struct Policy<'policy> {
    rules: Vec<&'policy Rule>,
    rejecting: &'policy Rejecting<'policy>,
    /// Port and protocol of a connect that each rejecting rule applies to.
    questions: Vec<(u16, Proto)>,
}

impl<'policy> Policy<'policy> {
    fn new(rules: &'policy [Rule], rejecting: &'policy Rejecting<'policy>) -> Self {
        let rules: Vec<_> = rules
            .iter()
            .filter(|rule| rule.action == RuleAction::Reject)
            .collect();
        let mut questions = Vec::new();
        for rule in &rules {
            let port = rule.ports.first().map_or(USUAL_PORT, |ports| *ports.start());
            let question = (port, rule.proto.unwrap_or(Proto::Tcp));
            if questions.len() < MAX_QUESTIONS && !questions.contains(&question) {
                questions.push(question);
            }
        }
        Self {
            rules,
            rejecting,
            questions,
        }
    }

    /// The rule that rejects some connect to the address.
    fn rejects(&self, addr: Ipv6Addr) -> Option<RejectingRule> {
        self.questions
            .iter()
            .find_map(|&(port, proto)| (self.rejecting)(addr, port, proto))
    }

    /// The rule that rejects some connect to the network's first address, or to the first of a prefix within it.
    fn rejects_within(&self, net: Ipv6Net) -> Option<RejectingRule> {
        self.rejects(net.network()).or_else(|| {
            self.rules.iter().find_map(|rule| {
                // Sorted by address: those within a network stand together.
                let from = rule
                    .prefixes
                    .partition_point(|prefix| prefix.network() < net.network());
                rule.prefixes[from..]
                    .iter()
                    .take_while(|prefix| net.contains(&prefix.network()))
                    .find_map(|prefix| self.rejects(prefix.network()))
            })
        })
    }
}

/// One warning for each rule, in the order in which the rules were met.
fn combine(kind: WarningKind, collisions: Vec<Collision>) -> Vec<Warning> {
    let mut by_rule: Vec<(RejectingRule, Vec<Collision>)> = Vec::new();
    for collision in collisions {
        match by_rule.iter_mut().find(|(rule, _)| *rule == collision.rule) {
            Some((_, same)) => same.push(collision),
            None => by_rule.push((collision.rule.clone(), vec![collision])),
        }
    }
    by_rule
        .into_iter()
        .map(|(rule, collisions)| {
            let whats: Vec<_> = collisions.iter().map(|it| it.what.as_str()).collect();
            Warning {
                kind,
                message: message(kind, &rule, &listed(&whats)),
                hint: hint(kind, &rule, &collisions),
                rule,
            }
        })
        .collect()
}

fn message(kind: WarningKind, rule: &RejectingRule, whats: &str) -> String {
    let RejectingRule { label, prefix } = rule;
    match kind {
        WarningKind::Nameserver => {
            format!("rule {label} rejects {prefix}, which covers nameservers in use: {whats}")
        }
        WarningKind::HostAddress => {
            format!("rule {label} rejects {prefix}, which covers local networks: {whats}")
        }
        WarningKind::Nat64 => {
            format!(
                "rule {label} rejects {prefix}, which covers NAT64, the way to IPv4 from IPv6-only networks: {whats}"
            )
        }
        WarningKind::ChromiumProbe => format!(
            "rule {label} rejects {prefix}, which covers {whats}: Chromium and programs built on it ask it whether \
             IPv6 works at all"
        ),
        WarningKind::Working => format!(
            "rule {label} rejects {prefix}, where IPv6 seems to work: TCP connections are established to {whats}"
        ),
    }
}

fn hint(kind: WarningKind, rule: &RejectingRule, collisions: &[Collision]) -> String {
    let internet = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
    let mut exceptions: Vec<Ipv6Net> = collisions.iter().map(|it| it.exception).collect();
    exceptions.sort_unstable();
    exceptions.dedup();
    let is_outside_internet = !exceptions
        .iter()
        .any(|it| internet.contains(it) || it.contains(&internet));
    // Only a longer prefix wins against the rule.
    exceptions.retain(|it| rule.prefix.contains(it) && *it != rule.prefix);
    let except = if exceptions.is_empty() {
        format!("take {} out of rule {}", rule.prefix, rule.label)
    } else {
        let allow: Vec<_> = exceptions.iter().map(|it| format!("`--allow {it}`")).collect();
        format!(
            "add {}",
            listed(&allow.iter().map(String::as_str).collect::<Vec<_>>())
        )
    };
    match kind {
        WarningKind::Working => {
            format!(
                "IPv6 that works is better left alone: narrow the prefix, try it with `--audit`, or {except}"
            )
        }
        WarningKind::ChromiumProbe => format!("that may be just what you want; if not, {except}"),
        _ if rule.prefix.contains(&internet) && is_outside_internet => {
            format!("write `internet` instead of {}, or {except}", rule.prefix)
        }
        _ => except,
    }
}

/// The first few, and how many more.
fn listed(items: &[&str]) -> String {
    let shown = items[..items.len().min(MAX_LISTED)].join(", ");
    match items.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
