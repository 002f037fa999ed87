//! [`Tallies`]: which of the kernel's counters are whose, also of targets that went. The kernel has counters for so many
//! targets at once; those of one that went become another's.

use std::collections::HashMap;

use enforcer_common::counters::Counters;

use super::{Plan, TargetReport};
use crate::kernel::{Kernel, KernelError};

/// A target's counters, from when it was first governed.
#[derive(Clone, Debug)]
struct Tally {
    name: String,
    /// Number of the target.
    number: usize,
    /// What stood there when it came.
    from: Counters,
    /// What stood there when they became another's.
    until: Option<Counters>,
}

/// The counters of every target there was, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallies(Vec<Tally>);

/// Index of a target's counters. Index 0 is what connects without a binding are counted under.
pub(super) fn index(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX).saturating_add(1)
}

impl Tallies {
    /// The same, with those of a plan. Targets that went must not be attached any more where their number is given to
    /// another.
    pub(super) fn with(&self, plan: &Plan, kernel: &Kernel) -> Result<Self, KernelError> {
        let mut all = self.clone();
        let mut current: HashMap<usize, usize> = (0..)
            .zip(&self.0)
            .filter(|(_, tally)| tally.until.is_none())
            .map(|(at, tally)| (tally.number, at))
            .collect();
        for target in &plan.targets {
            let mut from = Counters::default();
            if let Some(before) = current.get(&target.number).and_then(|at| all.0.get_mut(*at)) {
                if before.name == target.name {
                    continue;
                }
                from = kernel.counters_of(index(target.number))?;
                before.until = Some(from);
            }
            current.insert(target.number, all.0.len());
            all.0.push(Tally {
                name: target.name.clone(),
                number: target.number,
                from,
                until: None,
            });
        }
        Ok(all)
    }

    /// What was counted for each, given the kernel's counters by index. Those of one name are one.
    pub(super) fn report(&self, counters: &[Counters]) -> Vec<TargetReport> {
        let mut reports: Vec<TargetReport> = Vec::new();
        let mut known: HashMap<&str, usize> = HashMap::new();
        for tally in &self.0 {
            let now = counters.get(index(tally.number) as usize);
            let until = tally.until.or(now.copied()).unwrap_or_default();
            let counted = until.since(&tally.from);
            match known.get(tally.name.as_str()).and_then(|at| reports.get_mut(*at)) {
                Some(report) => report.counters.add(&counted),
                None => {
                    known.insert(&tally.name, reports.len());
                    reports.push(TargetReport {
                        name: tally.name.clone(),
                        counters: counted,
                    });
                }
            }
        }
        reports
    }
}
