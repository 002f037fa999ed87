//! [`Living`]: what of a policy changes while it governs: the addresses of names, and the clock that rules end by.
//!
//! Follows both, and says what is true now as [`Now`]; putting that into force is for
//! [`Governing`](super::Governing).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{io::unix::AsyncFd, time::Instant};

mod pace;
mod wall_clock;

use self::{
    pace::Pace,
    wall_clock::{arm, clock_set, wall_clock},
};
use super::{
    expiries::{Expiries, StateError},
    now::{Now, request},
};
use crate::{
    events::clock::boot_now_ns,
    names::{self, Follower, Options, Request, Resolver},
    policy::rule::{GroupName, Rule},
};

/// How long a start waits for names to be answered, at most. What is not known by then is put into force when it is.
const SETTLING: Duration = Duration::from_secs(5);

/// A target, as far as names need it.
#[derive(Clone, Debug)]
pub struct NamedTarget {
    /// Its name, for people.
    pub name: String,
    /// Its number, as in a [`Plan`](super::Plan).
    pub number: usize,
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

/// Why rules cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ExpectError {
    /// They have too many names.
    #[error(transparent)]
    Names(names::TooManyNames),
    /// There is no timer to tell when the wall clock is set.
    #[error("cannot follow the wall clock")]
    WallClock(#[source] io::Error),
}

/// Rules that are not followed yet, and when they end.
#[derive(Clone, Debug, Default)]
pub struct Coming {
    rules: Arc<[Rule]>,
    expiries: Expiries,
}

impl Coming {
    /// Looks up when rules that expire after a duration were first loaded. Reads and writes a file. What is returned beside
    /// it is why durations count from now.
    #[must_use]
    pub fn load(rules: Arc<[Rule]>, state_directory: &Path) -> (Self, Option<StateError>) {
        let (expiries, error) = Expiries::load(&rules, state_directory);
        (Self { rules, expiries }, error)
    }
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
    /// Names of targets by number, those that are expected included.
    labels: BTreeMap<usize, String>,
    /// What stands and was said, by what stays the same while it stands.
    said: BTreeSet<String>,
    /// What names changed, until it is time to put it into force.
    held: Held,
    pace: Pace,
    expired: BTreeSet<u32>,
}

impl Living {
    /// Follows nothing yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            rules: Arc::default(),
            expiries: Expiries::default(),
            follower: Follower::new(options),
            has_names: false,
            wall_clock: None,
            targets: Vec::new(),
            labels: BTreeMap::new(),
            said: BTreeSet::new(),
            held: Held::default(),
            pace: Pace::default(),
            expired: BTreeSet::new(),
        }
    }

    /// Begins to follow the names that these rules have for these targets too. Of names that are followed already, what is
    /// known stays. [`adopt`](Self::adopt) or [`abandon`](Self::abandon) comes next.
    ///
    /// # Errors
    ///
    /// When there are too many names, or the kernel has no timer for the wall clock. Then nothing has changed.
    pub fn expect(&mut self, coming: &Coming, targets: &[NamedTarget]) -> Result<(), ExpectError> {
        if self.wall_clock.is_none() && !coming.expiries.is_empty() {
            self.wall_clock = Some(wall_clock().map_err(ExpectError::WallClock)?);
        }
        let mut requests = requests_of(&self.rules, &self.targets);
        requests.extend(requests_of(&coming.rules, targets));
        let has_names = !requests.is_empty();
        self.follower.follow(requests).map_err(ExpectError::Names)?;
        self.has_names = has_names;
        self.labels
            .extend(targets.iter().map(|target| (target.number, target.name.clone())));
        for target in targets {
            self.follower.set_target(target.number, target.cgroups.clone());
        }
        Ok(())
    }

    /// Follows the expected rules and targets, and no others. Returns what to say of them.
    pub fn adopt(&mut self, coming: Coming, targets: Vec<NamedTarget>) -> Vec<Said> {
        let told: BTreeSet<&str> = self
            .expired
            .iter()
            .filter_map(|rule| Some(self.rules.get(*rule as usize)?.label.as_str()))
            .collect();
        let deadlines = coming.expiries.deadlines_boot_ns();
        let now = boot_now_ns();
        let is_told = |rule: u32| {
            let rule = coming.rules.get(rule as usize);
            rule.is_some_and(|rule| told.contains(rule.label.as_str()))
        };
        self.expired = deadlines
            .iter()
            .filter(|(rule, deadline)| **deadline <= now && is_told(**rule))
            .map(|(rule, _)| *rule)
            .collect();
        let before = std::mem::replace(&mut self.targets, targets);
        for target in before {
            if !self.targets.iter().any(|it| it.number == target.number) {
                self.follower.forget_target(target.number);
            }
        }
        self.rules = coming.rules;
        self.expiries = coming.expiries;
        self.follow_own();
        self.hear(&names::Change::default())
    }

    /// Follows what was followed before, and nothing that was expected.
    pub fn abandon(&mut self) {
        let expected: Vec<usize> = self.labels.keys().copied().collect();
        for number in expected {
            if !self.targets.iter().any(|target| target.number == number) {
                self.follower.forget_target(number);
            }
        }
        self.follow_own();
    }

    /// Follows what the rules and targets have. There are not too many: they were followed beside others, or before.
    fn follow_own(&mut self) {
        let requests = requests_of(&self.rules, &self.targets);
        self.has_names = !requests.is_empty();
        if let Err(error) = self.follower.follow(requests) {
            log::debug!("{error}");
        }
        self.labels.clear();
        for target in &self.targets {
            self.labels.insert(target.number, target.name.clone());
            self.follower.set_target(target.number, target.cgroups.clone());
        }
    }

    /// Waits until every name was asked for once, or for five seconds.
    pub async fn settle(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        if !self.has_names || self.follower.is_settled() {
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
        self.now_of(&self.rules, &self.expiries)
    }

    /// What is true now of rules that are expected.
    #[must_use]
    pub fn now_expected(&self, coming: &Coming) -> Now {
        self.now_of(&coming.rules, &coming.expiries)
    }

    fn now_of(&self, rules: &Arc<[Rule]>, expiries: &Expiries) -> Now {
        Now::of(
            Arc::clone(rules),
            expiries.deadlines_boot_ns().clone(),
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
        match target.and_then(|target| self.labels.get(&target)) {
            Some(name) => format!("target {name}: {message}"),
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
        for target in &self.targets {
            let whose = Now::is_scoped(&self.rules, &target.groups).then_some(target.number);
            for (key, message) in now.notes(&target.groups, Some(target.number), None) {
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

/// The names that rules have for targets.
fn requests_of(rules: &[Rule], targets: &[NamedTarget]) -> BTreeSet<Request> {
    let mut requests = BTreeSet::new();
    for target in targets {
        for rule in rules
            .iter()
            .filter(|rule| rule.enabled && rule.is_in(&target.groups))
        {
            requests.extend(request(rule, Some(target.number)));
        }
    }
    requests
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

async fn sleep(duration: Option<Duration>) {
    match duration {
        None => std::future::pending().await,
        Some(duration) => tokio::time::sleep(duration).await,
    }
}

#[cfg(test)]
mod tests;
