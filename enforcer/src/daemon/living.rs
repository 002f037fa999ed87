//! [`Living`]: what of a policy changes while it governs: the addresses of names, and the clock that rules end by.
//!
//! Follows both, and says what is true now as [`Now`]; putting that into force is for
//! [`Governing`](super::Governing).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::Ipv6Addr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use enforcer_common::decide::Mode;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::expiries::{Expiries, StateError};
use crate::{
    events::clock::boot_now_ns,
    names::{
        self, Families, Follower, Options, Request, Resolver,
        twins::{self, Claim, Twin, twins},
    },
    policy::{
        live::Live,
        overlay::{Answers, Becomes},
        rule::{GroupName, RedirectTo, Resolve, Rule, RuleAction, WithoutTwin},
    },
};

/// How long a start waits for names to be answered, at most. What is not known by then is put into force when it is.
const SETTLING: Duration = Duration::from_secs(5);

/// A target, as far as names need it.
#[derive(Clone, Debug)]
pub struct NamedTarget {
    /// Groups whose rules apply to it.
    pub groups: Vec<GroupName>,
    /// Directories of its cgroups.
    pub cgroups: Vec<PathBuf>,
}

/// What is true now of times and names.
#[derive(Clone, Debug, Default)]
pub struct Now {
    rules: Arc<[Rule]>,
    /// When that was, on CLOCK_BOOTTIME.
    at_boot_ns: u64,
    deadlines_boot_ns: HashMap<u32, u64>,
    names: BTreeMap<Request, names::Answers>,
}

/// Something that people should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// What.
    pub message: String,
    /// A way out.
    pub hint: Option<String>,
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
    said: BTreeSet<String>,
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

    /// Whether anything can ever change.
    #[must_use]
    pub fn is_still(&self) -> bool {
        !self.has_names && self.expiries.is_empty()
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
        said
    }

    /// Waits for a change: for ever, when nothing does. Cancelling loses nothing.
    pub async fn changed(&mut self) -> Vec<Said> {
        loop {
            let until_expiry = self.until_next_expiry();
            let wall_clock = self.wall_clock.as_ref();
            tokio::select! {
                change = self.follower.changed(), if self.has_names => {
                    let said = self.hear(&change);
                    if !change.changed.is_empty() || !said.is_empty() {
                        return said;
                    }
                }
                () = clock_set(wall_clock) => {
                    if let Some(timer) = &self.wall_clock {
                        // It was readable because it was cancelled; set again, it waits for the next time.
                        let _armed = arm(timer.get_ref());
                    }
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
        Now {
            rules: Arc::clone(&self.rules),
            at_boot_ns: boot_now_ns(),
            deadlines_boot_ns: self.expiries.deadlines_boot_ns(),
            names: self
                .follower
                .answers()
                .map(|(request, answers)| (request.clone(), answers))
                .collect(),
        }
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
            if deadline <= now
                && self.expired.insert(rule)
                && let Some(rule) = self.rules.get(rule as usize)
            {
                said.push(Said {
                    message: format!("`{}` has expired: it is as if absent", rule.label),
                    hint: None,
                });
            }
        }
        said
    }

    /// What to say of a change, each thing once as long as it stays so.
    fn hear(&mut self, change: &names::Change) -> Vec<Said> {
        let mut said: Vec<Said> = change
            .notes
            .iter()
            .map(|note| Said {
                message: note.to_string(),
                hint: note.hint().map(str::to_owned),
            })
            .collect();
        let now = self.now();
        let mut standing = BTreeSet::new();
        for (number, target) in self.targets.iter().enumerate() {
            standing.extend(now.notes(&target.groups, Some(number), None));
        }
        for message in standing.difference(&self.said) {
            said.push(Said {
                message: message.clone(),
                hint: None,
            });
        }
        self.said = standing;
        said
    }
}

/// What is asked for because of a rule, for a target; of this host's nameservers where there is none.
#[must_use]
pub fn request(rule: &Rule, target: Option<usize>) -> Option<Request> {
    let (name, families) = match (&rule.host, &rule.action) {
        (Some(host), _) => (host.name.clone(), Families::Both),
        (None, RuleAction::Redirect(RedirectTo::Host { name, .. })) => (name.clone(), Families::Ipv4),
        (None, _) => return None,
    };
    Some(Request {
        name,
        families,
        resolver: match (rule.resolve, target) {
            (Resolve::Target, Some(target)) => Resolver::Target(target),
            (Resolve::Host, _) | (_, None) => Resolver::Host,
        },
        allow_private: rule.allow_private,
    })
}

impl Now {
    /// Whether rules of those groups have names.
    #[must_use]
    pub fn has_names(rules: &[Rule], groups: &[GroupName]) -> bool {
        rules
            .iter()
            .any(|rule| rule.enabled && rule.is_in(groups) && request(rule, None).is_some())
    }

    /// Whether the rules of those groups have answers of their own for each target.
    #[must_use]
    pub fn is_scoped(rules: &[Rule], groups: &[GroupName]) -> bool {
        rules.iter().any(|rule| {
            let named = request(rule, None).is_some();
            rule.enabled && named && rule.resolve == Resolve::Target && rule.is_in(groups)
        })
    }

    /// What is true if that is all that is known: when rules end, and what names are.
    #[must_use]
    pub fn of(
        rules: Arc<[Rule]>,
        deadlines_boot_ns: HashMap<u32, u64>,
        names: BTreeMap<Request, names::Answers>,
    ) -> Self {
        Self {
            rules,
            deadlines_boot_ns,
            at_boot_ns: boot_now_ns(),
            names,
        }
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &Arc<[Rule]> {
        &self.rules
    }

    /// What the compiler needs of it for a target, by its place in the list of targets.
    #[must_use]
    pub fn live(&self, target: Option<usize>) -> Live {
        let mut destinations = HashMap::new();
        for (index, rule) in (0..).zip(self.rules.iter()) {
            if let RuleAction::Redirect(RedirectTo::Host { .. }) = rule.action
                && let Some(answers) = self.answers_of(rule, target)
            {
                destinations.insert(index, answers.current_a());
            }
        }
        Live {
            deadlines_boot_ns: self.deadlines_boot_ns.clone(),
            destinations,
        }
    }

    /// The addresses of the names of those groups' rules, for a target.
    #[must_use]
    pub fn answers(&self, groups: &[GroupName], target: Option<usize>) -> Answers {
        let named = self.named(groups, target);
        let of_all: HashMap<_, _> = self.twins(groups, target, false).twins.into_iter().collect();
        let of_enforced: HashMap<_, _> = self.twins(groups, target, true).twins.into_iter().collect();
        let mut found = Answers::new();
        for (index, rule, answers) in named {
            // What a rule that is only tried says must not change what another does.
            let twins = if self.is_enforced(index, rule) {
                &of_enforced
            } else {
                &of_all
            };
            let of_rule: &mut BTreeMap<_, _> = found.entry(index).or_default();
            for seen in &answers.aaaa {
                let becomes = if !matches!(rule.action, RuleAction::Redirect(_)) {
                    Becomes::AsRuled
                } else {
                    match twins.get(&seen.address) {
                        // Whether there are IPv4 addresses is not known yet.
                        None | Some(Twin::Allow) => Becomes::Absent,
                        Some(Twin::Reject(_)) => Becomes::Rejected,
                        Some(Twin::To(addresses)) => Becomes::To(addresses.clone()),
                    }
                };
                of_rule.insert(seen.address, becomes);
            }
        }
        found
    }

    /// Whether a rule acts, as far as that is the same for every connect.
    fn is_enforced(&self, index: u32, rule: &Rule) -> bool {
        let deadline = self.deadlines_boot_ns.get(&index);
        rule.mode == Mode::Enforce && deadline.is_none_or(|deadline| *deadline > self.at_boot_ns)
    }

    fn answers_of(&self, rule: &Rule, target: Option<usize>) -> Option<&names::Answers> {
        self.names.get(&request(rule, target)?)
    }

    /// The rules of those groups that have a name, with what is known of it.
    fn named(&self, groups: &[GroupName], target: Option<usize>) -> Vec<(u32, &Rule, &names::Answers)> {
        (0..)
            .zip(self.rules.iter())
            .filter(|(_, rule)| rule.enabled && rule.host.is_some() && rule.is_in(groups))
            .filter_map(|(index, rule)| Some((index, rule, self.answers_of(rule, target)?)))
            .collect()
    }

    /// The twins of the addresses of all redirected names, or of those that are redirected in earnest.
    fn twins(&self, groups: &[GroupName], target: Option<usize>, enforced_only: bool) -> twins::Twins {
        let named = self.named(groups, target);
        let names: Vec<(String, twins::WithoutTwin, &names::Answers)> = named
            .into_iter()
            .filter(|(_, rule, _)| matches!(rule.action, RuleAction::Redirect(_)))
            .filter(|(index, rule, _)| !enforced_only || self.is_enforced(*index, rule))
            .filter_map(|(_, rule, answers)| {
                let host = rule.host.as_ref()?;
                let without_twin = match host.without_twin {
                    WithoutTwin::Reject => twins::WithoutTwin::Reject,
                    WithoutTwin::Allow => twins::WithoutTwin::Allow,
                };
                Some((host.name.to_string(), without_twin, answers))
            })
            .collect();
        twins(names.iter().map(|(name, without_twin, answers)| Claim {
            name,
            answers,
            without_twin: *without_twin,
        }))
    }

    /// What people should know of the names of those groups' rules: of all, or of those that have that address.
    #[must_use]
    pub fn notes(
        &self,
        groups: &[GroupName],
        target: Option<usize>,
        about: Option<Ipv6Addr>,
    ) -> BTreeSet<String> {
        let has_it = |answers: &names::Answers| {
            about.is_none_or(|about| answers.aaaa.iter().any(|seen| seen.address == about))
        };
        let named = self.named(groups, target);
        let named: Vec<_> = named.iter().filter(|(_, _, answers)| has_it(answers)).collect();
        let is_wanted = |note: &twins::Note| match note {
            twins::Note::Conflict { address, .. } => about.is_none_or(|about| about == *address),
            twins::Note::Ipv6Only { name, .. } => named.iter().any(|(_, rule, _)| {
                let host = rule.host.as_ref();
                host.is_some_and(|host| host.name.as_str() == name)
            }),
        };
        let twins = self.twins(groups, target, false).notes;
        let twins = twins.iter().filter(|note| is_wanted(note));
        let mut notes: BTreeSet<String> = twins.map(ToString::to_string).collect();
        for (_, rule, answers) in &named {
            if let (Some(host), RuleAction::Reject) = (&rule.host, &rule.action)
                && answers.a_answered
                && answers.a.is_empty()
                && !answers.aaaa.is_empty()
            {
                notes.insert(format!(
                    "{} has IPv6 addresses only: rejecting connects to them makes them fail at once, and cannot make \
                     it reachable",
                    host.name
                ));
            }
        }
        notes
    }
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
        tv_sec: i64::MAX / 4_000_000_000,
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
