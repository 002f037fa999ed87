//! Reloads while connects are made without a pause: each connect meets the old policy or the new one, none meets no policy,
//! and none that begins after a reload meets the old one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use enforcer::{
    kernel::{Content, Kernel, LoadOptions},
    policy::{
        Policy,
        argument::RuleArgument,
        compile::compile,
        compiled::CompiledPolicy,
        live::Live,
        overlay::{Answers, Becomes, overlay},
        rule::DEFAULT_GROUP,
    },
    targets::{Cgroup, Hierarchy},
};
use enforcer_common::{
    binding::{Binding, EventsWanted, LAYOUT_VERSION},
    decide::Mode,
};
use enforcer_tests::{
    client::Client,
    enforcer::Enforcer,
    kernel::{caller_sees, support},
    phase::{LAST, Phase},
    place::Place,
    policy::{PolicyFile, rejecting, target},
    protocol::{Connect, Request, SocketKind, phases},
    scene::{A, Scene},
    wait::{PATIENCE, eventually},
};

/// Threads that connect.
const THREADS: u32 = 8;

const PREFIX_A: &str = "2001:db8:a::/48";

/// What rejects, in turn. Neither is what this network gives by itself.
const ERRNOS: [&str; 2] = ["EHOSTDOWN", "ENETDOWN"];

fn reloads() -> u64 {
    env::var("ENFORCER_RELOADS").map_or(20, |count| count.parse().unwrap())
}

/// Somebody who connects without a pause. Phase 2k: policy k is in force; phase 2k + 1: k + 1 is being put into its place.
struct Hammer {
    client: Client,
    phase: Phase,
    path: PathBuf,
}

impl Hammer {
    fn start(mut client: Client, directory: &Path, connect: Connect) -> Self {
        let path = directory.join("phase");
        let phase = Phase::create(&path).unwrap();
        let hammer = Request::Hammer {
            connect,
            threads: THREADS,
            phase: path.clone(),
        };
        client.tell(&hammer).unwrap();
        Self { client, phase, path }
    }

    /// The policy that is in force is about to be replaced.
    fn begin(&self) {
        self.phase.set(self.phase.get() + 1);
    }

    /// The next policy is in force. Waits until connects have been made that began after that: of as many as there are
    /// threads one may have been made by each before.
    fn settled(&self) {
        self.phase.set(self.phase.get() + 1);
        let enough = self.phase.counted() + 2 * u64::from(THREADS);
        eventually("the hammer to fall", PATIENCE, || self.phase.counted() >= enough).unwrap();
    }

    /// Ends it, and says what it saw.
    fn end(mut self) -> Seen {
        let last = self.phase.get();
        self.phase.set(LAST);
        let answer = self.client.answer().unwrap();
        fs::remove_file(self.path).unwrap();
        Seen {
            outcomes: answer.outcomes.unwrap(),
            last,
        }
    }
}

/// What the connects saw.
struct Seen {
    outcomes: BTreeMap<String, u64>,
    /// The last phase but the one in which everybody ends.
    last: u64,
}

impl Seen {
    /// The connects that met something else than the policies that were in force while they were made; `outcomes` are those
    /// of the policies, in turn.
    fn violations(&self, outcomes: &[&str]) -> Vec<(&str, u64)> {
        let is_violation = |text: &str| {
            let (before, after, outcome) = phases(text).unwrap();
            let (oldest, newest) = (before / 2, after.min(self.last).div_ceil(2));
            let mut possible = (oldest..=newest).map(|policy| outcomes[policy as usize % outcomes.len()]);
            !possible.any(|one| one == outcome)
        };
        let all = self.outcomes.iter().map(|(text, count)| (text.as_str(), *count));
        all.filter(|(text, _)| is_violation(text)).collect()
    }

    /// Connects that were wholly within a phase in which one policy was in force, and met it.
    fn settled(&self, outcome: &str) -> u64 {
        let is_settled = |text: &str| {
            let (before, after, met) = phases(text).unwrap();
            before == after && before % 2 == 0 && met == outcome
        };
        let all = self.outcomes.iter().filter(|(text, _)| is_settled(text));
        all.map(|(_, count)| *count).sum()
    }
}

/// IPv6 packets that have arrived in the namespace, where everything that is connected to is.
fn packets(scene: &Scene) -> u64 {
    let table = scene
        .netns
        .run(|| Ok(fs::read_to_string("/proc/thread-self/net/snmp6")?))
        .unwrap();
    let count = table.lines().find_map(|line| line.strip_prefix("Ip6InReceives"));
    count.unwrap().trim().parse().unwrap()
}

/// How many descriptors of BPF maps, programs and links it has open, and how many of cgroups.
fn descriptors_of(enforcer: &Enforcer) -> (usize, usize) {
    let folder = fs::read_dir(format!("/proc/{}/fd", enforcer.pid())).unwrap();
    let links = folder
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    let links: Vec<_> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let count = |part: &str| links.iter().filter(|link| link.contains(part)).count();
    (count("anon_inode:bpf"), count("/enforcer-test-"))
}

fn run(scene: &Scene, file: &PolicyFile) -> Enforcer {
    let arguments = file.arguments();
    let quiet = ["--events", "none"].map(str::to_owned);
    Enforcer::run(&scene.outside(), arguments.iter().chain(&quiet)).unwrap()
}

/// What is judged, by whom in turn, and how its connects end then.
struct Load<'test> {
    scene: &'test Scene,
    /// Where it is.
    place: Place<'test>,
    connect: Connect,
    texts: Vec<String>,
    outcomes: Vec<&'test str>,
}

impl Load<'_> {
    /// Reloads again and again while the hammer falls, and judges what it saw. Returns how many connects there were, and what
    /// enforcer said of them at the end.
    fn reload(self) -> (u64, Vec<String>) {
        let Self {
            scene,
            place,
            connect,
            texts,
            outcomes,
        } = self;
        let file = PolicyFile::new(&texts[0]).unwrap();
        let mut enforcer = run(scene, &file);
        let descriptors = descriptors_of(&enforcer);
        let mut client = Client::start(&place).unwrap();
        let hammer = Hammer::start(Client::start(&place).unwrap(), file.directory(), connect.clone());
        let count = reloads();
        for reload in 1..=count {
            let policy = usize::try_from(reload).unwrap() % texts.len();
            hammer.begin();
            file.reload(&mut enforcer, &texts[policy]).unwrap();
            hammer.settled();
            let answer = client.connect(connect.clone()).unwrap();
            let met = answer.peer.filter(|_| answer.ok);
            let met = met.map_or_else(|| answer.outcome(), |peer| peer.to_string());
            assert_eq!(met, outcomes[policy], "after reload {reload}");
        }
        let seen = hammer.end();
        // Back to the beginning; and once more, before which all that was in force is freed.
        for _ in 0..2 {
            file.reload(&mut enforcer, &texts[0]).unwrap();
        }
        assert_eq!(descriptors_of(&enforcer), descriptors);
        let finished = enforcer.terminate().unwrap();
        assert_eq!(finished.status.code(), Some(0), "{:#?}", finished.stderr);
        assert_eq!(seen.violations(&outcomes), []);
        for outcome in outcomes {
            assert!(seen.settled(outcome) > 0, "{outcome}: {:?}", seen.outcomes);
        }
        (seen.outcomes.values().sum::<u64>() + count, finished.stderr)
    }
}

#[test]
fn every_connect_meets_the_old_policy_or_the_new_one() {
    let scene = Scene::new("reload-load").unwrap();
    let web = target("web", &scene.path(), &["default"]);
    let texts = ERRNOS.map(|errno| [web.clone(), rejecting("default", PREFIX_A, errno)].concat());
    let before = packets(&scene);
    let load = Load {
        scene: &scene,
        place: scene.inside(),
        connect: Connect::new(SocketKind::Tcp, scene.to(A)),
        texts: texts.to_vec(),
        outcomes: ERRNOS.map(caller_sees).to_vec(),
    };
    load.reload();
    // No connect was let through, says who would have seen it; and sees one that is.
    assert_eq!(packets(&scene), before);
    assert_eq!(scene.server.accepted().len(), 0);
    scene.connects(&mut scene.client().unwrap(), A).unwrap();
    assert!(packets(&scene) > before);
}

/// The same where a verdict is more than an errno, which on some kernels all rejections share.
#[test]
fn every_connect_goes_where_the_old_policy_sends_it_or_the_new_one() {
    let scene = Scene::new("reload-redirect").unwrap();
    let web = target("web", &scene.path(), &["default"]);
    let to = ["192.0.2.1:4001", "192.0.2.1:4002"];
    let texts = to.map(|to| {
        format!(
            "{web}[[rule]]\nprefix = \"{PREFIX_A}\"\naction = \"redirect\"\nto = \"{to}\"\ntransparent = false\n"
        )
    });
    let outcomes = to.map(|to| format!("[::ffff:{}]:{}", &to[..9], &to[10..]));
    let load = Load {
        scene: &scene,
        place: scene.inside(),
        connect: Connect::new(SocketKind::Udp, scene.to(A)),
        texts: texts.to_vec(),
        outcomes: outcomes.iter().map(String::as_str).collect(),
    };
    load.reload();
}

/// Where targets within each other come and go, each connect is judged once, by the nearest: so each is counted once.
#[test]
fn every_connect_is_judged_once_while_targets_above_and_below_come_and_go() {
    let scene = Scene::new("reload-nested").unwrap();
    let middle = scene.cgroup.child("middle").unwrap();
    let inner = middle.child("inner").unwrap();
    let names = ["outer", "middle", "inner"];
    let errnos = ["EHOSTDOWN", "ENETDOWN", "ECONNABORTED"];
    let cgroups = [&scene.cgroup, &middle, &inner];
    let rules: String = names
        .iter()
        .zip(errnos)
        .map(|(name, errno)| rejecting(name, PREFIX_A, errno))
        .collect();
    let turns: [&[usize]; 9] = [
        &[0],
        &[0, 2],
        &[0, 1, 2],
        &[2],
        &[0, 2],
        &[1],
        &[0, 1, 2],
        &[1, 2],
        &[0, 1],
    ];
    let text = |targets: &&[usize]| {
        let targets = targets
            .iter()
            .map(|&at| target(names[at], &cgroups[at].relative_path(), &[names[at]]));
        [targets.collect(), rules.clone()].concat()
    };
    let nearest = |targets: &&[usize]| caller_sees(errnos[*targets.iter().max().unwrap()]);
    let before = packets(&scene);
    let load = Load {
        scene: &scene,
        place: Place::new(&inner, &scene.netns),
        connect: Connect::new(SocketKind::Tcp, scene.to(A)),
        texts: turns.iter().map(text).collect(),
        outcomes: turns.iter().map(nearest).collect(),
    };
    let (connects, said) = load.reload();
    let counted = format!("{connects} connects seen: 0 allowed, {connects} rejected, 0 redirected");
    assert!(said.contains(&counted), "{counted} in {said:#?}");
    assert!(!said.iter().any(|line| line.starts_with("faults")), "{said:#?}");
    assert_eq!(packets(&scene), before);
}

#[test]
fn a_policy_grows_past_all_that_it_had_room_for_and_shrinks_again() {
    let prefixes: u32 = env::var("ENFORCER_GROWTH").map_or(10_000, |count| count.parse().unwrap());
    let scene = Scene::new("reload-growth").unwrap();
    let mut client = scene.client().unwrap();
    let web = target("web", &scene.path(), &["default"]);
    let small = [web.clone(), rejecting("default", PREFIX_A, ERRNOS[0])].concat();
    let many = format!(
        "{web}{}[[rule]]\nprefixes_file = \"many\"\naction = \"reject\"\nerrno = \"{}\"\n",
        rejecting("default", PREFIX_A, ERRNOS[1]),
        ERRNOS[1]
    );
    let file = PolicyFile::new(&small).unwrap();
    let mut list = String::new();
    for number in 0..prefixes {
        writeln!(list, "2001:db9:{:x}:{:x}::/64", number >> 8, number & 0xff).unwrap();
    }
    fs::write(file.directory().join("many"), list).unwrap();
    let before = packets(&scene);
    let mut enforcer = run(&scene, &file);
    let connect = Connect::new(SocketKind::Tcp, scene.to(A));
    let hammer = Hammer::start(scene.client().unwrap(), file.directory(), connect);
    for (text, errno, is_large) in [(&many, ERRNOS[1], true), (&small, ERRNOS[0], false)] {
        hammer.begin();
        let line = file.reload(&mut enforcer, text).unwrap();
        hammer.settled();
        let entries = line.split(", ").find_map(|part| part.strip_suffix(" entries"));
        let entries: u32 = entries.map_or(1, |entries| entries.replace(',', "").parse().unwrap());
        assert_eq!(entries > prefixes, is_large, "{line}");
        scene.rejects(&mut client, A, errno).unwrap();
    }
    let seen = hammer.end();
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    assert_eq!(seen.violations(&ERRNOS.map(caller_sees)), []);
    assert_eq!(packets(&scene), before);
}

fn compiled(errno: &str) -> Arc<CompiledPolicy> {
    let rule = RuleArgument::reject(&format!("{PREFIX_A},errno={errno}")).unwrap();
    let (policy, _) = Policy::load(None, vec![rule]).unwrap();
    Arc::new(compile(&policy.rules, &[DEFAULT_GROUP.to_owned()], &Live::default()).unwrap())
}

/// A name has the address again and again by another rule, together with few others or many, so that maps of all sizes are
/// written again.
#[test]
fn every_connect_meets_the_old_addresses_of_a_name_or_the_new_ones() {
    let scene = Scene::new("reload-overlay").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let IpAddr::V6(address) = A else { unreachable!() };
    let rules = ERRNOS.map(|errno| {
        let name = errno.to_lowercase();
        format!("[[rule]]\nhost = \"{name}.example\"\naction = \"reject\"\nerrno = \"{errno}\"\n")
    });
    let text = format!("version = 1\n{}", rules.concat());
    let (policy, _) = Policy::from_text(Path::new("policy.toml"), text, Vec::new()).unwrap();
    let (groups, live) = ([DEFAULT_GROUP.to_owned()], Live::default());
    let base = Arc::new(compile(&policy.rules, &groups, &live).unwrap());
    let over = |turn: u32| {
        let others = [0, 5, 90, 700][turn as usize / 2 % 4];
        let others = (0..others).map(|number| Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, number));
        let addresses = others.chain([address]).map(|address| (address, Becomes::AsRuled));
        let answers = Answers::from([(turn % 2, addresses.collect())]);
        Arc::new(overlay(&policy.rules, &groups, &live, &base, &answers).compiled)
    };
    let mut kernel = Kernel::load(support(), &LoadOptions::default()).unwrap();
    let content = Content {
        scope: Some(0),
        overlay: over(0),
        ..Content::plain(&base)
    };
    let slot = kernel.install(&content).unwrap().0.slot;
    let cgroup = Cgroup::open(&Hierarchy::find().unwrap(), Path::new(&scene.path())).unwrap();
    let mut client = scene.client().unwrap();
    scene.connects(&mut client, A).unwrap();
    let attachment = kernel.attach(&cgroup, binding(&cgroup, slot)).unwrap();
    let connect = Connect::new(SocketKind::Tcp, scene.to(A));
    let hammer = Hammer::start(scene.client().unwrap(), directory.path(), connect);
    for turn in 1..=2 * u32::try_from(reloads()).unwrap() {
        let overlay = over(turn);
        hammer.begin();
        kernel.replace(slot, &base, overlay).unwrap();
        hammer.settled();
        scene.rejects(&mut client, A, ERRNOS[turn as usize % 2]).unwrap();
        kernel.give_back();
    }
    let seen = hammer.end();
    drop(attachment);
    let outcomes = ERRNOS.map(caller_sees);
    assert_eq!(seen.violations(&outcomes), []);
    for outcome in outcomes {
        assert!(seen.settled(outcome) > 0, "{outcome}: {:?}", seen.outcomes);
    }
    scene.connects(&mut client, A).unwrap();
}

fn binding(cgroup: &Cgroup, policy_slot: u32) -> Binding {
    Binding {
        layout_version: LAYOUT_VERSION,
        policy_slot,
        cgroup_id: cgroup.id(),
        target: 1,
        mode: Mode::Enforce as u8,
        events: EventsWanted::None as u8,
        ..Binding::default()
    }
}

/// What a reload must not do: take the old policy away, and then put the new one there. Whoever counts finds it out.
#[test]
fn a_policy_that_is_deleted_before_the_next_is_inserted_is_found_out() {
    let scene = Scene::new("reload-control").unwrap();
    let mut client = scene.client().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut kernel = Kernel::load(support(), &LoadOptions::default()).unwrap();
    let slots = ERRNOS.map(|errno| {
        let content = Content::plain(&compiled(errno));
        kernel.install(&content).unwrap().0.slot
    });
    let cgroup = Cgroup::open(&Hierarchy::find().unwrap(), Path::new(&scene.path())).unwrap();
    let binding = |slot| binding(&cgroup, slot);
    let attachment = kernel.attach(&cgroup, binding(slots[0])).unwrap();
    scene.rejects(&mut client, A, ERRNOS[0]).unwrap();
    let before = packets(&scene);
    let connect = Connect::new(SocketKind::Tcp, scene.to(A));
    let hammer = Hammer::start(scene.client().unwrap(), directory.path(), connect);
    for policy in 1..=200 {
        hammer.begin();
        kernel.bind(binding(0)).unwrap();
        // As long as it takes, on a machine with many processors and on one with few.
        thread::yield_now();
        kernel.bind(binding(slots[policy % 2])).unwrap();
        hammer.settled();
        scene.rejects(&mut client, A, ERRNOS[policy % 2]).unwrap();
    }
    let seen = hammer.end();
    drop(attachment);
    let violations = seen.violations(&ERRNOS.map(caller_sees));
    assert!(!violations.is_empty(), "{:?}", seen.outcomes);
    assert!(packets(&scene) > before);
    scene.connects(&mut client, A).unwrap();
}
