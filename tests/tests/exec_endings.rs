//! `enforcer exec`: exit codes and signals are as if the command had been started directly, and its cgroup is gone in
//! every case.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::{
            fs::PermissionsExt as _,
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use enforcer_tests::{
    deprive::{Deprivation, deprive},
    enforcer::Enforcer,
    place::ignoring,
    process::{Finished, Running, Stream},
    scene::{A, Scene},
    wait::{PATIENCE, eventually},
};
use rustix::{
    process::{Pid, Signal},
    thread::CapabilitySet,
};

const REJECT_A: &str = "2001:db8:a::/48,errno=EHOSTDOWN";

fn exec(scene: &Scene, command: &[&str]) -> Command {
    let arguments = [&["exec", "--reject", REJECT_A, "--"], command].concat();
    Enforcer::command(&scene.inside(), arguments).unwrap()
}

fn finish(command: Command) -> Finished {
    Running::start(command).unwrap().finish(PATIENCE).unwrap()
}

/// The program and its cgroup are gone, and connects are as before.
fn assert_nothing_left(scene: &Scene) {
    let below = scene.cgroups_below().unwrap();
    assert!(below.is_empty(), "{below:?}");
    let mut client = scene.client().unwrap();
    scene.connects(&mut client, A).unwrap();
}

#[test]
fn the_exit_code_is_the_commands() {
    let scene = Scene::new("exec-code").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    fs::write(&plain, "no program").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let plain = plain.to_str().unwrap();
    let folder = directory.path().to_str().unwrap();
    for (command, code, says) in [
        (&["true"][..], 0, None),
        (&["sh", "-c", "exit 7"], 7, None),
        (&["sh", "-c", "exit 255"], 255, None),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15, None),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9, None),
        (
            &["enforcer-no-such-command", "x"],
            127,
            Some("cannot run enforcer-no-such-command: No such file or directory"),
        ),
        (&["/nowhere/x"], 127, Some("cannot run /nowhere/x: No such file")),
        (&[""], 127, Some("cannot run '': No such file")),
        (&[plain], 126, Some("Permission denied")),
        (&[folder], 126, Some("Permission denied")),
    ] {
        let finished = finish(exec(&scene, command));
        let said = finished.stderr.join("\n");
        assert_eq!(finished.status.code(), Some(code), "{command:?}: {said}");
        assert!(finished.stdout.is_empty());
        match says {
            Some(text) => assert!(
                said.contains("enforcer: error: ") && said.contains(text),
                "{said}"
            ),
            None => assert!(!said.contains("error"), "{said}"),
        }
        assert_nothing_left(&scene);
    }
}

#[test]
fn signals_reach_the_command_and_its_answer_counts() {
    let scene = Scene::new("exec-signal").unwrap();
    for (name, signal) in [
        ("TERM", Signal::TERM),
        ("INT", Signal::INT),
        ("HUP", Signal::HUP),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
    ] {
        let script = format!("trap 'echo trapped; exit 9' {name}; echo ready; while :; do sleep 0.05; done");
        let mut running = Running::start(exec(&scene, &["sh", "-c", &script])).unwrap();
        assert_eq!(running.line(Stream::Stdout, 0, PATIENCE).unwrap(), "ready");
        assert_eq!(scene.cgroups_below().unwrap().len(), 1);
        running.signal(signal).unwrap();
        let finished = running.finish(PATIENCE).unwrap();
        assert_eq!(finished.status.code(), Some(9), "{name}: {:?}", finished.stderr);
        assert_eq!(finished.stdout, ["ready", "trapped"]);
        assert_nothing_left(&scene);
    }
    // One that does not trap it dies of it.
    let script = "echo ready; while :; do sleep 0.05; done";
    let mut running = Running::start(exec(&scene, &["sh", "-c", script])).unwrap();
    running.line(Stream::Stdout, 0, PATIENCE).unwrap();
    running.signal(Signal::TERM).unwrap();
    assert_eq!(running.finish(PATIENCE).unwrap().status.code(), Some(128 + 15));
    assert_nothing_left(&scene);
}

#[test]
fn what_the_terminal_sends_reaches_the_command_once() {
    let scene = Scene::new("exec-terminal").unwrap();
    let terminal = Terminal::open();
    let script = "trap 'echo interrupted' INT; trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done";
    let mut command = exec(&scene, &["sh", "-c", script]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    // Closing the terminal ends all that has it as its own, so nothing survives this test.
    let mut child = terminal.spawn(command);
    let (send, lines) = mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    thread::spawn(move || {
        stdout
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| send.send(line))
    });
    assert_eq!(lines.recv_timeout(PATIENCE).unwrap(), "ready");
    terminal.interrupt();
    assert_eq!(lines.recv_timeout(PATIENCE).unwrap(), "interrupted");
    // If enforcer had passed it on, too, the command would get it before this.
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::USR1).unwrap();
    let status = eventually("it to end", PATIENCE, || child.try_wait().unwrap()).unwrap();
    assert_eq!(status.code(), Some(9));
    assert_eq!(
        lines.recv_timeout(PATIENCE),
        Err(mpsc::RecvTimeoutError::Disconnected)
    );
    assert_nothing_left(&scene);
}

/// A terminal, as somebody sits at.
struct Terminal {
    ours: fs::File,
    theirs: fs::File,
}

impl Terminal {
    fn open() -> Self {
        let (mut ours, mut theirs) = (-1, -1);
        // SAFETY: the first two pointers are to live integers, the others may be null.
        let opened = unsafe {
            libc::openpty(
                &raw mut ours,
                &raw mut theirs,
                std::ptr::null_mut(),
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: both were opened just now, and nobody else has them.
        let [ours, theirs] = [ours, theirs].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        for fd in [&ours, &theirs] {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).unwrap();
        }
        Self {
            ours: ours.into(),
            theirs: theirs.into(),
        }
    }

    /// Starts the command in a session of its own, with this as its terminal.
    fn spawn(&self, mut command: Command) -> Child {
        let theirs = self.theirs.try_clone().unwrap();
        let attach = move || {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(&theirs)?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes two system calls.
        unsafe { command.pre_exec(attach) };
        command.spawn().unwrap()
    }

    /// Types ctrl-c.
    fn interrupt(&self) {
        (&self.ours).write_all(b"\x03").unwrap();
    }
}

#[test]
fn a_signal_at_any_moment_of_the_start_ends_it_and_leaves_nothing() {
    let scene = Scene::new("exec-early").unwrap();
    // The delays are no waits for anything: they are the moments.
    for delay_ms in [0, 3, 10, 30, 60, 100, 150, 200, 300, 500, 800] {
        let mut running = Running::start(exec(&scene, &["sleep", "600"])).unwrap();
        thread::sleep(Duration::from_millis(delay_ms));
        running.signal(Signal::TERM).unwrap();
        let finished = running.finish(PATIENCE).unwrap();
        // Itself while there is nothing to undo, later in the command's place.
        let ended = (finished.status.code(), finished.status.signal());
        assert!(
            matches!(ended, (Some(143), None) | (None, Some(15))),
            "after {delay_ms} ms: {ended:?}: {:?}",
            finished.stderr
        );
        assert_nothing_left(&scene);
    }
}

#[test]
fn processes_that_outlive_the_command_move_to_the_callers_cgroup() {
    let scene = Scene::new("exec-survivor").unwrap();
    let script = "for i in 1 2; do sleep 600 >/dev/null 2>&1 </dev/null & echo $!; done";
    let finished = finish(exec(&scene, &["sh", "-c", script]));
    assert_eq!(finished.status.code(), Some(0));
    let mut left: Vec<u32> = finished.stdout.iter().map(|pid| pid.parse().unwrap()).collect();
    let mut found = scene.cgroup.processes().unwrap();
    left.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, left);
    let line =
        "enforcer: note: 2 processes outlived the command and went on, ungoverned, in the caller's cgroup";
    assert_eq!(finished.stderr.last().unwrap(), line);
    assert_nothing_left(&scene);
}

#[test]
fn cgroups_that_the_command_makes_go_too() {
    let scene = Scene::new("exec-own-cgroups").unwrap();
    let mount_point = enforcer_tests::cgroup::mount_point().unwrap();
    let script = format!(
        "own={}$(grep ^0:: /proc/self/cgroup | cut -d: -f3)/own; mkdir -p $own/deep && echo $$ >$own/cgroup.procs && \
         exit 5",
        mount_point.display()
    );
    let finished = finish(exec(&scene, &["sh", "-c", &script]));
    assert_eq!(finished.status.code(), Some(5), "{:?}", finished.stderr);
    assert_nothing_left(&scene);
}

#[test]
fn a_killed_exec_leaves_the_command_ungoverned() {
    let scene = Scene::new("exec-killed").unwrap();
    let mut running = Running::start(exec(&scene, &["sh", "-c", "echo $$; exec sleep 600"])).unwrap();
    let pid: u32 = running
        .line(Stream::Stdout, 0, PATIENCE)
        .unwrap()
        .parse()
        .unwrap();
    let mut client = scene.client().unwrap();
    let [name] = &scene.cgroups_below().unwrap()[..] else {
        panic!("not one cgroup")
    };
    let procs = scene.cgroup.path().join(name).join("cgroup.procs");
    fs::write(&procs, client.pid().to_string()).unwrap();
    scene.rejects(&mut client, A, "EHOSTDOWN").unwrap();
    running.signal(Signal::KILL).unwrap();
    eventually("it to be gone", PATIENCE, || running.exited().unwrap()).unwrap();
    scene.connects(&mut client, A).unwrap();
    let there = fs::read_to_string(&procs).unwrap();
    assert!(there.lines().any(|line| line == pid.to_string()), "{there}");
}

#[test]
fn what_a_killed_exec_left_is_removed_by_the_next_when_nobody_is_in_it() {
    let scene = Scene::new("exec-swept").unwrap();
    let mut killed = Running::start(exec(&scene, &["sh", "-c", "echo $$; exec sleep 600"])).unwrap();
    let pid: i32 = killed.line(Stream::Stdout, 0, PATIENCE).unwrap().parse().unwrap();
    let left = scene.cgroups_below().unwrap();
    killed.signal(Signal::KILL).unwrap();
    eventually("it to be gone", PATIENCE, || killed.exited().unwrap()).unwrap();
    // Its command is still in there.
    let finished = finish(exec(&scene, &["true"]));
    assert_eq!(finished.status.code(), Some(0), "{:?}", finished.stderr);
    assert_eq!(scene.cgroups_below().unwrap(), left);
    // It is a child of nobody of ours, in a cgroup that nobody else knows: the number is its own.
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let events = scene.cgroup.path().join(&left[0]).join("cgroup.events");
    eventually("the command to be gone", PATIENCE, || {
        fs::read_to_string(&events).is_ok_and(|events| events.contains("populated 0"))
    })
    .unwrap();
    let finished = finish(exec(&scene, &["true"]));
    assert_eq!(finished.status.code(), Some(0), "{:?}", finished.stderr);
    assert_nothing_left(&scene);
}

#[test]
fn what_fails_before_the_command_is_not_taken_for_the_command() {
    let scene = Scene::new("exec-steps").unwrap();
    let mut command = scene.inside().command(Enforcer::program().unwrap()).unwrap();
    command.args([
        "exec", "--reject", REJECT_A, "--user", "nobody", "--", "echo", "ran",
    ]);
    deprive(&mut command, Deprivation::Capabilities(CapabilitySet::SETGID));
    let finished = finish(command);
    assert_eq!(finished.status.code(), Some(4), "{finished:?}");
    assert_eq!(finished.stdout, [""; 0]);
    let said = finished.stderr.join("\n");
    assert!(
        said.contains(
            "enforcer: error: cannot run the command as user nobody: Operation not permitted (os error 1)"
        ),
        "{said}"
    );
    assert!(
        said.contains("hint: that needs root, or CAP_SETUID and CAP_SETGID"),
        "{said}"
    );
    assert_nothing_left(&scene);
}

#[test]
fn a_supervisor_that_ignores_its_children_does_not_hide_the_exit_code() {
    let scene = Scene::new("exec-ignored").unwrap();
    let script = r#"grep ^SigIgn /proc/self/status; exit 7"#;
    // A shell cannot leave SIGCHLD ignored to what it starts; a process about to become enforcer can.
    let command = |mut command: Command| {
        ignoring(&mut command, &[libc::SIGCHLD]);
        command
    };
    let mut plain = scene.inside().command("sh").unwrap();
    plain.args(["-c", script]);
    let without = finish(command(plain));
    let with = finish(command(exec(&scene, &["sh", "-c", script])));
    assert_eq!(with.status.code(), Some(7), "{:?}", with.stderr);
    assert_eq!(with.stdout, without.stdout);
    assert_nothing_left(&scene);
}
