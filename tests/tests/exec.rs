//! `enforcer exec`: the command is governed, and otherwise has everything as without enforcer.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, process::Command};

use enforcer_tests::{
    client::Client,
    enforcer::{Enforcer, parse_events},
    kernel::{expected_errno, support},
    need::{Need, need},
    place::Place,
    process::{Finished, Running},
    protocol::{Answer, Connect, Request, SocketKind},
    scene::{A, B, IPV4, Scene},
    wait::PATIENCE,
};

const REJECT_A: &str = "2001:db8:a::/48,errno=EHOSTDOWN";

/// `enforcer exec <options> -- <command>`, in that place.
fn exec(place: &Place<'_>, options: &[&str], command: &[&str]) -> Command {
    let arguments = [&["exec"], options, &["--"], command].concat();
    Enforcer::command(place, arguments).unwrap()
}

fn finish(command: Command) -> Finished {
    Running::start(command).unwrap().finish(PATIENCE).unwrap()
}

/// Lets a client under `enforcer exec` make one connect.
fn exec_connect(scene: &Scene, options: &[&str], connect: Connect) -> (Answer, Finished) {
    let client = Client::command(&scene.inside()).unwrap();
    let client = client.get_program().to_str().unwrap();
    let mut running = Running::start(exec(&scene.inside(), options, &[client])).unwrap();
    let request = serde_json::to_string(&Request::Connect(connect)).unwrap();
    running.write_line(&request).unwrap();
    let finished = running.finish(PATIENCE).unwrap();
    let [answer] = &finished.stdout[..] else {
        panic!("{finished:?}")
    };
    (serde_json::from_str(answer).unwrap(), finished)
}

/// The lines of standard error that are events for people.
fn events(finished: &Finished) -> Vec<&String> {
    let is_event = |line: &&String| {
        ["allow ", "reject ", "redirect ", "would "]
            .iter()
            .any(|verdict| line.contains(&format!("  {verdict}")))
    };
    finished.stderr.iter().filter(is_event).collect()
}

#[test]
fn the_command_is_governed_and_nobody_else() {
    let scene = Scene::new("exec").unwrap();
    let mut beside = scene.client().unwrap();
    scene.connects(&mut beside, A).unwrap();
    let tcp = |address| Connect::new(SocketKind::Tcp, scene.to(address));
    let options = ["--reject", REJECT_A];
    let (answer, finished) = exec_connect(&scene, &options, tcp(A));
    assert_eq!(answer.outcome(), expected_errno("EHOSTDOWN").name);
    assert_eq!(finished.status.code(), Some(0));
    let [event] = events(&finished)[..] else {
        panic!("{:?}", finished.stderr)
    };
    let destination = format!("[{A}]:{}", scene.to(A).port());
    assert!(
        event.starts_with("enforcer: ") && event.contains(&destination) && event.contains("  exec "),
        "{event}"
    );
    // An allowed connect is no event unless asked for.
    let (answer, finished) = exec_connect(&scene, &options, tcp(B));
    assert!(answer.ok, "{answer:?}");
    assert!(events(&finished).is_empty(), "{:?}", finished.stderr);
    let (_, finished) = exec_connect(&scene, &["--reject", REJECT_A, "--events", "all"], tcp(B));
    assert_eq!(events(&finished).len(), 1, "{:?}", finished.stderr);
    scene.connects(&mut beside, A).unwrap();
    assert!(scene.cgroups_below().unwrap().is_empty());
}

#[test]
fn a_redirected_command_reaches_the_other_address() {
    let scene = Scene::new("exec-redirect").unwrap();
    let connect = Connect {
        send: Some("there?".to_owned()),
        ..Connect::new(SocketKind::Tcp, scene.to(A))
    };
    let options = ["--redirect", "2001:db8:a::/48=192.0.2.1"];
    let (answer, finished) = exec_connect(&scene, &options, connect.clone());
    assert_eq!(answer.received.as_deref(), Some("there?"), "{answer:?}");
    assert_eq!(scene.server.accepted().last().unwrap().at, scene.to(IPV4));
    assert_eq!(events(&finished).len(), 1, "{:?}", finished.stderr);
    // In audit mode it is told, and not done.
    let (answer, finished) = exec_connect(&scene, &[&options[..], &["--audit"]].concat(), connect);
    assert_eq!(answer.received.as_deref(), Some("there?"), "{answer:?}");
    assert_eq!(scene.server.accepted().last().unwrap().at, scene.to(A));
    assert!(
        events(&finished)[0].contains("would redirect"),
        "{:?}",
        finished.stderr
    );
}

#[test]
fn stdout_and_stdin_are_the_commands_and_stderr_is_shared() {
    let scene = Scene::new("exec-streams").unwrap();
    let script = "echo out; echo err >&2; cat; exit 7";
    // Without rules there is a warning of several lines as well.
    for options in [&["--reject", REJECT_A][..], &[]] {
        let mut running = Running::start(exec(&scene.inside(), options, &["sh", "-c", script])).unwrap();
        running.write_line("through").unwrap();
        let finished = running.finish(PATIENCE).unwrap();
        assert_eq!(finished.status.code(), Some(7));
        assert_eq!(finished.stdout, ["out", "through"]);
        let (ours, theirs): (Vec<_>, Vec<_>) = finished
            .stderr
            .iter()
            .partition(|line| line.starts_with("enforcer: "));
        assert_eq!(theirs, ["err"], "{ours:?}");
    }
}

#[test]
fn events_to_a_file_leave_stderr_to_errors() {
    let scene = Scene::new("exec-file").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events");
    let to = file.to_str().unwrap();
    let connect = Connect::new(SocketKind::Tcp, scene.to(A));
    let options = ["--reject", REJECT_A, "--output", "json", "--events-to", to];
    let (answer, finished) = exec_connect(&scene, &options, connect);
    assert_eq!(answer.outcome(), expected_errno("EHOSTDOWN").name);
    assert!(finished.stderr.is_empty(), "{:?}", finished.stderr);
    let lines: Vec<_> = fs::read_to_string(&file)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let [event] = &parse_events(&lines).unwrap()[..] else {
        panic!("{lines:?}")
    };
    assert_eq!(event["verdict"], "reject");
    assert_eq!(event["target"], "exec");
    assert!(
        event["cgroup"].as_str().unwrap().starts_with(&scene.path()),
        "{event}"
    );

    // Not even what there is to say about no rules, about root, and about processes that are left.
    let left = "sleep 600 >/dev/null 2>&1 </dev/null & :";
    let mut command = exec(&scene.inside(), &["--events-to", to], &["sh", "-c", left]);
    command.env("SUDO_USER", "alice");
    let finished = finish(command);
    assert_eq!((finished.status.code(), finished.stderr), (Some(0), vec![]));
    assert_eq!(fs::read_to_string(&file).unwrap(), "");

    let missing = directory.path().join("missing/events");
    let finished = finish(exec(
        &scene.inside(),
        &["--events-to", missing.to_str().unwrap()],
        &["echo", "ran"],
    ));
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stdout.is_empty());
    let said = finished.stderr.join("\n");
    assert!(
        said.contains(&format!(
            "cannot write events to {}: No such file",
            missing.display()
        )),
        "{said}"
    );
}

#[test]
fn a_file_that_takes_no_events_is_told_and_the_command_has_its_way() {
    let scene = Scene::new("exec-full").unwrap();
    let connect = Connect::new(SocketKind::Tcp, scene.to(A));
    let options = ["--reject", REJECT_A, "--events-to", "/dev/full"];
    let (answer, finished) = exec_connect(&scene, &options, connect);
    assert_eq!(answer.outcome(), expected_errno("EHOSTDOWN").name);
    assert_eq!(finished.status.code(), Some(0));
    let [said] = &finished.stderr[..] else {
        panic!("{:?}", finished.stderr)
    };
    assert!(
        said.starts_with("enforcer: error: writing events to /dev/full: No space left on device"),
        "{said}"
    );
}

#[test]
fn environment_and_descriptors_are_as_without_enforcer() {
    let scene = Scene::new("exec-as-is").unwrap();
    for script in [
        "env | grep -v '^_=' | sort",
        "ls /proc/self/fd | sort",
        "ulimit -n; umask; pwd",
    ] {
        let mut plain = scene.inside().command("sh").unwrap();
        plain.args(["-c", script]);
        let without = finish(plain);
        let with = finish(exec(
            &scene.inside(),
            &["--reject", REJECT_A],
            &["sh", "-c", script],
        ));
        assert!(!without.stdout.is_empty());
        assert_eq!(with.stdout, without.stdout, "{script}");
    }
}

#[test]
fn a_policy_file_gives_its_rules_and_not_its_targets() {
    let scene = Scene::new("exec-policy").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    fs::write(
        &file,
        r#"
        version = 1
        [defaults]
        errno = "ENETDOWN"
        [[target]]
        name = "not there"
        cgroup = "/enforcer-test-not-there"
        [[rule]]
        prefix = "2001:db8:a::/48"
        action = "reject"
        [[rule]]
        groups = ["other"]
        prefix = "2001:db8:b::/48"
        action = "reject"
        "#,
    )
    .unwrap();
    let policy = ["--policy", file.to_str().unwrap()];
    let tcp = |address| Connect::new(SocketKind::Tcp, scene.to(address));
    let rejected = expected_errno("ENETDOWN").name;
    for (more, to, outcome) in [
        (&[][..], A, rejected),
        (&[], B, "ok"),
        (&["--use", "other"], A, "ok"),
        (&["--use", "other"], B, rejected),
        (&["--use", "other", "--use", "default"], A, rejected),
        (&["--reject", "2001:db8:b::/48"], B, rejected),
    ] {
        let (answer, finished) = exec_connect(&scene, &[&policy[..], more].concat(), tcp(to));
        assert_eq!(answer.outcome(), outcome, "{more:?} {to}: {:?}", finished.stderr);
    }
}

#[test]
fn another_user_runs_the_command_with_the_groups_of_that_user() {
    let scene = Scene::new("exec-user").unwrap();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let nobody: Vec<_> = passwd
        .lines()
        .find_map(|line| line.strip_prefix("nobody:"))
        .unwrap()
        .split(':')
        .collect();
    let (uid, gid, home) = (nobody[1], nobody[2], nobody[4]);
    let script = "id -u; id -g; id -G; echo $HOME $USER $LOGNAME; cat /proc/self/cgroup | grep ^0::";
    let options = ["--reject", REJECT_A, "--user", "nobody"];
    let finished = finish(exec(&scene.inside(), &options, &["sh", "-c", script]));
    assert_eq!(finished.status.code(), Some(0), "{:?}", finished.stderr);
    assert_eq!(finished.stdout[..2], [uid, gid]);
    assert!(
        !finished.stdout[2].split(' ').any(|group| group == "0"),
        "{:?}",
        finished.stdout
    );
    assert_eq!(finished.stdout[3], format!("{home} nobody nobody"));
    let cgroup = format!("0::{}/enforcer-exec-", scene.path());
    assert!(finished.stdout[4].starts_with(&cgroup), "{:?}", finished.stdout);

    let options = ["--reject", REJECT_A, "--user", "enforcer-no-such-user"];
    let finished = finish(exec(&scene.inside(), &options, &["echo", "ran"]));
    assert_eq!(finished.status.code(), Some(2));
    assert!(finished.stdout.is_empty());
    let said = finished.stderr.join("\n");
    assert!(
        said.contains("there is no user \"enforcer-no-such-user\""),
        "{said}"
    );
}

#[test]
fn under_sudo_a_hint_names_the_user() {
    let scene = Scene::new("exec-sudo").unwrap();
    let hints = |sudo_user: &str, options: &[&str]| {
        let mut command = exec(
            &scene.inside(),
            &[&["--reject", REJECT_A], options].concat(),
            &["true"],
        );
        command.env("SUDO_USER", sudo_user);
        let finished = finish(command);
        assert_eq!(finished.status.code(), Some(0), "{:?}", finished.stderr);
        finished
            .stderr
            .into_iter()
            .filter(|line| line.contains("--user"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        hints("alice", &[]),
        ["enforcer: hint: the command runs as root; `--user alice` runs it as alice"]
    );
    assert!(hints("alice", &["--user", "nobody"]).is_empty());
    assert!(hints("root", &[]).is_empty());
}

#[test]
fn a_kernel_that_cannot_choose_the_errno_is_named_once() {
    let scene = Scene::new("exec-eperm").unwrap();
    let notes = |rule: &str| {
        let finished = finish(exec(&scene.inside(), &[rule, "2001:db8:a::/48"], &["true"]));
        let said = |line: &&String| line.contains("bpf_set_retval");
        finished.stderr.iter().filter(said).count()
    };
    assert_eq!(notes("--reject"), usize::from(!support().set_retval));
    assert_eq!(notes("--allow"), 0);
}

#[test]
fn python_fails_at_once_inside_and_connects_before_and_after() {
    const TEST: &str = "python_fails_at_once_inside_and_connects_before_and_after";
    if !need(TEST, Need::Python3) {
        return;
    }
    let scene = Scene::new("exec-python").unwrap();
    let script = format!(
        "import socket; socket.create_connection(('{A}', {}), 5)",
        scene.to(A).port()
    );
    let command = ["python3", "-c", &script];
    let ungoverned = || {
        let mut plain = scene.inside().command(command[0]).unwrap();
        plain.args(&command[1..]);
        let finished = finish(plain);
        assert_eq!(finished.status.code(), Some(0), "{:?}", finished.stderr);
    };
    ungoverned();
    for (rule, name) in [
        ("::/0,errno=ECONNREFUSED", "ECONNREFUSED"),
        ("::/0", "ENETUNREACH"),
    ] {
        let finished = finish(exec(&scene.inside(), &["--reject", rule], &command));
        assert_eq!(finished.status.code(), Some(1));
        let said = finished.stderr.join("\n");
        let errno = format!("[Errno {}]", expected_errno(name).number);
        assert!(said.contains(&errno), "{errno} in {said}");
        assert_eq!(events(&finished).len(), 1, "{said}");
        ungoverned();
    }
}
