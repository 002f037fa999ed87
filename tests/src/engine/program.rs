//! How each engine is started: by hand, in a mount namespace of its own, with its data in a directory.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{place::Place, unique, wait::PATIENCE};

/// Podman.
pub(super) const PODMAN: &str = "/usr/bin/podman";
/// Where packages put the other programs.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/bin"];

/// Name of an engine's socket in its directory.
pub(super) const SOCKET: &str = "socket";

/// Gives the engine's mount namespace its own `/run`, `/var/lib`, `/etc` and `/dev/shm`, as far as engines write there.
/// `$1` is a directory for it, the rest the engine.
const ENTER: &str = r#"
set -eu
own=$1
shift
mkdir "$own/run" "$own/etc"
# What speaks to systemd stays.
mount --rbind /run "$own/run"
mount -t tmpfs -o mode=755 tmpfs /run
for name in dbus systemd; do
    if [ -d "$own/run/$name" ]; then
        mkdir "/run/$name"
        mount --rbind "$own/run/$name" "/run/$name"
    fi
done
umount --lazy "$own/run"
mount -t tmpfs tmpfs "$own/etc"
mkdir "$own/etc/upper" "$own/etc/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$own/etc/upper,workdir=$own/etc/work" overlay /etc
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /dev/shm
# Nobody holds the other end of standard input any more when the test was killed: the engine goes with it.
exec 3<&0
{ cat; kill "$$"; } <&3 >/dev/null 2>&1 &
exec "$@" 3<&-
"#;

/// The command that runs the engine whose command line follows, in a mount namespace of its own.
pub(super) fn enter(place: &Place<'_>, own: &Path) -> Result<Command> {
    let mut command = place.command("unshare")?;
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"])
        .arg(own);
    Ok(command)
}

/// Name of the parent of an engine's cgroups, where it makes them itself.
pub(super) fn parent(systemd: bool) -> Option<String> {
    (!systemd).then(|| unique::name("enforcer-test-engine"))
}

/// Docker's engine, with its data below `own`. It touches no rules of the network's.
pub(super) fn docker_engine(command: &mut Command, own: &Path, systemd: bool) -> Result<()> {
    let config = own.join("daemon.json");
    fs::write(&config, "{}").with_context(|| format!("write {}", config.display()))?;
    command.arg(packaged("dockerd")?);
    for (option, path) in [
        ("--config-file", config),
        ("--data-root", own.join("data")),
        ("--exec-root", own.join("exec")),
        ("--pidfile", own.join("pid")),
    ] {
        command.arg(option).arg(path);
    }
    let driver = if systemd { "systemd" } else { "cgroupfs" };
    command
        .args(["--host", &format!("unix://{}", own.join(SOCKET).display())])
        .args(["--exec-opt", &format!("native.cgroupdriver={driver}")])
        .args(["--iptables=false", "--ip6tables=false"])
        .args(["--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"])
        .args(["--log-level", "warn"]);
    Ok(())
}

/// Podman's, in the same way.
pub(super) fn podman_engine(command: &mut Command, own: &Path, systemd: bool) -> Result<()> {
    let config = own.join("containers.conf");
    // The default limits are more than some hosts allow to raise.
    let text = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
                [engine]\nevents_logger = \"file\"\n";
    fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
    command.env("CONTAINERS_CONF", config).arg(PODMAN);
    for (option, name) in [("--root", "root"), ("--runroot", "runroot"), ("--tmpdir", "tmp")] {
        command.arg(option).arg(own.join(name));
    }
    let manager = if systemd { "systemd" } else { "cgroupfs" };
    command
        .arg("--runtime")
        .arg(runtime()?)
        .args(["--cgroup-manager", manager, "--storage-driver", "vfs"])
        .args(["system", "service", "--time", "0"])
        .arg(format!("unix://{}", own.join(SOCKET).display()));
    Ok(())
}

/// Where the cgroup tree is version 2 alone, crun, which Podman prefers; it refuses all others.
pub(super) fn runtime() -> Result<PathBuf> {
    let crun = packaged("crun").ok().filter(|_| systemd_makes_cgroups());
    crun.map_or_else(|| packaged("runc"), Ok)
}

/// Whether cgroups are systemd's to make: it runs, and version 2 is all there is.
pub(super) fn systemd_makes_cgroups() -> bool {
    Path::new("/run/systemd/system").is_dir() && Path::new("/sys/fs/cgroup/cgroup.procs").exists()
}

/// Where a package has put that program.
pub(super) fn packaged(program: &str) -> Result<PathBuf> {
    let mut places = FOLDERS.iter().map(|folder| Path::new(folder).join(program));
    places
        .find(|path| path.is_file())
        .with_context(|| format!("find {program}: no package has brought it"))
}

/// Whether an engine answers there.
pub(super) fn answers(socket: &Path) -> std::io::Result<bool> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.ends_with("OK"))
}
