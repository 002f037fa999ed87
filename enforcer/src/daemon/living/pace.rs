//! [`Pace`]: when changes of names go into force. Whoever answers about names can change its mind with every answer, and
//! each change is a new map in the kernel. Asks no clock.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::names::Resolver;

/// Between changes of one resolver's names, once there were many.
const INTERVAL: Duration = Duration::from_secs(1);

/// Changes that may come at once: a service that moves changes a few names, each of both families.
const BURST: u32 = 8;

/// How much of its share each resolver has used: the time at which all of it is there again.
#[derive(Debug, Default)]
pub(super) struct Pace {
    whole_again: HashMap<Resolver, Instant>,
}

impl Pace {
    /// When a change of that resolver's names may go into force: now, or at most an interval later. What comes meanwhile
    /// goes with it.
    pub(super) fn due(&mut self, resolver: Resolver, now: Instant) -> Instant {
        // Whose share is whole is as if it had never changed anything.
        self.whole_again.retain(|_, whole_again| *whole_again > now);
        let whole_again = self.whole_again.entry(resolver).or_insert(now);
        let due = whole_again
            .checked_sub(INTERVAL * (BURST - 1))
            .map_or(now, |due| due.max(now));
        // Changes that went with those of others sooner than they were due must not push it ever farther away.
        *whole_again = (*whole_again + INTERVAL).min(now + INTERVAL * BURST);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(pace: &mut Pace, resolver: Resolver, now: Instant, times: usize) -> Vec<Duration> {
        (0..times)
            .map(|_| pace.due(resolver, now).saturating_duration_since(now))
            .collect()
    }

    #[test]
    fn a_burst_goes_at_once_and_then_one_a_second() {
        let now = Instant::now() + INTERVAL * 100;
        let mut pace = Pace::default();
        let none = vec![Duration::ZERO; 8];
        assert_eq!(waits(&mut pace, Resolver::Host, now, 8), none);
        assert_eq!(waits(&mut pace, Resolver::Host, now, 1), [INTERVAL]);
        // However many come, and however often they went with another's.
        assert_eq!(waits(&mut pace, Resolver::Host, now, 100), vec![INTERVAL; 100]);
        // Another's changes do not wait for these.
        assert_eq!(waits(&mut pace, Resolver::Target(3), now, 8), none);
        let later = now + INTERVAL * 2;
        assert_eq!(waits(&mut pace, Resolver::Host, later, 2), [Duration::ZERO; 2]);
        assert_eq!(waits(&mut pace, Resolver::Host, later, 1), [INTERVAL]);
        let rested = later + INTERVAL * 20;
        assert_eq!(waits(&mut pace, Resolver::Host, rested, 8), none);
    }
}
