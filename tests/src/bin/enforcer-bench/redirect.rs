//! What a redirect costs, `getpeername` included: inside the programs, and for the whole call against connecting to the
//! IPv4 address directly.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use anyhow::{Context as _, Result, ensure};
use enforcer::kernel::attached::AttachType;
use enforcer_common::binding::EventsWanted;
use enforcer_tests::{
    bench::{
        baselines::Baseline,
        governed::{self, BenchPolicy},
        program::Statistics,
        rounds::Estimate,
        worker::{Task, Worker},
    },
    cgroup::CgroupFixture,
    place::Place,
};

use crate::{
    bench::{self, Bench, in_program},
    report::{Goal, Outcome, Row, Unit},
};

const ASKED: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99);
const PORT: u16 = 9;

pub(crate) fn run(bench: &Bench) -> Result<Outcome> {
    bench.progress("redirects");
    let netns = bench::everywhere()?;
    let directory = tempfile::tempdir().context("make a directory for a policy")?;
    let path = directory.path().join("policy.toml");
    fs::write(
        &path,
        "version = 1\n[[rule]]\nname = \"twin\"\nprefix = \"2001:db8::/32\"\naction = \"redirect\"\nto = \"127.0.0.1\"\n",
    )
    .with_context(|| format!("write {}", path.display()))?;
    let policy = BenchPolicy::of_file(&path)?;
    let (empty, governed, bare) = (
        CgroupFixture::new("bench-empty")?,
        CgroupFixture::new("bench-redirect")?,
        CgroupFixture::new("bench-bare")?,
    );
    let baseline = Baseline::empty(&empty)?;
    let _governing = governed::govern(&[(&governed, &policy)], EventsWanted::None)?;
    let programs =
        [AttachType::Connect6, AttachType::Getpeername6].map(|at| governed::program_at(&governed, at));
    let [connect6, getpeername6] = programs;
    let (connect6, getpeername6) = (connect6?, getpeername6?);

    let start = |cgroup| Worker::start(&Place::new(cgroup, &netns), bench.cpu);
    let mut workers = [start(&empty)?, start(&governed)?, start(&bare)?];
    let count = bench.connects() / 2;
    let asked = Task::UdpPeer {
        to: SocketAddr::new(ASKED.into(), PORT),
        count,
    };
    let direct = Task::UdpPeer {
        to: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT),
        count,
    };
    check(&netns, &governed)?;

    let mut connects = Vec::new();
    let mut peers = Vec::new();
    let mut together = Vec::new();
    let mut whole = Vec::new();
    for round in 0..=bench.rounds() {
        let floor = in_program(&mut workers[0], &asked, 0, || baseline.runs())?;
        let (connect_before, peer_before) = (connect6.runs()?, getpeername6.runs()?);
        {
            let _statistics = Statistics::enable()?;
            workers[1].run(&asked)?.all_connected()?;
        }
        let connect = connect6.runs()?.each_ns_since(&connect_before) - floor;
        let peer = getpeername6.runs()?.each_ns_since(&peer_before) - floor;
        let redirected = workers[1].run(&asked)?.all_connected()?.each_ns();
        let directly = workers[2].run(&direct)?.all_connected()?.each_ns();
        if round > 0 {
            connects.push(connect);
            peers.push(peer);
            together.push(connect + peer);
            whole.push(redirected / directly);
        }
    }
    Ok(Outcome {
        rows: vec![
            Row::fact(
                "redirect/connect6-ns",
                "  redirect: connect6",
                Unit::Nanoseconds,
                Estimate::of(&connects),
            ),
            Row::fact(
                "redirect/getpeername6-ns",
                "  redirect: getpeername6",
                Unit::Nanoseconds,
                Estimate::of(&peers),
            ),
            Row::fact(
                "redirect/programs-ns",
                "redirected connect of a fresh socket and its getpeername, programs together",
                Unit::Nanoseconds,
                Estimate::of(&together),
            )
            .goal(Goal::AtMost(50.0))
            .held_back_by(
                "what the application asked for is kept in storage of the socket, which the kernel allocates",
            ),
            Row::fact(
                "redirect/whole",
                "socket, redirected connect, getpeername, close: to IPv4 directly",
                Unit::Ratio,
                Estimate::of(&whole),
            ),
        ],
        plots: Vec::new(),
    })
}

/// That a connect is really redirected, and the redirect hidden.
fn check(netns: &enforcer_tests::netns::NetnsFixture, governed: &CgroupFixture) -> Result<()> {
    let receiver = netns.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("make a receiver"))?;
    let to = SocketAddr::new(
        ASKED.into(),
        receiver
            .local_addr()
            .context("ask for the receiver's address")?
            .port(),
    );
    let mut client = enforcer_tests::client::Client::start(&Place::new(governed, netns))?;
    let answer = client.connect_udp(to)?;
    ensure!(
        answer.ok
            && answer.peer == Some(to)
            && answer
                .local
                .is_some_and(|local| local.ip().to_canonical().is_ipv4()),
        "the redirect does not act: {answer:?}"
    );
    Ok(())
}
