//! Whether connects of several CPUs at once get in each other's way.

use anyhow::{Context as _, Result};
use enforcer_common::binding::EventsWanted;
use enforcer_tests::{
    bench::{
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
    report::{Goal, Outcome, Plot, Row, Series, Unit},
};

/// Entries of the policy.
const ENTRIES: usize = 10_000;

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    let cpus = bench.cpu + 1;
    if cpus == 1 {
        let row = Row::fact("scaling/1", "connects on all CPUs at once", Unit::Ratio, None);
        return Ok(Outcome {
            rows: vec![row.note("this machine has one CPU")],
            plots: Vec::new(),
        });
    }
    bench.progress(&format!("1 … {cpus} CPUs"));
    let netns = bench::everywhere()?;
    let prefixes = network::table(ENTRIES, 41);
    let policy = BenchPolicy::new(&prefixes, MIXED)?;
    let cgroups = [
        CgroupFixture::new("bench-bare")?,
        CgroupFixture::new("bench-governed")?,
    ];
    let _governing = governed::govern(&[(&cgroups[1], &policy)], EventsWanted::None)?;
    let allowed = |to| !policy.rejects(to);
    let count = bench.connects() * 2;
    let destinations = network::destinations(&prefixes, Picks::Zipf, count, 43, allowed);
    let mut workers: [Vec<Worker>; 2] = Default::default();
    for (cgroup, workers) in cgroups.iter().zip(&mut workers) {
        // The CPU that everything else is measured on comes first.
        for cpu in (0..cpus).rev() {
            let mut worker = Worker::start(&Place::new(cgroup, &netns), cpu)?;
            worker.load(&destinations)?;
            workers.push(worker);
        }
    }

    // By whether governed, by number of CPUs: connects a second, round by round.
    let mut rates = [vec![Vec::new(); cpus], vec![Vec::new(); cpus]];
    for round in 0..=bench.many_rounds() {
        for (workers, rates) in workers.iter_mut().zip(&mut rates) {
            for (at_once, rates) in (1..).zip(rates.iter_mut()) {
                let rate = together(&mut workers[..at_once], count)?;
                if round > 0 {
                    rates.push(rate);
                }
            }
        }
    }
    let [bare, governed] = rates;
    let mut rows = Vec::new();
    for at_once in 1..=cpus {
        let of = |rates: &[Vec<f64>]| Estimate::of(&rates[at_once - 1]);
        rows.push(Row::fact(
            format!("scaling/{at_once}/rate"),
            format!("  UDP connects, {at_once} CPUs at once, {ENTRIES} entries"),
            Unit::PerSecond,
            of(&governed),
        ));
    }
    let growth = |rates: &[Vec<f64>], at_once: usize| -> Vec<f64> {
        rates[at_once - 1]
            .iter()
            .zip(&rates[0])
            .map(|(many, one)| many / one)
            .collect()
    };
    for at_once in 2..=cpus {
        rows.push(
            Row::fact(
                format!("scaling/{at_once}/ratio"),
                format!("{at_once} CPUs at once, times the rate of one: to nothing attached"),
                Unit::Ratio,
                Estimate::of_ratios(&growth(&governed, at_once), &growth(&bare, at_once)),
            )
            .goal(Goal::AtLeast(0.9))
            .held_back_by("what is written is per-CPU; compare the plot"),
        );
    }
    let line = |name: &str, rates: &[Vec<f64>]| {
        let medians = rates.iter().filter_map(|rates| Estimate::of(rates));
        Series {
            name: name.to_owned(),
            points: (1..)
                .map(f64::from)
                .zip(medians.map(|rate| rate.median))
                .collect(),
        }
    };
    let plot = Plot {
        name: "threads".to_owned(),
        title: "UDP connects of several CPUs at once".to_owned(),
        x: "CPUs".to_owned(),
        y: "connects each second".to_owned(),
        log_x: false,
        series: vec![line("nothing attached", &bare), line("enforcer", &governed)],
    };
    Ok(Outcome {
        rows,
        plots: vec![plot],
    })
}

/// Connects a second of all of them together.
fn together(workers: &mut [Worker], count: usize) -> Result<f64> {
    let task = Task::Udp { from: 0, count };
    for worker in workers.iter_mut() {
        worker.tell(&task)?;
    }
    let mut rate = 0.0;
    for worker in workers {
        let done = worker
            .answer()
            .context("connect on several CPUs")?
            .all_connected()?;
        rate += 1e9 / done.each_ns();
    }
    Ok(rate)
}
