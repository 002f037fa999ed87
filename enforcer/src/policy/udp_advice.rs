//! What a policy does to UDP without meaning it: addresses of a name are ranked by UDP connects, and what is sent without
//! a connect cannot be redirected. Both are quiet where a rule beside says what becomes of UDP.

use std::{
    collections::{HashMap, HashSet},
    ops::RangeInclusive,
};

use enforcer_common::clause::Proto;
use ipnet::Ipv6Net;

use super::rule::{HostName, Rule, RuleAction, RuleGroups};

/// What rules of one group with the same limits cover.
#[derive(Default)]
struct Covered<'a> {
    prefixes: HashSet<Ipv6Net>,
    names: HashSet<&'a HostName>,
}

/// Group (all of them, where absent), ports and users of a rule.
type Key<'a> = (
    Option<&'a str>,
    &'a [RangeInclusive<u16>],
    &'a [RangeInclusive<u32>],
);

/// The rules that decide about UDP.
pub(super) struct UdpRules<'a> {
    /// Those for UDP alone: at one prefix they go before rules for every protocol.
    own: HashMap<Key<'a>, Covered<'a>>,
    /// Those that reject or redirect UDP, whatever else they do.
    steering: HashMap<Key<'a>, Covered<'a>>,
}

impl<'a> UdpRules<'a> {
    /// Of all rules of a policy, those that always act.
    pub(super) fn new(rules: &'a [Rule]) -> Self {
        let mut udp = Self {
            own: HashMap::new(),
            steering: HashMap::new(),
        };
        // Long lists are not looked at where nobody would ask.
        let asks = |rule: &Rule| {
            rule.enabled && (rule.proto == Some(Proto::Tcp) || matches!(rule.action, RuleAction::Redirect(_)))
        };
        if !rules.iter().any(asks) {
            return udp;
        }
        for rule in rules.iter().filter(|rule| rule.is_certain()) {
            if rule.proto == Some(Proto::Udp) {
                add(&mut udp.own, rule);
            }
            if rule.proto != Some(Proto::Tcp) && rule.action != RuleAction::Allow {
                add(&mut udp.steering, rule);
            }
        }
        udp
    }

    /// Whether a rule beside that one, for UDP alone, decides about all its datagrams.
    pub(super) fn decide_all_of(&self, rule: &Rule) -> bool {
        let ports: [&[_]; 2] = [&[], &rule.ports];
        is_covered(&self.own, rule, &ports)
    }

    /// Whether a rule beside that one rejects or redirects what C libraries rank addresses by: UDP to every port.
    pub(super) fn steer_the_order_of(&self, rule: &Rule) -> bool {
        is_covered(&self.steering, rule, &[&[]])
    }
}

fn groups_of(rule: &Rule) -> Vec<Option<&str>> {
    match &rule.groups {
        RuleGroups::All => vec![None],
        RuleGroups::Named(names) => names.iter().map(|name| Some(name.as_str())).collect(),
    }
}

fn add<'a>(to: &mut HashMap<Key<'a>, Covered<'a>>, rule: &'a Rule) {
    for group in groups_of(rule) {
        let covered = to.entry((group, &rule.ports, &rule.uids)).or_default();
        covered.prefixes.extend(&rule.prefixes);
        covered.names.extend(rule.host.iter().map(|host| &host.name));
    }
}

/// Whether all that a rule covers is covered for each of its groups, for those ports, and for its users or for all.
fn is_covered(by: &HashMap<Key<'_>, Covered<'_>>, rule: &Rule, ports: &[&[RangeInclusive<u16>]]) -> bool {
    let users: [&[_]; 2] = [&[], &rule.uids];
    groups_of(rule).into_iter().all(|group| {
        let covered: Vec<&Covered<'_>> = [group, None]
            .into_iter()
            .flat_map(|group| ports.iter().map(move |ports| (group, *ports)))
            .flat_map(|(group, ports)| users.map(|users| (group, ports, users)))
            .filter_map(|key| by.get(&key))
            .collect();
        match &rule.host {
            Some(host) => covered.iter().any(|covered| covered.names.contains(&host.name)),
            None => rule
                .prefixes
                .iter()
                .all(|prefix| covered.iter().any(|covered| covered.prefixes.contains(prefix))),
        }
    })
}
