//! `enforcer run`: whatever ends it and whenever, connects are as before and nothing is left behind.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, fs::OpenOptions, thread, time::Duration};

use enforcer_tests::{
    enforcer::{Enforcer, is_ready},
    place::ignoring,
    process::Stream,
    scene::{A, Scene},
    wait::{PATIENCE, eventually},
};
use rustix::process::Signal;

const REJECT_A: &str = "2001:db8:a::/48,errno=EHOSTDOWN";

#[test]
fn a_killed_run_leaves_nothing() {
    let scene = Scene::new("killed").unwrap();
    let mut client = scene.client().unwrap();
    let path = scene.path();
    let mut enforcer = Enforcer::run(&scene.outside(), ["--cgroup", &path, "--reject", REJECT_A]).unwrap();
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    enforcer.process().signal(Signal::KILL).unwrap();
    enforcer.finish(PATIENCE).unwrap();
    // The links went with its descriptors, when it had ended.
    scene.connects(&mut client, A).unwrap();
}

/// Sends the signal twice, as somebody impatient does.
fn send_twice(enforcer: &mut Enforcer, signal: Signal, pause: Duration) {
    enforcer.process().signal(signal).unwrap();
    thread::sleep(pause);
    // It may have ended by now.
    let _ = enforcer.process().signal(signal);
}

#[test]
fn each_signal_twice_at_any_moment_of_the_end_ends_it_once() {
    let scene = Scene::new("impatient").unwrap();
    let mut client = scene.client().unwrap();
    let path = scene.path();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        // The pauses are no waits for anything: they are the moments.
        for pause_ms in [0, 1, 5, 20, 60] {
            let arguments = ["--cgroup", &path, "--reject", REJECT_A];
            let mut enforcer = Enforcer::run(&scene.outside(), arguments).unwrap();
            scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
            send_twice(&mut enforcer, signal, Duration::from_millis(pause_ms));
            let finished = enforcer.finish(PATIENCE).unwrap();
            let context = format!("{signal:?} again after {pause_ms} ms: {:?}", finished.stderr);
            assert_eq!(finished.status.code(), Some(0), "{context}");
            assert_eq!(
                finished.stderr.last().unwrap(),
                "events: 1 delivered, 0 lost",
                "{context}"
            );
            scene.connects(&mut client, A).unwrap();
        }
    }
}

#[test]
fn signals_that_its_parent_ignored_end_it_but_a_hangup_does_not() {
    let scene = Scene::new("background").unwrap();
    let mut client = scene.client().unwrap();
    let path = scene.path();
    let mut command = Enforcer::command(&scene.outside(), ["run"]).unwrap();
    command.args(["--cgroup", &path, "--reject", REJECT_A]);
    ignoring(&mut command, &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]);
    let mut enforcer = Enforcer::start_governing(command).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", enforcer.pid())).unwrap();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:\t"))
        .unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_eq!(ignored & (1 << (libc::SIGHUP - 1)), 1, "{status}");
    enforcer.process().signal(Signal::HUP).unwrap();
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    enforcer.process().signal(Signal::INT).unwrap();
    let finished = enforcer.finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(0), "{:?}", finished.stderr);
    let said = finished.stderr.join("\n");
    assert!(said.contains("1 connect seen"), "{said}");
    scene.connects(&mut client, A).unwrap();
}

#[test]
fn signals_that_keep_coming_while_it_starts_end_it_in_order() {
    let scene = Scene::new("storm").unwrap();
    let mut client = scene.client().unwrap();
    let path = scene.path();
    for _ in 0..5 {
        let mut command = Enforcer::command(&scene.outside(), ["run"]).unwrap();
        command.args(["--cgroup", &path, "--reject", REJECT_A]);
        let mut enforcer = Enforcer::start(command).unwrap();
        let status = format!("/proc/{}/status", enforcer.pid());
        let catches = || {
            let status = fs::read_to_string(&status).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"));
            caught
                .and_then(|mask| u64::from_str_radix(mask, 16).ok())
                .is_some_and(|mask| mask & (1 << (libc::SIGTERM - 1)) != 0)
        };
        eventually("it to catch signals", PATIENCE, catches).unwrap();
        // The verifier gives up for a pending signal, and says nothing of the program by that.
        eventually("it to end", PATIENCE, || {
            let _ = enforcer.process().signal(Signal::TERM);
            enforcer.process().exited().unwrap()
        })
        .unwrap();
        let finished = enforcer.finish(PATIENCE).unwrap();
        assert_eq!(finished.status.code(), Some(0), "{:?}", finished.stderr);
        scene.connects(&mut client, A).unwrap();
    }
}

#[test]
fn a_signal_at_any_moment_of_the_start_leaves_nothing() {
    let scene = Scene::new("early").unwrap();
    let mut client = scene.client().unwrap();
    let path = scene.path();
    let signals = [Signal::INT, Signal::TERM, Signal::HUP].into_iter().cycle();
    // The delays are no waits for anything: they are the moments. Three of each, one a signal.
    let delays = [0, 3, 10, 30, 60, 100, 200, 400, 800].into_iter();
    for (delay_ms, signal) in delays.flat_map(|delay| [delay; 3]).zip(signals) {
        let mut command = Enforcer::command(&scene.outside(), ["run"]).unwrap();
        command.args(["--cgroup", &path, "--reject", REJECT_A]);
        let mut enforcer = Enforcer::start(command).unwrap();
        thread::sleep(Duration::from_millis(delay_ms));
        send_twice(&mut enforcer, signal, Duration::ZERO);
        let finished = enforcer.finish(PATIENCE).unwrap();
        // Before it catches the signal it has nothing to undo, and dies of it.
        let said = finished.stderr.join("\n");
        let orderly = finished.status.code() == Some(0);
        assert!(
            orderly || said.is_empty(),
            "{signal:?} twice after {delay_ms} ms: {}: {said}",
            finished.status
        );
        scene.connects(&mut client, A).unwrap();
    }
}

#[test]
fn a_reader_that_has_enough_ends_it_in_order() {
    let scene = Scene::new("reader").unwrap();
    let mut client = scene.client().unwrap();
    let path = scene.path();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = Enforcer::command(&scene.outside(), ["run"]).unwrap();
    command.args(["--cgroup", &path, "--reject", REJECT_A]);
    let mut enforcer = Enforcer::start_writing_to(command, writer).unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, is_ready)
        .unwrap();
    drop(reader);
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    let ended = eventually("it to end", PATIENCE, || enforcer.process().exited().unwrap());
    let finished = enforcer.finish(PATIENCE).unwrap();
    assert_eq!(ended.unwrap().code(), Some(0), "{:?}", finished.stderr);
    let said = finished.stderr.join("\n");
    assert!(
        said.contains("1 connect seen: 0 allowed, 1 rejected, 0 redirected"),
        "{said}"
    );
    assert!(!said.contains("error"), "{said}");
    scene.connects(&mut client, A).unwrap();
}

#[test]
fn output_that_cannot_be_written_is_a_failure_that_says_why() {
    let scene = Scene::new("full").unwrap();
    let mut client = scene.client().unwrap();
    let path = scene.path();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Enforcer::command(&scene.outside(), ["run"]).unwrap();
    command.args(["--cgroup", &path, "--reject", REJECT_A]);
    let enforcer = Enforcer::start_writing_to(command, full).unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, is_ready)
        .unwrap();
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    let finished = enforcer.finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(1), "{:?}", finished.stderr);
    let said = finished.stderr.join("\n");
    assert!(said.contains("events: 0 delivered, 1 lost"), "{said}");
    assert!(
        said.contains("enforcer: error: writing events to stdout: No space left on device"),
        "{said}"
    );
    scene.connects(&mut client, A).unwrap();
}

#[test]
fn nobody_who_listens_is_no_reason_to_stop_governing() {
    let scene = Scene::new("deaf").unwrap();
    let mut client = scene.client().unwrap();
    let path = scene.path();
    // Whatever is said to people is lost; the events are not.
    let mut command = scene.outside().command("sh").unwrap();
    command
        .args(["-c", r#"exec "$0" "$@" 2>/dev/full"#])
        .arg(Enforcer::program().unwrap())
        .args(["run", "--cgroup", &path, "--reject", REJECT_A]);
    let enforcer = Enforcer::start(command).unwrap();
    eventually("connects to be rejected", PATIENCE, || {
        scene.rejects(&mut client, A, "EHOSTDOWN").is_ok()
    })
    .unwrap();
    enforcer
        .wait_for_line(Stream::Stdout, PATIENCE, |line| line.contains("reject"))
        .unwrap();
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    scene.connects(&mut client, A).unwrap();
}
