//! A page fetched from a literal IPv6 address by curl, though the machine has no way to it: redirects, as a person
//! sees them, by `enforcer exec`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
};

use enforcer_tests::{
    enforcer::Enforcer,
    need::{Need, need},
    netns::NetnsFixture,
    place::Place,
    process::{Finished, Running},
    server::Server,
    wait::PATIENCE,
};

/// Nobody here has an address in it, and no route leads to it.
const PREFIX: &str = "2001:db8:3::/48";
const FAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 1);

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const PAGE: &str = "It works.";

/// Exit code of curl when it could not connect (`man curl`).
const COULD_NOT_CONNECT: i32 = 7;

fn url(port: u16) -> String {
    format!("http://[{FAR}]:{port}/")
}

/// curl without the person's own settings and proxies.
fn curl(url: &str) -> [&str; 6] {
    ["curl", "-q", "--noproxy", "*", "-sS", url]
}

#[track_caller]
fn exec(netns: &NetnsFixture, rule: &str, url: &str) -> Finished {
    let arguments = ["exec", "--redirect", rule, "--"].into_iter().chain(curl(url));
    Enforcer::output(&Place::outside(netns), arguments, PATIENCE).unwrap()
}

/// Without enforcer there is no way.
#[track_caller]
fn assert_unreachable(netns: &NetnsFixture, url: &str) {
    let [program, arguments @ ..] = curl(url);
    let mut command: Command = Place::outside(netns).command(program).unwrap();
    command.args(arguments);
    let finished = Running::start(command).unwrap().finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(COULD_NOT_CONNECT), "{finished:?}");
}

/// Serves the page at that address, and fetches it from [`FAR`] by a redirect to `target`, which is told the server's
/// port. The port asked for is the server's, unless it is given.
#[track_caller]
fn check(netns: &NetnsFixture, listen: IpAddr, asked: Option<u16>, target: impl FnOnce(u16) -> String) {
    let server = Server::http(netns, [SocketAddr::new(listen, 0)], PAGE).unwrap();
    let port = server.address().port();
    let url = url(asked.unwrap_or(port));
    assert_unreachable(netns, &url);

    let finished = exec(netns, &format!("{PREFIX}={}", target(port)), &url);
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    assert_eq!(finished.stdout, [PAGE], "{finished:?}");
    let events: Vec<_> = finished
        .stderr
        .iter()
        .filter(|line| line.starts_with("enforcer: ") && line.contains("redirect"))
        .collect();
    assert_eq!(events.len(), 1, "{finished:?}");
    assert!(events[0].contains("curl["), "{finished:?}");
    assert_eq!(server.accepted()[0].at, server.address());

    assert_unreachable(netns, &url);
}

#[test]
fn page_is_fetched_from_a_server_on_ipv4_loopback_only() {
    if !need("page_is_fetched_from_a_server_on_ipv4_loopback_only", Need::Curl) {
        return;
    }
    let netns = NetnsFixture::new().unwrap();
    check(&netns, LOOPBACK, None, |_| LOOPBACK.to_string());
}

#[test]
fn page_is_fetched_from_another_port() {
    if !need("page_is_fetched_from_another_port", Need::Curl) {
        return;
    }
    let netns = NetnsFixture::new().unwrap();
    // A port below those that the kernel chooses, so it is not the server's.
    check(&netns, LOOPBACK, Some(443), |port| format!("{LOOPBACK}:{port}"));
}

#[test]
fn page_is_fetched_from_another_ipv6_address() {
    if !need("page_is_fetched_from_another_ipv6_address", Need::Curl) {
        return;
    }
    let netns = NetnsFixture::new().unwrap();
    let near: IpAddr = "2001:db8:f::1".parse().unwrap();
    netns.add_local([near]).unwrap();
    check(&netns, near, None, |_| format!("[{near}]"));
}

#[test]
fn page_is_fetched_while_ipv6_is_switched_off_on_every_interface() {
    if !need(
        "page_is_fetched_while_ipv6_is_switched_off_on_every_interface",
        Need::Curl,
    ) {
        return;
    }
    let netns = NetnsFixture::new().unwrap();
    netns.set("ipv6/conf/all/disable_ipv6", "1").unwrap();
    check(&netns, LOOPBACK, None, |_| LOOPBACK.to_string());
}
