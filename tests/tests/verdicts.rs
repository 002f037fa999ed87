//! The verdict table, executed twice: through `decide` on the compiled policy, and through `connect(2)` with the
//! programs loaded. Any difference between the two is a bug in one of them.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::OnceLock,
};

use enforcer::{
    kernel::Support,
    policy::{Policy, argument::RuleArgument, compile::compile, live::Live, rule::DEFAULT_GROUP},
};
use enforcer_common::{
    address::{octets_from_words, words_from_octets},
    clause::{Action, IPPROTO_ICMPV6, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, NO_RULE},
    decide::{Connect, Decision, Known, Mode, Unmovable, decide},
    errno,
};
use enforcer_tests::{
    cgroup::CgroupFixture,
    client::Client,
    enforcer::Enforcer,
    need::{Need, need_given},
    netns::NetnsFixture,
    place::Place,
    protocol::{Answer, Connect as Ping, SocketKind},
    verdicts::{Case, Expect, Group, Needs, World, load},
    wait::{PATIENCE, eventually},
};
use serde_json::{Value, json};

/// A case as `decide` sees its socket.
fn circumstances(case: &Case) -> Known {
    let bound = case
        .bind
        .filter(|bind| !bind.is_unspecified() && bind.to_ipv4_mapped().is_none());
    let unmovable = match (case.socket, bound, case.v6only) {
        (SocketKind::Ping, _, _) => Some(Unmovable::Ping),
        (_, Some(_), _) => Some(Unmovable::Bound),
        (_, _, Some(true)) => Some(Unmovable::V6Only),
        _ => None,
    };
    Known {
        unmovable,
        ..Known::default()
    }
}

fn policy_of(group: &Group) -> Policy {
    let arguments = group.arguments();
    let rules = arguments
        .chunks(2)
        .map(|pair| match pair {
            ["--reject", value] => RuleArgument::reject(value),
            ["--redirect", value] => RuleArgument::redirect(value),
            ["--allow", value] => RuleArgument::allow(value),
            other => panic!("{other:?} is not a rule"),
        })
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    Policy::load(None, rules).unwrap().0
}

/// What a decision means in the table's words.
fn in_words(policy: &Policy, case: &Case, decision: &Decision) -> Expect {
    let label = |rule: u32| (rule != NO_RULE).then(|| policy.rules[rule as usize].label.clone());
    let redirect_to = decision
        .destination()
        .filter(|_| decision.verdict == Action::Redirect)
        .map(|to| {
            let port = if to.port == 0 { case.port } else { to.port };
            SocketAddr::new(IpAddr::from(octets_from_words(to.addr_be)).to_canonical(), port)
        });
    Expect {
        verdict: decision.verdict,
        errno: (decision.verdict == Action::Reject)
            .then(|| errno::by_number(decision.errno))
            .flatten(),
        redirect_to,
        rule: label(decision.rule),
        would: decision.would,
        would_rule: label(decision.would_rule),
        unmovable: decision.unmovable,
    }
}

#[test]
fn the_table_through_decide() {
    for group in load().unwrap() {
        let policy = policy_of(&group);
        let compiled = compile(&policy.rules, &[DEFAULT_GROUP.to_owned()], &Live::default()).unwrap();
        for case in &group.cases {
            let protocol = match case.socket {
                SocketKind::Tcp | SocketKind::Fastopen => IPPROTO_TCP,
                SocketKind::Mptcp => IPPROTO_MPTCP,
                SocketKind::Udp => IPPROTO_UDP,
                SocketKind::Ping => IPPROTO_ICMPV6,
            };
            let address = words_from_octets(case.dest.octets());
            let connect = Connect::new(address, case.port, protocol, group.mode);
            let decision = decide(&compiled, &circumstances(case), &connect).unwrap();
            assert_eq!(
                in_words(&policy, case, &decision),
                case.expect,
                "{}: {case:?}",
                group.name
            );
        }
    }
}

const NAME: &str = "the_table_through_connect";

#[test]
fn the_table_through_connect() {
    let support = Support::probe().unwrap();
    let mut missing = Vec::new();
    for group in load().unwrap() {
        missing.extend(Execution::of(&group, support).run());
    }
    missing.sort_unstable();
    missing.dedup();
    for need in missing {
        let _ = need_given(NAME, need, false);
    }
}

/// Whether the kernel calls connect6 programs for ping sockets: asked once, by one that is to be rejected.
fn ping_is_governed() -> bool {
    static GOVERNED: OnceLock<bool> = OnceLock::new();
    *GOVERNED.get_or_init(|| {
        let netns = NetnsFixture::new().unwrap();
        netns.set("ipv4/ping_group_range", "0 2147483647").unwrap();
        let address = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
        netns.add_local([address]).unwrap();
        let cgroup = CgroupFixture::new("ping").unwrap();
        let mut client = Client::start(&Place::new(&cgroup, &netns)).unwrap();
        let ping = Ping::new(SocketKind::Ping, (address, 0).into());
        assert!(client.connect(ping.clone()).unwrap().ok, "ungoverned it connects");
        let path = cgroup.relative_path();
        let arguments = ["--cgroup", &path, "--reject", "2001:db8::/32"];
        let enforcer = Enforcer::run(&Place::outside(&netns), arguments).unwrap();
        let answer = client.connect(ping).unwrap();
        drop(enforcer);
        !answer.ok
    })
}

/// One group, with the programs loaded.
struct Execution<'group> {
    group: &'group Group,
    support: Support,
    world: World,
    client: Client,
    cgroup: CgroupFixture,
    missing: Vec<Need>,
}

impl<'group> Execution<'group> {
    fn of(group: &'group Group, support: Support) -> Self {
        let world = World::new(group).unwrap();
        let cgroup = CgroupFixture::new("verdicts").unwrap();
        let client = Client::start(&Place::new(&cgroup, &world.netns)).unwrap();
        Self {
            group,
            support,
            world,
            client,
            cgroup,
            missing: Vec::new(),
        }
    }

    fn run(mut self) -> Vec<Need> {
        self.ungoverned("before");
        let mut arguments = vec!["--cgroup".to_owned(), self.cgroup.relative_path()];
        arguments.extend(["--output", "json"].map(str::to_owned));
        arguments.extend(self.group.arguments_with_mode().into_iter().map(str::to_owned));
        let enforcer = Enforcer::run(&Place::outside(&self.world.netns), arguments).unwrap();
        let mut events = 0;
        for case in &self.group.cases {
            self.governed(&enforcer, case, &mut events);
        }
        let finished = enforcer.terminate().unwrap();
        assert!(finished.status.success(), "{finished:?}");
        assert_eq!(
            finished.stdout.len(),
            events,
            "events after the last one: {:?}",
            finished.stdout
        );
        self.ungoverned("after");
        self.missing
    }

    /// Every connect of the group succeeds without enforcer, so what fails under it failed because of it.
    fn ungoverned(&mut self, when: &str) {
        for case in &self.group.cases {
            let answer = self.client.connect(case.connect()).unwrap();
            if self.is_impossible(case, &answer) {
                continue;
            }
            assert!(answer.ok, "{when}: {}: {case:?}: {answer:?}", self.group.name);
        }
    }

    /// The kernel does not make such sockets.
    fn is_impossible(&mut self, case: &Case, answer: &Answer) -> bool {
        let impossible = case.socket == SocketKind::Mptcp && answer.step.as_deref() == Some("socket");
        if impossible {
            self.missing.push(Need::Mptcp);
        }
        impossible
    }

    fn governed(&mut self, enforcer: &Enforcer, case: &Case, events: &mut usize) {
        let context = format!("{}: {case:?}", self.group.name);
        let expect = &case.expect;
        let answer = self.client.connect(case.connect()).unwrap();
        if self.is_impossible(case, &answer) {
            return;
        }
        if case.socket == SocketKind::Ping && !ping_is_governed() {
            self.missing.push(Need::GovernedPing);
            return;
        }
        let event = enforcer.wait_for_events(*events + 1).unwrap().remove(*events);
        *events += 1;
        if case.needs == Some(Needs::V6only) && self.support.v6only_mask.is_none() {
            self.missing.push(Need::V6OnlyVisible);
            return;
        }
        match expect.verdict {
            Action::Reject => {
                let errno = expect.errno.map(|errno| self.support.errno_caller(errno));
                assert_eq!(
                    answer.errno,
                    errno.map(|errno| i32::from(errno.number)),
                    "{context}: {answer:?}"
                );
                assert_eq!(
                    event["errno_caller"],
                    json!(errno.map(|errno| errno.number)),
                    "{context}"
                );
            }
            Action::Allow => assert!(answer.ok, "{context}: {answer:?}"),
            Action::Redirect => {
                assert!(answer.ok, "{context}: {answer:?}");
                self.assert_arrived(case, &answer, &context);
            }
        }
        self.assert_event(case, &event, &context);
    }

    /// A redirected connect arrives where the table says, and nowhere else; the application sees what it asked for.
    fn assert_arrived(&self, case: &Case, answer: &Answer, context: &str) {
        let to = case.expect.redirect_to.expect("the loader checks it");
        let asked = SocketAddr::new(case.dest.into(), case.port);
        let shows_it = |peer: SocketAddr| SocketAddr::new(peer.ip().to_canonical(), peer.port()) == to;
        match answer.peer {
            Some(peer) if peer == asked => {}
            // The kernel asks for the verdict of one socket, the first subflow, and for the peer of another.
            Some(peer) if case.socket == SocketKind::Mptcp && shows_it(peer) => {}
            _ => panic!("{context}: {answer:?}"),
        }
        if matches!(case.socket, SocketKind::Udp | SocketKind::Ping) {
            return;
        }
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let from = answer.local.map(canonical);
        let arrived = || {
            let accepted = self.world.accepted();
            accepted
                .iter()
                .any(|one| Some(canonical(one.from)) == from && canonical(one.at) == to)
        };
        eventually("the redirected connection to arrive", PATIENCE, arrived).expect(context);
    }

    fn assert_event(&self, case: &Case, event: &Value, context: &str) {
        let expect = &case.expect;
        let word = |action: Action| match action {
            Action::Allow => "allow",
            Action::Reject => "reject",
            Action::Redirect => "redirect",
        };
        let redirect_to = expect.redirect_to.map(|to| match to.port() == case.port {
            true => to.ip().to_string(),
            false => to.to_string(),
        });
        let unmovable = expect.unmovable.map(|reason| match reason {
            Unmovable::Ping => "ping",
            Unmovable::Bound => "bound",
            Unmovable::V6Only => "v6only",
            Unmovable::Unconnected => "unconnected",
        });
        let mode = match self.group.mode {
            Mode::Enforce => "enforce",
            Mode::Audit => "audit",
        };
        for (field, wanted) in [
            ("verdict", json!(word(expect.verdict))),
            ("would", json!(expect.would.map(word))),
            ("would_rule", json!(expect.would_rule)),
            ("mode", json!(mode)),
            ("errno", json!(expect.errno.map(|errno| errno.name))),
            ("daddr", json!(case.dest)),
            ("dport", json!(case.port)),
            ("rule", json!(expect.rule)),
            ("unmovable", json!(unmovable)),
            ("cgroup", json!(self.cgroup.relative_path())),
            ("cgroup_id", json!(self.cgroup.id())),
            ("pid", json!(self.client.pid())),
        ] {
            assert_eq!(event[field], wanted, "{field} of {context}: {event}");
        }
        if unmovable.is_none() {
            assert_eq!(event["redirect_to"], json!(redirect_to), "{context}: {event}");
        } else {
            assert!(event["redirect_to"].is_string(), "{context}: {event}");
        }
    }
}
