//! The program behind `cargo xtask lab`: what it makes is there, and all of it is gone afterwards, whatever ended it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

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

/// A name for a lab that nobody else has. A lab of that name that is still up when it is dropped is taken down.
struct Name(String);

impl Name {
    fn new(what: &str) -> Self {
        Self(format!("test-{what}-{}", std::process::id()))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // A test that gets as far as looking at this has looked at it already.
        let _ = Running::start(command(&["down", &self.0])).and_then(|down| down.finish(PATIENCE));
    }
}

/// The process on the client's side that `up` names for nsenter.
fn anchor(said: &str) -> i32 {
    let (_, after) = said.split_once("nsenter --target ").unwrap();
    after.split(' ').next().unwrap().parse().unwrap()
}

/// What identifies a process's network namespace, as long as it runs. Numbers are given again.
fn network_of(pid: i32) -> Option<u64> {
    let file = fs::metadata(format!("/proc/{pid}/ns/net"));
    file.ok().map(|file| file.ino())
}

/// The process that started that one.
fn parent_of(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.unwrap().trim().parse().unwrap()
}

/// Waits until those processes have ended. Nothing else holds a lab's network namespaces, which have no names.
fn wait_until_gone(processes: [i32; 2]) {
    eventually("the lab's processes to be gone", PATIENCE, || {
        processes.iter().all(|pid| network_of(*pid).is_none())
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
    let [client, own] = [answer.pid, std::process::id()].map(|pid| i32::try_from(pid).unwrap());
    assert_ne!(network_of(client).unwrap(), network_of(own).unwrap());
    let processes = [client, parent_of(client)];
    assert_eq!(running.finish(PATIENCE).unwrap().status.code(), Some(0));
    wait_until_gone(processes);
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
        let line = running.line(Stream::Stdout, 0, PATIENCE).unwrap();
        let pid = line.parse().unwrap();
        let processes = [pid, parent_of(pid)];
        running.signal(signal).unwrap();
        let finished = running.finish(PATIENCE).unwrap();
        assert_eq!(finished.status.code(), Some(128 + number), "{finished:?}");
        wait_until_gone(processes);
    }
}

#[test]
fn a_lab_stands_until_it_is_taken_down() {
    let lab = Name::new("stands");
    let name = &lab.0[..];
    let first = said(&["up", "black-hole", name]);
    let is_new = first.starts_with(&format!("lab {name} is up: packets vanish"));
    assert!(is_new, "{first}");
    let processes = [anchor(&first), parent_of(anchor(&first))];
    assert!(network_of(processes[0]).is_some());
    // Once more is the same lab; with another breakage it is a mistake.
    let again = said(&["up", "black-hole", name]);
    assert!(again.starts_with(&format!("lab {name} is up already")), "{again}");
    assert_eq!(anchor(&again), anchor(&first));
    let other = output(&["up", "slow", name]);
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    let cause = "another breakage, black-hole";
    assert!(other.stderr[0].contains(cause), "{other:?}");
    assert!(said(&[]).contains(name));

    assert_eq!(said(&["down", name]), format!("lab {name} is down"));
    wait_until_gone(processes);
    assert_eq!(said(&["down", name]), format!("lab {name} is not up"));
    assert!(!said(&[]).contains(name));
}

#[test]
fn a_lab_whose_process_was_killed_leaves_nothing_that_is_in_the_way() {
    let lab = Name::new("killed");
    let name = &lab.0[..];
    for _ in 0..2 {
        let said = said(&["up", "literal", name]);
        assert!(said.starts_with(&format!("lab {name} is up: ")), "{said}");
        let processes = [anchor(&said), parent_of(anchor(&said))];
        assert!(network_of(processes[0]).is_some());
        kill_process(Pid::from_raw(processes[1]).unwrap(), Signal::KILL).unwrap();
        wait_until_gone(processes);
    }
    assert_eq!(said(&["down", name]), format!("lab {name} had ended by itself"));
    assert!(!file_of(name).exists());
}

/// A process that was stopped; it goes on when this is dropped.
struct Stopped(i32);

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed.
        let _ = kill_process(Pid::from_raw(self.0).unwrap(), Signal::CONT);
    }
}

/// The child of a process that is the program of a standing lab by now. Before, it has its parent's descriptors, and
/// with them the lock of the folder.
fn holder_of(parent: u32) -> Option<i32> {
    let parent = i32::try_from(parent).unwrap();
    let is_holder = |process: &procfs::process::Process| {
        let is_child = process.stat().is_ok_and(|stat| stat.ppid == parent);
        is_child
            && process
                .cmdline()
                .is_ok_and(|words| words.iter().any(|word| word == "hold"))
    };
    let mut processes = procfs::process::all_processes().unwrap().flatten();
    processes.find(is_holder).map(|process| process.pid)
}

fn file_of(name: &str) -> PathBuf {
    Path::new("/run/enforcer-lab").join(name).with_extension("json")
}

/// Begins an `up` and kills it while its lab is being made by that process; `None` where the lab was faster.
fn interrupted_up(name: &str) -> Option<Stopped> {
    let mut up = Running::start(command(&["up", "healthy", name])).unwrap();
    let holder = eventually("the process that makes the lab", PATIENCE, || holder_of(up.pid())).unwrap();
    kill_process(Pid::from_raw(holder).unwrap(), Signal::STOP).unwrap();
    let holder = Stopped(holder);
    up.signal(Signal::KILL).unwrap();
    up.finish(PATIENCE).unwrap();
    (!file_of(name).exists()).then_some(holder)
}

#[test]
fn an_interrupted_up_is_as_if_it_had_not_been() {
    let lab = Name::new("interrupted");
    let name = &lab.0[..];
    let first = eventually("an up that is interrupted in time", PATIENCE, || {
        let interrupted = interrupted_up(name);
        if interrupted.is_none() {
            output(&["down", name]);
        }
        interrupted
    })
    .unwrap();
    // Another lab of that name comes up while the first is still being made.
    let second = said(&["up", "black-hole", name]);
    let is_new = second.starts_with(&format!("lab {name} is up: packets vanish"));
    assert!(is_new, "{second}");
    let processes = [anchor(&second), parent_of(anchor(&second))];
    let number = first.0;
    drop(first);
    eventually("the first lab to be gone", PATIENCE, || {
        network_of(number).is_none()
    })
    .unwrap();
    assert!(network_of(processes[0]).is_some());
    assert!(said(&[]).contains(name));
    assert_eq!(said(&["down", name]), format!("lab {name} is down"));
    wait_until_gone(processes);
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
