//! Reading the policy file again, and putting it into force without a gap; or saying all that is wrong with it, and leaving
//! everything as it is.

use std::{collections::HashSet, time::Instant};

use super::{
    super::{
        console::{self, Talk},
        exit::Failure,
        living, neighbours, prepare, warn,
    },
    Ask, Course, Run, Stop, ask,
    changes::Line,
    loaded::{Loaded, load_again, names_targets},
    targets::{Held, Numbers, find_again, named, note},
};
use crate::{
    daemon::{Coming, Living},
    targets::{Request, ResolvedTarget, resolve::ResolveError},
};

/// All that the kernel has not been asked for yet.
pub(super) struct Ready {
    pub(super) loaded: Loaded,
    pub(super) held: Vec<Held>,
    pub(super) missing: Vec<Request>,
    pub(super) coming: Coming,
    pub(super) numbers: Numbers,
}

/// Says why a policy is not put into force, all of it.
pub(super) fn refuse(failures: &[Failure]) {
    for failure in failures {
        console::error(failure);
    }
    console::note("not reloaded: what was in force still is");
}

impl Run<'_> {
    /// Reads the policy file again and puts it into force. Returns why to stop, if somebody wants that meanwhile.
    pub(super) async fn reload(&mut self, course: &mut Course) -> Option<Stop> {
        let began = Instant::now();
        let arguments = self.arguments;
        let ready = {
            let Course {
                governing,
                living,
                writer,
                signals,
                ..
            } = &mut *course;
            let this = &*self;
            let readying = async {
                let loaded = load_again(arguments).await.map_err(|failure| vec![failure])?;
                this.ready_again(living, loaded).await
            };
            tokio::select! {
                ready = governing.meanwhile(readying) => ready,
                ask = ask(signals, true) => {
                    course.living.abandon();
                    // Whoever changed the file again while it was read wants what it says now.
                    course.is_reload_due = ask == Ask::Reload;
                    return (ask == Ask::End).then_some(Stop::Asked);
                }
                _ = writer.ended() => return Some(Stop::StreamEnded),
            }
        };
        let ready = match ready {
            Ok(ready) => ready,
            Err(failures) => {
                course.living.abandon();
                refuse(&failures);
                self.catch_up(course).await;
                return None;
            }
        };
        let before = self.loaded.clone();
        match self.put(course, ready).await {
            Ok(applied) => {
                console::say(Line::new(&before, &self.loaded, applied, began.elapsed()));
                living::say(course.governing.take_said(), Talk::Plain);
                drop(before);
                course.governing.tidy().await;
            }
            Err(failure) => {
                refuse(&[failure]);
                living::say(course.governing.take_said(), Talk::Plain);
                self.catch_up(course).await;
            }
        }
        None
    }

    /// Governs targets that were waited for and have come, beside those that are governed.
    pub(super) async fn take_up(&mut self, course: &mut Course) -> Option<Stop> {
        let ready = {
            let Course {
                governing,
                living,
                signals,
                writer,
                ..
            } = &mut *course;
            let this = &*self;
            tokio::select! {
                ready = governing.meanwhile(this.ready_again(living, this.loaded.clone())) => ready,
                ask = ask(signals, this.reloads()) => {
                    course.living.abandon();
                    course.is_reload_due = ask == Ask::Reload;
                    return (ask == Ask::End).then_some(Stop::Asked);
                }
                _ = writer.ended() => return Some(Stop::StreamEnded),
            }
        };
        let put = match ready {
            Ok(ready) => self.put(course, ready).await.map_err(|failure| vec![failure]),
            Err(failures) => {
                course.living.abandon();
                Err(failures)
            }
        };
        match put {
            Ok(_) => {
                self.say_ready(&course.governing);
                course.governing.tidy().await;
            }
            Err(failures) => {
                for failure in &failures {
                    console::error(failure);
                }
                // What cannot be governed is not waited for any more, until the next reload.
                self.missing.clear();
                self.catch_up(course).await;
            }
        }
        None
    }

    /// Puts into force what has changed of times and names while something else was tried.
    async fn catch_up(&self, course: &mut Course) {
        living::put_into_force(&course.living, Vec::new(), &mut course.governing, Talk::Plain).await;
    }

    /// Looks for the targets of what was loaded, beside those that are governed, and for all that is to be known.
    async fn ready_again(&self, living: &mut Living, loaded: Loaded) -> Result<Ready, Vec<Failure>> {
        let is_fixed = names_targets(&self.arguments.targets);
        // The command line cannot be mended while it runs: what has gone of its targets, as was said then, is gone.
        let may_lack = |error: &ResolveError| is_fixed || (self.arguments.wait && error.may_pass());
        let mut found = find_again(&self.hierarchy, &loaded.wanted, &self.held, may_lack).await?;
        if is_fixed && !self.arguments.wait {
            found.missing.clear();
        }
        for request in found
            .missing
            .iter()
            .filter(|missing| !self.missing.contains(missing))
        {
            console::note(format_args!("waiting for {}", request.selector));
        }
        self.make_ready(living, loaded, found.resolved, found.missing)
            .await
            .map_err(|failure| vec![failure])
    }

    /// Everything between looking for targets and asking the kernel.
    pub(super) async fn make_ready(
        &self,
        living: &mut Living,
        loaded: Loaded,
        resolved: Vec<ResolvedTarget>,
        missing: Vec<Request>,
    ) -> Result<Ready, Failure> {
        note(&loaded.wanted, &resolved)?;
        let mut numbers = self.numbers.clone();
        let held = numbers.hold(&loaded.wanted, resolved, &self.held)?;
        let before: HashSet<u64> = self
            .held
            .iter()
            .flat_map(|target| &target.cgroups)
            .map(|cgroup| cgroup.id())
            .collect();
        let cgroups = || held.iter().flat_map(|target| &target.cgroups);
        let new = cgroups().filter(|cgroup| !before.contains(&cgroup.id()));
        neighbours::note_programs(&self.hierarchy, &self.support, new.map(AsRef::as_ref));
        if !prepare::lacks_errnos(&self.support, &self.loaded.rules) {
            prepare::note_lacks(&self.support, &loaded.rules, Talk::Plain);
        }
        let processes = cgroups().filter_map(|cgroup| cgroup.any_process()).collect();
        let policies = loaded.policies.values().cloned().collect();
        warn::surroundings(loaded.rules.clone(), policies, processes, &self.warned).await;

        let (arguments, rules) = (self.arguments.living.clone(), loaded.rules.clone());
        let coming = tokio::task::spawn_blocking(move || living::coming(&arguments, rules, Talk::Plain))
            .await
            .map_err(|error| Failure::new(super::Exit::Failed, error))?;
        let targets = named(&self.hierarchy, &held);
        let coming = living::expect(living, coming, &targets, Talk::Plain).await?;
        Ok(Ready {
            loaded,
            held,
            missing,
            coming,
            numbers,
        })
    }
}
