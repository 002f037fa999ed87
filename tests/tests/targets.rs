//! `enforcer run`: which connects are governed. What is named on the command line or in a file, what lies beside and
//! below it, sockets that change sides, and targets that are named twice. Targets that are refused are in `bad_input`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, path::PathBuf};

use enforcer_tests::{
    client::Client,
    enforcer::{Enforcer, is_ready},
    foreign::{At, ForeignProgram, Sharing, Verdict},
    kernel::expected_errno,
    place::Place,
    process::{Finished, Stream},
    protocol::{CONNECT_TIMEOUT_MS, Connect, Request, SocketKind},
    scene::{A, B, Scene},
    wait::PATIENCE,
};
use tempfile::TempDir;

const REJECT_A: &str = "2001:db8:a::/48,errno=EHOSTDOWN";

/// A policy file, and the directory that goes with it.
fn policy(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.toml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

/// Runs `enforcer run` where it is to refuse, and says what it said.
fn refused(scene: &Scene, arguments: &[&str]) -> (Option<i32>, String) {
    let arguments = [&["run"], arguments].concat();
    let finished: Finished = Enforcer::output(&scene.outside(), arguments, PATIENCE).unwrap();
    assert!(finished.stdout.is_empty(), "{:?}", finished.stdout);
    let said = finished.stderr.join("\n");
    assert!(!finished.stderr.iter().any(|line| is_ready(line)), "{said}");
    (finished.status.code(), said)
}

#[test]
fn cgroups_below_are_governed_and_those_beside_are_not() {
    let scene = Scene::new("around").unwrap();
    let governed = scene.cgroup.child("governed").unwrap();
    let below = governed.child("below").unwrap();
    let beside = scene.cgroup.child("governed-not").unwrap();
    let [mut inside, mut deeper, mut sibling, mut parent] = [&governed, &below, &beside, &scene.cgroup]
        .map(|cgroup| Client::start(&Place::new(cgroup, &scene.netns)).unwrap());
    for client in [&mut inside, &mut deeper, &mut sibling, &mut parent] {
        scene.connects(client, A).unwrap();
    }
    let path = governed.relative_path();
    let arguments = ["--cgroup", &path, "--reject", REJECT_A, "--output", "json"];
    let enforcer = Enforcer::run(&scene.outside(), arguments).unwrap();
    scene.connects(&mut sibling, A).unwrap();
    scene.connects(&mut parent, A).unwrap();
    scene.rejects(&mut inside, A, "EHOSTDOWN").unwrap();
    scene.rejects(&mut deeper, A, "EHOSTDOWN").unwrap();
    let events = enforcer.wait_for_events(2).unwrap();
    for (event, task) in events.iter().zip([governed.id(), below.id()]) {
        assert_eq!(event["cgroup_id"], governed.id());
        assert_eq!(event["cgroup"], path);
        assert_eq!(event["task_cgroup_id"], task);
    }
    assert_eq!(enforcer.terminate().unwrap().stdout.len(), 2);
    for client in [&mut inside, &mut deeper, &mut sibling, &mut parent] {
        scene.connects(client, A).unwrap();
    }
}

#[test]
fn what_counts_is_where_the_socket_was_made() {
    let scene = Scene::new("moved").unwrap();
    let elsewhere = scene.cgroup.child("elsewhere").unwrap();
    let governed = scene.cgroup.child("governed").unwrap();
    let mut comes = Client::start(&Place::new(&elsewhere, &scene.netns)).unwrap();
    let mut goes = Client::start(&Place::new(&governed, &scene.netns)).unwrap();
    let held = Connect {
        hold: true,
        ..Connect::new(SocketKind::Udp, scene.to(A))
    };
    let [made_outside, made_inside] =
        [&mut comes, &mut goes].map(|client| client.connect(held.clone()).unwrap().id.unwrap());
    governed.adopt(comes.pid()).unwrap();
    elsewhere.adopt(goes.pid()).unwrap();

    let path = governed.relative_path();
    let arguments = ["--cgroup", &path, "--reject", REJECT_A, "--output", "json"];
    let enforcer = Enforcer::run(&scene.outside(), arguments).unwrap();
    let again = |id| Request::Reconnect {
        id,
        to: scene.to(A),
        timeout_ms: CONNECT_TIMEOUT_MS,
    };
    assert!(comes.ask(&again(made_outside)).unwrap().ok);
    let rejected = goes.ask(&again(made_inside)).unwrap();
    assert_eq!(rejected.outcome(), expected_errno("EHOSTDOWN").name);
    let event = enforcer.wait_for_events(1).unwrap().remove(0);
    assert_eq!(event["cgroup_id"], governed.id());
    assert_eq!(event["task_cgroup_id"], elsewhere.id());
    // New sockets are made where the processes are now.
    scene.rejects(&mut comes, A, "EHOSTDOWN").unwrap();
    scene.connects(&mut goes, A).unwrap();
    assert_eq!(enforcer.terminate().unwrap().stdout.len(), 2);
    assert!(goes.ask(&again(made_inside)).unwrap().ok);
    scene.connects(&mut comes, A).unwrap();
}

#[test]
fn targets_of_a_file_have_the_rules_of_their_groups_and_those_of_the_command_line() {
    let scene = Scene::new("groups").unwrap();
    let web = scene.cgroup.child("web").unwrap();
    let db = scene.cgroup.child("db").unwrap();
    let mut on_web = Client::start(&Place::new(&web, &scene.netns)).unwrap();
    let mut on_db = Client::start(&Place::new(&db, &scene.netns)).unwrap();
    let (_directory, file) = policy(&format!(
        r#"
        version = 1
        [[target]]
        name = "web"
        cgroup = "{}"
        use = ["no-a"]
        [[target]]
        name = "db"
        cgroup = "{}"
        use = ["no-b"]
        [[rule]]
        name = "a is broken"
        groups = ["no-a"]
        prefix = "2001:db8:a::/48"
        action = "reject"
        errno = "EHOSTDOWN"
        [[rule]]
        groups = ["no-b"]
        prefix = "2001:db8:b::/48"
        action = "reject"
        errno = "ENETDOWN"
        "#,
        web.relative_path(),
        db.relative_path()
    ));
    let file = file.to_str().unwrap();
    for client in [&mut on_web, &mut on_db] {
        scene.connects(client, A).unwrap();
        scene.connects(client, B).unwrap();
        assert!(client.connect_udp(scene.to(A)).unwrap().ok);
    }
    let udp = "2001:db8:a::1,errno=ECONNABORTED,proto=udp";
    let arguments = ["--policy", file, "--reject", udp, "--output", "json"];
    let enforcer = Enforcer::run(&scene.outside(), arguments).unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line == "enforcing 3 rules on 2 cgroups"
        })
        .unwrap();
    scene.rejects(&mut on_web, A, "EHOSTDOWN").unwrap();
    scene.connects(&mut on_web, B).unwrap();
    scene.connects(&mut on_db, A).unwrap();
    scene.rejects(&mut on_db, B, "ENETDOWN").unwrap();
    for client in [&mut on_web, &mut on_db] {
        let outcome = client.connect_udp(scene.to(A)).unwrap().outcome();
        assert_eq!(outcome, expected_errno("ECONNABORTED").name);
    }
    let events = enforcer.wait_for_events(6).unwrap();
    let told = |field: &str| {
        events
            .iter()
            .map(|event| event[field].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(told("target"), ["web", "web", "db", "db", "web", "db"]);
    assert_eq!(told("rule")[0], "a is broken");
    let line = told("rule")[3].as_str().unwrap().to_owned();
    assert!(line.starts_with(file) && line.ends_with(":17"), "{line}");
    let finished = enforcer.terminate().unwrap();
    for expected in [
        "6 connects seen: 2 allowed, 4 rejected, 0 redirected",
        "  web: 3 connects seen: 1 allowed, 2 rejected, 0 redirected",
        "  db: 3 connects seen: 1 allowed, 2 rejected, 0 redirected",
    ] {
        assert!(
            finished.stderr.iter().any(|line| line == expected),
            "{:?}",
            finished.stderr
        );
    }

    // Targets of the command line replace the file's, and choose their groups themselves.
    let web_path = web.relative_path();
    let arguments = ["--policy", file, "--cgroup", &web_path, "--use", "no-b"];
    let enforcer = Enforcer::run(&scene.outside(), arguments).unwrap();
    scene.connects(&mut on_web, A).unwrap();
    scene.rejects(&mut on_web, B, "ENETDOWN").unwrap();
    scene.connects(&mut on_db, B).unwrap();
    enforcer.terminate().unwrap();
    scene.connects(&mut on_web, B).unwrap();
}

#[test]
fn a_process_stands_for_its_cgroup_and_everyone_in_it() {
    let scene = Scene::new("pid").unwrap();
    let mut named = scene.client().unwrap();
    let mut company = scene.client().unwrap();
    scene.connects(&mut company, A).unwrap();
    let pid = named.pid().to_string();
    let enforcer = Enforcer::run(&scene.outside(), ["--pid", &pid, "--reject", REJECT_A]).unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line == format!(
                "enforcer: note: pid {pid} is in cgroup {}: governs 2 processes",
                scene.path()
            )
        })
        .unwrap();
    scene.rejects(&mut named, A, "EHOSTDOWN").unwrap();
    scene.rejects(&mut company, A, "EHOSTDOWN").unwrap();
    enforcer.terminate().unwrap();
    scene.connects(&mut company, A).unwrap();
}

#[test]
fn a_cgroup_named_twice_is_governed_once() {
    let scene = Scene::new("twice").unwrap();
    let mut client = scene.client().unwrap();
    scene.connects(&mut client, A).unwrap();
    let (path, pid) = (scene.path(), client.pid().to_string());
    let arguments = ["--cgroup", &path, "--pid", &pid, "--reject", REJECT_A];
    let enforcer = Enforcer::run(&scene.outside(), arguments).unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line == format!(
                "enforcer: note: cgroup {path} is named more than once: it is governed once, as target {path}"
            )
        })
        .unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line == "enforcing 1 rule on 1 cgroup"
        })
        .unwrap();
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    assert_eq!(enforcer.terminate().unwrap().stdout.len(), 1);
    scene.connects(&mut client, A).unwrap();
}

#[test]
fn a_cgroup_named_twice_with_different_groups_is_refused() {
    let scene = Scene::new("contradiction").unwrap();
    let mut client = scene.client().unwrap();
    let rules = r#"
        [[rule]]
        groups = ["one", "both"]
        prefix = "2001:db8:a::/48"
        action = "reject"
        [[rule]]
        groups = ["two", "both"]
        prefix = "2001:db8:b::/48"
        action = "reject"
    "#;
    let targets = |second: &str| {
        format!(
            r#"
            version = 1
            [[target]]
            name = "by path"
            cgroup = "{}"
            use = ["one", "two"]
            [[target]]
            name = "by pid"
            pid = {}
            use = {second}
            {rules}
            "#,
            scene.path(),
            client.pid()
        )
    };
    let (_directory, file) = policy(&targets(r#"["two", "both"]"#));
    let (code, said) = refused(&scene, &["--policy", file.to_str().unwrap()]);
    assert_eq!(code, Some(3), "{said}");
    let cause = format!(
        "targets by path and by pid are the same cgroup, {}, but use different groups of rules: one, two and both, two",
        scene.path()
    );
    assert!(said.contains(&cause), "{said}");
    assert!(said.contains("hint: "), "{said}");
    let (_directory, file) = policy(&targets(r#"["two", "one"]"#));
    let enforcer = Enforcer::run(&scene.outside(), ["--policy", file.to_str().unwrap()]).unwrap();
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    scene.connects(&mut client, A).unwrap();
}

#[test]
fn programs_of_others_are_told_of_and_left_alone() {
    let scene = Scene::new("foreign").unwrap();
    let mut client = scene.client().unwrap();
    let path = scene.path();
    let at = |name| ForeignProgram::attach(name, &scene.cgroup, At::Connect6, Sharing::Multi).unwrap();
    let foreign = at("a_stranger");
    scene.connects(&mut client, A).unwrap();
    let enforcer = Enforcer::run(&scene.outside(), ["--cgroup", &path, "--reject", REJECT_A]).unwrap();
    let said = enforcer.lines(Stream::Stderr).join("\n");
    assert!(
        said.contains(&format!("cgroup {path} has a program already, a_stranger (id ")),
        "{said}"
    );
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    scene.connects(&mut client, A).unwrap();

    let below = &scene.cgroup.child("below").unwrap();
    let name = below.relative_path();
    let enforcer = Enforcer::run(&scene.outside(), ["--cgroup", &name, "--reject", REJECT_A]).unwrap();
    let said = enforcer.lines(Stream::Stderr).join("\n");
    assert!(
        said.contains(&format!(
            "cgroup {path}, above a target, has a program, a_stranger (id "
        )),
        "{said}"
    );
    drop(enforcer);
    drop(foreign);
}

/// To attach below would have the kernel skip it, and nobody would notice.
#[test]
fn a_program_of_others_that_gives_way_is_not_switched_off() {
    let scene = Scene::new("gives-way").unwrap();
    let below = scene.cgroup.child("below").unwrap();
    let path = below.relative_path();
    let mut client = Client::start(&Place::new(&below, &scene.netns)).unwrap();
    scene.connects(&mut client, B).unwrap();
    let firewall = ForeignProgram::attach_with(
        "firewall",
        &scene.cgroup,
        At::Connect6,
        Sharing::Override,
        Verdict::Reject,
    )
    .unwrap();
    scene.rejects(&mut client, B, "EPERM").unwrap();
    let (code, said) = refused(&scene, &["--cgroup", &path, "--reject", REJECT_A]);
    assert_eq!(code, Some(4), "{said}");
    let cause = format!(
        "will not attach to cgroup {path}: the kernel would then no longer run program {} of cgroup {} (connect6) for it",
        firewall.id(),
        scene.path()
    );
    assert!(said.contains(&cause), "{said}");
    assert!(said.contains("hint: it may be a firewall"), "{said}");
    scene.rejects(&mut client, B, "EPERM").unwrap();

    // Where somebody has a program in between, it does not run anyway.
    let between = ForeignProgram::attach("between", &below, At::Connect6, Sharing::Multi).unwrap();
    let deeper = below.child("deeper").unwrap();
    let mut client = Client::start(&Place::new(&deeper, &scene.netns)).unwrap();
    scene.connects(&mut client, B).unwrap();
    let path = deeper.relative_path();
    let enforcer = Enforcer::run(&scene.outside(), ["--cgroup", &path, "--reject", REJECT_A]).unwrap();
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    scene.connects(&mut client, B).unwrap();
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    drop(between);
    scene.rejects(&mut client, B, "EPERM").unwrap();
    drop(firewall);
    scene.connects(&mut client, B).unwrap();
}

#[test]
fn two_enforcers_at_one_cgroup_both_hold_and_end_apart() {
    let scene = Scene::new("two").unwrap();
    let mut client = scene.client().unwrap();
    let path = scene.path();
    scene.connects(&mut client, A).unwrap();
    scene.connects(&mut client, B).unwrap();
    let first = Enforcer::run(&scene.outside(), ["--cgroup", &path, "--reject", REJECT_A]).unwrap();
    let reject_b = "2001:db8:b::/48,errno=ENETDOWN";
    let second = Enforcer::run(&scene.outside(), ["--cgroup", &path, "--reject", reject_b]).unwrap();
    let said = second.lines(Stream::Stderr).join("\n");
    assert!(
        said.contains(&format!("cgroup {path} has a program already, ")),
        "{said}"
    );
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    scene.rejects(&mut client, B, "ENETDOWN").unwrap();
    assert_eq!(first.terminate().unwrap().status.code(), Some(0));
    scene.connects(&mut client, A).unwrap();
    scene.rejects(&mut client, B, "ENETDOWN").unwrap();
    assert_eq!(second.terminate().unwrap().status.code(), Some(0));
    scene.connects(&mut client, B).unwrap();
}
