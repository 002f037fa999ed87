//! `enforcer run`: govern existing workloads until told to stop.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::anyhow;

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
        Governing, Living, NamedTarget, POLL_INTERVAL, Plan, PlannedCgroup, PlannedTarget,
        signals::{HANGING_UP, STOPPING, Signals},
    },
    policy::{Policy, Selector, compiled::CompiledPolicy, rule::GroupName},
    sinks::writer::Writer,
    targets::{
        Cgroup, Hierarchy, Request, ResolvedTarget, VanishWatch, nesting,
        resolve::{self, Note},
        wait,
    },
};

/// A target to resolve, and the groups that govern it.
struct Wanted {
    request: Request,
    groups: Vec<GroupName>,
}

/// Why the run loop woke up for good.
enum Stop {
    Asked,
    /// Events cannot be written any more: because nobody reads them, which is fine, or because that failed.
    StreamEnded,
    LastTargetGone,
}

pub(crate) async fn run(arguments: &RunArgs) -> Result<ExitCode, Failure> {
    let mut signals =
        Signals::install(STOPPING, HANGING_UP).map_err(|error| Failure::new(Exit::Failed, error))?;
    let policy = prepare::policy(&arguments.rules, Talk::Plain)?;
    let wanted = wanted(arguments, &policy)?;
    let policies = compiled_policies(arguments, &policy, &wanted)?;
    let hierarchy = Hierarchy::find().map_err(|error| {
        let hint = error.hint();
        Failure::new(Exit::Kernel, error).hint(hint)
    })?;

    let resolving = resolve_all(&hierarchy, &wanted, arguments.wait);
    let resolved = tokio::select! {
        resolved = resolving => resolved?,
        // Nothing is attached yet, and there is nothing to tell.
        _ = signals.next() => return Ok(Exit::Done.into()),
    };
    let mut watch = VanishWatch::new(&hierarchy).map_err(|error| Failure::new(Exit::Failed, error))?;
    settle(&wanted, &resolved, &mut watch)?;

    // Where nothing can be governed, nothing is cut off either.
    let support = prepare::support(&policy.rules, Talk::Plain)?;
    neighbours::note_programs(
        &hierarchy,
        &support,
        resolved.iter().flat_map(|target| &target.cgroups),
    );
    warn::surroundings(
        policy.rules.clone().into(),
        policies.values().cloned().collect(),
        resolved
            .iter()
            .flat_map(|target| &target.cgroups)
            .filter_map(Cgroup::any_process)
            .collect(),
    )
    .await;

    let following = living::follow(
        &arguments.living,
        policy.rules.clone().into(),
        named_targets(&hierarchy, &wanted, &resolved),
        Talk::Plain,
    );
    let mut living = tokio::select! {
        living = following => living?,
        _ = signals.next() => return Ok(Exit::Done.into()),
    };

    let options = prepare::start_options(policy.mode, arguments.events, &arguments.debug);
    let planned = plan(&policy, &wanted, &policies, resolved);
    let rules = policy
        .rules
        .iter()
        .filter(|rule| wanted.iter().any(|target| rule.is_in(&target.groups)))
        .count();
    let mut governing =
        Governing::start(&support, planned, &options, living.now()).map_err(prepare::kernel_failure)?;
    let mut writer = stream::to_stdout(&governing, arguments.output.output)
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    let ready = |governing: &Governing| {
        console::say(format_args!(
            "{} {} on {}",
            if policy.mode == enforcer_common::decide::Mode::Audit {
                "auditing"
            } else {
                "enforcing"
            },
            counted(rules, "rule"),
            counted(governing.cgroups(), "cgroup")
        ));
    };

    let stop = loop {
        governing.release_vanished(note_gone);
        let stop = if governing.cgroups() == 0 {
            Stop::LastTargetGone
        } else {
            living::say(governing.take_said(), Talk::Plain);
            ready(&governing);
            govern(&mut governing, &mut living, &mut writer, &mut signals, &mut watch).await?
        };
        match stop {
            Stop::LastTargetGone if arguments.wait => {}
            stop => break stop,
        }
        console::note("the last target is gone; waiting for the targets to come back");
        let returned = {
            let mut returning = std::pin::pin!(resolve_all(&hierarchy, &wanted, true));
            loop {
                // Names go on being asked for: what comes back must not find answers of long ago.
                let said = tokio::select! {
                    resolved = &mut returning => break Ok(resolved?),
                    _ = signals.next() => break Err(Stop::Asked),
                    _ = writer.ended() => break Err(Stop::StreamEnded),
                    said = living.changed() => said,
                };
                living::put_into_force(&living, said, &mut governing, Talk::Plain);
            }
        };
        let resolved = match returned {
            Ok(resolved) => resolved,
            Err(stop) => break stop,
        };
        settle(&wanted, &resolved, &mut watch)?;
        living::set_targets(&mut living, named_targets(&hierarchy, &wanted, &resolved))?;
        let plan = plan(&policy, &wanted, &policies, resolved);
        governing
            .attach(plan, &options)
            .map_err(prepare::kernel_failure)?;
    };
    let report = governing.finish().map_err(prepare::kernel_failure)?;
    let ended = stream::end(&mut writer).await;
    console::say(stream::summary(&report, &writer));
    ended.map_err(|error| Failure::new(Exit::Failed, error))?;
    match stop {
        Stop::Asked | Stop::StreamEnded => Ok(Exit::Done.into()),
        Stop::LastTargetGone => Err(Failure::new(Exit::Failed, anyhow!("the last target is gone"))),
    }
}

/// What is to be said of targets that were found, and that they are watched from now on.
fn settle(wanted: &[Wanted], resolved: &[ResolvedTarget], watch: &mut VanishWatch) -> Result<(), Failure> {
    refuse_contradictions(wanted, resolved)?;
    for note in resolved.iter().flat_map(|target| &target.notes) {
        console::note(note);
    }
    for cgroup in resolved.iter().flat_map(|target| &target.cgroups) {
        watch
            .add(cgroup)
            .map_err(|error| Failure::new(Exit::Failed, error))?;
    }
    Ok(())
}

/// The run loop: everything that can wake it is an arm here.
async fn govern(
    governing: &mut Governing,
    living: &mut Living,
    writer: &mut Writer,
    signals: &mut Signals,
    watch: &mut VanishWatch,
) -> Result<Stop, Failure> {
    let mut poll = tokio::time::interval(POLL_INTERVAL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // One future until it is done: beginning it looks at every name and every expiry, which is not for each poll.
        let said = {
            let mut changing = std::pin::pin!(living.changed());
            loop {
                tokio::select! {
                    biased;
                    _ = signals.next() => return Ok(Stop::Asked),
                    _ = writer.ended() => return Ok(Stop::StreamEnded),
                    gone = watch.vanished() => {
                        gone.map_err(|error| Failure::new(Exit::Failed, error))?;
                        governing.release_vanished(note_gone);
                        if governing.cgroups() == 0 {
                            return Ok(Stop::LastTargetGone);
                        }
                    }
                    // Before what changes: names may change faster than that can be put into force.
                    _ = poll.tick() => {
                        while governing.pump().map_err(prepare::kernel_failure)? {
                            tokio::task::yield_now().await;
                        }
                    }
                    said = &mut changing => break said,
                }
            }
        };
        living::put_into_force(living, said, governing, Talk::Plain);
    }
}

/// What names need to know of the targets.
fn named_targets(hierarchy: &Hierarchy, wanted: &[Wanted], resolved: &[ResolvedTarget]) -> Vec<NamedTarget> {
    let directory = |cgroup: &Cgroup| hierarchy.absolute(cgroup.path());
    let targets = wanted.iter().zip(resolved);
    targets
        .map(|(wanted, target)| NamedTarget {
            name: target.name.clone(),
            groups: wanted.groups.clone(),
            cgroups: target.cgroups.iter().map(directory).collect(),
        })
        .collect()
}

fn note_gone(target: &str, cgroup: &Path) {
    console::note(format_args!(
        "cgroup {} of target {target} is gone",
        cgroup.display()
    ));
}

/// The command line's targets, or else the policy file's.
fn wanted(arguments: &RunArgs, policy: &Policy) -> Result<Vec<Wanted>, Failure> {
    let groups = prepare::groups(&arguments.rules, policy)?;
    let cgroups = arguments.targets.cgroup.iter().cloned().map(Selector::Cgroup);
    let pids = arguments.targets.pid.iter().copied().map(Selector::Pid);
    let containers = arguments
        .targets
        .container
        .iter()
        .cloned()
        .map(Selector::Container);
    let from_arguments: Vec<Wanted> = cgroups
        .chain(pids)
        .chain(containers)
        .map(|selector| Wanted {
            request: Request { name: None, selector },
            groups: groups.clone(),
        })
        .collect();
    if !from_arguments.is_empty() {
        prepare::note_unused(&arguments.rules, policy, &groups, Talk::Plain);
        return Ok(from_arguments);
    }
    if !arguments.rules.groups.is_empty() {
        let error =
            anyhow!("--use chooses groups for --cgroup, --pid and --container, and none of them is given");
        let hint = "targets of a policy file name their groups there, with `use`";
        return Err(Failure::new(Exit::Argument, error).hint(Some(hint)));
    }
    if policy.targets.is_empty() {
        let hint = "name one with --cgroup PATH, --pid PID or --container NAME, or give a policy file with a [[target]]; \
                    `enforcer exec` runs a command in a cgroup of its own";
        return Err(Failure::new(Exit::Argument, anyhow!("no target to govern")).hint(Some(hint)));
    }
    let from_file = policy.targets.iter().map(|target| Wanted {
        request: Request {
            name: Some(target.name.clone()),
            selector: target.selector.clone(),
        },
        groups: target.groups.clone(),
    });
    Ok(from_file.collect())
}

/// Each distinct list of groups, compiled once.
fn compiled_policies(
    arguments: &RunArgs,
    policy: &Policy,
    wanted: &[Wanted],
) -> Result<HashMap<Vec<GroupName>, Arc<CompiledPolicy>>, Failure> {
    let mut policies = HashMap::new();
    for target in wanted {
        if !policies.contains_key(&target.groups) {
            let compiled = prepare::compiled(policy, &target.groups, arguments.rules.policy.as_deref())?;
            policies.insert(target.groups.clone(), compiled);
        }
    }
    Ok(policies)
}

async fn resolve_all(
    hierarchy: &Hierarchy,
    wanted: &[Wanted],
    waiting: bool,
) -> Result<Vec<ResolvedTarget>, Failure> {
    loop {
        let resolved = resolve_each(hierarchy, wanted, waiting).await?;
        // What was there first may have been started again while the last was waited for.
        let mut cgroups = resolved.iter().flat_map(|target| &target.cgroups);
        if !waiting || !cgroups.any(Cgroup::is_gone) {
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

fn failed_to_resolve(error: resolve::ResolveError) -> Failure {
    let hint = error.hint();
    Failure::new(Exit::Failed, error).hint(hint)
}

fn plan(
    policy: &Policy,
    wanted: &[Wanted],
    policies: &HashMap<Vec<GroupName>, Arc<CompiledPolicy>>,
    resolved: Vec<ResolvedTarget>,
) -> Plan {
    let paths: Vec<_> = resolved
        .iter()
        .flat_map(|target| &target.cgroups)
        .map(|cgroup| cgroup.path().to_owned())
        .collect();
    let paths: Vec<_> = paths.iter().map(AsRef::as_ref).collect();
    let mut nesting = nesting::nesting(&paths).into_iter();
    let targets = resolved.into_iter().zip(wanted).filter_map(|(target, wanted)| {
        let policy = Arc::clone(policies.get(&wanted.groups)?);
        let cgroups = target
            .cgroups
            .into_iter()
            .zip(nesting.by_ref())
            .map(|(cgroup, nesting)| PlannedCgroup {
                cgroup,
                has_outer: nesting.has_outer,
                has_inner: nesting.has_inner,
            })
            .collect();
        Some(PlannedTarget {
            name: target.name,
            cgroups,
            policy,
            groups: wanted.groups.clone(),
        })
    });
    Plan {
        targets: targets.collect(),
        rules: policy.rules.clone().into(),
    }
}
