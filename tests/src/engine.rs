//! [`Engine`]: a real container engine, of the distribution's packages, that belongs to the test alone.
//!
//! It runs in a mount namespace of its own, with its data in a temporary directory: nothing of the machine's is
//! seen or changed, an engine that runs here already least of all, and no mount can be left behind. It makes no
//! networks. Docker's command line talks to both engines; Podman answers it through its own socket.

mod image;
mod remains;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tempfile::TempDir;

use self::remains::Remains;
use crate::{
    client::Client,
    need::{self, Need},
    netns::NetnsFixture,
    place::Place,
    process::{Finished, Running},
    unique,
    wait::{PATIENCE, eventually},
};

/// Docker's command line. A program of that name elsewhere may be anything.
const DOCKER: &str = "/usr/bin/docker";
/// Podman.
const PODMAN: &str = "/usr/bin/podman";
/// Where packages put the other programs.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/bin"];

/// Name of an engine's socket in its directory.
const SOCKET: &str = "socket";

/// Name of the image that all containers are made of.
const IMAGE: &str = "enforcer-test";

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

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `dockerd`.
    Docker,
    /// `podman system service`.
    Podman,
}

impl Kind {
    /// What a test must ask for before it starts one.
    #[must_use]
    pub const fn need(self) -> Need {
        match self {
            Self::Docker => Need::Docker,
            Self::Podman => Need::Podman,
        }
    }

    /// Whether everything is here that it takes.
    #[must_use]
    pub fn is_there(self) -> bool {
        let has = |path: &str| Path::new(path).is_file();
        match self {
            Self::Docker => has(DOCKER) && packaged("dockerd").is_ok(),
            Self::Podman => has(DOCKER) && has(PODMAN) && runtime().is_ok(),
        }
    }

    /// As enforcer calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
        }
    }
}

/// Where the guest with systemd has an engine of its own, which is there for the tests.
const GUESTS_SOCKET: &str = "/run/docker.sock";

/// A running engine. When it is dropped, its containers end, and everything it made is removed.
#[derive(Debug)]
pub struct Engine {
    kind: Kind,
    /// Parent of all its cgroups, where it makes them itself.
    parent: Option<String>,
    remains: Option<Remains>,
    process: Option<Running>,
    socket: PathBuf,
    directory: TempDir,
}

impl Engine {
    /// The engine of that kind that tests of this process share, as long as one of them has it.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn shared(kind: Kind) -> Result<Arc<Self>> {
        static SHARED: [Mutex<Weak<Engine>>; 2] = [const { Mutex::new(Weak::new()) }; 2];
        let mut shared = SHARED[kind as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = shared.upgrade() {
            return Ok(engine);
        }
        let engine = Arc::new(Self::start(kind)?);
        *shared = Arc::downgrade(&engine);
        Ok(engine)
    }

    /// Starts one, waits until it answers, and gives it the image. In the guest with systemd Docker runs already, as a
    /// service.
    ///
    /// # Errors
    ///
    /// When it does not answer in time. Says what it said.
    pub fn start(kind: Kind) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("enforcer-engine-")
            .tempdir()
            .context("make a directory for an engine")?;
        if kind == Kind::Docker && need::place() == "systemd" {
            return Self {
                kind,
                parent: None,
                remains: None,
                process: None,
                socket: GUESTS_SOCKET.into(),
                directory,
            }
            .with_image();
        }
        let systemd = systemd_makes_cgroups();
        let mut command = Place::default().command("unshare")?;
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"])
            .arg(directory.path());
        match kind {
            Kind::Docker => docker_engine(&mut command, directory.path(), systemd)?,
            Kind::Podman => podman_engine(&mut command, directory.path(), systemd)?,
        }
        let mut engine = Self {
            kind,
            parent: (!systemd).then(|| unique::name("enforcer-test-engine")),
            remains: None,
            process: Some(Running::start(command).context("start a container engine")?),
            socket: directory.path().join(SOCKET),
            directory,
        };
        engine.wait_until_it_answers()?;
        engine.with_image()
    }

    fn with_image(self) -> Result<Self> {
        let mut import = self.docker(&["import", "-", IMAGE])?;
        import.stdin(Stdio::from(image::archive(self.directory.path())?));
        let imported = import.output().context("run docker import")?;
        anyhow::ensure!(
            imported.status.success(),
            "import an image: {}",
            String::from_utf8_lossy(&imported.stderr)
        );
        Ok(self)
    }

    /// Which it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Its API socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its address, as `DOCKER_HOST` and `CONTAINER_HOST` take it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Whether it answers where engines do, so that nobody has to be told its address.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        self.socket == Path::new(GUESTS_SOCKET)
    }

    /// Starts a container that does nothing, in a network of its own that has loopback only, and no IPv6.
    ///
    /// # Errors
    ///
    /// When the engine refuses.
    pub fn run(self: &Arc<Self>, name: &str) -> Result<Container> {
        self.run_with(name, "none", &[])
    }

    /// Starts a container that does nothing, in that network and with further options.
    ///
    /// # Errors
    ///
    /// When the engine refuses.
    pub fn run_with(self: &Arc<Self>, name: &str, network: &str, options: &[&str]) -> Result<Container> {
        let how = ["run", "--detach", "--network", network];
        self.make(&[&how, options].concat(), name)
    }

    /// The same, but does not start it.
    ///
    /// # Errors
    ///
    /// When the engine refuses.
    pub fn create(self: &Arc<Self>, name: &str) -> Result<Container> {
        self.make(&["create", "--network", "none"], name)
    }

    fn make(self: &Arc<Self>, how: &[&str], name: &str) -> Result<Container> {
        let mut arguments = how.to_vec();
        arguments.extend(["--name", name]);
        if let Some(parent) = &self.parent {
            arguments.extend(["--cgroup-parent", parent]);
        }
        arguments.extend([IMAGE, "/bin/busybox", "sleep", "3600"]);
        // Whatever went wrong on the way, there may be something of that name now.
        let mut container = Container {
            engine: Arc::clone(self),
            name: name.to_owned(),
            id: String::new(),
        };
        let said = self.tell(&arguments)?;
        container.id = said.stdout.last().cloned().unwrap_or_default();
        Ok(container)
    }

    /// Runs a command of Docker's command line against this engine.
    ///
    /// # Errors
    ///
    /// When it fails. Says what it said.
    pub fn tell(&self, arguments: &[&str]) -> Result<Finished> {
        let finished = Running::start(self.docker(arguments)?)?.finish(PATIENCE)?;
        anyhow::ensure!(
            finished.status.success(),
            "docker {}: {}",
            arguments.join(" "),
            finished.stderr.join(" | ")
        );
        Ok(finished)
    }

    fn docker(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Place::default().command(DOCKER)?;
        command
            .args(["--host", &self.host()])
            .args(arguments)
            // A person's own settings are none of a test's business.
            .env("DOCKER_CONFIG", self.directory.path());
        Ok(command)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let socket = self.socket.clone();
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        let ended = eventually("the engine to answer", PATIENCE, || {
            let ended = process.exited().ok().flatten();
            (ended.is_some() || answers(&socket).unwrap_or(false)).then_some(ended)
        });
        let said = process.lines(crate::process::Stream::Stderr).join(" | ");
        match ended {
            Ok(None) => {}
            Ok(Some(status)) => anyhow::bail!("start a container engine: it ended with {status}: {said}"),
            Err(late) => return Err(late.context(format!("start a container engine; it said: {said}"))),
        }
        self.remains = Some(Remains::of(process.pid(), self.parent.clone())?);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        if self.is_usual() {
            return Ok(());
        }
        let containers = self.tell(&["ps", "--all", "--quiet"]).map(|said| said.stdout);
        if let Some(containers) = containers.ok().filter(|containers| !containers.is_empty()) {
            let mut arguments = vec!["rm", "--force"];
            arguments.extend(containers.iter().map(String::as_str));
            // What it does not end is ended below.
            drop(self.tell(&arguments));
        }
        let ended = self.process.take().map(|mut process| {
            process.signal(Signal::TERM)?;
            process.finish(PATIENCE)
        });
        let removed = self.remains.take().map(Remains::remove);
        ended.transpose()?;
        removed.transpose()?;
        Ok(())
    }
}

impl Drop for Engine {
    #[expect(clippy::print_stderr, reason = "drop cannot return what went wrong")]
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("a container engine did not end in order: {error:#}");
        }
    }
}

/// A container. Removed on drop, running or not.
#[derive(Debug)]
pub struct Container {
    engine: Arc<Engine>,
    name: String,
    id: String,
}

impl Container {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its whole identifier.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Runs a command of Docker's on it: `start`, `kill`, `pause`, `unpause`.
    ///
    /// # Errors
    ///
    /// When the engine refuses.
    pub fn tell(&self, verb: &str) -> Result<()> {
        self.engine.tell(&[verb, &self.name]).map(drop)
    }

    /// A client inside.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn client(&self) -> Result<Client> {
        let arguments = ["exec", "--interactive", &self.name, image::CLIENT];
        Client::start_by(self.engine.docker(&arguments)?)
    }

    /// A command that runs a program inside, with these options of `docker exec`.
    ///
    /// # Errors
    ///
    /// When a file that the command needs cannot be opened.
    pub fn command(&self, options: &[&str], words: &[&str]) -> Result<Command> {
        self.engine
            .docker(&[&["exec"], options, &[self.name.as_str()], words].concat())
    }

    /// Its network namespace.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn netns(&self) -> Result<NetnsFixture> {
        let said = self
            .engine
            .tell(&["inspect", "--format", "{{.State.Pid}}", &self.name])?;
        let pid = said.stdout.first().and_then(|pid| pid.parse().ok());
        NetnsFixture::of_process(pid.context("read the container's process identifier")?)
    }
}

impl Drop for Container {
    #[expect(clippy::print_stderr, reason = "drop cannot return what went wrong")]
    fn drop(&mut self) {
        if let Err(error) = self.engine.tell(&["rm", "--force", &self.name]) {
            eprintln!("a container is left to its engine's end: {error:#}");
        }
    }
}

fn docker_engine(command: &mut Command, own: &Path, systemd: bool) -> Result<()> {
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
        .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
        .args(["--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"])
        .args(["--log-level", "warn"]);
    Ok(())
}

fn podman_engine(command: &mut Command, own: &Path, systemd: bool) -> Result<()> {
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
fn runtime() -> Result<PathBuf> {
    let crun = packaged("crun").ok().filter(|_| systemd_makes_cgroups());
    crun.map_or_else(|| packaged("runc"), Ok)
}

/// Whether cgroups are systemd's to make: it runs, and version 2 is all there is.
fn systemd_makes_cgroups() -> bool {
    Path::new("/run/systemd/system").is_dir() && Path::new("/sys/fs/cgroup/cgroup.procs").exists()
}

fn packaged(program: &str) -> Result<PathBuf> {
    let mut places = FOLDERS.iter().map(|folder| Path::new(folder).join(program));
    places
        .find(|path| path.is_file())
        .with_context(|| format!("find {program}: no package has brought it"))
}

fn answers(socket: &Path) -> std::io::Result<bool> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.ends_with("OK"))
}
