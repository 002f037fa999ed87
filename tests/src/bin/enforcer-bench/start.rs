//! From starting `enforcer run` until it enforces: with a small policy, and with as many prefixes as a policy takes.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use enforcer_tests::{
    bench::{
        governed::{MIXED, write_policy},
        memory, network,
        rounds::Estimate,
    },
    cgroup::CgroupFixture,
    enforcer::Enforcer,
    netns::NetnsFixture,
    place::Place,
    process::Stream,
};

use crate::{
    bench::Bench,
    report::{Goal, Outcome, Row, Unit},
};

/// How long a start may take at all.
const LIMIT: Duration = Duration::from_secs(300);

/// What one start came to.
struct Started {
    seconds: f64,
    peak_mib: f64,
    /// Bytes of the maps the controller holds.
    maps: BTreeMap<u32, u64>,
}

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    bench.on_all_cpus(|| measure(bench))
}

fn measure(bench: &Bench) -> Result<Outcome> {
    bench.progress("start to enforcing");
    let netns = NetnsFixture::new()?;
    let directory = tempfile::tempdir().context("make a directory for policies")?;
    let small = directory.path().join("small").join("policy.toml");
    let large = directory.path().join("large").join("policy.toml");
    let entries = if bench.quick { 20_000 } else { 1_000_000 };
    for (path, count) in [(&small, 16), (&large, entries)] {
        let parent = path.parent().context("find the directory of a policy")?;
        std::fs::create_dir(parent).with_context(|| format!("make {}", parent.display()))?;
        write_policy(path, &network::table(count, count as u64), MIXED)?;
    }

    let mut small_ms = Vec::new();
    let mut held = BTreeMap::new();
    for round in 0..=bench.rounds() {
        let started = start(&netns, &small)?;
        if round > 0 {
            small_ms.push(started.seconds * 1e3);
        }
        held = started.maps;
    }
    bench.progress(&format!("{entries} entries to enforcing"));
    let mut large_seconds = Vec::new();
    let mut peak_mib: f64 = 0.0;
    let mut each_bytes = 0.0;
    for _ in 0..if bench.quick { 1 } else { 5 } {
        let started = start(&netns, &large)?;
        large_seconds.push(started.seconds);
        peak_mib = peak_mib.max(started.peak_mib);
        let sum = |maps: &BTreeMap<u32, u64>| maps.values().sum::<u64>() as f64;
        each_bytes = (sum(&started.maps) - sum(&held)) / entries as f64;
    }
    let what = format!("{entries} entries by `prefixes_file`");
    Ok(Outcome {
        rows: vec![
            Row::fact(
                "start/small-ms",
                "`enforcer run`, small policy, start to enforcing",
                Unit::Milliseconds,
                Estimate::of(&small_ms),
            )
            .goal(Goal::AtMost(100.0))
            .held_back_by("the kernel's verifier walks five programs, and the probes before them"),
            Row::fact(
                "start/capacity-s",
                format!("{what}, start to enforcing"),
                Unit::Seconds,
                Estimate::of(&large_seconds),
            )
            .goal(Goal::AtMost(3.0))
            .held_back_by("reading the text and sorting the prefixes is most of it"),
            Row::fact(
                "start/capacity-mib",
                format!("{what}, controller, peak"),
                Unit::Mebibytes,
                Some(Estimate::once(peak_mib)),
            )
            .goal(Goal::AtMost(256.0))
            .held_back_by("prefixes are held as the rules have them and as compiled, both at once"),
            Row::fact(
                "start/kernel-bytes",
                format!("{what}, kernel memory for each entry"),
                Unit::Bytes,
                Some(Estimate::once(each_bytes)),
            )
            .note("by the kernel's own account of the maps that the controller holds"),
        ],
        plots: Vec::new(),
    })
}

/// Starts it, waits until it enforces, and ends it.
fn start(netns: &NetnsFixture, policy: &Path) -> Result<Started> {
    let cgroup = CgroupFixture::new("bench-start")?;
    let path = cgroup.relative_path();
    let mut command = Enforcer::command(
        &Place::outside(netns),
        ["run", "--cgroup", &path, "--events", "none"],
    )?;
    command.arg("--policy").arg(policy);
    let begin = Instant::now();
    let enforcer = Enforcer::start(command)?;
    enforcer.wait_for_line(Stream::Stderr, LIMIT, |line| line.starts_with("enforcing "))?;
    let seconds = begin.elapsed().as_secs_f64();
    let started = Started {
        seconds,
        peak_mib: memory::of_process(enforcer.pid())?.peak_mib,
        maps: memory::maps(enforcer.pid())?,
    };
    enforcer.terminate()?;
    Ok(started)
}
