//! What an event costs the connecting thread, and when its line is on a terminal.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::{Ipv6Addr, SocketAddr},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use enforcer_common::binding::EventsWanted;
use enforcer_tests::{
    bench::{
        baselines::Baseline,
        governed::{self, BenchPolicy, MIXED},
        network::{self, Picks},
        ring::RingReader,
        rounds::Estimate,
        worker::{Task, Worker},
    },
    cgroup::CgroupFixture,
    client::Client,
    enforcer::Enforcer,
    netns::NetnsFixture,
    place::Place,
    process::Stream,
    wait::{PATIENCE, eventually},
};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::{
    bench::{self, Bench, run_pumping},
    report::{Goal, Outcome, Row, Unit},
};

/// Entries of the policy.
const ENTRIES: usize = 1_000;

/// Bytes of ring buffers, as `enforcer run` has it.
const RING_BYTES: u32 = 1 << 20;

/// How long a reader waits before it looks whether it is still wanted.
const READER_PATIENCE: Duration = Duration::from_millis(50);

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    bench.progress("events");
    let netns = bench::everywhere()?;
    let mut rows = cost(bench, &netns)?;
    bench.progress("lines on a terminal");
    rows.push(latency(bench, &netns)?);
    Ok(Outcome {
        rows,
        plots: Vec::new(),
    })
}

fn cost(bench: &Bench, netns: &NetnsFixture) -> Result<Vec<Row>> {
    let prefixes = network::table(ENTRIES, 61);
    let policy = BenchPolicy::new(&prefixes, MIXED)?;
    let names = [
        "bench-empty",
        "bench-wakeup",
        "bench-quiet",
        "bench-silent",
        "bench-telling",
    ];
    let cgroups: Vec<CgroupFixture> = names.into_iter().map(CgroupFixture::new).collect::<Result<_>>()?;
    let _empty = Baseline::empty(&cgroups[0])?;
    let waking = Baseline::event(&cgroups[1], RING_BYTES, 0)?;
    let quiet = Baseline::event(&cgroups[2], RING_BYTES, 1)?;
    let _silent = governed::govern(&[(&cgroups[3], &policy)], EventsWanted::None)?;
    let mut telling = governed::govern(&[(&cgroups[4], &policy)], EventsWanted::All)?;

    // No more than a ring buffer holds, so that none is lost where the machine does not let readers run.
    let count = bench.connects().min(RING_BYTES as usize / 200);
    let allowed = |to| !policy.rejects(to);
    let destinations = network::destinations(&prefixes, Picks::Uniform, count, 63, allowed);
    let mut workers: Vec<Worker> = Vec::new();
    for cgroup in &cgroups {
        let mut worker = Worker::start(&Place::new(cgroup, netns), bench.cpu)?;
        worker.load(&destinations)?;
        workers.push(worker);
    }
    let task = Task::Udp { from: 0, count };
    let mut figures: [Vec<f64>; 5] = Default::default();
    let read = [Reading::default(), Reading::default()];
    let ended = AtomicBool::new(false);
    let rounds = bench.rounds();
    thread::scope(|scope| -> Result<()> {
        for (baseline, read) in [&waking, &quiet].into_iter().zip(&read) {
            let ended = &ended;
            scope.spawn(move || read_until(baseline, read, ended));
        }
        let measured = (|| {
            for round in 0..=rounds {
                for (index, worker) in workers.iter_mut().enumerate() {
                    let done = if index == 4 {
                        run_pumping(worker, &task, &mut telling)?
                    } else {
                        worker.run(&task)?
                    };
                    let ns = done.all_connected()?.each_ns();
                    if round > 0 {
                        figures[index].push(ns);
                    }
                    for (baseline, read) in [&waking, &quiet].into_iter().zip(&read) {
                        eventually("a reader of events", PATIENCE, || {
                            let submitted = baseline.counted().unwrap_or_default();
                            submitted == Some(read.events.load(Ordering::Relaxed))
                        })?;
                    }
                }
            }
            Ok(())
        })();
        ended.store(true, Ordering::Relaxed);
        measured
    })?;
    let connects = ((rounds + 1) * count) as u64;
    let report = telling.finish()?;
    let counters = report
        .targets
        .first()
        .context("find the target's counters")?
        .counters;
    ensure!(
        counters.events == connects && counters.lost == 0,
        "of {connects} connects {} became events and {} were lost",
        counters.events,
        counters.lost
    );
    ensure!(
        waking.counted()? == Some(connects) && quiet.counted()? == Some(connects),
        "of {connects} connects the baselines have not made as many events"
    );

    let [empty, waking, quiet, silent, telling] = figures;
    let difference =
        |of: &[f64], to: &[f64]| -> Vec<f64> { of.iter().zip(to).map(|(of, to)| of - to).collect() };
    let by_wakeup = difference(&waking, &empty);
    let without = difference(&quiet, &empty);
    let enforcers = difference(&telling, &silent);
    Ok(vec![
        Row::fact("events/ns", "cost of an event to the connecting thread", Unit::Nanoseconds, Estimate::of(&enforcers)),
        Row::fact(
            "events/wakeup-ns",
            "  a program that does nothing else, default wake-up, reader waiting",
            Unit::Nanoseconds,
            Estimate::of(&by_wakeup),
        ),
        Row::fact(
            "events/wakes",
            "  how many events its reader found when it was woken",
            Unit::Count,
            Some(Estimate::once(
                connects as f64 / read[0].wakes.load(Ordering::Relaxed).max(1) as f64,
            )),
        )
        .note("where something else takes the reader's CPU it is woken rarely, and the wake-up seems cheap"),
        Row::fact(
            "events/quiet-ns",
            "  the same without wake-up, reader never woken",
            Unit::Nanoseconds,
            Estimate::of(&without),
        ),
        Row::fact(
            "events/ratio",
            "cost of an event: times less than with the default wake-up",
            Unit::Ratio,
            Estimate::of_ratios(&by_wakeup, &enforcers),
        )
        .goal(Goal::AtLeast(7.0))
        .held_back_by("most of an event is filling it: time, process, user and name of the thread are four calls of helpers"),
    ])
}

/// What a reader has done.
#[derive(Default)]
struct Reading {
    events: AtomicU64,
    wakes: AtomicU64,
}

/// Reads a baseline's events as they come, until that has ended and there are none left.
fn read_until(baseline: &Baseline, read: &Reading, ended: &AtomicBool) -> Result<()> {
    let mut reader = RingReader::new(&baseline.maps()[0], RING_BYTES as usize)?;
    loop {
        let is_last = ended.load(Ordering::Relaxed);
        let woken = reader.wait(READER_PATIENCE)?;
        let taken = reader.take(usize::MAX, |record| {
            std::hint::black_box(record);
        });
        read.events.fetch_add(taken as u64, Ordering::Relaxed);
        read.wakes.fetch_add(u64::from(woken), Ordering::Relaxed);
        if is_last && taken == 0 {
            return Ok(());
        }
    }
}

/// From before a connect until its line can be read from a terminal.
fn latency(bench: &Bench, netns: &NetnsFixture) -> Result<Row> {
    let cgroup = CgroupFixture::new("bench-terminal")?;
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("make a terminal")?;
    grantpt(&terminal).context("make a terminal")?;
    unlockpt(&terminal).context("make a terminal")?;
    let name = ptsname(&terminal, Vec::new()).context("ask for the terminal's name")?;
    let name = name.to_str().context("ask for the terminal's name")?;
    let screen = File::options()
        .write(true)
        .open(name)
        .with_context(|| format!("open terminal {name}"))?;
    let place = Place::outside(netns);
    let path = cgroup.relative_path();
    let command = Enforcer::command(&place, ["run", "--cgroup", &path, "--reject", "internet"])?;
    let enforcer = Enforcer::start_writing_to(command, screen)?;
    enforcer.wait_for_line(Stream::Stderr, Duration::from_secs(60), |line| {
        line.starts_with("enforcing ")
    })?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(File::from(terminal)).lines().map_while(Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                break;
            }
        }
    });
    let mut client = Client::start(&Place::new(&cgroup, netns))?;
    let mut times_ms = Vec::new();
    for number in 0..bench.many_rounds() as u16 {
        let to = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 7, number), 443));
        let shown = to.to_string();
        let begin = Instant::now();
        let answer = client.connect_tcp(to)?;
        ensure!(!answer.ok, "a connect that was to be rejected was not");
        loop {
            let (at, line) = lines
                .recv_timeout(Duration::from_secs(30))
                .context("wait for a line on a terminal")?;
            if line.contains(&shown) {
                times_ms.push(at.duration_since(begin).as_secs_f64() * 1e3);
                break;
            }
        }
    }
    enforcer.terminate()?;
    let mut reached = Estimate::of(&times_ms).context("time lines")?;
    // All of them count, not the one in the middle.
    reached.high = times_ms.iter().copied().fold(reached.high, f64::max);
    Ok(Row::fact(
        "events/terminal-ms",
        "from a connect to its line on a terminal (upper end: the slowest)",
        Unit::Milliseconds,
        Some(reached),
    )
    .goal(Goal::SurelyAtMost(50.0)))
}
