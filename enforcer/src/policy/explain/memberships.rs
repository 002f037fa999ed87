//! Rollouts that may include a connect or not, for all that is known of it: each such membership that makes a
//! difference is assumed both ways.
//!
//! [`decide`] says which rollout comes next, and what follows from either. The table it is given differs from the
//! compiled one in nothing but the clauses of rules that something is assumed of.
//!
//! There are few ways: a rule that is included acts, and what comes after it makes no difference any more. So of n
//! rollouts in a row there are n + 1, and only rules in audit mode among them, of which the first is reported, make
//! it more.

use std::collections::HashMap;

use enforcer_common::{
    address::AddrWords,
    clause::{
        CLAUSE_UNRESOLVED, Clause, MAX_WALK, NO_CLAUSE, NO_RULE, RolloutBy as ClauseRolloutBy, head_of,
        to_be_read,
    },
    decide::{Connect, Decision, Known, PolicyTable, TableFault, decide},
};

use super::{
    super::{
        compiled::Layered,
        rule::{RolloutBy, Rule},
    },
    question::{Grounds, Instance, Question},
};

/// What a rollout is assumed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    /// Index of the rule.
    pub rule: u32,
    /// Whether the rollout includes these connects.
    pub included: bool,
    /// Whether only the rule's list of canaries is open: by its share these connects are left out.
    pub as_canary: bool,
}

/// What is assumed of a rule.
#[derive(Clone, Copy)]
enum Assumption {
    /// Its rollout may include the connect or not: left out, so that `decide` names it.
    Open,
    /// Its rollout includes the connect.
    Included,
    /// It is as if absent.
    Absent,
}

/// The compiled policy under assumptions.
#[derive(Clone)]
struct Assuming<'policy> {
    table: Layered<'policy>,
    changed: HashMap<u32, Clause>,
}

impl Assuming<'_> {
    /// Assumes something of all clauses of a rule that are tried for that address.
    fn assume(&mut self, daddr_be: &AddrWords, rule: u32, assumption: Assumption) {
        let mut index = head_of(self.base_entry(daddr_be), self.overlay_entry(daddr_be));
        for _ in 0..MAX_WALK {
            if index == NO_CLAUSE {
                return;
            }
            let Some(mut clause) = self.clause(index).copied() else {
                return;
            };
            let next = clause.next;
            if clause.rule == rule {
                match assumption {
                    Assumption::Open => {
                        // No hash is below 0, and there are no canaries.
                        clause.rollout_by = ClauseRolloutBy::Destination as u8;
                        (clause.rollout_below, clause.canaries) = (0, 0);
                    }
                    Assumption::Included => clause.rollout_by = ClauseRolloutBy::Everybody as u8,
                    Assumption::Absent => clause.flags |= CLAUSE_UNRESOLVED,
                }
                self.changed.insert(index, clause);
            }
            index = next;
        }
    }
}

impl PolicyTable for Assuming<'_> {
    fn base_entry(&self, daddr_be: &AddrWords) -> u32 {
        // Clauses are to be read, for they are not as the policy has them.
        to_be_read(self.table.base_entry(daddr_be))
    }

    fn overlay_entry(&self, daddr_be: &AddrWords) -> u32 {
        to_be_read(self.table.overlay_entry(daddr_be))
    }

    fn clause(&self, index: u32) -> Option<&Clause> {
        self.changed.get(&index).or_else(|| self.table.clause(index))
    }
}

/// One way in which rollouts may take these connects.
#[derive(Clone)]
pub(super) struct Way<'policy> {
    /// What is assumed, in the order in which the rules count.
    pub(super) memberships: Vec<Membership>,
    /// Rules whose rollouts leave these connects out, assumed or known.
    pub(super) left_out: Vec<u32>,
    table: Assuming<'policy>,
}

impl Way<'_> {
    pub(super) fn decide(&self, known: &Known, connect: &Connect) -> Result<Decision, TableFault> {
        decide(&self.table, known, connect)
    }
}

/// Every way that makes a difference: inclusion first.
pub(super) fn ways<'policy>(
    grounds: &Grounds<'policy>,
    question: &Question,
    instance: &Instance,
) -> Result<Vec<Way<'policy>>, TableFault> {
    let (known, connect) = (instance.movable(), &instance.connect);
    let mut table = Assuming {
        table: grounds.table(),
        changed: HashMap::new(),
    };
    for (index, rule) in (0..).zip(grounds.rules) {
        if is_share_open(rule, question) {
            table.assume(&connect.daddr_be, index, Assumption::Open);
        }
    }
    let mut to_follow = vec![Way {
        memberships: Vec::new(),
        left_out: Vec::new(),
        table,
    }];
    let mut ways = Vec::new();
    while let Some(mut way) = to_follow.pop() {
        loop {
            let rule = way.decide(&known, connect)?.left_out_rule;
            if rule == NO_RULE {
                ways.push(way);
                break;
            }
            let Some(as_canary) = grounds.rule(rule).and_then(|rule| open_as_canary(rule, question)) else {
                way.table.assume(&connect.daddr_be, rule, Assumption::Absent);
                way.left_out.push(rule);
                continue;
            };
            let mut included = way.clone();
            included
                .table
                .assume(&connect.daddr_be, rule, Assumption::Included);
            way.table.assume(&connect.daddr_be, rule, Assumption::Absent);
            let decision = included.decide(&known, connect)?;
            if decision.rule != rule && decision.would_rule != rule {
                // Another one in audit mode has been reported already: this one makes no difference.
                continue;
            }
            let membership = |included| Membership {
                rule,
                included,
                as_canary,
            };
            included.memberships.push(membership(true));
            way.memberships.push(membership(false));
            way.left_out.push(rule);
            to_follow.push(way);
            way = included;
        }
    }
    Ok(ways)
}

/// Whether nobody knows if the share of a rule's rollout includes the connects asked about.
fn is_share_open(rule: &Rule, question: &Question) -> bool {
    let Some(rollout) = rule
        .rollout
        .as_ref()
        .filter(|rollout| (1..100).contains(&rollout.percent))
    else {
        return false;
    };
    let is_canary = question
        .target
        .zip(rollout.canary_list.checked_sub(1))
        .is_some_and(|(target, list)| target.canaries >> (list & 63) & 1 != 0);
    !is_canary
        && match rollout.by {
            RolloutBy::Target => question.target.is_none(),
            RolloutBy::Process => question.process.is_none(),
            RolloutBy::Destination => false,
        }
}

/// Whether a rule that leaves the connects out might include them nevertheless: `Some(true)` if only as those of a
/// canary.
fn open_as_canary(rule: &Rule, question: &Question) -> Option<bool> {
    if is_share_open(rule, question) {
        return Some(false);
    }
    let has_canaries = rule
        .rollout
        .as_ref()
        .is_some_and(|rollout| rollout.canary_list != 0);
    (has_canaries && question.target.is_none()).then_some(true)
}
