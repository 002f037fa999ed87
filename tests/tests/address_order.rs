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
    scene::{A, B, IPV4, PREFIX, Scene},
};

/// A name whose AAAA the rules are about, and one whose AAAA they are not about. Both have the same A.
const INSIDE: &str = "inside.example";
const OUTSIDE: &str = "outside.example";

const PORT: u16 = 443;
const OTHER_PORT: u16 = 5432;

/// An errno with which no connect on the scene ends by itself.
const ERRNO: &str = "EHOSTDOWN";

struct World {
    client: Client,
    names: NamesFixture,
    scene: Scene,
}

impl World {
    fn new() -> Self {
        let names = NamesFixture::new([(INSIDE, A), (INSIDE, IPV4), (OUTSIDE, B), (OUTSIDE, IPV4)]).unwrap();
        let scene = Scene::new("order").unwrap();
        let client = Client::start(&scene.inside().with_names(&names)).unwrap();
        Self { client, names, scene }
    }

    fn order(&mut self, name: &str, port: u16) -> Vec<SocketAddr> {
        self.client.resolve(name, port).unwrap()
    }

    /// As the standard has it, and as it is wherever nobody governs: IPv6 first, and it connects.
    #[track_caller]
    fn assert_untouched(&mut self) {
        assert_eq!(self.order(INSIDE, PORT), both(A, IPV4, PORT));
        assert_eq!(self.order(OUTSIDE, PORT), both(B, IPV4, PORT));
        let answer = self.client.connect_tcp(self.scene.to(A)).unwrap();
        assert_eq!(answer.outcome(), "ok", "{answer:?}");
    }

    /// Whatever a rule does, it does it to that prefix and that cgroup.
    #[track_caller]
    fn assert_others_untouched(&mut self) {
        assert_eq!(self.order(OUTSIDE, PORT), both(B, IPV4, PORT));
        let mut outsider = Client::start(&self.scene.outside().with_names(&self.names)).unwrap();
        assert_eq!(outsider.resolve(INSIDE, PORT).unwrap(), both(A, IPV4, PORT));
    }
}

fn both(first: IpAddr, second: IpAddr, port: u16) -> [SocketAddr; 2] {
    [first, second].map(|address| SocketAddr::new(address, port))
}

/// Untouched before, governed by that rule while `work` looks, and untouched after.
#[track_caller]
fn governed(test: &str, rule: &[&str], work: impl FnOnce(&mut World, &Enforcer)) {
    if !need(test, Need::Glibc) {
        return;
    }
    let mut world = World::new();
    world.assert_untouched();
    let enforcer = world.scene.govern(rule).unwrap();
    work(&mut world, &enforcer);
    let finished = enforcer.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    world.assert_untouched();
}

#[test]
fn rejected_address_is_ranked_after_ipv4() {
    let rule = format!("{PREFIX},errno={ERRNO},name=far");
    let test = "rejected_address_is_ranked_after_ipv4";
    governed(test, &["--reject", &rule], |world, enforcer| {
        assert_eq!(world.order(INSIDE, PORT), both(IPV4, A, PORT));
        world.assert_others_untouched();
        // What a client without happy eyeballs does next: it takes the first address, and that works.
        let first = world.order(INSIDE, world.scene.server.address().port())[0];
        let answer = world.client.connect_tcp(first).unwrap();
        assert_eq!(answer.outcome(), "ok", "{answer:?}");
        assert_eq!(answer.peer, Some(world.scene.to(IPV4)));

        // The question itself is an event: one for each IPv6 candidate.
        let events = enforcer.wait_for_events(1).unwrap();
        assert_eq!(events[0]["verdict"], "reject", "{}", events[0]);
        assert_eq!(events[0]["proto"], "udp", "{}", events[0]);
        assert_eq!(events[0]["dport"], PORT, "{}", events[0]);
        assert_eq!(events[0]["daddr"], A.to_string(), "{}", events[0]);
        assert_eq!(events[0]["rule"], "far", "{}", events[0]);
    });
}

#[test]
fn redirected_address_is_ranked_after_ipv4() {
    let rule = format!("{PREFIX}={IPV4}");
    let test = "redirected_address_is_ranked_after_ipv4";
    governed(test, &["--redirect", &rule], |world, _| {
        assert_eq!(world.order(INSIDE, PORT), both(IPV4, A, PORT));
        world.assert_others_untouched();
        let answer = world.client.connect_tcp(world.scene.to(A)).unwrap();
        assert_eq!(answer.outcome(), "ok", "{answer:?}");
    });
}

#[test]
fn rule_for_tcp_only_leaves_the_order_and_rejects_what_follows() {
    let rule = format!("{PREFIX},errno={ERRNO},proto=tcp");
    let test = "rule_for_tcp_only_leaves_the_order_and_rejects_what_follows";
    governed(test, &["--reject", &rule], |world, _| {
        assert_eq!(world.order(INSIDE, PORT), both(A, IPV4, PORT));
        world.assert_others_untouched();
        let answer = world.client.connect_tcp(world.scene.to(A)).unwrap();
        assert_eq!(answer.outcome(), caller_sees(ERRNO), "{answer:?}");
    });
}

#[test]
fn rule_for_a_port_changes_the_order_for_that_port_only() {
    let rule = format!("{PREFIX},errno={ERRNO},port={PORT}");
    let test = "rule_for_a_port_changes_the_order_for_that_port_only";
    governed(test, &["--reject", &rule], |world, _| {
        assert_eq!(world.order(INSIDE, PORT), both(IPV4, A, PORT));
        assert_eq!(world.order(INSIDE, OTHER_PORT), both(A, IPV4, OTHER_PORT));
        world.assert_others_untouched();
    });
}

#[test]
fn audit_leaves_the_order() {
    governed(
        "audit_leaves_the_order",
        &["--reject", PREFIX, "--audit"],
        |world, enforcer| {
            world.assert_untouched();
            let events = enforcer.wait_for_events(1).unwrap();
            assert_eq!(events[0]["verdict"], "allow", "{}", events[0]);
            assert_eq!(events[0]["would"], "reject", "{}", events[0]);
        },
    );
}
