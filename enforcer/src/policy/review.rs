//! What only shows when rules are compiled together: ties, duplicates, rules that can never match, redirects
//! that lead nowhere, and limits.
//!
//! The same rules are compiled once for each set of groups in use, and what is found for several is told once.

mod words;

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map},
    net::Ipv6Addr,
};

use enforcer_common::{
    address::words_from_octets,
    clause::{Action, Clause, MAX_CLAUSES, MAX_ENTRIES, MAX_WALK, NO_ENTRY, NO_RULE, head_of, to_be_read},
    decide::{Mode, PolicyTable},
};
use ipnet::Ipv6Net;

use super::{
    compile::{build, order_at_prefix},
    compiled::CompiledPolicy,
    connects::Connects,
    diagnostic::{Diagnostic, Place, Related, Severity},
    live::Live,
    rule::{HostName, RedirectTo, Rule, RuleAction},
    value::quote,
};
use words::describe;

/// Something found. Rules are indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Finding {
    Tie { first: u32, second: u32 },
    Duplicate { first: u32, second: u32 },
    WalkTooLong { rule: u32 },
    TooManyEntries { rule: u32 },
    TooManyClauses { rule: u32 },
    RedirectOntoItself { rule: u32 },
    RedirectIntoRejected { redirect: u32, reject: u32 },
}

/// How two rules of as many conditions at one prefix get along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    /// No connect matches both, or both do the same.
    Compatible,
    /// They match the same connects and do the same.
    Equal,
    /// Some connect matches both, and they do not do the same.
    Conflicting,
}

/// Where something was found: one prefix, and how many prefixes or clauses or entries in all.
#[derive(Clone, Copy, Debug)]
struct Extent {
    prefix: Option<Ipv6Net>,
    count: u64,
}

/// Everything found so far.
pub(super) struct Findings {
    found: BTreeMap<Finding, Extent>,
    /// Pairs of rules that were looked at before.
    relations: HashMap<(u32, u32), Relation>,
    /// Heads of lists that some address gets, in the policy being compiled.
    answering: HashSet<u32>,
    /// Per rule: it was compiled.
    compiled: Vec<bool>,
    /// Per rule: there is a connect that it decides.
    live: Vec<bool>,
    /// Of rules that decided nothing when they were first compiled: an address that they cover, and the rule that
    /// decides there.
    shadows: HashMap<u32, (Ipv6Addr, u32)>,
}

/// Compiles the chosen of the rules, given by their indices in ascending order, and notes everything there is
/// to say about them.
pub(super) fn compile_and_review(
    rules: &[Rule],
    chosen: &[u32],
    live: &Live,
    findings: &mut Findings,
) -> CompiledPolicy {
    findings.answering.clear();
    let compiled = build(rules, chosen, live, findings);
    note_ties_at_names(rules, chosen, findings);
    findings.note_live_rules(rules, chosen, &compiled);
    for &index in chosen {
        findings.note_redirect(index, rules, &compiled);
    }
    compiled
}

/// Looks for ties among the rules of each name. Two names can have an address in common, too, but that is not known here.
fn note_ties_at_names(rules: &[Rule], chosen: &[u32], findings: &mut Findings) {
    let mut at_name: BTreeMap<&HostName, Vec<u32>> = BTreeMap::new();
    for &index in chosen {
        if let Some(host) = &rules[index as usize].host {
            at_name.entry(&host.name).or_default().push(index);
        }
    }
    for mut of_name in at_name.into_values() {
        order_at_prefix(rules, &mut of_name);
        note_ties(None, &mut of_name, rules, findings);
    }
}

/// Looks for ties among the rules at one prefix, or of one name, and takes out the duplicates. The rules come in their order.
pub(super) fn note_ties(
    prefix: Option<Ipv6Net>,
    at_prefix: &mut Vec<u32>,
    rules: &[Rule],
    findings: &mut Findings,
) {
    if at_prefix.len() < 2 {
        return;
    }
    let mut kept: Vec<u32> = Vec::new();
    at_prefix.retain(|&second| {
        let conditions = rules[second as usize].conditions();
        // More rules than can be walked are refused anyway; what ties among them would take long to find.
        let earlier = kept.iter().rev().take(MAX_WALK as usize);
        for &first in earlier.take_while(|&&first| rules[first as usize].conditions() == conditions) {
            match findings.relation(first, second, rules) {
                Relation::Compatible => continue,
                Relation::Equal => findings.add(Finding::Duplicate { first, second }, prefix),
                Relation::Conflicting => findings.add(Finding::Tie { first, second }, prefix),
            }
            return false;
        }
        kept.push(second);
        true
    });
}

impl Findings {
    /// Nothing found yet, for that many rules.
    pub(super) fn new(rules: usize) -> Self {
        Self {
            found: BTreeMap::new(),
            relations: HashMap::new(),
            answering: HashSet::new(),
            compiled: vec![false; rules],
            live: vec![false; rules],
            shadows: HashMap::new(),
        }
    }

    /// Notes that some address gets the list with that head.
    pub(super) fn answering_head(&mut self, head: u32) {
        self.answering.insert(head);
    }

    /// Notes that a list is longer than the kernel walks.
    pub(super) fn walk_too_long(&mut self, rule: u32, prefix: Ipv6Net, length: u32) {
        let extent = Extent {
            prefix: Some(prefix),
            count: length.into(),
        };
        self.found.entry(Finding::WalkTooLong { rule }).or_insert(extent);
    }

    /// Notes the number of entries, if it is too large. The rule with the most prefixes is held to be at
    /// fault.
    pub(super) fn entries(&mut self, entries: usize, members: &[(Ipv6Net, u32)]) {
        if entries <= MAX_ENTRIES as usize {
            return;
        }
        let mut counts: HashMap<u32, u64> = HashMap::new();
        for (_, rule) in members.iter().filter(|(_, rule)| *rule != NO_RULE) {
            *counts.entry(*rule).or_default() += 1;
        }
        let largest = counts.into_iter().max_by_key(|(rule, count)| (*count, *rule));
        if let Some((rule, _)) = largest {
            let extent = Extent {
                prefix: None,
                count: entries as u64,
            };
            self.found
                .entry(Finding::TooManyEntries { rule })
                .or_insert(extent);
        }
    }

    /// Notes the number of clauses, if it is too large.
    pub(super) fn clauses(&mut self, clauses: usize, chosen: &[u32]) {
        if let (true, Some(&rule)) = (clauses > MAX_CLAUSES as usize, chosen.last()) {
            let extent = Extent {
                prefix: None,
                count: clauses as u64,
            };
            self.found
                .entry(Finding::TooManyClauses { rule })
                .or_insert(extent);
        }
    }

    fn add(&mut self, finding: Finding, prefix: Option<Ipv6Net>) {
        let extent = self.found.entry(finding).or_insert(Extent { prefix, count: 0 });
        extent.count += 1;
    }

    fn relation(&mut self, first: u32, second: u32, rules: &[Rule]) -> Relation {
        match self.relations.entry((first, second)) {
            hash_map::Entry::Occupied(known) => *known.get(),
            hash_map::Entry::Vacant(unknown) => {
                *unknown.insert(relation(&rules[first as usize], &rules[second as usize]))
            }
        }
    }

    /// Marks the rules that decide some connect: those with a clause that is reached on a list that some
    /// address gets.
    fn note_live_rules(&mut self, rules: &[Rule], chosen: &[u32], compiled: &CompiledPolicy) {
        for &index in chosen {
            self.compiled[index as usize] |= !rules[index as usize].prefixes.is_empty();
        }
        for &head in &self.answering {
            let mut left = Connects::all();
            for clause in compiled.list(head).take(MAX_WALK as usize) {
                let matched = Connects::of_clause(clause);
                if left.intersects(&matched) {
                    self.live[clause.rule as usize] = true;
                }
                if rules[clause.rule as usize].is_certain() {
                    left.subtract(&matched);
                }
            }
        }
        for &index in chosen.iter().filter(|&&index| !self.live[index as usize]) {
            if let hash_map::Entry::Vacant(unknown) = self.shadows.entry(index)
                && let Some(shadow) = shadow(&rules[index as usize], compiled)
            {
                unknown.insert(shadow);
            }
        }
    }

    /// Follows a redirect: what would its own policy say of the connects that it makes?
    fn note_redirect(&mut self, index: u32, rules: &[Rule], compiled: &CompiledPolicy) {
        let rule = &rules[index as usize];
        // What goes to IPv4 is never judged.
        let (to, port) = match rule.action {
            RuleAction::Redirect(RedirectTo::Address(to)) => (Ipv6Net::from(*to.ip()), to.port()),
            RuleAction::Redirect(RedirectTo::Prefix(to)) => (to, 0),
            _ => return,
        };
        let mut connects = Connects::of_rule(rule);
        if port != 0 {
            connects = connects.moved_to_port(port);
        }
        for head in compiled.heads_within(to) {
            if let Some(finding) = met(index, connects.clone(), head, rules, compiled) {
                self.found.entry(finding).or_insert(Extent {
                    prefix: None,
                    count: 1,
                });
                return;
            }
        }
    }

    /// Everything found, for people.
    pub(super) fn diagnostics(&self, rules: &[Rule], place_of: &dyn Fn(&Rule) -> Place) -> Vec<Diagnostic> {
        let found = self.found.iter();
        let mut diagnostics: Vec<_> = found
            .map(|(finding, extent)| describe(*finding, *extent, rules, place_of))
            .collect();
        let is_explained: HashSet<u32> = self
            .found
            .keys()
            .filter_map(|finding| match finding {
                Finding::Duplicate { second, .. } | Finding::Tie { second, .. } => Some(*second),
                _ => None,
            })
            .collect();
        for (index, rule) in (0_u32..).zip(rules) {
            let dead = self.compiled[index as usize] && !self.live[index as usize];
            if dead && !is_explained.contains(&index) {
                let message = format!("{} can never match", quote(&rule.label));
                let mut diagnostic = Diagnostic::new(Severity::Warning, message, Some(place_of(rule)));
                diagnostic.hint = Some(
                    "rules of longer prefixes or of more conditions decide all that it covers, or no rule this wide \
                     reaches it"
                        .to_owned(),
                );
                if let Some((address, decider)) = self.shadows.get(&index)
                    && let Some(decider) = rules.get(*decider as usize)
                {
                    diagnostic.related.push(Related {
                        message: format!(
                            "{} decides connects to {address}, for example",
                            quote(&decider.label)
                        ),
                        place: place_of(decider),
                    });
                }
                diagnostics.push(diagnostic);
            }
        }
        diagnostics
    }
}

/// An address that the rule covers, and the rule that decides what it would have matched there.
fn shadow(rule: &Rule, compiled: &CompiledPolicy) -> Option<(Ipv6Addr, u32)> {
    let address = rule.prefixes.first()?.network();
    let matched = Connects::of_rule(rule);
    let head = head_for(compiled, address);
    let mut list = compiled.list(head).take(MAX_WALK as usize);
    let decider = list.find(|clause| matched.intersects(&Connects::of_clause(clause)))?;
    Some((address, decider.rule))
}

/// What becomes of connects that a redirect makes, if that is not what it is for: the first clause of a list that may
/// act on any of them.
fn met(
    index: u32,
    mut left: Connects,
    head: u32,
    rules: &[Rule],
    compiled: &CompiledPolicy,
) -> Option<Finding> {
    for clause in compiled.list(head).take(MAX_WALK as usize) {
        if left.is_empty() {
            return None;
        }
        let decider = &rules[clause.rule as usize];
        if decider.mode == Mode::Audit {
            continue;
        }
        let matched = Connects::of_clause(clause);
        if left.intersects(&matched) {
            if clause.rule == index {
                return Some(Finding::RedirectOntoItself { rule: index });
            }
            if is_reject(clause) {
                return Some(Finding::RedirectIntoRejected {
                    redirect: index,
                    reject: clause.rule,
                });
            }
        }
        if decider.is_certain() {
            left.subtract(&matched);
        }
    }
    None
}

fn head_for(compiled: &CompiledPolicy, address: Ipv6Addr) -> u32 {
    let entry = compiled.base_entry(&words_from_octets(address.octets()));
    head_of(to_be_read(entry), NO_ENTRY)
}

fn is_reject(clause: &Clause) -> bool {
    Action::from_raw(clause.action) == Some(Action::Reject)
}

fn relation(first: &Rule, second: &Rule) -> Relation {
    // A rule in audit mode stands before those that act, and stops none of them.
    if first.mode != second.mode {
        return Relation::Compatible;
    }
    let (matched_first, matched_second) = (Connects::of_rule(first), Connects::of_rule(second));
    if !matched_first.intersects(&matched_second) {
        return Relation::Compatible;
    }
    let same_errno = first.errno == second.errno || first.action == RuleAction::Allow;
    if first.action != second.action || !same_errno || first.transparent != second.transparent {
        return Relation::Conflicting;
    }
    let same_life = first.expires == second.expires && first.rollout == second.rollout;
    let same_name = first.host == second.host && first.resolve == second.resolve;
    if same_life && same_name && matched_first == matched_second {
        Relation::Equal
    } else {
        Relation::Compatible
    }
}
