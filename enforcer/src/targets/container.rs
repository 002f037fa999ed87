//! From a container to its cgroup.
//!
//! An engine names the container's main process; the kernel says in which cgroup that is; and the container's
//! own cgroup is the topmost one on the way there whose name contains the container's whole identifier. What a
//! container makes below it (systemd in a container moves itself to `init.scope`, crun makes `container`)
//! belongs to it, so the process's own cgroup would be too little. As seen:
//!
//! | engine, cgroup driver | the main process is in | governed |
//! |---|---|---|
//! | Docker, cgroupfs | `/docker/ID` | the same |
//! | Docker, systemd | `/system.slice/docker-ID.scope` | the same |
//! | Podman, cgroupfs | `/libpod_parent/libpod-ID` | the same |
//! | Podman, systemd, with crun | `/machine.slice/libpod-ID.scope/container` | the scope |
//!
//! The identifier in the name is also what shows that the process is still the container's, and not another one
//! that was given its number.

use std::path::{Path, PathBuf};

use tokio::task::JoinSet;

use super::{
    cgroup::{Cgroup, CgroupError},
    engine::{self, Container, Endpoint, Engine, EngineError, Inspected},
    hierarchy::Hierarchy,
    pid::{self, PidError},
};

mod error;

pub use error::ContainerError;
pub(super) use error::with_causes;

#[cfg(test)]
mod tests;

/// How often a container that restarts just now is looked up again.
const ATTEMPTS: usize = 5;

/// Runtimes, by what is in their names, that run containers where no program of the host's kernel sees their
/// connects.
const SANDBOXES: [(&str, &str); 3] = [
    ("runsc", "gVisor"),
    ("gvisor", "gVisor"),
    ("kata", "Kata Containers"),
];

/// A running container and its cgroup.
#[derive(Debug)]
pub struct ContainerCgroup {
    /// Its name, whatever it was asked for by.
    pub name: String,
    /// Its whole identifier.
    pub id: String,
    /// Who runs it.
    pub engine: Engine,
    /// Its own cgroup, with all that it makes below.
    pub cgroup: Cgroup,
}

/// Finds a running container and opens its cgroup. Asks every engine there is, all at once.
///
/// Needs a tokio runtime with I/O and time. Takes at most [`engine::ANSWER_LIMIT`] for each attempt.
///
/// # Errors
///
/// [`ContainerError`] for everything that a name can turn out to be. What there is instead of a container that is not
/// there is not looked up yet: that is `advised`'s.
pub async fn cgroup_of(hierarchy: &Hierarchy, name: &str) -> Result<ContainerCgroup, ContainerError> {
    let mut last_pid = None;
    for _ in 0..ATTEMPTS {
        let (engine, container) = find(name).await?;
        let pid = main_process(&engine, &container)?;
        match own_cgroup(hierarchy, &container, pid) {
            Ok(cgroup) => {
                return Ok(ContainerCgroup {
                    name: container.name,
                    id: container.id,
                    engine,
                    cgroup,
                });
            }
            // The engine was asked again, and said the same: the container did not restart meanwhile.
            Err(error) if last_pid == Some(pid) => return Err(error),
            Err(_) => last_pid = Some(pid),
        }
    }
    Err(ContainerError::Restarting {
        name: name.to_owned(),
    })
}

/// The one container of that name or identifier.
async fn find(name: &str) -> Result<(Engine, Container), ContainerError> {
    let (endpoints, mut failed) = engine::endpoints();
    let answers = ask_all(&endpoints, |endpoint| {
        let name = name.to_owned();
        async move { endpoint.inspect(&name).await }
    });
    let answers = answers.await;
    let mut asked = Vec::new();
    let mut absent = Vec::new();
    let mut found: Vec<(Engine, Container)> = Vec::new();
    for (endpoint, answer) in endpoints.iter().zip(answers) {
        match answer {
            Ok(Inspected { engine, container }) => {
                if let Some(container) = container {
                    // Through another door it may be the same engine.
                    if !found.iter().any(|(_, known)| known.id == container.id) {
                        found.push((engine.clone(), container));
                    }
                }
                asked.push(engine);
            }
            Err(error) if endpoint.is_simply_absent(&error) => absent.push(error),
            Err(error) => failed.push(error),
        }
    }
    let name = name.to_owned();
    // An engine that refuses may know several that begin like this.
    let may_be_others = failed.iter().any(EngineError::is_final);
    let is_whole = |container: &Container| container.name == name || container.id == name;
    match (found.pop(), found.is_empty()) {
        (Some((_, container)), true) if may_be_others && !is_whole(&container) => {
            Err(ContainerError::Refused { name, failed })
        }
        (Some(one), true) => Ok(one),
        (Some(last), false) => {
            found.push(last);
            Err(ContainerError::Ambiguous {
                name,
                found: found
                    .into_iter()
                    .map(|(engine, container)| (engine, container.name, container.id))
                    .collect(),
            })
        }
        (None, _) if is_refusal(&failed, !asked.is_empty()) => Err(ContainerError::Refused { name, failed }),
        (None, _) if asked.is_empty() => Err(ContainerError::NoEngine {
            name,
            failed: failed.into_iter().chain(absent).collect(),
            rootless: engine::rootless_sockets(),
        }),
        (None, _) => Err(ContainerError::Absent {
            name,
            asked,
            failed,
            instead: None,
        }),
    }
}

/// The same error, for showing: with what there is instead of a container that is not there. The engines that answered
/// are asked once more, for all their containers.
///
/// Takes at most [`engine::ANSWER_LIMIT`].
pub(super) async fn advised(error: ContainerError) -> ContainerError {
    let ContainerError::Absent {
        name, asked, failed, ..
    } = error
    else {
        return error;
    };
    let endpoints: Vec<_> = asked.iter().map(Endpoint::of).collect();
    let listed = ask_all(&endpoints, |endpoint| async move { endpoint.list().await }).await;
    ContainerError::absent(
        name,
        asked,
        failed,
        &listed.into_iter().flatten().flatten().collect::<Vec<_>>(),
        &engine::rootless_sockets(),
    )
}

/// Whether engines that failed say more than that there is none: that one did not do as asked, or, where no other has
/// answered, that what answers is none.
fn is_refusal(failed: &[EngineError], others_answered: bool) -> bool {
    failed.iter().any(|error| match error {
        EngineError::Refused { .. } => true,
        EngineError::Garbage { .. } => !others_answered,
        EngineError::NotUnix { .. } | EngineError::Connect { .. } | EngineError::Silent { .. } => false,
    })
}

/// What each endpoint says, in their order.
async fn ask_all<T, Asking>(endpoints: &[Endpoint], ask: impl Fn(Endpoint) -> Asking) -> Vec<T>
where
    T: Send + 'static,
    Asking: Future<Output = T> + Send + 'static,
{
    let mut asking = JoinSet::new();
    for (index, endpoint) in endpoints.iter().cloned().enumerate() {
        let answer = ask(endpoint);
        asking.spawn(async move { (index, answer.await) });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// The process that stands for the container.
fn main_process(engine: &Engine, container: &Container) -> Result<u32, ContainerError> {
    let sandbox = SANDBOXES
        .iter()
        .find(|(word, _)| container.runtime.contains(word))
        .map(|(_, sandbox)| *sandbox);
    if let Some(sandbox) = sandbox {
        return Err(ContainerError::Sandboxed {
            name: container.name.clone(),
            runtime: container.runtime.clone(),
            sandbox,
        });
    }
    container
        .pid
        .filter(|_| container.status == "running")
        .ok_or_else(|| ContainerError::NotRunning {
            name: container.name.clone(),
            engine: engine.clone(),
            status: container.status.clone(),
        })
}

/// The container's cgroup, from where its main process is.
fn own_cgroup(hierarchy: &Hierarchy, container: &Container, pid: u32) -> Result<Cgroup, ContainerError> {
    let name = || container.name.clone();
    let path =
        pid::path_of(hierarchy, pid).map_err(|source| ContainerError::Process { name: name(), source })?;
    let Some(own) = own_level(&path, &container.id) else {
        return Err(if path == Path::new("/") && hierarchy.has_true_root() {
            ContainerError::Root { name: name(), pid }
        } else {
            ContainerError::Foreign {
                name: name(),
                pid,
                path,
            }
        });
    };
    Cgroup::open_relative(hierarchy, &own).map_err(|source| ContainerError::Open {
        name: name(),
        source: Box::new(source),
    })
}

/// The topmost cgroup on the way to `path` that is named after the container.
fn own_level(path: &Path, id: &str) -> Option<PathBuf> {
    let mut own = PathBuf::new();
    for part in path.components() {
        own.push(part);
        if part.as_os_str().to_string_lossy().contains(id) {
            return Some(own);
        }
    }
    None
}
