//! `enforcer exec`: run a command with its IPv6 connects governed.
//!
//! stdout and the exit code are the command's alone; what enforcer has to say goes to stderr, each line
//! prefixed, or to a file.

use std::{
    fs::File,
    io,
    os::fd::AsFd as _,
    os::unix::process::ExitStatusExt as _,
    process::{ExitCode, ExitStatus},
    sync::Arc,
};

use anyhow::Context as _;
use tokio::process::Child;

use super::{
    cli::ExecArgs,
    console::{self, PREFIX, Talk},
    exit::{Exit, Failure},
    living, prepare,
    spawn::{self, Limits},
    stream, warn,
};
use crate::{
    daemon::{
        Governing, Living, NamedTarget, Plan, PlannedCgroup, PlannedTarget,
        signals::{self, ENDING, FORWARDED, Signals},
    },
    kernel::Support,
    policy::{
        Policy,
        compiled::CompiledPolicy,
        rule::{GroupName, Resolve, Rule},
    },
    sinks::live::Colour,
    targets::{Cgroup, ExecCgroup, Hierarchy},
};

/// What the only target is called.
const TARGET: &str = "exec";

pub(crate) async fn exec(arguments: &ExecArgs) -> Result<ExitCode, Failure> {
    let failed = |error: anyhow::Error| Failure::new(Exit::Failed, error);
    let talk = if arguments.events_to.is_some() {
        Talk::ErrorsOnly
    } else {
        Talk::Prefixed
    };
    let mut policy = prepare::policy(&arguments.rules, talk)?;
    for rule in &mut policy.rules {
        // The command begins in the namespaces that this process is in: its nameservers are those of the host, and they
        // can be asked before there is a command.
        rule.resolve = Resolve::Host;
    }
    let groups = prepare::groups(&arguments.rules, &policy)?;
    prepare::note_unused(&arguments.rules, &policy, &groups, talk);
    let compiled = prepare::compiled(&policy, &groups, arguments.rules.policy.as_deref())?;
    let identity = arguments
        .user
        .as_deref()
        .map(spawn::Identity::of_user)
        .transpose()
        .map_err(|error| Failure::new(Exit::Argument, error))?;
    let file = events_file(arguments).map_err(failed)?;
    let limits = Limits::current();
    let support = prepare::support(&policy.rules, talk)?;
    let hierarchy = Hierarchy::find().map_err(|error| {
        let hint = error.hint();
        Failure::new(Exit::Kernel, error).hint(hint)
    })?;
    // Until here there is nothing to undo, and a signal may do what it does to any program.
    let mut signals = Signals::install(&[], FORWARDED).map_err(|error| failed(error.into()))?;
    let ignored_children = signals::heed_children().map_err(|error| failed(error.into()))?;
    let cgroup = ExecCgroup::create(&hierarchy).map_err(|error| {
        let hint = error.hint();
        Failure::new(spawn::exit_without_cgroup(&error), error).hint(hint)
    })?;
    let run = Run {
        arguments,
        talk,
        policy: &policy,
        groups,
        compiled,
        support,
        hierarchy: &hierarchy,
        file,
        limits,
        identity,
        ignored_children,
    };
    let ended = run.governed(&cgroup, &mut signals).await;
    // On every path, and here: what goes wrong is said where people look.
    release(cgroup, talk);
    ended
}

/// Everything that was prepared before there was something to undo.
struct Run<'run> {
    arguments: &'run ExecArgs,
    talk: Talk,
    policy: &'run Policy,
    groups: Vec<GroupName>,
    compiled: Arc<CompiledPolicy>,
    support: Support,
    hierarchy: &'run Hierarchy,
    /// Where events go, if not to stderr.
    file: Option<(String, File)>,
    limits: Limits,
    identity: Option<spawn::Identity>,
    ignored_children: bool,
}

impl Run<'_> {
    /// Runs the command in the cgroup. When this returns nothing is governed any more, and the exit code is the
    /// command's if it ran.
    async fn governed(self, cgroup: &ExecCgroup, signals: &mut Signals) -> Result<ExitCode, Failure> {
        let Self {
            arguments,
            talk,
            policy,
            compiled,
            hierarchy,
            ..
        } = self;
        let failed = |error: anyhow::Error| Failure::new(Exit::Failed, error);
        if let Some(detour) = cgroup.detour() {
            talk.note(detour);
        }
        if talk != Talk::ErrorsOnly {
            hint_user(arguments);
            warn::surroundings(
                policy.rules.clone().into(),
                vec![Arc::clone(&compiled)],
                Vec::new(),
                &warn::Said::default(),
            )
            .await;
        }

        let options = prepare::start_options(policy.mode, arguments.events, &arguments.debug, 1);
        let target = NamedTarget {
            name: TARGET.to_owned(),
            number: 0,
            groups: self.groups.clone(),
            cgroups: vec![hierarchy.absolute(cgroup.cgroup().path())],
        };
        let rules: Arc<[Rule]> = policy.rules.clone().into();
        let mut living = living::follow(&arguments.living, Arc::clone(&rules), vec![target], talk).await?;
        let plan = plan(rules, self.groups, cgroup, hierarchy, compiled).map_err(failed)?;
        let mut governing = Governing::start(&self.support, &plan, &options, living.now())
            .map_err(prepare::kernel_failure)?;
        living::say(governing.take_said(), talk);
        let mut writer = match self.file {
            Some((name, file)) => stream::start(
                &governing,
                arguments.output.output,
                &name,
                "",
                Colour::Never,
                file,
            ),
            None => {
                let colour = Colour::for_stream(&io::stderr());
                // A descriptor of its own: the standard library's handle is locked while it writes, and a pipe that
                // nobody reads would then hold up every message of this process too.
                let stderr = io::stderr().as_fd().try_clone_to_owned();
                let stderr = File::from(stderr.map_err(|error| failed(error.into()))?);
                stream::start(
                    &governing,
                    arguments.output.output,
                    "stderr",
                    PREFIX,
                    colour,
                    stderr,
                )
            }
        }
        .map_err(failed)?;

        while let Some(signal) = signals.pending().await {
            // Nobody who ends enforcer by now wants the command to begin; the other signals were for the command.
            if ENDING.contains(&signal.number) {
                return Ok(code(128 + signal.number));
            }
        }
        let child = spawn::spawn(
            &arguments.command,
            cgroup,
            self.limits,
            self.identity.as_ref(),
            self.ignored_children,
        )
        .map_err(|error| {
            let hint = error.hint();
            Failure::new(error.exit(), error).hint(hint)
        })?;
        let status = attend(child, &mut governing, &mut living, talk, signals).await?;

        // From here on the exit code is the command's, whatever else fails.
        if let Err(error) = governing.finish() {
            console::error(prepare::kernel_failure(error));
        }
        if let Err(error) = stream::end(&mut writer).await {
            console::error(format_args!("error: {error:#}"));
        }
        Ok(exit_code(status))
    }
}

/// Runs until the command has ended.
async fn attend(
    mut child: Child,
    governing: &mut Governing,
    living: &mut Living,
    talk: Talk,
    signals: &mut Signals,
) -> Result<ExitStatus, Failure> {
    let mut is_reporting = true;
    loop {
        // One future until it is done, as in `run`.
        let said = {
            let mut changing = std::pin::pin!(living.changed());
            loop {
                tokio::select! {
                    biased;
                    status = child.wait() => {
                        return status
                            .context("cannot wait for the command")
                            .map_err(|error| Failure::new(Exit::Failed, error));
                    }
                    signal = signals.next() => {
                        // What the terminal sends reaches the command by itself: it is in the same process group.
                        if signal.from_process {
                            forward(&child, signal.number);
                        }
                    }
                    // The command goes on, governed, whatever becomes of reporting.
                    moved = governing.keep_up(), if is_reporting => if let Err(error) = moved {
                        console::error(prepare::kernel_failure(error));
                        is_reporting = false;
                    },
                    said = &mut changing => break said,
                }
            }
        };
        living::put_into_force(living, said, governing, talk).await;
    }
}

fn forward(child: &Child, signal: i32) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let signal = nix::sys::signal::Signal::try_from(signal);
    if let (Some(pid), Ok(signal)) = (pid, signal) {
        // It may have ended in this moment; its status is read next.
        let _ended = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

fn plan(
    rules: Arc<[Rule]>,
    groups: Vec<GroupName>,
    cgroup: &ExecCgroup,
    hierarchy: &Hierarchy,
    compiled: Arc<CompiledPolicy>,
) -> anyhow::Result<Plan> {
    let cgroup = Cgroup::open(hierarchy, cgroup.cgroup().path())?;
    let cgroups = vec![PlannedCgroup {
        cgroup: Arc::new(cgroup),
        has_outer: false,
        has_inner: false,
    }];
    let target = PlannedTarget {
        name: TARGET.to_owned(),
        number: 0,
        cgroups,
        policy: compiled,
        groups,
    };
    Ok(Plan {
        targets: vec![target],
        rules,
    })
}

/// The file of `--events-to`, opened before anything is made that would have to be undone.
fn events_file(arguments: &ExecArgs) -> anyhow::Result<Option<(String, File)>> {
    arguments
        .events_to
        .as_deref()
        .map(|path| {
            let name = path.display().to_string();
            let file = File::create(path).with_context(|| format!("cannot write events to {name}"))?;
            Ok((name, file))
        })
        .transpose()
}

/// Under sudo the command would run as root, which people rarely mean.
fn hint_user(arguments: &ExecArgs) {
    if arguments.user.is_none()
        && let Ok(user) = std::env::var("SUDO_USER")
        && user != "root"
    {
        console::say(format_args!(
            "{PREFIX}hint: the command runs as root; `--user {user}` runs it as {user}"
        ));
    }
}

/// Removes the cgroup. The command's result stands whatever becomes of this.
fn release(cgroup: ExecCgroup, talk: Talk) {
    match cgroup.close() {
        Ok(released) if released.moved > 0 => talk.note(format_args!(
            "{} outlived the command and went on, ungoverned, in the caller's cgroup",
            if released.moved == 1 {
                "1 process".to_owned()
            } else {
                format!("{} processes", released.moved)
            }
        )),
        Ok(_) => {}
        Err(error) => {
            let hint = error.hint();
            console::error(Failure::new(Exit::Failed, error).hint(hint));
        }
    }
}

/// As a shell does it: 128 + n if signal n ended the command.
fn exit_code(status: ExitStatus) -> ExitCode {
    code(match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => i32::from(Exit::Failed as u8),
    })
}

fn code(code: i32) -> ExitCode {
    // What a command gives and 128 plus a signal's number are below 256 (wait(2)).
    u8::try_from(code & 0xff).map_or(ExitCode::FAILURE, ExitCode::from)
}
