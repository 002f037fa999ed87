//! What a rule does to `getaddrinfo`: the C library ranks candidates by connecting a UDP socket to each, and the
//! hook answers. So a client is handed IPv4 first and never tries what is rejected.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{IpAddr, SocketAddr};

use enforcer_tests::{
    client::Client,
    enforcer::Enforcer,
    kernel::caller_sees,
    names::NamesFixture,
    need::{Need, need},
    place::Place,
    stage::{IPV4, IPV6, OTHER_IPV6, PREFIX, Stage},
};

/// A name whose AAAA the rules are about, and one whose AAAA they are not about. Both have the same A.
const INSIDE: &str = "inside.example";
const OUTSIDE: &str = "outside.example";

const PORT: u16 = 443;
const OTHER_PORT: u16 = 5432;

/// An errno with which no connect on the stage ends by itself.
const ERRNO: &str = "EHOSTDOWN";

struct World {
    stage: Stage,
    names: NamesFixture,
}

impl World {
    fn new() -> Self {
        let names = NamesFixture::new([
            (INSIDE, IPV6.into()),
            (INSIDE, IPV4.into()),
            (OUTSIDE, OTHER_IPV6.into()),
            (OUTSIDE, IPV4.into()),
        ])
        .unwrap();
        let stage = Stage::with_names("test-order", &names).unwrap();
        Self { stage, names }
    }

    fn order(&mut self, name: &str, port: u16) -> Vec<SocketAddr> {
        self.stage.client.resolve(name, port).unwrap()
    }

    /// As the standard has it, and as it is wherever nobody governs: IPv6 first, and it connects.
    #[track_caller]
    fn assert_untouched(&mut self) {
        assert_eq!(self.order(INSIDE, PORT), both(IPV6, IPV4, PORT));
        assert_eq!(self.order(OUTSIDE, PORT), both(OTHER_IPV6, IPV4, PORT));
        let answer = self.stage.client.connect_tcp(self.stage.at(IPV6)).unwrap();
        assert_eq!(answer.outcome(), "ok", "{answer:?}");
    }

    /// Whatever a rule does, it does it to that prefix and that cgroup.
    #[track_caller]
    fn assert_others_untouched(&mut self) {
        assert_eq!(self.order(OUTSIDE, PORT), both(OTHER_IPV6, IPV4, PORT));
        let place = Place::outside(&self.stage.netns).with_names(&self.names);
        let mut outsider = Client::start(&place).unwrap();
        assert_eq!(outsider.resolve(INSIDE, PORT).unwrap(), both(IPV6, IPV4, PORT));
    }
}

fn both(first: impl Into<IpAddr>, second: impl Into<IpAddr>, port: u16) -> [SocketAddr; 2] {
    [
        SocketAddr::new(first.into(), port),
        SocketAddr::new(second.into(), port),
    ]
}

#[track_caller]
fn end(enforcer: Enforcer) {
    let finished = enforcer.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
}

#[test]
fn rejected_address_is_ranked_after_ipv4() {
    if !need("rejected_address_is_ranked_after_ipv4", Need::Glibc) {
        return;
    }
    let mut world = World::new();
    world.assert_untouched();
    let enforcer = world
        .stage
        .govern(["--reject", &format!("{PREFIX},errno={ERRNO},name=far")])
        .unwrap();

    assert_eq!(world.order(INSIDE, PORT), both(IPV4, IPV6, PORT));
    world.assert_others_untouched();
    // What a client without happy eyeballs does next: it takes the first address, and that works.
    let first = world.order(INSIDE, world.stage.server.address().port())[0];
    let answer = world.stage.client.connect_tcp(first).unwrap();
    assert_eq!(answer.outcome(), "ok", "{answer:?}");
    assert_eq!(answer.peer, Some(world.stage.at(IPV4)));

    // The question itself is an event: one for each IPv6 candidate.
    let events = enforcer.wait_for_events(1).unwrap();
    assert_eq!(events[0]["verdict"], "reject", "{}", events[0]);
    assert_eq!(events[0]["proto"], "udp", "{}", events[0]);
    assert_eq!(events[0]["dport"], PORT, "{}", events[0]);
    assert_eq!(events[0]["daddr"], IPV6.to_string(), "{}", events[0]);
    assert_eq!(events[0]["rule"], "far", "{}", events[0]);

    end(enforcer);
    world.assert_untouched();
}

#[test]
fn redirected_address_is_ranked_after_ipv4() {
    if !need("redirected_address_is_ranked_after_ipv4", Need::Glibc) {
        return;
    }
    let mut world = World::new();
    world.assert_untouched();
    let enforcer = world
        .stage
        .govern(["--redirect", &format!("{PREFIX}={IPV4}")])
        .unwrap();

    assert_eq!(world.order(INSIDE, PORT), both(IPV4, IPV6, PORT));
    world.assert_others_untouched();
    let answer = world.stage.client.connect_tcp(world.stage.at(IPV6)).unwrap();
    assert_eq!(answer.outcome(), "ok", "{answer:?}");

    end(enforcer);
    world.assert_untouched();
}

#[test]
fn rule_for_tcp_only_leaves_the_order_and_rejects_what_follows() {
    if !need(
        "rule_for_tcp_only_leaves_the_order_and_rejects_what_follows",
        Need::Glibc,
    ) {
        return;
    }
    let mut world = World::new();
    world.assert_untouched();
    let enforcer = world
        .stage
        .govern(["--reject", &format!("{PREFIX},errno={ERRNO},proto=tcp")])
        .unwrap();

    assert_eq!(world.order(INSIDE, PORT), both(IPV6, IPV4, PORT));
    world.assert_others_untouched();
    let answer = world.stage.client.connect_tcp(world.stage.at(IPV6)).unwrap();
    assert_eq!(answer.outcome(), caller_sees(ERRNO), "{answer:?}");

    end(enforcer);
    world.assert_untouched();
}

#[test]
fn rule_for_a_port_changes_the_order_for_that_port_only() {
    if !need(
        "rule_for_a_port_changes_the_order_for_that_port_only",
        Need::Glibc,
    ) {
        return;
    }
    let mut world = World::new();
    world.assert_untouched();
    let enforcer = world
        .stage
        .govern(["--reject", &format!("{PREFIX},errno={ERRNO},port={PORT}")])
        .unwrap();

    assert_eq!(world.order(INSIDE, PORT), both(IPV4, IPV6, PORT));
    assert_eq!(world.order(INSIDE, OTHER_PORT), both(IPV6, IPV4, OTHER_PORT));
    world.assert_others_untouched();

    end(enforcer);
    world.assert_untouched();
}

#[test]
fn audit_leaves_the_order() {
    if !need("audit_leaves_the_order", Need::Glibc) {
        return;
    }
    let mut world = World::new();
    world.assert_untouched();
    let enforcer = world.stage.govern(["--reject", PREFIX, "--audit"]).unwrap();

    world.assert_untouched();
    let events = enforcer.wait_for_events(1).unwrap();
    assert_eq!(events[0]["verdict"], "allow", "{}", events[0]);
    assert_eq!(events[0]["would"], "reject", "{}", events[0]);

    end(enforcer);
    world.assert_untouched();
}
