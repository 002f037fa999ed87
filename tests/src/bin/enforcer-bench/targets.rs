//! What very many governed cgroups cost: each connect, attaching, and the controller's memory.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use enforcer_common::binding::EventsWanted;
use enforcer_tests::{
    bench::{
        baselines::Baseline,
        governed::{self, BenchPolicy, MIXED, write_policy},
        memory,
        network::{self, Picks},
        rounds::Estimate,
        worker::{Task, Worker},
    },
    cgroup::CgroupFixture,
    enforcer::Enforcer,
    netns::NetnsFixture,
    place::Place,
    process::Stream,
};

use rustix::process::{Resource, getrlimit};

use crate::{
    bench::{self, Bench, in_program},
    report::{Goal, Outcome, Plot, Row, Series, Unit},
};

/// How many cgroups this process can govern: each takes a descriptor, and their links up to half of those that there may be.
/// Some are for everything else.
fn most() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from((limit / 2).saturating_sub(1_200)).unwrap_or(usize::MAX)
}

/// Entries of the policy that all of them share.
const ENTRIES: usize = 1_000;

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    let many = if bench.quick { 64 } else { most().min(4_096) };
    let netns = bench::everywhere()?;
    let prefixes = network::table(ENTRIES, 51);
    let policy = BenchPolicy::new(&prefixes, MIXED)?;
    let mut rows = Vec::new();
    let mut line = Vec::new();
    let mut sizes = vec![16, 256, many];
    sizes.retain(|size| *size <= many);
    sizes.dedup();
    for size in sizes {
        bench.progress(&format!("{size} cgroups"));
        let measured = Measured::of(bench, &netns, &policy, &prefixes, size)?;
        line.push((size as f64, measured.in_program_ns.median));
        if size < many {
            continue;
        }
        rows.push(
            Row::fact(
                "targets/ratio",
                format!("UDP connect, {size} cgroups attached: to one"),
                Unit::Ratio,
                Some(measured.ratio),
            )
            .goal(Goal::SurelyAtMost(1.05)),
        );
        rows.push(
            Row::fact(
                "targets/attach-ms",
                format!("attaching, each of {size} cgroups"),
                Unit::Milliseconds,
                Some(Estimate::once(measured.attach_ms)),
            )
            .goal(Goal::AtMost(1.0))
            .held_back_by(
                "five programs are attached to each, and each waits for the kernel's lock of all cgroups",
            ),
        );
    }
    let mut controller = controller(&netns, &prefixes, many)?;
    if !bench.quick && many < 4_096 {
        controller = controller.note(format!(
            "not 4096: this machine lets a process have about {} descriptors, and root may not have more",
            2 * (many + 1_200)
        ));
    }
    rows.push(controller);
    Ok(Outcome {
        rows,
        plots: vec![Plot {
            name: "targets".to_owned(),
            title: "An allowed connect inside the program, over the empty program".to_owned(),
            x: "cgroups attached".to_owned(),
            y: "ns".to_owned(),
            log_x: true,
            series: vec![Series {
                name: format!("enforcer, {ENTRIES} entries"),
                points: line,
            }],
        }],
    })
}

struct Measured {
    /// A whole connect, to that with one cgroup attached.
    ratio: Estimate,
    /// Over the empty program.
    in_program_ns: Estimate,
    attach_ms: f64,
}

impl Measured {
    fn of(
        bench: &Bench,
        netns: &NetnsFixture,
        policy: &BenchPolicy,
        prefixes: &[ipnet::Ipv6Net],
        size: usize,
    ) -> Result<Self> {
        let above = CgroupFixture::new("bench-targets")?;
        let cgroups: Vec<CgroupFixture> = (0..size)
            .map(|number| above.child(&number.to_string()))
            .collect::<Result<_>>()?;
        let (alone, empty) = (
            CgroupFixture::new("bench-alone")?,
            CgroupFixture::new("bench-empty")?,
        );
        let baseline = Baseline::empty(&empty)?;

        let of_one = || -> Result<_> {
            let begin = Instant::now();
            let governing = governed::govern(&[(&alone, policy)], EventsWanted::None)?;
            Ok((governing, begin.elapsed()))
        };
        // Loading the programs is most of it, and takes longer when it is done for the first time.
        let (first, second) = (of_one()?.1, of_one()?.1);
        let (_of_one, third) = of_one()?;
        let one = first.min(second).min(third);
        let all: Vec<_> = cgroups.iter().map(|cgroup| (cgroup, policy)).collect();
        let begin = Instant::now();
        let _of_all = governed::govern(&all, EventsWanted::None)?;
        let attach = begin.elapsed().saturating_sub(one).as_secs_f64() * 1e3 / (size as f64 - 1.0);

        let count = bench.connects();
        let allowed = |to| !policy.rejects(to);
        let destinations = network::destinations(prefixes, Picks::Zipf, count * 2, 53, allowed);
        let start = |cgroup| -> Result<Worker> {
            let mut worker = Worker::start(&Place::new(cgroup, netns), bench.cpu)?;
            worker.load(&destinations)?;
            Ok(worker)
        };
        // Neither the first nor the last that was attached.
        let mut workers = [start(&empty)?, start(&alone)?, start(&cgroups[size / 2])?];
        let program = governed::connect6_at(&cgroups[size / 2])?;
        let task = Task::Udp { from: 0, count };
        let (mut alone, mut among, mut ns) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=bench.many_rounds() {
            let one = workers[1].run(&task)?.all_connected()?.each_ns();
            let of_all = workers[2].run(&task)?.all_connected()?.each_ns();
            let floor = in_program(&mut workers[0], &task, 0, || baseline.runs())?;
            let inside = in_program(&mut workers[2], &task, 0, || program.runs())?;
            if round > 0 {
                alone.push(one);
                among.push(of_all);
                ns.push(inside - floor);
            }
        }
        Ok(Self {
            ratio: Estimate::of_ratios(&among, &alone).context("compare connects")?,
            in_program_ns: Estimate::of(&ns).context("time connects")?,
            attach_ms: attach,
        })
    }
}

/// The memory of `enforcer run` with that many cgroups.
fn controller(netns: &NetnsFixture, prefixes: &[ipnet::Ipv6Net], size: usize) -> Result<Row> {
    let above = CgroupFixture::new("bench-controller")?;
    let directory = tempfile::tempdir().context("make a directory for a policy")?;
    let path = directory.path().join("policy.toml");
    write_policy(&path, prefixes, MIXED)?;
    let mut text = std::fs::read_to_string(&path).context("read a policy")?;
    let cgroups: Vec<CgroupFixture> = (0..size)
        .map(|number| above.child(&number.to_string()))
        .collect::<Result<_>>()?;
    for (number, cgroup) in cgroups.iter().enumerate() {
        let within = cgroup.relative_path();
        text.push_str(&format!(
            "\n[[target]]\nname = \"t{number}\"\ncgroup = \"{within}\"\n"
        ));
    }
    std::fs::write(&path, text).context("write a policy")?;
    let place = Place::outside(netns);
    let mut command = Enforcer::command(&place, ["run".as_ref(), "--policy".as_ref(), path.as_os_str()])?;
    command.args(["--events", "none"]);
    let enforcer = Enforcer::start(command)?;
    let ready = |line: &str| line.starts_with("enforcing ");
    let line = enforcer.wait_for_line(Stream::Stderr, Duration::from_secs(300), ready)?;
    ensure!(
        line.contains(&format!("on {size} cgroups")),
        "enforcer governs something else: {line}"
    );
    let peak = memory::of_process(enforcer.pid())?.peak_mib;
    enforcer.terminate()?;
    Ok(Row::fact(
        "targets/controller-mib",
        format!("controller, {size} cgroups, peak"),
        Unit::Mebibytes,
        Some(Estimate::once(peak)),
    )
    .goal(Goal::AtMost(64.0)))
}
