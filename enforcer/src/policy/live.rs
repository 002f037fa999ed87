//! [`Live`]: what a compiled policy depends on beside its rules, and what changes while it is in force.

use std::{collections::HashMap, net::Ipv4Addr};

/// The latest time at which a clause can end, 292 years after boot: `decide` looks at the sign of a difference.
const LATEST_NS: u64 = i64::MAX as u64;

/// What is known of times and names, by the index of the rule. Of what is not known yet, rules are compiled so that they
/// can learn it: without an address to go to, a rule is as if absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// When rules with an expiry end: nanoseconds on CLOCK_BOOTTIME, not 0.
    pub deadlines_boot_ns: HashMap<u32, u64>,
    /// The addresses of names that rules redirect to, sorted, without duplicates.
    pub destinations: HashMap<u32, Vec<Ipv4Addr>>,
}

impl Live {
    /// When a rule that has an expiry ends. What is not known is late rather than never: the rule is one that ends.
    pub(super) fn deadline_boot_ns(&self, rule: u32) -> u64 {
        self.deadlines_boot_ns
            .get(&rule)
            .map_or(LATEST_NS, |deadline| (*deadline).min(LATEST_NS))
            .max(1)
    }

    /// Where a rule redirects to by name; nothing while that is not known.
    pub(super) fn destinations(&self, rule: u32) -> &[Ipv4Addr] {
        self.destinations.get(&rule).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_in_ages_has_not_ended() {
        let live = Live {
            deadlines_boot_ns: HashMap::from([(0, u64::MAX), (1, 7)]),
            ..Live::default()
        };
        let latest = i64::MAX as u64;
        assert_eq!(
            [0, 1, 2].map(|rule| live.deadline_boot_ns(rule)),
            [latest, 7, latest]
        );
    }
}
