//! `enforcer probe`: what is wrong with the way to a host, and what helps.

mod subjects;

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use futures_util::{StreamExt as _, stream};
use jiff::{Timestamp, Unit};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::{
    cli::{Output, ProbeArgs},
    console,
    exit::{Exit, Failure},
};
use crate::{
    daemon::signals::{HANGING_UP, STOPPING, Signals},
    names::Once,
    policy::Selector,
    probe::{
        Asking, Echoes, Ending, Limits, Progress, Subject,
        clients::clients,
        diagnose,
        inside::{self, Job},
        judged::Judged,
        measure,
    },
    sinks::{
        live::Colour,
        probe::{Probed, json, table, text},
    },
    targets::{Hierarchy, Request, resolve::resolve_one},
};

/// Hosts that are looked at at once.
const AT_ONCE: usize = 8;

/// Echoes to one host.
const ECHOES: usize = 16;

/// A target to look from.
struct From {
    label: String,
    /// What `run` calls it.
    arguments: Vec<String>,
    process: Option<u32>,
    /// Relative to the mount.
    cgroup: PathBuf,
    directory: PathBuf,
}

/// What stays the same from round to round.
struct Probe {
    from: Option<From>,
    hierarchy: Option<Hierarchy>,
    limits: Limits,
    output: Output,
}

/// One host of a round.
type Looked = (Subject, Result<Probed, String>);

/// Ends with the worst of what was found: 0, 10, 11, or 1 where something could not be looked at.
pub(crate) async fn probe(arguments: &ProbeArgs) -> Result<ExitCode, Failure> {
    let many = arguments.all.is_some();
    let subjects = match (&arguments.host, &arguments.all) {
        (Some(host), _) => vec![host.clone()],
        (None, Some(file)) => subjects::read(file)?,
        (None, None) => Vec::new(),
    };
    let probe = Probe::prepare(arguments).await?;
    let Some(pause) = arguments.watch else {
        let looked = probe.round(&subjects, many).await;
        probe.show(&looked, many)?;
        return Ok(finish(&looked));
    };
    let mut signals = Signals::install(STOPPING, HANGING_UP)
        .context("cannot catch signals")
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    let mut last: Option<Vec<Looked>> = None;
    loop {
        let looked = tokio::select! {
            looked = probe.round(&subjects, many) => looked,
            _ = signals.next() => break,
        };
        match &last {
            Some(before) if probe.output == Output::Human && is_same(before, &looked) => say_again(&looked)?,
            _ => probe.show(&looked, many)?,
        }
        last = Some(looked);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = signals.next() => break,
        }
    }
    // Stopped before anything was known: nothing is wrong that this could tell of.
    last.map_or(Ok(ExitCode::SUCCESS), |looked| Ok(finish(&looked)))
}

impl Probe {
    async fn prepare(arguments: &ProbeArgs) -> Result<Self, Failure> {
        let hierarchy = Hierarchy::find();
        let from = match &arguments.from {
            None => None,
            Some(selector) => {
                let hierarchy = hierarchy.as_ref().map_err(|error| {
                    Failure::new(Exit::Failed, anyhow!("cannot look for the target: {error}"))
                        .hint(error.hint())
                })?;
                Some(From::find(hierarchy, selector).await?)
            }
        };
        let limits = Limits {
            each: arguments.timeout.min(arguments.deadline),
            all: arguments.deadline,
        };
        Ok(Self {
            from,
            hierarchy: hierarchy.ok(),
            limits,
            output: arguments.output,
        })
    }

    /// Looks at all hosts once, in their order.
    async fn round(&self, subjects: &[Subject], many: bool) -> Vec<Looked> {
        let (progress, steps) = mpsc::unbounded_channel();
        let looking = stream::iter(subjects)
            .map(async |subject| {
                let progress = progress.clone();
                (subject.clone(), self.look(subject, progress).await)
            })
            .buffered(AT_ONCE)
            .collect::<Vec<_>>();
        let looked = tokio::select! {
            looked = looking => looked,
            () = show_progress(steps, subjects, many) => Vec::new(),
        };
        clear_progress();
        looked
    }

    async fn look(
        &self,
        subject: &Subject,
        progress: UnboundedSender<(String, Progress)>,
    ) -> Result<Probed, String> {
        let (tell, mut steps) = mpsc::unbounded_channel();
        let place = subject.to_string();
        let told = async {
            while let Some(step) = steps.recv().await {
                // Whoever does not listen any more needs no news.
                let _ = progress.send((place.clone(), step));
            }
        };
        let (findings, ()) = tokio::join!(self.findings(subject, tell), told);
        let findings = findings?;
        let arguments = self.from.as_ref().map_or(&[][..], |from| &from.arguments);
        let target = self.from.as_ref().map(|from| from.cgroup.as_path());
        Ok(Probed {
            time: Timestamp::now(),
            from: self.from.as_ref().map(|from| from.label.clone()),
            clients: clients(&findings),
            judged: Judged::look(self.hierarchy.as_ref(), target),
            verdict: diagnose(&findings, arguments),
            findings,
        })
    }

    async fn findings(
        &self,
        subject: &Subject,
        progress: UnboundedSender<Progress>,
    ) -> Result<crate::probe::Findings, String> {
        if let Some(from) = &self.from {
            let job = Job {
                parent: std::process::id(),
                cgroups: vec![from.directory.clone()],
                process: from.process,
                subject: subject.clone(),
                limits: self.limits,
            };
            let program = Path::new("/proc/self/exe");
            let asked = inside::ask(program, &job, Some(progress)).await;
            return asked.map_err(|error| format!("{:#}", anyhow::Error::new(error)));
        }
        let read = |path| std::fs::read(path).ok();
        let (hosts, resolv_conf) = (read("/etc/hosts"), read("/etc/resolv.conf"));
        let asking = Asking {
            once: Once::new(hosts.as_deref(), resolv_conf.as_deref())?,
            c_library: true,
        };
        Ok(measure(
            subject,
            &asking,
            &Echoes::open(ECHOES),
            self.limits,
            Some(progress),
        )
        .await)
    }

    /// Writes what was found to stdout.
    fn show(&self, looked: &[Looked], many: bool) -> Result<(), Failure> {
        let mut shown = String::new();
        if self.output == Output::Human && many {
            let rows: Vec<_> = looked
                .iter()
                .map(|(subject, probed)| (subject.to_string(), probed.as_ref().map_err(Clone::clone)))
                .collect();
            shown = table(&rows);
        } else {
            for (_, probed) in looked {
                let Ok(probed) = probed else { continue };
                match self.output {
                    Output::Human => shown.push_str(&text(probed, Colour::for_stream(&std::io::stdout()))),
                    Output::Json => {
                        let line = json(probed).map_err(|error| Failure::new(Exit::Failed, error))?;
                        shown.push_str(&line);
                    }
                }
            }
        }
        // A table has the others.
        if !(many && self.output == Output::Human) {
            for (subject, probed) in looked {
                if let Err(why) = probed {
                    console::error(format_args!("error: cannot look at {subject}: {why}"));
                }
            }
        }
        answer(&shown)
    }
}

impl From {
    async fn find(hierarchy: &Hierarchy, selector: &Selector) -> Result<Self, Failure> {
        let request = Request {
            name: None,
            selector: selector.clone(),
        };
        let found = resolve_one(hierarchy, &request).await.map_err(|error| {
            let hint = error.hint();
            Failure::new(Exit::Failed, error).hint(hint)
        })?;
        let cgroup = found
            .cgroups
            .first()
            .ok_or_else(|| Failure::new(Exit::Failed, anyhow!("target {} has no cgroup", found.name)))?;
        let (flag, word) = match selector {
            Selector::Cgroup(_) => ("--cgroup", cgroup.path().display().to_string()),
            Selector::Pid(pid) => ("--pid", pid.to_string()),
            Selector::Container(name) => ("--container", name.clone()),
        };
        Ok(Self {
            label: found.name.clone(),
            arguments: vec![flag.to_owned(), word],
            process: match selector {
                Selector::Pid(pid) => Some(*pid),
                _ => None,
            },
            directory: hierarchy.absolute(cgroup.path()),
            cgroup: cgroup.path().to_owned(),
        })
    }
}

/// The code that all of it comes to.
fn finish(looked: &[Looked]) -> ExitCode {
    let of = |(_, probed): &Looked| match probed {
        Err(_) => (3, Exit::Failed),
        Ok(probed) => match probed.verdict.ending {
            Ending::Healthy => (0, Exit::Done),
            Ending::Fixable => (1, Exit::Fixable),
            Ending::NotFixable => (2, Exit::NotFixable),
            Ending::Unknown => (3, Exit::Failed),
        },
    };
    let worst = looked.iter().map(of).max_by_key(|(rank, _)| *rank);
    worst.map_or(Exit::Done, |(_, exit)| exit).into()
}

/// Whether two rounds came to the same.
fn is_same(before: &[Looked], now: &[Looked]) -> bool {
    let verdicts = |looked: &[Looked]| -> Vec<_> {
        looked
            .iter()
            .map(|(_, probed)| {
                probed
                    .as_ref()
                    .ok()
                    .map(|it| (it.verdict.diagnosis, it.verdict.ending))
            })
            .collect()
    };
    verdicts(before) == verdicts(now)
}

/// A line a host, where nothing has changed.
fn say_again(looked: &[Looked]) -> Result<(), Failure> {
    let mut shown = String::new();
    for (subject, probed) in looked {
        let (time, said) = match probed {
            Ok(probed) => (probed.time, probed.verdict.sentence.clone()),
            Err(why) => (Timestamp::now(), format!("cannot look at {subject}: {why}")),
        };
        let time = time.round(Unit::Second).unwrap_or(time);
        shown.push_str(&format!("{time}  unchanged: {said}\n"));
    }
    answer(&shown)
}

fn answer(shown: &str) -> Result<(), Failure> {
    console::answer(shown)
        .context("cannot write what was found to stdout")
        .map_err(|error| Failure::new(Exit::Failed, error))
}

/// One line on a terminal that says how far this is. Never ends; listens also where nobody looks.
async fn show_progress(mut steps: UnboundedReceiver<(String, Progress)>, subjects: &[Subject], many: bool) {
    let shows = std::io::stderr().is_terminal();
    while let Some((place, step)) = steps.recv().await {
        if shows {
            let which = if many {
                format!("{} hosts, {place}", subjects.len())
            } else {
                place
            };
            // Where the terminal takes nothing there is nobody to tell.
            let _ = write!(anstream::stderr(), "\r\x1b[K{which}: {step}");
            let _ = anstream::stderr().flush();
        }
    }
    std::future::pending().await
}

fn clear_progress() {
    if std::io::stderr().is_terminal() {
        let _ = write!(anstream::stderr(), "\r\x1b[K");
        let _ = anstream::stderr().flush();
    }
}

/// Does what the arguments say, and writes it to standard output for the enforcer that started it.
pub(crate) async fn probe_inside(arguments: super::cli::ProbeInsideArgs) -> Result<ExitCode, Failure> {
    let job = Job {
        parent: arguments.parent,
        cgroups: arguments.cgroup,
        process: arguments.process,
        subject: arguments.subject,
        limits: Limits {
            each: Duration::from_millis(arguments.each_ms),
            all: Duration::from_millis(arguments.all_ms),
        },
    };
    // Line by line, and nobody else in this process writes.
    inside::answer(job, std::io::stdout().lock())
        .await
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(ExitCode::SUCCESS)
}
