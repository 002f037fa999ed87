//! `enforcer run`: govern existing workloads until told to stop.

mod changes;
mod loaded;
mod reload;
mod targets;

use std::{path::Path, process::ExitCode};

use anyhow::anyhow;

use self::{
    loaded::{Loaded, load, load_again, names_targets},
    reload::Ready,
    targets::{Held, Numbers, named, note, plan, resolve_all},
};
use super::{
    cli::RunArgs,
    console::{self, Talk},
    exit::{Exit, Failure},
    living, neighbours,
    prepare::{self, counted},
    stream, warn,
};
use crate::{
    daemon::{
        Governing, Living, Said, StartOptions,
        signals::{HANGING_UP, RELOADING, STOPPING, Signals},
    },
    kernel::Support,
    sinks::writer::Writer,
    targets::{Hierarchy, Request, VanishWatch, wait},
};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    End,
    /// Read the policy file again.
    Reload,
}

/// Why the run loop woke up for good.
enum Stop {
    Asked,
    /// Events cannot be written any more: because nobody reads them, which is fine, or because that failed.
    StreamEnded,
    LastTargetGone,
}

/// What the run loop woke up for.
enum Woken {
    Stop(Stop),
    Reload,
    /// A target that was waited for may be there.
    Came,
}

/// What is to be governed by what, and what it takes to find that out again.
struct Run<'run> {
    arguments: &'run RunArgs,
    hierarchy: Hierarchy,
    support: Support,
    options: StartOptions,
    /// What is in force.
    loaded: Loaded,
    held: Vec<Held>,
    /// Targets of the policy in force that are not there, and are waited for.
    missing: Vec<Request>,
    numbers: Numbers,
    warned: warn::Said,
}

/// Everything that goes on while connects are governed.
struct Course {
    governing: Governing,
    living: Living,
    writer: Writer,
    signals: Signals,
    watch: VanishWatch,
    /// The file is to be read again before anything else.
    is_reload_due: bool,
}

pub(crate) async fn run(arguments: &RunArgs) -> Result<ExitCode, Failure> {
    let failed = |error: anyhow::Error| Failure::new(Exit::Failed, error);
    let reloads = arguments.rules.policy.is_some();
    let mut signals = if reloads {
        Signals::install(RELOADING, &[])
    } else {
        Signals::install(STOPPING, HANGING_UP)
    }
    .map_err(|error| failed(error.into()))?;
    let mut loaded = load(arguments)?;
    let hierarchy = Hierarchy::find().map_err(|error| {
        let hint = error.hint();
        Failure::new(Exit::Kernel, error).hint(hint)
    })?;
    let resolved = loop {
        tokio::select! {
            resolved = resolve_all(&hierarchy, &loaded.wanted, arguments.wait) => break resolved?,
            // Nothing is attached yet, and there is nothing to tell.
            ask = ask(&mut signals, reloads) => match ask {
                Ask::End => return Ok(Exit::Done.into()),
                Ask::Reload => read_again(arguments, &mut loaded).await,
            },
        }
    };
    let mut watch = VanishWatch::new(&hierarchy).map_err(|error| failed(error.into()))?;
    note(&loaded.wanted, &resolved)?;

    // Where nothing can be governed, nothing is cut off either.
    let support = prepare::support(&loaded.rules, Talk::Plain)?;
    let mut numbers = Numbers::new(loaded.wanted.len(), reloads && !names_targets(&arguments.targets));
    let held = numbers.hold(&loaded.wanted, resolved, &[])?;
    let cgroups = || held.iter().flat_map(|target| &target.cgroups);
    for cgroup in cgroups() {
        watch.add(cgroup).map_err(|error| failed(error.into()))?;
    }
    neighbours::note_programs(&hierarchy, &support, cgroups().map(AsRef::as_ref));
    let warned = warn::Said::default();
    let processes = cgroups().filter_map(|cgroup| cgroup.any_process()).collect();
    let policies = loaded.policies.values().cloned().collect();
    warn::surroundings(loaded.rules.clone(), policies, processes, &warned).await;

    let mut is_reload_due = false;
    let living = {
        let targets = named(&hierarchy, &held);
        let following = living::follow(&arguments.living, loaded.rules.clone(), targets, Talk::Plain);
        let mut following = std::pin::pin!(following);
        loop {
            tokio::select! {
                living = &mut following => break living?,
                ask = ask(&mut signals, reloads) => match ask {
                    Ask::End => return Ok(Exit::Done.into()),
                    Ask::Reload => is_reload_due = true,
                },
            }
        }
    };
    let options = prepare::start_options(loaded.mode, arguments.events, &arguments.debug, numbers.room());
    let governing = Governing::start(&support, &plan(&loaded, &held), &options, living.now())
        .map_err(prepare::kernel_failure)?;
    let writer = stream::to_stdout(&governing, arguments.output.output).map_err(failed)?;
    let run = Run {
        arguments,
        hierarchy,
        support,
        options,
        loaded,
        held,
        missing: Vec::new(),
        numbers,
        warned,
    };
    let course = Course {
        governing,
        living,
        writer,
        signals,
        watch,
        is_reload_due,
    };
    run.go_on(course).await
}

/// The next thing that somebody asks for. The hangup of the terminal asks for the end, unless enforcer was started to
/// outlive it; one that a process sends asks for a reload, where there is something to read again.
async fn ask(signals: &mut Signals, reloads: bool) -> Ask {
    loop {
        let signal = signals.next().await;
        if !reloads || !signal.is_hangup() {
            return Ask::End;
        }
        if signal.from_process {
            return Ask::Reload;
        }
        if !signals.was_ignored(signal.number) {
            return Ask::End;
        }
    }
}

/// Reads the policy file again while nothing is governed. One that cannot be used changes nothing.
async fn read_again(arguments: &RunArgs, loaded: &mut Loaded) {
    match load_again(arguments).await {
        Ok(again) => {
            *loaded = again;
            console::note("the policy file was read again");
        }
        Err(failure) => reload::refuse(&[failure]),
    }
}

impl Run<'_> {
    const fn reloads(&self) -> bool {
        self.arguments.rules.policy.is_some()
    }

    async fn go_on(mut self, mut course: Course) -> Result<ExitCode, Failure> {
        let mut is_told = false;
        let stop = loop {
            course.governing.release_vanished(note_gone);
            let woken = if course.governing.cgroups() == 0 {
                Woken::Stop(Stop::LastTargetGone)
            } else {
                living::say(course.governing.take_said(), Talk::Plain);
                if !std::mem::replace(&mut is_told, true) {
                    self.say_ready(&course.governing);
                }
                self.govern(&mut course).await?
            };
            let ready = match woken {
                Woken::Stop(Stop::LastTargetGone) if self.arguments.wait => {
                    console::note("the last target is gone; waiting for the targets to come back");
                    is_told = false;
                    self.come_back(&mut course).await?
                }
                Woken::Stop(stop) => break stop,
                Woken::Reload => self.reload(&mut course).await,
                Woken::Came => self.take_up(&mut course).await,
            };
            if let Some(stop) = ready {
                break stop;
            }
        };
        let Course {
            governing,
            mut writer,
            ..
        } = course;
        let report = governing.finish().map_err(prepare::kernel_failure)?;
        let ended = stream::end(&mut writer).await;
        console::say(stream::summary(&report, &writer));
        ended.map_err(|error| Failure::new(Exit::Failed, error))?;
        match stop {
            Stop::Asked | Stop::StreamEnded => Ok(Exit::Done.into()),
            Stop::LastTargetGone => Err(Failure::new(Exit::Failed, anyhow!("the last target is gone"))),
        }
    }

    fn say_ready(&self, governing: &Governing) {
        console::say(format_args!(
            "{} {} on {}",
            if self.loaded.mode == enforcer_common::decide::Mode::Audit {
                "auditing"
            } else {
                "enforcing"
            },
            counted(self.loaded.used_rules().len(), "rule"),
            counted(governing.cgroups(), "cgroup")
        ));
    }

    /// The run loop: everything that can wake it is an arm here.
    async fn govern(&self, course: &mut Course) -> Result<Woken, Failure> {
        let mut coming = std::pin::pin!(wait::wait_for_any(&self.hierarchy, &self.missing));
        loop {
            if std::mem::take(&mut course.is_reload_due) {
                return Ok(Woken::Reload);
            }
            let said = match self.until_change(course, coming.as_mut()).await? {
                Ok(said) => said,
                Err(woken) => return Ok(woken),
            };
            living::put_into_force(&course.living, said, &mut course.governing, Talk::Plain).await;
        }
    }

    /// Waits until something changes of times or names, or there is something else to do.
    async fn until_change(
        &self,
        course: &mut Course,
        mut coming: std::pin::Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Result<Vec<Said>, Woken>, Failure> {
        let Course {
            governing,
            living,
            writer,
            signals,
            watch,
            ..
        } = course;
        // One future until it is done: beginning it looks at every name and every expiry, which is not for each poll.
        let mut changing = std::pin::pin!(living.changed());
        loop {
            tokio::select! {
                biased;
                ask = ask(signals, self.reloads()) => return Ok(Err(match ask {
                    Ask::End => Woken::Stop(Stop::Asked),
                    Ask::Reload => Woken::Reload,
                })),
                _ = writer.ended() => return Ok(Err(Woken::Stop(Stop::StreamEnded))),
                gone = watch.vanished() => {
                    gone.map_err(|error| Failure::new(Exit::Failed, error))?;
                    governing.release_vanished(note_gone);
                    if governing.cgroups() == 0 {
                        return Ok(Err(Woken::Stop(Stop::LastTargetGone)));
                    }
                }
                // Before what changes: names may change faster than that can be put into force.
                moved = governing.keep_up() => moved.map_err(prepare::kernel_failure)?,
                said = &mut changing => return Ok(Ok(said)),
                () = coming.as_mut() => return Ok(Err(Woken::Came)),
            }
        }
    }

    /// Waits for all targets, and governs them again.
    async fn come_back(&mut self, course: &mut Course) -> Result<Option<Stop>, Failure> {
        let reloads = self.reloads();
        let resolved = 'waiting: loop {
            let wanted = self.loaded.wanted.clone();
            let returning = resolve_all(&self.hierarchy, &wanted, true);
            let mut returning = std::pin::pin!(returning);
            loop {
                // Names go on being asked for: what comes back must not find answers of long ago.
                let said = tokio::select! {
                    resolved = &mut returning => break 'waiting resolved?,
                    ask = ask(&mut course.signals, reloads) => match ask {
                        Ask::End => return Ok(Some(Stop::Asked)),
                        Ask::Reload => break,
                    },
                    _ = course.writer.ended() => return Ok(Some(Stop::StreamEnded)),
                    said = course.living.changed() => said,
                };
                living::put_into_force(&course.living, said, &mut course.governing, Talk::Plain).await;
            }
            read_again(self.arguments, &mut self.loaded).await;
        };
        let ready = tokio::select! {
            ready = self.make_ready(&mut course.living, self.loaded.clone(), resolved, Vec::new()) => ready?,
            ask = ask(&mut course.signals, false) => match ask {
                Ask::End | Ask::Reload => return Ok(Some(Stop::Asked)),
            },
        };
        self.put(course, ready).await?;
        Ok(None)
    }

    /// Puts that into force. What the kernel refuses leaves all as it was.
    async fn put(&mut self, course: &mut Course, ready: Ready) -> Result<crate::daemon::Applied, Failure> {
        let Ready {
            loaded,
            held,
            missing,
            coming,
            numbers,
        } = ready;
        for cgroup in held.iter().flat_map(|target| &target.cgroups) {
            course
                .watch
                .add(cgroup)
                .map_err(|error| Failure::new(Exit::Failed, error))?;
        }
        let options = StartOptions {
            mode: loaded.mode,
            ..self.options
        };
        let now = course.living.now_expected(&coming);
        match course.governing.apply(plan(&loaded, &held), options, now).await {
            Ok(applied) => {
                let targets = named(&self.hierarchy, &held);
                living::say(course.living.adopt(coming, targets), Talk::Plain);
                let stays = |id: u64| {
                    let mut cgroups = held.iter().flat_map(|target| &target.cgroups);
                    cgroups.any(|cgroup| cgroup.id() == id)
                };
                for cgroup in self.held.iter().flat_map(|target| &target.cgroups) {
                    if !stays(cgroup.id()) {
                        course.watch.forget(cgroup);
                    }
                }
                (self.loaded, self.held, self.missing, self.numbers) = (loaded, held, missing, numbers);
                Ok(applied)
            }
            Err(error) => {
                course.living.abandon();
                Err(prepare::kernel_failure(error))
            }
        }
    }
}

fn note_gone(target: &str, cgroup: &Path) {
    console::note(format_args!(
        "cgroup {} of target {target} is gone",
        cgroup.display()
    ));
}
