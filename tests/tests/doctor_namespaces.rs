//! `enforcer doctor` in namespaces: what it cannot see from there is not said to be absent.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    ffi::CString,
    os::unix::{ffi::OsStringExt as _, process::CommandExt as _},
    process::Command,
};

use enforcer_tests::{
    cgroup::{CgroupFixture, mount_point},
    enforcer::Enforcer,
    foreign::{At, ForeignProgram, Sharing},
    place::Place,
    process::Running,
    records::{doctor, items},
    wait::PATIENCE,
};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};
use serde_json::Value;

const JSON: [&str; 3] = ["doctor", "--output", "json"];

/// In the namespaces of the test.
fn plain() -> Command {
    Enforcer::command(&Place::default(), JSON).unwrap()
}

/// The only item of that kind.
#[track_caller]
fn item<'report>(report: &'report Value, name: &str) -> &'report Value {
    let found = items(report, name);
    assert_eq!(found.len(), 1, "{name}: {report}");
    found[0]
}

/// What is said of the programs at that cgroup.
fn attached<'report>(report: &'report Value, cgroup: &CgroupFixture) -> Vec<&'report Value> {
    let path = cgroup.relative_path();
    items(report, "attached-program")
        .into_iter()
        .filter(|item| item["subject"] == path.as_str())
        .collect()
}

/// A PID namespace hides the processes that hold a program: here the test's own, which is outside of it.
#[test]
fn nobody_is_said_to_hold_a_program_where_processes_are_hidden() {
    let cgroup = CgroupFixture::new("test-doctor-pid-namespace").unwrap();
    let _foreign = ForeignProgram::attach("held_outside", &cgroup, At::Connect4, Sharing::Multi).unwrap();
    let mut command = Place::default().command("unshare").unwrap();
    let program = Enforcer::program().unwrap();
    command
        .args(["--pid", "--fork", "--mount-proc"])
        .arg(program)
        .args(JSON);
    let report = doctor(command, 0).unwrap();
    let said = attached(&report, &cgroup);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0]["details"]["held_by"], serde_json::json!([]));
    let state = said[0]["state"].as_str().unwrap();
    assert!(
        state.contains("held by nobody that could be looked into"),
        "{state}"
    );
    let report = doctor(plain(), 0).unwrap();
    assert_ne!(
        attached(&report, &cgroup)[0]["details"]["held_by"],
        serde_json::json!([])
    );
}

/// In a cgroup namespace everything has the names that it has on a host.
#[test]
fn the_top_of_a_cgroup_namespace_is_not_taken_for_the_hosts_root() {
    let cgroup = CgroupFixture::new("test-doctor-cgroup-namespace").unwrap();
    let place = Place {
        cgroup: Some(&cgroup),
        ..Place::default()
    };
    let inside = |arguments: &[&str]| {
        let mut command = Enforcer::command(&place, arguments).unwrap();
        let mount_point = CString::new(mount_point().unwrap().into_os_string().into_vec()).unwrap();
        let enter = move || {
            // SAFETY: only the mount and the cgroup namespace become others; no memory is unshared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP) }?;
            mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            unmount(&*mount_point, UnmountFlags::DETACH)?;
            mount(c"cgroup2", &*mount_point, c"cgroup2", MountFlags::empty(), None)?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls; the strings end in zero already.
        unsafe { command.pre_exec(enter) };
        command
    };
    let report = doctor(inside(&JSON), 0).unwrap();
    let shown = item(&report, "cgroup2");
    assert_ne!(shown["level"], "ok");
    let state = shown["state"].as_str().unwrap();
    assert!(
        state.ends_with("one cgroup of a larger tree as its top"),
        "{state}"
    );
    let own = item(&report, "own-cgroup");
    assert_eq!(own["state"], "/");
    assert!(
        own["follows"]
            .as_str()
            .unwrap()
            .starts_with("the top that this process sees"),
        "{own}"
    );
    assert_eq!(item(&report, "attached-programs")["level"], "unknown");

    let top = mount_point().unwrap();
    let run = [
        "run",
        "--cgroup",
        top.to_str().unwrap(),
        "--reject",
        "2001:db8:a::/48",
    ];
    let finished = Running::start(inside(&run)).unwrap().finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    let said = finished.stderr.join("\n");
    assert!(
        said.contains("resolves to the topmost cgroup that this process sees"),
        "{said}"
    );

    let report = doctor(plain(), 0).unwrap();
    let state = item(&report, "cgroup2")["state"].as_str().unwrap();
    let true_root = !mount_point().unwrap().join("cgroup.type").exists();
    assert_eq!(!state.contains("larger tree"), true_root, "{state}");
}
