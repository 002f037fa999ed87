//! How long it takes until a changed policy is in force: a whole one, by SIGHUP to `enforcer run`, and what changes often.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv6Addr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use enforcer::{
    daemon::Now,
    names::{Answers, Request, known::Seen},
};
use enforcer_common::binding::EventsWanted;
use enforcer_tests::{
    bench::{
        governed::{self, BenchPolicy, MIXED, Rules, write_policy},
        network,
        rounds::Estimate,
    },
    cgroup::CgroupFixture,
    client::Client,
    enforcer::Enforcer,
    netns::NetnsFixture,
    place::Place,
    process::Stream,
};
use rustix::process::Signal;

use crate::{
    bench::{self, Bench},
    report::{Goal, Outcome, Row, Unit},
};

/// How long a reload may take at all.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    let netns = bench::everywhere()?;
    let mut rows = Vec::new();
    let entries = if bench.quick { 10_000 } else { 250_000 };
    for (id, what, rules, entries, limit_ms) in [
        (
            "reload/rules-ms",
            "reload of 1000 rules",
            ThousandRules,
            1_000,
            50.0,
        ),
        (
            "reload/entries-ms",
            "reload of 250000 entries",
            Sixteen,
            entries,
            2_000.0,
        ),
    ] {
        bench.progress(what);
        let row = match reload(bench, &netns, rules, entries) {
            Ok(times_ms) => Row::fact(id, what, Unit::Milliseconds, Estimate::of(&times_ms)),
            Err(error) => Row::fact(id, what, Unit::Milliseconds, None).note(format!("{error:#}")),
        };
        rows.push(row.goal(Goal::AtMost(limit_ms)));
    }
    bench.progress("change of an overlay");
    rows.push(overlay(bench, &netns)?);
    Ok(Outcome {
        rows,
        plots: Vec::new(),
    })
}

/// What kind of policy is reloaded.
#[derive(Clone, Copy)]
enum Kind {
    ThousandRules,
    Sixteen,
}
use Kind::{Sixteen, ThousandRules};

impl Kind {
    const fn rules(self) -> Rules {
        match self {
            ThousandRules => Rules {
                allowing: 900,
                rejecting: 100,
            },
            Sixteen => MIXED,
        }
    }
}

/// From SIGHUP until `enforcer run` says that the policy is in force: no connect that starts later sees the old one. The
/// policies differ in all of their prefixes.
fn reload(bench: &Bench, netns: &NetnsFixture, kind: Kind, entries: usize) -> Result<Vec<f64>> {
    let cgroup = CgroupFixture::new("bench-reload")?;
    let directory = tempfile::tempdir().context("make a directory for a policy")?;
    let path = directory.path().join("policy.toml");
    let tables = [network::table(entries, 71), network::table(entries, 72)];
    write_policy(&path, &tables[0], kind.rules())?;
    let mut enforcer = govern(netns, &cgroup, &path)?;
    let mut times_ms = Vec::new();
    for round in 0..=bench.rounds().min(11) {
        write_policy(&path, &tables[(round + 1) % 2], kind.rules())?;
        let took = ask_to_reload(&mut enforcer)?;
        if round > 0 {
            times_ms.push(took.as_secs_f64() * 1e3);
        }
    }
    enforcer.terminate()?;
    Ok(times_ms)
}

/// Lets `enforcer run` reload, and says how long it took until that was said to be done.
pub(crate) fn ask_to_reload(enforcer: &mut Enforcer) -> Result<Duration> {
    let mut next = enforcer.lines(Stream::Stderr).len();
    let begin = Instant::now();
    enforcer.process().signal(Signal::HUP)?;
    loop {
        let line = enforcer
            .process()
            .line(Stream::Stderr, next, LIMIT)
            .context("not there yet: `enforcer run` ends on SIGHUP")?;
        next += 1;
        if line.starts_with("reloaded: ") {
            return Ok(begin.elapsed());
        }
        // Warnings may come first; a summary means that it is about to end.
        ensure!(
            !line.contains(" connects seen: "),
            "not there yet: `enforcer run` ends on SIGHUP"
        );
        ensure!(!line.contains("error"), "reload: {line}");
    }
}

/// Starts `enforcer run` and waits until it enforces.
pub(crate) fn govern(netns: &NetnsFixture, cgroup: &CgroupFixture, policy: &Path) -> Result<Enforcer> {
    let path = cgroup.relative_path();
    let mut command = Enforcer::command(
        &Place::outside(netns),
        ["run", "--cgroup", &path, "--events", "none"],
    )?;
    command.arg("--policy").arg(policy);
    let enforcer = Enforcer::start(command)?;
    enforcer.wait_for_line(Stream::Stderr, LIMIT, |line| line.starts_with("enforcing "))?;
    Ok(enforcer)
}

/// Prefixes of the policy below the overlay.
const BELOW: usize = 1_000;

/// A name's addresses become others: from the call until its rule acts on them, and no more on the old ones.
fn overlay(bench: &Bench, netns: &NetnsFixture) -> Result<Row> {
    let cgroup = CgroupFixture::new("bench-overlay")?;
    let directory = tempfile::tempdir().context("make a directory for a policy")?;
    let path = directory.path().join("policy.toml");
    write_policy(&path, &network::table(BELOW, 73), MIXED)?;
    let mut text = std::fs::read_to_string(&path).context("read a policy")?;
    text.push_str("\n[[rule]]\nname = \"name\"\nhost = \"db.example.com\"\naction = \"reject\"\n");
    std::fs::write(&path, text).context("write a policy")?;
    let policy = BenchPolicy::of_file(&path)?;
    let mut governing = governed::govern(&[(&cgroup, &policy)], EventsWanted::None)?;
    let rule = policy.rules().last().context("find the rule of a name")?;
    let request =
        enforcer::daemon::request(rule, None).context("find what is asked for because of a rule")?;

    let mut client = Client::start(&Place::new(&cgroup, netns))?;
    let mut times_ms = Vec::new();
    for round in 0..bench.rounds() as u16 {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, round);
        let now = now(&policy, &request, address);
        let begin = Instant::now();
        governed::follow(&mut governing, now)?;
        times_ms.push(begin.elapsed().as_secs_f64() * 1e3);
        let before = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, round.wrapping_sub(1));
        let [is, was] = [address, before].map(|to| client.connect_udp((to, 9).into()));
        ensure!(
            is?.errno == Some(libc::ENETUNREACH) && was?.ok,
            "a name's rule does not act on its addresses, or still on those before"
        );
    }
    Ok(Row::fact(
        "reload/overlay-ms",
        "change of a name's addresses, until its rule acts on them",
        Unit::Milliseconds,
        Estimate::of(&times_ms),
    )
    .goal(Goal::AtMost(20.0))
    .held_back_by("the kernel waits for every running program after each map that is swapped"))
}

/// The name has that address.
fn now(policy: &BenchPolicy, request: &Request, address: Ipv6Addr) -> Now {
    let answers = Answers {
        aaaa: vec![Seen {
            address,
            current: true,
        }],
        ..Answers::default()
    };
    Now::of(
        policy.rules().clone(),
        HashMap::new(),
        BTreeMap::from([(request.clone(), answers)]),
    )
}
