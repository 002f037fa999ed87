//! From targets as they are named to cgroups with numbers: at the start, and again when the policy file is read again.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use anyhow::anyhow;
use enforcer_common::clause::MAX_CGROUPS;

use super::{
    super::{
        console,
        exit::{Exit, Failure},
    },
    loaded::{Loaded, Wanted},
};
use crate::{
    daemon::{NamedTarget, Plan, PlannedCgroup, PlannedTarget},
    policy::rule::GroupName,
    targets::{
        Cgroup, Hierarchy, Request, ResolvedTarget, nesting,
        resolve::{self, Note, ResolveError},
        wait,
    },
};

/// A target that is governed, or is about to be.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) request: Request,
    /// What events call it.
    pub(super) name: String,
    pub(super) number: usize,
    pub(super) groups: Vec<GroupName>,
    pub(super) cgroups: Vec<Arc<Cgroup>>,
}

/// For how many targets a run has counters whose policy file can be read again, at least.
const ROOM: usize = 256;

/// The numbers of targets. One that was governed and is again has the number it had.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    /// Who has each number, or had it last.
    of: Vec<Request>,
    /// How many there are.
    room: usize,
}

impl Numbers {
    /// Enough of them for these, and for others where the policy file can be read again.
    pub(super) fn new(wanted: usize, reloads: bool) -> Self {
        let more = if reloads { ROOM.max(2 * wanted) } else { 0 };
        Self {
            of: Vec::new(),
            room: more.min(MAX_CGROUPS as usize).max(wanted),
        }
    }

    pub(super) const fn room(&self) -> usize {
        self.room
    }

    /// Gives each a number. Those of `held` are in use until all of this is in force.
    fn assign(&mut self, wanted: &[Wanted], held: &[Held]) -> Result<Vec<usize>, Failure> {
        let in_use: HashSet<usize> = held.iter().map(|held| held.number).collect();
        let mut taken: HashSet<usize> = HashSet::new();
        let mut numbers: Vec<Option<usize>> = Vec::with_capacity(wanted.len());
        for target in wanted {
            // One request can be there twice: the command line's.
            let known = self.of.iter().enumerate();
            let known = known
                .filter(|(_, request)| **request == target.request)
                .map(|(number, _)| number)
                .find(|number| !taken.contains(number));
            taken.extend(known);
            numbers.push(known);
        }
        for (target, number) in wanted.iter().zip(&mut numbers) {
            if number.is_some() {
                continue;
            }
            let free = if self.of.len() < self.room {
                self.of.push(target.request.clone());
                Some(self.of.len() - 1)
            } else {
                (0..self.of.len()).find(|number| !in_use.contains(number) && !taken.contains(number))
            };
            let Some(free) = free else {
                let error = anyhow!(
                    "{} targets, and those of the policy in force, are more than this run has counters for, {}",
                    wanted.len(),
                    self.room
                );
                let hint = "restart enforcer: it makes room for twice as many targets as there are then";
                return Err(Failure::new(Exit::Failed, error).hint(Some(hint)));
            };
            self.of[free] = target.request.clone();
            taken.insert(free);
            *number = Some(free);
        }
        Ok(numbers.into_iter().flatten().collect())
    }

    /// What was resolved, with numbers.
    pub(super) fn hold(
        &mut self,
        wanted: &[Wanted],
        resolved: Vec<ResolvedTarget>,
        held: &[Held],
    ) -> Result<Vec<Held>, Failure> {
        let numbers = self.assign(wanted, held)?;
        let targets = wanted.iter().zip(resolved).zip(numbers);
        Ok(targets
            .map(|((wanted, target), number)| Held {
                request: wanted.request.clone(),
                name: target.name,
                number,
                groups: wanted.groups.clone(),
                cgroups: target.cgroups,
            })
            .collect())
    }
}

/// What names need to know of the targets.
pub(super) fn named(hierarchy: &Hierarchy, held: &[Held]) -> Vec<NamedTarget> {
    held.iter()
        .map(|target| NamedTarget {
            name: target.name.clone(),
            number: target.number,
            groups: target.groups.clone(),
            cgroups: target
                .cgroups
                .iter()
                .map(|cgroup| hierarchy.absolute(cgroup.path()))
                .collect(),
        })
        .collect()
}

pub(super) fn plan(loaded: &Loaded, held: &[Held]) -> Plan {
    let all = held.iter().flat_map(|target| &target.cgroups);
    let paths: Vec<_> = all.map(|cgroup| cgroup.path()).collect();
    let mut nesting = nesting::nesting(&paths).into_iter();
    let targets = held.iter().filter_map(|target| {
        let cgroups = target.cgroups.iter().zip(nesting.by_ref());
        let cgroups = cgroups.map(|(cgroup, nesting)| PlannedCgroup {
            cgroup: Arc::clone(cgroup),
            has_outer: nesting.has_outer,
            has_inner: nesting.has_inner,
        });
        Some(PlannedTarget {
            name: target.name.clone(),
            number: target.number,
            cgroups: cgroups.collect(),
            policy: Arc::clone(loaded.policies.get(&target.groups)?),
            groups: target.groups.clone(),
        })
    });
    Plan {
        targets: targets.collect(),
        rules: Arc::clone(&loaded.rules),
    }
}

/// Says what is to be said of targets that were found, unless they contradict each other.
pub(super) fn note(wanted: &[Wanted], resolved: &[ResolvedTarget]) -> Result<(), Failure> {
    refuse_contradictions(wanted, resolved)?;
    for note in resolved.iter().flat_map(|target| &target.notes) {
        console::note(note);
    }
    Ok(())
}

pub(super) async fn resolve_all(
    hierarchy: &Hierarchy,
    wanted: &[Wanted],
    waiting: bool,
) -> Result<Vec<ResolvedTarget>, Failure> {
    loop {
        let resolved = resolve_each(hierarchy, wanted, waiting).await?;
        // What was there first may have been started again while the last was waited for.
        let mut cgroups = resolved.iter().flat_map(|target| &target.cgroups);
        if !waiting || !cgroups.any(|cgroup| cgroup.is_gone()) {
            return Ok(resolved);
        }
    }
}

async fn resolve_each(
    hierarchy: &Hierarchy,
    wanted: &[Wanted],
    waiting: bool,
) -> Result<Vec<ResolvedTarget>, Failure> {
    let mut resolved = Vec::new();
    for target in wanted {
        let one = if waiting {
            let mut is_waiting = false;
            let say = |reason: Option<&str>| {
                if !std::mem::replace(&mut is_waiting, true) {
                    console::note(format_args!("waiting for {}", target.request.selector));
                }
                if let Some(reason) = reason {
                    console::note(reason);
                }
            };
            wait::wait_for(hierarchy, &target.request, say)
                .await
                .map_err(|error| {
                    let hint = error.hint();
                    Failure::new(Exit::Failed, error).hint(hint)
                })?
        } else {
            resolve::resolve_one(hierarchy, &target.request)
                .await
                .map_err(failed_to_resolve)?
        };
        resolved.push(one);
    }
    resolve::settle(&mut resolved).map_err(failed_to_resolve)?;
    Ok(resolved)
}

/// What was found when targets are looked for again.
pub(super) struct Found {
    pub(super) resolved: Vec<ResolvedTarget>,
    /// Those that are not there, and may come.
    pub(super) missing: Vec<Request>,
}

/// Looks for targets where others are held. Of a target that stays, nobody is asked: it is governed, whatever became of the
/// process or the engine that led to it. Where `may_lack` says so, one that is not there is no error.
pub(super) async fn find_again(
    hierarchy: &Hierarchy,
    wanted: &[Wanted],
    held: &[Held],
    may_lack: impl Fn(&ResolveError) -> bool,
) -> Result<Found, Vec<Failure>> {
    let mut found = Found {
        resolved: Vec::new(),
        missing: Vec::new(),
    };
    let mut failures = Vec::new();
    for target in wanted {
        let request = &target.request;
        let known = held.iter().find(|held| held.request == *request);
        let alive: Vec<Arc<Cgroup>> = known
            .into_iter()
            .flat_map(|held| &held.cgroups)
            .filter(|cgroup| !cgroup.is_gone())
            .cloned()
            .collect();
        let as_it_is = |name: String, cgroups| ResolvedTarget {
            name,
            selector: request.selector.clone(),
            cgroups,
            notes: Vec::new(),
        };
        if let Some(known) = known
            && !alive.is_empty()
        {
            found.resolved.push(as_it_is(known.name.clone(), alive));
            continue;
        }
        match resolve::resolve_one(hierarchy, request).await {
            Ok(one) => found.resolved.push(one),
            Err(error) if may_lack(&error) => {
                let name = known.map_or_else(|| request.label(), |known| known.name.clone());
                found.resolved.push(as_it_is(name, Vec::new()));
                found.missing.push(request.clone());
            }
            Err(error) => failures.push(failed_to_resolve(error)),
        }
    }
    if failures.is_empty()
        && let Err(error) = resolve::settle(&mut found.resolved)
    {
        failures.push(failed_to_resolve(error));
    }
    if failures.is_empty() {
        Ok(found)
    } else {
        Err(failures)
    }
}

/// Targets that are the same cgroup must be governed by the same groups: nothing says which of them would win.
fn refuse_contradictions(wanted: &[Wanted], resolved: &[ResolvedTarget]) -> Result<(), Failure> {
    for (later, target) in wanted.iter().zip(resolved) {
        for note in &target.notes {
            let Note::SameCgroup {
                cgroup,
                target: earlier,
                name,
            } = note
            else {
                continue;
            };
            let Some(earlier) = wanted.get(*earlier) else {
                continue;
            };
            if distinct(&earlier.groups) != distinct(&later.groups) {
                let error = anyhow!(
                    "targets {name} and {} are the same cgroup, {}, but use different groups of rules: {} and {}",
                    target.name,
                    cgroup.display(),
                    earlier.groups.join(", "),
                    later.groups.join(", ")
                );
                let hint = "a cgroup is governed by one list of groups: write one [[target]] whose `use` names all \
                            that shall apply, or name a cgroup below it in one of them";
                return Err(Failure::new(Exit::Policy, error).hint(Some(hint)));
            }
        }
    }
    Ok(())
}

/// Neither order nor repetition of groups means anything.
fn distinct(groups: &[GroupName]) -> BTreeSet<&GroupName> {
    groups.iter().collect()
}

fn failed_to_resolve(error: ResolveError) -> Failure {
    let hint = error.hint();
    Failure::new(Exit::Failed, error).hint(hint)
}
