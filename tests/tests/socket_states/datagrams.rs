//! A UDP socket under random calls, by whoever holds it: after each, what it shows is what a small model says.
//!
//! The model knows the policy and what an application may rely on. What the kernel makes of a socket that changes families
//! is not modelled: where a connect may fail for that, it is looked at whether it did, and the model goes on from there.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use enforcer_tests::{
    protocol::{Answer, CONNECT_TIMEOUT_MS, Request, SocketKind},
    scene::{A, B, IPV4},
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::world::{ASKED_PORT, Bind, By, REJECTED, World, binds, by, rejection, shown, v6only_rejection};

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
    (proptest::bool::weighted(0.2), binds(), vec((by(), call), 1..24))
        .prop_map(|(v6only, bind, calls)| Sequence { v6only, bind, calls })
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

/// Where calls go.
fn address(world: &World, to: To) -> SocketAddr {
    match to {
        To::Redirected => SocketAddr::new(A, ASKED_PORT),
        To::Rejected => SocketAddr::new(REJECTED, ASKED_PORT),
        To::Allowed => world.scene.to(B),
        To::Ipv4 => world.scene.to(IPV4),
        To::Mapped => shown(world.scene.to(IPV4)),
    }
}

/// Runs one sequence on a new socket.
fn run(world: &World, sequence: &Sequence) -> Result<(), TestCaseError> {
    let (id, copy) = world.open(SocketKind::Udp, sequence.v6only, sequence.bind);
    let mut model = Model {
        world,
        id,
        copy,
        v6only: sequence.v6only,
        peer: None,
        local: Ipv6Addr::UNSPECIFIED.into(),
        once_ipv4: false,
    };
    model.look()?;
    let done = sequence
        .calls
        .iter()
        .try_for_each(|(by, call)| model.step(*by, *call));
    world.close([id, copy]);
    done
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
        if self.peer == Some(address(self.world, To::Redirected)) {
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
        self.world.by(by, self.id, self.copy, request)
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
        let address = address(self.world, to);
        let answer = self.by(by, |id| Request::Reconnect {
            id,
            to: address,
            timeout_ms: CONNECT_TIMEOUT_MS,
        });
        let outcome = answer.outcome();
        let rejection = rejection();
        let expected = match to {
            To::Rejected => Some(rejection),
            To::Redirected if self.is_ipv6() => Some(rejection),
            To::Redirected if self.v6only => Some(v6only_rejection()),
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
        let address = address(self.world, to);
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
            _ => prop_assert_eq!(&outcome, rejection(), "{:?}", to),
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

#[test]
fn a_socket_shows_what_it_asked_for_whatever_was_called_before() {
    World::new("states").check(SocketKind::Udp, &sequences(), run);
}
