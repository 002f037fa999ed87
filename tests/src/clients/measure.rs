//! [`Measured`]: what came of a client that was run once.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::{
    services::BRANCHES,
    table::{Answer, Client},
    world::{Mode, World},
};
use crate::{
    lab::{SERVER_IPV4, SERVER_IPV6},
    process::{Finished, Running},
    wait::eventually,
};

/// How long a client is given where its time is measured.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// How long one that has ended may keep its output open.
const OUTPUT: Duration = Duration::from_secs(10);

/// How a client ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It talked to the server, which was reached at this address.
    Arrived(IpAddr),
    /// It ended without.
    Failed(String),
    /// It was still trying when its time was over.
    Deadline,
}

/// What came of a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// How it ended.
    pub outcome: Outcome,
    /// In how long: by the client's own clock once it runs, where it has one, else from its start to its end.
    pub ms: f64,
}

impl Measured {
    /// Whether it talked to the server.
    #[must_use]
    pub const fn arrived(&self) -> bool {
        matches!(self.outcome, Outcome::Arrived(_))
    }

    /// Whether it did so by IPv6.
    #[must_use]
    pub const fn by_ipv6(&self) -> bool {
        matches!(self.outcome, Outcome::Arrived(IpAddr::V6(_)))
    }
}

impl World {
    /// Runs a client in the workload of that mode, and lets it connect to the lab's name or address.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn measure(&self, client: &Client, mode: Mode, deadline: Duration) -> Result<Measured> {
        self.run(client, mode, false, deadline)
    }

    /// Runs a client that nobody governs, and lets it connect to a name with an IPv4 address only.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn measure_plain(&self, client: &Client, deadline: Duration) -> Result<Measured> {
        self.run(client, Mode::Without, true, deadline)
    }

    fn run(&self, client: &Client, mode: Mode, plain: bool, deadline: Duration) -> Result<Measured> {
        let command = self.command(client, mode, plain)?;
        let start = Instant::now();
        let mut process = Running::start(command)?;
        process.close_stdin();
        let ended = eventually("a client to end", deadline, || process.exited().transpose());
        let elapsed_ms = start.elapsed().as_secs_f64() * 1e3;
        if ended.is_err() {
            // It has a group of its own, with the programs that it has started.
            if let Some(group) = i32::try_from(process.pid()).ok().and_then(Pid::from_raw) {
                let _already_gone = kill_process_group(group, Signal::KILL);
            }
            return Ok(Measured {
                outcome: Outcome::Deadline,
                ms: elapsed_ms,
            });
        }
        let finished = process.finish(OUTPUT)?;
        Ok(measured(client.answer, &finished, elapsed_ms))
    }
}

fn measured(answer: Answer, finished: &Finished, elapsed_ms: f64) -> Measured {
    let stdout = finished.stdout.join("\n");
    let (arrived, own_ms) = match answer {
        Answer::Measured => {
            let ms = stdout
                .split_whitespace()
                .last()
                .and_then(|last| last.parse().ok());
            (address(&stdout).filter(|_| ms.is_some()), ms)
        }
        Answer::Said => (address(&stdout), None),
        Answer::Line(part) => {
            let line = finished.stderr.iter().find(|line| line.contains(part));
            (line.and_then(|line| address(line)), None)
        }
    };
    let succeeded = finished.status.success() || matches!(answer, Answer::Line(_));
    let outcome = match arrived.filter(|_| succeeded) {
        Some(address) => Outcome::Arrived(address),
        None => Outcome::Failed(reason(finished)),
    };
    Measured {
        outcome,
        ms: own_ms.unwrap_or(elapsed_ms),
    }
}

/// Which of the server's addresses the server has said it was reached at.
fn address(text: &str) -> Option<IpAddr> {
    let [by_ipv6, by_ipv4] = BRANCHES;
    let says = |address: IpAddr, branch: &str| text.contains(&address.to_string()) || text.contains(branch);
    if says(SERVER_IPV6.into(), by_ipv6) {
        Some(SERVER_IPV6.into())
    } else if says(SERVER_IPV4.into(), by_ipv4) {
        Some(SERVER_IPV4.into())
    } else {
        None
    }
}

/// The last thing that it said.
fn reason(finished: &Finished) -> String {
    let mut lines = finished.stderr.iter().chain(&finished.stdout).rev();
    let said = lines.find(|line| !line.trim().is_empty() && !line.starts_with("debug1:"));
    said.map_or_else(|| finished.status.to_string(), |line| line.trim().to_owned())
}
