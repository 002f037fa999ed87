//! What helps when: IPv6 broken in every way that is seen in the field, and what reject and redirect make of it.
//!
//! One row a breakage. A row says how a client fares that does what most programs do: it looks the name up and tries
//! one address after the other. That it hangs is shown by its own deadline.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{IpAddr, SocketAddr};

use enforcer_tests::{
    cgroup::CgroupFixture,
    client::Client,
    enforcer::Enforcer,
    kernel::caller_sees,
    lab::{Breakage, ECHO_PORT, Lab, NAME, PREFIX, SERVER_IPV4, SERVER_IPV6},
    need::{Need, need},
    process::Stream,
    protocol::{Connect, SocketKind},
};

/// An errno with which no connect in a lab ends by itself.
const ERRNO: &str = "EHOSTDOWN";
/// Stands in the table for what a caller gets from a rule with that errno: not the same on every kernel.
const REJECTED: &str = "rejected";

/// How a connect ends that the client gives up.
const TIMEOUT: &str = "timeout";

/// How long a connect is watched that is to hang: the SYN has been sent at least three times by then, unanswered.
const HANGING_MS: u64 = 3_500;
/// How long one may take that is to end by itself.
const ENDING_MS: u64 = 60_000;

/// The server's addresses, in the table.
const V6: IpAddr = IpAddr::V6(SERVER_IPV6);
const V4: IpAddr = IpAddr::V4(SERVER_IPV4);

/// The addresses a client tries, and how each connect ends; the last is the first that succeeds, if any does.
type Walk = &'static [(IpAddr, &'static str)];

/// What a reject is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// The client gets to the server by IPv4 without an error or a delay.
    Helps,
    /// Nothing changes.
    None,
    /// There is nowhere else to go: the failure comes at once and is clear.
    OnlyFaster,
    /// It works all the same, by IPv4; the tool warns.
    Needless,
}

struct Row {
    breakage: Breakage,
    ungoverned: Walk,
    /// With the IPv6 address rejected.
    rejected: Walk,
    reject: Effect,
    /// How a connect to the IPv6 address itself ends, which is all that some clients know. Redirected, it succeeds.
    literal: &'static str,
}

const ROWS: [Row; 10] = [
    Row {
        breakage: Breakage::Healthy,
        ungoverned: &[(V6, "ok")],
        rejected: &[(V4, "ok")],
        reject: Effect::Needless,
        literal: "ok",
    },
    Row {
        breakage: Breakage::NoAddress,
        ungoverned: &[(V4, "ok")],
        rejected: &[(V4, "ok")],
        reject: Effect::None,
        literal: "EADDRNOTAVAIL",
    },
    Row {
        breakage: Breakage::NoRoute,
        ungoverned: &[(V4, "ok")],
        rejected: &[(V4, "ok")],
        reject: Effect::None,
        literal: "ENETUNREACH",
    },
    Row {
        breakage: Breakage::BlackHole,
        ungoverned: &[(V6, TIMEOUT), (V4, "ok")],
        rejected: &[(V4, "ok")],
        reject: Effect::Helps,
        literal: TIMEOUT,
    },
    // The errnos of the next three are those of `tab_unreach` in `net/ipv6/icmp.c`.
    Row {
        breakage: Breakage::IcmpNoRoute,
        ungoverned: &[(V6, "ENETUNREACH"), (V4, "ok")],
        rejected: &[(V4, "ok")],
        reject: Effect::Helps,
        literal: "ENETUNREACH",
    },
    Row {
        breakage: Breakage::Prohibited,
        ungoverned: &[(V6, "EACCES"), (V4, "ok")],
        rejected: &[(V4, "ok")],
        reject: Effect::Helps,
        literal: "EACCES",
    },
    Row {
        breakage: Breakage::Refused,
        ungoverned: &[(V6, "ECONNREFUSED"), (V4, "ok")],
        rejected: &[(V4, "ok")],
        reject: Effect::Helps,
        literal: "ECONNREFUSED",
    },
    Row {
        breakage: Breakage::Slow,
        ungoverned: &[(V6, "ok")],
        rejected: &[(V4, "ok")],
        reject: Effect::Helps,
        literal: "ok",
    },
    Row {
        breakage: Breakage::AaaaOnly,
        ungoverned: &[(V6, TIMEOUT)],
        rejected: &[(V6, REJECTED)],
        reject: Effect::OnlyFaster,
        literal: TIMEOUT,
    },
    Row {
        breakage: Breakage::Literal,
        ungoverned: &[(V6, TIMEOUT)],
        rejected: &[(V6, REJECTED)],
        reject: Effect::OnlyFaster,
        literal: TIMEOUT,
    },
];

impl Row {
    /// What the two walks of the row say of a reject, so that neither column can be wrong alone.
    fn effect(&self) -> Effect {
        if self.ungoverned == self.rejected {
            Effect::None
        } else if self.rejected != [(V4, "ok")] {
            Effect::OnlyFaster
        } else if self.breakage == Breakage::Healthy {
            Effect::Needless
        } else {
            Effect::Helps
        }
    }
}

struct World {
    client: Client,
    cgroup: CgroupFixture,
    lab: Lab,
}

impl World {
    fn new(breakage: Breakage) -> Self {
        let lab = Lab::new(breakage).unwrap();
        let cgroup = CgroupFixture::new("test-lab").unwrap();
        let client = Client::start(&lab.inside(&cgroup)).unwrap();
        Self { client, cgroup, lab }
    }

    /// Starts enforcer where it would be on a host like that, outside the cgroup.
    fn govern(&self, rule: [&str; 2]) -> Enforcer {
        let path = self.cgroup.relative_path();
        let arguments = ["--output", "json", "--cgroup", &path].into_iter().chain(rule);
        Enforcer::run(&self.lab.outside(), arguments).unwrap()
    }

    /// What a client tries, in that order.
    fn addresses(&mut self) -> Vec<IpAddr> {
        match self.lab.name() {
            Some(name) => {
                let found = self.client.resolve(name, ECHO_PORT).unwrap();
                found.iter().map(SocketAddr::ip).collect()
            }
            None => vec![V6],
        }
    }

    /// Connects, and if that succeeds, says something and hears it.
    fn connect(&mut self, to: IpAddr, expected: &str) {
        let is_hanging = expected == TIMEOUT;
        let answer = self
            .client
            .connect(Connect {
                timeout_ms: if is_hanging { HANGING_MS } else { ENDING_MS },
                send: Some("hello".to_owned()),
                ..Connect::new(SocketKind::Tcp, SocketAddr::new(to, ECHO_PORT))
            })
            .unwrap();
        let expected = if expected == REJECTED {
            caller_sees(ERRNO)
        } else {
            expected
        };
        assert_eq!(
            answer.outcome(),
            expected,
            "{}, {to}: {answer:?}",
            self.lab.breakage()
        );
        if expected == "ok" {
            assert_eq!(answer.received.as_deref(), Some("hello"), "{answer:?}");
        }
    }

    /// Does what the client does, and compares it with the row.
    fn walk(&mut self, expected: Walk) {
        let addresses = self.addresses();
        let wanted: Vec<_> = expected.iter().map(|(address, _)| *address).collect();
        assert!(
            addresses.starts_with(&wanted),
            "{}: {addresses:?}, not {wanted:?}",
            self.lab.breakage()
        );
        for (address, outcome) in expected {
            self.connect(*address, outcome);
        }
        // Otherwise the row would leave out what the client does next.
        let is_through = expected.last().is_some_and(|(_, outcome)| *outcome == "ok");
        assert!(is_through || addresses.len() == expected.len(), "{addresses:?}");
    }
}

/// One row: ungoverned, rejected, redirected, and ungoverned again.
#[track_caller]
fn check(test: &str, breakage: Breakage) {
    if !need(test, Need::Glibc) || (breakage == Breakage::Slow && !need(test, Need::Nft)) {
        return;
    }
    let row = ROWS.iter().find(|row| row.breakage == breakage).unwrap();
    assert_eq!(row.effect(), row.reject);
    let mut world = World::new(breakage);
    world.walk(row.ungoverned);
    world.connect(V6, row.literal);

    let enforcer = world.govern(["--reject", &format!("{PREFIX},errno={ERRNO}")]);
    world.walk(row.rejected);
    world.connect(V6, REJECTED);
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));

    let enforcer = world.govern(["--redirect", &format!("{PREFIX}={SERVER_IPV4}")]);
    let first = world.addresses()[0];
    world.connect(first, "ok");
    world.connect(V6, "ok");
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));

    world.walk(row.ungoverned);
    world.connect(V6, row.literal);
}

macro_rules! rows {
    ($($test:ident: $breakage:ident;)*) => {
        $(
            #[test]
            fn $test() {
                check(stringify!($test), Breakage::$breakage);
            }
        )*
    };
}

rows! {
    healthy_ipv6_is_used_and_a_reject_is_needless: Healthy;
    without_an_address_a_reject_changes_nothing_and_a_redirect_helps: NoAddress;
    without_a_route_a_reject_changes_nothing_and_a_redirect_helps: NoRoute;
    in_a_black_hole_both_help: BlackHole;
    where_the_router_has_no_route_both_help: IcmpNoRoute;
    where_the_router_prohibits_it_both_help: Prohibited;
    where_the_port_is_refused_both_help: Refused;
    where_syns_are_lost_both_help: Slow;
    a_name_without_ipv4_fails_fast_and_a_redirect_helps: AaaaOnly;
    an_address_without_a_name_fails_fast_and_a_redirect_helps: Literal;
}

#[test]
fn every_breakage_has_its_row() {
    assert_eq!(ROWS.map(|row| row.breakage), Breakage::ALL);
}

#[test]
fn enforcer_warns_where_ipv6_works() {
    let mut world = World::new(Breakage::Healthy);
    let connect = Connect {
        hold: true,
        ..Connect::new(SocketKind::Tcp, SocketAddr::new(V6, ECHO_PORT))
    };
    assert_eq!(world.client.connect(connect).unwrap().outcome(), "ok");
    let enforcer = world.govern(["--reject", PREFIX]);
    let said = enforcer.lines(Stream::Stderr).join("\n");
    assert!(
        said.contains("warning") && said.contains(&V6.to_string()),
        "{said}"
    );
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
}

/// How many TCP segments the client's side has sent again.
fn retransmitted(lab: &Lab) -> u64 {
    let text = lab
        .client()
        .run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?))
        .unwrap();
    // A line of names and a line of numbers.
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let mut columns = names.split_whitespace().zip(numbers.split_whitespace());
    let (_, number) = columns.find(|(name, _)| *name == "RetransSegs").unwrap();
    number.parse().unwrap()
}

#[test]
fn a_slow_connect_succeeds_with_its_third_syn_each_time() {
    let test = "a_slow_connect_succeeds_with_its_third_syn_each_time";
    if !need(test, Need::Nft) {
        return;
    }
    let mut world = World::new(Breakage::Slow);
    for _ in 0..2 {
        let before = retransmitted(&world.lab);
        world.connect(V6, "ok");
        assert!(retransmitted(&world.lab) >= before + 2);
    }
}

#[test]
fn a_lab_knows_its_name_and_no_other() {
    let mut world = World::new(Breakage::AaaaOnly);
    let only = SocketAddr::new(V6, ECHO_PORT);
    assert_eq!(world.client.resolve(NAME, ECHO_PORT).unwrap(), [only]);
    assert!(world.client.resolve("nobody.example", ECHO_PORT).is_err());
    assert!(world.client.resolve("localhost", ECHO_PORT).is_ok());
    let mut world = World::new(Breakage::Literal);
    assert!(world.client.resolve(NAME, ECHO_PORT).is_err());
}
