//! What an allowed connect costs inside the program where each of very many cgroups has a policy of its own.

use anyhow::Result;
use enforcer_common::binding::EventsWanted;
use enforcer_tests::{
    bench::{
        baselines::Baseline,
        governed::{self, BenchPolicy, MIXED},
        network::{self, Picks},
        rounds::Estimate,
        worker::{Task, Worker},
    },
    cgroup::CgroupFixture,
    place::Place,
};
use ipnet::Ipv6Net;

use crate::{
    bench::{self, Bench, in_program},
    report::{Goal, Outcome, Row, Unit},
};

/// Entries of all policies together.
const ENTRIES: usize = 250_000;

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    let policies = if bench.quick { 50 } else { 1_000 };
    let entries = if bench.quick { 10_000 } else { ENTRIES };
    bench.progress(&format!("{policies} policies"));
    let netns = bench::everywhere()?;
    let prefixes = network::table(entries, entries as u64);

    // Each cgroup judges by its own part of the table, so that a connect of one after the other touches all of it.
    let parts: Vec<Vec<Ipv6Net>> = (0..policies)
        .map(|part| prefixes.iter().skip(part).step_by(policies).copied().collect())
        .collect();
    let parts: Vec<BenchPolicy> = parts
        .iter()
        .map(|part| BenchPolicy::new(part, MIXED))
        .collect::<Result<_>>()?;
    let whole = BenchPolicy::new(&prefixes, MIXED)?;
    let above = CgroupFixture::new("bench-policies")?;
    let cgroups: Vec<CgroupFixture> = (0..policies)
        .map(|part| above.child(&part.to_string()))
        .collect::<Result<_>>()?;
    let (alone, empty) = (
        CgroupFixture::new("bench-alone")?,
        CgroupFixture::new("bench-empty")?,
    );
    let baseline = Baseline::empty(&empty)?;
    let together: Vec<_> = cgroups.iter().zip(&parts).collect();
    let _of_many = governed::govern(&together, EventsWanted::None)?;
    let _of_one = governed::govern(&[(&alone, &whole)], EventsWanted::None)?;

    // Everything that is governed by one of them is governed by the same program.
    let of_many = governed::connect6_at(&cgroups[0])?;
    let of_one = governed::connect6_at(&alone)?;

    let allowed = |to| !whole.rejects(to) && parts.iter().all(|part| !part.rejects(to));
    let rounds = bench.rounds();
    let count = bench.connects();
    let destinations = network::destinations(&prefixes, Picks::Uniform, count * 2, 13, allowed);
    let start = |cgroup| -> Result<Worker> {
        let mut worker = Worker::start(&Place::new(cgroup, &netns), bench.cpu)?;
        worker.load(&destinations)?;
        Ok(worker)
    };
    let mut workers = [start(&empty)?, start(&alone)?, start(&cgroups[0])?];
    let procs = cgroups.iter().map(|cgroup| cgroup.path().join("cgroup.procs"));
    workers[2].run(&Task::Sockets {
        procs: procs.collect(),
    })?;

    let mut figures: [Vec<f64>; 3] = Default::default();
    for round in 0..=rounds {
        let from = round * count;
        let one = Task::Udp { from, count };
        let many = Task::UdpByTurns { from, count };
        let ns = [
            in_program(&mut workers[0], &one, 0, || baseline.runs())?,
            in_program(&mut workers[1], &one, 0, || of_one.runs())?,
            in_program(&mut workers[2], &many, 0, || of_many.runs())?,
        ];
        // The first round warms up.
        if round > 0 {
            for (figures, ns) in figures.iter_mut().zip(ns) {
                figures.push(ns);
            }
        }
    }
    let [empty, one, many] = figures;
    let over_empty = |values: &[f64]| -> Vec<f64> {
        values
            .iter()
            .zip(&empty)
            .map(|(value, empty)| value - empty)
            .collect()
    };
    let (one, many) = (over_empty(&one), over_empty(&many));
    let what = format!(
        "allowed connect, {policies} policies of {} entries by turns",
        entries / policies
    );
    Ok(Outcome {
        rows: vec![
            Row::fact(
                "policies/ns",
                what.clone(),
                Unit::Nanoseconds,
                Estimate::of(&many),
            ),
            Row::fact(
                "policies/one-ns",
                format!("  one policy of {entries} entries"),
                Unit::Nanoseconds,
                Estimate::of(&one),
            ),
            Row::fact(
                "policies/ratio",
                format!("{what}: to one of {entries}"),
                Unit::Ratio,
                Estimate::of_ratios(&many, &one),
            )
            .goal(Goal::AtMost(1.3))
            .held_back_by("the bindings and heads of as many cgroups do not stay in the first caches"),
        ],
        plots: Vec::new(),
    })
}
