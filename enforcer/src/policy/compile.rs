//! Rules to a [`CompiledPolicy`]: orders clauses and shares the tails of their lists.
//!
//! The order is all there is to precedence: the longer prefix first; at one prefix the rule with more
//! conditions first; between rules of as many conditions, which then match different connects or do the same,
//! the one written first. What breaks this is refused by the review that runs along.
//!
//! A prefix's list ends by continuing with the list of the prefix that covers it, so an address needs one
//! lookup, and clauses are shared by all prefixes that go on in the same way: one rule of a million prefixes
//! has one clause.

use std::collections::HashMap;

use enforcer_common::{
    address::{EXEMPT_PREFIXES, words_from_octets},
    clause::{ANY_PROTO, Action, Clause, MAX_WALK, NO_CLAUSE, NO_RULE},
};
use ipnet::Ipv6Net;

use super::{
    compiled::{CompiledPolicy, Entry},
    diagnostic::{Diagnostic, Place},
    review::{self, Findings},
    rule::{GroupName, Rule, RuleAction},
};

/// Compiles the rules of those groups. A clause's rule is the index into `rules`.
///
/// # Errors
///
/// Every reason why these rules cannot stand together: ties, lists longer than the kernel walks, more entries
/// than a policy holds, redirects that lead nowhere.
pub fn compile(rules: &[Rule], groups: &[GroupName]) -> Result<CompiledPolicy, Vec<Diagnostic>> {
    let mut findings = Findings::new(rules.len());
    let chosen = (0..).zip(rules).filter(|(_, rule)| rule.is_in(groups));
    let chosen: Vec<u32> = chosen.map(|(index, _)| index).collect();
    let compiled = review::compile_and_review(rules, &chosen, &mut findings);
    let mut errors = findings.diagnostics(rules, &|rule: &Rule| Place::from(&rule.origin));
    errors.retain(Diagnostic::is_error);
    if errors.is_empty() {
        Ok(compiled)
    } else {
        Err(errors)
    }
}

/// A prefix and one rule that has it, or [`NO_RULE`] for an exempt prefix. Sorts into the order of entries.
type Member = (Ipv6Net, u32);

/// A prefix whose inner prefixes are being worked on.
struct Open {
    prefix: Ipv6Net,
    head: u32,
    /// Addresses of the prefixes directly within it, modulo 2^128.
    covered: u128,
    has_inner: bool,
}

impl Open {
    /// Whether some address has this as its longest prefix.
    fn answers_somewhere(&self) -> bool {
        // `::/0` has 2^128 addresses, which is 0 here, as is what covers it fully.
        !self.has_inner || self.covered != size(&self.prefix)
    }
}

/// Addresses of a prefix, modulo 2^128.
fn size(prefix: &Ipv6Net) -> u128 {
    1_u128
        .checked_shl(128 - u32::from(prefix.prefix_len()))
        .unwrap_or(0)
}

/// Compiles the chosen of the rules, and notes what is found on the way. The heads of lists that some address gets go to the findings
/// as well: what is on none of them can never match.
pub(super) fn build(rules: &[Rule], chosen: &[u32], findings: &mut Findings) -> CompiledPolicy {
    let members = members(rules, chosen);
    let mut lists = Lists::default();
    let mut entries: Vec<Entry> = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut at_prefix = Vec::new();
    for same_prefix in members.chunk_by(|a, b| a.0 == b.0) {
        let prefix = same_prefix[0].0;
        close(&mut open, Some(&prefix), findings);
        let is_exempt = same_prefix.iter().any(|(_, rule)| *rule == NO_RULE);
        at_prefix.clear();
        at_prefix.extend(
            same_prefix
                .iter()
                .map(|(_, rule)| *rule)
                .filter(|rule| *rule != NO_RULE),
        );
        if at_prefix.is_empty() && open.is_empty() {
            // No rule reaches into this exempt prefix.
            continue;
        }
        let covering = open.last().map_or(NO_CLAUSE, |covering| covering.head);
        let tail = if is_exempt { NO_CLAUSE } else { covering };
        // More conditions go first; the sort is stable, so the rule written first does else.
        at_prefix.sort_by_key(|&rule| std::cmp::Reverse(rules[rule as usize].conditions()));
        review::note_ties(prefix, &mut at_prefix, rules, findings);
        let mut head = tail;
        for &rule in at_prefix.iter().rev() {
            head = lists.prepend(rule, &rules[rule as usize], head);
            if lists.length(head) > MAX_WALK {
                findings.walk_too_long(rule, prefix, lists.length(head));
            }
        }
        // An entry that answers as the one around it does is not needed.
        if is_exempt || open.is_empty() || head != covering {
            entries.push(Entry { prefix, head });
        }
        if let Some(covering) = open.last_mut() {
            covering.has_inner = true;
            covering.covered = covering.covered.wrapping_add(size(&prefix));
        }
        open.push(Open {
            prefix,
            head,
            covered: 0,
            has_inner: false,
        });
    }
    close(&mut open, None, findings);
    findings.entries(entries.len(), &members);
    CompiledPolicy::new(entries, lists.clauses)
}

/// All prefixes of the chosen rules, and the exempt ones, in the order of entries: what covers a prefix
/// comes before it.
fn members(rules: &[Rule], chosen: &[u32]) -> Vec<Member> {
    let prefixes = |index: &u32| rules[*index as usize].prefixes.as_slice();
    let count: usize = chosen.iter().map(|index| prefixes(index).len()).sum();
    let mut members = Vec::with_capacity(count + EXEMPT_PREFIXES.len());
    for index in chosen {
        members.extend(prefixes(index).iter().map(|prefix| (*prefix, *index)));
    }
    let exempt = EXEMPT_PREFIXES
        .iter()
        .filter_map(|exempt| Ipv6Net::new(exempt.octets.into(), exempt.prefix_len).ok());
    members.extend(exempt.map(|prefix| (prefix, NO_RULE)));
    // Stable sorting is the fast one here: the prefixes of each rule are in order already.
    members.sort();
    members
}

/// Closes the open prefixes that do not cover the next one.
fn close(open: &mut Vec<Open>, next: Option<&Ipv6Net>, findings: &mut Findings) {
    while let Some(innermost) = open.last() {
        if next.is_some_and(|next| innermost.prefix.contains(next)) {
            return;
        }
        if innermost.answers_somewhere() {
            findings.answering_head(innermost.head);
        }
        open.pop();
    }
}

/// The clause array in the making. Equal lists are one.
#[derive(Default)]
struct Lists {
    clauses: Vec<Clause>,
    /// Length of the list that begins at each clause.
    lengths: Vec<u32>,
    known: HashMap<Clause, u32>,
}

impl Lists {
    fn length(&self, head: u32) -> u32 {
        self.lengths.get(head as usize).copied().unwrap_or(0)
    }

    /// The head of the list in which the rule's clauses stand before those of `tail`.
    fn prepend(&mut self, index: u32, rule: &Rule, tail: u32) -> u32 {
        // A list begins with all clauses of its first rule. If that is this one, it has no more to say.
        if self
            .clauses
            .get(tail as usize)
            .is_some_and(|clause| clause.rule == index)
        {
            return tail;
        }
        let (action, to) = match rule.action {
            RuleAction::Allow => (Action::Allow, None),
            RuleAction::Reject => (Action::Reject, None),
            RuleAction::Redirect(to) => (Action::Redirect, Some(to)),
        };
        let mut clause = Clause {
            next: tail,
            rule: index,
            action: action as u8,
            proto: rule.proto.map_or(ANY_PROTO, |proto| proto as u8),
            errno: rule.errno.number,
            port_min: 0,
            port_max: u16::MAX,
            to_port: to.map_or(0, |to| to.port()),
            reserved: 0,
            to_be: to.map_or([0; 4], |to| words_from_octets(to.ip().octets())),
        };
        if rule.ports.is_empty() {
            if clause.is_unconditional() {
                // Nothing after it can ever act.
                clause.next = NO_CLAUSE;
            }
            return self.intern(clause);
        }
        for ports in rule.ports.iter().rev() {
            (clause.port_min, clause.port_max) = (*ports.start(), *ports.end());
            clause.next = self.intern(clause);
        }
        clause.next
    }

    fn intern(&mut self, clause: Clause) -> u32 {
        if let Some(&index) = self.known.get(&clause) {
            return index;
        }
        // Each clause costs more memory than there is long before indices run out.
        let index = u32::try_from(self.clauses.len()).unwrap_or(NO_CLAUSE);
        self.lengths.push(self.length(clause.next) + 1);
        self.clauses.push(clause);
        self.known.insert(clause, index);
        index
    }
}
