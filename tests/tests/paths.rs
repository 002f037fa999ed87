//! Every path by which the kernel comes to the hook. Each is governed, with one event for one connect, and free
//! again after detach; the sockets that a redirect to IPv4 cannot move get the rule's errno.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeSet, net::SocketAddr};

use enforcer_tests::{
    client::Client,
    kernel::{caller_sees, support},
    need::{Need, need_given},
    protocol::{Connect, Request, SocketKind, Way},
    scene::{A, B, IPV4, PREFIX, Scene},
    wait::{PATIENCE, eventually},
};

/// An errno with which no connect on the scene ends by itself.
const ERRNO: &str = "EHOSTDOWN";

/// A connect of that kind to the governed address, and what it says there.
fn connect(scene: &Scene, kind: SocketKind, way: Way) -> Connect {
    if kind == SocketKind::Ping {
        return Connect::new(kind, SocketAddr::new(A, 0));
    }
    Connect {
        way,
        send: Some("hello".to_owned()),
        ..Connect::new(kind, scene.to(A))
    }
}

/// Ungoverned the connect succeeds, governed it is rejected and that is one event, a neighbour prefix is left
/// alone, and ungoverned it succeeds again.
#[track_caller]
fn assert_governed(test: &str, kind: SocketKind, way: Way, proto: &str) {
    let scene = Scene::new("path").unwrap();
    let mut client = scene.client().unwrap();
    let connect = connect(&scene, kind, way);
    let answer = client.connect(connect.clone()).unwrap();
    let lacking = match (kind, answer.step.as_deref()) {
        (SocketKind::Mptcp, Some("socket")) => Some(Need::Mptcp),
        (_, Some("io_uring")) => Some(Need::IoUring),
        _ => None,
    };
    if let Some(lacking) = lacking {
        assert!(!need_given(test, lacking, false));
        return;
    }
    assert_eq!(answer.outcome(), "ok", "before: {answer:?}");
    assert_eq!(answer.received, connect.send, "before");

    let enforcer = scene
        .govern(["--reject", &format!("{PREFIX},errno={ERRNO},name=far")])
        .unwrap();
    let answer = client.connect(connect.clone()).unwrap();
    if kind == SocketKind::Ping && !need_given(test, Need::GovernedPing, !answer.ok) {
        return;
    }
    assert_eq!(answer.outcome(), caller_sees(ERRNO), "{answer:?}");
    assert_eq!(answer.step.as_deref(), Some("connect"), "{answer:?}");
    let elsewhere = Connect {
        to: SocketAddr::new(B, connect.to.port()),
        ..connect.clone()
    };
    let answer = client.connect(elsewhere.clone()).unwrap();
    assert_eq!(answer.outcome(), "ok", "elsewhere: {answer:?}");
    assert_eq!(answer.received, connect.send, "elsewhere");

    let events = enforcer.wait_for_events(2).unwrap();
    assert_eq!(events[0]["verdict"], "reject", "{}", events[0]);
    assert_eq!(events[0]["errno"], ERRNO, "{}", events[0]);
    assert_eq!(events[0]["rule"], "far", "{}", events[0]);
    assert_eq!(events[0]["proto"], proto, "{}", events[0]);
    assert_eq!(events[0]["daddr"], A.to_string(), "{}", events[0]);
    assert_eq!(events[0]["pid"], client.pid(), "{}", events[0]);
    assert_eq!(events[1]["verdict"], "allow", "{}", events[1]);
    assert_eq!(events[1]["daddr"], B.to_string(), "{}", events[1]);

    let finished = enforcer.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    assert_eq!(finished.stdout.len(), 2, "{finished:?}");
    let answer = client.connect(connect.clone()).unwrap();
    assert_eq!(answer.outcome(), "ok", "after: {answer:?}");
    assert_eq!(answer.received, connect.send, "after");
}

#[test]
fn tcp_that_does_not_block_is_governed() {
    assert_governed(
        "tcp_that_does_not_block_is_governed",
        SocketKind::Tcp,
        Way::Plain,
        "tcp",
    );
}

#[test]
fn fast_open_by_sendto_is_governed() {
    assert_governed(
        "fast_open_by_sendto_is_governed",
        SocketKind::Fastopen,
        Way::Plain,
        "tcp",
    );
}

#[test]
fn fast_open_by_connect_is_governed() {
    assert_governed(
        "fast_open_by_connect_is_governed",
        SocketKind::Tcp,
        Way::FastopenConnect,
        "tcp",
    );
}

/// The kernel asks about the first subflow, which is TCP.
#[test]
fn multipath_tcp_is_governed() {
    assert_governed("multipath_tcp_is_governed", SocketKind::Mptcp, Way::Plain, "tcp");
}

#[test]
fn connected_udp_is_governed() {
    assert_governed("connected_udp_is_governed", SocketKind::Udp, Way::Plain, "udp");
}

#[test]
fn ping_socket_is_governed() {
    assert_governed("ping_socket_is_governed", SocketKind::Ping, Way::Plain, "icmpv6");
}

#[test]
fn io_uring_is_governed() {
    assert_governed("io_uring_is_governed", SocketKind::Tcp, Way::IoUring, "tcp");
}

#[test]
fn io_uring_by_a_worker_is_governed() {
    assert_governed(
        "io_uring_by_a_worker_is_governed",
        SocketKind::Tcp,
        Way::IoUringWorker,
        "tcp",
    );
}

#[test]
fn io_uring_that_is_polled_is_governed() {
    assert_governed(
        "io_uring_that_is_polled_is_governed",
        SocketKind::Tcp,
        Way::IoUringPoller,
        "tcp",
    );
}

#[test]
fn many_threads_at_once_are_governed_each_connect_with_its_event() {
    const THREADS: u32 = 16;
    const TIMES: u32 = 25;
    const CONNECTS: u64 = (THREADS * TIMES) as u64;
    let scene = Scene::new("threads").unwrap();
    let mut client = scene.client().unwrap();
    let request = Request::Threads {
        connect: Connect::new(SocketKind::Tcp, scene.to(A)),
        threads: THREADS,
        times: TIMES,
    };
    let outcomes = |client: &mut Client| {
        let answer = client.ask(&request).unwrap();
        answer.outcomes.unwrap().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(outcomes(&mut client), [("ok".to_owned(), CONNECTS)], "before");

    let enforcer = scene
        .govern(["--reject", &format!("{PREFIX},errno={ERRNO}")])
        .unwrap();
    let rejected = caller_sees(ERRNO).to_owned();
    assert_eq!(outcomes(&mut client), [(rejected, CONNECTS)]);
    let finished = enforcer.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(0), "{:?}", finished.stderr);
    let events = enforcer_tests::enforcer::parse_events(&finished.stdout).unwrap();
    assert_eq!(events.len() as u64, CONNECTS);
    assert!(events.iter().all(|event| event["verdict"] == "reject"));
    let threads: BTreeSet<_> = events.iter().map(|event| event["tid"].as_u64()).collect();
    assert_eq!(threads.len(), THREADS as usize);
    let account = format!("{CONNECTS} connects seen: 0 allowed, {CONNECTS} rejected, 0 redirected");
    assert!(finished.stderr.contains(&account), "{finished:?}");

    assert_eq!(outcomes(&mut client), [("ok".to_owned(), CONNECTS)], "after");
}

/// A redirect to IPv4 moves a plain TCP socket, and rejects that one with the rule's errno, saying why.
#[track_caller]
fn assert_unmovable(test: &str, change: impl FnOnce(&mut Connect), unmovable: &str) {
    let scene = Scene::new("unmovable").unwrap();
    let mut client = scene.client().unwrap();
    let movable = connect(&scene, SocketKind::Tcp, Way::Plain);
    let mut fixed = movable.clone();
    change(&mut fixed);
    let answer = client.connect(fixed.clone()).unwrap();
    assert_eq!(answer.outcome(), "ok", "before: {answer:?}");
    assert_arrived(&scene, 1, &fixed, A);

    let enforcer = scene
        .govern(["--redirect", &format!("{PREFIX}={IPV4},errno={ERRNO}")])
        .unwrap();
    let answer = client.connect(fixed.clone()).unwrap();
    if fixed.socket == SocketKind::Ping && !need_given(test, Need::GovernedPing, !answer.ok) {
        return;
    }
    let is_v6only_unseen = unmovable == "v6only" && support().v6only_mask.is_none();
    let errno = if is_v6only_unseen {
        // The program sends the connect to IPv4, and the kernel refuses that for such a socket.
        "ENETUNREACH"
    } else {
        caller_sees(ERRNO)
    };
    assert_eq!(answer.outcome(), errno, "{answer:?}");
    let answer = client.connect(movable.clone()).unwrap();
    assert_eq!(answer.outcome(), "ok", "movable: {answer:?}");
    assert_eq!(answer.received, movable.send, "movable");
    let earlier = usize::from(fixed.socket != SocketKind::Ping);
    assert_arrived(&scene, earlier + 1, &movable, IPV4);

    let events = enforcer.wait_for_events(2).unwrap();
    if is_v6only_unseen {
        assert_eq!(events[0]["verdict"], "redirect", "{}", events[0]);
    } else {
        assert_eq!(events[0]["verdict"], "reject", "{}", events[0]);
        assert_eq!(events[0]["errno"], ERRNO, "{}", events[0]);
        assert_eq!(events[0]["unmovable"], unmovable, "{}", events[0]);
    }
    assert_eq!(events[0]["redirect_to"], IPV4.to_string(), "{}", events[0]);
    assert_eq!(events[1]["verdict"], "redirect", "{}", events[1]);
    assert!(events[1]["unmovable"].is_null(), "{}", events[1]);

    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    let answer = client.connect(fixed.clone()).unwrap();
    assert_eq!(answer.outcome(), "ok", "after: {answer:?}");
    assert_arrived(&scene, earlier + 2, &fixed, A);
}

/// Where the newest of so many TCP connections arrived. Other sockets arrive nowhere.
#[track_caller]
fn assert_arrived(scene: &Scene, count: usize, connect: &Connect, at: std::net::IpAddr) {
    if connect.socket != SocketKind::Tcp {
        return;
    }
    eventually("the connection to arrive", PATIENCE, || {
        scene.server.accepted().len() >= count
    })
    .unwrap();
    let accepted = scene.server.accepted();
    assert_eq!(accepted.len(), count, "{accepted:?}");
    assert_eq!(accepted[count - 1].at, scene.to(at), "{accepted:?}");
}

#[test]
fn socket_for_ipv6_only_is_not_redirected_to_ipv4() {
    assert_unmovable(
        "socket_for_ipv6_only_is_not_redirected_to_ipv4",
        |connect| connect.v6only = Some(true),
        "v6only",
    );
}

#[test]
fn socket_bound_to_an_ipv6_address_is_not_redirected_to_ipv4() {
    assert_unmovable(
        "socket_bound_to_an_ipv6_address_is_not_redirected_to_ipv4",
        |connect| connect.bind = Some(SocketAddr::new(B, 0)),
        "bound",
    );
}

#[test]
fn ping_socket_is_not_redirected_to_ipv4() {
    assert_unmovable(
        "ping_socket_is_not_redirected_to_ipv4",
        |connect| *connect = Connect::new(SocketKind::Ping, SocketAddr::new(A, 0)),
        "ping",
    );
}
