//! The container engines of this machine: where they answer, and what they say about a container.
//!
//! Docker's API, which Podman speaks too (and its own, for what Docker's leaves out). Over Unix sockets only:
//! what is governed are cgroups of this machine, and an engine elsewhere has none here. This file does not
//! know cgroups; [`super::container`] does.

mod http;

#[cfg(test)]
mod tests;

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use self::http::{Conversation, garbage};

/// How long an engine has for all that it is asked about one container.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Variables that name a socket, in the order they are heard.
const VARIABLES: [&str; 2] = ["DOCKER_HOST", "CONTAINER_HOST"];

/// Where the engines that run as root answer, by their packages' defaults.
const USUAL_SOCKETS: [&str; 2] = ["/run/docker.sock", "/run/podman/podman.sock"];

/// Where users' own engines answer, below [`USERS`]` /UID`.
const ROOTLESS_SOCKETS: [&str; 2] = ["docker.sock", "podman/podman.sock"];

/// The directories of users who are logged in (`pam_systemd`(8)).
const USERS: &str = "/run/user";

/// Letters in a container's identifier, in hexadecimal.
const ID_LETTERS: usize = 64;

/// How Docker's word for an identifier that was begun, and that several containers begin with, begins.
const SEVERAL: &str = "multiple ids found with provided prefix";

/// Why an engine does not say what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A variable names something else than a Unix socket.
    #[error("{variable} is {value}, and only unix:// leads to an engine of this machine")]
    NotUnix {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// Nobody listens there, or this process may not connect.
    #[error("cannot connect to {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It took longer than [`ANSWER_LIMIT`].
    #[error("{} did not answer within {} s", socket.display(), ANSWER_LIMIT.as_secs())]
    Silent {
        /// The socket.
        socket: PathBuf,
    },
    /// What it answers is no answer of an engine.
    #[error("{} does not answer as a container engine does", socket.display())]
    Garbage {
        /// The socket.
        socket: PathBuf,
        /// What was wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It understood and did not do it.
    #[error("{} answers with status {status}: {message}", socket.display())]
    Refused {
        /// The socket.
        socket: PathBuf,
        /// Status of the HTTP response.
        status: u16,
        /// The engine's own words; may be empty.
        message: String,
    },
}

impl EngineError {
    /// Whether the engine itself says that the request is at fault: to ask again is of no use.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            // Docker 20.10 has status 500 for this.
            Self::Refused { message, .. } if message.to_ascii_lowercase().starts_with(SEVERAL) => true,
            Self::Refused { status, .. } => (400..500).contains(status),
            _ => false,
        }
    }

    /// Whether the engine, or what stands before it, does not let this process ask.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: 401 | 403 | 405,
                ..
            }
        )
    }

    /// Whether somebody is there who does not answer as an engine does.
    #[must_use]
    pub const fn is_unresponsive(&self) -> bool {
        matches!(self, Self::Silent { .. } | Self::Garbage { .. })
    }

    /// Whether somebody is there and this process may not talk to him.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// A socket that an engine may answer at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    socket: PathBuf,
    /// Nobody named it.
    is_usual: bool,
}

/// An engine that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// What it is called: `Docker`, `Podman`.
    pub product: &'static str,
    /// Where it answered.
    pub socket: PathBuf,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.product, self.socket.display())
    }
}

/// What an engine knows about a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Container {
    /// All 64 letters of it.
    pub(super) id: String,
    /// Without the slash that engines write before it.
    pub(super) name: String,
    /// `created`, `running`, `paused`, `restarting`, `exited`, …: each engine has words of its own.
    pub(super) status: String,
    /// Its main process, if it has one.
    pub(super) pid: Option<u32>,
    /// What runs it: `runc`, `crun`, `runsc`, …
    pub(super) runtime: String,
}

/// The answer of an engine that was asked about a container.
#[derive(Debug)]
pub(super) struct Inspected {
    pub(super) engine: Engine,
    /// `None`: it has none of that name or identifier.
    pub(super) container: Option<Container>,
}

/// A container in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) is_running: bool,
}

/// `GET /containers/NAME/json` and `GET /libpod/containers/NAME/json`: what is needed of it. Words are kept as
/// they are: Podman has states that Docker's API does not list.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectAnswer {
    id: String,
    name: String,
    state: StateAnswer,
    #[serde(default)]
    host_config: HostConfigAnswer,
    /// Podman only; there `HostConfig.Runtime` is always `oci`.
    #[serde(default, rename = "OCIRuntime")]
    oci_runtime: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StateAnswer {
    status: String,
    #[serde(default)]
    pid: u32,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HostConfigAnswer {
    runtime: Option<String>,
}

/// An element of `GET /containers/json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListAnswer {
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    state: String,
}

/// Every socket to ask at: those that variables name, then the usual ones, each once. A variable that names no
/// socket is an error of its own.
pub(super) fn endpoints() -> (Vec<Endpoint>, Vec<EngineError>) {
    let named = VARIABLES.map(|variable| (variable, env::var(variable).unwrap_or_default()));
    collect(&named, USUAL_SOCKETS.map(Path::new))
}

fn collect<'a>(
    named: &[(&'static str, String)],
    usual: impl IntoIterator<Item = &'a Path>,
) -> (Vec<Endpoint>, Vec<EngineError>) {
    let mut errors = Vec::new();
    let mut endpoints = Vec::new();
    for (variable, value) in named.iter().filter(|(_, value)| !value.is_empty()) {
        match value.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            Some(path) => endpoints.push(Endpoint {
                socket: path.into(),
                is_usual: false,
            }),
            None => errors.push(EngineError::NotUnix {
                variable,
                value: value.clone(),
            }),
        }
    }
    endpoints.extend(usual.into_iter().map(|socket| Endpoint {
        socket: socket.to_owned(),
        is_usual: true,
    }));
    // A link from one engine's usual place to another's socket (podman-docker) is not a second engine.
    let mut known = Vec::new();
    endpoints.retain(|Endpoint { socket, .. }| {
        let real = fs::canonicalize(socket).unwrap_or_else(|_| socket.clone());
        let is_new = !known.contains(&real);
        known.push(real);
        is_new
    });
    (endpoints, errors)
}

/// Sockets of engines that users run for themselves; these are not asked.
pub(super) fn rootless_sockets() -> Vec<PathBuf> {
    let users = fs::read_dir(USERS).into_iter().flatten().flatten();
    let mut found: Vec<_> = users
        .flat_map(|user| ROOTLESS_SOCKETS.map(|socket| user.path().join(socket)))
        .filter(|socket| socket.exists())
        .collect();
    found.sort();
    found
}

impl Endpoint {
    /// Where that engine answered.
    pub(super) fn of(engine: &Engine) -> Self {
        Self {
            socket: engine.socket.clone(),
            is_usual: false,
        }
    }

    /// Whether an error only says that there is no such engine on this machine, which nobody has claimed.
    pub(super) fn is_simply_absent(&self, error: &EngineError) -> bool {
        let is_absent = |source: &io::Error| source.kind() == io::ErrorKind::NotFound;
        self.is_usual && matches!(error, EngineError::Connect { source, .. } if is_absent(source))
    }

    /// Asks about a container, by name, identifier, or a beginning of one, as the engine itself takes them.
    pub(super) async fn inspect(&self, name: &str) -> Result<Inspected, EngineError> {
        self.within_limit(async {
            let mut conversation = Conversation::open(&self.socket).await?;
            let greeting = greet(&mut conversation, &self.socket).await?;
            let answer = conversation
                .get(&format!("{}/containers/{name}/json", greeting.inspect_prefix))
                .await?;
            let container = if answer.is_absence() {
                None
            } else {
                Some(container_of(conversation.understand(&answer)?, &self.socket)?)
            };
            Ok(Inspected {
                engine: greeting.engine,
                container,
            })
        })
        .await
    }

    /// All its containers, those that do not run included.
    pub(super) async fn list(&self) -> Result<Vec<Listed>, EngineError> {
        self.within_limit(async {
            let mut conversation = Conversation::open(&self.socket).await?;
            let greeting = greet(&mut conversation, &self.socket).await?;
            let path = format!("{}/containers/json?all=true", greeting.prefix);
            let answer = conversation.get(&path).await?;
            let containers: Vec<ListAnswer> = conversation.understand(&answer)?;
            Ok(containers
                .into_iter()
                .filter_map(|container| {
                    Some(Listed {
                        name: plain(container.names.first()?).to_owned(),
                        is_running: container.state == "running",
                    })
                })
                .collect())
        })
        .await
    }

    async fn within_limit<T>(
        &self,
        asking: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        match tokio::time::timeout(ANSWER_LIMIT, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(EngineError::Silent {
                socket: self.socket.clone(),
            }),
        }
    }
}

/// Who answers, and how its paths begin.
struct Greeting {
    engine: Engine,
    /// `/v1.41`: the newest version it speaks, because paths without one are deprecated.
    prefix: String,
    inspect_prefix: String,
}

async fn greet(conversation: &mut Conversation<'_>, socket: &Path) -> Result<Greeting, EngineError> {
    let answer = conversation.get("/_ping").await?;
    let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
    let is_version = |text: &&str| {
        !text.is_empty()
            && text
                .chars()
                .all(|letter| letter.is_ascii_digit() || letter == '.')
    };
    let Some(api) = header("Api-Version").filter(is_version) else {
        let message = format!("status {} and no Api-Version", answer.status.as_u16());
        return Err(garbage(socket, message));
    };
    let prefix = format!("/v{api}");
    let (product, inspect_prefix) = match header("Libpod-Api-Version").filter(is_version) {
        Some(libpod) => ("Podman", format!("/v{libpod}/libpod")),
        None if header("Server").is_some_and(|server| server.starts_with("Docker")) => {
            ("Docker", prefix.clone())
        }
        None => ("an engine", prefix.clone()),
    };
    Ok(Greeting {
        engine: Engine {
            product,
            socket: socket.to_owned(),
        },
        prefix,
        inspect_prefix,
    })
}

fn container_of(answer: InspectAnswer, socket: &Path) -> Result<Container, EngineError> {
    // A cgroup is known by having this in its name, so nothing shorter will do.
    if answer.id.len() != ID_LETTERS || !answer.id.bytes().all(|letter| letter.is_ascii_hexdigit()) {
        return Err(garbage(socket, "a container without an identifier"));
    }
    Ok(Container {
        name: plain(&answer.name).to_owned(),
        pid: Some(answer.state.pid).filter(|pid| *pid != 0),
        status: answer.state.status,
        runtime: answer
            .oci_runtime
            .or(answer.host_config.runtime)
            .unwrap_or_default(),
        id: answer.id,
    })
}

fn plain(name: &str) -> &str {
    name.strip_prefix('/').unwrap_or(name)
}
