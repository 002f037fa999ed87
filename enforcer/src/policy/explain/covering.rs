//! Why a rule that covers an address does not decide a connect there. Told from the rules; decides nothing.

use std::{collections::BTreeSet, net::Ipv6Addr, ops::RangeInclusive};

use enforcer_common::{
    clause::{IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Proto},
    decide::Mode,
};
use ipnet::Ipv6Net;

use super::{
    super::{
        overlay::Becomes,
        rule::{RedirectTo, Rule, RuleAction},
    },
    exempt,
    outcome::Outcome,
    question::{Grounds, Instance, Kind, Question},
};

/// Why a rule that covers an address does not decide a connect there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It is switched off.
    Disabled,
    /// The address is exempt from rules as wide as this one.
    Exempt,
    /// It is for another protocol.
    Proto,
    /// It is for other ports.
    Ports,
    /// It is for other users.
    Uid,
    /// It redirects to a name of which no address is known.
    NotYetResolved,
    /// Its name has no IPv4 address, and it says that connects then go on.
    WithoutTwin,
    /// So many rules cover the address that those which have a name are left out there.
    TooManyRules,
    /// It has ended.
    Expired,
    /// Its rollout leaves the connect out.
    LeftOut,
    /// The rule that decides has a longer prefix.
    ShorterPrefix,
    /// The rule that decides has the same prefix and more conditions.
    FewerConditions,
    /// It is in audit mode: it only says what it would do.
    Audit,
    /// The rule that decides has the same prefix and as many conditions, does the same, and is written first.
    WrittenLater,
    /// The rule that decides has the same prefix and as many conditions, and goes first: rules in audit mode do, then
    /// those that have prefixes rather than a name, then what is written first.
    GoesSecond,
}

/// A rule that covers the address and did not decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loser {
    /// Its index.
    pub rule: u32,
    /// The longest of its prefixes that covers the address; the address, of a rule that has a name.
    pub prefix: Ipv6Net,
    /// Why.
    pub reason: Reason,
}

/// The rules that cover an address, with the longest of their prefixes that does, in the order in which they count.
pub(super) struct Covering<'policy> {
    grounds: Grounds<'policy>,
    address: Ipv6Addr,
    covering: Vec<One<'policy>>,
    exempt: Option<Ipv6Net>,
    /// The one port that is asked about.
    port: Option<u16>,
    /// The one user that is asked about.
    uid: Option<u32>,
}

#[derive(Clone, Copy)]
struct One<'policy> {
    index: u32,
    rule: &'policy Rule,
    prefix: Ipv6Net,
}

impl<'policy> Covering<'policy> {
    pub(super) fn new(grounds: Grounds<'policy>, question: &Question) -> Self {
        let address = question.address;
        let covers = |index: u32, rule: &Rule| match &rule.host {
            Some(_) => grounds.becomes(index, address).map(|_| address.into()),
            None => rule.covering_prefix(address),
        };
        let mut covering: Vec<One<'policy>> = (0..)
            .zip(grounds.rules)
            .filter(|(_, rule)| rule.is_in(grounds.groups))
            .filter_map(|(index, rule)| {
                let prefix = covers(index, rule)?;
                Some(One { index, rule, prefix })
            })
            .collect();
        // Stable: rules that are alike stay as written.
        covering.sort_by_key(|One { rule, prefix, .. }| {
            let conditions = std::cmp::Reverse((prefix.prefix_len(), rule.conditions()));
            (conditions, rule.mode != Mode::Audit, rule.host.is_some())
        });
        Self {
            grounds,
            address,
            covering,
            exempt: exempt(address).map(|(net, _)| net),
            port: question.port,
            uid: question.uid,
        }
    }

    /// The ports that are asked about, in ranges within which no rule tells one from another.
    pub(super) fn port_ranges(&self, kind: Kind) -> Vec<RangeInclusive<u16>> {
        if let Some(port) = self.port {
            return vec![port..=port];
        }
        if kind == Kind::Ping {
            return vec![0..=u16::MAX];
        }
        let ranges = self.covering.iter().flat_map(|one| &one.rule.ports);
        let mut starts = BTreeSet::from([0]);
        for range in ranges {
            starts.insert(*range.start());
            starts.extend(range.end().checked_add(1));
        }
        between(&starts, u16::MAX, |next| next - 1)
    }

    /// The same of users.
    pub(super) fn user_ranges(&self) -> Vec<RangeInclusive<u32>> {
        if let Some(uid) = self.uid {
            return vec![uid..=uid];
        }
        let ranges = self.covering.iter().flat_map(|one| &one.rule.uids);
        let mut starts = BTreeSet::from([0]);
        for range in ranges {
            starts.insert(*range.start());
            starts.extend(range.end().checked_add(1));
        }
        between(&starts, u32::MAX, |next| next - 1)
    }

    /// Why the rules that did not decide did not.
    pub(super) fn losers(&self, outcome: &Outcome, instance: &Instance, left_out: &[u32]) -> Vec<Loser> {
        let decider = outcome.decider();
        let at = self.covering.iter().position(|one| Some(one.index) == decider);
        self.covering
            .iter()
            .enumerate()
            .filter(|(position, _)| Some(*position) != at)
            .map(|(position, one)| Loser {
                rule: one.index,
                prefix: one.prefix,
                reason: self.absent(one, instance, left_out).unwrap_or_else(|| {
                    // What stands behind the rule that decides has lost to it.
                    let decider = at.filter(|at| *at < position).map(|at| self.covering[at]);
                    self.lost(one, decider, instance)
                }),
            })
            .collect()
    }

    /// Why a rule is as if absent, whichever decides. A rule that does not match has lost to nobody.
    fn absent(&self, one: &One<'_>, instance: &Instance, left_out: &[u32]) -> Option<Reason> {
        let rule = one.rule;
        if !rule.enabled {
            return Some(Reason::Disabled);
        }
        if self.exempt.is_some_and(|exempt| !exempt.contains(&one.prefix)) {
            return Some(Reason::Exempt);
        }
        let protocol = instance.connect.protocol;
        let wanted = |proto: Proto| match proto {
            Proto::Tcp => protocol == IPPROTO_TCP,
            Proto::Udp => protocol == IPPROTO_UDP,
        };
        if rule.proto.is_some_and(|proto| !wanted(proto)) {
            return Some(Reason::Proto);
        }
        // Where every port is asked about, ports that get the same by the same rule stay one case: of a rule that
        // would lose anyway it does not matter which it is for. The same holds of users.
        if is_out_of_ports(rule, instance) && (self.port.is_some() || instance.kind == Kind::Ping) {
            return Some(Reason::Ports);
        }
        if is_out_of_users(rule, instance) && self.uid.is_some() {
            return Some(Reason::Uid);
        }
        if rule.host.is_some() && self.grounds.overlay.leaves_out(&self.address) {
            return Some(Reason::TooManyRules);
        }
        match self.grounds.becomes(one.index, self.address) {
            Some(Becomes::Absent) => return Some(Reason::WithoutTwin),
            Some(Becomes::To(addresses)) if addresses.is_empty() => return Some(Reason::NotYetResolved),
            _ => {}
        }
        let is_to_host = matches!(rule.action, RuleAction::Redirect(RedirectTo::Host { .. }));
        if is_to_host && self.grounds.live.destinations(one.index).is_empty() {
            return Some(Reason::NotYetResolved);
        }
        let has_ended =
            rule.expires.is_some() && self.grounds.live.deadline_boot_ns(one.index) <= instance.boot_ns();
        if has_ended {
            return Some(Reason::Expired);
        }
        left_out.contains(&one.index).then_some(Reason::LeftOut)
    }

    /// Why a rule that is not as if absent does not decide, where another one does, or where it only tells.
    fn lost(&self, one: &One<'_>, decider: Option<One<'_>>, instance: &Instance) -> Reason {
        if let Some(decider) = decider {
            if one.prefix.prefix_len() < decider.prefix.prefix_len() {
                return Reason::ShorterPrefix;
            }
            if one.rule.conditions() < decider.rule.conditions() {
                return Reason::FewerConditions;
            }
        }
        if is_out_of_ports(one.rule, instance) {
            return Reason::Ports;
        }
        if is_out_of_users(one.rule, instance) {
            return Reason::Uid;
        }
        match decider {
            None => Reason::Audit,
            Some(decider) if self.does_the_same(one, &decider) => Reason::WrittenLater,
            Some(_) => Reason::GoesSecond,
        }
    }

    /// Whether only the order in which they are written tells two rules apart.
    fn does_the_same(&self, one: &One<'_>, decider: &One<'_>) -> bool {
        let errno = |rule: &Rule| (rule.action != RuleAction::Allow).then_some(rule.errno);
        let becomes = |index| self.grounds.becomes(index, self.address);
        (&one.rule.action, errno(one.rule), one.rule.mode)
            == (&decider.rule.action, errno(decider.rule), decider.rule.mode)
            && becomes(one.index) == becomes(decider.index)
            && decider.index < one.index
    }
}

/// The ranges that begin there, up to the last number.
fn between<T: Copy + Ord>(starts: &BTreeSet<T>, last: T, before: impl Fn(T) -> T) -> Vec<RangeInclusive<T>> {
    let ends = starts.iter().skip(1).map(|next| before(*next)).chain([last]);
    starts.iter().zip(ends).map(|(start, end)| *start..=end).collect()
}

fn is_out_of_ports(rule: &Rule, instance: &Instance) -> bool {
    let has_ports = instance.connect.protocol != IPPROTO_ICMPV6;
    let port = instance.connect.dport;
    let is_in = has_ports && rule.ports.iter().any(|range| range.contains(&port));
    !rule.ports.is_empty() && !is_in
}

fn is_out_of_users(rule: &Rule, instance: &Instance) -> bool {
    let uid = instance.uid();
    !rule.uids.is_empty() && !rule.uids.iter().any(|range| range.contains(&uid))
}
