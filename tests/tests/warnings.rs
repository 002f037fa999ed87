//! What `run` and `exec` say before they cut off something that nobody meant: once each, and nothing where there is
//! nothing to say.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use enforcer_tests::{
    cgroup::CgroupFixture,
    client::Client,
    enforcer::Enforcer,
    names::NamesFixture,
    netns::{LOOPBACK, NetnsFixture},
    place::Place,
    process::Stream,
    protocol::{Connect, SocketKind},
    server::Server,
    wait::PATIENCE,
};
use ipnet::Ipv6Net;

const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 2);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 1);
const PEER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x88, 0, 0, 0, 0, 1);
const NAMESERVER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53);

/// A rule, and what must be said about it.
type Expected = (&'static str, &'static str);

const SURPRISES: [Expected; 4] = [
    (
        "2001:db8:53::/48",
        "rejects 2001:db8:53::/48, which covers nameservers in use: 2001:db8:53::53",
    ),
    (
        "2001:db8:77::/48",
        "rejects 2001:db8:77::/48, which covers local networks: address 2001:db8:77::2 (lan0, this host)",
    ),
    (
        "2001:4860::/32",
        "rejects 2001:4860::/32, which covers 2001:4860:4860::8888: Chromium and programs built on it",
    ),
    (
        "2001:db8:88::/48",
        "rejects 2001:db8:88::/48, where IPv6 seems to work: TCP connections are established to 2001:db8:88::1 \
         (this host)",
    ),
];

/// A host with an address, a nameserver and a connection that works. Nothing on it is broken.
struct Host {
    _connection: Client,
    _server: Server,
    cgroup: CgroupFixture,
    names: NamesFixture,
    netns: NetnsFixture,
    _far: NetnsFixture,
}

impl Host {
    fn new() -> Self {
        let far = NetnsFixture::new().unwrap();
        let netns = NetnsFixture::new().unwrap();
        netns.add_cable("lan0", &far, "host0").unwrap();
        netns.add_address("lan0", HOST.into(), 64).unwrap();
        far.add_address("host0", ROUTER.into(), 64).unwrap();
        far.add_address(LOOPBACK, PEER.into(), 128).unwrap();
        netns
            .add_route(Ipv6Net::default(), "lan0", Some(IpAddr::V6(ROUTER)))
            .unwrap();
        let server = Server::echo(&far, [SocketAddr::new(PEER.into(), 0)]).unwrap();
        let mut connection = Client::start(&Place::outside(&netns)).unwrap();
        let held = Connect {
            hold: true,
            ..Connect::new(SocketKind::Tcp, server.address())
        };
        let answer = connection.connect(held).unwrap();
        assert_eq!(answer.outcome(), "ok", "{answer:?}");
        let names = NamesFixture::new([])
            .and_then(|names| names.with_nameservers([NAMESERVER.into()]))
            .unwrap();
        Self {
            _connection: connection,
            _server: server,
            cgroup: CgroupFixture::new("test-warnings").unwrap(),
            names,
            netns,
            _far: far,
        }
    }

    fn place(&self) -> Place<'_> {
        Place::outside(&self.netns).with_names(&self.names)
    }

    /// The warnings of `enforcer run` with these arguments.
    fn warned_by_run(&self, arguments: &[String]) -> Vec<String> {
        run(&self.place(), &self.cgroup, arguments)
    }

    /// The warnings of `enforcer exec` with these arguments.
    fn warned_by_exec(&self, arguments: &[String]) -> Vec<String> {
        let command = ["--", "true"].map(str::to_owned);
        let arguments = ["exec".to_owned()]
            .iter()
            .chain(arguments)
            .chain(&command)
            .cloned()
            .collect::<Vec<_>>();
        let finished = Enforcer::output(&self.place(), arguments, PATIENCE).unwrap();
        assert_eq!(finished.status.code(), Some(0), "{finished:?}");
        warnings(&finished.stderr)
    }
}

/// The warnings of `enforcer run` in that place, on that cgroup.
fn run(place: &Place<'_>, cgroup: &CgroupFixture, arguments: &[String]) -> Vec<String> {
    let target = ["--cgroup".to_owned(), cgroup.relative_path()];
    let enforcer = Enforcer::run(place, target.iter().chain(arguments)).unwrap();
    let finished = enforcer.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    warnings(&finished.stderr)
}

fn warnings(stderr: &[String]) -> Vec<String> {
    stderr
        .iter()
        .filter_map(|line| line.strip_prefix("enforcer: warning: "))
        .map(str::to_owned)
        .collect()
}

fn rejecting(prefixes: &[&str]) -> Vec<String> {
    prefixes
        .iter()
        .flat_map(|prefix| ["--reject".to_owned(), (*prefix).to_owned()])
        .collect()
}

/// Each of them once, in any order, and no other.
#[track_caller]
fn assert_once_each(warned: &[String], expected: &[Expected]) {
    for (_, text) in expected {
        let times = warned.iter().filter(|warning| warning.contains(text)).count();
        assert_eq!(times, 1, "{text:?} in {warned:#?}");
    }
    assert_eq!(warned.len(), expected.len(), "{warned:#?}");
}

#[test]
fn each_surprise_is_warned_of_once_by_run_and_exec_and_in_audit_mode() {
    let host = Host::new();
    for expected in &SURPRISES {
        let warned = host.warned_by_run(&rejecting(&[expected.0]));
        assert_once_each(&warned, &[*expected]);
    }
    let all = rejecting(&SURPRISES.map(|(prefix, _)| prefix));
    assert_once_each(&host.warned_by_run(&all), &SURPRISES);
    assert_once_each(&host.warned_by_exec(&all), &SURPRISES);
    let audit: Vec<_> = all.into_iter().chain(["--audit".to_owned()]).collect();
    assert_once_each(&host.warned_by_run(&audit), &SURPRISES);
    assert_once_each(&host.warned_by_exec(&audit), &SURPRISES);
}

#[test]
fn nothing_is_said_of_a_prefix_that_surprises_nobody() {
    let host = Host::new();
    let harmless = rejecting(&["2001:db8:a::/48"]);
    assert_eq!(host.warned_by_run(&harmless), [""; 0]);
    assert_eq!(host.warned_by_exec(&harmless), [""; 0]);
}

#[test]
fn exceptions_and_redirects_silence_what_they_spare() {
    let host = Host::new();
    let mut arguments = rejecting(&["2001:db8::/32"]);
    for prefix in ["2001:db8:53::53", "2001:db8:77::/64", "2001:db8:88::1"] {
        arguments.extend(["--allow".to_owned(), prefix.to_owned()]);
    }
    assert_eq!(host.warned_by_run(&arguments), [""; 0]);
    let redirect = ["--redirect", "2001:db8:88::/48=192.0.2.1"].map(str::to_owned);
    assert_eq!(host.warned_by_run(&redirect), [""; 0]);
}

#[test]
fn the_internet_costs_a_host_without_global_addresses_nothing_but_chromiums_probe() {
    let netns = NetnsFixture::new().unwrap();
    netns.add_local(["fd00::1".parse().unwrap()]).unwrap();
    let names = NamesFixture::new([])
        .and_then(|names| names.with_nameservers(["192.0.2.53".parse().unwrap()]))
        .unwrap();
    let place = Place::outside(&netns).with_names(&names);
    let cgroup = CgroupFixture::new("test-internet").unwrap();
    let warned = run(&place, &cgroup, &rejecting(&["internet"]));
    assert_once_each(
        &warned,
        &[(
            "internet",
            "covers 2001:4860:4860::8888: Chromium and programs built on it",
        )],
    );
    let arguments: Vec<_> = rejecting(&["internet"])
        .into_iter()
        .chain(["--allow", "2001:4860:4860::8888"].map(str::to_owned))
        .collect();
    assert_eq!(run(&place, &cgroup, &arguments), [""; 0]);
}

#[test]
fn the_network_namespace_of_a_target_is_looked_into() {
    let host = Host::new();
    let workload = NetnsFixture::new().unwrap();
    workload.add_local(["2001:db8:99::1".parse().unwrap()]).unwrap();
    let process = Client::start(&Place::new(&host.cgroup, &workload)).unwrap();
    let warned = host.warned_by_run(&rejecting(&["2001:db8:99::/48"]));
    assert_eq!(warned.len(), 1, "{warned:#?}");
    let expected = format!(
        "covers local networks: address 2001:db8:99::1 (lo, the network namespace of process {})",
        process.pid()
    );
    assert!(warned[0].contains(&expected), "{warned:#?}");
}

#[test]
fn nat64_is_warned_of_when_the_resolver_could_not_say_that_there_is_none() {
    let host = Host::new();
    let target = ["--cgroup".to_owned(), host.cgroup.relative_path()];
    let arguments = rejecting(&["64:ff9b::/96"]);
    let enforcer = Enforcer::run(&host.place(), target.iter().chain(&arguments)).unwrap();
    let is_about_nat64 =
        |line: &str| line.starts_with("enforcer: warning: ") && line.contains("covers NAT64");
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, is_about_nat64)
        .unwrap();
    let finished = enforcer.terminate().unwrap();
    assert_eq!(warnings(&finished.stderr).len(), 1, "{finished:?}");
}
