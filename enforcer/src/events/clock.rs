//! CLOCK_BOOTTIME, which the kernel stamps records with, to wall-clock time, which people read.
//!
//! The two differ by an offset that changes whenever somebody sets the clock or NTP disciplines it, so the
//! offset is measured again about once a second, by the events' own time: an idle stream costs nothing.
//! Nothing else of the wall clock is judged here; a clock that is wrong gives events with the wrong time.

use std::{fmt, ops::RangeInclusive};

use jiff::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// An offset older than this, on CLOCK_BOOTTIME, is measured again before it is used.
pub const REMEASURE_AFTER_NS: u64 = 1_000_000_000;

/// Readings taken for one measurement; the narrowest counts. One alone may be interrupted by the scheduler.
const ATTEMPTS: usize = 3;

/// Both clocks, read at nearly the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// CLOCK_BOOTTIME just before the wall clock was read, in nanoseconds.
    pub boot_before_ns: u64,
    /// CLOCK_REALTIME, in nanoseconds since the Unix epoch.
    pub wall_ns: i128,
    /// CLOCK_BOOTTIME just after, in nanoseconds.
    pub boot_after_ns: u64,
}

impl Reading {
    /// Reads the clocks of this machine.
    #[must_use]
    pub fn take() -> Self {
        let read = || Self {
            boot_before_ns: boot_now_ns(),
            wall_ns: nanoseconds(clock_gettime(ClockId::Realtime)),
            boot_after_ns: boot_now_ns(),
        };
        (1..ATTEMPTS).fold(read(), |best, _| {
            let next = read();
            if next.width_ns() < best.width_ns() {
                next
            } else {
                best
            }
        })
    }

    const fn width_ns(&self) -> u64 {
        self.boot_after_ns.saturating_sub(self.boot_before_ns)
    }

    /// The interval in which wall clock minus CLOCK_BOOTTIME lies, in nanoseconds.
    fn offset_ns(&self) -> RangeInclusive<i128> {
        self.wall_ns - i128::from(self.boot_after_ns)..=self.wall_ns - i128::from(self.boot_before_ns)
    }
}

/// Now, on CLOCK_BOOTTIME, in nanoseconds: the clock of
/// [`ConnectRecord::time_boot_ns`](enforcer_common::record::ConnectRecord::time_boot_ns).
#[must_use]
pub fn boot_now_ns() -> u64 {
    // Boot time is never negative and reaches 64 bits after 584 years.
    u64::try_from(nanoseconds(clock_gettime(ClockId::Boottime))).unwrap_or(0)
}

const fn nanoseconds(time: Timespec) -> i128 {
    time.tv_sec as i128 * 1_000_000_000 + time.tv_nsec as i128
}

/// Converts times of records to wall-clock time.
pub struct Clock<R = fn() -> Reading> {
    read: R,
    offset_ns: i128,
    measured_boot_ns: u64,
}

impl Clock {
    /// A clock of this machine.
    #[must_use]
    pub fn new() -> Self {
        Self::with_reader(Reading::take)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: FnMut() -> Reading> Clock<R> {
    /// A clock that takes its readings from `read`, and the first one now.
    #[must_use]
    pub fn with_reader(mut read: R) -> Self {
        let first = read();
        Self {
            read,
            offset_ns: middle(&first.offset_ns()),
            measured_boot_ns: first.boot_after_ns,
        }
    }

    /// The wall-clock time of that moment on CLOCK_BOOTTIME, in nanoseconds. Times beyond what
    /// [`Timestamp`] holds, which only a damaged record has, become the nearest that it holds.
    pub fn timestamp(&mut self, boot_ns: u64) -> Timestamp {
        if boot_ns.saturating_sub(self.measured_boot_ns) >= REMEASURE_AFTER_NS {
            self.measure();
        }
        let wall_ns = i128::from(boot_ns) + self.offset_ns;
        let limit = if wall_ns < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        };
        Timestamp::from_nanosecond(wall_ns).unwrap_or(limit)
    }

    /// Now, through the same offset as the events, so that both sort together.
    pub fn now(&mut self) -> Timestamp {
        let now = (self.read)();
        self.timestamp(now.boot_after_ns)
    }

    fn measure(&mut self) {
        let reading = (self.read)();
        self.measured_boot_ns = reading.boot_after_ns;
        // The true offset lies in this interval. An old one that does too is kept: moving it by the noise of
        // the measurement would only put events out of order.
        let possible = reading.offset_ns();
        if !possible.contains(&self.offset_ns) {
            self.offset_ns = middle(&possible);
        }
    }
}

const fn middle(range: &RangeInclusive<i128>) -> i128 {
    *range.start() + (*range.end() - *range.start()) / 2
}

impl<R> fmt::Debug for Clock<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock")
            .field("offset_ns", &self.offset_ns)
            .field("measured_boot_ns", &self.measured_boot_ns)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn reading(boot_ns: u64, wall_ns: i128) -> Reading {
        Reading {
            boot_before_ns: boot_ns,
            wall_ns,
            boot_after_ns: boot_ns + 100,
        }
    }

    /// A wall clock that is exactly `offset_ns` ahead of boot time.
    fn exactly(boot_ns: u64, offset_ns: i128) -> Reading {
        reading(boot_ns, i128::from(boot_ns) + 50 + offset_ns)
    }

    #[test]
    fn now_by_boot_time_lies_between_two_readings_of_the_wall_clock() {
        let mut clock = Clock::new();
        let before = Timestamp::now();
        let through_boot = clock.now();
        let after = Timestamp::now();
        // Being interrupted in the midst of each of three readings is what a busy machine can do.
        let slack = jiff::SignedDuration::from_millis(500);
        assert!(before - slack <= through_boot && through_boot <= after + slack);
    }

    #[test]
    fn a_clock_that_is_set_moves_events_after_a_second_and_not_for_ever() {
        let wall = Cell::new(exactly(0, 1_000));
        let mut clock = Clock::with_reader(|| wall.get());
        assert_eq!(clock.timestamp(500).as_nanosecond(), 1_500);
        // Somebody sets the clock an hour ahead.
        let hour = 3_600 * i128::from(SECOND);
        wall.set(exactly(2 * SECOND, hour));
        let within = i128::from(SECOND / 2);
        assert_eq!(clock.timestamp(SECOND / 2).as_nanosecond(), within + 1_000);
        let later = 2 * i128::from(SECOND);
        assert_eq!(clock.timestamp(2 * SECOND).as_nanosecond(), later + hour);
        // The next one is not due yet, and earlier records use the newest offset too.
        wall.set(exactly(3 * SECOND, 0));
        assert_eq!(clock.timestamp(SECOND).as_nanosecond(), i128::from(SECOND) + hour);
    }

    #[test]
    fn the_noise_of_a_measurement_moves_nothing() {
        let wall = Cell::new(exactly(0, 0));
        let mut clock = Clock::with_reader(|| wall.get());
        for noise in [-50, 20, 50] {
            wall.set(exactly(5 * SECOND, noise));
            assert_eq!(
                clock.timestamp(5 * SECOND).as_nanosecond(),
                5 * i128::from(SECOND)
            );
        }
        wall.set(exactly(7 * SECOND, 51));
        assert_eq!(
            clock.timestamp(7 * SECOND).as_nanosecond(),
            7 * i128::from(SECOND) + 51
        );
    }

    #[test]
    fn a_damaged_time_becomes_the_nearest_that_exists() {
        let mut late = Clock::with_reader(|| reading(0, i128::from(i64::MAX) * 1_000));
        assert_eq!(late.timestamp(u64::MAX), Timestamp::MAX);
        let mut early = Clock::with_reader(|| reading(0, -i128::from(i64::MAX) * 1_000));
        assert_eq!(early.timestamp(0), Timestamp::MIN);
    }
}
