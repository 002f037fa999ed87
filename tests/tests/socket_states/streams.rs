//! A TCP socket under random calls, by whoever holds it.
//!
//! The model is `connect(2)`, `listen(2)` and `shutdown(2)` as the kernel has them without enforcer, but for where a
//! connect goes and what is shown of that. Not modelled is what the kernel makes of a socket that was connected by IPv4
//! and then goes to IPv6: it keeps the operations of IPv4, with or without enforcer.

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpStream},
};

use anyhow::Context as _;
use enforcer_tests::{
    protocol::{Answer, CONNECT_TIMEOUT_MS, Request, SocketKind},
    scene::{A, B, IPV4},
    wait::{PATIENCE, eventually},
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::world::{
    ASKED_PORT, ASTRAY, Bind, By, REJECTED, World, binds, by, rejection, shown, v6only_rejection,
};

/// Where connects go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// Redirected to IPv4.
    Redirected,
    /// Redirected to IPv4, where nobody listens.
    Astray,
    Rejected,
    Allowed,
    /// Allowed, where nobody listens.
    Closed,
    /// `AF_INET`, on the IPv6 socket.
    Ipv4,
    /// `AF_INET6`, IPv4-mapped: where the redirect leads.
    Mapped,
}

/// By which `connect(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Blocking,
    /// Begun, waited for by `poll(2)`, and asked for `SO_ERROR`.
    Polled,
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Connect(Way, To),
    /// Connect to `AF_UNSPEC`.
    Dissolve,
    /// Send something and receive it again.
    Exchange,
    Listen,
    /// A stranger connects to that address, and is accepted.
    Accept(IpAddr),
    Shutdown {
        read: bool,
        write: bool,
    },
}

#[derive(Clone, Debug)]
struct Sequence {
    v6only: bool,
    bind: Bind,
    calls: Vec<(By, Call)>,
}

fn sequences() -> impl Strategy<Value = Sequence> {
    let connect = (
        select(vec![Way::Blocking, Way::Polled]),
        select(vec![
            To::Redirected,
            To::Redirected,
            To::Redirected,
            To::Astray,
            To::Rejected,
            To::Allowed,
            To::Closed,
            To::Ipv4,
            To::Mapped,
        ]),
    );
    let call = prop_oneof![
        8 => connect.prop_map(|(way, to)| Call::Connect(way, to)),
        4 => Just(Call::Dissolve),
        3 => Just(Call::Exchange),
        1 => Just(Call::Listen),
        2 => select(vec![A, B, IPV4]).prop_map(Call::Accept),
        1 => select(vec![(true, false), (false, true), (true, true)])
            .prop_map(|(read, write)| Call::Shutdown { read, write }),
    ];
    (proptest::bool::weighted(0.2), binds(), vec((by(), call), 1..24))
        .prop_map(|(v6only, bind, calls)| Sequence { v6only, bind, calls })
}

/// What the kernel holds the socket for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unconnected,
    Connected {
        /// What it shows.
        peer: SocketAddr,
        /// Whether a `connect(2)` has said so. The first one after a polled connect does, wherever it is to.
        told: bool,
        reads: bool,
    },
    /// It said all it had to, and so did its peer.
    Ended,
    /// A polled connect has failed; the next `connect(2)` says that one was aborted.
    Failed,
    Listening,
}

/// One socket, and what is known of it.
struct Model<'world> {
    world: &'world World,
    id: u32,
    copy: u32,
    v6only: bool,
    bind: Bind,
    state: State,
    /// Whether it was ever sent to IPv4, by a redirect or by itself.
    once_ipv4: bool,
    /// A connection was dissolved, and nobody was told of that yet: the next send is (`tcp_disconnect`).
    reset: bool,
}

fn run(world: &World, sequence: &Sequence) -> Result<(), TestCaseError> {
    let (id, copy) = world.open(SocketKind::Tcp, sequence.v6only, sequence.bind);
    let mut model = Model {
        world,
        id,
        copy,
        v6only: sequence.v6only,
        bind: sequence.bind,
        state: State::Unconnected,
        once_ipv4: false,
        reset: false,
    };
    let done = model.look().and_then(|()| {
        sequence
            .calls
            .iter()
            .try_for_each(|(by, call)| model.step(*by, *call))
    });
    world.close([id, copy]);
    done
}

impl Model<'_> {
    fn address(&self, to: To) -> SocketAddr {
        match to {
            To::Redirected => SocketAddr::new(A, ASKED_PORT),
            To::Astray => SocketAddr::new(ASTRAY, ASKED_PORT),
            To::Rejected => SocketAddr::new(REJECTED, ASKED_PORT),
            To::Allowed => self.world.scene.to(B),
            To::Closed => SocketAddr::new(B, ASKED_PORT),
            To::Ipv4 => self.world.scene.to(IPV4),
            To::Mapped => shown(self.world.scene.to(IPV4)),
        }
    }

    /// Compares what the socket shows.
    fn look(&self) -> Result<(), TestCaseError> {
        let names = self.world.ask(&Request::Names { id: self.id });
        let peer = match self.state {
            State::Connected { peer, .. } => Some(peer),
            _ => None,
        };
        prop_assert_eq!(names.peer, peer, "getpeername: {:?}", names);
        let expected = if peer.is_some() { "ok" } else { "ENOTCONN" };
        prop_assert_eq!(names.outcome(), expected, "getpeername: {:?}", names);
        let local = names.local.expect("getsockname");
        let Some(peer) = peer else {
            if self.bind == Bind::Ipv6 {
                prop_assert_eq!(local.ip(), B);
            }
            return Ok(());
        };
        // What a redirect cannot hide, and what shows here that there was one: where the connection arrived.
        let at = self.world.scene.to(if peer.ip() == B { B } else { IPV4 });
        let from = SocketAddr::new(local.ip().to_canonical(), local.port());
        prop_assert_eq!(from.ip(), at.ip(), "getsockname");
        let arrived = || {
            let accepted = self.world.scene.server.accepted();
            accepted.iter().any(|one| one.from == from && one.at == at)
        };
        let seen = eventually("the connection to arrive", PATIENCE, arrived);
        prop_assert!(seen.is_ok(), "{} at {}: {:?}", from, at, seen);
        Ok(())
    }

    fn by(&self, by: By, request: impl FnOnce(u32) -> Request) -> Answer {
        self.world.by(by, self.id, self.copy, request)
    }

    fn step(&mut self, by: By, call: Call) -> Result<(), TestCaseError> {
        match call {
            // What the kernel does to change families is not modelled.
            Call::Connect(_, To::Allowed | To::Closed) if self.once_ipv4 => return Ok(()),
            Call::Connect(_, To::Mapped) if self.bind == Bind::Ipv6 => return Ok(()),
            Call::Listen | Call::Accept(_) if self.once_ipv4 => return Ok(()),
            Call::Connect(way, to) => self.connect(by, way, to)?,
            Call::Dissolve => {
                let answer = self.by(by, |id| Request::Disconnect { id });
                prop_assert!(answer.ok, "{:?}", answer);
                self.reset |= matches!(self.state, State::Connected { .. });
                self.state = State::Unconnected;
            }
            Call::Exchange => self.exchange(by)?,
            Call::Listen => {
                let answer = self.by(by, |id| Request::Listen { id });
                let expected = match self.state {
                    State::Unconnected | State::Listening => "ok",
                    State::Connected { .. } | State::Ended | State::Failed => "EINVAL",
                };
                prop_assert_eq!(answer.outcome(), expected, "listen: {:?}", answer);
                if answer.ok {
                    self.state = State::Listening;
                }
            }
            Call::Accept(at) => self.accept(by, at)?,
            Call::Shutdown { read, write } => self.shut_down(by, read, write)?,
        }
        self.look()
    }

    fn connect(&mut self, by: By, way: Way, to: To) -> Result<(), TestCaseError> {
        let address = self.address(to);
        let answer = self.by(by, |id| match way {
            Way::Blocking => Request::ReconnectBlocking {
                id,
                to: address,
                timeout_ms: CONNECT_TIMEOUT_MS,
            },
            Way::Polled => Request::Reconnect {
                id,
                to: address,
                timeout_ms: CONNECT_TIMEOUT_MS,
            },
        });
        let (expected, next) = self.connected(way, to);
        prop_assert_eq!(answer.outcome(), expected, "{:?} {:?}", to, answer);
        self.state = next;
        Ok(())
    }

    /// How a connect ends, and what the socket is then.
    fn connected(&mut self, way: Way, to: To) -> (&'static str, State) {
        match self.state {
            State::Unconnected => {}
            // Nothing is asked of the rules where nothing is connected.
            State::Listening => return ("EISCONN", self.state),
            State::Failed => return ("ECONNABORTED", State::Unconnected),
            State::Connected { told: true, .. } | State::Ended => return ("EISCONN", self.state),
            State::Connected { peer, reads, .. } => {
                return (
                    "ok",
                    State::Connected {
                        peer,
                        told: true,
                        reads,
                    },
                );
            }
        }
        let refused = match way {
            Way::Blocking => State::Unconnected,
            Way::Polled => State::Failed,
        };
        match to {
            To::Rejected => (rejection(), State::Unconnected),
            To::Redirected | To::Astray if self.bind == Bind::Ipv6 => (rejection(), State::Unconnected),
            To::Redirected | To::Astray if self.v6only => (v6only_rejection(), State::Unconnected),
            To::Mapped if self.v6only => ("ENETUNREACH", State::Unconnected),
            // Too short an address for this family (`tcp_v6_connect`).
            To::Ipv4 => ("EINVAL", State::Unconnected),
            To::Astray | To::Closed => {
                self.reset = false;
                self.once_ipv4 |= to == To::Astray;
                ("ECONNREFUSED", refused)
            }
            To::Redirected | To::Mapped | To::Allowed => {
                self.reset = false;
                self.once_ipv4 |= to != To::Allowed;
                let peer = self.address(to);
                let told = way == Way::Blocking;
                (
                    "ok",
                    State::Connected {
                        peer,
                        told,
                        reads: true,
                    },
                )
            }
        }
    }

    fn exchange(&mut self, by: By) -> Result<(), TestCaseError> {
        let expected = match self.state {
            State::Connected { reads: true, .. } => "ok",
            // What comes then is nobody's.
            State::Connected { reads: false, .. } => return Ok(()),
            _ if std::mem::take(&mut self.reset) => "ECONNRESET",
            _ => "EPIPE",
        };
        let answer = self.by(by, |id| Request::Exchange {
            id,
            send: "there?".to_owned(),
            timeout_ms: CONNECT_TIMEOUT_MS,
        });
        prop_assert_eq!(answer.outcome(), expected, "{:?}", answer);
        prop_assert_eq!(answer.received.as_deref(), answer.ok.then_some("there?"));
        Ok(())
    }

    /// A socket that listens is none of enforcer's business: nobody is refused, and everybody is who they are.
    fn accept(&self, by: By, at: IpAddr) -> Result<(), TestCaseError> {
        if self.state != State::Listening || (self.v6only && at.is_ipv4()) {
            return Ok(());
        }
        if self.bind == Bind::Ipv6 && at != B {
            return Ok(());
        }
        let names = self.world.ask(&Request::Names { id: self.id });
        let at = SocketAddr::new(at, names.local.expect("getsockname").port());
        let connected = self
            .world
            .scene
            .netns
            .run(|| TcpStream::connect_timeout(&at, PATIENCE).context("connect to the listening socket"));
        let mut stranger = connected.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        let answer = self.by(by, |id| Request::Accept {
            id,
            send: "here".to_owned(),
            timeout_ms: CONNECT_TIMEOUT_MS,
        });
        prop_assert_eq!(answer.outcome(), "ok", "accept: {:?}", answer);
        prop_assert_eq!(answer.peer, stranger.local_addr().ok().map(shown));
        prop_assert_eq!(answer.local, Some(shown(at)));
        let mut heard = String::new();
        stranger.set_read_timeout(Some(PATIENCE)).unwrap();
        stranger.read_to_string(&mut heard).unwrap();
        prop_assert_eq!(heard, "here");
        Ok(())
    }

    fn shut_down(&mut self, by: By, read: bool, write: bool) -> Result<(), TestCaseError> {
        let next = match self.state {
            State::Connected { .. } if write => State::Ended,
            // That the connect had succeeded is known with it (`inet_shutdown`).
            State::Connected { peer, .. } => State::Connected {
                peer,
                told: true,
                reads: false,
            },
            State::Listening if read => State::Unconnected,
            State::Listening => State::Listening,
            // The kernel says ENOTCONN and remembers it nevertheless, for a connect to come.
            State::Unconnected | State::Ended | State::Failed => return Ok(()),
        };
        let answer = self.by(by, |id| Request::Shutdown { id, read, write });
        prop_assert!(answer.ok, "shutdown: {:?}", answer);
        if let (State::Connected { peer, .. }, State::Ended) = (self.state, next) {
            // The server then ends its side, too. Until that has come, the socket shows what it showed.
            let mut strange = None;
            let ended = || {
                let names = self.world.ask(&Request::Names { id: self.id });
                strange = strange.take().or(names.peer.filter(|shown| *shown != peer));
                names.peer.is_none()
            };
            let ended = eventually("the connection to end", PATIENCE, ended);
            prop_assert!(ended.is_ok(), "{:?}", ended);
            prop_assert_eq!(strange, None, "getpeername");
        }
        self.state = next;
        Ok(())
    }
}

#[test]
fn a_tcp_socket_shows_what_it_asked_for_whatever_was_called_before() {
    World::new("streams").check(SocketKind::Tcp, &sequences(), run);
}
