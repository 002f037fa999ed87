//! What enforcer is for: a host whose IPv6 packets vanish. Ungoverned, a connect hangs; governed, it ends at once,
//! and a client that takes the first address is handed one that works.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{IpAddr, SocketAddr};

use enforcer_tests::{
    black_hole::{BlackHole, INTERNET_IPV4},
    cgroup::CgroupFixture,
    client::Client,
    enforcer::Enforcer,
    kernel::caller_sees,
    names::NamesFixture,
    need::{Need, need},
    place::Place,
    protocol::{Connect, SocketKind},
    server::Server,
};

const NAME: &str = "shop.example";
const PREFIX: &str = "2001:db8:a::/48";

/// An errno with which no connect here ends by itself.
const ERRNO: &str = "EHOSTDOWN";

/// How long a connect that hangs is watched: the SYN has been sent twice by then, unanswered.
const HANGING_MS: u64 = 1_500;

/// Much less than a connect that hangs, much more than one that is decided at once, on any machine.
const AT_ONCE_US: u64 = 500_000;

struct World {
    client: Client,
    cgroup: CgroupFixture,
    server: Server,
    black_hole: BlackHole,
}

impl World {
    fn new() -> Self {
        let black_hole = BlackHole::new().unwrap();
        let address = SocketAddr::new(INTERNET_IPV4.into(), 0);
        let server = Server::echo(&black_hole.internet, [address]).unwrap();
        let names = NamesFixture::new([(NAME, broken()), (NAME, INTERNET_IPV4.into())]).unwrap();
        let cgroup = CgroupFixture::new("test-black-hole").unwrap();
        let place = Place::new(&cgroup, &black_hole.host).with_names(&names);
        let client = Client::start(&place).unwrap();
        Self {
            client,
            cgroup,
            server,
            black_hole,
        }
    }

    /// Where the broken name leads, with the server's port.
    fn to(&self) -> SocketAddr {
        SocketAddr::new(broken(), self.server.address().port())
    }

    #[track_caller]
    fn assert_hangs(&mut self) {
        let to = self.to();
        let answer = self
            .client
            .connect(Connect {
                timeout_ms: HANGING_MS,
                ..Connect::new(SocketKind::Tcp, to)
            })
            .unwrap();
        assert_eq!(answer.outcome(), "timeout", "{answer:?}");
    }

    fn govern(&self, rule: [&str; 2]) -> Enforcer {
        let cgroup = self.cgroup.relative_path();
        let target = ["--cgroup", &cgroup];
        Enforcer::run(
            &Place::outside(&self.black_hole.host),
            target.into_iter().chain(rule),
        )
        .unwrap()
    }
}

fn broken() -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x80])
}

#[test]
fn connect_that_hangs_is_rejected_at_once() {
    let mut world = World::new();
    world.assert_hangs();

    let enforcer = world.govern(["--reject", &format!("{PREFIX},errno={ERRNO}")]);
    let answer = world.client.connect_tcp(world.to()).unwrap();
    assert_eq!(answer.outcome(), caller_sees(ERRNO), "{answer:?}");
    assert!(answer.elapsed_us < AT_ONCE_US, "{answer:?}");
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));

    world.assert_hangs();
}

#[test]
fn connect_that_hangs_is_redirected_to_where_it_connects() {
    let mut world = World::new();
    world.assert_hangs();

    let enforcer = world.govern(["--redirect", &format!("{PREFIX}={INTERNET_IPV4}")]);
    let connect = Connect {
        send: Some("hello".to_owned()),
        ..Connect::new(SocketKind::Tcp, world.to())
    };
    let answer = world.client.connect(connect).unwrap();
    assert_eq!(answer.received.as_deref(), Some("hello"), "{answer:?}");
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));

    world.assert_hangs();
}

#[test]
fn client_that_takes_the_first_address_is_handed_one_that_works() {
    if !need(
        "client_that_takes_the_first_address_is_handed_one_that_works",
        Need::Glibc,
    ) {
        return;
    }
    let mut world = World::new();
    let port = world.server.address().port();
    let broken_first = [world.to(), world.server.address()];
    assert_eq!(world.client.resolve(NAME, port).unwrap(), broken_first);

    let enforcer = world.govern(["--reject", PREFIX]);
    let first = world.client.resolve(NAME, port).unwrap()[0];
    assert_eq!(first, world.server.address());
    let answer = world.client.connect_tcp(first).unwrap();
    assert_eq!(answer.outcome(), "ok", "{answer:?}");
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));

    assert_eq!(world.client.resolve(NAME, port).unwrap(), broken_first);
}
