//! [`overlay`]: the rules that have a name instead of prefixes, compiled with the answers that were found.
//!
//! An overlay is small and lies over a compiled policy. Each address of a name is a prefix of 128 bits: its list has the
//! rules of that name, merged with those that the policy has for just that address, and goes on with what covers them
//! in the policy. The /48 around each address has a clause that decides nothing: it counts how often connects miss the
//! addresses that are known.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, Ipv6Addr},
};

use enforcer_common::clause::{
    Action, CLAUSE_NAME_HIT, CLAUSE_NAME_MISS, CLAUSE_UNRESOLVED, Clause, DestinationForm, MAX_WALK,
};
use ipnet::Ipv6Net;

use super::{
    compile::order_at_prefix,
    compiled::CompiledPolicy,
    lists::{Lists, clause_of},
    live::Live,
    rule::{GroupName, Rule},
};

/// The most clauses of an overlay: 8 MiB in the kernel. Addresses for which there is no room are left out and told of.
pub const MAX_OVERLAY_CLAUSES: usize = 1 << 17;

/// Prefix length of the surroundings of an address: what is assigned to one site (RFC 6177).
pub const SURROUNDINGS_LEN: u8 = 48;

/// What becomes of connects to an address of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// What the rule says: it allows or rejects.
    AsRuled,
    /// They go to one of these: a redirect, to the IPv4 addresses of the same name. Sorted, without duplicates.
    To(Vec<Ipv4Addr>),
    /// They are rejected, because there is no such address.
    Rejected,
    /// The rule is as if absent, because there is no such address.
    Absent,
}

/// The addresses of the names of rules, by the rule's index.
pub type Answers = HashMap<u32, BTreeMap<Ipv6Addr, Becomes>>;

/// An overlay, and what did not fit into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Entries and clauses; indices of its own clauses have [`IN_OVERLAY`](enforcer_common::clause::IN_OVERLAY) set.
    pub compiled: CompiledPolicy,
    /// Addresses at which so many clauses would have to be tried that their names' rules are left out there.
    pub too_long: Vec<Ipv6Addr>,
    /// Addresses left out because there is no room: see [`MAX_OVERLAY_CLAUSES`].
    pub no_room: Vec<Ipv6Addr>,
}

impl Overlay {
    /// Whether the rules that have a name are left out at that address.
    #[must_use]
    pub fn leaves_out(&self, address: &Ipv6Addr) -> bool {
        self.too_long.contains(address) || self.no_room.contains(address)
    }
}

/// Compiles the answers to the names of those groups' rules, for a policy that was compiled from the same rules.
#[must_use]
pub fn overlay(
    rules: &[Rule],
    groups: &[GroupName],
    live: &Live,
    base: &CompiledPolicy,
    answers: &Answers,
) -> Overlay {
    let named: Vec<u32> = (0..)
        .zip(rules)
        .filter(|(_, rule)| rule.enabled && rule.host.is_some() && rule.is_in(groups))
        .map(|(index, _)| index)
        .collect();
    let mut of_address: BTreeMap<Ipv6Addr, Vec<u32>> = BTreeMap::new();
    let mut of_surroundings: BTreeMap<Ipv6Net, u32> = BTreeMap::new();
    for index in named {
        for address in answers.get(&index).into_iter().flat_map(BTreeMap::keys) {
            of_address.entry(*address).or_default().push(index);
            if let Ok(around) = Ipv6Net::new(*address, SURROUNDINGS_LEN) {
                of_surroundings.entry(around.trunc()).or_insert(index);
            }
        }
    }
    let mut making = Making {
        rules,
        live,
        base,
        answers,
        lists: Lists::over(base, live),
    };
    let mut entries = Vec::new();
    let (mut too_long, mut no_room) = (Vec::new(), Vec::new());
    for (around, index) in of_surroundings {
        if let Some(head) = making.surroundings(index, around) {
            entries.push(making.lists.entry(around, head));
        }
    }
    let exactly = exactly(rules, groups, &of_address);
    for (address, named) in of_address {
        let prefix = Ipv6Net::from(address);
        let mut at_prefix = exactly.get(&address).cloned().unwrap_or_default();
        at_prefix.extend(named);
        if making.lists.len() >= MAX_OVERLAY_CLAUSES {
            no_room.push(address);
            continue;
        }
        match making.address(prefix, address, at_prefix) {
            Some(head) => entries.push(making.lists.entry(prefix, head)),
            None => too_long.push(address),
        }
    }
    entries.sort_by_key(|entry| entry.prefix);
    Overlay {
        compiled: CompiledPolicy::new(entries, making.lists.into_clauses()),
        too_long,
        no_room,
    }
}

/// The rules that have just those addresses among their prefixes, for each that some rule has.
fn exactly(
    rules: &[Rule],
    groups: &[GroupName],
    addresses: &BTreeMap<Ipv6Addr, Vec<u32>>,
) -> HashMap<Ipv6Addr, Vec<u32>> {
    let mut found: HashMap<Ipv6Addr, Vec<u32>> = HashMap::new();
    if addresses.is_empty() {
        return found;
    }
    for (index, rule) in (0..)
        .zip(rules)
        .filter(|(_, rule)| rule.enabled && rule.is_in(groups))
    {
        let whole = rule.prefixes.iter().filter(|prefix| prefix.prefix_len() == 128);
        for prefix in whole.filter(|prefix| addresses.contains_key(&prefix.network())) {
            found.entry(prefix.network()).or_default().push(index);
        }
    }
    found
}

struct Making<'a> {
    rules: &'a [Rule],
    live: &'a Live,
    base: &'a CompiledPolicy,
    answers: &'a Answers,
    lists: Lists<'a>,
}

impl Making<'_> {
    /// The list of an address, unless it would be too long.
    fn address(&mut self, prefix: Ipv6Net, address: Ipv6Addr, mut at_prefix: Vec<u32>) -> Option<u32> {
        order_at_prefix(self.rules, &mut at_prefix);
        let wider = Ipv6Net::new(address, 127).ok()?.trunc();
        let tail = self.base.head_covering(wider);
        let mut head = tail;
        for &index in at_prefix.iter().rev() {
            let rule = &self.rules[index as usize];
            head = match self.becomes(index, address) {
                None => self.lists.prepend(index, rule, prefix, head),
                Some(becomes) => self.named(index, rule, prefix, becomes, head),
            };
        }
        (self.lists.length(head) <= MAX_WALK).then_some(head)
    }

    fn becomes(&self, index: u32, address: Ipv6Addr) -> Option<Becomes> {
        self.answers.get(&index)?.get(&address).cloned()
    }

    fn named(&mut self, index: u32, rule: &Rule, prefix: Ipv6Net, becomes: Becomes, tail: u32) -> u32 {
        let mut clause = Clause {
            next: tail,
            ..clause_of(index, rule, prefix, self.live)
        };
        clause.flags |= CLAUSE_NAME_HIT;
        match becomes {
            Becomes::AsRuled => self.lists.prepend_clauses(clause, rule, None),
            Becomes::To(addresses) => {
                clause.to_form = DestinationForm::Choice as u8;
                self.lists.prepend_clauses(clause, rule, Some(&addresses))
            }
            Becomes::Rejected => {
                clause.flags &= !CLAUSE_UNRESOLVED;
                clause.action = Action::Reject as u8;
                self.lists.prepend_clauses(clause, rule, None)
            }
            Becomes::Absent => {
                clause.flags |= CLAUSE_UNRESOLVED;
                self.lists.prepend_clauses(clause, rule, None)
            }
        }
    }

    /// The list of the surroundings of an address, unless it would be too long.
    fn surroundings(&mut self, index: u32, around: Ipv6Net) -> Option<u32> {
        let tail = self.base.head_covering(around);
        let mut clause = clause_of(index, &self.rules[index as usize], around, self.live);
        clause.flags |= CLAUSE_NAME_MISS;
        clause.next = tail;
        (self.lists.length(tail) < MAX_WALK).then(|| self.lists.intern(vec![clause]))
    }
}
