//! Tests of [`super`] with real cgroups and processes.

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use super::*;
use crate::targets::test_support::{Scratch, eventually, is_root};

/// A command that says when it runs, and goes on until its standard input ends.
fn command(script: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// Makes the command join as `exec` does.
fn join_on_spawn(exec: &ExecCgroup, command: &mut Command) {
    let join = exec.joining().unwrap();
    // SAFETY: it makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(join) };
}

fn cgroup_line_of(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap()
        .to_owned()
}

/// Kills by pid on drop; for processes that are nobody's child any more.
struct Orphan(u32);

impl Drop for Orphan {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.0).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[test]
fn command_runs_inside_and_the_cgroup_is_removed_after_it() {
    if !is_root("targets::child::command_runs_inside_and_the_cgroup_is_removed_after_it") {
        return;
    }
    let scratch = Scratch::new("exec");
    let exec = ExecCgroup::create_for(scratch.hierarchy(), scratch.path()).unwrap();
    assert_eq!(exec.cgroup().path().parent(), Some(scratch.path()));
    assert!(exec.detour().is_none());
    let mut command = command("grep ^0:: /proc/self/cgroup");
    join_on_spawn(&exec, &mut command);
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    assert_eq!(line.trim_end(), format!("0::{}", exec.cgroup().path().display()));
    let directory = exec.directory.clone();
    assert_eq!(exec.close().unwrap(), Released { moved: 0 });
    assert!(!directory.exists());
}

#[test]
fn command_of_another_user_joins_too() {
    if !is_root("targets::child::command_of_another_user_joins_too") {
        return;
    }
    let scratch = Scratch::new("exec-user");
    let exec = ExecCgroup::create_for(scratch.hierarchy(), scratch.path()).unwrap();
    let mut command = command("grep ^0:: /proc/self/cgroup; id -u");
    command.uid(65_534).gid(65_534);
    join_on_spawn(&exec, &mut command);
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, format!("0::{}\n65534\n", exec.cgroup().path().display()));
}

#[test]
fn survivors_move_home_from_every_depth() {
    if !is_root("targets::child::survivors_move_home_from_every_depth") {
        return;
    }
    let scratch = Scratch::new("exec-survivors");
    let exec = ExecCgroup::create_for(scratch.hierarchy(), scratch.path()).unwrap();
    let directory = exec.directory.clone();
    // One stays in the cgroup itself; one moves itself into a cgroup that it makes below.
    let deep = directory.join("a/b");
    let script = format!(
        "sleep 600 >/dev/null </dev/null & echo $!; mkdir -p {0}; \
         sh -c 'echo 0 > {0}/cgroup.procs; exec sleep 600' >/dev/null </dev/null & echo $!",
        deep.display()
    );
    let mut command = command(&script);
    join_on_spawn(&exec, &mut command);
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let orphans: Vec<Orphan> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|pid| Orphan(pid.parse().unwrap()))
        .collect();
    assert_eq!(orphans.len(), 2);
    let inner = format!("{}/a/b", exec.cgroup().path().display());
    eventually("the second survivor is in its own cgroup", || {
        cgroup_line_of(orphans[1].0) == inner
    });

    assert_eq!(exec.close().unwrap(), Released { moved: 2 });
    assert!(!directory.exists());
    for orphan in &orphans {
        assert_eq!(Path::new(&cgroup_line_of(orphan.0)), scratch.path());
    }
    let pids: Vec<u32> = orphans.iter().map(|orphan| orphan.0).collect();
    drop(orphans);
    eventually("the survivors ended", || {
        scratch
            .cgroup()
            .processes()
            .unwrap()
            .iter()
            .all(|pid| !pids.contains(pid))
    });
}

#[test]
fn dropping_it_removes_it() {
    if !is_root("targets::child::dropping_it_removes_it") {
        return;
    }
    let scratch = Scratch::new("exec-drop");
    let exec = ExecCgroup::create_for(scratch.hierarchy(), scratch.path()).unwrap();
    fs::create_dir_all(exec.directory.join("x/y")).unwrap();
    let directory = exec.directory.clone();
    drop(exec);
    assert!(!directory.exists());
}

#[test]
fn full_parent_leads_to_the_one_above_and_is_told() {
    if !is_root("targets::child::full_parent_leads_to_the_one_above_and_is_told") {
        return;
    }
    let scratch = Scratch::new("exec-full");
    let full = scratch.child("full");
    fs::write(scratch.absolute().join("full/cgroup.max.descendants"), "0").unwrap();
    let exec = ExecCgroup::create_for(scratch.hierarchy(), full.path()).unwrap();
    assert_eq!(exec.cgroup().path().parent(), Some(scratch.path()));
    let detour = exec.detour().unwrap();
    assert_eq!(
        (detour.from.as_path(), detour.under.as_path()),
        (full.path(), scratch.path())
    );
    assert_eq!(
        detour.because.as_ref().and_then(io::Error::raw_os_error),
        Some(Errno::AGAIN.raw_os_error())
    );
    assert_eq!(
        exec.home.id(),
        full.id(),
        "survivors still go to the caller's cgroup"
    );
}

#[test]
fn caller_in_a_removed_cgroup_is_served_above_it() {
    if !is_root("targets::child::caller_in_a_removed_cgroup_is_served_above_it") {
        return;
    }
    let scratch = Scratch::new("exec-removed");
    let exec = ExecCgroup::create_for(scratch.hierarchy(), &scratch.path().join("was/here")).unwrap();
    assert_eq!(exec.cgroup().path().parent(), Some(scratch.path()));
    assert_eq!(exec.home.id(), scratch.cgroup().id());
}

#[test]
fn two_at_once_have_names_of_their_own() {
    if !is_root("targets::child::two_at_once_have_names_of_their_own") {
        return;
    }
    let scratch = Scratch::new("exec-two");
    // The next names are taken, as by an enforcer that was killed.
    let next = NUMBER.load(Ordering::Relaxed);
    for number in next..next + 50 {
        fs::create_dir(
            scratch
                .absolute()
                .join(format!("enforcer-exec-{}-{number}", std::process::id())),
        )
        .unwrap();
    }
    let one = ExecCgroup::create_for(scratch.hierarchy(), scratch.path()).unwrap();
    let two = ExecCgroup::create_for(scratch.hierarchy(), scratch.path()).unwrap();
    assert_ne!(one.cgroup().id(), two.cgroup().id());
}

#[test]
fn threaded_caller_gets_a_threaded_child() {
    if !is_root("targets::child::threaded_caller_gets_a_threaded_child") {
        return;
    }
    let scratch = Scratch::new("exec-threaded");
    let caller = scratch.child("caller");
    fs::write(scratch.absolute().join("caller/cgroup.type"), "threaded").unwrap();
    let exec = ExecCgroup::create_for(scratch.hierarchy(), caller.path()).unwrap();
    assert!(exec.detour().is_none());
    let mut command = command("read _");
    // The child stands for a caller in the threaded cgroup: it enters the domain first, as that caller did.
    let procs: Vec<_> = [scratch.absolute(), scratch.absolute().join("caller")]
        .iter()
        .map(|dir| {
            fs::File::options()
                .write(true)
                .open(dir.join("cgroup.procs"))
                .unwrap()
        })
        .collect();
    // SAFETY: write(2) only, on descriptors opened before the fork.
    unsafe {
        command.pre_exec(move || {
            procs
                .iter()
                .try_for_each(|it| Ok(rustix::io::write(it, b"0").map(drop)?))
        })
    };
    join_on_spawn(&exec, &mut command);
    let child = command.spawn().unwrap();
    assert_eq!(Path::new(&cgroup_line_of(child.id())), exec.cgroup().path());
    assert_eq!(exec.cgroup().processes().unwrap(), [child.id()]);
    assert_eq!(exec.close().unwrap(), Released { moved: 1 });
    assert_eq!(Path::new(&cgroup_line_of(child.id())), caller.path());
    // Its standard input ends here.
    assert!(child.wait_with_output().unwrap().status.code().is_some());
}

#[test]
fn this_process_can_be_a_caller() {
    if !is_root("targets::child::this_process_can_be_a_caller") {
        return;
    }
    let hierarchy = Hierarchy::find().unwrap();
    let exec = ExecCgroup::create(&hierarchy).unwrap();
    let own = hierarchy.locate(&pid::own_cgroup_path().unwrap()).unwrap();
    assert_eq!(exec.cgroup().path().parent(), Some(own.as_path()));
    let directory = exec.directory.clone();
    exec.close().unwrap();
    assert!(!directory.exists());
}
