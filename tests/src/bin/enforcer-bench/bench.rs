//! [`Bench`]: what every group of rows measures with: where workers run, how many rounds, how much of it.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv6Addr},
    ops::Range,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use enforcer::daemon::{Governing, POLL_INTERVAL};
use enforcer_tests::{
    bench::{
        program::{Runs, Statistics},
        worker::{Done, Task, Worker},
    },
    netns::NetnsFixture,
    place::Place,
};
use rustix::thread::{CpuSet, sched_setaffinity};

/// An address of every namespace that connects are made in, outside of all tables.
pub(crate) const OWN_ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bench {
    /// Few rounds and small tables.
    pub(crate) quick: bool,
    /// The CPU that connects are made on.
    pub(crate) cpu: usize,
}

impl Bench {
    /// Leaves the CPU that connects are made on to those who make them, where there is another. What is started from here
    /// does likewise, but for workers, which say where they want to be.
    pub(crate) fn leave_cpu(&self) -> Result<()> {
        stay_on(0..self.cpu.max(1))
    }

    /// Does something beside which no connects are made, on all CPUs.
    pub(crate) fn on_all_cpus<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        stay_on(0..self.cpu + 1)?;
        let done = f();
        self.leave_cpu()?;
        done
    }

    /// Rounds of a comparison whose goal is not near.
    pub(crate) const fn rounds(&self) -> usize {
        if self.quick { 7 } else { 21 }
    }

    /// Rounds of a comparison whose goal is nearer than a tenth.
    pub(crate) const fn many_rounds(&self) -> usize {
        if self.quick { 7 } else { 41 }
    }

    /// Connects of one turn.
    pub(crate) const fn connects(&self) -> usize {
        if self.quick { 5_000 } else { 20_000 }
    }

    /// Says what is being done, on standard error: the table goes to standard output.
    #[expect(clippy::print_stderr, reason = "whoever waits wants to know for what")]
    pub(crate) fn progress(&self, what: &str) {
        eprintln!("  {what}");
        let _ = std::io::stderr().flush();
    }
}

/// A namespace in which every address of the internet is this machine's own: connects go on whatever they go to.
pub(crate) fn everywhere() -> Result<NetnsFixture> {
    let netns = NetnsFixture::new()?;
    netns.add_local([IpAddr::V6(OWN_ADDRESS)])?;
    ip(&netns, &["-6", "route", "add", "local", "2000::/3", "dev", "lo"])?;
    Ok(netns)
}

/// Runs `ip` in a namespace.
pub(crate) fn ip(netns: &NetnsFixture, arguments: &[&str]) -> Result<()> {
    let output = Place::outside(netns)
        .command("ip")?
        .args(arguments)
        .output()
        .context("run ip (hint: it is in the package iproute2)")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// A namespace in which packets to the internet leave and vanish: nothing ends a connect at once.
pub(crate) fn nowhere() -> Result<NetnsFixture> {
    let netns = NetnsFixture::new()?;
    netns.add_local([IpAddr::V6(OWN_ADDRESS)])?;
    ip(&netns, &["-6", "route", "add", "2000::/3", "dev", "lo"])?;
    Ok(netns)
}

/// Lets a worker do a task while events are taken from the ring buffer, as `enforcer run` does.
pub(crate) fn run_pumping(worker: &mut Worker, task: &Task, governing: &mut Governing) -> Result<Done> {
    worker.tell(task)?;
    while !worker.has_answered() {
        while governing.pump()? {}
        thread::sleep(POLL_INTERVAL);
    }
    while governing.pump()? {}
    worker.answer()
}

/// Nanoseconds for each run of a program while the worker does a task, by the kernel's own measure.
pub(crate) fn in_program(
    worker: &mut Worker,
    task: &Task,
    errno: i32,
    runs: impl Fn() -> Result<Runs>,
) -> Result<f64> {
    let before = runs()?;
    let done = {
        let _statistics = Statistics::enable()?;
        worker.run(task)?.all(errno)?
    };
    let after = runs()?;
    let count = after.count - before.count;
    ensure!(
        count == done.count(),
        "time a program: it ran {count} times for {} connects",
        done.count()
    );
    Ok(after.each_ns_since(&before))
}

/// Keeps this thread to those CPUs.
fn stay_on(cpus: Range<usize>) -> Result<()> {
    let mut set = CpuSet::new();
    cpus.clone().for_each(|cpu| set.set(cpu));
    sched_setaffinity(None, &set).with_context(|| format!("stay on the CPUs {cpus:?}"))
}
