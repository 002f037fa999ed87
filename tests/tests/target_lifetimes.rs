//! `enforcer run`: targets that come late, and targets that go.

use std::{thread, time::Duration};

use enforcer_tests::{
    client::Client,
    enforcer::{Enforcer, is_ready},
    place::Place,
    process::Stream,
    scene::{A, Scene},
    wait::{PATIENCE, eventually},
};
use rustix::process::Signal;

const REJECT_A: &str = "2001:db8:a::/48,errno=EHOSTDOWN";

#[test]
fn a_target_made_later_is_waited_for() {
    let scene = Scene::new("later").unwrap();
    let path = format!("{}/later/still", scene.path());
    let mut command = Enforcer::command(&scene.outside(), ["run", "--wait"]).unwrap();
    command.args(["--cgroup", &path, "--reject", REJECT_A]);
    let enforcer = Enforcer::start(command).unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line == format!("enforcer: note: waiting for cgroup {path}")
        })
        .unwrap();
    let later = scene.cgroup.child("later").unwrap();
    let still = later.child("still").unwrap();
    let mut client = Client::start(&Place::new(&still, &scene.netns)).unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, is_ready)
        .unwrap();
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    scene.connects(&mut client, A).unwrap();
}

#[test]
fn a_target_made_anew_while_another_is_waited_for_is_governed() {
    let scene = Scene::new("anew").unwrap();
    let [first, second] = ["first", "second"].map(|name| format!("{}/{name}", scene.path()));
    let early = scene.cgroup.child("first").unwrap();
    let mut command = Enforcer::command(&scene.outside(), ["run", "--wait"]).unwrap();
    command.args(["--cgroup", &first, "--cgroup", &second, "--reject", REJECT_A]);
    let enforcer = Enforcer::start(command).unwrap();
    let waits = format!("waiting for cgroup {second}");
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| line.contains(&waits))
        .unwrap();
    early.remove().unwrap();
    let anew = scene.cgroup.child("first").unwrap();
    let _late = scene.cgroup.child("second").unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line == "enforcing 1 rule on 2 cgroups"
        })
        .unwrap();
    let mut inside = Client::start(&Place::new(&anew, &scene.netns)).unwrap();
    scene.rejects(&mut inside, A, "EHOSTDOWN").unwrap();
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    scene.connects(&mut inside, A).unwrap();
}

#[test]
fn a_target_that_goes_at_any_moment_of_the_start_is_a_target_that_is_not_there() {
    let scene = Scene::new("brief").unwrap();
    let path = format!("{}/brief", scene.path());
    // The delays are no waits for anything: they are the moments.
    for delay_ms in [0, 10, 20, 40, 60, 80, 100, 150, 300, 1000] {
        let brief = scene.cgroup.child("brief").unwrap();
        let mut command = Enforcer::command(&scene.outside(), ["run"]).unwrap();
        command.args(["--cgroup", &path, "--reject", REJECT_A]);
        let enforcer = Enforcer::start(command).unwrap();
        thread::sleep(Duration::from_millis(delay_ms));
        brief.remove().unwrap();
        let finished = enforcer.finish(PATIENCE).unwrap();
        assert_eq!(
            finished.status.code(),
            Some(1),
            "after {delay_ms} ms: {:?}",
            finished.stderr
        );
    }
}

#[test]
fn waiting_can_be_ended() {
    let scene = Scene::new("patience").unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let path = format!("{}/never", scene.path());
        let mut command = Enforcer::command(&scene.outside(), ["run", "--wait"]).unwrap();
        command.args(["--cgroup", &path, "--reject", REJECT_A]);
        let mut enforcer = Enforcer::start(command).unwrap();
        enforcer
            .wait_for_line(Stream::Stderr, PATIENCE, |line| line.contains("waiting for"))
            .unwrap();
        enforcer.process().signal(signal).unwrap();
        assert_eq!(enforcer.finish(PATIENCE).unwrap().status.code(), Some(0));
    }
}

#[test]
fn a_target_that_goes_is_told_and_the_last_one_ends_the_run() {
    let scene = Scene::new("goes").unwrap();
    let goes = scene.cgroup.child("goes").unwrap();
    let stays = scene.cgroup.child("stays").unwrap();
    let mut client = Client::start(&Place::new(&stays, &scene.netns)).unwrap();
    let (first, second) = (goes.relative_path(), stays.relative_path());
    let arguments = ["--cgroup", &first, "--cgroup", &second, "--reject", REJECT_A];
    let enforcer = Enforcer::run(&scene.outside(), arguments).unwrap();
    goes.remove().unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line == format!("enforcer: note: cgroup {first} of target {first} is gone")
        })
        .unwrap();
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    drop(client);
    stays.remove().unwrap();
    let finished = enforcer.finish(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(1), "{:?}", finished.stderr);
    assert_eq!(finished.stdout.len(), 1);
    let said = finished.stderr.join("\n");
    assert!(
        said.contains("1 connect seen: 0 allowed, 1 rejected, 0 redirected"),
        "{said}"
    );
    assert!(
        said.ends_with("enforcer: error: the last target is gone"),
        "{said}"
    );
}

#[test]
fn the_last_target_that_goes_is_waited_for_where_waiting_was_asked_for() {
    let scene = Scene::new("returns").unwrap();
    let path = {
        let target = scene.cgroup.child("target").unwrap();
        let path = target.relative_path();
        let arguments = ["--wait", "--cgroup", &path, "--reject", REJECT_A];
        let enforcer = Enforcer::run(&scene.outside(), arguments).unwrap();
        let mut client = Client::start(&Place::new(&target, &scene.netns)).unwrap();
        scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
        drop(client);
        target.remove().unwrap();
        enforcer
            .wait_for_line(Stream::Stderr, PATIENCE, |line| {
                line == "enforcer: note: the last target is gone; waiting for the targets to come back"
            })
            .unwrap();
        let again = scene.cgroup.child("target").unwrap();
        // Not waited for by a line: the one that says so is there twice.
        eventually("the target to be governed again", PATIENCE, || {
            let ready = enforcer.lines(Stream::Stderr);
            ready.iter().filter(|line| is_ready(line)).count() == 2
        })
        .unwrap();
        let mut client = Client::start(&Place::new(&again, &scene.netns)).unwrap();
        scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
        let finished = enforcer.terminate().unwrap();
        assert_eq!(finished.status.code(), Some(0), "{:?}", finished.stderr);
        assert_eq!(finished.stdout.len(), 2, "{:?}", finished.stdout);
        let said = finished.stderr.join("\n");
        assert!(
            said.contains("2 connects seen: 0 allowed, 2 rejected, 0 redirected"),
            "{said}"
        );
        scene.connects(&mut client, A).unwrap();
        path
    };
    // Waiting for it to come back can be ended too.
    let target = scene.cgroup.child("target-2").unwrap();
    let path = format!("{path}-2");
    let mut enforcer = Enforcer::run(
        &scene.outside(),
        ["--wait", "--cgroup", &path, "--reject", REJECT_A],
    )
    .unwrap();
    target.remove().unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line.contains("the last target is gone")
        })
        .unwrap();
    enforcer.process().signal(Signal::TERM).unwrap();
    assert_eq!(enforcer.finish(PATIENCE).unwrap().status.code(), Some(0));
}
