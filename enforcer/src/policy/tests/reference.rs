//! What the rules say of one connect: every rule is looked at, one by one. Shares no code with the compiler, nor with
//! `decide`; only the hash of rollouts is the same one, which is tested by itself.

mod walk;

use std::net::Ipv6Addr;

use enforcer_common::{
    clause::{
        Action, CLAUSE_NAME_HIT, CLAUSE_NAME_MISS, MAX_CHOICES, MAX_WALK, Proto, rollout_below, rollout_hash,
        text_hash,
    },
    decide::{Connect, Known, Mode, Unmovable},
};
use ipnet::Ipv6Net;

use super::{
    super::{
        live::Live,
        overlay::{Answers, Becomes},
        rule::{GroupName, RedirectTo, Rollout, RolloutBy, Rule, RuleAction, RuleGroups},
    },
    property::{EXEMPT, PORTS, PROTOCOLS, UIDS, parse},
};

/// Rules, and what is known beside them.
pub(super) struct Policy<'a> {
    pub(super) rules: &'a [Rule],
    pub(super) groups: &'a [GroupName],
    pub(super) live: &'a Live,
    pub(super) answers: &'a Answers,
}

/// Every protocol, port and user at which something changes.
fn connects() -> impl Iterator<Item = (u16, u16, u32)> {
    let ports = PROTOCOLS
        .iter()
        .flat_map(|protocol| PORTS.iter().map(move |port| (*port, *protocol)));
    ports.flat_map(|(port, protocol)| UIDS.iter().map(move |uid| (port, protocol, *uid)))
}

/// What is told of one connect.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) verdict: Action,
    pub(super) rule: Option<usize>,
    pub(super) errno: Option<u16>,
    pub(super) would: Option<(usize, Action)>,
    pub(super) to: Option<(Ipv6Addr, u16)>,
    pub(super) unmovable: Option<Unmovable>,
    pub(super) left_out: Option<usize>,
    /// Not said where a narrower rule may or may not hide that the address is near one that a name has: the compiler
    /// leaves out what answers as its surroundings do.
    pub(super) name: Option<u8>,
}

/// Whether the rule's conditions hold.
fn matches(rule: &Rule, dport: u16, protocol: u16, uid: u32) -> bool {
    let proto_holds = match rule.proto {
        None => true,
        Some(Proto::Tcp) => protocol == 6 || protocol == 262,
        Some(Proto::Udp) => protocol == 17,
    };
    let port_holds =
        rule.ports.is_empty() || (protocol != 58 && rule.ports.iter().any(|range| range.contains(&dport)));
    let uid_holds = rule.uids.is_empty() || rule.uids.iter().any(|range| range.contains(&uid));
    proto_holds && port_holds && uid_holds
}

/// Whether an exempt prefix keeps the address, or all of a prefix, out of the reach of a rule with that prefix.
fn barred(prefix: &Ipv6Net, within: impl Into<Ipv6Net>) -> bool {
    let within = within.into();
    let mut exempt = EXEMPT.iter().map(|exempt| parse::<Ipv6Net>(exempt));
    exempt.any(|exempt| exempt.contains(&within) && !exempt.contains(prefix))
}

fn in_groups(rule: &Rule, groups: &[GroupName]) -> bool {
    match &rule.groups {
        RuleGroups::All => true,
        RuleGroups::Named(names) => names.iter().any(|name| groups.iter().any(|group| group == name)),
    }
}

fn conditions(rule: &Rule) -> usize {
    [
        !rule.ports.is_empty(),
        rule.proto.is_some(),
        !rule.uids.is_empty(),
    ]
    .into_iter()
    .filter(|is| *is)
    .count()
}

/// A rule that covers an address, with the longest of its prefixes that does.
struct Candidate<'a> {
    index: usize,
    rule: &'a Rule,
    prefix: Ipv6Net,
    becomes: Option<&'a Becomes>,
}

/// The rules that cover an address, in the order in which they count: longest prefix, most conditions, audit before
/// acting, prefixes before names, first written.
fn candidates<'a>(
    rules: &'a [Rule],
    groups: &[GroupName],
    answers: Option<&'a Answers>,
    address: Ipv6Addr,
) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        if !rule.enabled || !in_groups(rule, groups) {
            continue;
        }
        let covering = rule.prefixes.iter().filter(|prefix| prefix.contains(&address));
        let covering = covering.filter(|prefix| !barred(prefix, address));
        if let Some(prefix) = covering.max_by_key(|prefix| prefix.prefix_len()) {
            found.push(Candidate {
                index,
                rule,
                prefix: *prefix,
                becomes: None,
            });
        }
        let of_rule = answers.and_then(|answers| answers.get(&(index as u32)));
        if let Some(becomes) = of_rule.and_then(|of_rule| of_rule.get(&address)) {
            found.push(Candidate {
                index,
                rule,
                prefix: address.into(),
                becomes: Some(becomes),
            });
        }
    }
    found.sort_by(|a, b| {
        let rank = |one: &Candidate<'_>| (one.prefix.prefix_len(), conditions(one.rule));
        let first = |one: &Candidate<'_>| (one.rule.mode != Mode::Audit, one.becomes.is_some(), one.index);
        rank(b).cmp(&rank(a)).then(first(a).cmp(&first(b)))
    });
    found
}

/// What comes of a connect.
pub(super) fn decide(policy: &Policy<'_>, address: Ipv6Addr, connect: &Connect, known: &Known) -> Told {
    let mut told = Told {
        verdict: Action::Allow,
        rule: None,
        errno: None,
        would: None,
        to: None,
        unmovable: None,
        left_out: None,
        name: Some(0),
    };
    let answers = (!policy.leaves_names_out(address)).then_some(policy.answers);
    let candidates = candidates(policy.rules, policy.groups, answers, address);
    // Around the addresses that names have, connects are counted, unless a rule has something narrower there.
    if is_near_a_name(policy, address) {
        let is_narrower = candidates.iter().any(|one| one.prefix.prefix_len() > 48);
        told.name = (!is_narrower).then_some(CLAUSE_NAME_MISS);
    }
    for one in &candidates {
        if one.becomes.is_some() {
            told.name = Some(CLAUSE_NAME_HIT);
        }
        let Some((action, to)) = does(policy, one, address, known) else {
            continue;
        };
        let index = one.index as u32;
        let expired = one.rule.expires.is_some()
            && known.boot_ns
                >= policy
                    .live
                    .deadlines_boot_ns
                    .get(&index)
                    .copied()
                    .unwrap_or(u64::MAX);
        if expired || !matches(one.rule, connect.dport, connect.protocol, known.uid) {
            continue;
        }
        if one
            .rule
            .rollout
            .as_ref()
            .is_some_and(|rollout| is_left_out(one.rule, rollout, address, connect, known))
        {
            told.left_out = told.left_out.or(Some(one.index));
            continue;
        }
        let to_ipv4 = to.is_some_and(|(to, _)| to.to_ipv4_mapped().is_some());
        let unmovable = known.unmovable.filter(|_| to_ipv4);
        let verdict = if unmovable.is_some() {
            Action::Reject
        } else {
            action
        };
        if one.rule.mode == Mode::Audit || connect.mode == Mode::Audit {
            if told.would.is_none() {
                told.would = Some((one.index, verdict));
                (told.to, told.unmovable) = (to, unmovable);
            }
            if one.rule.mode == Mode::Audit {
                continue;
            }
            break;
        }
        told.verdict = verdict;
        told.rule = Some(one.index);
        told.errno = (verdict == Action::Reject).then_some(one.rule.errno.number);
        (told.to, told.unmovable) = (to, unmovable);
        break;
    }
    told
}

/// Whether an address lies in the /48 of one that a name has, and no exempt prefix or wider miss hides that.
fn is_near_a_name(policy: &Policy<'_>, address: Ipv6Addr) -> bool {
    let around = Ipv6Net::new(address, 48).unwrap().trunc();
    if barred(&around, address) && is_barrier(policy, address) {
        return false;
    }
    // There must be room for counting.
    if policy.walk(around, None) >= MAX_WALK as usize {
        return false;
    }
    policy.rules.iter().enumerate().any(|(index, rule)| {
        let known = policy.answers.get(&(index as u32));
        rule.enabled
            && in_groups(rule, policy.groups)
            && known.is_some_and(|known| known.keys().any(|known| around.contains(known)))
    })
}

/// Whether the compiled policy has an exempt prefix as an entry there: only where a rule reaches around it.
fn is_barrier(policy: &Policy<'_>, address: Ipv6Addr) -> bool {
    policy.rules.iter().any(|rule| {
        rule.enabled
            && in_groups(rule, policy.groups)
            && rule
                .prefixes
                .iter()
                .any(|prefix| prefix.contains(&address) && barred(prefix, address))
    })
}

/// What a rule does there, and where it redirects to; nothing if it does not know.
fn does(
    policy: &Policy<'_>,
    one: &Candidate<'_>,
    address: Ipv6Addr,
    known: &Known,
) -> Option<(Action, Option<(Ipv6Addr, u16)>)> {
    let pick = |addresses: &[std::net::Ipv4Addr]| {
        let addresses = &addresses[..addresses.len().min(MAX_CHOICES)];
        let hash = u64::from(rollout_hash(one.index as u32, known.socket));
        let at = (hash * addresses.len() as u64) >> 32;
        Some(addresses.get(at as usize)?.to_ipv6_mapped())
    };
    let host_bits = 128 - u32::from(one.prefix.prefix_len());
    match (&one.rule.action, one.becomes) {
        (RuleAction::Allow, _) => Some((Action::Allow, None)),
        (RuleAction::Reject, _) | (_, Some(Becomes::Rejected)) => Some((Action::Reject, None)),
        (_, Some(Becomes::Absent)) => None,
        (_, Some(Becomes::To(addresses))) => Some((Action::Redirect, Some((pick(addresses)?, 0)))),
        (RuleAction::Redirect(RedirectTo::Address(to)), _) => {
            Some((Action::Redirect, Some((*to.ip(), to.port()))))
        }
        (RuleAction::Redirect(RedirectTo::Prefix(to)), _) => {
            let low = u128::from(address) & 1_u128.checked_shl(host_bits).unwrap_or(0).wrapping_sub(1);
            let to = Ipv6Addr::from(u128::from(to.network()) | low);
            Some((Action::Redirect, Some((to, 0))))
        }
        (RuleAction::Redirect(RedirectTo::Embedded), _) => {
            let octets = address.octets();
            let first = usize::from(one.prefix.prefix_len()) / 8;
            // Octet 8 is skipped (RFC 6052 section 2.2).
            let mut inside = octets.iter().enumerate().skip(first).filter(|(at, _)| *at != 8);
            let mut next = || *inside.next().unwrap().1;
            let ipv4 = std::net::Ipv4Addr::new(next(), next(), next(), next());
            Some((Action::Redirect, Some((ipv4.to_ipv6_mapped(), 0))))
        }
        (RuleAction::Redirect(RedirectTo::Host { port, .. }), _) => {
            let addresses = policy.live.destinations.get(&(one.index as u32))?;
            Some((Action::Redirect, Some((pick(addresses)?, *port))))
        }
        (RuleAction::Redirect(RedirectTo::Twin), _) => None,
    }
}

/// Whether the rule's rollout leaves the connect out.
pub(super) fn is_left_out(
    rule: &Rule,
    rollout: &Rollout,
    address: Ipv6Addr,
    connect: &Connect,
    known: &Known,
) -> bool {
    let is_canary = rollout.canary_list != 0 && connect.canaries & (1 << (rollout.canary_list - 1)) != 0;
    if is_canary || rollout.percent == 100 {
        return false;
    }
    let key = match (rollout.by, &rule.host) {
        (RolloutBy::Target, _) => connect.rollout_key,
        (RolloutBy::Process, _) => known.process,
        (RolloutBy::Destination, Some(host)) => text_hash(host.name.as_str().as_bytes()),
        (RolloutBy::Destination, None) => {
            let covering = rule.prefixes.iter().filter(|prefix| prefix.contains(&address));
            let widest = covering.min_by_key(|prefix| prefix.prefix_len()).unwrap();
            let text: Vec<u8> = widest
                .network()
                .octets()
                .into_iter()
                .chain([widest.prefix_len()])
                .collect();
            text_hash(&text)
        }
    };
    rollout_hash(text_hash(rule.label.as_bytes()), key) >= rollout_below(rollout.percent)
}

/// Whether two rules tie: at one prefix or name, for one connect, with as many conditions and another outcome.
/// Every protocol, port and user is tried.
pub(super) fn tie(a: &Rule, b: &Rule, groups: &[GroupName]) -> bool {
    let errno = |rule: &Rule| (rule.action != RuleAction::Allow).then_some(rule.errno.number);
    in_groups(a, groups)
        && in_groups(b, groups)
        && a.enabled
        && b.enabled
        && a.mode == b.mode
        && conditions(a) == conditions(b)
        && (&a.action, errno(a)) != (&b.action, errno(b))
        && (a.prefixes.iter().any(|prefix| b.prefixes.contains(prefix)) || is_one_name(a, b))
        && connects()
            .any(|(port, protocol, uid)| matches(a, port, protocol, uid) && matches(b, port, protocol, uid))
}

fn is_one_name(a: &Rule, b: &Rule) -> bool {
    let name = |rule: &Rule| rule.host.as_ref().map(|host| host.name.clone());
    name(a).is_some() && name(a) == name(b)
}

/// Whether a redirect makes a connect that would be rejected, or redirected by the same rule again.
pub(super) fn leads_nowhere(rules: &[Rule], index: usize, groups: &[GroupName]) -> bool {
    let rule = &rules[index];
    let (to, to_port) = match &rule.action {
        RuleAction::Redirect(RedirectTo::Address(to)) => (Ipv6Net::from(*to.ip()), to.port()),
        RuleAction::Redirect(RedirectTo::Prefix(to)) => (*to, 0),
        _ => return false,
    };
    if !rule.enabled || !in_groups(rule, groups) {
        return false;
    }
    // Where what answers may change: where a prefix begins, and behind where one ends.
    let exempt = EXEMPT.iter().map(|exempt| parse::<Ipv6Net>(exempt));
    let all = rules
        .iter()
        .flat_map(|rule| rule.prefixes.iter().copied())
        .chain(exempt);
    let behind = |prefix: &Ipv6Net| u128::from(prefix.broadcast()).checked_add(1).map(Ipv6Addr::from);
    let mut addresses = all.flat_map(|prefix| [Some(prefix.network()), behind(&prefix)]);
    let begins = leads_nowhere_at(rules, index, groups, to.network(), to_port);
    begins
        || addresses.any(|address| {
            address.is_some_and(|address| {
                to.contains(&address) && leads_nowhere_at(rules, index, groups, address, to_port)
            })
        })
}

fn leads_nowhere_at(
    rules: &[Rule],
    index: usize,
    groups: &[GroupName],
    address: Ipv6Addr,
    to_port: u16,
) -> bool {
    let rule = &rules[index];
    let there = candidates(rules, groups, None, address);
    let comes_back = |port: u16, protocol: u16, uid: u32| {
        for one in there.iter().filter(|one| one.rule.mode != Mode::Audit) {
            if !matches(one.rule, port, protocol, uid) {
                continue;
            }
            if one.index == index || one.rule.action == RuleAction::Reject {
                return true;
            }
            let takes_all = |rollout: &Rollout| rollout.percent == 100;
            if one.rule.rollout.as_ref().is_none_or(takes_all) && one.rule.expires.is_none() {
                return false;
            }
        }
        false
    };
    PROTOCOLS.iter().any(|&protocol| {
        PORTS.iter().any(|&port| {
            let gone_to = if to_port == 0 { port } else { to_port };
            UIDS.iter()
                .any(|&uid| matches(rule, port, protocol, uid) && comes_back(gone_to, protocol, uid))
        })
    })
}
