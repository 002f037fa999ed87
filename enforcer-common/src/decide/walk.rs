//! [`walk()`]: from an address to the clauses that count, the first half of [`decide`](super::decide).

use super::{Circumstances, Connect, Mode, PolicyTable, TableFault};
use crate::clause::{
    ALLOWS_AT_ONCE, CLAUSE_AUDIT, CLAUSE_NAME_HIT, CLAUSE_NAME_MISS, CLAUSE_UNRESOLVED, Clause, MAX_WALK,
    NEVER, NO_CLAUSE, NO_RULE, RolloutBy, Service, head_of, outside, rollout_hash,
};

/// Where the action of a clause stands beside its index in what a walk found. Allowing is 0.
const ACTION_SHIFT: u32 = NO_CLAUSE.trailing_ones();

/// What a walk found. Clauses are kept as numbers, of which the kernel's verifier has less to remember than of pointers:
/// the index, and above it the number of the action; [`NO_CLAUSE`] where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// The clause that acts.
    pub(super) acted: u32,
    /// The first that matched without acting.
    pub(super) would: u32,
    /// As [`Decision::left_out_rule`](super::Decision::left_out_rule).
    pub left_out_rule: u32,
    /// As [`Decision::name`](super::Decision::name).
    pub name: u8,
}

impl Walked {
    const NOTHING: Self = Self {
        acted: NO_CLAUSE,
        would: NO_CLAUSE,
        left_out_rule: NO_RULE,
        name: 0,
    };

    #[inline(always)]
    fn opaque<C: Circumstances>(self, circumstances: &C) -> Self {
        let again = |number: u32| circumstances.opaque(number.into()) as u32;
        Self {
            acted: again(self.acted),
            would: again(self.would),
            left_out_rule: again(self.left_out_rule),
            name: again(self.name.into()) as u8,
        }
    }

    /// Whether nothing is done and nothing would have been: the verdict is allow, in audit mode, too. Most connects are
    /// of this kind, and then no clause need be read again.
    #[must_use]
    #[inline(always)]
    pub const fn only_allows(&self) -> bool {
        (self.acted | self.would) >> ACTION_SHIFT == 0
    }

    /// Whether there is one that matched without acting.
    #[must_use]
    #[inline(always)]
    pub const fn has_would(&self) -> bool {
        self.would != NO_CLAUSE
    }
}

/// Finds the clause list of the longest matching prefix, and walks it.
///
/// # Errors
///
/// [`TableFault`] where the table is damaged. The caller must allow the connect.
#[inline(always)]
pub fn walk<T: PolicyTable, C: Circumstances>(
    table: &T,
    circumstances: &C,
    connect: &Connect,
) -> Result<Walked, TableFault> {
    let base = circumstances.opaque(table.base_entry(&connect.daddr_be).into());
    let head = head_of(base as u32, table.overlay_entry(&connect.daddr_be));
    if head == NO_CLAUSE {
        return Ok(Walked::NOTHING.opaque(circumstances));
    }
    let mut index = circumstances.opaque(head.into()) as u32;
    let audits = circumstances.opaque(connect.mode as u64);
    if index & ALLOWS_AT_ONCE != 0 {
        // Its action is 0.
        let found = index & !ALLOWS_AT_ONCE;
        let mut walked = Walked::NOTHING;
        if audits == Mode::Enforce as u64 {
            walked.acted = found;
        } else {
            walked.would = found;
        }
        return Ok(walked.opaque(circumstances));
    }
    // After the lookups, which the verifier would else follow once for each protocol.
    let service = Service::new(connect.protocol, connect.dport).opaque(circumstances);
    let mut walked = Walked::NOTHING.opaque(circumstances);
    for _ in 0..MAX_WALK {
        if index == NO_CLAUSE {
            return Ok(walked);
        }
        let Some(clause) = table.clause(index) else {
            return Err(TableFault::ClauseMissing);
        };
        walked.name |= clause.flags & (CLAUSE_NAME_HIT | CLAUSE_NAME_MISS);
        if counts(clause, circumstances, &service) {
            let found = index | u32::from(clause.action) << ACTION_SHIFT;
            if is_left_out(clause, circumstances, connect) {
                if walked.left_out_rule == NO_RULE {
                    walked.left_out_rule = clause.rule;
                }
            } else if clause.flags & CLAUSE_AUDIT != 0 || audits != Mode::Enforce as u64 {
                if walked.would == NO_CLAUSE {
                    walked.would = found;
                }
                if clause.flags & CLAUSE_AUDIT == 0 {
                    // In enforce mode this one would have acted, and no later one.
                    return Ok(walked);
                }
            } else {
                walked.acted = found;
                return Ok(walked);
            }
        }
        index = clause.next;
    }
    if index == NO_CLAUSE {
        Ok(walked)
    } else {
        Err(TableFault::WalkTooLong)
    }
}

/// Whether all conditions of the clause hold, beside its rollout.
#[inline(always)]
fn counts<C: Circumstances>(clause: &Clause, circumstances: &C, service: &Service) -> bool {
    let mut against = clause.mismatch(service);
    against |= u64::from(clause.flags & (CLAUSE_UNRESOLVED | CLAUSE_NAME_MISS));
    if !clause.any_uid() {
        let uid = u64::from(circumstances.uid());
        against |= outside(clause.uid_min.into(), clause.uid_max.into(), uid, uid);
    }
    if clause.expires_boot_ns != NEVER {
        // The sign of the difference: both lie within 292 years of boot.
        against |= !circumstances.boot_ns().wrapping_sub(clause.expires_boot_ns) >> 63;
    }
    against == 0
}

#[inline(always)]
fn is_left_out<C: Circumstances>(clause: &Clause, circumstances: &C, connect: &Connect) -> bool {
    let by = clause.rollout_by;
    if by == RolloutBy::Everybody as u8 {
        return false;
    }
    if clause.canaries != 0 && connect.canaries >> ((clause.canaries - 1) & 63) & 1 != 0 {
        return false;
    }
    let hash = if by == RolloutBy::Target as u8 {
        rollout_hash(clause.rollout_salt, connect.rollout_key)
    } else if by == RolloutBy::Process as u8 {
        rollout_hash(clause.rollout_salt, circumstances.process())
    } else {
        clause.rollout_salt
    };
    hash >= clause.rollout_below
}
