//! Whether anything is left after very many times of attaching, reloading and detaching.

use std::process;

use anyhow::Result;
use enforcer_common::binding::EventsWanted;
use enforcer_tests::{
    bench::{
        bpf::{Object, objects},
        governed::{self, BenchPolicy, MIXED},
        memory, network,
        rounds::Estimate,
    },
    cgroup::CgroupFixture,
    wait::{PATIENCE, eventually},
};

use crate::{
    bench::Bench,
    report::{Goal, Outcome, Row, Unit},
};

const KINDS: [Object; 3] = [Object::Program, Object::Map, Object::Link];

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    let cycles = if bench.quick { 20 } else { 1_000 };
    bench.progress(&format!("{cycles} times attaching, reloading and detaching"));
    let cgroup = CgroupFixture::new("bench-leaks")?;
    let policies = [91, 92].map(|seed| BenchPolicy::new(&network::table(1_000, seed), MIXED));
    let [first, second] = policies;
    let (first, second) = (first?, second?);
    let cycle = || -> Result<()> {
        let mut governing = governed::govern(&[(&cgroup, &first)], EventsWanted::Acted)?;
        governed::reload(&mut governing, &[(&cgroup, &second)], EventsWanted::Acted)?;
        governing.pump()?;
        governing.finish()?;
        Ok(())
    };
    // What is allocated once is no leak.
    for _ in 0..5 {
        cycle()?;
    }
    let before = State::now()?;
    for _ in 0..cycles {
        cycle()?;
    }
    // The kernel frees what was let go of a little later; and others may have objects of their own for a while.
    let mut after = State::now()?;
    let settled = eventually("all BPF objects to be gone", PATIENCE, || {
        after = State::now().unwrap_or(after);
        after.objects <= before.objects
    });
    let more = |after: usize, before: usize| Some(Estimate::once(after as f64 - before as f64));
    let mut objects = Row::fact(
        "leaks/objects",
        format!("programs, maps and links more than before, after {cycles} cycles"),
        Unit::Count,
        more(after.objects, before.objects),
    )
    .goal(Goal::AtMost(0.0));
    if settled.is_err() {
        objects = objects.note("of the whole machine: others' are among them");
    }
    Ok(Outcome {
        rows: vec![
            objects,
            Row::fact(
                "leaks/descriptors",
                format!("descriptors more than before, after {cycles} cycles"),
                Unit::Count,
                more(after.descriptors, before.descriptors),
            )
            .goal(Goal::AtMost(0.0)),
            Row::fact(
                "leaks/mib",
                format!("resident memory more than before, after {cycles} cycles"),
                Unit::Mebibytes,
                Some(Estimate::once(after.resident_mib - before.resident_mib)),
            )
            .goal(Goal::AtMost(1.0))
            .held_back_by("the allocator keeps what was freed in pieces"),
        ],
        plots: Vec::new(),
    })
}

#[derive(Clone, Copy)]
struct State {
    objects: usize,
    descriptors: usize,
    resident_mib: f64,
}

impl State {
    fn now() -> Result<Self> {
        let mut count = 0;
        for kind in KINDS {
            count += objects(kind)?.len();
        }
        Ok(Self {
            objects: count,
            descriptors: memory::descriptors(process::id())?,
            resident_mib: memory::of_process(process::id())?.resident_mib,
        })
    }
}
