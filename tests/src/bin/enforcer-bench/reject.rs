//! What it takes until an application has been refused, from making its socket to closing it: by enforcer with an event, and
//! by what else there is.

use std::{io::Write as _, net::Ipv6Addr, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use enforcer_common::binding::EventsWanted;
use enforcer_tests::{
    bench::{
        baselines::{Baseline, Prefixes},
        governed::{self, BenchPolicy, REJECTING},
        network::{self, Picks},
        rounds::Estimate,
        worker::{Task, Worker},
    },
    cgroup::{self, CgroupFixture},
    netns::NetnsFixture,
    place::Place,
};

use crate::{
    bench::{self, Bench, run_pumping},
    report::{Goal, Outcome, Row, Unit},
};

/// Prefixes that are refused.
const ENTRIES: usize = 1_000;

/// A worker that is refused, and the errno that tells by whom.
struct Refused {
    worker: Worker,
    errno: i32,
    _netns: NetnsFixture,
    _cgroup: CgroupFixture,
}

impl Refused {
    fn new(
        bench: &Bench,
        netns: NetnsFixture,
        cgroup: CgroupFixture,
        errno: i32,
        to: &[Ipv6Addr],
    ) -> Result<Self> {
        let mut worker = Worker::start(&Place::new(&cgroup, &netns), bench.cpu)?;
        worker.load(to)?;
        Ok(Self {
            worker,
            errno,
            _netns: netns,
            _cgroup: cgroup,
        })
    }

    fn each_ns(&mut self, task: &Task) -> Result<f64> {
        Ok(self.worker.run(task)?.all(self.errno)?.each_ns())
    }
}

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    bench.progress("rejected connects");
    let prefixes = network::table(ENTRIES, 31);
    let policy = BenchPolicy::new(&prefixes, REJECTING)?;
    let count = bench.connects() / 4;
    let to = network::destinations(&prefixes, Picks::Uniform, count * 8, 33, |to| policy.rejects(to));
    let task = |round: usize| Task::Tcp {
        from: round * count,
        count,
    };

    let (netns, cgroup) = (bench::nowhere()?, CgroupFixture::new("bench-rejected")?);
    let mut governing = governed::govern(&[(&cgroup, &policy)], EventsWanted::Acted)?;
    let mut enforcer = Refused::new(bench, netns, cgroup, libc::ENETUNREACH, &to)?;
    let mut route = by_route(bench, &policy.prefixes(), &to)?;
    let reset = by_nftables(bench, &policy.prefixes(), "tcp reset", libc::ECONNREFUSED, &to);

    let mut figures: [Vec<f64>; 3] = Default::default();
    let rounds = bench.rounds();
    let mut reset = reset.map_err(|error| format!("{error:#}"));
    for round in 0..=rounds {
        let task = task(round);
        let done = run_pumping(&mut enforcer.worker, &task, &mut governing)?;
        let mut ns = [
            done.all(enforcer.errno)?.each_ns(),
            route.each_ns(&task)?,
            f64::NAN,
        ];
        if let Ok(reset) = &mut reset {
            ns[2] = reset.each_ns(&task)?;
        }
        if round > 0 {
            for (figures, ns) in figures.iter_mut().zip(ns) {
                figures.push(ns);
            }
        }
    }
    let connects = ((rounds + 1) * count) as u64;
    let report = governing.finish()?;
    let counters = report
        .targets
        .first()
        .context("find the target's counters")?
        .counters;
    ensure!(
        counters.events == connects && counters.lost == 0,
        "of {connects} rejected connects {} became events and {} were lost",
        counters.events,
        counters.lost
    );

    let [enforcer, route, by_reset] = figures;
    let what = "socket, rejected TCP connect with its event, close";
    let mut rows = vec![
        Row::fact("reject/ns", what, Unit::Nanoseconds, Estimate::of(&enforcer)),
        Row::fact(
            "reject/route-ns",
            format!("  one of {ENTRIES} `unreachable` routes"),
            Unit::Nanoseconds,
            Estimate::of(&route),
        ),
        Row::fact(
            "reject/to-route",
            format!("{what}: to an `unreachable` route"),
            Unit::Ratio,
            Estimate::of_ratios(&enforcer, &route),
        )
        .goal(Goal::AtMost(0.75))
        .held_back_by("making and closing the socket, the same for both, is most of it"),
    ];
    let to_reset = |reached| {
        Row::fact(
            "reject/to-tcp-reset",
            format!("{what}: to nftables `tcp reset`"),
            Unit::Ratio,
            reached,
        )
        .goal(Goal::AtMost(0.5))
    };
    match reset {
        Ok(_) => rows.extend([
            Row::fact(
                "reject/tcp-reset-ns",
                format!("  nftables, `socket cgroupv2`, interval set of {ENTRIES}, `tcp reset`"),
                Unit::Nanoseconds,
                Estimate::of(&by_reset),
            ),
            to_reset(Estimate::of_ratios(&enforcer, &by_reset)),
        ]),
        Err(error) => rows.push(to_reset(None).note(error)),
    }
    rows.push(icmpv6(bench, &policy.prefixes(), &to));
    rows.push(silence(bench, &policy.prefixes(), &to));
    Ok(Outcome {
        rows,
        plots: Vec::new(),
    })
}

/// `unreachable` routes in the container's own namespace.
fn by_route(bench: &Bench, prefixes: &Prefixes, to: &[Ipv6Addr]) -> Result<Refused> {
    let netns = bench::nowhere()?;
    let routes: String = prefixes
        .as_slice()
        .iter()
        .map(|(prefix, _)| format!("route add unreachable {prefix}\n"))
        .collect();
    feed(&netns, "ip", &["-6", "-batch", "-"], &routes)?;
    Refused::new(
        bench,
        netns,
        CgroupFixture::new("bench-route")?,
        libc::EHOSTUNREACH,
        to,
    )
}

/// nftables on the way out, for the sockets of one cgroup.
fn by_nftables(
    bench: &Bench,
    prefixes: &Prefixes,
    with: &str,
    errno: i32,
    to: &[Ipv6Addr],
) -> Result<Refused> {
    let netns = bench::nowhere()?;
    let cgroup = CgroupFixture::new("bench-nftables")?;
    let elements: Vec<String> = prefixes
        .as_slice()
        .iter()
        .map(|(prefix, _)| prefix.to_string())
        .collect();
    let path = cgroup.relative_path();
    let path = path.trim_start_matches('/');
    let level = path.split('/').count();
    let rules = format!(
        "table inet bench {{\n\
         set rejected {{ type ipv6_addr; flags interval; auto-merge; elements = {{ {} }} }}\n\
         chain out {{ type filter hook output priority 0; policy accept;\n\
         socket cgroupv2 level {level} \"{path}\" ip6 daddr @rejected meta l4proto tcp reject with {with}\n\
         }}\n}}\n",
        elements.join(", ")
    );
    // nft looks for cgroups below /sys/fs/cgroup, where not every machine has version 2.
    let mount_point = cgroup::mount_point()?;
    let script = format!(
        "[ /sys/fs/cgroup = '{0}' ] || mount --bind '{0}' /sys/fs/cgroup; exec nft -f -",
        mount_point.display()
    );
    feed(&netns, "unshare", &["--mount", "sh", "-c", &script], &rules)?;
    Refused::new(bench, netns, cgroup, errno, to)
}

/// Runs a program in a namespace with that on its standard input.
fn feed(netns: &NetnsFixture, program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Place::outside(netns)
        .command(program)?
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {program}"))?;
    let mut stdin = child.stdin.take().context("write to a program")?;
    stdin
        .write_all(input.as_bytes())
        .with_context(|| format!("write to {program}"))?;
    drop(stdin);
    let output = child
        .wait_with_output()
        .with_context(|| format!("wait for {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program}: {}",
        said.lines().next().unwrap_or_default()
    );
    Ok(())
}

/// nftables answering by ICMPv6: a fact, because the caller hears of it only when TCP sends again.
fn icmpv6(bench: &Bench, prefixes: &Prefixes, to: &[Ipv6Addr]) -> Row {
    let id = "reject/icmpv6-s";
    let what = "  nftables, `icmpv6 type no-route`, whole connect";
    let measured = by_nftables(bench, prefixes, "icmpv6 type no-route", libc::ENETUNREACH, to).and_then(
        |mut refused| {
            let times: Result<Vec<f64>> = (0..3)
                .map(|from| Ok(refused.each_ns(&Task::Tcp { from, count: 1 })? / 1e9))
                .collect();
            times
        },
    );
    match measured {
        Ok(seconds) => Row::fact(id, what, Unit::Seconds, Estimate::of(&seconds)),
        Err(error) => Row::fact(id, what, Unit::Seconds, None).note(format!("{error:#}")),
    }
}

/// A filter of packets that drops the first one of a connect, as systemd's: how often that is sent again is what the
/// caller waits for.
fn silence(bench: &Bench, prefixes: &Prefixes, to: &[Ipv6Addr]) -> Row {
    let id = "reject/silence-s";
    let what = "  a filter of packets (`IPAddressDeny=`), first sent once more only, whole connect";
    let measured = (|| {
        let netns = bench::everywhere()?;
        netns.set("ipv4/tcp_syn_retries", "1")?;
        let cgroup = CgroupFixture::new("bench-silent")?;
        let filter = Baseline::packets(&cgroup, prefixes)?;
        let mut refused = Refused::new(bench, netns, cgroup, libc::ETIMEDOUT, to)?;
        let seconds = refused.each_ns(&Task::Tcp { from: 0, count: 1 })? / 1e9;
        ensure!(
            filter.counted()?.is_some_and(|packets| packets > 0),
            "the filter has seen no packet"
        );
        Ok(seconds)
    })();
    match measured {
        Ok(seconds) => Row::fact(id, what, Unit::Seconds, Some(Estimate::once(seconds)))
            .note("with the kernel's default of six it is about two minutes"),
        Err(error) => Row::fact(id, what, Unit::Seconds, None).note(format!("{error:#}")),
    }
}
