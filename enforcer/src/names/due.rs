//! When a name is asked for again, and how long its addresses stay. Pure: no clock, and chance is an argument.

use std::time::Duration;

/// The shortest time an answer counts, whatever its TTL says.
pub(super) const FLOOR: Duration = Duration::from_secs(5);

/// The longest time an answer counts, whatever its TTL says.
pub(super) const CEILING: Duration = Duration::from_secs(60 * 60);

/// The least time an address stays after it was last seen in an answer.
pub(super) const LEAST_STAY: Duration = Duration::from_secs(60 * 60);

/// How many TTLs an address stays after it was last seen.
const STAY_TTLS: u32 = 10;

/// The longest pause between questions that nobody answers. Below [`CEILING`], because whoever mends a nameserver
/// should not have to wait for an hour.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5 * 60);

/// When to ask again about what does not exist, where the answer does not say how long that counts.
const NOTHING_WITHOUT_TTL: Duration = Duration::from_secs(60);

/// The part of a time that chance may take away: many names must not be due at once.
const JITTER: f64 = 0.1;

/// How long an answer counts.
pub(super) fn counts(ttl: Duration) -> Duration {
    ttl.clamp(FLOOR, CEILING)
}

/// How long the absence of a record counts.
pub(super) fn absence_counts(ttl: Option<Duration>) -> Duration {
    counts(ttl.unwrap_or(NOTHING_WITHOUT_TTL))
}

/// How long an address stays after it was seen in an answer with that TTL.
pub(super) fn stays(ttl: Duration) -> Duration {
    (counts(ttl) * STAY_TTLS).max(LEAST_STAY)
}

/// How long to wait after that many failures in a row.
pub(super) fn back_off(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FLOOR * (1 << doublings)).min(LONGEST_BACK_OFF)
}

/// That time, less what chance takes: `chance` is from 0 to 1.
pub(super) fn jittered(time: Duration, chance: f64) -> Duration {
    time.mul_f64(1.0 - JITTER * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_ttl_counts_between_floor_and_ceiling() {
        for (ttl, expected) in [(0, 5), (5, 5), (6, 6), (3600, 3600), (86_400, 3600)] {
            assert_eq!(counts(secs(ttl)), secs(expected), "{ttl}");
        }
        assert_eq!(absence_counts(None), secs(60));
        assert_eq!(absence_counts(Some(secs(1))), FLOOR);
    }

    #[test]
    fn an_address_stays_ten_ttls_and_an_hour_at_least() {
        for (ttl, expected) in [
            (0, 3600),
            (360, 3600),
            (361, 3610),
            (3600, 36_000),
            (86_400, 36_000),
        ] {
            assert_eq!(stays(secs(ttl)), secs(expected), "{ttl}");
        }
    }

    #[test]
    fn failures_are_asked_about_less_and_less_often() {
        let waits: Vec<_> = (0..9).map(|failures| back_off(failures).as_secs()).collect();
        assert_eq!(waits, [5, 5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(back_off(u32::MAX), LONGEST_BACK_OFF);
    }

    #[test]
    fn chance_only_ever_shortens_and_by_a_tenth_at_most() {
        assert_eq!(jittered(secs(100), 0.0), secs(100));
        assert_eq!(jittered(secs(100), 1.0), secs(90));
        assert_eq!(jittered(secs(100), 7.0), secs(90));
    }
}
