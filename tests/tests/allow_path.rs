//! An allowed connect writes nothing but memory of its own CPU: connects on several CPUs never wait for each other's
//! cache lines.
//!
//! Everything that the programs share between CPUs is compared before and after: maps, the ring buffer, storage of
//! sockets. Verdicts and events that do write are seen by the same comparison.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    path::Path,
};

use enforcer::kernel::attached::AttachType;
use enforcer_common::binding::EventsWanted;
use enforcer_tests::{
    bench::{
        contents::Contents,
        governed::{self, BenchPolicy},
        program::ObservedProgram,
    },
    cgroup::CgroupFixture,
    client::Client,
    netns::NetnsFixture,
    place::Place,
    protocol::{Connect, Request, SocketKind},
    server::Server,
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

const ALLOWED: &str = "2001:db8::1";
const UNMATCHED: &str = "2001:db8:1::1";
const REJECTED: &str = "2001:db8:2::1";
const REDIRECTED: &str = "2001:db8:3::1";

const POLICY: &str = r#"
version = 1
[[rule]]
name   = "allowed"
prefix = "2001:db8::/48"
action = "allow"
[[rule]]
name   = "rejected"
prefix = "2001:db8:2::/48"
action = "reject"
errno  = "EHOSTDOWN"
[[rule]]
name   = "redirected"
prefix = "2001:db8:3::/48"
action = "redirect"
to     = "127.0.0.1"
"#;

/// How often each connect is made.
const TIMES: u32 = 500;

struct World {
    programs: Vec<ObservedProgram>,
    client: Client,
    port: u16,
    _server: Server,
    _governing: enforcer::daemon::Governing,
    _cgroup: CgroupFixture,
}

impl World {
    fn new(events: EventsWanted) -> Self {
        let netns = NetnsFixture::new().unwrap();
        let addresses: [IpAddr; 4] =
            [ALLOWED, UNMATCHED, REJECTED, REDIRECTED].map(|address| address.parse().unwrap());
        netns.add_local(addresses).unwrap();
        let places = addresses.into_iter().chain([Ipv4Addr::LOCALHOST.into()]);
        let server = Server::echo(&netns, places.map(|address| SocketAddr::new(address, 0))).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.toml");
        fs::write(&path, POLICY).unwrap();
        let policy = BenchPolicy::of_file(Path::new(&path)).unwrap();
        let cgroup = CgroupFixture::new("allow-path").unwrap();
        let mut client = Client::start(&Place::new(&cgroup, &netns)).unwrap();
        let port = server.address().port();
        // Ungoverned, every one of them connects.
        for address in addresses {
            assert!(client.connect_tcp(SocketAddr::new(address, port)).unwrap().ok);
        }
        let governing = governed::govern(&[(&cgroup, &policy)], events).unwrap();
        Self {
            programs: AttachType::ALL
                .map(|at| governed::program_at(&cgroup, at).unwrap())
                .into(),
            client,
            port,
            _server: server,
            _governing: governing,
            _cgroup: cgroup,
        }
    }

    fn connect(&mut self, kind: SocketKind, to: &str, hold: bool) -> String {
        let mut connect = Connect::new(kind, SocketAddr::new(to.parse().unwrap(), self.port));
        connect.hold = hold;
        self.client.connect(connect).unwrap().outcome()
    }

    /// Many connects on new sockets, and one of each kind on a socket that stays.
    fn connect_often(&mut self, to: &str) {
        for kind in [SocketKind::Tcp, SocketKind::Udp] {
            let connect = Connect::new(kind, SocketAddr::new(to.parse().unwrap(), self.port));
            let request = Request::Repeat {
                connect,
                times: TIMES,
            };
            let outcomes = self.client.ask(&request).unwrap().outcomes.unwrap();
            assert_eq!(outcomes, [("ok".to_owned(), u64::from(TIMES))].into());
            assert_eq!(self.connect(kind, to, true), "ok");
        }
    }

    fn contents(&self) -> Contents {
        Contents::of(&self.programs, &sockets_of(self.client.pid())).unwrap()
    }

    /// What differs after that has been done.
    fn changed_by(&mut self, work: impl FnOnce(&mut Self)) -> BTreeSet<String> {
        let before = self.contents();
        work(self);
        self.contents().changed_since(&before)
    }
}

/// Descriptors of ours for the sockets of a process.
fn sockets_of(pid: u32) -> Vec<OwnedFd> {
    let process = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let process = pidfd_open(process, PidfdFlags::empty()).unwrap();
    let mut sockets = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let path = entry.unwrap().path();
        if fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")) {
            let number = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            sockets.push(pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).unwrap());
        }
    }
    sockets
}

#[test]
fn an_allowed_connect_writes_no_memory_that_cpus_share() {
    let mut world = World::new(EventsWanted::Acted);
    let changed = world.changed_by(|world| {
        world.connect_often(ALLOWED);
        world.connect_often(UNMATCHED);
    });
    assert_eq!(changed, BTreeSet::new());
    // The comparison sees storage of sockets and the ring buffer; both were among what did not change.
    let maps = world.contents();
    assert!(
        maps.maps().is_superset(&["EVENTS", "SOCKETS"].into()),
        "{:?}",
        maps.maps()
    );
}

#[test]
fn what_a_verdict_or_an_event_writes_is_seen() {
    let mut world = World::new(EventsWanted::None);
    let changed =
        world.changed_by(|world| assert_eq!(world.connect(SocketKind::Tcp, REDIRECTED, true), "ok"));
    assert_eq!(changed, ["SOCKETS".to_owned()].into());
    let mut world = World::new(EventsWanted::All);
    let changed = world.changed_by(|world| assert_eq!(world.connect(SocketKind::Tcp, ALLOWED, true), "ok"));
    assert_eq!(changed, ["EVENTS".to_owned()].into());
    let mut world = World::new(EventsWanted::Acted);
    let changed = world.changed_by(|world| assert_ne!(world.connect(SocketKind::Tcp, REJECTED, false), "ok"));
    assert_eq!(changed, ["EVENTS".to_owned()].into());
}
