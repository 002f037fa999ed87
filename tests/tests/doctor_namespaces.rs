//! `enforcer doctor` in namespaces: what it cannot see from there is not said to be absent.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

use enforcer_tests::{
    cgroup::CgroupFixture,
    enforcer::Enforcer,
    foreign::{At, ForeignProgram, Sharing},
    place::Place,
    records::{doctor, items},
};
use serde_json::Value;

const JSON: [&str; 3] = ["doctor", "--output", "json"];

/// In the namespaces of the test.
fn plain() -> Command {
    Enforcer::command(&Place::default(), JSON).unwrap()
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
