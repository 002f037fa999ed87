//! Reloads: what a policy file that changed puts into force, and what one that cannot be used leaves as it is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use enforcer_tests::{
    client::Client,
    enforcer::{Enforcer, parse_events},
    need::tests_directory,
    place::{self, Place},
    policy::{PolicyFile, rejecting, target, told_to_reload},
    process::Stream,
    protocol::{CONNECT_TIMEOUT_MS, Connect, Request, SocketKind},
    scene::{A, B, Scene},
    wait::{PATIENCE, eventually},
};
use rustix::process::Signal;

const PREFIX_A: &str = "2001:db8:a::/48";
const PREFIX_B: &str = "2001:db8:b::/48";

/// Rules of the default group.
fn rules(rules: &[(&str, &str)]) -> String {
    rules
        .iter()
        .map(|(prefix, errno)| rejecting("default", prefix, errno))
        .collect()
}

fn run(scene: &Scene, file: &PolicyFile, more: &[&str]) -> Enforcer {
    let arguments = file.arguments();
    let arguments = arguments.iter().map(String::as_str).chain(more.iter().copied());
    Enforcer::run(&scene.outside(), arguments).unwrap()
}

#[test]
fn what_the_file_says_now_is_in_force_and_a_line_says_what_changed() {
    let scene = Scene::new("reload").unwrap();
    let mut client = scene.client().unwrap();
    scene.connects(&mut client, A).unwrap();
    let web = target("web", &scene.path(), &["default"]);
    let file = PolicyFile::new(&[web.clone(), rules(&[(PREFIX_A, "EHOSTDOWN")])].concat()).unwrap();
    // What the command line says stays, whatever the file says.
    let mut enforcer = run(
        &scene,
        &file,
        &["--reject", "2001:db8:b::1,errno=ECONNABORTED,name=mine"],
    );
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    scene.rejects(&mut client, B, "ECONNABORTED").unwrap();

    let more = rules(&[(PREFIX_B, "ENETDOWN"), (PREFIX_A, "ENETDOWN")]);
    let line = file.reload(&mut enforcer, &[web.clone(), more].concat()).unwrap();
    assert!(
        line.starts_with("reloaded: 3 rules (1 added, 1 changed), "),
        "{line}"
    );
    assert!(line.contains(" entries, in ") && line.ends_with(" ms"), "{line}");
    scene.rejects(&mut client, A, "ENETDOWN").unwrap();
    scene.rejects(&mut client, B, "ECONNABORTED").unwrap();

    let line = file
        .reload(&mut enforcer, &format!("[defaults]\nmode = \"audit\"\n{web}"))
        .unwrap();
    assert!(line.starts_with("reloaded: 1 rule (2 removed), "), "{line}");
    assert!(line.contains(", in audit mode now, in "), "{line}");
    scene.connects(&mut client, A).unwrap();
    scene.connects(&mut client, B).unwrap();

    let line = file.reload(&mut enforcer, &web).unwrap();
    assert!(line.starts_with("reloaded: 1 rule (unchanged), "), "{line}");
    assert!(line.contains(", enforcing now, in "), "{line}");
    scene.rejects(&mut client, B, "ECONNABORTED").unwrap();

    let finished = enforcer.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(0), "{:#?}", finished.stderr);
    let events = parse_events(&finished.stdout).unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event["rule"].as_str().unwrap_or("-"),
                event["mode"].as_str().unwrap(),
            )
        })
        .collect();
    let path = file.path();
    let at = |line: usize| format!("{}:{line}", path.display());
    // Each record is named by the rules that were in force when it was made.
    let expected = [
        (at(6), "enforce"),
        ("mine".to_owned(), "enforce"),
        (at(11), "enforce"),
        ("mine".to_owned(), "enforce"),
        ("-".to_owned(), "audit"),
        ("-".to_owned(), "audit"),
        ("mine".to_owned(), "enforce"),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(rule, mode)| (rule.as_str(), *mode))
        .collect();
    assert_eq!(told, expected);
    scene.connects(&mut client, A).unwrap();
}

#[test]
fn a_file_that_cannot_be_used_changes_nothing_and_all_that_is_wrong_with_it_is_told() {
    let scene = Scene::new("reload-bad").unwrap();
    let twin = scene.cgroup.child("twin").unwrap();
    let mut client = scene.client().unwrap();
    scene.connects(&mut client, A).unwrap();
    let web = target("web", &scene.path(), &["default"]);
    let good = [web.clone(), rules(&[(PREFIX_A, "EHOSTDOWN")])].concat();
    let file = PolicyFile::new(&good).unwrap();
    let mut enforcer = run(&scene, &file, &[]);

    fs::copy(tests_directory().join("cases/mistakes/ten.toml"), file.path()).unwrap();
    let said = told_to_reload(&mut enforcer).unwrap().join("\n");
    assert_eq!(said.matches("error: ").count(), 10, "{said}");
    assert!(
        said.ends_with("note: not reloaded: what was in force still is"),
        "{said}"
    );
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    let tie = rules(&[(PREFIX_A, "EHOSTDOWN"), (PREFIX_A, "ENETDOWN")]);
    let contradiction = [
        target("one", &twin.relative_path(), &["default"]),
        target("two", &twin.relative_path(), &["other"]),
        rejecting("other", PREFIX_A, "ENETDOWN"),
    ];
    let missing = [
        target("here", &scene.path(), &["default"]),
        target("there", "/enforcer-reload-not-there", &["default"]),
        target("nor-there", "/enforcer-reload-nor-there", &["default"]),
    ];
    for (text, errors, words) in [
        ("[[rule]\n".to_owned(), 1, "policy.toml"),
        ([web.clone(), tie].concat(), 1, ""),
        (
            [web.clone(), contradiction.concat()].concat(),
            1,
            "are the same cgroup",
        ),
        (missing.concat(), 2, "does not exist"),
        (String::new(), 1, "no target to govern"),
    ] {
        let said = file.refused(&mut enforcer, &text).unwrap();
        assert_eq!(said.matches("error: ").count(), errors, "{text}\n{said}");
        assert!(said.contains(words), "{said}");
        scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
        scene.connects(&mut client, B).unwrap();
    }
    fs::remove_file(file.path()).unwrap();
    let said = told_to_reload(&mut enforcer).unwrap();
    assert!(said.iter().any(|line| line.contains("policy.toml")), "{said:#?}");
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();

    let line = file.reload(&mut enforcer, &good).unwrap();
    assert!(line.starts_with("reloaded: 1 rule (unchanged), "), "{line}");
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    scene.connects(&mut client, A).unwrap();
}

#[test]
fn targets_come_and_go_within_each_other_and_are_all_accounted_for() {
    let scene = Scene::new("reload-targets").unwrap();
    let middle = scene.cgroup.child("middle").unwrap();
    let inner = middle.child("inner").unwrap();
    let cgroups = [&scene.cgroup, &middle, &inner];
    let mut clients = cgroups.map(|cgroup| Client::start(&Place::new(cgroup, &scene.netns)).unwrap());
    let errnos = ["EHOSTDOWN", "ENETDOWN", "ECONNABORTED"];
    let names = ["outer", "middle", "inner"];
    let all_rules: String = names
        .iter()
        .zip(errnos)
        .map(|(name, errno)| rejecting(name, PREFIX_A, errno))
        .collect();
    // The targets that are there, and which of them judges each of the three.
    let steps: [(&[usize], [Option<usize>; 3]); 9] = [
        (&[0], [Some(0), Some(0), Some(0)]),
        (&[0, 2], [Some(0), Some(0), Some(2)]),
        (&[0, 1, 2], [Some(0), Some(1), Some(2)]),
        (&[1, 2], [None, Some(1), Some(2)]),
        (&[2], [None, None, Some(2)]),
        (&[2, 1, 0], [Some(0), Some(1), Some(2)]),
        (&[0, 1], [Some(0), Some(1), Some(1)]),
        (&[2], [None, None, Some(2)]),
        (&[0], [Some(0), Some(0), Some(0)]),
    ];
    let text = |targets: &[usize]| {
        let targets = targets
            .iter()
            .map(|&at| target(names[at], &cgroups[at].relative_path(), &[names[at]]));
        [targets.collect(), all_rules.clone()].concat()
    };
    let file = PolicyFile::new(&text(steps[0].0)).unwrap();
    let mut enforcer = run(&scene, &file, &[]);
    let mut expected = Vec::new();
    for (at, (targets, judges)) in steps.into_iter().enumerate() {
        if at > 0 {
            let line = file.reload(&mut enforcer, &text(targets)).unwrap();
            assert!(line.contains("attached") || line.contains("detached"), "{line}");
        }
        for (client, judge) in clients.iter_mut().zip(judges) {
            match judge {
                Some(judge) => {
                    scene.rejects(client, A, errnos[judge]).unwrap();
                    expected.push((names[judge], errnos[judge]));
                }
                None => scene.connects(client, A).unwrap(),
            }
        }
    }
    let finished = enforcer.terminate().unwrap();
    let events = parse_events(&finished.stdout).unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event["target"].as_str().unwrap(),
                event["errno"].as_str().unwrap(),
            )
        })
        .collect();
    // Each connect is one event, of the nearest target.
    assert_eq!(told, expected);
    for name in names {
        let count = expected.iter().filter(|(target, _)| *target == name).count();
        let line = format!("  {name}: {count} connects seen: 0 allowed, {count} rejected, 0 redirected");
        assert!(
            finished.stderr.contains(&line),
            "{line} in {:#?}",
            finished.stderr
        );
    }
    assert!(
        !finished.stderr.iter().any(|line| line.starts_with("faults")),
        "{:#?}",
        finished.stderr
    );
    for client in &mut clients {
        scene.connects(client, A).unwrap();
    }
}

#[test]
fn a_target_that_is_called_otherwise_stays_governed_and_is_counted_under_each_name() {
    let scene = Scene::new("reload-renamed").unwrap();
    let mut client = scene.client().unwrap();
    let text = |name: &str| {
        [
            target(name, &scene.path(), &["default"]),
            rules(&[(PREFIX_A, "EHOSTDOWN")]),
        ]
        .concat()
    };
    let file = PolicyFile::new(&text("before")).unwrap();
    let mut enforcer = run(&scene, &file, &[]);
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    let line = file.reload(&mut enforcer, &text("after")).unwrap();
    assert!(!line.contains("tached"), "{line}");
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    let finished = enforcer.terminate().unwrap();
    for line in [
        "  before: 1 connect seen: 0 allowed, 1 rejected, 0 redirected",
        "  after: 2 connects seen: 0 allowed, 2 rejected, 0 redirected",
    ] {
        assert!(
            finished.stderr.iter().any(|it| it == line),
            "{:#?}",
            finished.stderr
        );
    }
    scene.connects(&mut client, A).unwrap();
}

#[test]
fn a_redirected_connection_goes_on_and_still_shows_where_it_was_to_go() {
    let scene = Scene::new("reload-flow").unwrap();
    let mut client = scene.client().unwrap();
    let web = target("web", &scene.path(), &["default"]);
    let redirect = format!("[[rule]]\nprefix = \"{PREFIX_A}\"\naction = \"redirect\"\nto = \"192.0.2.1\"\n");
    let file = PolicyFile::new(&[web.clone(), redirect].concat()).unwrap();
    let mut enforcer = run(&scene, &file, &[]);
    let mut held = Vec::new();
    for socket in [SocketKind::Tcp, SocketKind::Udp] {
        let connect = Connect {
            hold: true,
            ..Connect::new(socket, scene.to(A))
        };
        let answer = client.connect(connect).unwrap();
        assert_eq!(answer.peer, Some(scene.to(A)), "{answer:?}");
        assert!(answer.local.unwrap().ip().to_canonical().is_ipv4(), "{answer:?}");
        held.push(answer.id.unwrap());
    }
    for text in [rules(&[(PREFIX_A, "EHOSTDOWN")]), String::new()] {
        file.reload(&mut enforcer, &[web.clone(), text].concat()).unwrap();
        for &id in &held {
            let names = client.ask(&Request::Names { id }).unwrap();
            assert_eq!(names.peer, Some(scene.to(A)), "{names:?}");
            let exchange = Request::Exchange {
                id,
                send: "still there?".to_owned(),
                timeout_ms: CONNECT_TIMEOUT_MS,
            };
            // The TCP server echoes until it is told that nothing more comes, and the test never says so.
            let answer = client.ask(&exchange).unwrap();
            assert_eq!(answer.received.as_deref(), Some("still there?"), "{answer:?}");
        }
    }
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
}

#[test]
fn a_duration_that_has_passed_does_not_begin_again() {
    let scene = Scene::new("reload-expiry").unwrap();
    let mut client = scene.client().unwrap();
    let web = target("web", &scene.path(), &["default"]);
    let text = |errno: &str| {
        let ending = format!(
            "{}expires = \"3s\"\nname = \"short\"\n",
            rules(&[(PREFIX_A, "EHOSTDOWN")])
        );
        [web.clone(), ending, rules(&[(PREFIX_B, errno)])].concat()
    };
    let file = PolicyFile::new(&text("ENETDOWN")).unwrap();
    let mut enforcer = run(&scene, &file, &[]);
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line.contains("`short` has expired")
        })
        .unwrap();
    scene.connects(&mut client, A).unwrap();
    scene.rejects(&mut client, B, "ENETDOWN").unwrap();
    file.reload(&mut enforcer, &text("ECONNABORTED")).unwrap();
    scene.connects(&mut client, A).unwrap();
    scene.rejects(&mut client, B, "ECONNABORTED").unwrap();
    // A rule that says something else is another rule.
    let other = text("ENETDOWN")
        .replace("EHOSTDOWN", "ETIMEDOUT")
        .replace("3s", "1h");
    file.reload(&mut enforcer, &other).unwrap();
    scene.rejects(&mut client, A, "ETIMEDOUT").unwrap();
    let finished = enforcer.terminate().unwrap();
    let expired = finished.stderr.iter().filter(|line| line.contains("has expired"));
    assert_eq!(expired.count(), 1, "{:#?}", finished.stderr);
}

#[test]
fn a_target_that_is_not_there_yet_is_waited_for_while_the_others_have_the_new_policy() {
    let scene = Scene::new("reload-wait").unwrap();
    let mut client = scene.client().unwrap();
    let late = format!("{}/late", scene.path());
    let web = target("web", &scene.path(), &["default"]);
    let file = PolicyFile::new(&[web.clone(), rules(&[(PREFIX_A, "EHOSTDOWN")])].concat()).unwrap();
    let mut enforcer = run(&scene, &file, &["--wait"]);
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    let both = [
        web,
        target("late", &late, &["late"]),
        rules(&[(PREFIX_A, "ENETDOWN")]),
        rejecting("late", PREFIX_A, "ECONNABORTED"),
    ];
    file.reload(&mut enforcer, &both.concat()).unwrap();
    let said = enforcer.lines(Stream::Stderr).join("\n");
    assert!(
        said.contains(&format!("note: waiting for cgroup {late}")),
        "{said}"
    );
    scene.rejects(&mut client, A, "ENETDOWN").unwrap();
    let cgroup = scene.cgroup.child("late").unwrap();
    let mut inside = Client::start(&Place::new(&cgroup, &scene.netns)).unwrap();
    eventually(
        "the late target to be governed by its own rules",
        PATIENCE,
        || {
            scene.rejects(&mut inside, A, "ECONNABORTED").is_ok()
                && enforcer
                    .lines(Stream::Stderr)
                    .iter()
                    .any(|line| line.ends_with("on 2 cgroups"))
        },
    )
    .unwrap();
    scene.rejects(&mut client, A, "ENETDOWN").unwrap();
    let finished = enforcer.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(0), "{:#?}", finished.stderr);
    scene.connects(&mut inside, A).unwrap();
}

#[test]
fn targets_and_groups_of_the_command_line_are_those_of_every_file() {
    let scene = Scene::new("reload-arguments").unwrap();
    let mut client = scene.client().unwrap();
    let path = scene.path();
    let both = |errno: &str| [rejecting("web", PREFIX_A, errno), rules(&[(PREFIX_B, errno)])].concat();
    let file = PolicyFile::new(&both("EHOSTDOWN")).unwrap();
    let mut enforcer = run(&scene, &file, &["--cgroup", &path, "--use", "web"]);
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    scene.connects(&mut client, B).unwrap();
    file.reload(&mut enforcer, &both("ENETDOWN")).unwrap();
    scene.rejects(&mut client, A, "ENETDOWN").unwrap();
    scene.connects(&mut client, B).unwrap();
    let said = file
        .refused(&mut enforcer, &rules(&[(PREFIX_A, "EHOSTDOWN")]))
        .unwrap();
    assert!(
        said.contains("--use web: no rule belongs to that group"),
        "{said}"
    );
    scene.rejects(&mut client, A, "ENETDOWN").unwrap();
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    scene.connects(&mut client, A).unwrap();
}

#[test]
fn who_was_started_to_outlive_a_terminal_reloads_too() {
    let scene = Scene::new("reload-nohup").unwrap();
    let mut client = scene.client().unwrap();
    let text = |errno: &str| {
        [
            target("web", &scene.path(), &["default"]),
            rules(&[(PREFIX_A, errno)]),
        ]
        .concat()
    };
    let file = PolicyFile::new(&text("EHOSTDOWN")).unwrap();
    let mut command = Enforcer::command(&scene.outside(), ["run"]).unwrap();
    command.args(file.arguments());
    place::ignoring(&mut command, &[libc::SIGHUP]);
    let mut enforcer = Enforcer::start_governing(command).unwrap();
    file.reload(&mut enforcer, &text("ENETDOWN")).unwrap();
    scene.rejects(&mut client, A, "ENETDOWN").unwrap();
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
}

#[test]
fn a_file_that_is_changed_while_targets_are_waited_for_is_read_again() {
    let scene = Scene::new("reload-waiting").unwrap();
    let never = format!("{}/never", scene.path());
    let file = PolicyFile::new(&target("never", &never, &["default"])).unwrap();
    let mut command = Enforcer::command(&scene.outside(), ["run", "--wait"]).unwrap();
    command.args(file.arguments());
    let mut enforcer = Enforcer::start(command).unwrap();
    let waits = |enforcer: &Enforcer| {
        enforcer
            .wait_for_line(Stream::Stderr, PATIENCE, |line| line.contains("waiting for"))
            .unwrap()
    };
    waits(&enforcer);
    file.write("[[rule]\n").unwrap();
    enforcer.process().signal(Signal::HUP).unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| line.contains("not reloaded"))
        .unwrap();
    file.write(
        &[
            target("web", &scene.path(), &["default"]),
            rules(&[(PREFIX_A, "EHOSTDOWN")]),
        ]
        .concat(),
    )
    .unwrap();
    enforcer.process().signal(Signal::HUP).unwrap();
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| {
            line.starts_with("enforcing 1 rule on 1 cgroup")
        })
        .unwrap();
    let mut client = scene.client().unwrap();
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    assert_eq!(enforcer.terminate().unwrap().status.code(), Some(0));
    scene.connects(&mut client, A).unwrap();
}
