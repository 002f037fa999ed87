//! Waiting for cgroups to come, and noticing that they went.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use crate::policy::Selector;

use super::{
    cgroup::{Cgroup, CgroupError},
    container::with_causes,
    hierarchy::Hierarchy,
    pid::PidError,
    resolve::{Request, ResolveError, ResolvedTarget, resolve_now},
    watch::{WatchError, Watches},
};

/// How soon engines are asked again about a container that does not run yet.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How long it is between two questions at last: each time that nothing has changed it is twice as long.
const ASK_AGAIN_AT_LAST: Duration = Duration::from_secs(5);

/// Why waiting for a target ended without it.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// Waiting cannot help: the target is not merely absent.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// It is named by a process that does not exist, and nobody knows what the next process with that number
    /// will be.
    #[error("target {target} names process {pid}, which does not exist and cannot be waited for")]
    Pid {
        /// Name of the target.
        target: String,
        /// The number.
        pid: u32,
    },
    /// The cgroup tree cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

impl WaitError {
    /// What the person can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Resolve(error) => error.hint(),
            Self::Pid { .. } => Some("name the cgroup the process will be in: `--cgroup`".to_owned()),
            Self::Watch(error) => error.hint(),
        }
    }
}

/// Resolves a target, waiting for its cgroup as long as it does not exist, or for its container as long as that
/// does not run.
///
/// `say` is called when the wait begins, and whenever the reason for it changes; with that reason, unless it is simply
/// that there is no such cgroup.
///
/// Needs a tokio runtime with I/O and time. Dropping the future ends the wait and leaves nothing behind.
///
/// # Errors
///
/// [`WaitError`]: everything that will not become right by itself.
pub async fn wait_for(
    hierarchy: &Hierarchy,
    request: &Request,
    mut say: impl FnMut(Option<&str>),
) -> Result<ResolvedTarget, WaitError> {
    let path = match &request.selector {
        Selector::Cgroup(path) => path,
        Selector::Pid(pid) => {
            return resolve_now(hierarchy, request)
                .await
                .map_err(|error| match error {
                    ResolveError::Pid {
                        target,
                        source: PidError::Gone { .. },
                    } => WaitError::Pid { target, pid: *pid },
                    other => other.into(),
                });
        }
        Selector::Container(_) => return wait_for_container(hierarchy, request, say).await,
    };
    // Watched from the top down: the directory that the next part appears in can itself go and come again,
    // and only the one above it tells.
    let below = path.strip_prefix(hierarchy.mount_point()).unwrap_or(path);
    let below = below.strip_prefix("/").unwrap_or(below);
    let watches = Watches::new()?;
    let mut is_said = false;
    loop {
        let mut directory = hierarchy.mount_point().to_owned();
        watches.add(&directory)?;
        for part in below.parent().into_iter().flat_map(Path::components) {
            directory.push(part);
            if !watches.add(&directory)? {
                break;
            }
        }
        match resolve_now(hierarchy, request).await {
            Err(ResolveError::Cgroup {
                source: CgroupError::Absent { .. },
                ..
            }) => {
                if !is_said {
                    say(None);
                    is_said = true;
                }
                watches.changed().await?;
            }
            done => return Ok(done?),
        }
    }
}

/// No engine is asked to tell of its own accord: a stream of events would have to be had from each, and from those too
/// that are not there yet.
async fn wait_for_container(
    hierarchy: &Hierarchy,
    request: &Request,
    mut say: impl FnMut(Option<&str>),
) -> Result<ResolvedTarget, WaitError> {
    let mut delay = ASK_AGAIN;
    let mut said = None;
    loop {
        match resolve_now(hierarchy, request).await {
            Err(ResolveError::Container { source, .. }) if source.may_pass() => {
                let reason = with_causes(source.as_ref());
                if said.as_ref() == Some(&reason) {
                    delay = ASK_AGAIN_AT_LAST.min(delay * 2);
                } else {
                    say(Some(&reason));
                    said = Some(reason);
                    delay = ASK_AGAIN;
                }
                tokio::time::sleep(delay).await;
            }
            done => return Ok(done?),
        }
    }
}

/// Waits until any of those targets is there, or cannot be waited for any more: for ever where there is none.
///
/// Needs a tokio runtime with I/O and time. Dropping the future ends the wait and leaves nothing behind.
pub async fn wait_for_any(hierarchy: &Hierarchy, requests: &[Request]) {
    let waiting = requests
        .iter()
        .map(|request| wait_for(hierarchy, request, |_| {}));
    let mut waiting: FuturesUnordered<_> = waiting.collect();
    if waiting.next().await.is_none() {
        std::future::pending().await
    }
}

/// Notices that cgroups were removed.
///
/// It holds no descriptor of them: thousands may be attached.
#[derive(Debug)]
pub struct VanishWatch {
    watches: Watches,
    mount_point: PathBuf,
    /// By cgroup id, the directory's path.
    alive: BTreeMap<u64, PathBuf>,
    /// Something changed since `alive` was last looked at.
    is_stale: bool,
}

impl VanishWatch {
    /// Watches nothing yet. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    ///
    /// [`WatchError`] where the limit of inotify instances is reached.
    pub fn new(hierarchy: &Hierarchy) -> Result<Self, WatchError> {
        Ok(Self {
            watches: Watches::new()?,
            mount_point: hierarchy.mount_point().to_owned(),
            alive: BTreeMap::new(),
            is_stale: true,
        })
    }

    /// Watches a cgroup too. One that is gone already is reported by the next [`vanished`](Self::vanished).
    /// The top of the mount never vanishes.
    ///
    /// # Errors
    ///
    /// [`WatchError`] where the limit of watches is reached.
    pub fn add(&mut self, cgroup: &Cgroup) -> Result<(), WatchError> {
        if cgroup.is_root() {
            return Ok(());
        }
        let below = cgroup.path().strip_prefix("/").unwrap_or(cgroup.path());
        let path = self.mount_point.join(below);
        if let Some(parent) = path.parent() {
            self.watches.add(parent)?;
        }
        self.alive.insert(cgroup.id(), path);
        self.is_stale = true;
        Ok(())
    }

    /// Watches a cgroup no more.
    pub fn forget(&mut self, cgroup: &Cgroup) {
        self.alive.remove(&cgroup.id());
    }

    /// Waits until at least one of the watched cgroups is gone, and returns the ids of all that are; each is
    /// told once. Where nothing is watched it never returns. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`WatchError`] if inotify fails.
    pub async fn vanished(&mut self) -> Result<Vec<u64>, WatchError> {
        loop {
            // Whoever selects over this asks again and again: thousands of directories are looked at only when
            // something changed in one of those above them.
            if !self.is_stale {
                self.watches.changed().await?;
            }
            self.is_stale = false;
            let gone: Vec<u64> = self
                .alive
                .iter()
                .filter(|(id, path)| is_gone(**id, path))
                .map(|(id, _)| *id)
                .collect();
            if !gone.is_empty() {
                self.alive.retain(|id, _| !gone.contains(id));
                return Ok(gone);
            }
        }
    }
}

/// Whether the path no longer means the cgroup with that id. A new one of the same name has another id. An
/// error that says nothing about existence, as EACCES, is not taken for its end.
fn is_gone(id: u64, path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(found) => found.ino() != id,
        Err(error) => matches!(
            error.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Poll};

    use super::*;
    use crate::targets::test_support::{PATIENCE, Scratch, is_root};

    fn by_path(path: &Path) -> Request {
        Request {
            name: Some("t".to_owned()),
            selector: Selector::Cgroup(path.to_owned()),
        }
    }

    /// Polls once: afterwards the future watches, and must not be done.
    async fn assert_pending(future: &mut (impl Future<Output: std::fmt::Debug> + Unpin)) {
        std::future::poll_fn(|context| match std::pin::Pin::new(&mut *future).poll(context) {
            Poll::Ready(early) => panic!("did not wait: {early:?}"),
            Poll::Pending => Poll::Ready(()),
        })
        .await;
    }

    async fn soon<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(PATIENCE, future)
            .await
            .expect("did not happen in time")
    }

    #[tokio::test]
    async fn waits_through_every_missing_level() {
        if !is_root("targets::wait::waits_through_every_missing_level") {
            return;
        }
        let scratch = Scratch::new("wait");
        let request = by_path(&scratch.path().join("a/b"));
        let mut waiting = pin!(wait_for(scratch.hierarchy(), &request, |_| {}));
        assert_pending(&mut waiting).await;
        fs::create_dir(scratch.absolute().join("a")).unwrap();
        assert_pending(&mut waiting).await;
        fs::create_dir(scratch.absolute().join("a/b")).unwrap();
        let found = soon(waiting).await.unwrap();
        assert_eq!(found.cgroups[0].path(), scratch.path().join("a/b"));
    }

    #[tokio::test]
    async fn parent_that_is_removed_and_made_again_is_followed() {
        if !is_root("targets::wait::parent_that_is_removed_and_made_again_is_followed") {
            return;
        }
        let scratch = Scratch::new("wait-again");
        let parent = scratch.absolute().join("a");
        fs::create_dir(&parent).unwrap();
        // An absolute path is waited for as well.
        let request = by_path(&parent.join("b"));
        let mut waiting = pin!(wait_for(scratch.hierarchy(), &request, |_| {}));
        assert_pending(&mut waiting).await;
        fs::remove_dir(&parent).unwrap();
        assert_pending(&mut waiting).await;
        fs::create_dir(&parent).unwrap();
        fs::create_dir(parent.join("b")).unwrap();
        assert_eq!(
            soon(waiting).await.unwrap().cgroups[0].path(),
            scratch.path().join("a/b")
        );
    }

    #[tokio::test]
    async fn what_waiting_cannot_mend_is_an_error_at_once() {
        let hierarchy = Hierarchy::find().unwrap();
        let pid = Request {
            name: Some("t".to_owned()),
            selector: Selector::Pid(u32::MAX),
        };
        let error = soon(wait_for(&hierarchy, &pid, |_| {})).await.unwrap_err();
        assert!(matches!(error, WaitError::Pid { .. }), "{error}");
        assert!(error.hint().is_some());
        let file = hierarchy.mount_point().join("cgroup.procs");
        let error = soon(wait_for(&hierarchy, &by_path(&file), |_| {}))
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                WaitError::Resolve(ResolveError::Cgroup {
                    source: CgroupError::NotDirectory { .. },
                    ..
                })
            ),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn vanishing_is_noticed_once_and_only_of_those_that_do() {
        if !is_root("targets::wait::vanishing_is_noticed_once_and_only_of_those_that_do") {
            return;
        }
        let scratch = Scratch::new("vanish");
        let (goes, stays) = (scratch.child("goes"), scratch.child("stays"));
        let mut watch = VanishWatch::new(scratch.hierarchy()).unwrap();
        watch.add(&goes).unwrap();
        watch.add(&stays).unwrap();
        {
            let mut vanished = pin!(watch.vanished());
            assert_pending(&mut vanished).await;
            assert!(!goes.is_gone());
            fs::remove_dir(scratch.absolute().join("goes")).unwrap();
            assert_eq!(soon(vanished).await.unwrap(), [goes.id()]);
        }
        assert!(goes.is_gone() && !stays.is_gone());
        assert_pending(&mut pin!(watch.vanished())).await;
    }

    #[tokio::test]
    async fn new_cgroup_of_the_same_name_does_not_hide_that_the_old_one_went() {
        if !is_root("targets::wait::new_cgroup_of_the_same_name_does_not_hide_that_the_old_one_went") {
            return;
        }
        let scratch = Scratch::new("reborn");
        let old = scratch.child("x");
        let mut watch = VanishWatch::new(scratch.hierarchy()).unwrap();
        watch.add(&old).unwrap();
        fs::remove_dir(scratch.absolute().join("x")).unwrap();
        let new = scratch.child("x");
        assert_ne!(old.id(), new.id());
        assert_eq!(soon(watch.vanished()).await.unwrap(), [old.id()]);
        assert!(old.is_gone() && !new.is_gone());
    }
}
