//! [`Worker`]: a process in a place that connects as fast as it can, on one CPU, and says how long that took.
//!
//! A process of its own, because the cgroup that counts is the one a socket was made in. It measures itself, so that
//! nothing of how it is asked is in the figures.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, BufRead as _, Write as _},
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    io::Errno,
    thread::{CpuSet, sched_setaffinity},
};
use serde::{Deserialize, Serialize};

use self::connecting::Connecting;
use crate::{
    place::Place,
    process::{Running, Stream},
};

mod connecting;

/// The first argument by which a bench binary knows that it is to be a worker.
pub const VERB: &str = "worker";

/// How long a worker may take for one request.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a worker is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Read destinations, 16 bytes each, from a file.
    Load {
        /// The file.
        path: PathBuf,
    },
    /// Connect one UDP socket to so many of the destinations, one after the other: nothing happens but the hook, the
    /// route lookup and noting the peer.
    Udp {
        /// Number of the first.
        from: usize,
        /// How many.
        count: usize,
    },
    /// The same, with the sockets that [`Task::Sockets`] has made, each in its turn.
    UdpByTurns {
        /// Number of the first destination.
        from: usize,
        /// How many connects.
        count: usize,
    },
    /// Make a UDP socket in each of these cgroups, and stay in the last.
    Sockets {
        /// The `cgroup.procs` of each.
        procs: Vec<PathBuf>,
    },
    /// As [`Task::Udp`], each connect timed by itself.
    UdpEach {
        /// Number of the first.
        from: usize,
        /// How many.
        count: usize,
    },
    /// As [`Task::Udp`], so many each second.
    UdpPaced {
        /// How many in all.
        count: usize,
        /// How many each second.
        per_second: f64,
    },
    /// Make a UDP socket, connect it to that place, ask for its peer, close it.
    UdpPeer {
        /// The place.
        to: SocketAddr,
        /// How often.
        count: usize,
    },
    /// Make a TCP socket, connect it, close it, for so many destinations.
    Tcp {
        /// Number of the first.
        from: usize,
        /// How many.
        count: usize,
    },
    /// Connect TCP sockets to a listener of the worker's own at so many destinations. Making, accepting and closing are
    /// not timed.
    TcpConnect {
        /// Number of the first.
        from: usize,
        /// How many.
        count: usize,
    },
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// How long it took.
    pub time_ns: u64,
    /// How many connects ended in what: an errno, or 0 for those that ended well.
    pub outcomes: BTreeMap<i32, u64>,
    /// How long single connects took, where each was timed.
    pub each: Option<Percentiles>,
}

/// How long single connects took, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half of them at most.
    pub p50_ns: u32,
    /// 99 % of them at most.
    pub p99_ns: u32,
    /// 99.9 % of them at most.
    pub p999_ns: u32,
    /// All of them at most.
    pub max_ns: u32,
}

impl Percentiles {
    fn of(mut times_ns: Vec<u32>) -> Self {
        times_ns.sort_unstable();
        let at = |part: f64| {
            let index = (times_ns.len() as f64 * part) as usize;
            let index = index.min(times_ns.len().saturating_sub(1));
            times_ns.get(index).copied().unwrap_or(0)
        };
        Self {
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: at(1.0),
        }
    }
}

impl Done {
    /// How many connects there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// Nanoseconds for each connect.
    #[must_use]
    pub fn each_ns(&self) -> f64 {
        self.time_ns as f64 / self.count().max(1) as f64
    }

    /// That all ended so: in that errno, or well for 0.
    ///
    /// # Errors
    ///
    /// When one did not, or there was none.
    pub fn all(self, errno: i32) -> Result<Self> {
        ensure!(
            self.outcomes.len() == 1 && self.outcomes.contains_key(&errno),
            "connects that were all to end in {errno} ended in (errno: how many) {:?}",
            self.outcomes
        );
        Ok(self)
    }

    /// That all ended well.
    ///
    /// # Errors
    ///
    /// As [`all`](Self::all).
    pub fn all_connected(self) -> Result<Self> {
        self.all(0)
    }
}

/// Counts outcomes without costing anything that would show.
struct Outcomes([u64; Self::ERRNOS]);

impl Outcomes {
    /// More than there are.
    const ERRNOS: usize = 256;

    const fn new() -> Self {
        Self([0; Self::ERRNOS])
    }

    fn add(&mut self, outcome: Result<(), Errno>) {
        let errno = outcome.map_or_else(|error| error.raw_os_error().unsigned_abs() as usize, |()| 0);
        self.0[errno.min(Self::ERRNOS - 1)] += 1;
    }

    fn done(&self, time: Duration) -> Done {
        let outcomes = (0..).zip(self.0).filter(|(_, count)| *count > 0);
        Done {
            time_ns: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
            outcomes: outcomes.collect(),
            each: None,
        }
    }
}

/// A worker process. It ends when this is dropped.
#[derive(Debug)]
pub struct Worker {
    process: Running,
    answers: usize,
}

impl Worker {
    /// Starts a worker in that place, on that CPU. The running program must hand its arguments to [`serve`] when the
    /// first of them is [`VERB`].
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(place: &Place<'_>, cpu: usize) -> Result<Self> {
        let program = env::current_exe().context("find the running program")?;
        let mut command = place.command(program)?;
        command.args([VERB, &cpu.to_string()]);
        Ok(Self {
            process: Running::start(command).context("start a worker")?,
            answers: 0,
        })
    }

    /// Gives it destinations.
    ///
    /// # Errors
    ///
    /// When they cannot be handed over.
    pub fn load(&mut self, destinations: &[Ipv6Addr]) -> Result<()> {
        let file = tempfile::NamedTempFile::new().context("make a file for destinations")?;
        let bytes: Vec<u8> = destinations.iter().flat_map(Ipv6Addr::octets).collect();
        fs::write(file.path(), bytes).context("write destinations")?;
        let path = file.path().to_owned();
        self.run(&Task::Load { path })?;
        Ok(())
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Lets it do something and waits until that is done.
    ///
    /// # Errors
    ///
    /// When it does not answer, or says what went wrong.
    pub fn run(&mut self, task: &Task) -> Result<Done> {
        self.tell(task)?;
        self.answer()
    }

    /// Lets it do something.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn tell(&mut self, task: &Task) -> Result<()> {
        let line = serde_json::to_string(task).context("write a task as JSON")?;
        self.process.write_line(&line)
    }

    /// Whether the oldest unanswered task is done.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.process.lines(Stream::Stdout).len() > self.answers
    }

    /// Waits for what became of the oldest unanswered task.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn answer(&mut self) -> Result<Done> {
        let line = self.process.line(Stream::Stdout, self.answers, PATIENCE)?;
        self.answers += 1;
        let answer: Result<Done, String> =
            serde_json::from_str(&line).with_context(|| format!("read a worker's answer {line:?}"))?;
        answer.map_err(|error| anyhow::anyhow!("a worker: {error}"))
    }
}

/// Is a worker: does what it is told on standard input until that ends.
///
/// # Errors
///
/// When it cannot stay on its CPU, or its input is none.
pub fn serve(arguments: &[String]) -> Result<()> {
    let [cpu] = arguments else {
        bail!("a worker is told its CPU");
    };
    pin(cpu
        .parse()
        .with_context(|| format!("understand the CPU {cpu:?}"))?)?;
    let mut connecting = Connecting::default();
    let mut stdout = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line.context("read a task")?;
        let task = serde_json::from_str(&line).with_context(|| format!("understand the task {line:?}"))?;
        let answer = connecting.perform(&task).map_err(|error| format!("{error:#}"));
        let answer = serde_json::to_string(&answer).context("write an answer as JSON")?;
        writeln!(stdout, "{answer}").context("answer")?;
        stdout.flush().context("answer")?;
    }
    Ok(())
}

/// Keeps the calling thread on a CPU.
///
/// # Errors
///
/// When there is no such CPU.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("stay on CPU {cpu}"))
}
