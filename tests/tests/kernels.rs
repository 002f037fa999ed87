//! Each kernel against its record in `kernels.toml`: what it has, what its verifier walks, and that enforcer does what
//! the table of features promises with and without.
//!
//! `cargo xtask vm --bless` runs the first test to make the records.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{env, fs, fs::OpenOptions, io::Write as _};

use enforcer::kernel::{BpfLogLevel, Kernel, LoadOptions, features::by_id};
use enforcer_tests::{
    client::Client,
    enforcer::Enforcer,
    kernel::support,
    need::{Need, need_given},
    place::Place,
    privileges::{LEAST, LEAST_AND_LIMITS, limit_to},
    protocol::{Connect, SocketKind},
    records::{NO, PERFMON, Record, YES, blessing, measure, page, page_path, records, running_line},
    scene::{A, IPV4, Scene},
    wait::PATIENCE,
};
use rustix::thread::CapabilitySet;

/// A program may take this much of what is on record, in hundredths.
const GROWTH: u32 = 120;

/// The record of the running kernel, if there is one.
fn record(test: &str) -> Option<Record> {
    let line = running_line().unwrap();
    let found = records().unwrap().into_iter().find(|record| record.line == line);
    need_given(test, Need::KernelOnRecord, found.is_some())
        .then_some(found)
        .flatten()
}

#[test]
fn the_kernel_has_what_is_on_record_and_its_verifier_walks_little_more() {
    const TEST: &str = "the_kernel_has_what_is_on_record_and_its_verifier_walks_little_more";
    let measured = measure().unwrap();
    if blessing() {
        let path = env::var_os("ENFORCER_OUTCOMES").expect("a file to write what was measured to");
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        let text = serde_json::to_string(&measured).unwrap();
        file.write_all(format!("measured\t{TEST}\t{text}\n").as_bytes())
            .unwrap();
        return;
    }
    let Some(record) = record(TEST) else { return };
    assert_eq!(measured.features, record.features);
    assert_eq!(measured.programs, record.programs);
    for (program, count) in &measured.instructions {
        let known = record.instructions.get(program);
        let known =
            known.unwrap_or_else(|| panic!("no record of {program}: `cargo xtask vm --bless` makes one"));
        assert!(
            count * 100 <= known * GROWTH,
            "{program} takes the verifier {count} instructions, {known} are on record: if that is meant, \
             `cargo xtask vm --bless` makes new records"
        );
    }
    assert_eq!(
        measured.instructions.keys().collect::<Vec<_>>(),
        record.instructions.keys().collect::<Vec<_>>()
    );
}

/// They are an object of their own, with more in it for a verifier to follow and more on the stack.
#[test]
fn the_programs_with_a_debug_channel_load_as_well() {
    let options = LoadOptions {
        bpf_log: Some(BpfLogLevel::Trace),
        ..LoadOptions::default()
    };
    let mut kernel = Kernel::load(support(), &options).unwrap();
    assert!(kernel.take_log().is_some());
    assert!(
        Kernel::load(support(), &LoadOptions::default())
            .unwrap()
            .take_log()
            .is_none()
    );
}

#[test]
fn the_page_is_made_of_the_records() {
    let path = page_path();
    let there = path.parent().is_some_and(|folder| folder.is_dir());
    if !need_given("the_page_is_made_of_the_records", Need::Repository, there) {
        return;
    }
    let page = page(&records().unwrap());
    if blessing() {
        fs::write(&path, page).unwrap();
        return;
    }
    let found = fs::read_to_string(&path).unwrap();
    assert!(
        found == page,
        "docs/kernels.md is not up to date: `cargo xtask vm --bless` makes it"
    );
}

/// Whether the record says that the feature is there, with all capabilities and with the least.
fn has(record: &Record, feature: &str) -> [bool; 2] {
    assert!(by_id(feature).is_some());
    match record.features[feature].as_str() {
        YES => [true, true],
        PERFMON => [true, false],
        NO => [false, false],
        other => panic!("{feature} = {other:?}"),
    }
}

/// enforcer governing the scene's cgroup, as root or with the least capabilities.
fn govern(scene: &Scene, least: bool, rule: [&str; 2]) -> Enforcer {
    let arguments = ["run", "--output", "json", "--cgroup", &scene.path()]
        .map(str::to_owned)
        .into_iter()
        .chain(rule.map(str::to_owned));
    let mut command = Enforcer::command(&scene.outside(), arguments).unwrap();
    if least {
        limit_to(&mut command, LEAST_AND_LIMITS);
    }
    Enforcer::start_governing(command).unwrap()
}

/// With which capabilities the kernel takes the programs: all of them, and where the record says so the least. It is
/// refused otherwise, with what is missing.
fn privileges(record: &Record, scene: &Scene) -> Vec<bool> {
    if record.programs == YES {
        return vec![false, true];
    }
    let path = scene.path();
    let run = ["run", "--cgroup", &path, "--reject", "2001:db8:a::/48"];
    let mut command = Enforcer::command(&scene.outside(), run).unwrap();
    limit_to(&mut command, LEAST_AND_LIMITS);
    let finished = Enforcer::start(command).unwrap().finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(4), "{finished:?}");
    let said = finished.stderr.join("\n");
    assert!(said.contains("hint: ") && said.contains("CAP_PERFMON"), "{said}");
    vec![false]
}

#[test]
fn a_rejection_and_its_event_are_as_the_record_says() {
    let Some(record) = record("a_rejection_and_its_event_are_as_the_record_says") else {
        return;
    };
    let scene = Scene::new("record-reject").unwrap();
    let mut client = scene.client().unwrap();
    for least in privileges(&record, &scene) {
        let index = usize::from(least);
        scene.connects(&mut client, A).unwrap();
        let enforcer = govern(&scene, least, ["--reject", "2001:db8:a::/48,errno=EHOSTDOWN"]);
        let answer = client.connect_tcp(scene.to(A)).unwrap();
        let errno = if has(&record, "set-retval")[index] {
            "EHOSTDOWN"
        } else {
            "EPERM"
        };
        assert_eq!(answer.outcome(), errno);
        let event = enforcer.wait_for_events(1).unwrap().remove(0);
        assert_eq!(event["verdict"], "reject", "{event}");
        assert_eq!(event["comm"].is_string(), has(&record, "comm")[index], "{event}");
        assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
        scene.connects(&mut client, A).unwrap();
    }
}

#[test]
fn a_socket_for_ipv6_only_is_treated_as_the_record_says() {
    let Some(record) = record("a_socket_for_ipv6_only_is_treated_as_the_record_says") else {
        return;
    };
    let scene = Scene::new("record-v6only").unwrap();
    let mut client = scene.client().unwrap();
    let mut v6only = Connect::new(SocketKind::Tcp, scene.to(A));
    v6only.v6only = Some(true);
    for least in privileges(&record, &scene) {
        let index = usize::from(least);
        assert!(client.connect(v6only.clone()).unwrap().ok);
        let rule = format!("2001:db8:a::/48={IPV4},errno=EHOSTDOWN");
        let enforcer = govern(&scene, least, ["--redirect", &rule]);
        let answer = client.connect(v6only.clone()).unwrap();
        let event = enforcer.wait_for_events(1).unwrap().remove(0);
        let seen = has(&record, "v6only")[index];
        let errno = match (seen, has(&record, "set-retval")[index]) {
            (true, true) => "EHOSTDOWN",
            (true, false) => "EPERM",
            // The program sends it to IPv4, and the kernel refuses that for such a socket.
            (false, _) => "ENETUNREACH",
        };
        assert_eq!(answer.outcome(), errno, "{event}");
        let expected = if seen { "reject" } else { "redirect" };
        assert_eq!(event["verdict"], expected, "{event}");
        assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
        assert!(client.connect(v6only.clone()).unwrap().ok);
    }
}

/// Both kinds of sockets: as the record says they are governed, go on ungoverned, or are not there.
#[test]
fn ping_and_multipath_sockets_are_as_the_record_says() {
    let Some(record) = record("ping_and_multipath_sockets_are_as_the_record_says") else {
        return;
    };
    let scene = Scene::new("record-kinds").unwrap();
    // A new namespace allows ping sockets to nobody.
    scene.netns.set("ipv4/ping_group_range", "0 2147483647").unwrap();
    let mut client = Client::start(&scene.inside()).unwrap();
    let ping = Connect::new(SocketKind::Ping, scene.to(A));
    let mptcp = Connect::new(SocketKind::Mptcp, scene.to(A));
    let without = |client: &mut Client| {
        assert_eq!(client.connect(ping.clone()).unwrap().outcome(), "ok");
        let answer = client.connect(mptcp.clone()).unwrap();
        let failed_at = answer.step.as_deref();
        assert_eq!((answer.ok, failed_at == Some("socket")), {
            let there = has(&record, "mptcp")[0];
            (there, !there)
        });
    };
    without(&mut client);
    let enforcer = govern(&scene, false, ["--reject", "2001:db8:a::/48,errno=EHOSTDOWN"]);
    let rejected = if has(&record, "set-retval")[0] {
        "EHOSTDOWN"
    } else {
        "EPERM"
    };
    let expected = if has(&record, "governed-ping")[0] {
        rejected
    } else {
        "ok"
    };
    assert_eq!(client.connect(ping.clone()).unwrap().outcome(), expected);
    if has(&record, "mptcp")[0] {
        assert_eq!(client.connect(mptcp.clone()).unwrap().outcome(), rejected);
    }
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    without(&mut client);
}

/// Without it the fallback is that enforcer raises the limit for itself: so it governs with next to nothing.
#[test]
fn locked_memory_is_needed_where_the_record_says() {
    let Some(record) = record("locked_memory_is_needed_where_the_record_says") else {
        return;
    };
    let scene = Scene::new("record-memlock").unwrap();
    let mut command =
        Enforcer::command(&Place::outside(&scene.netns), ["doctor", "--output", "json"]).unwrap();
    // No CAP_SYS_RESOURCE: the limit stays.
    limit_to(&mut command, LEAST.union(CapabilitySet::PERFMON));
    no_locked_memory(&mut command);
    let needed = !has(&record, "memcg-accounting")[0];
    let finished = Enforcer::start(command).unwrap().finish(PATIENCE).unwrap();
    assert_eq!(
        finished.status.code(),
        Some(if needed { 4 } else { 0 }),
        "{finished:?}"
    );
}

/// Gives the command no locked memory, and no way to more.
fn no_locked_memory(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    let limit = || {
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the structure outlives the call.
        match unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &none) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure makes one system call.
    unsafe { command.pre_exec(limit) };
}
