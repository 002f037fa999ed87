//! [`World`]: a lab with its services and three workloads: one that nobody governs, one whose IPv6 is rejected, one that is
//! redirected.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{
    installed, rust_clients,
    services::{Service, Services},
    sources,
    table::{Client, Start},
};
use crate::{
    cgroup::CgroupFixture,
    enforcer::Enforcer,
    engine::{Container, Engine, Kind},
    lab::{Breakage, Lab, NAME, NAMESERVER, PREFIX, SERVER_IPV4, SERVER_IPV6},
    unique,
};

/// A name with an IPv4 address only: how fast a client is where nothing can be broken.
pub const PLAIN: &str = "plain.example";

/// A name that no client asks for, and where its IPv6 address lies.
const OTHER: &str = "other.example";
const OTHER_PREFIX: &str = "2001:db8:b::/48";
const OTHER_IPV6: &str = "2001:db8:b::80";

/// How long the lab's names may be remembered.
const TTL_SECS: u32 = 60;

/// What a [patient](World::patient) client of Node's gives each attempt, in milliseconds.
const ATTEMPT_MS: &str = "10000";

/// What enforcer does to a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nothing: it is not there.
    Without,
    /// It rejects the broken prefix.
    Reject,
    /// It redirects the name to its IPv4 address, or, where there is none, the broken prefix to that of another name.
    Redirect,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Without, Self::Reject, Self::Redirect];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Without => "without",
            Self::Reject => "reject",
            Self::Redirect => "redirect",
        })
    }
}

/// Where a client of a workload runs.
#[derive(Debug)]
enum Workload {
    Cgroup(CgroupFixture),
    Container(Container),
}

/// A lab with services and workloads. Fields are dropped in order: enforcer ends, the workloads go, nobody serves.
#[derive(Debug)]
pub struct World {
    _enforcers: Vec<Enforcer>,
    workloads: Vec<(Mode, Workload)>,
    services: Services,
    lab: Lab,
    folder: TempDir,
    /// See [`patient`](Self::patient).
    is_patient: bool,
}

impl World {
    /// Makes one with these services, whose workloads are cgroups.
    ///
    /// # Errors
    ///
    /// When a part of it cannot be made.
    pub fn new(breakage: Breakage, wanted: &[Service]) -> Result<Self> {
        let workloads = Mode::ALL
            .map(|mode| {
                Ok((
                    mode,
                    Workload::Cgroup(CgroupFixture::new(&format!("clients-{mode}"))?),
                ))
            })
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        Self::around(Lab::new(breakage)?, workloads, wanted, None)
    }

    /// Makes one whose workloads are Docker containers with one network, as those of a pod have.
    ///
    /// # Errors
    ///
    /// When a part of it cannot be made.
    pub fn of_containers(breakage: Breakage, wanted: &[Service]) -> Result<Self> {
        let engine = Engine::shared(Kind::Docker)?;
        let folder = tempfile::tempdir().context("make a directory")?;
        let resolver = folder.path().join("resolv.conf");
        fs::write(&resolver, format!("nameserver {NAMESERVER}\n")).context("write a resolv.conf")?;
        // What the clients are made of is the machine's; what they believe about names is the lab's.
        let mut options = vec![format!("--volume={}:/etc/resolv.conf:ro", resolver.display())];
        for path in ["/usr", "/lib", "/lib64", "/etc/alternatives"] {
            if Path::new(path).exists() {
                options.push(format!("--volume={path}:{path}:ro"));
            }
        }
        for path in [sources(), software()?] {
            options.push(format!("--volume={0}:{0}:ro", path.display()));
        }
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let mut workloads: Vec<(Mode, Workload)> = Vec::new();
        let mut network = "none".to_owned();
        let mut first = None;
        for mode in Mode::ALL {
            let name = unique::name(&format!("clients-{mode}"));
            let container = engine.run_with(&name, &network, &options)?;
            if first.is_none() {
                first = Some(container.netns()?);
                network = format!("container:{name}");
            }
            workloads.push((mode, Workload::Container(container)));
        }
        let netns = first.context("there is a first container")?;
        let lab = Lab::around(netns, breakage)?;
        Self::around(lab, workloads, wanted, Some((engine, folder)))
    }

    fn around(
        lab: Lab,
        workloads: Vec<(Mode, Workload)>,
        wanted: &[Service],
        containers: Option<(Arc<Engine>, TempDir)>,
    ) -> Result<Self> {
        let addresses = lab.breakage().addresses();
        let records = addresses.into_iter().map(|address| (NAME, address));
        let others = [
            (PLAIN, SERVER_IPV4.into()),
            (OTHER, SERVER_IPV4.into()),
            (OTHER, OTHER_IPV6.parse().context("understand an address")?),
        ];
        lab.nameserver.set(TTL_SECS, records.chain(others))?;
        let (engine, folder) = match containers {
            Some((engine, folder)) => (Some(engine), folder),
            None => (None, tempfile::tempdir().context("make a directory")?),
        };
        let services = Services::start(&lab, wanted, folder.path())?;
        let mut world = Self {
            _enforcers: Vec::new(),
            workloads,
            services,
            lab,
            folder,
            is_patient: false,
        };
        for mode in [Mode::Reject, Mode::Redirect] {
            world._enforcers.push(world.govern(mode, engine.as_deref())?);
        }
        Ok(world)
    }

    /// Where nothing is to be waited for, Node gives each attempt more than its 250 ms, within which a busy machine may not
    /// run it: then it takes an address that works for one that does not, and goes on to one that is rejected.
    #[must_use]
    pub fn patient(mut self) -> Self {
        self.is_patient = true;
        self
    }

    /// What is broken.
    #[must_use]
    pub const fn breakage(&self) -> Breakage {
        self.lab.breakage()
    }

    fn workload(&self, mode: Mode) -> Result<&Workload> {
        let found = self.workloads.iter().find(|(other, _)| *other == mode);
        found.map(|(_, workload)| workload).context("find a workload")
    }

    fn govern(&self, mode: Mode, engine: Option<&Engine>) -> Result<Enforcer> {
        let path = |name: &str| self.folder.path().join(format!("{mode}{name}"));
        fs::write(path(".toml"), policy(self.breakage(), mode)).context("write a policy")?;
        // On the host, as it would be: outside of the workload.
        let mut command = Enforcer::command(&self.lab.outside(), ["run", "--events", "none"])?;
        command.arg("--policy").arg(path(".toml"));
        command.arg("--state-dir").arg(path("-state"));
        match self.workload(mode)? {
            Workload::Cgroup(cgroup) => command.args(["--cgroup", &cgroup.relative_path()]),
            Workload::Container(container) => command.args(["--container", container.name()]),
        };
        if let Some(engine) = engine {
            command
                .env_remove("CONTAINER_HOST")
                .env("DOCKER_HOST", engine.host());
        }
        Enforcer::start_governing(command)
    }

    /// The command that starts a client in the workload of that mode, for the lab's name, or else for [`PLAIN`].
    ///
    /// # Errors
    ///
    /// When its software has not been installed.
    pub(super) fn command(&self, client: &Client, mode: Mode, plain: bool) -> Result<Command> {
        let host = match self.lab.name() {
            _ if plain => PLAIN.to_owned(),
            Some(name) => name.to_owned(),
            None => SERVER_IPV6.to_string(),
        };
        let workload = self.workload(mode)?;
        let fill = Fill {
            authority: self.services.authority(),
            contained: matches!(workload, Workload::Container(_)),
            port: client.service.port(),
            host: &host,
        };
        let Start { words, variables } = &client.start;
        let words: Vec<_> = words.iter().map(|word| fill.word(word)).collect::<Result<_>>()?;
        let mut variables: Vec<(&str, String)> = variables
            .iter()
            .map(|(name, value)| Ok((*name, fill.word(value)?)))
            .collect::<Result<_>>()?;
        if self.is_patient && (plain || mode != Mode::Without) {
            variables.push(("ATTEMPT_MS", ATTEMPT_MS.to_owned()));
        }
        let mut command = match workload {
            Workload::Cgroup(cgroup) => {
                let mut command = self.lab.inside(cgroup).command(&words[0])?;
                command
                    .args(&words[1..])
                    .envs(variables)
                    .current_dir(self.folder.path());
                command
            }
            Workload::Container(container) => {
                let variables: Vec<_> = variables
                    .iter()
                    .map(|(name, value)| format!("--env={name}={value}"))
                    .collect();
                let variables: Vec<_> = variables.iter().map(String::as_str).collect();
                let words: Vec<_> = words.iter().map(String::as_str).collect();
                container.command(&variables, &words)?
            }
        };
        // What a person has set for every program may change how it connects.
        let set: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
        for (name, _) in std::env::vars_os() {
            if name != "PATH" && !set.contains(&name) {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.folder.path());
        Ok(command)
    }
}

/// The target folder's part with client software.
fn software() -> Result<PathBuf> {
    let set = installed("c")?;
    Ok(set
        .parent()
        .context("client software lies in no folder")?
        .to_owned())
}

/// What stands for the placeholders of a row.
struct Fill<'a> {
    host: &'a str,
    port: u16,
    authority: &'a Path,
    contained: bool,
}

impl Fill<'_> {
    fn word(&self, word: &str) -> Result<String> {
        let bracketed = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.to_owned(),
        };
        let mut filled = word
            .replace("{host}", self.host)
            .replace("{url-host}", &bracketed)
            .replace("{port}", &self.port.to_string())
            .replace("{authority}", &format!("{bracketed}:{}", self.port))
            .replace("{ca}", &self.authority.display().to_string())
            .replace("{sources}", &sources().display().to_string());
        for set in ["c", "go", "java", "node"] {
            let placeholder = format!("{{{set}}}");
            if filled.contains(&placeholder) {
                filled = filled.replace(&placeholder, &installed(set)?.display().to_string());
            }
        }
        if filled.contains("{python}") {
            // A virtual environment is a link to the machine's Python, which may lie anywhere.
            let python = match self.contained {
                true => PathBuf::from("/usr/bin/python3"),
                false => installed("python")?.join("bin/python"),
            };
            filled = filled.replace("{python}", &python.display().to_string());
        }
        if filled.contains("{rust}") {
            filled = filled.replace("{rust}", &rust_clients()?.display().to_string());
        }
        Ok(filled)
    }
}

/// The policy of a mode. Of a healthy lab's server it says nothing.
fn policy(breakage: Breakage, mode: Mode) -> String {
    let rule = match (mode, breakage) {
        (Mode::Without, _) => return "version = 1\n".to_owned(),
        (Mode::Reject, Breakage::Healthy) => format!("prefix = \"{OTHER_PREFIX}\"\naction = \"reject\""),
        (Mode::Reject, _) => format!("prefix = \"{PREFIX}\"\naction = \"reject\""),
        (Mode::Redirect, Breakage::Healthy) => format!("host = \"{OTHER}\"\naction = \"redirect\""),
        // No name leads to another address: the rule says where to.
        (Mode::Redirect, Breakage::AaaaOnly | Breakage::Literal) => {
            format!("prefix = \"{PREFIX}\"\naction = \"redirect\"\nto = \"{SERVER_IPV4}\"")
        }
        (Mode::Redirect, _) => format!("host = \"{NAME}\"\naction = \"redirect\""),
    };
    format!("version = 1\n\n[[rule]]\n{rule}\n")
}
