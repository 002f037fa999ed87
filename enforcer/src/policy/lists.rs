//! [`Lists`]: the clause array in the making. Equal lists are one.

use std::{collections::HashMap, net::Ipv4Addr};

use enforcer_common::{
    address::words_from_octets,
    clause::{
        ANY_PROTO, Action, CLAUSE_AUDIT, CLAUSE_OPAQUE, CLAUSE_UNRESOLVED, Clause, DestinationForm,
        IN_OVERLAY, MAX_CHOICES, MAX_CLAUSES, NEVER, NO_CLAUSE, RolloutBy as ClauseRolloutBy, rollout_below,
        rollout_hash, text_hash,
    },
    decide::Mode,
};
use ipnet::Ipv6Net;

use super::{
    compiled::{CompiledPolicy, Entry},
    live::Live,
    rule::{RedirectTo, RolloutBy, Rule, RuleAction},
};

/// Clauses, with the lists they make.
pub(super) struct Lists<'a> {
    live: &'a Live,
    /// [`IN_OVERLAY`] if the indices are to be an overlay's.
    layer: u32,
    /// What an overlay's lists go on in.
    base: Option<&'a CompiledPolicy>,
    clauses: Vec<Clause>,
    /// Length of the list that begins at each clause.
    lengths: Vec<u32>,
    /// By the clauses of a block: one, but for those that choose between addresses.
    known: HashMap<Vec<Clause>, u32>,
}

impl<'a> Lists<'a> {
    /// No lists yet.
    pub(super) fn new(live: &'a Live) -> Self {
        Self {
            live,
            layer: 0,
            base: None,
            clauses: Vec::new(),
            lengths: Vec::new(),
            known: HashMap::new(),
        }
    }

    /// No lists yet of what lies over a policy.
    pub(super) fn over(base: &'a CompiledPolicy, live: &'a Live) -> Self {
        Self {
            layer: IN_OVERLAY,
            base: Some(base),
            ..Self::new(live)
        }
    }

    /// How many clauses there are.
    pub(super) fn len(&self) -> usize {
        self.clauses.len()
    }

    pub(super) fn into_clauses(self) -> Vec<Clause> {
        self.clauses
    }

    /// Length of a list, with what it goes on with.
    pub(super) fn length(&self, head: u32) -> u32 {
        match (self.lengths.get(self.place(head)), self.base) {
            (Some(length), _) => *length,
            (None, Some(base)) => base.list(head).count() as u32,
            (None, None) => 0,
        }
    }

    /// Where a clause is, if it is one of these: an index of another layer, and [`NO_CLAUSE`], is beyond all of them.
    fn place(&self, index: u32) -> usize {
        (index ^ self.layer) as usize
    }

    /// The entry of a prefix whose list that is.
    pub(super) fn entry(&self, prefix: Ipv6Net, head: u32) -> Entry {
        let first = self.clauses.get(self.place(head));
        Entry {
            prefix,
            head,
            allows_at_once: first.is_some_and(Clause::allows_at_once),
        }
    }

    /// The head of the list in which the rule's clauses for that prefix of its own stand before those of `tail`.
    pub(super) fn prepend(&mut self, index: u32, rule: &Rule, prefix: Ipv6Net, tail: u32) -> u32 {
        let mut clause = clause_of(index, rule, prefix, self.live);
        let begins_so = |first: &Clause| first.rule == index && first.width == clause.width;
        // A list begins with all clauses of its first rule. If that is this one, it has no more to say.
        if self.clauses.get(self.place(tail)).is_some_and(begins_so) {
            return tail;
        }
        clause.next = tail;
        if clause.is_unconditional() && rule.conditions() == 0 {
            // Nothing after it can ever act.
            clause.next = NO_CLAUSE;
        }
        let addresses = match &rule.action {
            RuleAction::Redirect(RedirectTo::Host { .. }) => Some(self.live.destinations(index)),
            _ => None,
        };
        self.prepend_clauses(clause, rule, addresses)
    }

    /// As [`prepend`](Self::prepend), of a clause that is made already, once for each of the rule's conditions.
    pub(super) fn prepend_clauses(
        &mut self,
        mut clause: Clause,
        rule: &Rule,
        addresses: Option<&[Ipv4Addr]>,
    ) -> u32 {
        let every_port = [0..=u16::MAX];
        let every_user = [0..=u32::MAX];
        let ports = if rule.ports.is_empty() {
            &every_port[..]
        } else {
            &rule.ports
        };
        let users = if rule.uids.is_empty() {
            &every_user[..]
        } else {
            &rule.uids
        };
        for users in users.iter().rev() {
            for ports in ports.iter().rev() {
                (clause.port_min, clause.port_max) = (*ports.start(), *ports.end());
                (clause.uid_min, clause.uid_max) = (*users.start(), *users.end());
                clause.next = match addresses {
                    Some(addresses) => self.intern(with_addresses(clause, addresses).to_vec()),
                    None => self.intern(vec![clause]),
                };
            }
        }
        clause.next
    }

    /// A clause that is no rule's with conditions of its own, before `tail`.
    pub(super) fn intern(&mut self, block: Vec<Clause>) -> u32 {
        if let Some(&index) = self.known.get(&block) {
            return index;
        }
        // Each clause costs more memory than there is long before indices run out; what has too many is refused.
        let index = self.clauses.len().min(MAX_CLAUSES as usize) as u32 | self.layer;
        let length = block.first().map_or(0, |first| self.length(first.next)) + 1;
        self.lengths.extend(block.iter().map(|_| length));
        self.clauses.extend_from_slice(&block);
        self.known.insert(block, index);
        index
    }
}

/// The clause of a rule at one of its prefixes, for every port and user, at the end of a list.
pub(super) fn clause_of(index: u32, rule: &Rule, prefix: Ipv6Net, live: &Live) -> Clause {
    let mut flags = 0;
    if rule.mode == Mode::Audit {
        flags |= CLAUSE_AUDIT;
    }
    if !rule.transparent {
        flags |= CLAUSE_OPAQUE;
    }
    let mut clause = Clause {
        next: NO_CLAUSE,
        rule: index,
        action: Action::Redirect as u8,
        proto: rule.proto.map_or(ANY_PROTO, |proto| proto as u8),
        errno: rule.errno.number,
        port_min: 0,
        port_max: u16::MAX,
        uid_min: 0,
        uid_max: u32::MAX,
        flags,
        to_form: DestinationForm::Fixed as u8,
        width: 0,
        choices: 0,
        to_port: 0,
        rollout_by: ClauseRolloutBy::Everybody as u8,
        canaries: 0,
        rollout_below: 0,
        rollout_salt: 0,
        expires_boot_ns: match rule.expires {
            Some(_) => live.deadline_boot_ns(index),
            None => NEVER,
        },
        to_be: [0; 4],
    };
    match &rule.action {
        RuleAction::Allow => clause.action = Action::Allow as u8,
        RuleAction::Reject => clause.action = Action::Reject as u8,
        RuleAction::Redirect(RedirectTo::Address(to)) => {
            clause.to_port = to.port();
            clause.to_be = words_from_octets(to.ip().octets());
        }
        RuleAction::Redirect(RedirectTo::Prefix(to)) => {
            clause.width = 128 - prefix.prefix_len();
            clause.to_be = words_from_octets(to.network().octets());
        }
        RuleAction::Redirect(RedirectTo::Embedded) => {
            clause.to_form = DestinationForm::Embedded as u8;
            clause.width = prefix.prefix_len();
        }
        RuleAction::Redirect(RedirectTo::Host { port, .. }) => {
            clause.to_form = DestinationForm::Choice as u8;
            clause.to_port = *port;
            // Whether there are addresses is for the block that the clause becomes.
            clause.flags |= CLAUSE_UNRESOLVED;
        }
        // Only names have twins, and those the overlay fills in.
        RuleAction::Redirect(RedirectTo::Twin) => clause.flags |= CLAUSE_UNRESOLVED,
    }
    if let Some(rollout) = &rule.rollout {
        let salt = text_hash(rule.label.as_bytes());
        let (by, salt) = match rollout.by {
            RolloutBy::Target => (ClauseRolloutBy::Target, salt),
            RolloutBy::Process => (ClauseRolloutBy::Process, salt),
            RolloutBy::Destination => {
                let key = destination_key(rule, prefix);
                (ClauseRolloutBy::Destination, rollout_hash(salt, key))
            }
        };
        clause.rollout_by = if rollout.percent >= 100 {
            ClauseRolloutBy::Everybody as u8
        } else {
            by as u8
        };
        clause.rollout_salt = salt;
        clause.rollout_below = rollout_below(rollout.percent);
        clause.canaries = rollout.canary_list;
    }
    clause
}

/// What a rollout by destination hashes: the name, or else the widest prefix of the rule that covers the one at hand, so
/// that the rule is in or out of one connect as a whole.
fn destination_key(rule: &Rule, prefix: Ipv6Net) -> u32 {
    if let Some(host) = &rule.host {
        return text_hash(host.name.as_str().as_bytes());
    }
    let widest = widest_covering(&rule.prefixes, prefix);
    let mut text = [0; 17];
    text[..16].copy_from_slice(&widest.network().octets());
    text[16] = widest.prefix_len();
    text_hash(&text)
}

/// The widest of sorted prefixes that covers one of them.
fn widest_covering(prefixes: &[Ipv6Net], prefix: Ipv6Net) -> Ipv6Net {
    (0..=prefix.prefix_len())
        .filter_map(|length| Ipv6Net::new(prefix.network(), length).ok())
        .map(|wider| wider.trunc())
        .find(|wider| prefixes.binary_search(wider).is_ok())
        .unwrap_or(prefix)
}

/// The block of a clause that chooses between addresses: as many clauses as there may ever be addresses, so that others
/// fit in later. Without any it matches nothing.
pub(super) fn with_addresses(mut clause: Clause, addresses: &[Ipv4Addr]) -> [Clause; MAX_CHOICES] {
    let used = &addresses[..addresses.len().min(MAX_CHOICES)];
    clause.flags &= !CLAUSE_UNRESOLVED;
    if used.is_empty() {
        clause.flags |= CLAUSE_UNRESOLVED;
    }
    let mut block = [Clause {
        next: NO_CLAUSE,
        choices: 0,
        to_be: [0; 4],
        ..clause
    }; MAX_CHOICES];
    for (slot, address) in block.iter_mut().zip(used) {
        slot.to_be = words_from_octets(address.to_ipv6_mapped().octets());
    }
    block[0].next = clause.next;
    block[0].choices = used.len() as u8;
    block
}
