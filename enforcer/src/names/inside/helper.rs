//! What the helper does: enter, give up every privilege, read, ask, say, end.

use std::{error::Error as _, fs, io, io::Write, os::fd::AsFd as _, path::PathBuf, sync::Arc};

use rustix::{
    process::{
        DumpableBehavior, Gid, Signal, Uid, geteuid, getppid, set_dumpable_behavior,
        set_parent_process_death_signal,
    },
    thread::{
        CapabilitySet, CapabilitySets, LinkNameSpaceType, capabilities, clear_ambient_capability_set,
        move_into_link_name_space, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    super::{
        ask::{Asker, Round},
        resolv::ResolvConf,
    },
    DEADLINE, Job, file,
    message::Message,
    process::{self, Place, PlaceError},
};

/// The user and the group `nobody`.
const NOBODY: u32 = 65_534;

/// Names asked for at once. With [`ask::DEADLINE`](super::super::ask::DEADLINE) for each, all are done in time.
const AT_ONCE: usize = 32;

/// Why no question can be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelperError {
    #[error("the process that wanted to know is gone")]
    Orphan,
    #[error("cannot arrange to end with the process that wants to know")]
    DieWithParent(#[source] io::Error),
    #[error("cannot enter a target with several threads")]
    Threads,
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("cannot enter the network namespace of process {pid}")]
    Enter {
        pid: u32,
        #[source]
        source: io::Error,
    },
    #[error("cannot give up privileges")]
    Privileges(#[source] io::Error),
    /// What root owns stays open to user 0, also without a capability.
    #[error(
        "cannot become nobody: user 0 without CAP_SETUID and CAP_SETGID stays the owner of what root owns"
    )]
    StaysRoot,
    #[error("cannot read {} of process {pid}", file::RESOLV_CONF)]
    Read {
        pid: u32,
        #[source]
        source: io::Error,
    },
    #[error("cannot set up a resolver: {0}")]
    Resolver(String),
}

/// Does the job and writes what comes of it, a line a question. Nothing is left of this process's privileges
/// afterwards, so it should end. Needs a runtime that has one thread.
///
/// # Errors
///
/// When it cannot write: then nobody reads any more.
pub async fn answer(job: Job, mut out: impl Write) -> io::Result<()> {
    match enter(&job) {
        Ok(asker) => tokio::time::timeout(DEADLINE, ask_all(asker, job, &mut out))
            .await
            // What is not said by then, nobody waits for.
            .unwrap_or(Ok(())),
        Err(error) => {
            let cause = error
                .source()
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            say(
                &mut out,
                &Message::Unable {
                    why: format!("{error}{cause}"),
                },
            )
        }
    }
}

/// Enters the target and comes back with its resolver, and without privileges.
fn enter(job: &Job) -> Result<Asker, HelperError> {
    let (place, ()) = enter_target(job.parent, &job.cgroups, None, || ())?;
    // With the rights of nobody: links may lead to what only root may read, in /proc among others.
    let text = place
        .read(file::RESOLV_CONF)
        .map_err(|source| HelperError::Read {
            pid: place.pid,
            source,
        })?;
    Asker::new(ResolvConf::parse(&text)).map_err(HelperError::Resolver)
}

/// Enters the network namespace of a process of the target (the one with that number, or the first), does there what
/// still needs privileges, and gives all of them up.
pub(crate) fn enter_target<T>(
    parent: u32,
    cgroups: &[PathBuf],
    process: Option<u32>,
    privileged: impl FnOnce() -> T,
) -> Result<(Place, T), HelperError> {
    die_with(parent)?;
    undisturbed()?;
    // Namespaces and privileges are a thread's: another one would keep them.
    let threads = fs::read_dir("/proc/self/task").map(Iterator::count);
    if !matches!(threads, Ok(1)) {
        return Err(HelperError::Threads);
    }
    // Before anything is entered: whoever stays root reads what only root may.
    let becomes_nobody = may_become_nobody()?;
    let place = process::find(cgroups, process)?;
    let pid = place.pid;
    move_into_link_name_space(place.netns.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|error| {
        HelperError::Enter {
            pid,
            source: error.into(),
        }
    })?;
    let done = privileged();
    give_up_privileges(becomes_nobody).map_err(HelperError::Privileges)?;
    // For a process that becomes another user's, the kernel forgets both (`commit_creds`, kernel/cred.c): asked for
    // again.
    die_with(parent)?;
    undisturbed()?;
    Ok((place, done))
}

fn die_with(parent: u32) -> Result<(), HelperError> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| HelperError::DieWithParent(error.into()))?;
    // It may have died before.
    let alive = getppid().is_some_and(|pid| u32::try_from(pid.as_raw_nonzero().get()) == Ok(parent));
    if alive { Ok(()) } else { Err(HelperError::Orphan) }
}

/// Lets no other process of the same user trace this one or read its memory: in the target, that user may be anybody.
fn undisturbed() -> Result<(), HelperError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| HelperError::Privileges(error.into()))
}

/// Whether this process is root and can be nobody instead; any other user stays who they are.
fn may_become_nobody() -> Result<bool, HelperError> {
    if !geteuid().is_root() {
        return Ok(false);
    }
    let identity = CapabilitySet::SETUID | CapabilitySet::SETGID;
    let held = capabilities(None).map_err(|error| HelperError::Privileges(error.into()))?;
    if held.effective.contains(identity) {
        Ok(true)
    } else {
        Err(HelperError::StaysRoot)
    }
}

/// No capability, no way to get one, and where this was root, nobody's identity.
fn give_up_privileges(becomes_nobody: bool) -> io::Result<()> {
    set_no_new_privs(true)?;
    if becomes_nobody {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    Ok(())
}

async fn ask_all(asker: Asker, job: Job, out: &mut impl Write) -> io::Result<()> {
    let (asker, free) = (Arc::new(asker), Arc::new(Semaphore::new(AT_ONCE)));
    let mut tasks: JoinSet<(usize, Round)> = JoinSet::new();
    for (number, question) in job.questions.into_iter().enumerate() {
        let (asker, free) = (Arc::clone(&asker), Arc::clone(&free));
        tasks.spawn(async move {
            // Nobody closes it.
            let _turn = free.acquire().await;
            (number, asker.ask(&question.name, question.families).await)
        });
    }
    while let Some(done) = tasks.join_next().await {
        if let Ok((number, round)) = done {
            say(out, &Message::Answer { number, round })?;
        }
    }
    Ok(())
}

/// One line, at once: what is said is kept when the rest does not come in time.
fn say(out: &mut impl Write, message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}
