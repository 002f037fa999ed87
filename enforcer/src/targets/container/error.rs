//! [`ContainerError`]: why a container does not lead to a cgroup, and what a person can do about it.

use std::{error::Error, path::PathBuf};

use super::{CgroupError, Engine, EngineError, PidError};
use crate::targets::engine::Listed;

/// Names at least this alike (Jaro-Winkler, 0 to 1) are offered as what was meant.
const SIMILAR_ENOUGH: f64 = 0.8;

/// The most names that a hint holds.
const NAMES_SHOWN: usize = 5;

/// Letters of an identifier that engines show.
const ID_SHOWN: usize = 12;

/// Why a container does not lead to a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// No engine answers.
    #[error("no container engine to ask about {name}: {}", listed(failed))]
    NoEngine {
        /// As asked for.
        name: String,
        /// What was tried, and why each failed.
        failed: Vec<EngineError>,
        /// Sockets of engines that were not asked.
        rootless: Vec<PathBuf>,
    },
    /// An engine is there, and does not say.
    #[error("cannot learn what container {name} is: {}", listed(failed))]
    Refused {
        /// As asked for.
        name: String,
        /// Everybody who did not answer as asked, and why.
        failed: Vec<EngineError>,
    },
    /// No engine has it.
    #[error("there is no container {name}: asked {}{}", named(asked), but(failed))]
    Absent {
        /// As asked for.
        name: String,
        /// Who was asked.
        asked: Vec<Engine>,
        /// Who could not be, and why.
        failed: Vec<EngineError>,
        /// What there is instead; `None` where that was not looked up.
        instead: Option<String>,
    },
    /// Several engines have one of that name or identifier.
    #[error("{name} is a container of more than one engine: {}", described(found))]
    Ambiguous {
        /// As asked for.
        name: String,
        /// Engine, name and identifier of each.
        found: Vec<(Engine, String, String)>,
    },
    /// It is there but does not run.
    #[error("container {name} of {engine} does not run: it is {status}")]
    NotRunning {
        /// Its name.
        name: String,
        /// Who has it.
        engine: Engine,
        /// In the engine's word.
        status: String,
    },
    /// Its connects are not made by this host's kernel.
    #[error(
        "container {name} runs under {sandbox} ({runtime}): no program of the host's kernel sees its connects"
    )]
    Sandboxed {
        /// Its name.
        name: String,
        /// As the engine calls it.
        runtime: String,
        /// As people call it.
        sandbox: &'static str,
    },
    /// Its process is in a cgroup that is not the container's.
    #[error("container {name} has no cgroup of its own: its main process {pid} is in {}, which does not bear its identifier", path.display())]
    Foreign {
        /// Its name.
        name: String,
        /// Its main process, as the engine names it.
        pid: u32,
        /// Where that is, relative to the v2 mount.
        path: PathBuf,
    },
    /// Its process is in the root cgroup.
    #[error("container {name} has no cgroup of version 2: its main process {pid} is in the root cgroup")]
    Root {
        /// Its name.
        name: String,
        /// Its main process, as the engine names it.
        pid: u32,
    },
    /// Whenever it was looked for, it had another process.
    #[error("container {name} keeps restarting")]
    Restarting {
        /// As asked for.
        name: String,
    },
    /// Its process does not lead to a cgroup.
    #[error("cannot use the main process of container {name}")]
    Process {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: PidError,
    },
    /// The cgroup is known but cannot be opened.
    #[error("cannot use the cgroup of container {name}")]
    Open {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<CgroupError>,
    },
}

impl ContainerError {
    pub(super) fn absent(
        name: String,
        asked: Vec<Engine>,
        failed: Vec<EngineError>,
        all: &[Listed],
        rootless: &[PathBuf],
    ) -> Self {
        let mut similar: Vec<_> = all
            .iter()
            .map(|container| (strsim::jaro_winkler(&container.name, &name), &container.name))
            .filter(|(likeness, _)| *likeness >= SIMILAR_ENOUGH)
            .collect();
        similar.sort_by(|(left, _), (right, _)| right.total_cmp(left));
        let similar: Vec<_> = similar.into_iter().map(|(_, name)| name.clone()).collect();
        let running: Vec<_> = all
            .iter()
            .filter(|container| container.is_running)
            .map(|container| container.name.clone())
            .collect();
        let instead = if !similar.is_empty() {
            format!("did you mean {}?", some(&similar, " or "))
        } else if !rootless.is_empty() {
            ask_rootless(rootless)
        } else if running.is_empty() {
            "no container runs there; `--wait` waits for one".to_owned()
        } else {
            format!("running are {}; `--wait` waits for it", some(&running, ", "))
        };
        Self::Absent {
            name,
            asked,
            failed,
            instead: Some(instead),
        }
    }

    /// Whether it can become right by itself: an engine starts, a container does.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoEngine { failed, .. } => !failed.iter().any(EngineError::is_denied),
            Self::Refused { failed, .. } => !failed.iter().any(EngineError::is_final),
            Self::Absent { .. } | Self::NotRunning { .. } | Self::Restarting { .. } => true,
            Self::Process { source, .. } => matches!(
                source,
                PidError::Gone { .. } | PidError::Zombie { .. } | PidError::CgroupRemoved { .. }
            ),
            Self::Open { source, .. } => matches!(**source, CgroupError::Absent { .. }),
            Self::Ambiguous { .. } | Self::Sandboxed { .. } | Self::Foreign { .. } | Self::Root { .. } => {
                false
            }
        }
    }

    /// What the person can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoEngine { failed, .. } if failed.iter().any(EngineError::is_denied) => {
                Some("run as root, or as a user who may use that engine".to_owned())
            }
            Self::NoEngine { failed, .. } if failed.iter().any(EngineError::is_unresponsive) => Some(
                "see what listens at that socket, and restart it if it is the engine; or name another: \
                 DOCKER_HOST=unix:///PATH"
                    .to_owned(),
            ),
            Self::NoEngine { rootless, .. } if !rootless.is_empty() => Some(ask_rootless(rootless)),
            Self::NoEngine { .. } => Some(
                "start the engine (`systemctl start docker`, or podman.socket), or name its socket: \
                 DOCKER_HOST=unix:///PATH"
                    .to_owned(),
            ),
            Self::Refused { failed, .. } => Some(what_to_ask(failed).to_owned()),
            Self::Absent { instead, .. } => instead.clone(),
            Self::Ambiguous { found, .. } => found.first().map(|(_, _, id)| {
                format!(
                    "give more of the identifier, as in `--container {}`",
                    id.get(..ID_SHOWN).unwrap_or(id)
                )
            }),
            Self::NotRunning { status, .. } if status == "paused" => {
                Some("unpause it, or wait until somebody does: `--wait`".to_owned())
            }
            Self::NotRunning { .. } => Some("start it, or wait until somebody does: `--wait`".to_owned()),
            Self::Sandboxed { .. } => Some(
                "what can be done is done inside of it, or in the network it is connected to; to govern the sandbox's \
                 own processes, name their cgroup: `--cgroup`"
                    .to_owned(),
            ),
            Self::Foreign { path, .. } => Some(format!(
                "run enforcer in the host's PID and cgroup namespaces; if everybody in that cgroup is meant, \
                 `--cgroup {}`",
                path.display()
            )),
            Self::Root { .. } => Some(
                "the engine must use cgroup v2, beside v1 or alone: look for \"Cgroup Version\" in `docker info`"
                    .to_owned(),
            ),
            Self::Restarting { .. } => Some("wait until it runs: `--wait`".to_owned()),
            Self::Process {
                source: PidError::Gone { .. },
                ..
            } => Some(
                "it may just have ended; if not, the engine numbers processes otherwise than this process sees them: \
                 run enforcer in the host's PID namespace"
                    .to_owned(),
            ),
            Self::Process { source, .. } => source.hint(),
            Self::Open { source, .. } => source.hint(),
        }
    }
}

fn what_to_ask(failed: &[EngineError]) -> &'static str {
    let refused = |error: &EngineError| matches!(error, EngineError::Refused { .. });
    if failed.iter().any(EngineError::is_forbidden) {
        "name a socket at which this process may look at containers: DOCKER_HOST=unix:///PATH"
    } else if failed.iter().any(refused) {
        "give more of the identifier, or the whole name"
    } else {
        "name the engine's own socket: DOCKER_HOST=unix:///PATH"
    }
}

fn ask_rootless(sockets: &[PathBuf]) -> String {
    let sockets: Vec<_> = sockets
        .iter()
        .map(|socket| format!("DOCKER_HOST=unix://{}", socket.display()))
        .collect();
    format!(
        "engines of users are asked only if named: {}",
        some(&sockets, " or ")
    )
}

fn some(words: &[String], between: &str) -> String {
    let mut shown: Vec<&str> = words.iter().take(NAMES_SHOWN).map(String::as_str).collect();
    if words.len() > NAMES_SHOWN {
        shown.push("…");
    }
    shown.join(between)
}

fn named(engines: &[Engine]) -> String {
    let names: Vec<_> = engines.iter().map(Engine::to_string).collect();
    names.join(", ")
}

fn described(found: &[(Engine, String, String)]) -> String {
    let all: Vec<_> = found
        .iter()
        .map(|(engine, name, id)| {
            let id = id.get(..ID_SHOWN).unwrap_or(id);
            format!("{engine} ({name}, {id})")
        })
        .collect();
    all.join(", ")
}

/// Each error with its causes.
fn listed(errors: &[EngineError]) -> String {
    let all: Vec<_> = errors.iter().map(|error| with_causes(error)).collect();
    all.join("; ")
}

/// An error with its causes, in one line.
pub(in crate::targets) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text.push_str(&format!(": {deeper}"));
        cause = deeper.source();
    }
    text
}

fn but(failed: &[EngineError]) -> String {
    if failed.is_empty() {
        String::new()
    } else {
        format!("; {}", listed(failed))
    }
}
