//! What is known of a name: the addresses that answers brought, and how long each stays. Asks nobody; the time is
//! an argument.
//!
//! Addresses accumulate. One goes when both have come together: its time has passed, and a server has answered
//! without it. So neither a failure nor a negative answer takes anything away that could still be in use.

use std::{collections::BTreeMap, net::Ipv4Addr, net::Ipv6Addr, time::Duration};

use tokio::time::Instant;

use super::due;

/// An address that a name has, or had not long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen<A> {
    /// The address.
    pub address: A,
    /// Whether it was in the last answer that had any. One that was not may still be in use, by a client that got
    /// an earlier answer.
    pub current: bool,
}

/// What is known of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Its IPv6 addresses, sorted.
    pub aaaa: Vec<Seen<Ipv6Addr>>,
    /// Its IPv4 addresses, sorted.
    pub a: Vec<Seen<Ipv4Addr>>,
    /// Whether a server has ever answered the question for IPv4 addresses, if only by saying that there are none.
    pub a_answered: bool,
}

impl Answers {
    /// The IPv4 addresses to connect to now: those of the last answer, sorted.
    #[must_use]
    pub fn current_a(&self) -> Vec<Ipv4Addr> {
        self.a
            .iter()
            .filter(|seen| seen.current)
            .map(|seen| seen.address)
            .collect()
    }
}

/// Until when an address stays.
#[derive(Clone, Copy, Debug)]
struct Stay {
    until: Instant,
    current: bool,
}

/// The addresses of one family of one name.
#[derive(Clone, Debug)]
pub(super) struct Known<A> {
    addresses: BTreeMap<A, Stay>,
    limit: usize,
    answered: bool,
}

impl<A: Copy + Ord> Known<A> {
    /// Nothing, and never more than `limit` addresses.
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            addresses: BTreeMap::new(),
            limit,
            answered: false,
        }
    }

    /// Adds what an answer with that TTL says, and says how many addresses had to go for lack of room. An answer
    /// without a usable address changes nothing but that it was given.
    pub(super) fn found(&mut self, answer: &[A], ttl: Duration, now: Instant) -> usize {
        self.answered = true;
        if answer.is_empty() {
            self.expire(now);
            return 0;
        }
        for stay in self.addresses.values_mut() {
            stay.current = false;
        }
        let until = now + due::stays(ttl);
        for address in answer {
            let stay = self
                .addresses
                .entry(*address)
                .or_insert(Stay { until, current: true });
            stay.current = true;
            stay.until = stay.until.max(until);
        }
        self.expire(now);
        self.make_room()
    }

    /// A server has said that there are none.
    pub(super) fn nothing(&mut self, now: Instant) {
        self.answered = true;
        self.expire(now);
    }

    /// Whether a server has ever answered.
    pub(super) const fn answered(&self) -> bool {
        self.answered
    }

    /// All of them, sorted.
    pub(super) fn seen(&self) -> Vec<Seen<A>> {
        self.addresses
            .iter()
            .map(|(address, stay)| Seen {
                address: *address,
                current: stay.current,
            })
            .collect()
    }

    fn expire(&mut self, now: Instant) {
        self.addresses.retain(|_, stay| stay.until > now);
    }

    /// Those that would go first go now; of the last answer's, the highest.
    fn make_room(&mut self) -> usize {
        let excess = self.addresses.len().saturating_sub(self.limit);
        if excess > 0 {
            let mut order: Vec<_> = self
                .addresses
                .iter()
                .map(|(address, stay)| (stay.current, stay.until, std::cmp::Reverse(*address)))
                .collect();
            order.sort_unstable();
            for (_, _, std::cmp::Reverse(address)) in order.into_iter().take(excess) {
                self.addresses.remove(&address);
            }
        }
        excess
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn all(known: &Known<u8>) -> Vec<(u8, bool)> {
        known
            .seen()
            .iter()
            .map(|seen| (seen.address, seen.current))
            .collect()
    }

    #[test]
    fn answers_accumulate_and_the_last_one_is_current() {
        let now = Instant::now();
        let mut known = Known::new(64);
        known.found(&[1, 2], TTL, now);
        known.found(&[2, 3], TTL, now + TTL);
        assert_eq!(all(&known), [(1, false), (2, true), (3, true)]);
    }

    #[test]
    fn an_address_goes_an_hour_after_it_was_last_seen_when_an_answer_lacks_it() {
        let now = Instant::now();
        let mut known = Known::new(64);
        known.found(&[1, 2], TTL, now);
        known.found(&[2], TTL, now + HOUR - TTL);
        assert_eq!(all(&known), [(1, false), (2, true)]);
        known.found(&[2], TTL, now + HOUR);
        assert_eq!(all(&known), [(2, true)]);
    }

    #[test]
    fn with_a_long_ttl_an_address_stays_ten_of_them() {
        let now = Instant::now();
        let mut known = Known::new(64);
        known.found(&[1], HOUR, now);
        // A shorter TTL later does not take back what an earlier one promised.
        known.found(&[1], TTL, now + TTL);
        known.found(&[2], TTL, now + 10 * HOUR - TTL);
        assert_eq!(all(&known), [(1, false), (2, true)]);
        known.nothing(now + 10 * HOUR);
        assert_eq!(all(&known), [(2, true)]);
    }

    #[test]
    fn neither_failure_nor_a_negative_answer_takes_anything_away_before_its_time() {
        let now = Instant::now();
        let mut known = Known::new(64);
        known.found(&[1], TTL, now);
        known.nothing(now + TTL);
        known.found(&[], TTL, now + TTL);
        assert_eq!(all(&known), [(1, true)]);
        // A failure is not told to it at all, however long it lasts; only an answer after the time counts.
        assert_eq!(all(&known), [(1, true)]);
        known.nothing(now + HOUR);
        assert_eq!(all(&known), []);
    }

    #[test]
    fn without_room_the_oldest_go_first_and_current_ones_last() {
        let now = Instant::now();
        let mut known = Known::new(3);
        assert_eq!(known.found(&[1, 2], TTL, now), 0);
        assert_eq!(known.found(&[3], TTL, now + TTL), 0);
        assert_eq!(known.found(&[9, 8], TTL, now + 2 * TTL), 2);
        assert_eq!(all(&known), [(3, false), (8, true), (9, true)]);
        // The same answer gives the same choice, in whatever order it came.
        assert_eq!(known.found(&[7, 4, 6, 5], TTL, now + 3 * TTL), 4);
        assert_eq!(all(&known), [(4, true), (5, true), (6, true)]);
    }

    #[test]
    fn whether_anybody_ever_answered_is_known() {
        let mut known: Known<u8> = Known::new(1);
        assert!(!known.answered());
        known.nothing(Instant::now());
        assert!(known.answered());
    }
}
