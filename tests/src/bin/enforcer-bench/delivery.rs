//! How fast connects may come before an event is lost, delivered as JSON to a file, and what CPU an event takes.

use std::{
    fs::File,
    io::Write as _,
    net::Ipv6Addr,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use enforcer_common::{address::octets_from_words, record::ConnectRecord};
use enforcer_tests::{
    bench::{
        baselines::Baseline,
        ring::RingReader,
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
use jiff::Timestamp;
use serde::Serialize;
use zerocopy::FromBytes as _;

use crate::{
    bench::{self, Bench, OWN_ADDRESS},
    report::{Goal, Outcome, Row, Unit},
};

/// Rates that are tried: each a quarter more than the one before.
const STEP: f64 = 1.25;
const SLOWEST: f64 = 5_000.0;
const FASTEST: f64 = 2_000_000.0;

/// How often a rate may be lossy, or connects come slower than they should, because something else happened meanwhile.
const CHANCES: u32 = 3;

/// Bytes of ring buffers, as `enforcer run` has it.
const RING_BYTES: u32 = 1 << 20;

/// The highest rate without loss, the rate that connects really had then, and what CPU time an event took.
struct Highest {
    per_second: f64,
    cpu_ns: f64,
    /// Whether connects did not come faster.
    all_there_are: bool,
}

/// What became of connects at some rate.
struct Tried {
    lost: u64,
    per_second: f64,
    cpu_ns: f64,
}

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    let netns = bench::everywhere()?;
    let seconds = if bench.quick { 0.2 } else { 2.0 };
    bench.progress("delivery of events, enforcer");
    let enforcer = highest(seconds, |rate, count| by_enforcer(bench, &netns, rate, count))?;
    bench.progress("delivery of events, naive loop");
    let naive = highest(seconds, |rate, count| by_loop(bench, &netns, rate, count))?;
    let ratio = enforcer.per_second / naive.per_second;
    let mut row = Row::fact(
        "delivery/ratio",
        "highest rate of connects delivered as JSON to a file without loss: to a naive loop",
        Unit::Ratio,
        Some(Estimate::once(ratio)),
    )
    .goal(Goal::AtLeast(3.0))
    .held_back_by("both run on one CPU, which other things need too");
    if enforcer.all_there_are {
        row = row.note("one CPU did not connect faster, so it may be more");
    }
    let cpu_ratio = Row::fact(
        "delivery/cpu-ratio",
        "CPU time of a naive loop for each event: to enforcer's",
        Unit::Ratio,
        Some(Estimate::once(naive.cpu_ns / enforcer.cpu_ns)),
    );
    let rate =
        |id: &str, what: &str, value| Row::fact(id, what, Unit::PerSecond, Some(Estimate::once(value)));
    let cpu =
        |id: &str, what: &str, value| Row::fact(id, what, Unit::Nanoseconds, Some(Estimate::once(value)));
    Ok(Outcome {
        rows: vec![
            rate(
                "delivery/rate",
                "highest rate of connects without loss",
                enforcer.per_second,
            ),
            rate(
                "delivery/naive-rate",
                "  naive loop: woken, one event, one line, one write",
                naive.per_second,
            ),
            row,
            cpu(
                "delivery/cpu-ns",
                "CPU time of the controller for each event",
                enforcer.cpu_ns,
            ),
            cpu("delivery/naive-cpu-ns", "  naive loop", naive.cpu_ns),
            cpu_ratio,
        ],
        plots: Vec::new(),
    })
}

/// Goes up until events are lost.
fn highest(seconds: f64, mut attempt: impl FnMut(f64, usize) -> Result<Tried>) -> Result<Highest> {
    let mut best: Option<Highest> = None;
    let mut rate = SLOWEST;
    let (mut too_slow, mut lossy) = (0, 0);
    while rate < FASTEST && too_slow < CHANCES && lossy < CHANCES {
        let tried = attempt(rate, (rate * seconds) as usize)?;
        if tried.lost > 0 {
            lossy += 1;
            continue;
        }
        lossy = 0;
        too_slow = if tried.per_second < rate * 0.8 {
            too_slow + 1
        } else {
            0
        };
        if best
            .as_ref()
            .is_none_or(|best| best.per_second < tried.per_second)
        {
            best = Some(Highest {
                per_second: tried.per_second,
                cpu_ns: tried.cpu_ns,
                all_there_are: false,
            });
        }
        rate *= STEP;
    }
    if let Some(best) = &mut best {
        best.all_there_are = too_slow == CHANCES;
    }
    best.with_context(|| format!("deliver events: some are lost at {SLOWEST} a second already"))
}

/// Connects at that rate; how fast they came.
fn connect(worker: &mut Worker, per_second: f64, count: usize) -> Result<f64> {
    worker.load(&[OWN_ADDRESS])?;
    let done = worker
        .run(&Task::UdpPaced { count, per_second })?
        .all_connected()?;
    Ok(1e9 / done.each_ns())
}

fn by_enforcer(bench: &Bench, netns: &NetnsFixture, rate: f64, count: usize) -> Result<Tried> {
    let cgroup = CgroupFixture::new("bench-delivery")?;
    let file = tempfile::NamedTempFile::new().context("make a file for events")?;
    let path = cgroup.relative_path();
    let command = Enforcer::command(
        &Place::outside(netns),
        [
            "run", "--cgroup", &path, "--reject", "internet", "--events", "all", "--output", "json",
        ],
    )?;
    let to = file.reopen().context("open a file for events")?;
    let enforcer = Enforcer::start_writing_to(command, to)?;
    enforcer.wait_for_line(Stream::Stderr, PATIENCE, |line| line.starts_with("enforcing "))?;
    let mut worker = Worker::start(&Place::new(&cgroup, netns), bench.cpu)?;
    let before = cpu_time_ns(enforcer.pid())?;
    let per_second = connect(&mut worker, rate, count)?;
    // What is not read within one turn of polling is still to come.
    thread::sleep(Duration::from_millis(100));
    let cpu_ns = (cpu_time_ns(enforcer.pid())? - before) / count as f64;
    let finished = enforcer.terminate()?;
    let text = std::fs::read_to_string(file.path()).context("read events")?;
    let delivered = text.lines().filter(|line| line.contains("\"verdict\"")).count();
    ensure!(
        delivered > 0 && delivered <= count,
        "of {count} connects {delivered} have lines; it said: {}",
        finished.stderr.join(" | ")
    );
    Ok(Tried {
        lost: (count - delivered) as u64,
        per_second,
        cpu_ns,
    })
}

/// What a naive reader writes of an event: the fields that enforcer writes (`docs/events.md`), by a general serializer.
#[derive(Serialize)]
struct Line {
    time: String,
    verdict: &'static str,
    would: Option<&'static str>,
    would_rule: Option<String>,
    mode: &'static str,
    errno: Option<&'static str>,
    errno_caller: Option<u16>,
    daddr: Ipv6Addr,
    dport: u16,
    proto: &'static str,
    socket_type: &'static str,
    redirect_to: Option<String>,
    rule: Option<String>,
    prefix: Option<String>,
    target: Option<String>,
    pid: u32,
    tid: u32,
    uid: u32,
    comm: String,
    cgroup_id: u64,
    cgroup: Option<String>,
    task_cgroup_id: u64,
    unmovable: Option<&'static str>,
    hook: &'static str,
    datagrams: Option<u64>,
    left_out: Option<String>,
}

fn by_loop(bench: &Bench, netns: &NetnsFixture, rate: f64, count: usize) -> Result<Tried> {
    let cgroup = CgroupFixture::new("bench-naive")?;
    let within = cgroup.relative_path();
    let baseline = Baseline::event(&cgroup, RING_BYTES, 0)?;
    let file = tempfile::NamedTempFile::new().context("make a file for events")?;
    let mut worker = Worker::start(&Place::new(&cgroup, netns), bench.cpu)?;
    let (ended, cpu_ns) = (AtomicBool::new(false), AtomicU64::new(0));
    let per_second = thread::scope(|scope| -> Result<f64> {
        let reader = scope.spawn(|| read_naively(&baseline, &within, file.path(), &ended, &cpu_ns));
        let per_second = connect(&mut worker, rate, count);
        ended.store(true, Ordering::Relaxed);
        match reader.join() {
            Ok(read) => read?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        per_second
    })?;
    let submitted = baseline.counted()?.unwrap_or(0);
    let text = std::fs::read_to_string(file.path()).context("read events")?;
    ensure!(
        text.lines().count() as u64 == submitted,
        "of {submitted} events {} have lines",
        text.lines().count()
    );
    Ok(Tried {
        lost: count as u64 - submitted,
        per_second,
        cpu_ns: cpu_ns.load(Ordering::Relaxed) as f64 / count as f64,
    })
}

/// Waits, takes one event, writes one line, and so on.
fn read_naively(
    baseline: &Baseline,
    cgroup: &str,
    path: &Path,
    ended: &AtomicBool,
    cpu_ns: &AtomicU64,
) -> Result<()> {
    let mut reader = RingReader::new(&baseline.maps()[0], RING_BYTES as usize)?;
    let mut file = File::options()
        .append(true)
        .open(path)
        .context("open a file for events")?;
    let begin = thread_time_ns(Path::new("/proc/thread-self/schedstat"))?;
    loop {
        let is_last = ended.load(Ordering::Relaxed);
        let mut line = None;
        if reader.wait(Duration::from_millis(20))? {
            reader.take(1, |bytes| line = ConnectRecord::read_from_bytes(bytes).ok());
        }
        match line {
            Some(record) => {
                let mut text =
                    serde_json::to_string(&line_of(&record, cgroup)).context("write an event as JSON")?;
                text.push('\n');
                file.write_all(text.as_bytes()).context("write an event")?;
            }
            None if is_last => break,
            None => {}
        }
    }
    let used = thread_time_ns(Path::new("/proc/thread-self/schedstat"))? - begin;
    cpu_ns.store(used as u64, Ordering::Relaxed);
    Ok(())
}

/// The baseline fills nothing in, which is not to make its lines shorter than enforcer's.
fn line_of(record: &ConnectRecord, path: &str) -> Line {
    let time = Timestamp::now();
    let number = u64::from(record.pid) + 12_345;
    Line {
        time: format!("{time:.9}"),
        verdict: "allow",
        would: None,
        would_rule: None,
        mode: "enforce",
        errno: None,
        errno_caller: None,
        daddr: if record.daddr_be == [0; 4] {
            OWN_ADDRESS
        } else {
            octets_from_words(record.daddr_be).into()
        },
        dport: 9,
        proto: "udp",
        socket_type: "dgram",
        redirect_to: None,
        rule: None,
        prefix: None,
        target: Some(path.to_owned()),
        pid: number as u32,
        tid: number as u32,
        uid: record.uid,
        comm: "enforcer-bench".to_owned(),
        cgroup_id: number,
        cgroup: Some(path.to_owned()),
        task_cgroup_id: number,
        unmovable: None,
        hook: "connect",
        datagrams: None,
        left_out: None,
    }
}

/// CPU time in nanoseconds that all threads of a process have used: the first number of each one's `schedstat`.
fn cpu_time_ns(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/task");
    let mut sum = 0.0;
    for thread in std::fs::read_dir(&path).with_context(|| format!("read {path}"))? {
        let thread = thread.with_context(|| format!("read {path}"))?;
        sum += thread_time_ns(&thread.path().join("schedstat"))?;
    }
    Ok(sum)
}

/// The same of one thread.
fn thread_time_ns(path: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let first = text.split_whitespace().next().unwrap_or_default();
    first
        .parse()
        .with_context(|| format!("understand {}", path.display()))
}
