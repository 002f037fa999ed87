//! [`Setting`]: where a story takes place, the client's side of a lab and a workload's cgroup on it, and [`Governing`]: enforcer
//! as an operator starts it there.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::Screen;
use crate::{
    cgroup::{self, CgroupFixture},
    enforcer::{Enforcer, parse_events},
    lab::{Breakage, Lab},
    place::Place,
    process::{Finished, Running, Stream, end_with_parent},
    wait::{PATIENCE, eventually},
};

/// How long an application may take. Those that hang have a timeout of their own, of seconds.
pub(super) const LONG: Duration = PATIENCE.saturating_mul(3);

/// A file of the examples.
pub(super) fn example(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).join("examples").join(name)
}

/// Starts commands side by side. Nothing is said to them.
pub(super) fn start_all(commands: Vec<Command>) -> Result<Vec<Running>> {
    let started = commands.into_iter().map(|mut command| {
        end_with_parent(&mut command, Signal::KILL);
        let mut process = Running::start(command)?;
        process.close_stdin();
        Ok(process)
    });
    started.collect()
}

/// Runs a command to its end, or until the person interrupts.
pub(super) fn run(screen: &Screen, command: Command) -> Result<Finished> {
    let mut process = start_all(vec![command])?.pop().context("start a command")?;
    eventually("an application to end", LONG, || {
        screen.go_on().is_err() || !matches!(process.exited(), Ok(None))
    })?;
    screen.go_on()?;
    process.finish(PATIENCE)
}

/// A lab with a workload on its client's side. Fields are dropped in order.
#[derive(Debug)]
pub struct Setting {
    /// The workload's cgroup.
    pub cgroup: CgroupFixture,
    /// The network.
    pub lab: Lab,
}

impl Setting {
    /// Makes one for that story, and removes what a story left that was killed.
    ///
    /// # Errors
    ///
    /// When a part of it cannot be made.
    pub fn new(story: &str, breakage: Breakage) -> Result<Self> {
        let prefix = format!("enforcer-{story}-story");
        cgroup::sweep(&prefix)?;
        Ok(Self {
            cgroup: CgroupFixture::of_process(&prefix)?,
            lab: Lab::new(breakage)?,
        })
    }

    /// Where the application runs.
    #[must_use]
    pub const fn inside(&self) -> Place<'_> {
        self.lab.inside(&self.cgroup)
    }

    /// Starts enforcer on the workload's cgroup, with a policy of the examples.
    ///
    /// # Errors
    ///
    /// As [`Governing::start`].
    pub fn govern(&self, screen: &mut Screen, policy: &str) -> Result<Governing> {
        let cgroup = self.cgroup.relative_path();
        Governing::start(screen, &self.lab.outside(), policy, &["--cgroup", &cgroup], None)
    }
}

/// A running enforcer. Ended on drop.
#[derive(Debug)]
pub struct Governing {
    enforcer: Enforcer,
    shown: usize,
    said: usize,
}

impl Governing {
    /// Starts enforcer in that place, on that target, with a policy of the examples, and waits until it enforces.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn start(
        screen: &mut Screen,
        place: &Place<'_>,
        policy: &str,
        target: &[&str],
        docker_host: Option<&str>,
    ) -> Result<Self> {
        screen.text(&format!(
            "$ enforcer run --policy examples/{policy} {}",
            target.join(" ")
        ))?;
        let mut command = Enforcer::command(place, ["run", "--output", "json", "--policy"])?;
        command.arg(example(policy)).args(target);
        command.env_remove("DOCKER_HOST").env_remove("CONTAINER_HOST");
        command.envs(docker_host.map(|host| ("DOCKER_HOST", host)));
        end_with_parent(&mut command, Signal::TERM);
        let enforcer = Enforcer::start_governing(command)?;
        let lines = enforcer.lines(Stream::Stderr);
        screen.said(&lines)?;
        Ok(Self {
            enforcer,
            shown: 0,
            said: lines.len(),
        })
    }

    /// What came since the last time, when it is that many events; a line for each.
    ///
    /// # Errors
    ///
    /// When they do not come in time.
    pub fn events(&mut self, screen: &mut Screen, count: usize) -> Result<Vec<Value>> {
        let events = self.enforcer.wait_for_events(self.shown + count)?;
        let new = events.get(self.shown..).unwrap_or_default().to_vec();
        self.shown = events.len();
        screen.said(&new.iter().map(line).collect::<Vec<_>>())?;
        Ok(new)
    }

    /// The events so far, without a line for any.
    ///
    /// # Errors
    ///
    /// When one cannot be understood.
    pub fn so_far(&self) -> Result<Vec<Value>> {
        parse_events(&self.enforcer.lines(Stream::Stdout))
    }

    /// Ends it, and says what events came since.
    ///
    /// # Errors
    ///
    /// When it does not end in order.
    pub fn end(self, screen: &mut Screen) -> Result<Vec<Value>> {
        let finished = self.enforcer.terminate()?;
        ensure!(finished.status.success(), "enforcer ended in {finished:?}");
        screen.said(finished.stderr.get(self.said..).unwrap_or_default())?;
        let events = parse_events(&finished.stdout)?;
        Ok(events.get(self.shown..).unwrap_or_default().to_vec())
    }
}

/// An event in a line: what was done to which connect of whom.
fn line(event: &Value) -> String {
    let word = |key: &str| match &event[key] {
        Value::String(word) => word.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let done = match event["verdict"].as_str() {
        Some("redirect") => format!("redirect to {}", word("redirect_to")),
        Some("reject") => format!("reject {}", word("errno")),
        _ => word("verdict"),
    };
    format!(
        "{done:<31}[{}]:{} {} {}[{}] {}",
        word("daddr"),
        word("dport"),
        word("proto"),
        word("comm"),
        word("pid"),
        word("rule")
    )
}
