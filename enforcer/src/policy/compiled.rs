//! [`CompiledPolicy`]: what the kernel's maps hold, and the host's way to look into it.
//!
//! Only the compiler makes one. It says nothing of names and lines: a clause's rule is an index into the
//! policy's rules.

use std::{borrow::Cow, collections::HashSet, net::Ipv6Addr};

use enforcer_common::{
    address::{AddrWords, octets_from_words},
    clause::{
        ALLOWS_AT_ONCE, Clause, DestinationForm, IN_OVERLAY, MAX_CHOICES, NEVER, NO_CLAUSE, NO_ENTRY,
        RolloutBy, entry_value,
    },
    decide::PolicyTable,
};
use ipnet::Ipv6Net;

use super::{lists::with_addresses, live::Live, rule::longest_match, tree::Tree};

/// A prefix and the head of its clause list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The prefix; host bits are zero.
    pub prefix: Ipv6Net,
    /// Index of its first clause, or [`NO_CLAUSE`] for a barrier.
    pub head: u32,
    /// Whether that clause is such that nobody need read it: [`Clause::allows_at_once`].
    pub allows_at_once: bool,
}

impl Entry {
    /// What a lookup of an address with this longest prefix gives.
    #[must_use]
    pub const fn value(&self) -> u32 {
        let at_once = if self.allows_at_once { ALLOWS_AT_ONCE } else { 0 };
        entry_value(self.prefix.prefix_len(), self.head | at_once)
    }
}

/// The rules of some groups, ordered and with all precedence worked out. Equal policies are one: compiling
/// the same rules for different groups gives equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CompiledPolicy {
    /// Sorted by address, then prefix length.
    entries: Vec<Entry>,
    clauses: Vec<Clause>,
}

impl CompiledPolicy {
    /// `entries` are sorted by address, then prefix length, without duplicates; heads and `next`s name
    /// clauses that exist.
    pub(super) fn new(entries: Vec<Entry>, clauses: Vec<Clause>) -> Self {
        Self { entries, clauses }
    }

    /// The entries, sorted by address, then prefix length.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The clause array. A clause's `next` is always a lower index than its own, or lies in the base while the clause lies
    /// in the overlay.
    #[must_use]
    pub fn clauses(&self) -> &[Clause] {
        &self.clauses
    }

    /// The entry that answers for an address.
    #[must_use]
    pub fn entry_for(&self, address: Ipv6Addr) -> Option<&Entry> {
        longest_match(&self.entries, |entry| entry.prefix, address.into())
    }

    /// Whether what is known of times and names changes anything in it.
    #[must_use]
    pub fn is_living(&self) -> bool {
        self.clauses
            .iter()
            .any(|clause| clause.expires_boot_ns != NEVER || clause.to_form == DestinationForm::Choice as u8)
    }

    /// The same policy with what is known of times and names now. Nothing but clauses differs: the entries can stay. An
    /// overlay is compiled anew instead.
    #[must_use]
    pub fn with_live(&self, live: &Live) -> Self {
        let mut clauses = self.clauses.clone();
        let mut at = 0;
        while let Some(clause) = clauses.get_mut(at) {
            if clause.expires_boot_ns != NEVER {
                clause.expires_boot_ns = live.deadline_boot_ns(clause.rule);
            }
            if clause.to_form != DestinationForm::Choice as u8 {
                at += 1;
                continue;
            }
            let block = with_addresses(*clause, live.destinations(clause.rule));
            clauses[at..at + MAX_CHOICES].copy_from_slice(&block);
            at += MAX_CHOICES;
        }
        Self {
            entries: self.entries.clone(),
            clauses,
        }
    }

    /// The policy as it is for those whom each of its rollouts includes, but for rollouts to nobody.
    #[must_use]
    pub fn for_the_included(&self) -> Cow<'_, Self> {
        let is_partial =
            |clause: &Clause| clause.rollout_by != RolloutBy::Everybody as u8 && clause.rollout_below > 0;
        if !self.clauses.iter().any(is_partial) {
            return Cow::Borrowed(self);
        }
        let mut included = self.clone();
        for clause in included.clauses.iter_mut().filter(|clause| is_partial(clause)) {
            clause.rollout_by = RolloutBy::Everybody as u8;
        }
        Cow::Owned(included)
    }

    /// The head of the longest prefix that covers all of a prefix.
    pub(super) fn head_covering(&self, prefix: Ipv6Net) -> u32 {
        longest_match(&self.entries, |entry| entry.prefix, prefix).map_or(NO_CLAUSE, |entry| entry.head)
    }

    /// The heads that answer for the addresses of a prefix, each once, in the order of the addresses.
    pub(super) fn heads_within(&self, prefix: Ipv6Net) -> Vec<u32> {
        let last_of = |prefix: Ipv6Net| u128::from(prefix.broadcast());
        let around = self.head_covering(prefix);
        // The prefix's own entry, if there is one, is what is around it.
        let begin = self.entries.partition_point(|entry| entry.prefix <= prefix);
        let within = self.entries[begin..]
            .iter()
            .take_while(|entry| prefix.contains(&entry.prefix));
        let mut heads = Vec::new();
        let mut seen = HashSet::new();
        // The first address of which it is not known yet who answers, and the entries around it, the widest first.
        let mut at = u128::from(prefix.network());
        let mut open: Vec<&Entry> = Vec::new();
        let mut answers = |head: u32| {
            if seen.insert(head) {
                heads.push(head);
            }
        };
        for entry in within {
            let first = u128::from(entry.prefix.network());
            while let Some(narrowest) = open.pop_if(|narrowest| last_of(narrowest.prefix) < first) {
                let last = last_of(narrowest.prefix);
                if at <= last {
                    answers(narrowest.head);
                    // Something comes after it.
                    at = last + 1;
                }
            }
            if at < first {
                answers(open.last().map_or(around, |narrowest| narrowest.head));
                at = first;
            }
            open.push(entry);
        }
        let rest = open.iter().rev().map(|entry| (entry.head, last_of(entry.prefix)));
        for (head, last) in rest.chain([(around, last_of(prefix))]) {
            if at <= last {
                answers(head);
                match last.checked_add(1) {
                    Some(next) => at = next,
                    None => break,
                }
            }
        }
        heads
    }

    /// The clauses of a list, in the order they are tried.
    pub fn list(&self, head: u32) -> impl Iterator<Item = &Clause> {
        let mut index = head;
        std::iter::from_fn(move || {
            let clause = (index != NO_CLAUSE).then(|| self.clauses.get(index as usize))??;
            index = clause.next;
            Some(clause)
        })
    }
}

impl CompiledPolicy {
    /// How many bytes the policy takes in the kernel: the blocks of the tree and the clauses. What a map costs by itself,
    /// whatever is in it, is left out.
    #[must_use]
    pub fn kernel_bytes(&self) -> u64 {
        let tree = Tree::new(&self.entries);
        (size_of_val(tree.blocks()) + size_of_val(self.clauses.as_slice())) as u64
    }
}

impl PolicyTable for CompiledPolicy {
    fn base_entry(&self, daddr_be: &AddrWords) -> u32 {
        let address = Ipv6Addr::from(octets_from_words(*daddr_be));
        self.entry_for(address).map_or(NO_ENTRY, Entry::value)
    }

    fn overlay_entry(&self, _daddr_be: &AddrWords) -> u32 {
        NO_ENTRY
    }

    fn clause(&self, index: u32) -> Option<&Clause> {
        self.clauses.get(index as usize)
    }
}

/// A compiled policy with what lies over it.
#[derive(Clone, Copy, Debug)]
pub struct Layered<'policy> {
    /// The policy itself.
    pub base: &'policy CompiledPolicy,
    /// The answers to its names, compiled for it by [`overlay`](super::overlay::overlay).
    pub overlay: &'policy CompiledPolicy,
}

impl PolicyTable for Layered<'_> {
    fn base_entry(&self, daddr_be: &AddrWords) -> u32 {
        self.base.base_entry(daddr_be)
    }

    fn overlay_entry(&self, daddr_be: &AddrWords) -> u32 {
        self.overlay.base_entry(daddr_be)
    }

    fn clause(&self, index: u32) -> Option<&Clause> {
        if index & IN_OVERLAY == 0 {
            self.base.clause(index)
        } else {
            self.overlay.clause(index & !IN_OVERLAY)
        }
    }
}
