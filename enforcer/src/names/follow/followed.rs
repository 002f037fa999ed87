//! [`Followed`]: one name, what is known of it, and when it is due. Asks nobody; time and chance are arguments.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    super::{
        MAX_A, MAX_AAAA, Request,
        ask::{Outcome, Round},
        due,
        known::{Answers, Known},
        note::Note,
        unusable,
    },
    Change,
};

/// Unusable addresses of one name that are remembered as told.
const MAX_TOLD: usize = 16;

const fn secs(ttl_secs: u32) -> Duration {
    Duration::from_secs(ttl_secs as u64)
}

/// How the last round went, as far as people were told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Nothing: there are addresses, or nobody has asked yet.
    Nothing,
    Failed,
    NoAddress,
}

/// A name that is followed.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) request: Request,
    aaaa: Known<Ipv6Addr>,
    a: Known<Ipv4Addr>,
    due: Instant,
    asking: bool,
    asked: bool,
    /// In a row.
    failures: u32,
    told: Told,
    told_unusable: BTreeSet<IpAddr>,
    told_too_many: bool,
}

impl Followed {
    /// Due at once.
    pub(super) fn new(request: Request, now: Instant) -> Self {
        Self {
            request,
            aaaa: Known::new(MAX_AAAA),
            a: Known::new(MAX_A),
            due: now,
            asking: false,
            asked: false,
            failures: 0,
            told: Told::Nothing,
            told_unusable: BTreeSet::new(),
            told_too_many: false,
        }
    }

    /// When to ask, unless somebody is asking.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.asking).then_some(self.due)
    }

    /// Whether a round has ended, whatever it brought.
    pub(super) const fn has_been_asked(&self) -> bool {
        self.asked
    }

    /// Lets it be due now.
    pub(super) fn make_due(&mut self, now: Instant) {
        self.due = self.due.min(now);
        self.failures = 0;
    }

    /// Somebody begins to ask.
    pub(super) const fn begin(&mut self) {
        self.asking = true;
    }

    /// What is known.
    pub(super) fn answers(&self) -> Answers {
        Answers {
            aaaa: self.aaaa.seen(),
            a: self.a.seen(),
            a_answered: self.a.answered(),
        }
    }

    /// Takes what a round brought, and says when to ask again. `chance` is from 0 to 1.
    pub(super) fn take(&mut self, round: Round, now: Instant, chance: f64, change: &mut Change) {
        let before = self.answers();
        (self.asking, self.asked) = (false, true);
        let failed = [round.aaaa.as_ref().and_then(why_failed), why_failed(&round.a)]
            .into_iter()
            .flatten()
            .next()
            .map(str::to_owned);
        self.failures = if failed.is_some() {
            self.failures.saturating_add(1)
        } else {
            0
        };
        let (mut found, mut exists) = (false, false);
        let mut again = due::CEILING;
        if let Some(aaaa) = round.aaaa {
            let usable = self.usable(&aaaa, change);
            found |= matches!(aaaa, Outcome::Found { .. });
            exists |= outcome_exists(&aaaa);
            again = again.min(self.ask_again(&aaaa));
            let dropped = apply(&mut self.aaaa, &aaaa, &usable, now);
            self.tell_dropped(dropped, change);
        }
        let usable = self.usable(&round.a, change);
        found |= matches!(round.a, Outcome::Found { .. });
        exists |= outcome_exists(&round.a);
        again = again.min(self.ask_again(&round.a));
        let dropped = apply(&mut self.a, &round.a, &usable, now);
        self.tell_dropped(dropped, change);

        self.due = now + due::jittered(again, chance);
        self.tell(failed, found, exists, change);
        if self.answers() != before {
            change.changed.push(self.request.clone());
        }
    }

    fn ask_again<A>(&self, outcome: &Outcome<A>) -> Duration {
        match outcome {
            Outcome::Found { ttl_secs, .. } => due::counts(secs(*ttl_secs)),
            Outcome::Nothing { ttl_secs, .. } => due::absence_counts(ttl_secs.map(secs)),
            Outcome::Failed { .. } => due::back_off(self.failures),
        }
    }

    /// The addresses of an outcome that can be used.
    fn usable<A: Copy + Into<IpAddr>>(&mut self, outcome: &Outcome<A>, change: &mut Change) -> Vec<A> {
        let Outcome::Found { addresses, .. } = outcome else {
            return Vec::new();
        };
        let trust = self.request.trust();
        let mut usable = Vec::with_capacity(addresses.len());
        for address in addresses {
            let address_of_either: IpAddr = (*address).into();
            match unusable::why(address_of_either, trust) {
                None => usable.push(*address),
                Some(why) => {
                    if self.told_unusable.len() < MAX_TOLD && self.told_unusable.insert(address_of_either) {
                        change.notes.push(Note::Unusable {
                            request: self.request.clone(),
                            address: address_of_either,
                            why,
                        });
                    }
                }
            }
        }
        usable
    }

    fn tell_dropped(&mut self, dropped: usize, change: &mut Change) {
        if dropped > 0 && !self.told_too_many {
            self.told_too_many = true;
            change.notes.push(Note::TooManyAddresses {
                request: self.request.clone(),
            });
        }
    }

    fn tell(&mut self, failed: Option<String>, found: bool, exists: bool, change: &mut Change) {
        let request = self.request.clone();
        let (told, note) = match failed {
            Some(why) => (Told::Failed, Note::Failed { request, why }),
            None if found => (Told::Nothing, Note::Recovered { request }),
            None => (Told::NoAddress, Note::NoAddress { request, exists }),
        };
        if told != self.told {
            change.notes.push(note);
            self.told = told;
        }
    }
}

fn why_failed<A>(outcome: &Outcome<A>) -> Option<&str> {
    match outcome {
        Outcome::Failed { why } => Some(why),
        Outcome::Found { .. } | Outcome::Nothing { .. } => None,
    }
}

fn outcome_exists<A>(outcome: &Outcome<A>) -> bool {
    match outcome {
        Outcome::Found { .. } => true,
        Outcome::Nothing { exists, .. } => *exists,
        Outcome::Failed { .. } => false,
    }
}

/// Says how many addresses had to go for lack of room.
fn apply<A: Copy + Ord>(known: &mut Known<A>, outcome: &Outcome<A>, usable: &[A], now: Instant) -> usize {
    match outcome {
        Outcome::Found { ttl_secs, .. } => known.found(usable, secs(*ttl_secs), now),
        Outcome::Nothing { .. } => {
            known.nothing(now);
            0
        }
        Outcome::Failed { .. } => 0,
    }
}
