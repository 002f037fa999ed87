//! The fixtures themselves: a client in a place reaches a server, and everything is gone afterwards. No program is
//! loaded here. What broken IPv6 is like is the business of `lab.rs`.

use std::net::SocketAddr;

use anyhow::Result;
use enforcer_tests::{
    cgroup::CgroupFixture,
    client::Client,
    names::NamesFixture,
    netns::NetnsFixture,
    place::Place,
    protocol::{CONNECT_TIMEOUT_MS, Connect, Request, SocketKind},
    server::Server,
    wait::{PATIENCE, eventually},
};

const ADDRESS: &str = "2001:db8::1";

fn netns() -> Result<NetnsFixture> {
    let netns = NetnsFixture::new()?;
    netns.add_local([ADDRESS.parse()?, "192.0.2.1".parse()?])?;
    Ok(netns)
}

#[test]
fn a_client_in_its_place_reaches_a_server_and_leaves_nothing() {
    let cgroup = CgroupFixture::new("test-client").unwrap();
    let netns = netns().unwrap();
    let server = Server::echo(&netns, [SocketAddr::new(ADDRESS.parse().unwrap(), 0)]).unwrap();
    let mut client = Client::start(&Place::new(&cgroup, &netns)).unwrap();
    for socket in [SocketKind::Tcp, SocketKind::Udp, SocketKind::Fastopen] {
        let answer = client
            .connect(Connect {
                send: Some("hello".to_owned()),
                ..Connect::new(socket, server.address())
            })
            .unwrap();
        assert!(answer.ok, "{socket:?} {answer:?}");
        assert_eq!(answer.received.as_deref(), Some("hello"), "{socket:?}");
        assert_eq!(answer.peer, Some(server.address()), "{socket:?}");
        assert_eq!(answer.pid, client.pid());
    }
    assert_eq!(server.accepted().len(), 2);
    assert_eq!(server.accepted()[0].at, server.address());

    let whoami = client.ask(&Request::Whoami).unwrap();
    assert_eq!(whoami.cgroup, Some(cgroup.relative_path()));
    assert_eq!(cgroup.processes().unwrap(), [client.pid()]);

    drop(client);
    eventually("the client to be gone", PATIENCE, || {
        cgroup.processes().unwrap().is_empty()
    })
    .unwrap();
    let path = cgroup.path().to_owned();
    cgroup.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_server_that_was_dropped_refuses() {
    let netns = netns().unwrap();
    let server = Server::echo(&netns, [SocketAddr::new(ADDRESS.parse().unwrap(), 0)]).unwrap();
    let address = server.address();
    let mut client = Client::start(&Place::outside(&netns)).unwrap();
    assert!(client.connect_tcp(address).unwrap().ok);
    drop(server);
    let answer = client.connect_tcp(address).unwrap();
    assert_eq!(
        (answer.step.as_deref(), answer.outcome().as_str()),
        (Some("connect"), "ECONNREFUSED")
    );
}

#[test]
fn a_held_socket_is_disconnected_and_connected_again() {
    let netns = netns().unwrap();
    let server = Server::echo(&netns, [SocketAddr::new(ADDRESS.parse().unwrap(), 0)]).unwrap();
    let mut client = Client::start(&Place::outside(&netns)).unwrap();
    let held = Connect {
        hold: true,
        ..Connect::new(SocketKind::Udp, server.address())
    };
    let id = client.connect(held).unwrap().id.unwrap();
    assert_eq!(
        client.ask(&Request::Names { id }).unwrap().peer,
        Some(server.address())
    );
    assert!(client.ask(&Request::Disconnect { id }).unwrap().ok);
    assert_eq!(client.ask(&Request::Names { id }).unwrap().outcome(), "ENOTCONN");
    let again = Request::Reconnect {
        id,
        to: server.address(),
        timeout_ms: CONNECT_TIMEOUT_MS,
    };
    assert!(client.ask(&again).unwrap().ok);
    let exchange = Request::Exchange {
        id,
        send: "again".to_owned(),
        timeout_ms: CONNECT_TIMEOUT_MS,
    };
    assert_eq!(client.ask(&exchange).unwrap().received.as_deref(), Some("again"));
    assert!(client.ask(&Request::Close { id }).unwrap().ok);
    assert!(!client.ask(&Request::Close { id }).unwrap().ok);
}

#[test]
fn a_child_of_a_client_is_in_the_same_place() {
    let cgroup = CgroupFixture::new("test-child").unwrap();
    let netns = netns().unwrap();
    let mut client = Client::start(&Place::new(&cgroup, &netns)).unwrap();
    let answer = client
        .ask(&Request::Child {
            request: Box::new(Request::Whoami),
        })
        .unwrap();
    assert_eq!(answer.cgroup, Some(cgroup.relative_path()));
    assert_ne!(answer.pid, client.pid());
}

#[test]
fn repeated_connects_are_counted_by_outcome() {
    let netns = netns().unwrap();
    let server = Server::echo(&netns, [SocketAddr::new(ADDRESS.parse().unwrap(), 0)]).unwrap();
    let mut client = Client::start(&Place::outside(&netns)).unwrap();
    let answer = client
        .ask(&Request::Repeat {
            connect: Connect::new(SocketKind::Tcp, server.address()),
            times: 100,
        })
        .unwrap();
    assert_eq!(
        answer.outcomes.unwrap().into_iter().collect::<Vec<_>>(),
        [("ok".to_owned(), 100)]
    );
    eventually("100 accepted connections", PATIENCE, || {
        server.accepted().len() == 100
    })
    .unwrap();
}

#[test]
fn a_name_with_both_families_is_resolved_ipv6_first_where_ipv6_works() {
    let netns = netns().unwrap();
    let names = NamesFixture::new([
        ("both.example", "192.0.2.1".parse().unwrap()),
        ("both.example", ADDRESS.parse().unwrap()),
    ])
    .unwrap();
    let mut client = Client::start(&Place::outside(&netns).with_names(&names)).unwrap();
    assert_eq!(
        client.resolve("both.example", 80).unwrap(),
        [
            "[2001:db8::1]:80".parse().unwrap(),
            "192.0.2.1:80".parse().unwrap()
        ]
    );
    assert!(client.resolve("nobody.example", 80).is_err());
}
