//! A firewall that lets AAAA records through and drops IPv6: programs that try one address after the other hang, and connect
//! in milliseconds once enforcer rejects what the firewall would drop. Then the same for a quarter of the processes.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Cell, Screen, Setting,
    setting::{self, LONG},
};
use crate::{
    lab::{Breakage, HTTP_PORT, NAME, PAGE, SERVER_IPV4, SERVER_IPV6},
    place::Place,
    process::{Finished, Running},
    wait::{PATIENCE, eventually},
};

/// How many seconds a program waits for a page where none will come. Left alone, the kernel takes about two minutes.
const HANGS_SECS: u32 = 3;

/// How many it may wait otherwise. It takes milliseconds; this is for machines that are slow.
const CONNECTS_SECS: u32 = 60;

/// How many processes there are for the rollout.
pub const PROCESSES: usize = 100;

/// How many start side by side.
const AT_A_TIME: usize = 25;

/// How many of [`PROCESSES`] a rollout of a quarter may reach, more than five standard deviations from the mean.
pub const QUARTER: std::ops::RangeInclusive<usize> = 2..=60;

/// A program that takes one address after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `fetch.py`
    Python,
    /// `fetch.js`
    Node,
    /// curl, told to be patient with the first address
    Curl,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Python, Self::Node, Self::Curl];

    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Python => "python3",
            Self::Node => "node",
            Self::Curl => "curl",
        }
    }

    fn command(self, place: &Place<'_>, timeout_secs: u32) -> Result<Command> {
        let url = format!("http://{NAME}/");
        let mut command = place.command(self.name())?;
        match self {
            Self::Python => command
                .arg("-I")
                .arg(setting::example("firewall/fetch.py"))
                .arg(url),
            Self::Node => command.arg(setting::example("firewall/fetch.js")).arg(url),
            Self::Curl => command
                // -q comes first: no configuration file. Happy eyeballs a minute late is none.
                .args([
                    "-q",
                    "--silent",
                    "--noproxy",
                    "*",
                    "--happy-eyeballs-timeout-ms",
                    "60000",
                ])
                .args(["--max-time", &timeout_secs.to_string(), "--output", "/dev/null"])
                .args(["--write-out", CURL_SAYS])
                .arg(url),
        };
        command
            .env_remove("NODE_OPTIONS")
            .env("TIMEOUT", timeout_secs.to_string());
        Ok(command)
    }
}

/// What curl writes of a fetch: bytes, exit code, seconds.
const CURL_SAYS: &str = "%{size_download} %{exitcode} %{time_total}";

/// curl's exit code where it gave up.
const CURL_TIMED_OUT: &str = "28";

/// What came of a fetch.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Fetched {
    /// Bytes of the page, if there was one.
    pub fetched: Option<usize>,
    /// Why not, if there was none.
    pub failed: Option<String>,
    /// In how many milliseconds.
    pub ms: f64,
}

impl Fetched {
    /// Whether the page came.
    #[must_use]
    pub fn is_the_page(&self) -> bool {
        self.fetched == Some(PAGE.len())
    }

    /// Whether the program gave up.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.failed.as_deref() == Some("timed out")
    }

    fn of(program: Program, finished: &Finished) -> Result<Self> {
        let line = finished.stdout.first();
        let line = line.with_context(|| format!("{} said nothing: {finished:?}", program.name()))?;
        if program != Program::Curl {
            return serde_json::from_str(line).with_context(|| format!("understand {line:?}"));
        }
        let words: Vec<_> = line.split(' ').collect();
        let [bytes, code, seconds] = words[..] else {
            anyhow::bail!("understand {line:?} of curl");
        };
        Ok(Self {
            fetched: (code == "0").then(|| bytes.parse()).transpose()?,
            failed: match code {
                "0" => None,
                CURL_TIMED_OUT => Some("timed out".to_owned()),
                other => Some(format!("exit code {other}")),
            },
            ms: seconds.parse::<f64>()? * 1e3,
        })
    }

    fn cell(&self) -> Cell {
        match &self.failed {
            Some(why) => Cell::Bad(format!("{why} after {:.0} ms", self.ms)),
            None => Cell::Good(format!("the page in {:.1} ms", self.ms)),
        }
    }
}

/// A program before the firewall was there, with it, with enforcer too, and when that had ended.
#[derive(Clone, Debug)]
pub struct Client {
    /// Which.
    pub program: Program,
    /// No firewall.
    pub at_first: Fetched,
    /// With the firewall.
    pub before: Fetched,
    /// With enforcer.
    pub after: Fetched,
    /// Without it again.
    pub undone: Fetched,
}

/// What a rollout of a quarter did.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// The processes that got the page.
    pub fetched: BTreeSet<u64>,
    /// Those that hung, with a connect that nobody answers.
    pub hung: BTreeSet<u64>,
    /// Those of which enforcer rejected a connect.
    pub rejected: BTreeSet<u64>,
    /// Those of which it left connects alone, because they are not in the quarter.
    pub left_out: BTreeSet<u64>,
}

/// The story as it went.
#[derive(Clone, Debug)]
pub struct Told {
    /// A row for each program.
    pub clients: Vec<Client>,
    /// How many connections came by IPv6 before the firewall was there, and how many in all the rest.
    pub by_ipv6: (usize, usize),
    /// The rollout.
    pub rollout: Rollout,
}

/// Tells it.
///
/// # Errors
///
/// When the world cannot be made, or the person interrupts.
pub fn tell(screen: &mut Screen) -> Result<Told> {
    let setting = Setting::new("firewall", Breakage::Healthy)?;
    let by_ipv6 = || {
        let accepted = setting.lab.http.accepted();
        accepted.iter().filter(|one| one.at.is_ipv6()).count()
    };
    screen.heading("A network with IPv6")?;
    screen.text(&format!(
        "{NAME} is {SERVER_IPV6} and {SERVER_IPV4}, and a web server is at both, port {HTTP_PORT}."
    ))?;
    screen.text("")?;
    let at_first = each(screen, &setting, CONNECTS_SECS)?;
    let first_by_ipv6 = by_ipv6();

    screen.heading("A firewall that drops IPv6, and lets AAAA records through")?;
    setting.lab.drop_ipv6()?;
    let before = each(screen, &setting, HANGS_SECS)?;

    screen.heading("With enforcer")?;
    let governing = setting.govern(screen, "firewall/policy.toml")?;
    let after = each(screen, &setting, CONNECTS_SECS)?;
    governing.end(screen)?;
    screen.text("")?;
    screen.text("enforcer has ended:")?;
    let undone = each(screen, &setting, HANGS_SECS)?;

    screen.heading("A rollout to a quarter of the processes")?;
    let rollout = rollout(screen, &setting)?;
    let clients = Program::ALL
        .into_iter()
        .zip(at_first)
        .zip(before)
        .zip(after)
        .zip(undone);
    let told = Told {
        clients: clients
            .map(|((((program, at_first), before), after), undone)| Client {
                program,
                at_first,
                before,
                after,
                undone,
            })
            .collect(),
        by_ipv6: (first_by_ipv6, by_ipv6() - first_by_ipv6),
        rollout,
    };
    screen.heading("Before and after")?;
    let rows = told.clients.iter().map(|client| {
        vec![
            Cell::Plain(client.program.name().to_owned()),
            client.at_first.cell(),
            client.before.cell(),
            client.after.cell(),
        ]
    });
    screen.table(
        &["client", "no firewall", "before", "after"],
        &rows.collect::<Vec<_>>(),
    )?;
    screen.text("")?;
    screen.text(&format!(
        "A rollout of 25 %: {} of {PROCESSES} processes got the page, {} hung.",
        told.rollout.fetched.len(),
        told.rollout.hung.len()
    ))?;
    Ok(told)
}

/// What comes of each program, one after the other.
fn each(screen: &mut Screen, setting: &Setting, timeout_secs: u32) -> Result<Vec<Fetched>> {
    let mut all = Vec::new();
    for program in Program::ALL {
        let finished = setting::run(screen, program.command(&setting.inside(), timeout_secs)?)?;
        let fetched = Fetched::of(program, &finished)?;
        screen.outcome(program.name(), &fetched.cell())?;
        all.push(fetched);
    }
    Ok(all)
}

fn rollout(screen: &mut Screen, setting: &Setting) -> Result<Rollout> {
    let governing = setting.govern(screen, "firewall/rollout.toml")?;
    screen.text(&format!("{PROCESSES} times fetch.py, {AT_A_TIME} side by side"))?;
    let (mut fetched, mut hung) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..PROCESSES / AT_A_TIME {
        let commands = (0..AT_A_TIME).map(|_| Program::Python.command(&setting.inside(), CONNECTS_SECS));
        let mut processes = setting::start_all(commands.collect::<Result<_>>()?)?;
        eventually("each process to have ended, or to hang", LONG, || {
            // The other way round, one could end in between.
            let connecting = pids(&governing.so_far().unwrap_or_default(), is_left_to_the_firewall);
            let mut settled = |process: &mut Running| {
                connecting.contains(&process.pid().into()) || !matches!(process.exited(), Ok(None))
            };
            screen.go_on().is_err() || processes.iter_mut().all(&mut settled)
        })?;
        screen.go_on()?;
        for mut process in processes {
            let pid = process.pid().into();
            if process.exited()?.is_none() {
                // Killed, it hangs no more.
                hung.insert(pid);
                continue;
            }
            let outcome = Fetched::of(Program::Python, &process.finish(PATIENCE)?)?;
            ensure!(
                outcome.is_the_page(),
                "process {pid} ended otherwise: {outcome:?}"
            );
            fetched.insert(pid);
        }
    }
    let events = governing.end(screen)?;
    Ok(Rollout {
        fetched,
        hung,
        rejected: pids(&events, |event| event["verdict"] == "reject"),
        left_out: pids(&events, |event| !event["left_out"].is_null()),
    })
}

/// Whether it is a connection to where the firewall drops everything.
fn is_left_to_the_firewall(event: &Value) -> bool {
    event["verdict"] == "allow" && event["proto"] == "tcp"
}

/// The processes of events.
fn pids(events: &[Value], of: impl Fn(&Value) -> bool) -> BTreeSet<u64> {
    let events = events.iter().filter(|event| of(event));
    events.filter_map(|event| event["pid"].as_u64()).collect()
}

impl Told {
    /// What did not go as it should.
    #[must_use]
    pub fn shortfalls(&self) -> Vec<String> {
        let clients = self.clients.iter();
        let mut shortfalls: Vec<_> = clients
            .filter(|client| {
                !client.at_first.is_the_page()
                    || !client.before.timed_out()
                    || !client.after.is_the_page()
                    || !client.undone.timed_out()
            })
            .map(|client| format!("{client:?}"))
            .collect();
        let reached = self.rollout.fetched.len();
        if !QUARTER.contains(&reached) {
            shortfalls.push(format!("the rollout reached {reached} of {PROCESSES} processes"));
        }
        if self.rollout.fetched != self.rollout.rejected || self.rollout.hung != self.rollout.left_out {
            shortfalls.push("the rollout reached others than those that enforcer says".to_owned());
        }
        shortfalls
    }
}
