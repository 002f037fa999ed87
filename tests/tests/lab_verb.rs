//! The program behind `cargo xtask lab`: what it makes is there, and all of it is gone afterwards, whatever ended it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, process::Command};

use enforcer_tests::{
    client::Client,
    lab::{self, ECHO_PORT, NAME},
    place::Place,
    process::{Finished, Running, Stream},
    protocol::{Answer, Request},
    wait::{PATIENCE, eventually},
};
use rustix::process::{Pid, Signal, kill_process};

fn command(arguments: &[&str]) -> Command {
    let mut command = Place::default().command(lab::program().unwrap()).unwrap();
    command.args(arguments);
    command
}

fn output(arguments: &[&str]) -> Finished {
    Running::start(command(arguments))
        .unwrap()
        .finish(PATIENCE)
        .unwrap()
}

/// Runs it and takes what it says on standard output, in one string.
#[track_caller]
fn said(arguments: &[&str]) -> String {
    let finished = output(arguments);
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    finished.stdout.join("\n")
}

/// A name for a lab that nobody else has.
fn name(what: &str) -> String {
    format!("test-{what}-{}", std::process::id())
}

/// The process on the client's side that `up` names for nsenter.
fn anchor(said: &str) -> i32 {
    let (_, after) = said.split_once("nsenter --target ").unwrap();
    after.split(' ').next().unwrap().parse().unwrap()
}

/// What identifies a process's network namespace.
fn network_of(process: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{process}/ns/net"))
        .ok()
        .map(|file| file.ino())
}

/// Waits until no process is in that network namespace: it has no name, so then it is gone.
fn wait_until_gone(network: u64) {
    eventually("the network namespace to be gone", PATIENCE, || {
        !fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .any(|entry| network_of(&entry.file_name().to_string_lossy()) == Some(network))
    })
    .unwrap();
}

#[test]
fn a_command_runs_on_the_clients_side_with_its_resolver() {
    let client = Client::command(&Place::default()).unwrap();
    let client = client.get_program().to_str().unwrap();
    let mut running = Running::start(command(&["run", "aaaa-only", client])).unwrap();
    let request = Request::Resolve {
        name: NAME.to_owned(),
        port: ECHO_PORT,
    };
    running
        .write_line(&serde_json::to_string(&request).unwrap())
        .unwrap();
    let answer = running.line(Stream::Stdout, 0, PATIENCE).unwrap();
    let answer: Answer = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer.addresses.unwrap(), ["[2001:db8:a::80]:7".parse().unwrap()]);
    let network = network_of(&answer.pid.to_string()).unwrap();
    assert_ne!(Some(network), network_of("self"));
    assert_eq!(running.finish(PATIENCE).unwrap().status.code(), Some(0));
    wait_until_gone(network);
}

#[test]
fn the_exit_code_is_the_commands() {
    for (arguments, code) in [
        (&["run", "healthy", "sh", "-c", "exit 7"][..], 7),
        (&["run", "healthy", "sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["run", "healthy", "/nowhere/to/be/found"], 127),
        (&["run", "healthy", "/"], 126),
    ] {
        let finished = output(arguments);
        assert_eq!(finished.status.code(), Some(code), "{finished:?}");
    }
}

#[test]
fn a_signal_reaches_the_command_and_everything_is_removed() {
    let script = "echo $$; exec sleep 600";
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2), (Signal::HUP, 1)] {
        let mut running = Running::start(command(&["run", "no-route", "sh", "-c", script])).unwrap();
        let pid = running.line(Stream::Stdout, 0, PATIENCE).unwrap();
        let network = network_of(&pid).unwrap();
        running.signal(signal).unwrap();
        let finished = running.finish(PATIENCE).unwrap();
        assert_eq!(finished.status.code(), Some(128 + number), "{finished:?}");
        wait_until_gone(network);
    }
}

#[test]
fn a_lab_stands_until_it_is_taken_down() {
    let name = name("stands");
    let first = said(&["up", "black-hole", &name]);
    assert!(
        first.starts_with(&format!("lab {name} is up: packets vanish")),
        "{first}"
    );
    let network = network_of(&anchor(&first).to_string()).unwrap();
    // Once more is the same lab; with another breakage it is a mistake.
    let again = said(&["up", "black-hole", &name]);
    assert!(again.starts_with(&format!("lab {name} is up already")), "{again}");
    assert_eq!(anchor(&again), anchor(&first));
    let other = output(&["up", "slow", &name]);
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    assert!(
        other.stderr[0].contains("another breakage, black-hole"),
        "{other:?}"
    );
    assert!(said(&[]).contains(&name));

    assert_eq!(said(&["down", &name]), format!("lab {name} is down"));
    wait_until_gone(network);
    assert_eq!(said(&["down", &name]), format!("lab {name} is not up"));
    assert!(!said(&[]).contains(&name));
}

#[test]
fn a_lab_whose_process_was_killed_leaves_nothing_that_is_in_the_way() {
    let name = name("killed");
    let first = anchor(&said(&["up", "literal", &name]));
    let network = network_of(&first.to_string()).unwrap();
    let status = fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    let holder = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap();
    let holder = Pid::from_raw(holder.trim().parse().unwrap()).unwrap();
    kill_process(holder, Signal::KILL).unwrap();
    wait_until_gone(network);

    let second = anchor(&said(&["up", "literal", &name]));
    assert_ne!(network_of(&second.to_string()), Some(network));
    assert_eq!(said(&["down", &name]), format!("lab {name} is down"));
    assert!(
        !Path::new("/run/enforcer-lab")
            .join(format!("{name}.json"))
            .exists()
    );
}

#[test]
fn what_cannot_be_done_is_said_with_a_hint() {
    for (arguments, cause) in [
        (
            &["run", "blackhole", "true"][..],
            "hint: there are healthy, no-address,",
        ),
        (&["up", "healthy", "../x"], "hint: a name is made of"),
        (&["sideways"], "usage: enforcer-lab"),
        (&["run", "healthy"], "usage: enforcer-lab"),
    ] {
        let finished = output(arguments);
        assert_eq!(finished.status.code(), Some(1), "{finished:?}");
        assert!(finished.stderr.join("\n").contains(cause), "{finished:?}");
        assert!(finished.stdout.is_empty(), "{finished:?}");
    }
}
