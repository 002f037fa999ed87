//! [`World`]: a governed client with somewhere to go, and the running of random sequences in it. Knows no model.

use std::{
    cell::RefCell,
    env,
    fmt::Debug,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

use enforcer_common::errno;
use enforcer_tests::{
    client::Client,
    kernel::{caller_sees, support},
    protocol::{Answer, Connect, Request, SocketKind},
    scene::{A, B, IPV4, Scene},
};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// Given by nobody but the rules.
const ERRNO: &str = "EHOSTDOWN";
/// A port that nothing has: what is asked for there arrives only by a redirect.
pub(crate) const ASKED_PORT: u16 = 4433;
/// In the prefix that is rejected.
pub(crate) const REJECTED: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 1));
/// In the prefix that is redirected to an IPv4 address with the port asked for, where nobody listens.
pub(crate) const ASTRAY: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xd, 0, 0, 0, 0, 1));

/// Through whose descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum By {
    Itself,
    Copy,
    Child,
    Receiver,
}

pub(crate) fn by() -> impl Strategy<Value = By> {
    prop_oneof![
        6 => Just(By::Itself),
        1 => Just(By::Copy),
        1 => Just(By::Child),
        1 => Just(By::Receiver),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bind {
    Nowhere,
    Unspecified,
    Ipv6,
}

pub(crate) fn binds() -> impl Strategy<Value = Bind> {
    prop_oneof![6 => Just(Bind::Nowhere), 1 => Just(Bind::Unspecified), 2 => Just(Bind::Ipv6)]
}

pub(crate) struct World {
    client: RefCell<Client>,
    pub(crate) scene: Scene,
}

impl World {
    pub(crate) fn new(what: &str) -> Self {
        let scene = Scene::new(what).unwrap();
        Self {
            client: RefCell::new(scene.client().unwrap()),
            scene,
        }
    }

    /// Runs random sequences while the client is governed.
    pub(crate) fn check<S: Strategy<Value: Clone + Debug>>(
        &self,
        kind: SocketKind,
        sequences: &S,
        run: impl Fn(&Self, &S::Value) -> Result<(), TestCaseError>,
    ) {
        let reached = |address| {
            let connect = Connect::new(kind, self.scene.to(address));
            let answer = self.client.borrow_mut().connect(connect).unwrap();
            assert!(answer.ok, "{address}, ungoverned: {answer:?}");
        };
        reached(A);
        let to = self.scene.to(IPV4);
        let enforcer = self
            .scene
            .govern([
                "--events",
                "none",
                "--redirect",
                &format!("2001:db8:a::/48={to},errno={ERRNO}"),
                "--redirect",
                &format!("2001:db8:d::/48={IPV4},errno={ERRNO}"),
                "--reject",
                &format!("2001:db8:c::/48,errno={ERRNO}"),
            ])
            .unwrap();
        let seed = seed();
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let config = Config {
            cases: env::var("ENFORCER_SEQUENCES").map_or(24, |count| count.parse().unwrap()),
            failure_persistence: None,
            // A sequence that shows a missing answer waits for it, each time.
            max_shrink_time: 30_000,
            ..Config::default()
        };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let done = runner.run(sequences, |sequence| run(self, &sequence));
        assert!(
            done.is_ok(),
            "ENFORCER_SEED={seed} shows it again: {}",
            done.unwrap_err()
        );
        let finished = enforcer.terminate().unwrap();
        assert_eq!(finished.status.code(), Some(0), "{finished:?}");
        assert!(
            !finished.stderr.iter().any(|line| line.contains("faults")),
            "{finished:?}"
        );
        reached(A);
    }

    pub(crate) fn ask(&self, request: &Request) -> Answer {
        self.client.borrow_mut().ask(request).unwrap()
    }

    /// Has a call made on a socket by whoever that is, of which this process has two descriptors.
    pub(crate) fn by(&self, by: By, id: u32, copy: u32, request: impl FnOnce(u32) -> Request) -> Answer {
        let request = match by {
            By::Itself => request(id),
            By::Copy => request(copy),
            By::Child => Request::Fork {
                request: Box::new(request(id)),
            },
            By::Receiver => Request::Pass {
                id,
                request: Box::new(request(id)),
            },
        };
        self.ask(&request)
    }

    /// A new IPv6 socket, and another descriptor of it.
    pub(crate) fn open(&self, kind: SocketKind, v6only: bool, bind: Bind) -> (u32, u32) {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        let open = Connect {
            v6only: Some(v6only),
            bind: match bind {
                Bind::Nowhere => None,
                Bind::Unspecified => Some(any),
                Bind::Ipv6 => Some(SocketAddr::new(B, 0)),
            },
            ..Connect::new(kind, any)
        };
        let id = self.ask(&Request::Open(open)).id.expect("a socket");
        let copy = self.ask(&Request::Duplicate { id }).id.expect("a descriptor");
        (id, copy)
    }

    pub(crate) fn close(&self, ids: [u32; 2]) {
        for id in ids {
            self.ask(&Request::Close { id });
        }
    }
}

/// What the rules end a call with, on this kernel.
pub(crate) fn rejection() -> &'static str {
    caller_sees(ERRNO)
}

/// How a redirect to IPv4 ends on a socket that is `IPV6_V6ONLY`.
pub(crate) fn v6only_rejection() -> &'static str {
    if support().v6only_mask.is_some() {
        rejection()
    } else {
        // It is sent to IPv4, and the kernel refuses that for such a socket.
        errno::DEFAULT.name
    }
}

/// As an IPv6 socket shows an address.
pub(crate) fn shown(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// What to begin with: `ENFORCER_SEED`, or a number of the moment.
fn seed() -> u64 {
    env::var("ENFORCER_SEED").map_or_else(
        |_| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            u64::from(now.subsec_nanos()) ^ (now.as_secs() << 32)
        },
        |seed| seed.parse().unwrap(),
    )
}
