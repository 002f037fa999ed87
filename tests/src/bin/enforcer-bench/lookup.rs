//! What judging an allowed connect costs inside the program: against the number of entries, and against the least that
//! would do.

use anyhow::{Result, ensure};
use enforcer_common::binding::EventsWanted;
use enforcer_tests::{
    bench::{
        baselines::{Baseline, ERRNO},
        governed::{self, BenchPolicy, MIXED},
        network::{self, Picks},
        program::ObservedProgram,
        rounds::Estimate,
        worker::{Task, Worker},
    },
    cgroup::CgroupFixture,
    netns::NetnsFixture,
    place::Place,
};

use crate::{
    bench::{self, Bench, in_program},
    report::{Goal, Outcome, Plot, Row, Series, Unit},
};

/// Numbers of entries.
const SIZES: [usize; 5] = [16, 1_000, 10_000, 250_000, 1_000_000];

/// Of those, with `--quick`.
const QUICK_SIZES: [usize; 3] = [16, 1_000, 10_000];

/// What holds small policies back.
const BEFORE: &str = "before the prefix it finds the binding, the policy's head and a map in a map, after it the counter: as many \
                      steps as a small trie has nodes";

/// What holds large policies back.
const BEHIND: &str = "what does not depend on the number of entries is part of it: compare the row of 16";

/// What holds the largest back.
const LARGER: &str = "the blocks of a larger table are less often in a cache";

/// What the kernel's figures of a size and a kind of destinations came to, over the empty program.
struct Measured {
    enforcer: Estimate,
    lpm: Estimate,
    with_storage: Estimate,
    /// enforcer over LPM_TRIE with the storage lookup.
    to_storage: Estimate,
    /// LPM_TRIE over enforcer.
    faster: Estimate,
}

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    let netns = bench::everywhere()?;
    let sizes: &[usize] = if bench.quick { &QUICK_SIZES } else { &SIZES };
    let mut outcome = Outcome::default();
    let mut lines: Vec<Series> = Vec::new();
    let mut at_250_000 = Vec::new();
    for &size in sizes {
        bench.progress(&format!("{size} entries"));
        let world = World::new(&netns, bench, size)?;
        let mut workers = world.workers(&netns, bench)?;
        for picks in [Picks::Zipf, Picks::Uniform] {
            let measured = world.measure(bench, &mut workers, picks)?;
            for (name, value) in [
                ("enforcer", measured.enforcer),
                ("LPM_TRIE", measured.lpm),
                ("LPM_TRIE and storage", measured.with_storage),
            ] {
                add_point(
                    &mut lines,
                    &format!("{name}, {}", words(picks)),
                    size,
                    value.median,
                );
            }
            let before = at_250_000
                .iter()
                .find(|(known, _)| *known == picks)
                .map(|(_, ns)| *ns);
            outcome.rows.extend(rows(size, picks, &measured, before));
            if size == 250_000 {
                at_250_000.push((picks, measured.enforcer));
            }
        }
    }
    outcome.plots.push(Plot {
        name: "entries".to_owned(),
        title: "An allowed connect inside the program, over the empty program".to_owned(),
        x: "entries".to_owned(),
        y: "ns".to_owned(),
        log_x: true,
        series: lines,
    });
    Ok(outcome)
}

fn add_point(lines: &mut Vec<Series>, name: &str, size: usize, ns: f64) {
    let point = (size as f64, ns);
    match lines.iter_mut().find(|line| line.name == name) {
        Some(line) => line.points.push(point),
        None => lines.push(Series {
            name: name.to_owned(),
            points: vec![point],
        }),
    }
}

const fn words(picks: Picks) -> &'static str {
    match picks {
        Picks::Zipf => "Zipf",
        Picks::Uniform => "uniform",
    }
}

fn rows(size: usize, picks: Picks, measured: &Measured, at_250_000: Option<Estimate>) -> Vec<Row> {
    let which = words(picks).to_lowercase();
    let id = |name: &str| format!("lookup/{size}/{which}/{name}");
    let what = format!("allowed connect, {size} entries, {}", words(picks));
    let mut cost = Row::fact(id("ns"), what.clone(), Unit::Nanoseconds, Some(measured.enforcer));
    let limit = match size {
        16 => Some(45.0),
        1_000 => Some(110.0),
        _ => None,
    };
    if let Some(limit) = limit {
        cost = cost.goal(Goal::AtMost(limit)).held_back_by(BEFORE);
    }
    let mut to_storage = Row::fact(
        id("to-storage"),
        format!("{what}: to LPM_TRIE and storage lookup"),
        Unit::Ratio,
        Some(measured.to_storage),
    );
    if size <= 1_000 {
        to_storage = to_storage.goal(Goal::SurelyAtMost(1.1)).held_back_by(BEFORE);
    }
    let mut faster = Row::fact(
        id("faster"),
        format!("{what}: times less than LPM_TRIE"),
        Unit::Ratio,
        Some(measured.faster),
    );
    if size == 250_000 {
        let limit = if picks == Picks::Zipf { 4.0 } else { 2.5 };
        faster = faster.goal(Goal::AtLeast(limit)).held_back_by(BEHIND);
    }
    let lpm = Row::fact(
        id("lpm-ns"),
        format!("  LPM_TRIE, {size} entries, {}", words(picks)),
        Unit::Nanoseconds,
        Some(measured.lpm),
    );
    let with_storage = Row::fact(
        id("lpm-storage-ns"),
        format!("  LPM_TRIE and storage lookup, {size} entries, {}", words(picks)),
        Unit::Nanoseconds,
        Some(measured.with_storage),
    );
    let mut rows = vec![cost, lpm, with_storage, to_storage, faster];
    if let (1_000_000, Some(before)) = (size, at_250_000) {
        let growth = Estimate {
            median: measured.enforcer.median / before.median,
            low: measured.enforcer.low / before.high,
            high: measured.enforcer.high / before.low,
            rounds: measured.enforcer.rounds,
        };
        let row = Row::fact(
            id("growth"),
            format!("{what}: to 250000 entries"),
            Unit::Ratio,
            Some(growth),
        );
        rows.push(row.goal(Goal::AtMost(1.3)).held_back_by(LARGER));
    }
    rows
}

/// Cgroups with the same prefixes in force by different programs.
struct World {
    cgroups: [CgroupFixture; 4],
    policy: BenchPolicy,
    prefixes: Vec<ipnet::Ipv6Net>,
    _governing: enforcer::daemon::Governing,
    enforcer: ObservedProgram,
    baselines: [Baseline; 3],
}

impl World {
    fn new(netns: &NetnsFixture, bench: &Bench, size: usize) -> Result<Self> {
        let prefixes = network::table(size, size as u64);
        let policy = BenchPolicy::new(&prefixes, MIXED)?;
        let cgroups = [
            CgroupFixture::new("bench-empty")?,
            CgroupFixture::new("bench-lpm")?,
            CgroupFixture::new("bench-storage")?,
            CgroupFixture::new("bench-governed")?,
        ];
        let for_baselines = policy.prefixes();
        let baselines = [
            Baseline::empty(&cgroups[0])?,
            Baseline::lpm(&cgroups[1], &for_baselines)?,
            Baseline::lpm_with_storage(&cgroups[2], &for_baselines)?,
        ];
        let governing = governed::govern(&[(&cgroups[3], &policy)], EventsWanted::None)?;
        let world = Self {
            enforcer: governed::connect6_at(&cgroups[3])?,
            cgroups,
            policy,
            prefixes,
            _governing: governing,
            baselines,
        };
        world.check(netns, bench)?;
        Ok(world)
    }

    fn workers(&self, netns: &NetnsFixture, bench: &Bench) -> Result<Vec<Worker>> {
        let start = |cgroup| Worker::start(&Place::new(cgroup, netns), bench.cpu);
        self.cgroups.iter().map(start).collect()
    }

    /// That every program really judges: a connect is rejected where the policy says so, and only there.
    fn check(&self, netns: &NetnsFixture, bench: &Bench) -> Result<()> {
        let count = 100;
        let rejected = network::destinations(&self.prefixes, Picks::Uniform, count, 7, |to| {
            self.policy.rejects(to)
        });
        ensure!(rejected.len() == count, "the policy rejects nothing");
        let task = Task::Udp { from: 0, count };
        for (index, worker) in self.workers(netns, bench)?.iter_mut().enumerate() {
            worker.load(&rejected)?;
            // The empty program lets everything go on.
            worker.run(&task)?.all(if index == 0 { 0 } else { ERRNO })?;
        }
        for baseline in &self.baselines[1..] {
            let counted = baseline.counted()?;
            ensure!(
                counted == Some(count as u64),
                "a baseline counted {counted:?} of {count} connects"
            );
        }
        Ok(())
    }

    fn measure(&self, bench: &Bench, workers: &mut [Worker], picks: Picks) -> Result<Measured> {
        let rounds = bench.many_rounds();
        let count = bench.connects();
        // Enough that uniform destinations do not come again before the caches have forgotten them.
        let distinct = (count * rounds).min(400_000);
        let allowed = |to| !self.policy.rejects(to);
        let destinations = network::destinations(&self.prefixes, picks, distinct, 11, allowed);
        for worker in workers.iter_mut() {
            worker.load(&destinations)?;
            worker.run(&Task::Udp { from: 0, count })?.all_connected()?;
        }
        let mut figures: [Vec<f64>; 4] = Default::default();
        for round in 0..rounds {
            let task = Task::Udp {
                from: round * count,
                count,
            };
            for (index, worker) in workers.iter_mut().enumerate() {
                let runs = || match self.baselines.get(index) {
                    Some(baseline) => baseline.runs(),
                    None => self.enforcer.runs(),
                };
                figures[index].push(in_program(worker, &task, 0, runs)?);
            }
        }
        let [empty, lpm, with_storage, enforcer] = figures;
        let over_empty = |values: &[f64]| -> Vec<f64> {
            values
                .iter()
                .zip(&empty)
                .map(|(value, empty)| value - empty)
                .collect()
        };
        let [lpm, with_storage, enforcer] = [&lpm, &with_storage, &enforcer].map(|it| over_empty(it));
        let estimate = |values: &[f64]| Estimate::of(values).unwrap_or(Estimate::once(f64::NAN));
        let ratio = |of: &[f64], to: &[f64]| Estimate::of_ratios(of, to).unwrap_or(Estimate::once(f64::NAN));
        Ok(Measured {
            to_storage: ratio(&enforcer, &with_storage),
            faster: ratio(&lpm, &enforcer),
            enforcer: estimate(&enforcer),
            lpm: estimate(&lpm),
            with_storage: estimate(&with_storage),
        })
    }
}
