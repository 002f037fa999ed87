//! The verdict table, executed twice: through `decide` on the compiled policy, and through `connect(2)` with the
//! programs loaded. Any difference between the two is a bug in one of them.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use enforcer::{
    kernel::Support,
    policy::{
        Policy,
        compile::compile,
        live::Live,
        rule::{Expires, Rule},
    },
};
use enforcer_common::{
    address::{octets_from_words, words_from_octets},
    clause::{Action, IPPROTO_ICMPV6, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, NO_RULE, text_hash},
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
    verdicts::{Batch, Call, Callers, Case, Expect, Group, Needs, World, batches, load},
    wait::{PATIENCE, eventually},
};
use rustix::process::getuid;
use serde_json::{Value, json};

/// When the cases happen for `decide`, on CLOCK_BOOTTIME: a day after the machine has started.
const BOOT: Duration = Duration::from_hours(24);

/// A case as `decide` sees its caller and socket.
fn circumstances(policy: &Policy, case: &Case) -> Known {
    let bound = case
        .bind
        .filter(|bind| !bind.is_unspecified() && bind.to_ipv4_mapped().is_none());
    let unmovable = match (case.call, case.socket, bound, case.v6only) {
        (Call::Sendto, ..) => Some(Unmovable::Unconnected),
        (_, SocketKind::Ping, ..) => Some(Unmovable::Ping),
        (_, _, Some(_), _) => Some(Unmovable::Bound),
        (_, _, _, Some(true)) => Some(Unmovable::V6Only),
        _ => None,
    };
    Known {
        unmovable,
        uid: case.uid.unwrap_or_default(),
        process: (2..)
            .find(|process| case.is_about(&policy.rules, *process))
            .unwrap(),
        socket: 0,
        boot_ns: ns(BOOT),
    }
}

fn ns(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap()
}

/// When the rules end, if they are loaded when the cases happen.
fn live(policy: &Policy) -> Live {
    let now = SystemTime::now();
    let left = |expires| match expires {
        Expires::At(time) => time.duration_since(now).ok(),
        Expires::After(duration) => Some(duration),
    };
    let ends = (0..).zip(&policy.rules).filter_map(|(index, rule)| {
        let end = left(rule.expires?).map_or(1, |left| ns(BOOT + left));
        Some((index, end))
    });
    Live {
        deadlines_boot_ns: ends.collect(),
        ..Live::default()
    }
}

/// The lists of canaries that name the group's target.
fn canaries(group: &Group, policy: &Policy) -> u64 {
    let rollouts = policy.rules.iter().filter_map(|rule| rule.rollout.as_ref());
    let naming = rollouts.filter(|rollout| rollout.canary.iter().any(|name| name == group.target_name()));
    naming.fold(0, |canaries, rollout| canaries | 1 << (rollout.canary_list - 1))
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
        left_out: label(decision.left_out_rule),
        unmovable: decision.unmovable,
    }
}

#[test]
fn the_table_through_decide() {
    for group in load().unwrap() {
        let policy = group.checked_policy().unwrap();
        let compiled = compile(&policy.rules, &group.target.groups, &live(&policy)).unwrap();
        for case in &group.cases {
            let protocol = match case.socket {
                SocketKind::Tcp | SocketKind::Fastopen => IPPROTO_TCP,
                SocketKind::Mptcp => IPPROTO_MPTCP,
                SocketKind::Udp => IPPROTO_UDP,
                SocketKind::Ping => IPPROTO_ICMPV6,
            };
            let address = words_from_octets(case.dest.octets());
            let connect = Connect {
                rollout_key: text_hash(group.target_name().as_bytes()),
                canaries: canaries(&group, &policy),
                ..Connect::new(address, case.port, protocol, group.mode)
            };
            let decision = decide(&compiled, &circumstances(&policy, case), &connect).unwrap();
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
    for batch in batches(&load().unwrap()).unwrap() {
        missing.extend(run(&batch, support));
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

/// Executes groups under one `enforcer run`. What the kernel lacks for some of them comes back.
fn run(batch: &Batch<'_>, support: Support) -> Vec<Need> {
    let mut executions: Vec<_> = batch
        .groups
        .iter()
        .map(|group| Execution::of(group, support))
        .collect();
    for one in &mut executions {
        one.ungoverned("before");
    }
    let files = tempfile::tempdir().unwrap();
    let cgroups: Vec<_> = executions.iter().map(|one| one.cgroup.relative_path()).collect();
    let arguments = arguments(batch, &cgroups, files.path());
    let place = Place::outside(&executions[0].world.netns);
    let enforcer = Enforcer::run(&place, arguments).unwrap();
    let mut events = 0;
    for one in &mut executions {
        for case in &one.group.cases {
            one.governed(&enforcer, case, &mut events);
        }
    }
    let finished = enforcer.terminate().unwrap();
    assert!(finished.status.success(), "{finished:?}");
    let after = finished.stdout.get(events..);
    assert_eq!(after, Some(&[][..]), "events after the last one, of {events}");
    for one in &mut executions {
        one.ungoverned("after");
    }
    executions.into_iter().flat_map(|one| one.missing).collect()
}

/// What `enforcer run` is told to govern those cgroups. Files that it needs are in that directory.
fn arguments(batch: &Batch<'_>, cgroups: &[String], files: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["--output", "json"].map(OsString::from).into();
    match batch.policy_file(cgroups).unwrap() {
        None => arguments.extend(["--cgroup", &cgroups[0]].map(OsString::from)),
        Some(text) => {
            let policy = files.join("policy.toml");
            fs::write(&policy, text).unwrap();
            arguments.extend(["--policy".into(), policy.into()]);
            arguments.extend(["--state-dir".into(), files.join("state").into()]);
        }
    }
    arguments.extend(batch.groups[0].arguments().into_iter().map(OsString::from));
    arguments
}

/// One group, with the programs loaded.
struct Execution<'group> {
    group: &'group Group,
    rules: Vec<Rule>,
    support: Support,
    world: World,
    callers: Callers,
    cgroup: CgroupFixture,
    missing: Vec<Need>,
}

impl<'group> Execution<'group> {
    fn of(group: &'group Group, support: Support) -> Self {
        Self {
            group,
            rules: group.checked_policy().unwrap().rules,
            support,
            world: World::new(group).unwrap(),
            callers: Callers::default(),
            cgroup: CgroupFixture::new("verdicts").unwrap(),
            missing: Vec::new(),
        }
    }

    fn call(&mut self, case: &Case) -> Answer {
        let place = Place::new(&self.cgroup, &self.world.netns);
        self.callers.call(&place, &self.rules, case).unwrap()
    }

    /// Every connect of the group succeeds without enforcer, so what fails under it failed because of it.
    fn ungoverned(&mut self, when: &str) {
        for case in &self.group.cases {
            let answer = self.call(case);
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
        let answer = self.call(case);
        if self.is_impossible(case, &answer) {
            return;
        }
        if case.socket == SocketKind::Ping && !ping_is_governed() {
            self.missing.push(Need::GovernedPing);
            return;
        }
        let event = enforcer.wait_for_event(*events).unwrap();
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
        self.assert_event(case, &answer, &event, &context);
    }

    /// A redirected connect arrives where the table says, and nowhere else; the application sees what it asked for,
    /// unless the rule shows it.
    fn assert_arrived(&self, case: &Case, answer: &Answer, context: &str) {
        let to = case.expect.redirect_to.expect("the loader checks it");
        let asked = SocketAddr::new(case.dest.into(), case.port);
        let shows_it = |peer: SocketAddr| SocketAddr::new(peer.ip().to_canonical(), peer.port()) == to;
        let acts = self
            .rules
            .iter()
            .find(|rule| Some(&rule.label) == case.expect.rule.as_ref());
        let is_hidden = acts.expect("the loader checks it").transparent;
        match answer.peer {
            Some(peer) if peer == asked && is_hidden => {}
            Some(peer) if shows_it(peer) && !is_hidden => {}
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

    fn assert_event(&self, case: &Case, answer: &Answer, event: &Value, context: &str) {
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
        let (hook, datagrams) = match case.call {
            Call::Sendto => ("sendmsg", Some(1)),
            Call::Connect | Call::ConnectAndSend => ("connect", None),
        };
        let cgroup = self.cgroup.relative_path();
        let target = match self.group.policy {
            Some(_) => self.group.target_name(),
            None => &cgroup,
        };
        let told = |name: &Option<String>| {
            let rule = self.rules.iter().find(|rule| Some(&rule.label) == name.as_ref());
            json!(rule.map(|rule| self.group.name_in_batch(&rule.label, rule.rollout.is_some())))
        };
        for (field, wanted) in [
            ("verdict", json!(word(expect.verdict))),
            ("would", json!(expect.would.map(word))),
            ("would_rule", told(&expect.would_rule)),
            ("mode", json!(mode)),
            ("errno", json!(expect.errno.map(|errno| errno.name))),
            ("daddr", json!(case.dest)),
            ("dport", json!(case.port)),
            ("rule", told(&expect.rule)),
            ("unmovable", json!(unmovable)),
            ("left_out", told(&expect.left_out)),
            ("hook", json!(hook)),
            ("datagrams", json!(datagrams)),
            ("target", json!(target)),
            ("cgroup", json!(cgroup)),
            ("cgroup_id", json!(self.cgroup.id())),
            ("pid", json!(answer.pid)),
            ("uid", json!(case.uid.unwrap_or(getuid().as_raw()))),
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
