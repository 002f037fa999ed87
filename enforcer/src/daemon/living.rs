//! [`Living`]: what of a policy changes while it governs: the addresses of names, and the clock that rules end by.
//!
//! Follows both, and says what is true now as [`Now`]; putting that into force is for
//! [`Governing`](super::Governing).

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

mod pace;

use self::pace::Pace;
use super::{
    expiries::{Expiries, StateError},
    now::{Now, request},
};
use crate::{
    events::clock::boot_now_ns,
    names::{self, Follower, Options, Resolver},
    policy::rule::{GroupName, Rule},
};

/// How long a start waits for names to be answered, at most. What is not known by then is put into force when it is.
const SETTLING: Duration = Duration::from_secs(5);

/// A target, as far as names need it.
#[derive(Clone, Debug)]
pub struct NamedTarget {
    /// Its name, for people.
    pub name: String,
    /// Groups whose rules apply to it.
    pub groups: Vec<GroupName>,
    /// Directories of its cgroups.
    pub cgroups: Vec<PathBuf>,
}

/// Something that people should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// What.
    pub message: String,
    /// A way out.
    pub hint: Option<String>,
}

/// Lines that are said at once of names. Nameservers can find something to be said of every address they have.
const MAX_LINES: usize = 16;

/// What waits to be put into force and said.
#[derive(Debug, Default)]
struct Held {
    /// Whose names changed.
    resolvers: BTreeSet<Resolver>,
    due: Option<Instant>,
    said: Vec<Said>,
}

/// Follows times and names.
pub struct Living {
    rules: Arc<[Rule]>,
    expiries: Expiries,
    follower: Follower,
    has_names: bool,
    /// Readable when the wall clock was set.
    wall_clock: Option<AsyncFd<OwnedFd>>,
    targets: Vec<NamedTarget>,
    /// What stands and was said, by what stays the same while it stands.
    said: BTreeSet<String>,
    /// What names changed, until it is time to put it into force.
    held: Held,
    pace: Pace,
    expired: BTreeSet<u32>,
}

impl Living {
    /// Follows nothing yet but times. What is returned beside it is why durations count from now.
    ///
    /// # Errors
    ///
    /// When the kernel has no timer for the wall clock.
    pub fn new(
        rules: Arc<[Rule]>,
        state_directory: &Path,
        options: Options,
    ) -> io::Result<(Self, Option<StateError>)> {
        let (expiries, error) = Expiries::load(&rules, state_directory);
        let wall_clock = if expiries.is_empty() {
            None
        } else {
            let timer = wall_clock_timer()?;
            // SAFETY: an `OwnedFd` is one and the same open descriptor until it is dropped, and `AsyncFd` owns it: it
            // takes it out of the reactor before that.
            let registered = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
            Some(registered.map_err(io::Error::from)?)
        };
        let living = Self {
            rules,
            expiries,
            follower: Follower::new(options),
            has_names: false,
            wall_clock,
            targets: Vec::new(),
            said: BTreeSet::new(),
            held: Held::default(),
            pace: Pace::default(),
            expired: BTreeSet::new(),
        };
        Ok((living, error))
    }

    /// Follows the names that these targets' rules have, by their place in the list. Of targets that are there already, what is known
    /// stays.
    ///
    /// # Errors
    ///
    /// When there are too many names.
    pub fn set_targets(&mut self, targets: Vec<NamedTarget>) -> Result<(), names::TooManyNames> {
        self.targets = targets;
        let mut requests = BTreeSet::new();
        for (number, target) in self.targets.iter().enumerate() {
            for rule in self
                .rules
                .iter()
                .filter(|rule| rule.enabled && rule.is_in(&target.groups))
            {
                requests.extend(request(rule, Some(number)));
            }
        }
        self.has_names = !requests.is_empty();
        self.follower.follow(requests)?;
        for (number, target) in self.targets.iter().enumerate() {
            self.follower.set_target(number, target.cgroups.clone());
        }
        Ok(())
    }

    /// Waits until every name was asked for once, or for five seconds.
    pub async fn settle(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        if !self.has_names {
            return said;
        }
        let settled = tokio::time::timeout(SETTLING, async {
            loop {
                let change = self.follower.changed().await;
                said.extend(self.hear(&change));
                if change.settled {
                    return;
                }
            }
        });
        if settled.await.is_err() {
            said.push(Said {
                message: format!(
                    "not every name was answered within {} s: rules of those that were not count as soon as they are",
                    SETTLING.as_secs()
                ),
                hint: None,
            });
        }
        capped(said)
    }

    /// Waits for a change that is to be put into force: for ever, when nothing does. Changes of names that come faster
    /// than is good for the kernel wait for each other, a second at most. Cancelling loses nothing.
    pub async fn changed(&mut self) -> Vec<Said> {
        loop {
            let until_expiry = self.until_next_expiry();
            let wall_clock = self.wall_clock.as_ref();
            let due = self.held.due;
            tokio::select! {
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    return capped(std::mem::take(&mut self.held).said);
                }
                change = self.follower.changed(), if self.has_names => self.hold(&change),
                () = clock_set(wall_clock) => {
                    if let Some(timer) = &self.wall_clock {
                        // It was readable because it was cancelled; set again, it waits for the next time.
                        let _armed = arm(timer.get_ref());
                    }
                    self.expiries.read_clocks();
                    let now = boot_now_ns();
                    let deadlines = self.expiries.deadlines_boot_ns();
                    self.expired.retain(|rule| deadlines.get(rule).is_some_and(|deadline| *deadline <= now));
                    return Vec::new();
                }
                () = sleep(until_expiry) => {
                    let said = self.note_expired();
                    if !said.is_empty() {
                        return said;
                    }
                }
            }
        }
    }

    /// What is true now.
    #[must_use]
    pub fn now(&self) -> Now {
        Now::of(
            Arc::clone(&self.rules),
            self.expiries.deadlines_boot_ns().clone(),
            self.follower
                .answers()
                .map(|(request, answers)| (request.clone(), answers))
                .collect(),
        )
    }

    fn until_next_expiry(&self) -> Option<Duration> {
        let now = boot_now_ns();
        let deadlines = self.expiries.deadlines_boot_ns();
        let ahead = deadlines.iter().filter(|(rule, _)| !self.expired.contains(rule));
        let next = ahead.map(|(_, deadline)| *deadline).min()?;
        // A little late rather than a little early: the programs have ended the rule by then.
        Some(Duration::from_nanos(next.saturating_sub(now)) + Duration::from_millis(1))
    }

    fn note_expired(&mut self) -> Vec<Said> {
        let now = boot_now_ns();
        let mut said = Vec::new();
        for (rule, deadline) in self.expiries.deadlines_boot_ns() {
            if *deadline <= now
                && self.expired.insert(*rule)
                && let Some(rule) = self.rules.get(*rule as usize)
            {
                said.push(Said {
                    message: format!("`{}` has expired: it is as if absent", rule.label),
                    hint: None,
                });
            }
        }
        said
    }

    /// What is to be said, with the target that it is so for, where that is one.
    fn about(&self, target: Option<usize>, message: String) -> String {
        match target.and_then(|target| self.targets.get(target)) {
            Some(target) => format!("target {}: {message}", target.name),
            None => message,
        }
    }

    /// Keeps a change until it is time for it.
    fn hold(&mut self, change: &names::Change) {
        let said = self.hear(change);
        let of_changes = change.changed.iter().map(|request| request.resolver);
        let of_notes = change
            .notes
            .iter()
            .map(|note| note.target().map_or(Resolver::Host, Resolver::Target));
        // What stands may have changed by a change alone, so whoever there is something to say about is among these.
        for resolver in of_changes.chain(of_notes) {
            if self.held.resolvers.insert(resolver) {
                let due = self.pace.due(resolver, Instant::now());
                self.held.due = Some(self.held.due.map_or(due, |earlier| earlier.min(due)));
            }
        }
        self.held.said.extend(said);
    }

    /// What to say of a change, each thing once as long as it stays so.
    fn hear(&mut self, change: &names::Change) -> Vec<Said> {
        let mut said: Vec<Said> = change
            .notes
            .iter()
            .map(|note| Said {
                message: self.about(note.target(), note.to_string()),
                hint: note.hint().map(str::to_owned),
            })
            .collect();
        let now = self.now();
        let mut standing = BTreeSet::new();
        for (number, target) in self.targets.iter().enumerate() {
            let whose = Now::is_scoped(&self.rules, &target.groups).then_some(number);
            for (key, message) in now.notes(&target.groups, Some(number), None) {
                let key = self.about(whose, key);
                if standing.insert(key.clone()) && !self.said.contains(&key) {
                    said.push(Said {
                        message: self.about(whose, message),
                        hint: None,
                    });
                }
            }
        }
        self.said = standing;
        said
    }
}

/// Not more lines than people read, and how many were left out.
fn capped(mut said: Vec<Said>) -> Vec<Said> {
    let more = said.len().saturating_sub(MAX_LINES);
    if more > 0 {
        said.truncate(MAX_LINES);
        said.push(Said {
            message: format!("… and {more} more such lines"),
            hint: None,
        });
    }
    said
}

/// A timer that never fires, but is cancelled when the wall clock is set (`TFD_TIMER_CANCEL_ON_SET`, timerfd_create(2)).
fn wall_clock_timer() -> io::Result<OwnedFd> {
    let timer = timerfd_create(
        TimerfdClockId::Realtime,
        TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
    )?;
    arm(&timer)?;
    Ok(timer)
}

fn arm(timer: &OwnedFd) -> io::Result<()> {
    let never = Timespec {
        tv_sec: i64::MAX / 1_000_000_000,
        tv_nsec: 0,
    };
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let when = Itimerspec {
        it_interval: zero,
        it_value: never,
    };
    timerfd_settime(
        timer,
        TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET,
        &when,
    )?;
    Ok(())
}

/// Waits until the wall clock is set.
async fn clock_set(timer: Option<&AsyncFd<OwnedFd>>) {
    match timer {
        None => std::future::pending().await,
        Some(timer) => {
            if let Ok(mut ready) = timer.readable().await {
                // The read takes the cancellation, as ECANCELED.
                let mut count = [0; 8];
                let _cancelled = rustix::io::read(timer.get_ref(), &mut count);
                ready.clear_ready();
            }
        }
    }
}

async fn sleep(duration: Option<Duration>) {
    match duration {
        None => std::future::pending().await,
        Some(duration) => tokio::time::sleep(duration).await,
    }
}

#[cfg(test)]
mod tests;
