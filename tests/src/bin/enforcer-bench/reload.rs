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
            if bench.quick { 10_000 } else { 250_000 },
            2_000.0,
        ),
    ] {
        bench.progress(what);
        let times_ms =
            reload(bench, &netns, rules, entries).with_context(|| format!("measure the {what}"))?;
        let mut row =
            Row::fact(id, what, Unit::Milliseconds, Estimate::of(&times_ms)).goal(Goal::AtMost(limit_ms));
        if bench.quick && entries > 1_000 {
            row = row.note(format!("with --quick only {entries} entries"));
        }
        rows.push(row);
    }
    bench.progress("change of an overlay");
    rows.extend(overlay(bench, &netns)?);
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
            .context("wait for the line that says that a policy was reloaded")?;
        next += 1;
        if line.starts_with("reloaded: ") {
            return Ok(begin.elapsed());
        }
        // Warnings may come first.
        ensure!(
            !line.contains("error") && !line.contains("not reloaded"),
            "reload: {line}"
        );
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
fn overlay(bench: &Bench, netns: &NetnsFixture) -> Result<[Row; 2]> {
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
    let mut first_ms = 0.0;
    for round in 0..=bench.rounds() as u16 {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, round);
        let now = now(&policy, &request, address);
        let begin = Instant::now();
        governed::follow(&mut governing, now)?;
        let took_ms = begin.elapsed().as_secs_f64() * 1e3;
        // The first finds no maps to be written into, and the kernel lets it wait.
        if round == 0 {
            first_ms = took_ms;
        } else {
            times_ms.push(took_ms);
        }
        let before = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, round.wrapping_sub(1));
        let [is, was] = [address, before].map(|to| client.connect_udp((to, 9).into()));
        ensure!(
            is?.errno == Some(libc::ENETUNREACH) && was?.ok,
            "a name's rule does not act on its addresses, or still on those before"
        );
        // As `enforcer run` does after each change.
        governed::tidy(&mut governing)?;
    }
    let changed = Row::fact(
        "reload/overlay-ms",
        "change of a name's addresses, until its rule acts on them",
        Unit::Milliseconds,
        Estimate::of(&times_ms),
    )
    .goal(Goal::AtMost(20.0));
    let first = Row::fact(
        "reload/overlay-first-ms",
        "  the first, for which maps have to be put into place",
        Unit::Milliseconds,
        Some(Estimate::once(first_ms)),
    );
    Ok([changed, first])
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
