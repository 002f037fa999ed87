//! From what a person named to the cgroups it means.
//!
//! Resolving happens once, now; waiting for what is not there yet is [`super::wait`]'s.

use std::{collections::HashMap, fmt, io, path::PathBuf, sync::Arc};

use enforcer_common::clause::MAX_CGROUPS;

use crate::policy::Selector;

use super::{
    cgroup::{Cgroup, CgroupError},
    container::{self, ContainerError},
    engine::Engine,
    hierarchy::Hierarchy,
    pid::{self, PidError},
};

/// A target to resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What messages and events shall call it. Without one it is called after what it is.
    pub name: Option<String>,
    /// How it was named.
    pub selector: Selector,
}

impl Request {
    /// What it is called until more is known: the name it was given, or how it was asked for.
    #[must_use]
    pub fn label(&self) -> String {
        match (&self.name, &self.selector) {
            (Some(name), _) => name.clone(),
            (None, Selector::Cgroup(path)) => path.display().to_string(),
            (None, Selector::Pid(pid)) => format!("pid:{pid}"),
            (None, Selector::Container(name)) => name.clone(),
        }
    }
}

/// A target and what it turned out to be.
#[derive(Debug)]
pub struct ResolvedTarget {
    /// As in the request, or after what it is: a container's is its name, however it was asked for.
    pub name: String,
    /// As in the request.
    pub selector: Selector,
    /// The cgroups to attach to. Empty where another target has them all already: a note says so.
    pub cgroups: Vec<Arc<Cgroup>>,
    /// What a person should be told.
    pub notes: Vec<Note>,
}

/// Something worth saying about a target that is not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A process was named: everyone in its cgroup is governed.
    Company {
        /// The process named.
        pid: u32,
        /// Its cgroup, relative to the v2 mount.
        cgroup: PathBuf,
        /// Processes in it and below it, the named one included.
        processes: usize,
    },
    /// A container was named: this is its cgroup.
    Container {
        /// Its name.
        name: String,
        /// Its whole identifier.
        id: String,
        /// Who runs it.
        engine: Engine,
        /// Its cgroup, relative to the v2 mount.
        cgroup: PathBuf,
    },
    /// An earlier target is the same cgroup; this one adds nothing.
    SameCgroup {
        /// The cgroup, relative to the v2 mount.
        cgroup: PathBuf,
        /// Index of the target that has it, in the order given.
        target: usize,
        /// Name of that target.
        name: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Company {
                pid,
                cgroup,
                processes,
            } => write!(
                f,
                "pid {pid} is in cgroup {}: governs {processes} process{}",
                cgroup.display(),
                if *processes == 1 { "" } else { "es" }
            ),
            Self::Container {
                name,
                id,
                engine,
                cgroup,
            } => write!(
                f,
                "container {name} ({}, {engine}) is cgroup {}",
                id.get(..12).unwrap_or(id),
                cgroup.display()
            ),
            Self::SameCgroup {
                cgroup,
                target: _,
                name,
            } => {
                write!(
                    f,
                    "cgroup {} is named more than once: it is governed once, as target {name}",
                    cgroup.display()
                )
            }
        }
    }
}

/// Why a target cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Its cgroup cannot be opened.
    #[error("cannot resolve target {target}")]
    Cgroup {
        /// Name of the target.
        target: String,
        /// Why.
        #[source]
        source: CgroupError,
    },
    /// Its process does not lead to a cgroup.
    #[error("cannot resolve target {target}")]
    Pid {
        /// Name of the target.
        target: String,
        /// Why.
        #[source]
        source: PidError,
    },
    /// Its container does not lead to a cgroup.
    #[error("cannot resolve target {target}")]
    Container {
        /// Name of the target.
        target: String,
        /// Why.
        #[source]
        source: Box<ContainerError>,
    },
    /// Its processes cannot be counted, which a cgroup that goes away just now can cause.
    #[error("cannot list the processes of target {target} in cgroup {}", cgroup.display())]
    Count {
        /// Name of the target.
        target: String,
        /// Its cgroup, relative to the v2 mount.
        cgroup: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It is the root cgroup, or the top of what this process sees, and that was not asked for by its name.
    #[error("target {target} resolves to {}", all_of(*is_hosts))]
    Root {
        /// Name of the target.
        target: String,
        /// How it was named.
        selector: Selector,
        /// Whether nothing is above it.
        is_hosts: bool,
    },
    /// There are more cgroups than one controller attaches to.
    #[error("the targets are {found} cgroups, and at most {MAX_CGROUPS} can be governed")]
    TooMany {
        /// How many there are.
        found: usize,
    },
}

impl ResolveError {
    /// Whether it is merely not there: what is waited for may come.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Cgroup { source, .. } => matches!(source, CgroupError::Absent { .. }),
            Self::Container { source, .. } => source.may_pass(),
            _ => false,
        }
    }

    /// What the person can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Cgroup { source, .. } => source.hint(),
            Self::Pid { source, .. } => source.hint(),
            Self::Container { source, .. } => source.hint(),
            Self::Count { .. } => None,
            Self::Root { is_hosts, .. } => Some(format!(
                "start the program with `enforcer exec`, or give it a cgroup of its own; \
                 if {} is meant, write `--cgroup /` (in a policy file `cgroup = \"/\"`)",
                if *is_hosts { "the whole host" } else { "all of it" }
            )),
            Self::TooMany { .. } => {
                Some("govern a cgroup above them: those below it are included".to_owned())
            }
        }
    }
}

fn all_of(is_hosts: bool) -> &'static str {
    if is_hosts {
        "the root cgroup: every process of this host would be governed"
    } else {
        "the topmost cgroup that this process sees: every process in it and below it would be governed"
    }
}

/// Resolves one target.
///
/// For a container, engines are asked: that needs a tokio runtime with I/O and time.
///
/// # Errors
///
/// [`ResolveError`] where it is not there, is no cgroup, or is the root cgroup without having been asked for
/// as `/`.
pub async fn resolve_one(hierarchy: &Hierarchy, request: &Request) -> Result<ResolvedTarget, ResolveError> {
    match resolve_now(hierarchy, request).await {
        Err(ResolveError::Container { target, source }) => Err(ResolveError::Container {
            target,
            source: Box::new(container::advised(*source).await),
        }),
        done => done,
    }
}

/// As [`resolve_one`], for who asks again and again: without looking up what there is instead of a missing container.
pub(super) async fn resolve_now(
    hierarchy: &Hierarchy,
    request: &Request,
) -> Result<ResolvedTarget, ResolveError> {
    let mut name = request.label();
    let target = name.clone();
    let mut notes = Vec::new();
    let cgroup = match &request.selector {
        Selector::Cgroup(path) => {
            Cgroup::open(hierarchy, path).map_err(|source| ResolveError::Cgroup { target, source })?
        }
        Selector::Pid(pid) => {
            pid::cgroup_of(hierarchy, *pid).map_err(|source| ResolveError::Pid { target, source })?
        }
        Selector::Container(word) => {
            let found = container::cgroup_of(hierarchy, word).await;
            let found = found.map_err(|source| ResolveError::Container {
                target,
                source: Box::new(source),
            })?;
            if request.name.is_none() {
                name.clone_from(&found.name);
            }
            notes.push(Note::Container {
                name: found.name,
                id: found.id,
                engine: found.engine,
                cgroup: found.cgroup.path().to_owned(),
            });
            found.cgroup
        }
    };
    if cgroup.is_root() && !request.selector.names_root() {
        return Err(ResolveError::Root {
            target: name,
            selector: request.selector.clone(),
            is_hosts: hierarchy.has_true_root(),
        });
    }
    if let Selector::Pid(pid) = request.selector {
        let processes = cgroup.count_processes().map_err(|source| ResolveError::Count {
            target: name.clone(),
            cgroup: cgroup.path().to_owned(),
            source,
        })?;
        notes.push(Note::Company {
            pid,
            cgroup: cgroup.path().to_owned(),
            processes,
        });
    }
    Ok(ResolvedTarget {
        name,
        selector: request.selector.clone(),
        cgroups: vec![Arc::new(cgroup)],
        notes,
    })
}

/// Resolves all targets, or says of each that cannot be why.
///
/// # Errors
///
/// Every target's error, in the order given; or [`ResolveError::TooMany`] alone.
pub async fn resolve(
    hierarchy: &Hierarchy,
    requests: &[Request],
) -> Result<Vec<ResolvedTarget>, Vec<ResolveError>> {
    let mut targets = Vec::with_capacity(requests.len());
    let mut errors = Vec::new();
    for request in requests {
        match resolve_one(hierarchy, request).await {
            Ok(target) => targets.push(target),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    settle(&mut targets).map_err(|error| vec![error])?;
    Ok(targets)
}

/// Makes targets that were resolved one by one fit together: a cgroup that several name stays with the first
/// of them, and the others get a note.
///
/// The targets keep their places. Whether a later one wanted other rules for the same cgroup is the caller's
/// to judge, from [`Note::SameCgroup`].
///
/// # Errors
///
/// [`ResolveError::TooMany`].
pub fn settle(targets: &mut [ResolvedTarget]) -> Result<(), ResolveError> {
    let mut owners: HashMap<u64, (usize, String)> = HashMap::new();
    for (index, target) in targets.iter_mut().enumerate() {
        let ResolvedTarget {
            name, cgroups, notes, ..
        } = target;
        cgroups.retain(|cgroup| {
            let (owner, owner_name) = owners.entry(cgroup.id()).or_insert_with(|| (index, name.clone()));
            let is_first = *owner == index;
            if !is_first {
                notes.push(Note::SameCgroup {
                    cgroup: cgroup.path().to_owned(),
                    target: *owner,
                    name: owner_name.clone(),
                });
            }
            is_first
        });
    }
    if owners.len() > MAX_CGROUPS as usize {
        return Err(ResolveError::TooMany { found: owners.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::test_support::{Scratch, is_root};

    fn request(name: &str, selector: Selector) -> Request {
        Request {
            name: Some(name.to_owned()),
            selector,
        }
    }

    #[tokio::test]
    async fn root_must_be_asked_for_by_name() {
        let hierarchy = Hierarchy::find().unwrap();
        let by_name = request("all", Selector::Cgroup("/".into()));
        assert!(resolve_one(&hierarchy, &by_name).await.unwrap().cgroups[0].is_root());
        for other in ["", ".", hierarchy.mount_point().to_str().unwrap()] {
            let selector = Selector::Cgroup(other.into());
            let error = resolve_one(&hierarchy, &request("all", selector))
                .await
                .unwrap_err();
            assert!(matches!(error, ResolveError::Root { .. }), "{other:?}: {error:?}");
            assert!(error.hint().unwrap().contains("exec"));
        }
    }

    #[tokio::test]
    async fn every_target_that_is_missing_is_named() {
        let hierarchy = Hierarchy::find().unwrap();
        let errors = resolve(
            &hierarchy,
            &[
                request("one", Selector::Cgroup("/enforcer-not-there-1".into())),
                request("all", Selector::Cgroup("/".into())),
                request("two", Selector::Pid(0)),
            ],
        )
        .await
        .unwrap_err();
        assert!(
            matches!(&errors[..], [ResolveError::Cgroup { target: one, .. }, ResolveError::Pid { target: two, .. }] if one == "one" && two == "two")
        );
    }

    #[tokio::test]
    async fn same_cgroup_twice_is_resolved_once_and_said() {
        if !is_root("targets::resolve::same_cgroup_twice_is_resolved_once_and_said") {
            return;
        }
        let mut scratch = Scratch::new("same");
        let pid = scratch.spawn_sleeper();
        let below = scratch.child("below");
        let hierarchy = Hierarchy::find().unwrap();
        let targets = resolve(
            &hierarchy,
            &[
                request("web", Selector::Cgroup(scratch.path().to_owned())),
                request("web by pid", Selector::Pid(pid)),
                request("inner", Selector::Cgroup(below.path().to_owned())),
            ],
        )
        .await
        .unwrap();
        assert_eq!(
            targets.iter().map(|it| it.cgroups.len()).collect::<Vec<_>>(),
            [1, 0, 1]
        );
        let [company, same] = &targets[1].notes[..] else {
            panic!("{:?}", targets[1].notes)
        };
        assert!(company.to_string().contains("governs 1 process"), "{company}");
        assert!(
            matches!(same, Note::SameCgroup { target: 0, name, .. } if name == "web"),
            "{same:?}"
        );
    }
}
