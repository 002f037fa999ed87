//! What an application sees of a redirect: the address and port that it asked for, until it connects elsewhere.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{IpAddr, SocketAddr};

use enforcer_tests::{
    client::Client,
    enforcer::Enforcer,
    protocol::{Answer, CONNECT_TIMEOUT_MS, Connect, Request, SocketKind},
    scene::{A, B, IPV4, PREFIX, Scene},
    server::Server,
    wait::{PATIENCE, eventually},
};

/// A port that nothing in the namespace has: what is asked for there arrives only by a redirect.
const ASKED_PORT: u16 = 4433;

/// A scene in which connects to [`PREFIX`] go to the server's IPv4 address and port.
struct Redirected {
    enforcer: Enforcer,
    client: Client,
    scene: Scene,
}

impl Redirected {
    fn new(what: &str) -> Self {
        let scene = Scene::new(what).unwrap();
        let mut client = scene.client().unwrap();
        assert_eq!(
            peer(&mut client, SocketKind::Tcp, scene.to(A)),
            scene.to(A),
            "ungoverned"
        );
        let rule = format!("{PREFIX}={},errno=EHOSTDOWN", scene.to(IPV4));
        let enforcer = scene.govern(["--redirect", &rule, "--reject", "2001:db8:c::/48,errno=EHOSTDOWN"]);
        Self {
            enforcer: enforcer.unwrap(),
            client,
            scene,
        }
    }

    fn ask(&mut self, request: &Request) -> Answer {
        let answer = self.client.ask(request).unwrap();
        assert!(answer.ok, "{request:?}: {answer:?}");
        answer
    }

    /// A held socket, connected to where the policy redirects.
    fn hold(&mut self, socket: SocketKind) -> u32 {
        let connect = Connect {
            hold: true,
            ..Connect::new(socket, asked())
        };
        self.ask(&Request::Connect(connect)).id.unwrap()
    }

    fn reconnect(&mut self, id: u32, to: SocketAddr) {
        self.ask(&reconnect(id, to));
    }

    fn peer_of(&mut self, id: u32) -> Option<SocketAddr> {
        self.ask(&Request::Names { id }).peer
    }

    /// What comes back after that was sent, and from where.
    fn echo(&mut self, id: u32, send: Request) -> (String, Option<SocketAddr>) {
        let sent = self.ask(&send).outcomes.unwrap();
        assert_eq!(sent.into_iter().collect::<Vec<_>>(), [("ok".to_owned(), 1)]);
        let answer = self.ask(&Request::Receive {
            id,
            timeout_ms: CONNECT_TIMEOUT_MS,
        });
        (answer.received.unwrap(), answer.from)
    }

    fn end(mut self) {
        let finished = self.enforcer.terminate().unwrap();
        assert_eq!(finished.status.code(), Some(0), "{finished:?}");
        let faults = |line: &&String| line.contains("faults");
        assert_eq!(finished.stderr.iter().find(faults), None);
        let to = self.scene.to(A);
        assert_eq!(
            peer(&mut self.client, SocketKind::Tcp, to),
            to,
            "ungoverned again"
        );
    }
}

fn asked() -> SocketAddr {
    SocketAddr::new(A, ASKED_PORT)
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn reconnect(id: u32, to: SocketAddr) -> Request {
    Request::Reconnect {
        id,
        to,
        timeout_ms: CONNECT_TIMEOUT_MS,
    }
}

fn send(id: u32, to: Option<SocketAddr>, tclass: Option<i32>) -> Request {
    Request::Send {
        id,
        to,
        tclass,
        send: "there?".to_owned(),
        times: 1,
    }
}

fn peer(client: &mut Client, socket: SocketKind, to: SocketAddr) -> SocketAddr {
    let answer = client.connect(Connect::new(socket, to)).unwrap();
    assert!(answer.ok, "{answer:?}");
    answer.peer.unwrap()
}

#[test]
fn a_redirected_tcp_socket_shows_the_address_and_port_it_asked_for() {
    let mut world = Redirected::new("peer-tcp");
    for socket in [SocketKind::Tcp, SocketKind::Fastopen] {
        let before = world.scene.server.accepted().len();
        assert_eq!(peer(&mut world.client, socket, asked()), asked(), "{socket:?}");
        let arrived = || world.scene.server.accepted().len() > before;
        eventually("the redirected connection to arrive", PATIENCE, arrived).unwrap();
        assert_eq!(
            world.scene.server.accepted()[before].at,
            world.scene.to(IPV4),
            "{socket:?}"
        );
    }
    // What it did not ask to be moved shows where it is.
    let other = world.scene.to(B);
    assert_eq!(peer(&mut world.client, SocketKind::Tcp, other), other);
    world.end();
}

#[test]
fn a_redirected_udp_socket_shows_what_it_asked_for_as_peer_and_as_source_of_answers() {
    let mut world = Redirected::new("peer-udp");
    let id = world.hold(SocketKind::Udp);
    assert_eq!(world.peer_of(id), Some(asked()));
    let expected = ("there?".to_owned(), Some(asked()));
    assert_eq!(world.echo(id, send(id, None, None)), expected);
    // As QUIC sends: the kernel asks sendmsg6, without an address.
    assert_eq!(world.echo(id, send(id, None, Some(2))), expected);
    assert_eq!(world.peer_of(id), Some(asked()), "asking changes nothing");
    world.end();
}

#[test]
fn a_later_connect_by_either_family_shows_where_it_goes() {
    let mut world = Redirected::new("peer-later");
    let ipv4 = world.scene.to(IPV4);
    // Elsewhere; and, by either family, the very address of the redirect.
    let nobody: IpAddr = "127.0.0.1".parse().unwrap();
    for to in [SocketAddr::new(nobody, ipv4.port()), ipv4, mapped(ipv4)] {
        let id = world.hold(SocketKind::Udp);
        assert_eq!(world.peer_of(id), Some(asked()));
        world.reconnect(id, to);
        let shown = world.peer_of(id);
        assert_eq!(shown, Some(mapped(to)), "connected to {to}");
        if to.ip() != nobody {
            let expected = ("there?".to_owned(), Some(mapped(to)));
            let echo = world.echo(id, send(id, None, None));
            assert_eq!(echo, expected, "connected to {to}");
        }
        // And back.
        world.reconnect(id, asked());
        assert_eq!(world.peer_of(id), Some(asked()));
    }
    world.end();
}

/// The redirect gave the socket an IPv4 address, with which the kernel connects it to no other IPv6 address before it was
/// dissolved: the peer stays, and so does what is shown.
#[test]
fn a_connect_that_fails_leaves_the_peer_and_after_af_unspec_it_succeeds() {
    let mut world = Redirected::new("peer-failed");
    let id = world.hold(SocketKind::Udp);
    let to = world.scene.to(B);
    let answer = world.client.ask(&reconnect(id, to)).unwrap();
    let shown = if answer.ok { to } else { asked() };
    assert_eq!(world.peer_of(id), Some(shown), "{answer:?}");
    let expected = ("there?".to_owned(), Some(shown));
    assert_eq!(world.echo(id, send(id, None, None)), expected);
    world.ask(&Request::Disconnect { id });
    world.reconnect(id, to);
    assert_eq!(world.peer_of(id), Some(to));
    let expected = ("there?".to_owned(), Some(to));
    assert_eq!(world.echo(id, send(id, None, None)), expected);
    world.end();
}

#[test]
fn a_rejected_connect_leaves_the_peer_that_the_kernel_leaves() {
    let mut world = Redirected::new("peer-rejected");
    let id = world.hold(SocketKind::Udp);
    let rejected: IpAddr = "2001:db8:c::1".parse().unwrap();
    let answer = world
        .client
        .ask(&reconnect(id, SocketAddr::new(rejected, ASKED_PORT)))
        .unwrap();
    assert!(!answer.ok, "{answer:?}");
    assert_eq!(world.peer_of(id), Some(asked()));
    let expected = ("there?".to_owned(), Some(asked()));
    assert_eq!(world.echo(id, send(id, None, None)), expected);
    world.end();
}

#[test]
fn after_af_unspec_nothing_is_restored() {
    let mut world = Redirected::new("peer-unspec");
    let id = world.hold(SocketKind::Udp);
    world.ask(&Request::Disconnect { id });
    let names = world.client.ask(&Request::Names { id }).unwrap();
    assert_eq!(names.outcome(), "ENOTCONN", "{names:?}");
    // The same server, now as anybody who sends to this socket.
    let ipv4 = world.scene.to(IPV4);
    let expected = ("there?".to_owned(), Some(mapped(ipv4)));
    assert_eq!(world.echo(id, send(id, Some(ipv4), None)), expected);
    world.end();
}

#[test]
fn datagrams_of_others_keep_their_source() {
    let mut world = Redirected::new("peer-others");
    // Received before the connect, it stays in the queue: it is not from where the connect went.
    let open = Connect::new(SocketKind::Udp, world.scene.to(B));
    let id = world.ask(&Request::Open(open)).id.unwrap();
    let other = world.scene.to(B);
    let sent = world.ask(&send(id, Some(other), None)).outcomes.unwrap();
    assert_eq!(sent["ok"], 1);
    let receive = Request::Receive {
        id,
        timeout_ms: CONNECT_TIMEOUT_MS,
    };
    assert_eq!(world.ask(&receive).from, Some(other));
    world.reconnect(id, asked());
    let expected = ("there?".to_owned(), Some(asked()));
    assert_eq!(world.echo(id, send(id, None, None)), expected);
    world.end();
}

#[test]
fn dup_fork_and_scm_rights_share_what_is_shown() {
    let mut world = Redirected::new("peer-shared");
    for socket in [SocketKind::Tcp, SocketKind::Udp] {
        let id = world.hold(socket);
        let copy = world.ask(&Request::Duplicate { id }).id.unwrap();
        assert_eq!(world.peer_of(copy), Some(asked()), "dup {socket:?}");
        let names = || Box::new(Request::Names { id });
        let forked = world.ask(&Request::Fork { request: names() });
        assert_ne!(forked.pid, world.client.pid());
        assert_eq!(forked.peer, Some(asked()), "fork {socket:?}");
        let passed = world.ask(&Request::Pass { id, request: names() });
        assert_ne!(passed.pid, world.client.pid());
        assert_eq!(passed.peer, Some(asked()), "SCM_RIGHTS {socket:?}");
    }
    // One socket: what the child connects, the parent sees.
    let id = world.hold(SocketKind::Udp);
    let to = world.scene.to(IPV4);
    world.ask(&Request::Fork {
        request: Box::new(reconnect(id, to)),
    });
    assert_eq!(world.peer_of(id), Some(mapped(to)));
    world.end();
}

#[test]
fn a_redirect_to_ipv6_is_hidden_too() {
    let scene = Scene::new("peer-ipv6").unwrap();
    let mut client = scene.client().unwrap();
    assert_eq!(peer(&mut client, SocketKind::Udp, scene.to(A)), scene.to(A));
    // The other port is that of a second server at B.
    let second = Server::echo(&scene.netns, [SocketAddr::new(B, 0)]).unwrap();
    let enforcer = scene
        .govern(["--redirect", &format!("{PREFIX}={}", second.address())])
        .unwrap();
    let connect = Connect {
        send: Some("there?".to_owned()),
        ..Connect::new(SocketKind::Tcp, scene.to(A))
    };
    let answer = client.connect(connect).unwrap();
    assert_eq!(answer.received.as_deref(), Some("there?"));
    assert_eq!(answer.peer, Some(scene.to(A)));
    assert_eq!(second.accepted().last().unwrap().at, second.address());
    assert_eq!(peer(&mut client, SocketKind::Udp, scene.to(A)), scene.to(A));
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
}
