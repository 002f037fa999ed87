//! Rules to a [`CompiledPolicy`]: orders clauses and shares the tails of their lists.
//!
//! The order is all there is to precedence: the longer prefix first; at one prefix the rule with more
//! conditions first; of as many conditions the rule in audit mode first, which only tells; between those that are left, which
//! then match different connects or do the same, the one written first. What breaks this is refused by the review
//! that runs along.
//!
//! A prefix's list ends by continuing with the list of the prefix that covers it, so an address needs one
//! lookup, and clauses are shared by all prefixes that go on in the same way: one rule of a million prefixes
//! has one clause.

use enforcer_common::{
    address::EXEMPT_PREFIXES,
    clause::{MAX_WALK, NO_CLAUSE, NO_RULE},
    decide::Mode,
};
use ipnet::Ipv6Net;

use super::{
    compiled::{CompiledPolicy, Entry},
    diagnostic::{Diagnostic, Place},
    lists::Lists,
    live::Live,
    review::{self, Findings},
    rule::{GroupName, Rule},
};

/// Compiles the rules of those groups, with what is known of times and names. A clause's rule is the index into
/// `rules`. Rules that have a name instead of prefixes are for the [`overlay`](super::overlay).
///
/// # Errors
///
/// Every reason why these rules cannot stand together: ties, lists longer than the kernel walks, more entries
/// than a policy holds, redirects that lead nowhere.
pub fn compile(rules: &[Rule], groups: &[GroupName], live: &Live) -> Result<CompiledPolicy, Vec<Diagnostic>> {
    let mut findings = Findings::new(rules.len());
    let chosen = (0..)
        .zip(rules)
        .filter(|(_, rule)| rule.enabled && rule.is_in(groups));
    let chosen: Vec<u32> = chosen.map(|(index, _)| index).collect();
    let compiled = review::compile_and_review(rules, &chosen, live, &mut findings);
    let mut errors = findings.diagnostics(rules, &|rule: &Rule| Place::from(&rule.origin));
    errors.retain(Diagnostic::is_error);
    if errors.is_empty() {
        Ok(compiled)
    } else {
        Err(errors)
    }
}

/// What stands first at one prefix.
pub(super) fn order_at_prefix(rules: &[Rule], at_prefix: &mut [u32]) {
    // The sort is stable: what is written first goes first else.
    at_prefix.sort_by_key(|&rule| {
        let rule = &rules[rule as usize];
        (std::cmp::Reverse(rule.conditions()), rule.mode != Mode::Audit)
    });
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
pub(super) fn build(rules: &[Rule], chosen: &[u32], live: &Live, findings: &mut Findings) -> CompiledPolicy {
    let members = members(rules, chosen);
    let mut lists = Lists::new(live);
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
        order_at_prefix(rules, &mut at_prefix);
        review::note_ties(Some(prefix), &mut at_prefix, rules, findings);
        let mut head = tail;
        for &rule in at_prefix.iter().rev() {
            head = lists.prepend(rule, &rules[rule as usize], prefix, head);
        }
        // What stands behind a rule without conditions is not tried, so only the whole list tells.
        if let Some(&first) = at_prefix.first()
            && lists.length(head) > MAX_WALK
        {
            findings.walk_too_long(first, prefix, lists.length(head));
        }
        // An entry that answers as the one around it does is not needed.
        if head != covering {
            entries.push(lists.entry(prefix, head));
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
    let clauses = lists.into_clauses();
    findings.clauses(clauses.len(), chosen);
    CompiledPolicy::new(entries, clauses)
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
