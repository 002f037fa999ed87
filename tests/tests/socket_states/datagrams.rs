//! A UDP socket under random calls, by whoever holds it: after each, what it shows is what a small model says.
//!
//! The model knows the policy and what an application may rely on. What the kernel makes of a socket that changes families
//! is not modelled: where a connect may fail for that, it is looked at whether it did, and the model goes on from there.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

use std::{
    cell::RefCell,
    env,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

use enforcer::kernel::Support;
use enforcer_common::errno;
use enforcer_tests::{
    client::Client,
    protocol::{Answer, CONNECT_TIMEOUT_MS, Connect, Request, SocketKind},
    scene::{A, B, IPV4, Scene},
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// Given by nobody but the rules.
const ERRNO: &str = "EHOSTDOWN";
/// A port that nothing has: what is asked for there arrives only by a redirect.
const ASKED_PORT: u16 = 4433;
/// In the prefix that is rejected.
const REJECTED: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 1));

/// Where calls go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// Redirected to IPv4.
    Redirected,
    Rejected,
    Allowed,
    /// `AF_INET`, on the IPv6 socket: where the redirect leads.
    Ipv4,
    /// The same as `AF_INET6`.
    Mapped,
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Connect(To),
    /// Connect to `AF_UNSPEC`.
    Dissolve,
    SendTo(To),
    /// To the peer, with a traffic class where there is one.
    Send(Option<i32>),
    Nothing,
}

/// Through whose descriptor.
#[derive(Clone, Copy, Debug)]
enum By {
    Itself,
    Copy,
    Child,
    Receiver,
}

#[derive(Clone, Copy, Debug)]
enum Bind {
    Nowhere,
    Unspecified,
    Ipv6,
}

#[derive(Clone, Debug)]
struct Sequence {
    v6only: bool,
    bind: Bind,
    calls: Vec<(By, Call)>,
}

fn sequences() -> impl Strategy<Value = Sequence> {
    let to = || {
        select(vec![
            To::Redirected,
            To::Redirected,
            To::Rejected,
            To::Allowed,
            To::Ipv4,
            To::Mapped,
        ])
    };
    let call = prop_oneof![
        6 => to().prop_map(Call::Connect),
        2 => Just(Call::Dissolve),
        3 => select(vec![To::Redirected, To::Rejected, To::Allowed]).prop_map(Call::SendTo),
        3 => select(vec![None, Some(0), Some(2)]).prop_map(Call::Send),
        1 => Just(Call::Nothing),
    ];
    let by = prop_oneof![
        6 => Just(By::Itself),
        1 => Just(By::Copy),
        1 => Just(By::Child),
        1 => Just(By::Receiver),
    ];
    let bind = prop_oneof![6 => Just(Bind::Nowhere), 1 => Just(Bind::Unspecified), 2 => Just(Bind::Ipv6)];
    (proptest::bool::weighted(0.2), bind, vec((by, call), 1..24)).prop_map(|(v6only, bind, calls)| Sequence {
        v6only,
        bind,
        calls,
    })
}

/// One socket, and what is known of it.
struct Model<'world> {
    world: &'world World,
    id: u32,
    copy: u32,
    v6only: bool,
    /// What it shows as its peer.
    peer: Option<SocketAddr>,
    local: IpAddr,
    /// Whether it was ever connected by IPv4, by a redirect or by itself.
    once_ipv4: bool,
}

struct World {
    client: RefCell<Client>,
    scene: Scene,
    support: Support,
}

impl World {
    fn ask(&self, request: &Request) -> Answer {
        self.client.borrow_mut().ask(request).unwrap()
    }

    fn address(&self, to: To) -> SocketAddr {
        match to {
            To::Redirected => SocketAddr::new(A, ASKED_PORT),
            To::Rejected => SocketAddr::new(REJECTED, ASKED_PORT),
            To::Allowed => self.scene.to(B),
            To::Ipv4 => self.scene.to(IPV4),
            To::Mapped => shown(self.scene.to(IPV4)),
        }
    }

    /// What the rules end a call with, on this kernel.
    fn rejection(&self) -> &'static str {
        self.support.errno_caller(errno::by_name(ERRNO).unwrap()).name
    }

    /// Runs one sequence on a new socket.
    fn run(&self, sequence: &Sequence) -> Result<(), TestCaseError> {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        let open = Connect {
            v6only: Some(sequence.v6only),
            bind: match sequence.bind {
                Bind::Nowhere => None,
                Bind::Unspecified => Some(any),
                Bind::Ipv6 => Some(SocketAddr::new(B, 0)),
            },
            ..Connect::new(SocketKind::Udp, any)
        };
        let id = self.ask(&Request::Open(open)).id.expect("a socket");
        let copy = self.ask(&Request::Duplicate { id }).id.expect("a descriptor");
        let mut model = Model {
            world: self,
            id,
            copy,
            v6only: sequence.v6only,
            peer: None,
            local: any.ip(),
            once_ipv4: false,
        };
        model.look()?;
        let done = sequence
            .calls
            .iter()
            .try_for_each(|(by, call)| model.step(*by, *call));
        for id in [id, copy] {
            self.ask(&Request::Close { id });
        }
        done
    }
}

/// As an IPv6 socket shows an address.
fn shown(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

impl Model<'_> {
    /// Compares what the socket shows, and keeps its own address for what follows.
    fn look(&mut self) -> Result<(), TestCaseError> {
        let names = self.world.ask(&Request::Names { id: self.id });
        let expected = if self.peer.is_some() { "ok" } else { "ENOTCONN" };
        prop_assert_eq!(names.outcome(), expected, "getpeername: {:?}", names);
        prop_assert_eq!(names.peer, self.peer, "getpeername");
        self.local = names.local.expect("getsockname").ip();
        self.once_ipv4 |= self.peer.is_some_and(|peer| peer.ip() != B);
        if self.peer == Some(self.world.address(To::Redirected)) {
            // What a redirect cannot hide, and what shows here that there was one.
            prop_assert!(self.is_ipv4(), "getsockname: {}", self.local);
        }
        Ok(())
    }

    fn is_ipv4(&self) -> bool {
        self.local.to_canonical().is_ipv4()
    }

    /// Whether it has an IPv6 address of its own, by bind or by an earlier connect.
    fn is_ipv6(&self) -> bool {
        !self.is_ipv4() && !self.local.is_unspecified()
    }

    fn by(&self, by: By, request: impl FnOnce(u32) -> Request) -> Answer {
        let request = match by {
            By::Itself => request(self.id),
            By::Copy => request(self.copy),
            By::Child => Request::Fork {
                request: Box::new(request(self.id)),
            },
            By::Receiver => Request::Pass {
                id: self.id,
                request: Box::new(request(self.id)),
            },
        };
        self.world.ask(&request)
    }

    fn step(&mut self, by: By, call: Call) -> Result<(), TestCaseError> {
        match call {
            Call::Connect(to) => self.connect(by, to)?,
            Call::Dissolve => {
                let answer = self.by(by, |id| Request::Disconnect { id });
                prop_assert!(answer.ok, "{:?}", answer);
                self.peer = None;
            }
            Call::SendTo(to) => self.send_to(by, to)?,
            // Connected by IPv6 and then by IPv4: the kernel sends from the one and listens at the other, with or without
            // enforcer.
            Call::Send(_) if self.is_ipv6() && self.once_ipv4 => {}
            Call::Send(tclass) => {
                let expected = if self.peer.is_some() { "ok" } else { "EDESTADDRREQ" };
                let outcome = self.send(by, None, tclass);
                prop_assert_eq!(&outcome, expected);
                if let Some(peer) = self.peer {
                    self.receive(by, peer)?;
                }
            }
            Call::Nothing => {}
        }
        self.look()
    }

    fn connect(&mut self, by: By, to: To) -> Result<(), TestCaseError> {
        let address = self.world.address(to);
        let answer = self.by(by, |id| Request::Reconnect {
            id,
            to: address,
            timeout_ms: CONNECT_TIMEOUT_MS,
        });
        let outcome = answer.outcome();
        let rejection = self.world.rejection();
        let expected = match to {
            To::Rejected => Some(rejection),
            To::Redirected if self.is_ipv6() => Some(rejection),
            To::Redirected if self.v6only && self.world.support.v6only_mask.is_some() => Some(rejection),
            // It is sent to IPv4, and the kernel refuses that for such a socket.
            To::Redirected if self.v6only => Some("ENETUNREACH"),
            To::Redirected => Some("ok"),
            To::Allowed if !self.is_ipv4() => Some("ok"),
            To::Ipv4 | To::Mapped if !self.v6only && !self.is_ipv6() => Some("ok"),
            // The socket has an address of the other family.
            To::Allowed | To::Ipv4 | To::Mapped => None,
        };
        if let Some(expected) = expected {
            prop_assert_eq!(&outcome, expected, "{:?} {:?}", to, answer);
        }
        if answer.ok {
            self.peer = Some(shown(address));
        }
        Ok(())
    }

    fn send_to(&self, by: By, to: To) -> Result<(), TestCaseError> {
        if to == To::Allowed && self.once_ipv4 {
            // With or without enforcer: after IPv4 the kernel (6.18) does not always give an IPv6 socket answers by IPv6.
            return Ok(());
        }
        let address = self.world.address(to);
        let outcome = self.send(by, Some(address), None);
        match to {
            To::Allowed if self.is_ipv4() => {}
            To::Allowed => {
                prop_assert_eq!(&outcome, "ok");
                // A connected socket receives from its peer alone.
                if self.peer.is_none_or(|peer| peer == address) {
                    self.receive(by, address)?;
                }
            }
            _ => prop_assert_eq!(&outcome, self.world.rejection(), "{:?}", to),
        }
        Ok(())
    }

    fn send(&self, by: By, to: Option<SocketAddr>, tclass: Option<i32>) -> String {
        let answer = self.by(by, |id| Request::Send {
            id,
            to,
            tclass,
            send: "there?".to_owned(),
            times: 1,
        });
        let outcomes = answer.outcomes.unwrap_or_default();
        outcomes
            .into_keys()
            .next()
            .unwrap_or_else(|| format!("{:?}", answer.error))
    }

    fn receive(&self, by: By, from: SocketAddr) -> Result<(), TestCaseError> {
        let answer = self.by(by, |id| Request::Receive {
            id,
            timeout_ms: CONNECT_TIMEOUT_MS,
        });
        prop_assert_eq!(answer.from, Some(from), "{:?}", answer);
        Ok(())
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

#[test]
fn a_socket_shows_what_it_asked_for_whatever_was_called_before() {
    let cases = env::var("ENFORCER_SEQUENCES").map_or(24, |count| count.parse().unwrap());
    let scene = Scene::new("states").unwrap();
    let mut client = scene.client().unwrap();
    scene.connects(&mut client, A).unwrap();
    let to = scene.to(IPV4);
    let enforcer = scene
        .govern([
            "--events",
            "none",
            "--redirect",
            &format!("2001:db8:a::/48={to},errno={ERRNO}"),
            "--reject",
            &format!("2001:db8:c::/48,errno={ERRNO}"),
        ])
        .unwrap();
    let world = World {
        client: RefCell::new(client),
        scene,
        support: Support::probe().unwrap(),
    };
    let seed = seed();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases,
        failure_persistence: None,
        // A sequence that shows a missing answer waits for it, each time.
        max_shrink_time: 30_000,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let done = runner.run(&sequences(), |sequence| world.run(&sequence));
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
    world.scene.connects(&mut world.client.borrow_mut(), A).unwrap();
}
