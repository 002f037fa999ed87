//! What is asked for goes to stdout: help and version.

use enforcer_tests::{enforcer::Enforcer, place::Place, wait::PATIENCE};

#[test]
fn help_and_version_are_asked_for_and_go_to_stdout() {
    for (arguments, expected) in [
        (&["--version"][..], "enforcer "),
        (&["--help"], "Exit codes:"),
        (&["run", "--help"], "--cgroup <PATH>"),
        (&["exec", "--help"], "--user <NAME>"),
        (&["check", "--help"], "--strict"),
        (&["explain", "--help"], "[ADDR]:PORT"),
    ] {
        let finished = Enforcer::output(&Place::default(), arguments, PATIENCE).unwrap();
        assert_eq!(finished.status.code(), Some(0));
        assert!(finished.stderr.is_empty(), "{:?}", finished.stderr);
        let said = finished.stdout.join("\n");
        assert!(said.contains(expected), "{said}");
    }
}
