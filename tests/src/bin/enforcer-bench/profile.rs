//! Where the time goes: which functions the CPU was found in, by `perf record`, while connects are made, events written
//! and a large policy loaded. It samples the clock, which works on machines whose counters are not to be had; what
//! programs in the kernel are called, perf asks the kernel.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use enforcer_common::binding::EventsWanted;
use enforcer_tests::{
    bench::{
        governed::{self, BenchPolicy, MIXED, write_policy},
        network::{self, Picks},
        rounds::Estimate,
        worker::{Task, Worker},
    },
    cgroup::CgroupFixture,
    enforcer::Enforcer,
    netns::NetnsFixture,
    place::Place,
    process::Stream,
    wait::PATIENCE,
};

use crate::{
    bench::{self, Bench, OWN_ADDRESS},
    report::{Outcome, Row, Unit},
};

/// How often the CPU is looked at, each second: not in step with what happens every millisecond.
const SAMPLES: &str = "3989";

/// How many functions are told of each.
const FUNCTIONS: usize = 12;

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    let netns = bench::everywhere()?;
    let directory = tempfile::tempdir().context("make a directory for samples")?;
    let perf = Perf {
        data: directory.path().join("perf.data"),
    };
    let mut rows = Vec::new();
    let profiles: [(&str, &str, Profile); 3] = [
        ("connect", "allowed UDP connect, 10000 entries", connects),
        (
            "events",
            "events as JSON to a file, 100000 connects a second",
            events,
        ),
        ("start", "from start to enforcing, very many entries", start),
    ];
    for (id, what, profile) in profiles {
        bench.progress(&format!("where the time goes: {what}"));
        match profile(bench, &netns, &perf) {
            Ok(functions) => {
                let rest = 100.0 - functions.iter().map(|function| function.percent).sum::<f64>();
                rows.push(share(format!("profile/{id}"), what.to_owned(), 100.0));
                for (place, function) in functions.iter().enumerate() {
                    let what = format!("  `{}`", function.name);
                    rows.push(share(format!("profile/{id}/{place}"), what, function.percent));
                }
                rows.push(share(
                    format!("profile/{id}/rest"),
                    "  all others".to_owned(),
                    rest,
                ));
            }
            Err(error) => rows.push(
                Row::fact(format!("profile/{id}"), what, Unit::Percent, None).note(format!("{error:#}")),
            ),
        }
    }
    Ok(Outcome {
        rows,
        plots: Vec::new(),
    })
}

fn share(id: String, what: String, percent: f64) -> Row {
    Row::fact(id, what, Unit::Percent, Some(Estimate::once(percent)))
}

type Profile = fn(&Bench, &NetnsFixture, &Perf) -> Result<Vec<Function>>;

/// A function, and how much of the time it took.
struct Function {
    name: String,
    percent: f64,
}

/// Samples.
struct Perf {
    data: PathBuf,
}

impl Perf {
    fn record<'c>(&self, perf: &'c mut Command) -> &'c mut Command {
        perf.args([
            "record",
            "--quiet",
            "--event=cpu-clock",
            "--freq",
            SAMPLES,
            "--output",
        ])
        .arg(&self.data)
    }

    /// Samples a process for so long.
    fn sample(&self, pid: u32, time: Duration) -> Result<Child> {
        let seconds = time.as_secs_f64().to_string();
        self.record(&mut Command::new("perf"))
            .args(["--pid", &pid.to_string(), "--", "sleep", &seconds])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start perf (hint: it is in the package linux-perf)")
    }

    /// The functions that took most.
    fn functions(&self) -> Result<Vec<Function>> {
        let output = Command::new("perf")
            .args([
                "report",
                "--stdio",
                "--no-children",
                "--call-graph=none",
                "--fields=overhead,symbol",
            ])
            .args(["--field-separator=;", "--input"])
            .arg(&self.data)
            .output()
            .context("run perf report")?;
        let text = String::from_utf8_lossy(&output.stdout);
        // `12.34%;[k] sock_alloc`
        let functions = text.lines().filter_map(|line| {
            let (percent, symbol) = line.trim().split_once(';')?;
            Some(Function {
                name: named(symbol.trim()),
                percent: percent.trim().trim_end_matches('%').parse().ok()?,
            })
        });
        let functions: Vec<_> = functions.take(FUNCTIONS).collect();
        ensure!(
            !functions.is_empty(),
            "perf took no samples: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(functions)
    }
}

/// `[k] bpf_prog_cda4b6ae4e0ae1d5_enforcer_connec` as `kernel: bpf_prog_enforcer_connec`: the tag is another on each machine.
fn named(symbol: &str) -> String {
    let (place, name) = match symbol.split_once(' ') {
        Some(("[k]", name)) => ("kernel: ", name.trim()),
        Some(("[.]", name)) => ("", name.trim()),
        _ => ("", symbol),
    };
    let name = match name
        .strip_prefix("bpf_prog_")
        .and_then(|rest| rest.split_once('_'))
    {
        Some((_, program)) => format!("bpf_prog_{program}"),
        None => name.to_owned(),
    };
    format!("{place}{name}")
}

/// How long is sampled.
const fn time(bench: &Bench) -> Duration {
    Duration::from_millis(if bench.quick { 300 } else { 4_000 })
}

fn connects(bench: &Bench, netns: &NetnsFixture, perf: &Perf) -> Result<Vec<Function>> {
    let cgroup = CgroupFixture::new("bench-profile")?;
    let prefixes = network::table(10_000, 97);
    let policy = BenchPolicy::new(&prefixes, MIXED)?;
    let _governing = governed::govern(&[(&cgroup, &policy)], EventsWanted::None)?;
    let allowed = |to| !policy.rejects(to);
    let mut worker = Worker::start(&Place::new(&cgroup, netns), bench.cpu)?;
    let count = bench.connects();
    worker.load(&network::destinations(&prefixes, Picks::Zipf, count, 98, allowed))?;
    let mut sampling = perf.sample(worker.pid(), time(bench))?;
    while sampling.try_wait().context("wait for perf")?.is_none() {
        worker.run(&Task::Udp { from: 0, count })?.all_connected()?;
    }
    perf.functions()
}

fn events(bench: &Bench, netns: &NetnsFixture, perf: &Perf) -> Result<Vec<Function>> {
    let cgroup = CgroupFixture::new("bench-profile")?;
    let path = cgroup.relative_path();
    let command = Enforcer::command(
        &Place::outside(netns),
        [
            "run", "--cgroup", &path, "--reject", "internet", "--events", "all", "--output", "json",
        ],
    )?;
    let file = tempfile::tempfile().context("make a file for events")?;
    let enforcer = Enforcer::start_writing_to(command, file)?;
    enforcer.wait_for_line(Stream::Stderr, PATIENCE, |line| line.starts_with("enforcing "))?;
    let mut worker = Worker::start(&Place::new(&cgroup, netns), bench.cpu)?;
    worker.load(&[OWN_ADDRESS])?;
    let mut sampling = perf.sample(enforcer.pid(), time(bench))?;
    while sampling.try_wait().context("wait for perf")?.is_none() {
        let task = Task::UdpPaced {
            count: 20_000,
            per_second: 100_000.0,
        };
        worker.run(&task)?.all_connected()?;
    }
    enforcer.terminate()?;
    perf.functions()
}

fn start(bench: &Bench, netns: &NetnsFixture, perf: &Perf) -> Result<Vec<Function>> {
    let cgroup = CgroupFixture::new("bench-profile")?;
    let directory = tempfile::tempdir().context("make a directory for a policy")?;
    let policy = directory.path().join("policy.toml");
    let entries = if bench.quick { 10_000 } else { 1_000_000 };
    write_policy(&policy, &network::table(entries, 99), MIXED)?;
    let mut command = Place::outside(netns).command("perf")?;
    perf.record(&mut command)
        .arg("--")
        .arg(Enforcer::program()?)
        .args([
            "run",
            "--cgroup",
            &cgroup.relative_path(),
            "--events",
            "none",
            "--policy",
        ])
        .arg(policy);
    let enforcer = Enforcer::start(command)?;
    enforcer.wait_for_line(Stream::Stderr, PATIENCE, |line| line.starts_with("enforcing "))?;
    // perf passes the signal on, and writes what it has when the program has ended.
    enforcer.terminate()?;
    perf.functions()
}
