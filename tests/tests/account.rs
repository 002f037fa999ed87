//! The account of connects and events, and the promise of attaching: the library used as `enforcer run` uses it, but
//! with a ring buffer of one page, thousands of cgroups, and connects that never pause.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{env, path::Path, sync::Arc};

use enforcer::{
    daemon::{Governing, Now, Plan, PlannedCgroup, PlannedTarget, StartOptions},
    events::hub::{Item, Subscription},
    kernel::{Content, Kernel, LoadOptions, Support},
    policy::{
        Policy, argument::RuleArgument, compile::compile, compiled::CompiledPolicy, live::Live,
        rule::DEFAULT_GROUP,
    },
    targets::{Cgroup, Hierarchy},
};
use enforcer_common::{
    binding::{Binding, EventsWanted, LAYOUT_VERSION},
    clause::Action,
    counters::Fault,
    decide::Mode,
};
use enforcer_tests::{
    cgroup::CgroupFixture,
    client::Client,
    netns::NetnsFixture,
    place::Place,
    protocol::{Connect, Request, SocketKind, errno_name},
    server::Server,
};
use rustix::param::page_size;

/// Chosen because no machine here would give it by itself.
const ERRNO: &str = "EHOSTDOWN";
const ADDRESS: &str = "2001:db8::1";

fn policy(rules: &[&str]) -> (Policy, Arc<CompiledPolicy>) {
    let rules = rules
        .iter()
        .map(|rule| RuleArgument::reject(rule).unwrap())
        .collect();
    let (policy, _) = Policy::load(None, rules).unwrap();
    let compiled = compile(&policy.rules, &[DEFAULT_GROUP.to_owned()], &Live::default()).unwrap();
    (policy, Arc::new(compiled))
}

fn open(cgroup: &CgroupFixture) -> Cgroup {
    let path = cgroup.relative_path();
    Cgroup::open(&Hierarchy::find().unwrap(), Path::new(&path)).unwrap()
}

fn plan<'a>(
    policy: &Policy,
    compiled: &Arc<CompiledPolicy>,
    cgroups: impl IntoIterator<Item = &'a CgroupFixture>,
) -> Plan {
    let cgroups = cgroups
        .into_iter()
        .map(|cgroup| PlannedCgroup {
            cgroup: Arc::new(open(cgroup)),
            has_outer: false,
            has_inner: false,
        })
        .collect();
    let target = PlannedTarget {
        name: "test".to_owned(),
        number: 0,
        cgroups,
        policy: Arc::clone(compiled),
        groups: vec![DEFAULT_GROUP.to_owned()],
    };
    Plan {
        targets: vec![target],
        rules: policy.rules.clone().into(),
    }
}

const fn options(events: EventsWanted, ring_bytes: u32) -> StartOptions {
    StartOptions {
        mode: Mode::Enforce,
        events,
        bpf_log: None,
        ring_bytes,
        targets: 0,
    }
}

/// A namespace with a server on [`ADDRESS`].
fn world() -> (NetnsFixture, Server) {
    let netns = NetnsFixture::new().unwrap();
    let address = ADDRESS.parse().unwrap();
    netns.add_local([address]).unwrap();
    let server = Server::echo(&netns, [(address, 0).into()]).unwrap();
    (netns, server)
}

fn rejected_as(support: &Support) -> String {
    let errno = support.errno_caller(enforcer_common::errno::by_name(ERRNO).unwrap());
    errno_name(i32::from(errno.number))
}

fn drain(events: &mut Subscription) -> (u64, u64) {
    let (mut delivered, mut lost) = (0, 0);
    while let Some(item) = events.try_next() {
        match item {
            Item::Connect(_) => delivered += 1,
            Item::Lost { count, .. } => lost += count,
        }
    }
    (delivered, lost)
}

#[test]
fn a_full_ring_buffer_still_enforces_and_seen_is_delivered_plus_lost() {
    const CONNECTS: u32 = 500;
    let support = Support::probe().unwrap();
    let (netns, server) = world();
    let cgroup = CgroupFixture::new("full-ring").unwrap();
    let (policy, compiled) = policy(&[&format!("2001:db8::/32,errno={ERRNO}")]);
    let mut client = Client::start(&Place::new(&cgroup, &netns)).unwrap();
    assert!(
        client.connect_tcp(server.address()).unwrap().ok,
        "ungoverned it connects"
    );

    let ring_bytes = u32::try_from(page_size()).unwrap();
    let plan = plan(&policy, &compiled, [&cgroup]);
    let governing = Governing::start(
        &support,
        &plan,
        &options(EventsWanted::All, ring_bytes),
        Now::default(),
    )
    .unwrap();
    let mut events = governing.subscribe();
    let connect = Connect::new(SocketKind::Tcp, server.address());
    // Nobody reads the ring meanwhile, so it is full after a few dozen.
    let answer = client
        .ask(&Request::Repeat {
            connect,
            times: CONNECTS,
        })
        .unwrap();
    let outcomes = answer.outcomes.unwrap();
    assert_eq!(
        outcomes.get(&rejected_as(&support)),
        Some(&u64::from(CONNECTS)),
        "{outcomes:?}"
    );

    let report = governing.finish().unwrap();
    let counters = report.targets[0].counters;
    let (delivered, lost) = drain(&mut events);
    assert_eq!(counters.seen(), u64::from(CONNECTS));
    assert_eq!(counters.done(Action::Reject), u64::from(CONNECTS));
    assert_eq!((counters.events, counters.lost), (delivered, lost));
    assert_eq!(delivered + lost, u64::from(CONNECTS));
    assert!(
        delivered > 0 && lost > 0,
        "{delivered} delivered, {lost} lost: the ring was to fill"
    );
    assert_eq!(report.wanted, u64::from(CONNECTS));

    assert!(
        client.connect_tcp(server.address()).unwrap().ok,
        "after detach it connects"
    );
}

#[test]
fn what_is_wanted_is_applied_in_the_kernel() {
    let support = Support::probe().unwrap();
    let (netns, server) = world();
    let cgroup = CgroupFixture::new("wanted").unwrap();
    let (policy, compiled) = policy(&[&format!("2001:db8:ffff::/48,errno={ERRNO}")]);
    let mut client = Client::start(&Place::new(&cgroup, &netns)).unwrap();
    for (wanted, events_of_allowed) in [
        (EventsWanted::None, 0),
        (EventsWanted::Acted, 0),
        (EventsWanted::All, 3),
    ] {
        let plan = plan(&policy, &compiled, [&cgroup]);
        let governing = Governing::start(&support, &plan, &options(wanted, 1 << 16), Now::default()).unwrap();
        for _ in 0..3 {
            assert!(client.connect_tcp(server.address()).unwrap().ok);
        }
        let counters = governing.finish().unwrap().targets[0].counters;
        assert_eq!(
            (counters.seen(), counters.events),
            (3, events_of_allowed),
            "{wanted:?}"
        );
    }
}

#[test]
fn attaching_under_load_never_judges_without_a_binding() {
    let attaches: u32 = env::var("ENFORCER_ATTACHES").map_or(20, |count| count.parse().unwrap());
    let support = Support::probe().unwrap();
    let (netns, server) = world();
    let cgroup = CgroupFixture::new("attach").unwrap();
    let (_, compiled) = policy(&[&format!("2001:db8::/32,errno={ERRNO}")]);
    let mut kernel = Kernel::load(&support, &LoadOptions::default()).unwrap();
    let installed = kernel.install(&Content::plain(&compiled)).unwrap().0;
    let open = open(&cgroup);
    let binding = Binding {
        layout_version: LAYOUT_VERSION,
        policy_slot: installed.slot,
        cgroup_id: cgroup.id(),
        target: 1,
        ..Binding::default()
    };
    let mut client = Client::start(&Place::new(&cgroup, &netns)).unwrap();
    let mut connect = Connect::new(SocketKind::Udp, server.address());
    connect.timeout_ms = 1_000;
    let times = attaches * 500;
    client.tell(&Request::Repeat { connect, times }).unwrap();
    for _ in 0..attaches {
        drop(kernel.attach(&open, binding).unwrap());
    }
    // The last one stays until the connects are done, so that some are certainly judged.
    let attachment = kernel.attach(&open, binding).unwrap();
    let outcomes = client.answer().unwrap().outcomes.unwrap();
    drop(attachment);
    let counters = kernel.counters().unwrap();
    assert_eq!(counters[0].fault(Fault::Unconfigured), 0, "{outcomes:?}");
    let rejected = outcomes.get(&rejected_as(&support)).copied().unwrap_or(0);
    assert_eq!(counters[1].done(Action::Reject), rejected, "{outcomes:?}");
    let allowed = outcomes.get("ok").copied().unwrap_or(0);
    assert_eq!(rejected + allowed, u64::from(times), "{outcomes:?}");
    assert!(rejected > 0, "{outcomes:?}");
}

#[test]
fn a_fixed_policy_governs_whatever_the_binding_says() {
    let support = Support::probe().unwrap();
    let (netns, server) = world();
    let cgroup = CgroupFixture::new("fixed").unwrap();
    let (_, compiled) = policy(&[&format!("2001:db8::/32,errno={ERRNO}")]);
    let mut client = Client::start(&Place::new(&cgroup, &netns)).unwrap();
    // Without it a binding of zeroes allows, and is counted apart.
    for (fixed_policy, outcome, unconfigured) in
        [(None, "ok".to_owned(), 1), (Some(1), rejected_as(&support), 0)]
    {
        let options = LoadOptions {
            fixed_policy,
            ..LoadOptions::default()
        };
        let mut kernel = Kernel::load(&support, &options).unwrap();
        assert_eq!(kernel.install(&Content::plain(&compiled)).unwrap().0.slot, 1);
        let binding = Binding {
            cgroup_id: cgroup.id(),
            ..Binding::default()
        };
        let attachment = kernel.attach(&open(&cgroup), binding).unwrap();
        assert_eq!(client.connect_tcp(server.address()).unwrap().outcome(), outcome);
        assert_eq!(
            kernel.counters().unwrap()[0].fault(Fault::Unconfigured),
            unconfigured
        );
        drop(attachment);
        assert!(client.connect_tcp(server.address()).unwrap().ok);
    }
}

#[test]
fn equal_policies_are_one() {
    let support = Support::probe().unwrap();
    let mut kernel = Kernel::load(&support, &LoadOptions::default()).unwrap();
    let (_, one) = policy(&["2001:db8::/32"]);
    let (_, same) = policy(&["2001:db8::/32"]);
    let (_, other) = policy(&["2001:db8::/33"]);
    let first = kernel.install(&Content::plain(&one)).unwrap().0;
    assert_eq!(kernel.install(&Content::plain(&same)).unwrap().0, first);
    assert_ne!(kernel.install(&Content::plain(&other)).unwrap().0, first);
}

#[test]
fn many_cgroups_are_governed_at_once() {
    let count: usize = env::var("ENFORCER_CGROUPS").map_or(64, |count| count.parse().unwrap());
    let support = Support::probe().unwrap();
    let (netns, server) = world();
    let parent = CgroupFixture::new("many").unwrap();
    let cgroups: Vec<_> = (0..count)
        .map(|n| parent.child(&format!("n{n}")).unwrap())
        .collect();
    let (policy, compiled) = policy(&[&format!("2001:db8::/32,errno={ERRNO}")]);
    let plan = plan(&policy, &compiled, &cgroups);
    let governing = Governing::start(
        &support,
        &plan,
        &options(EventsWanted::Acted, 1 << 16),
        Now::default(),
    )
    .unwrap();
    assert_eq!(governing.cgroups(), count);
    let sample: Vec<_> = cgroups.iter().step_by((count / 8).max(1)).collect();
    for cgroup in &sample {
        let mut client = Client::start(&Place::new(cgroup, &netns)).unwrap();
        assert_eq!(
            client.connect_tcp(server.address()).unwrap().outcome(),
            rejected_as(&support)
        );
    }
    let mut outside = Client::start(&Place::new(&parent, &netns)).unwrap();
    assert!(
        outside.connect_tcp(server.address()).unwrap().ok,
        "their parent is not governed"
    );
    let report = governing.finish().unwrap();
    assert_eq!(
        report.targets[0].counters.done(Action::Reject),
        sample.len() as u64
    );
    let mut freed = Client::start(&Place::new(&cgroups[0], &netns)).unwrap();
    assert!(freed.connect_tcp(server.address()).unwrap().ok);
}

#[test]
fn a_policy_of_many_entries_decides_as_a_small_one() {
    let count: u32 = env::var("ENFORCER_ENTRIES").map_or(20_000, |count| count.parse().unwrap());
    let support = Support::probe().unwrap();
    let (netns, server) = world();
    let cgroup = CgroupFixture::new("entries").unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Host prefixes all over 2001:db8:1::/48, which the server is not in.
    let list: String = (1..count)
        .map(|n| format!("2001:db8:1:{:x}:{:x}::/80\n", n >> 16, n & 0xffff))
        .collect();
    std::fs::write(folder.path().join("list.txt"), list + "2001:db8::1/128\n").unwrap();
    let text = format!(
        "version = 1\n[[rule]]\nname = \"list\"\naction = \"reject\"\nerrno = \"{ERRNO}\"\nprefixes_file = \"list.txt\"\n"
    );
    let (policy, _) = Policy::from_text(&folder.path().join("p.toml"), text, Vec::new()).unwrap();
    let compiled = Arc::new(compile(&policy.rules, &[DEFAULT_GROUP.to_owned()], &Live::default()).unwrap());
    assert!(compiled.entries().len() >= count as usize);
    let plan = plan(&policy, &compiled, [&cgroup]);
    let governing = Governing::start(
        &support,
        &plan,
        &options(EventsWanted::All, 1 << 16),
        Now::default(),
    )
    .unwrap();
    let mut client = Client::start(&Place::new(&cgroup, &netns)).unwrap();
    assert_eq!(
        client.connect_tcp(server.address()).unwrap().outcome(),
        rejected_as(&support)
    );
    drop(governing);
    assert!(client.connect_tcp(server.address()).unwrap().ok);
}
