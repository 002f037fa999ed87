//! [`Follower`]: asks for each name when it is due, and remembers what is said. Decides nothing about connects.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    Answers, MAX_NAMES, Note, Options, Request, Resolver,
    ask::Round,
    host::{Host, Look},
    inside::{self, Question},
};

mod followed;

use self::followed::Followed;

/// Names of the host's resolver that are asked for at once: two questions each.
const MAX_IN_FLIGHT: usize = 32;

/// Helpers that run at once.
const MAX_HELPERS: usize = 4;

/// There are more names than can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot follow {count} names, each counted once for whoever is asked: {MAX_NAMES} is the limit")]
pub struct TooManyNames {
    /// How many were given, each once.
    pub count: usize,
}

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Requests whose answers are others than before.
    pub changed: Vec<Request>,
    /// What to tell people.
    pub notes: Vec<Note>,
    /// Whether with this every name has been asked for once, which was not so before.
    pub settled: bool,
}

impl Change {
    fn is_nothing(&self) -> bool {
        self.changed.is_empty() && self.notes.is_empty() && !self.settled
    }
}

/// What a finished task brings: what came of asking for those with these numbers.
type Rounds = Vec<(u64, Round)>;

/// Follows names. Nothing happens between two calls of [`changed`](Self::changed) but that questions already asked
/// are answered.
pub struct Follower {
    helper: PathBuf,
    host: Host,
    /// By a number that no later request will have.
    followed: BTreeMap<u64, Followed>,
    next_number: u64,
    /// Directories of the cgroups of each target that is there.
    targets: HashMap<usize, Vec<PathBuf>>,
    tasks: JoinSet<Rounds>,
    /// Who is waiting for what, and the target that is being asked.
    running: HashMap<Id, (Option<usize>, Vec<u64>)>,
    settled: bool,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower")
            .field("followed", &self.followed.len())
            .field("running", &self.running.len())
            .finish_non_exhaustive()
    }
}

impl Follower {
    /// Follows nothing yet. Reads no file and asks nobody before [`changed`](Self::changed) is awaited.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            helper: options.helper,
            host: Host::new(options.resolv_conf, options.hosts),
            followed: BTreeMap::new(),
            next_number: 0,
            targets: HashMap::new(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            settled: false,
        }
    }

    /// Follows these names, each once, and no others. What is known of those that stay stays known.
    ///
    /// # Errors
    ///
    /// When there are more than [`MAX_NAMES`]. Then everything is as it was.
    pub fn follow(&mut self, requests: impl IntoIterator<Item = Request>) -> Result<(), TooManyNames> {
        let mut wanted: BTreeSet<Request> = requests.into_iter().collect();
        if wanted.len() > MAX_NAMES {
            return Err(TooManyNames { count: wanted.len() });
        }
        // What is left in `wanted` is new.
        self.followed
            .retain(|_, followed| wanted.remove(&followed.request));
        let now = Instant::now();
        self.settled &= wanted.is_empty();
        for request in wanted {
            self.followed
                .insert(self.next_number, Followed::new(request, now));
            self.next_number += 1;
        }
        Ok(())
    }

    /// Says where a target is: the directories of its cgroups, none while it is not there. Its names are asked for
    /// at once when it comes.
    pub fn set_target(&mut self, target: usize, cgroups: Vec<PathBuf>) {
        let before = if cgroups.is_empty() {
            self.targets.remove(&target)
        } else {
            self.targets.insert(target, cgroups)
        };
        if before.as_ref() != self.targets.get(&target) {
            for followed in self.followed.values_mut() {
                if followed.request.resolver == Resolver::Target(target) {
                    followed.make_due(Instant::now());
                }
            }
        }
    }

    /// Forgets a target and all that its nameservers said, and follows its names no more. Needed before its number is
    /// given to another: what one target says must never reach the other.
    pub fn forget_target(&mut self, target: usize) {
        self.targets.remove(&target);
        self.followed
            .retain(|_, followed| followed.request.resolver != Resolver::Target(target));
    }

    /// What is known of each name.
    pub fn answers(&self) -> impl Iterator<Item = (&Request, Answers)> {
        self.followed
            .values()
            .map(|followed| (&followed.request, followed.answers()))
    }

    /// Waits until something has changed, asking for names as they are due: for ever, when nothing does.
    ///
    /// Cancelling loses nothing. Needs a tokio runtime with I/O and time; the thread that polls it must live as long
    /// as the questions, because helpers die with the thread that started them.
    pub async fn changed(&mut self) -> Change {
        loop {
            // Nothing to wait for is settled too.
            let mut change = Change::default();
            self.settle(&mut change);
            if !change.is_nothing() {
                return change;
            }
            self.ask_what_is_due();
            let due = self.next_due();
            let finished = tokio::select! {
                Some(finished) = self.tasks.join_next_with_id() => finished,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => continue,
                else => std::future::pending().await,
            };
            // From here to the return nothing is awaited, so nothing can be lost.
            self.take(finished, &mut change);
            // What has finished meanwhile is one change with it.
            while let Some(finished) = self.tasks.try_join_next_with_id() {
                self.take(finished, &mut change);
            }
            self.settle(&mut change);
            if !change.is_nothing() {
                return change;
            }
        }
    }

    fn settle(&mut self, change: &mut Change) {
        if !self.settled && self.followed.values().all(Followed::has_been_asked) {
            self.settled = true;
            change.settled = true;
        }
    }

    /// Applies what a task brought. Those it brought nothing for failed.
    fn take(&mut self, finished: Result<(Id, Rounds), JoinError>, change: &mut Change) {
        let (id, rounds) = finished.unwrap_or_else(|error| (error.id(), Vec::new()));
        let (_, numbers) = self.running.remove(&id).unwrap_or_default();
        let mut rounds: HashMap<_, _> = rounds.into_iter().collect();
        let now = Instant::now();
        for number in numbers {
            // It may not be wanted any more.
            let Some(followed) = self.followed.get_mut(&number) else {
                continue;
            };
            let round = rounds.remove(&number).unwrap_or_else(|| {
                Round::failed(
                    followed.request.families,
                    "whoever was to ask ended without a word",
                )
            });
            followed.take(round, now, fastrand::f64(), change);
        }
    }

    /// When there is something to ask, unless it has to wait for others to finish.
    fn next_due(&self) -> Option<Instant> {
        let busy = self.busy_targets();
        let (host_is_full, helpers_are_full) =
            (self.host_in_flight() >= MAX_IN_FLIGHT, busy.len() >= MAX_HELPERS);
        self.followed
            .values()
            .filter(|followed| match followed.request.resolver {
                Resolver::Host => !host_is_full,
                Resolver::Target(target) => !helpers_are_full && !busy.contains(&target),
            })
            .filter_map(Followed::due)
            .min()
    }

    fn busy_targets(&self) -> HashSet<usize> {
        self.running.values().filter_map(|(target, _)| *target).collect()
    }

    fn host_in_flight(&self) -> usize {
        self.running
            .values()
            .filter(|(target, _)| target.is_none())
            .count()
    }

    fn ask_what_is_due(&mut self) {
        let now = Instant::now();
        let mut due: Vec<(Instant, u64)> = self
            .followed
            .iter()
            .filter_map(|(number, followed)| Some((followed.due()?, *number)))
            .filter(|(due, _)| *due <= now)
            .collect();
        // Who has waited longest is asked for first.
        due.sort_unstable();
        let mut of_targets: Vec<(usize, u64)> = Vec::new();
        let mut room = MAX_IN_FLIGHT.saturating_sub(self.host_in_flight());
        for (_, number) in due {
            let Some(followed) = self.followed.get(&number) else {
                continue;
            };
            match followed.request.resolver {
                Resolver::Host if room == 0 => {}
                Resolver::Host => {
                    room -= 1;
                    self.ask_host(number);
                }
                Resolver::Target(target) => of_targets.push((target, number)),
            }
        }
        for (target, mut numbers) in in_turn(of_targets) {
            let busy = self.busy_targets();
            if busy.len() < MAX_HELPERS && !busy.contains(&target) {
                numbers.truncate(inside::MAX_QUESTIONS);
                self.ask_target(target, numbers);
            }
        }
    }

    fn ask_host(&mut self, number: u64) {
        let Some(followed) = self.followed.get_mut(&number) else {
            return;
        };
        followed.begin();
        let (name, families) = (followed.request.name.clone(), followed.request.families);
        let look = self.host.look(&name, families);
        let task = self.tasks.spawn(async move {
            let round = match look {
                Ok(Look::Known(round)) => round,
                Ok(Look::Ask(asker)) => asker.ask(&name, families).await,
                Err(why) => Round::failed(families, &why),
            };
            vec![(number, round)]
        });
        self.running.insert(task.id(), (None, vec![number]));
    }

    fn ask_target(&mut self, target: usize, numbers: Vec<u64>) {
        let mut questions = Vec::with_capacity(numbers.len());
        for number in &numbers {
            if let Some(followed) = self.followed.get_mut(number) {
                followed.begin();
                questions.push(Question {
                    name: followed.request.name.clone(),
                    families: followed.request.families,
                });
            }
        }
        let cgroups = self.targets.get(&target).cloned().unwrap_or_default();
        let helper = self.helper.clone();
        let asked = Arc::<[u64]>::from(numbers.as_slice());
        let task = self.tasks.spawn(async move {
            let rounds = inside::ask(&helper, &cgroups, &questions).await;
            asked.iter().copied().zip(rounds).collect()
        });
        self.running.insert(task.id(), (Some(target), numbers));
    }
}

/// What is due, by target: the one that has waited longest comes first, so that none has to wait for others with many
/// names.
fn in_turn(due: impl IntoIterator<Item = (usize, u64)>) -> Vec<(usize, Vec<u64>)> {
    let mut turns: Vec<(usize, Vec<u64>)> = Vec::new();
    let mut places: HashMap<usize, usize> = HashMap::new();
    for (target, number) in due {
        let place = *places.entry(target).or_insert_with(|| {
            turns.push((target, Vec::new()));
            turns.len() - 1
        });
        if let Some((_, numbers)) = turns.get_mut(place) {
            numbers.push(number);
        }
    }
    turns
}

#[cfg(test)]
mod tests;
