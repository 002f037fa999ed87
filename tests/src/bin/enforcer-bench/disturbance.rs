//! How long the slowest connects take while policies are reloaded and cgroups attached, against quiet.

use anyhow::{Context as _, Result};
use enforcer_common::binding::EventsWanted;
use enforcer_tests::{
    bench::{
        governed::{self, BenchPolicy, MIXED, write_policy},
        network::{self, Picks},
        rounds::Estimate,
        worker::{Percentiles, Task, Worker},
    },
    cgroup::CgroupFixture,
    netns::NetnsFixture,
    place::Place,
};

use crate::{
    bench::{self, Bench},
    reload,
    report::{Goal, Outcome, Row, Unit},
};

/// Entries of the policies.
const ENTRIES: usize = 10_000;

/// What rounds came to, quiet and disturbed.
struct Compared {
    quiet_us: Estimate,
    disturbed_us: Estimate,
    ratio: Estimate,
    disturbances: usize,
}

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    let netns = bench::everywhere()?;
    bench.progress("the slowest connects during attaches");
    let attaches = during_attaches(bench, &netns)?;
    bench.progress("the slowest connects during reloads");
    let reloads = during_reloads(bench, &netns)?;
    let rows = [
        rows("attaches", "attaches and detaches of other cgroups", &attaches),
        rows("reloads", "reloads", &reloads),
    ]
    .concat();
    Ok(Outcome {
        rows,
        plots: Vec::new(),
    })
}

fn rows(id: &str, what: &str, compared: &Compared) -> [Row; 3] {
    [
        Row::fact(
            format!("disturbance/{id}/ratio"),
            format!("connect, p99.9, during {what}: to quiet"),
            Unit::Ratio,
            Some(compared.ratio),
        )
        .goal(Goal::AtMost(1.5))
        .held_back_by(
            "every reload and attach waits for all CPUs, and interrupts them to change the kernel's code",
        ),
        Row::fact(
            format!("disturbance/{id}/quiet-us"),
            "  quiet",
            Unit::Microseconds,
            Some(compared.quiet_us),
        ),
        Row::fact(
            format!("disturbance/{id}/disturbed-us"),
            format!("  during {} {what}", compared.disturbances),
            Unit::Microseconds,
            Some(compared.disturbed_us),
        ),
    ]
}

/// Rounds of connects, each once in quiet and once while `disturb` is done over and over.
fn compare(bench: &Bench, worker: &mut Worker, mut disturb: impl FnMut() -> Result<()>) -> Result<Compared> {
    // The slowest of a thousand must be many enough to be told.
    let count = bench.connects() * if bench.quick { 4 } else { 20 };
    let task = Task::UdpEach { from: 0, count };
    let [mut quiet, mut disturbed, mut ratios] = [Vec::new(), Vec::new(), Vec::new()];
    let mut disturbances = 0;
    for round in 0..=bench.rounds() {
        let calm = slowest(worker.run(&task)?.all_connected()?.each)?;
        worker.tell(&task)?;
        while !worker.has_answered() {
            disturb()?;
            disturbances += 1;
        }
        let busy = slowest(worker.answer()?.all_connected()?.each)?;
        if round > 0 {
            quiet.push(calm);
            disturbed.push(busy);
            ratios.push(busy / calm);
        }
    }
    let estimate = |values: &[f64]| Estimate::of(values).context("time connects");
    Ok(Compared {
        quiet_us: estimate(&quiet)?,
        disturbed_us: estimate(&disturbed)?,
        ratio: estimate(&ratios)?,
        disturbances,
    })
}

fn slowest(each: Option<Percentiles>) -> Result<f64> {
    let each = each.context("time connects")?;
    Ok(f64::from(each.p999_ns) / 1e3)
}

fn during_attaches(bench: &Bench, netns: &NetnsFixture) -> Result<Compared> {
    let prefixes = network::table(ENTRIES, 81);
    let policy = BenchPolicy::new(&prefixes, MIXED)?;
    let (governed, other) = (
        CgroupFixture::new("bench-steady")?,
        CgroupFixture::new("bench-other")?,
    );
    let _governing = governed::govern(&[(&governed, &policy)], EventsWanted::None)?;
    let mut worker = steady(bench, netns, &governed, &policy, &prefixes)?;
    let small = BenchPolicy::new(&network::table(16, 82), MIXED)?;
    compare(bench, &mut worker, || {
        governed::govern(&[(&other, &small)], EventsWanted::None).map(drop)
    })
}

fn during_reloads(bench: &Bench, netns: &NetnsFixture) -> Result<Compared> {
    let prefixes = network::table(ENTRIES, 83);
    let policy = BenchPolicy::new(&prefixes, MIXED)?;
    let cgroup = CgroupFixture::new("bench-reloaded")?;
    let directory = tempfile::tempdir().context("make a directory for a policy")?;
    let path = directory.path().join("policy.toml");
    write_policy(&path, &prefixes, MIXED)?;
    let mut enforcer = reload::govern(netns, &cgroup, &path)?;
    let mut worker = steady(bench, netns, &cgroup, &policy, &prefixes)?;
    let texts = [0, 1].map(|number| {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        format!(
            "{text}\n[[rule]]\nname = \"turn\"\nprefix = \"2001:db8:{number}::/48\"\naction = \"reject\"\n"
        )
    });
    let mut turn = 0;
    let compared = compare(bench, &mut worker, || {
        std::fs::write(&path, &texts[turn % 2]).context("write a policy")?;
        turn += 1;
        reload::ask_to_reload(&mut enforcer).map(drop)
    })?;
    enforcer.terminate()?;
    Ok(compared)
}

fn steady(
    bench: &Bench,
    netns: &NetnsFixture,
    cgroup: &CgroupFixture,
    policy: &BenchPolicy,
    prefixes: &[ipnet::Ipv6Net],
) -> Result<Worker> {
    let allowed = |to| !policy.rejects(to);
    let destinations = network::destinations(prefixes, Picks::Zipf, bench.connects(), 85, allowed);
    let mut worker = Worker::start(&Place::new(cgroup, netns), bench.cpu)?;
    worker.load(&destinations)?;
    Ok(worker)
}
