//! What a whole TCP connect on loopback costs: governed, against nothing attached, an empty program and a filter of
//! packets as systemd has it.

use anyhow::{Result, ensure};
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

use crate::{
    bench::{self, Bench},
    report::{Goal, Outcome, Row, Unit},
};

/// Entries of the policy.
const ENTRIES: usize = 10_000;

const NAMES: [&str; 4] = [
    "nothing attached",
    "an empty program",
    "enforcer",
    "a filter of packets",
];

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    bench.progress("TCP connects on loopback");
    let netns = bench::everywhere()?;
    let prefixes = network::table(ENTRIES, 21);
    let policy = BenchPolicy::new(&prefixes, MIXED)?;
    let cgroups = [
        CgroupFixture::new("bench-bare")?,
        CgroupFixture::new("bench-empty")?,
        CgroupFixture::new("bench-governed")?,
        CgroupFixture::new("bench-packets")?,
    ];
    let _empty = Baseline::empty(&cgroups[1])?;
    let _governing = governed::govern(&[(&cgroups[2], &policy)], EventsWanted::None)?;
    let packets = Baseline::packets(&cgroups[3], &policy.prefixes())?;

    let rounds = bench.many_rounds();
    let count = bench.connects() / 5;
    let allowed = |to| !policy.rejects(to);
    let destinations = network::destinations(&prefixes, Picks::Uniform, count * 4, 23, allowed);
    let mut workers = Vec::new();
    for cgroup in &cgroups {
        let mut worker = Worker::start(&Place::new(cgroup, &netns), bench.cpu)?;
        worker.load(&destinations)?;
        workers.push(worker);
    }
    let mut figures: [Vec<f64>; 4] = Default::default();
    for round in 0..=rounds {
        let task = Task::TcpConnect {
            from: round * count,
            count,
        };
        for (worker, figures) in workers.iter_mut().zip(&mut figures) {
            let ns = worker.run(&task)?.all_connected()?.each_ns();
            if round > 0 {
                figures.push(ns);
            }
        }
    }
    ensure!(
        packets
            .counted()?
            .is_some_and(|packets| packets >= (rounds * count) as u64),
        "the filter of packets has seen too few"
    );
    let [bare, rest @ ..] = figures;
    let mut rows = vec![Row::fact(
        "loopback/bare-ns",
        format!("  TCP connect on loopback, {}", NAMES[0]),
        Unit::Nanoseconds,
        Estimate::of(&bare),
    )];
    for (name, figures) in NAMES.iter().skip(1).zip(&rest) {
        let row = Row::fact(
            format!("loopback/{}", name.replace(' ', "-")),
            format!("TCP connect on loopback, {ENTRIES} entries, {name}: to nothing attached"),
            Unit::Ratio,
            Estimate::of_ratios(figures, &bare),
        );
        rows.push(if *name == "enforcer" {
            row.goal(Goal::SurelyAtMost(1.05))
                .held_back_by("calling a program at all is part of it: compare the empty one")
        } else {
            row
        });
    }
    Ok(Outcome {
        rows,
        plots: Vec::new(),
    })
}
