//! Targets that are not there, are something else, or are all there is: exit code 1, and none of the others is governed.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use enforcer_tests::{
    cgroup::mount_point,
    scene::{A, Scene},
};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::table::{Refusal, Table};

const REJECT_A: &str = "2001:db8:a::/48,errno=EHOSTDOWN";

/// No process has a number this high (`PID_MAX_LIMIT` is 2^22).
const NO_PROCESS: &str = "4194305";

/// Mounts a cgroup v1 hierarchy of the test's own there, seen by the command's process alone. It goes with the
/// process.
fn with_version_1(command: &mut Command, directory: &Path) {
    let name = format!("none,name=enforcer-test-{}", std::process::id());
    let name = CString::new(name).unwrap();
    let directory = CString::new(directory.as_os_str().as_bytes()).unwrap();
    let mount_there = move || -> io::Result<()> {
        // SAFETY: of what unshare can take apart, the flag takes the mount namespace and the working directory's
        // sharing with other threads only; after fork there is one thread.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount(
            c"none",
            directory.as_c_str(),
            c"cgroup",
            MountFlags::empty(),
            Some(name.as_c_str()),
        )?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls on what was prepared before: it allocates
    // nothing and takes no lock.
    unsafe { command.pre_exec(mount_there) };
}

/// A process that has ended and that nobody has waited for.
struct Zombie(std::process::Child);

impl Zombie {
    fn new() -> Self {
        let mut child = Command::new("true")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Its output ends when it does, a moment before it is a zombie.
        io::Read::read_to_end(child.stdout.as_mut().unwrap(), &mut Vec::new()).unwrap();
        let status = format!("/proc/{}/status", child.id());
        enforcer_tests::wait::eventually("a zombie", enforcer_tests::wait::PATIENCE, || {
            fs::read_to_string(&status).is_ok_and(|status| status.contains("State:\tZ"))
        })
        .unwrap();
        Self(child)
    }
}

impl Drop for Zombie {
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}

#[test]
fn targets_that_cannot_be_governed_end_with_code_1() {
    let scene = Scene::new("bad-targets").unwrap();
    let mut table = Table::new("targets", &scene);
    let (path, mount_point) = (scene.path(), mount_point().unwrap());
    let absent = format!("{path}-not");
    let procs = format!("{path}/cgroup.procs");
    let zombie = Zombie::new();
    let zombie_pid = zombie.0.id().to_string();
    let (meant, within) = (
        format!("hint: did you mean {path}?"),
        format!("the cgroup it lies in is {path}"),
    );
    let below_mount = format!("write the path relative to {}", mount_point.display());
    for (what, target, cause, hint) in [
        (
            "a cgroup that is not there",
            ["--cgroup", &absent],
            "does not exist",
            meant.as_str(),
        ),
        (
            "a folder that is no cgroup",
            ["--cgroup", "/usr/bin"],
            "does not exist",
            "hint: ",
        ),
        (
            "a path out of the mount",
            ["--cgroup", "/.."],
            "is not a cgroup",
            &below_mount,
        ),
        (
            "a file in a cgroup",
            ["--cgroup", &procs],
            "is a file, and a cgroup is a directory",
            &within,
        ),
        (
            "a process that is gone",
            ["--pid", NO_PROCESS],
            "there is no process 4194305",
            "hint: ",
        ),
        (
            "a process that has ended",
            ["--pid", &zombie_pid],
            "only waits for its parent to notice",
            "hint: ",
        ),
    ] {
        // Another target that is there, before it and after it.
        let there = ["--cgroup", &path];
        for [first, second] in [[there, target], [target, there]] {
            let arguments = [&["run"], &first[..], &second, &["--reject", REJECT_A]].concat();
            let command = table.command(&arguments);
            table.row(what, command, &Refusal { code: 1, cause, hint });
        }
    }
    // Waiting does not help where nobody knows what would be waited for.
    let arguments = ["run", "--wait", "--pid", NO_PROCESS, "--reject", REJECT_A];
    let command = table.command(&arguments);
    table.row(
        "a process that is gone, with --wait",
        command,
        &Refusal {
            code: 1,
            cause: "does not exist and cannot be waited for",
            hint: "name the cgroup the process will be in",
        },
    );
    table.finish();
}

#[test]
fn a_path_in_a_version_1_hierarchy_is_named_as_such() {
    let scene = Scene::new("version-1").unwrap();
    let mut table = Table::new("cgroup v1", &scene);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let mut command = table.command(&["run", "--cgroup", path, "--reject", REJECT_A]);
    with_version_1(&mut command, directory.path());
    table.row(
        "a cgroup v1 path",
        command,
        &Refusal {
            code: 1,
            cause: "lies in the cgroup v1 hierarchy",
            hint: "hint: ",
        },
    );
    table.finish();
}

#[test]
fn the_root_cgroup_is_refused_unless_asked_for_by_name() {
    let scene = Scene::new("root").unwrap();
    let mut in_root = scene.client().unwrap();
    let mount_point = mount_point().unwrap();
    let pid = in_root.pid().to_string();
    fs::write(mount_point.join("cgroup.procs"), &pid).unwrap();
    let mut table = Table::new("the root cgroup", &scene);
    for (what, target) in [
        ("a process in the root cgroup", ["--pid", &pid]),
        ("the mount point", ["--cgroup", mount_point.to_str().unwrap()]),
        ("`.`", ["--cgroup", "."]),
    ] {
        let arguments = [&["run"], &target[..], &["--reject", REJECT_A]].concat();
        let command = table.command(&arguments);
        table.row(
            what,
            command,
            &Refusal {
                code: 1,
                cause: "resolves to the root cgroup",
                hint: "hint: start the program with `enforcer exec`",
            },
        );
        scene.connects(&mut in_root, A).unwrap();
    }
    table.finish();
}
