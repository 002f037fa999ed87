//! Each line of `enforcer doctor` against another source: what the machine says of itself, and what a fixture has made.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::ErrorKind,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
        process::CommandExt as _,
    },
    path::Path,
    process::Command,
};

use enforcer_tests::{
    cgroup::{CgroupFixture, mount_point},
    client::Client,
    enforcer::Enforcer,
    foreign::{At, ForeignProgram, Sharing},
    lab::{Breakage, CLIENT_INTERFACE, CLIENT_IPV6, Lab},
    netns::NetnsFixture,
    place::Place,
    process::Running,
    records::{doctor, items},
    wait::PATIENCE,
};
use procfs::process::Process;
use rustix::{
    mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};
use serde_json::Value;

const JSON: [&str; 3] = ["doctor", "--output", "json"];

fn command(place: &Place<'_>) -> Command {
    Enforcer::command(place, JSON).unwrap()
}

/// The only item of that kind.
#[track_caller]
fn item<'report>(report: &'report Value, name: &str) -> &'report Value {
    let found = items(report, name);
    assert_eq!(found.len(), 1, "{name}: {report}");
    found[0]
}

/// The items of that kind about that cgroup.
fn said_of<'report>(report: &'report Value, name: &str, cgroup: &CgroupFixture) -> Vec<&'report Value> {
    let path = cgroup.relative_path();
    items(report, name)
        .into_iter()
        .filter(|item| item["subject"] == path.as_str())
        .collect()
}

/// What is said of the programs at that cgroup.
fn attached<'report>(report: &'report Value, cgroup: &CgroupFixture) -> Vec<&'report Value> {
    said_of(report, "attached-program", cgroup)
}

#[test]
fn what_is_said_of_the_machine_is_what_it_says_itself() {
    let report = doctor(command(&Place::default()), 0).unwrap();
    assert_eq!(report["enforcing_possible"], true);

    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(item(&report, "release")["details"]["release"], release.trim_end());

    let jit = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").unwrap();
    let expected = if jit.trim() == "0" { "off" } else { "on" };
    assert!(
        item(&report, "jit")["state"]
            .as_str()
            .unwrap()
            .starts_with(expected)
    );

    let mounts = Process::myself().unwrap().mountinfo().unwrap();
    let bpffs = mounts.0.iter().find(|mount| mount.fs_type == "bpf");
    assert_eq!(
        item(&report, "bpffs")["details"]["mount_point"].as_str(),
        bpffs.map(|mount| mount.mount_point.to_str().unwrap())
    );
    let hybrid = mounts.0.iter().any(|mount| mount.fs_type == "cgroup");
    let cgroup2 = item(&report, "cgroup2");
    assert_eq!(
        cgroup2["details"]["mount_point"],
        mount_point().unwrap().to_str().unwrap()
    );
    assert_eq!(
        cgroup2["details"]["version"],
        if hybrid { "hybrid" } else { "v2" }
    );

    let status = Process::myself().unwrap().status().unwrap();
    assert_eq!(item(&report, "user")["details"]["uid"], status.euid);
    // `include/uapi/linux/capability.h`
    for (name, number) in [
        ("CAP_NET_ADMIN", 12),
        ("CAP_SYS_PTRACE", 19),
        ("CAP_SYS_ADMIN", 21),
        ("CAP_SYS_RESOURCE", 24),
        ("CAP_PERFMON", 38),
        ("CAP_BPF", 39),
    ] {
        let held = status.capeff & (1 << number) != 0;
        let said = items(&report, "capability");
        let said = said.iter().find(|item| item["subject"] == name).unwrap();
        assert_eq!(said["state"] == "effective", held, "{said}");
    }
    let limits = Process::myself().unwrap().limits().unwrap().max_locked_memory;
    let hard = match limits.hard_limit {
        procfs::process::LimitValue::Unlimited => "unlimited".to_owned(),
        procfs::process::LimitValue::Value(bytes) => format!("{bytes} bytes"),
    };
    let said = item(&report, "memlock")["state"].as_str().unwrap();
    assert!(said.ends_with(&format!("hard {hard}")), "{said}");
}

#[test]
fn a_foreign_program_is_named_with_its_place_and_its_holders_while_it_is_there() {
    let cgroup = CgroupFixture::new("test-doctor-foreign").unwrap();
    let below = cgroup.child("below").unwrap();
    let foreign = ForeignProgram::attach("foreign_policy", &below, At::Connect6, Sharing::Multi).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(&Place::default());
    foreign.pin_for(&mut command, folder.path(), "pinned").unwrap();
    let report = doctor(command, 0).unwrap();
    assert!(attached(&report, &cgroup).is_empty());
    let said = attached(&report, &below);
    assert_eq!(said.len(), 1, "{said:?}");
    let details = &said[0]["details"];
    assert_eq!(details["attach_type"], "connect6");
    assert_eq!(details["name"], "foreign_policy");
    assert_eq!(details["id"], foreign.id());
    assert_eq!(details["uid"], 0);
    assert!(details["loaded_at"].is_string(), "{details}");
    let me = format!("[{}]", std::process::id());
    let holders = details["held_by"].as_array().unwrap();
    assert!(
        holders.iter().any(|it| it.as_str().unwrap().ends_with(&me)),
        "{details}"
    );
    let pin = folder.path().join("pinned");
    assert_eq!(details["pinned_at"], serde_json::json!([pin.to_str().unwrap()]));
    // Of others there may be some.
    assert!(said_of(&report, "exclusive", &below).is_empty());
    assert!(said_of(&report, "override", &below).is_empty());

    drop(foreign);
    let report = doctor(self::command(&Place::default()), 0).unwrap();
    assert!(attached(&report, &below).is_empty());
}

#[test]
fn a_program_that_does_not_share_is_said_to_keep_enforcer_out_and_does() {
    let cgroup = CgroupFixture::new("test-doctor-alone").unwrap();
    let below = cgroup.child("below").unwrap();
    for (sharing, name) in [(Sharing::Exclusive, "exclusive"), (Sharing::Override, "override")] {
        let foreign = ForeignProgram::attach("alone", &cgroup, At::Connect6, sharing).unwrap();
        let report = doctor(command(&Place::default()), 0).unwrap();
        let said = said_of(&report, name, &cgroup);
        assert_eq!(said.len(), 1, "{report}");
        assert_eq!(said[0]["level"], "limits");

        for (target, refusal) in [
            (
                &cgroup,
                "hint: a program on this cgroup or one above was attached without BPF_F_ALLOW_MULTI",
            ),
            (
                &below,
                match sharing {
                    Sharing::Override => "which was attached with BPF_F_ALLOW_OVERRIDE",
                    _ => "hint: a program on this cgroup or one above was attached without BPF_F_ALLOW_MULTI",
                },
            ),
        ] {
            let path = target.relative_path();
            let run = ["run", "--cgroup", &path, "--reject", "2001:db8:a::/48"];
            let finished = Enforcer::output(&Place::default(), run, PATIENCE).unwrap();
            assert_eq!(finished.status.code(), Some(4), "{finished:?}");
            let said = finished.stderr.join("\n");
            assert!(said.contains(refusal), "{said}");
        }
        drop(foreign);
        let path = below.relative_path();
        let run = ["--cgroup", &path, "--reject", "2001:db8:a::/48"];
        let enforcer = Enforcer::run(&Place::default(), run).unwrap();
        assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    }
}

#[test]
fn an_exclusive_program_at_connect4_keeps_enforcer_out_too() {
    let cgroup = CgroupFixture::new("test-doctor-connect4").unwrap();
    let foreign = ForeignProgram::attach("ipv4_only", &cgroup, At::Connect4, Sharing::Exclusive).unwrap();
    let report = doctor(command(&Place::default()), 0).unwrap();
    let said = attached(&report, &cgroup);
    assert_eq!(said.len(), 1);
    assert_eq!(said[0]["details"]["attach_type"], "connect4");
    assert_eq!(said_of(&report, "exclusive", &cgroup).len(), 1);
    let path = cgroup.relative_path();
    let run = ["--cgroup", &path, "--reject", "2001:db8:a::/48"];
    let finished = Enforcer::output(&Place::default(), [&["run"], &run[..]].concat(), PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(4), "{finished:?}");
    drop(foreign);
    let enforcer = Enforcer::run(&Place::default(), run).unwrap();
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
}

#[test]
fn another_enforcer_is_found_with_its_process() {
    let cgroup = CgroupFixture::new("test-doctor-enforcer").unwrap();
    let path = cgroup.relative_path();
    let enforcer = Enforcer::run(
        &Place::default(),
        ["--cgroup", &path, "--reject", "2001:db8:a::/48"],
    )
    .unwrap();
    let report = doctor(command(&Place::default()), 0).unwrap();
    let said = attached(&report, &cgroup);
    let types: Vec<_> = said
        .iter()
        .map(|it| it["details"]["attach_type"].as_str().unwrap())
        .collect();
    assert_eq!(
        types,
        ["connect4", "connect6", "sendmsg6", "recvmsg6", "getpeername6"]
    );
    let holder = format!("enforcer[{}]", enforcer.pid());
    for it in &said {
        assert_eq!(it["details"]["held_by"], serde_json::json!([holder]));
        assert!(
            it["follows"].as_str().unwrap().starts_with("another enforcer's"),
            "{it}"
        );
    }
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    let report = doctor(command(&Place::default()), 0).unwrap();
    assert!(attached(&report, &cgroup).is_empty());
}

#[test]
fn nobody_is_told_what_is_missing_and_what_could_not_be_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Where the build is, nobody may not look.
    let program = folder.path().join("enforcer");
    fs::copy(Enforcer::program().unwrap(), &program).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Place::default().command(&program).unwrap();
        command.args(arguments).uid(65534).gid(65534).current_dir("/");
        command
    };
    let report = doctor(run(&JSON), 4).unwrap();
    assert_eq!(report["enforcing_possible"], false);
    let missing: Vec<_> = items(&report, "capability")
        .into_iter()
        .filter(|item| item["level"] == "blocks")
        .map(|item| item["subject"].as_str().unwrap())
        .collect();
    assert_eq!(missing, ["CAP_BPF", "CAP_NET_ADMIN"]);
    assert_eq!(item(&report, "attached-programs")["level"], "unknown");
    let features = items(&report, "feature");
    let connect6 = features
        .iter()
        .find(|item| item["subject"] == "connect6")
        .unwrap();
    assert_eq!(connect6["level"], "unknown", "{connect6}");

    let finished = Running::start(run(&["doctor"]))
        .unwrap()
        .finish(PATIENCE)
        .unwrap();
    assert_eq!(finished.status.code(), Some(4));
    assert!(finished.stderr.is_empty(), "{:?}", finished.stderr);
    assert_eq!(
        finished.stdout.last().map(String::as_str),
        Some("Enforcing is impossible here: CAP_BPF, CAP_NET_ADMIN.")
    );
    assert!(!finished.stdout.iter().any(|line| line.contains('\x1b')));

    let cgroup = CgroupFixture::new("test-doctor-nobody").unwrap();
    let run = run(&[
        "run",
        "--cgroup",
        &cgroup.relative_path(),
        "--reject",
        "2001:db8:a::/48",
    ]);
    let finished = Running::start(run).unwrap().finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(4), "{finished:?}");
    let said = finished.stderr.join("\n");
    assert!(
        said.contains("hint: enforcer needs root, or CAP_BPF and CAP_NET_ADMIN"),
        "{said}"
    );
}

/// The mount is taken away from the process alone.
#[test]
fn without_cgroup_v2_enforcing_is_impossible() {
    let place = mount_point().unwrap();
    let mut command = command(&Place::default());
    let take_away = move || {
        // SAFETY: only the mount namespace becomes another; no memory is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        unmount(&place, UnmountFlags::DETACH)?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls; the path is short enough for the stack.
    unsafe { command.pre_exec(take_away) };
    let report = doctor(command, 4).unwrap();
    let mounts = Process::myself().unwrap().mountinfo().unwrap();
    let v1 = mounts.0.iter().any(|mount| mount.fs_type == "cgroup");
    let said = item(&report, "cgroup2");
    assert_eq!(said["details"]["version"], if v1 { "v1 only" } else { "none" });
    assert_eq!(said["level"], "blocks");
}

/// Where connects end as the kernel ends them for another process.
#[test]
fn ipv6_is_described_as_a_client_meets_it() {
    let netns = NetnsFixture::new().unwrap();
    let place = Place::outside(&netns);
    let mut client = Client::start(&place).unwrap();
    let far = "[2001:4860:4860::8888]:53".parse().unwrap();

    let report = doctor(command(&place), 0).unwrap();
    assert_eq!(
        item(&report, "ipv6-addresses")["details"]["public"],
        serde_json::json!([])
    );
    assert_eq!(item(&report, "ipv6-default-route")["state"], "none");
    assert_eq!(
        item(&report, "ipv6-disabled")["details"]["interfaces"],
        serde_json::json!([])
    );
    let ends = client.connect_udp(far).unwrap().outcome();
    assert_ne!(ends, "ok");
    assert_eq!(item(&report, "ipv6-way")["details"]["errno"], ends.as_str());

    netns.set("ipv6/conf/all/disable_ipv6", "1").unwrap();
    let report = doctor(command(&place), 0).unwrap();
    let off = item(&report, "ipv6-disabled")["details"]["interfaces"]
        .as_array()
        .unwrap();
    assert!(
        off.contains(&"lo".into()) && off.contains(&"all".into()),
        "{off:?}"
    );
    let ends = client.connect_udp(far).unwrap().outcome();
    assert_eq!(item(&report, "ipv6-way")["details"]["errno"], ends.as_str());
}

/// By the address that the kernel gives such a socket, it would be taken for a source of IPv6.
#[test]
fn a_way_that_a_redirect_makes_is_not_taken_for_ipv6s_own() {
    let netns = NetnsFixture::new().unwrap();
    let program = Enforcer::program().unwrap();
    let options = ["exec", "--redirect", "2001:4860:4860::/48=127.0.0.1", "--"];
    let mut command = Enforcer::command(&Place::outside(&netns), options).unwrap();
    command.arg(program).args(JSON);
    let finished = Running::start(command).unwrap().finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    let report: Value = serde_json::from_str(&finished.stdout.join("\n")).unwrap();
    let way = item(&report, "ipv6-way");
    assert!(
        way["state"]
            .as_str()
            .unwrap()
            .starts_with("redirected to IPv4, from 127.0.0.1 "),
        "{way}"
    );
    assert_eq!(way["details"]["source"], "127.0.0.1");
    assert!(
        !way["follows"].as_str().unwrap().contains("reject helps"),
        "{way}"
    );
}

#[test]
fn a_host_whose_ipv6_is_a_black_hole_looks_healthy_and_doctor_does_not_say_that_it_is() {
    let lab = Lab::new(Breakage::BlackHole).unwrap();
    let report = doctor(command(&lab.outside()), 0).unwrap();
    assert_eq!(
        item(&report, "ipv6-addresses")["details"]["public"],
        serde_json::json!([CLIENT_IPV6.to_string()])
    );
    let route = item(&report, "ipv6-default-route");
    assert_eq!(
        route["details"]["interfaces"],
        serde_json::json!([CLIENT_INTERFACE])
    );
    let way = item(&report, "ipv6-way");
    assert_eq!(way["details"]["source"], CLIENT_IPV6.to_string());
    assert!(way["follows"].as_str().unwrap().contains("not tested"), "{way}");
    assert_eq!(
        item(&report, "ipv6-peers")["details"]["peers"],
        serde_json::json!([])
    );
}

#[test]
fn an_engine_is_found_listening_and_nothing_connects_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("docker.sock");
    let link = folder.path().join("link.sock");
    let said = || {
        let mut command = command(&Place::default());
        // Two ways to one engine.
        command
            .env("DOCKER_HOST", format!("unix://{}", path.display()))
            .env("CONTAINER_HOST", format!("unix://{}", link.display()));
        let report = doctor(command, 0).unwrap();
        let found = items(&report, "engine");
        let is_of = |path: &Path| found.iter().find(|it| it["subject"] == path.to_str().unwrap());
        assert!(is_of(&link).is_none(), "{found:?}");
        is_of(&path).unwrap()["details"]["answer"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let listener = UnixListener::bind(&path).unwrap();
    symlink(&path, &link).unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(said(), "somebody listens");
    // With socket activation a connection would have started the engine.
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(listener);
    let without = said();
    assert!(
        without == "nobody was found to listen"
            || without.starts_with("cannot tell whether somebody listens"),
        "{without}"
    );
}

#[test]
fn a_sandbox_is_recognised_while_it_runs() {
    let name = format!("runsc-sandbox-{}", std::process::id());
    let said = |pid: u32| {
        let report = doctor(command(&Place::default()), 0).unwrap();
        let found = items(&report, "workload");
        let gvisor = found.into_iter().find(|it| it["subject"] == "gvisor").cloned();
        gvisor.is_some_and(|it| {
            let processes = it["details"]["processes"].as_array().unwrap();
            processes.contains(&format!("{name}[{pid}]").into())
        })
    };
    let mut command = Client::command(&Place::default()).unwrap();
    command.arg0(&name);
    let sandbox = Running::start(command).unwrap();
    let pid = sandbox.pid();
    assert!(said(pid));
    drop(sandbox);
    assert!(!said(pid));
}

#[test]
fn a_reader_that_has_read_enough_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let command = Enforcer::command(&Place::default(), ["doctor"]).unwrap();
    let finished = Enforcer::start_writing_to(command, writer)
        .unwrap()
        .finish(PATIENCE)
        .unwrap();
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
}
