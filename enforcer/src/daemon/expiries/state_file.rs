//! The state file: when each rule with a duration was first loaded. Knows no clock and no rule.
//!
//! What decides how long rules live must be nobody's to change but whose program this is: a directory that others can
//! write to is refused. A file that is no state is put aside, and another begun, so that lives begin again once and not
//! at every start.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Now, first_load};

/// The state file's name.
const FILE: &str = "expiries.json";

/// The longest state file that is read, in bytes: some 100,000 rules.
const MAX_BYTES: u64 = 16 << 20;

/// How long after its end a rule is remembered: who takes a file out of a drawer after that begins again.
const REMEMBERED: Duration = Duration::from_secs(400 * 24 * 3600);

/// Permission bits by which others than the owner may write.
const OTHERS_WRITE: u32 = 0o022;

/// A state file that cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// It, or its directory, cannot be read or written. Durations count from this start, and from the next one again.
    #[error("{attempt} {}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others could change what is in it. Nothing was read or written: as above.
    #[error("{} is not safe to keep state in: {why}", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// Who else may write there.
        why: String,
    },
    /// It was not what enforcer writes, and another one was begun: durations count from this start, and only from this
    /// one.
    #[error("{} was damaged; it is kept as {}, and a new one is begun", path.display(), kept.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where what was in it is now.
        kept: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
}

impl StateError {
    /// A way out, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => {
                Some("`--state-dir` names a directory of enforcer's own that can be written".to_owned())
            }
            Self::Unsafe { path, .. } => Some(format!(
                "`chown root {0} && chmod 0700 {0}`, or name a directory of enforcer's own with `--state-dir`",
                path.display()
            )),
            Self::Damaged { .. } => None,
        }
    }
}

/// What the state file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    version: u32,
    /// By hash, in hexadecimal.
    rules: BTreeMap<String, FirstLoad>,
}

/// When a rule was first loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FirstLoad {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub(super) unix_secs: u64,
    /// Which boot it was in: the wall clock may be set in between, the boot's own clock cannot.
    pub(super) boot_id: String,
    /// Nanoseconds on CLOCK_BOOTTIME, of that boot.
    pub(super) boot_ns: u64,
    /// How long the rule lives.
    pub(super) lives_secs: u64,
}

/// What is remembered, by hash, and what was wrong with the file that is now put aside.
type Remembered = (BTreeMap<String, FirstLoad>, Option<StateError>);

/// Reads the state file, adds what is new, and forgets what ended long ago. Others wait meanwhile.
pub(super) fn remember(
    directory: &Path,
    wanted: &[(String, Duration)],
    now: &Now,
) -> Result<Remembered, StateError> {
    let failed = |attempt: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| StateError::Io {
            attempt,
            path,
            source,
        }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed("cannot make the directory", directory))?;
    let unsafe_because = why_unsafe(directory, rustix::process::geteuid().as_raw())
        .map_err(failed("cannot look at", directory))?;
    if let Some(why) = unsafe_because {
        let path = directory.to_owned();
        return Err(StateError::Unsafe { path, why });
    }
    let path = directory.join(FILE);
    // The file itself is replaced, so it cannot carry the lock.
    let lock_path = directory.join("expiries.lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&lock_path)
        .map_err(failed("cannot open", &lock_path))?;
    lock.lock().map_err(failed("cannot lock", &lock_path))?;
    let (mut state, damaged) = match read(&path).map_err(failed("cannot read", &path))? {
        Ok(state) => (state, None),
        Err(source) => (State::default(), Some(put_aside(path.clone(), source)?)),
    };
    let before = state.rules.len();
    let long_ago = now.unix_secs().saturating_sub(REMEMBERED.as_secs());
    state.rules.retain(|hash, first| {
        let is_wanted = wanted.iter().any(|(wanted, _)| wanted == hash);
        is_wanted || first.unix_secs.saturating_add(first.lives_secs) >= long_ago
    });
    let mut changed = state.rules.len() != before;
    for (hash, life) in wanted {
        state.rules.entry(hash.clone()).or_insert_with(|| {
            changed = true;
            first_load(now, *life)
        });
    }
    if changed {
        state.version = 1;
        write(&path, &state).map_err(failed("cannot write", &path))?;
    }
    Ok((state.rules, damaged))
}

/// Who else than that user, or root, may write to the directory.
fn why_unsafe(directory: &Path, user: u32) -> io::Result<Option<String>> {
    let found = fs::metadata(directory)?;
    Ok(if found.uid() != user && found.uid() != 0 {
        Some(format!("it belongs to user {}", found.uid()))
    } else if found.mode() & OTHERS_WRITE != 0 {
        Some(format!(
            "its mode {:04o} lets others than its owner write",
            found.mode() & 0o7777
        ))
    } else {
        None
    })
}

/// The state; within, why there is none in the file.
fn read(path: &Path) -> io::Result<io::Result<State>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(State::default())),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    Ok(if text.len() as u64 > MAX_BYTES {
        Err(io::Error::other(format!("it is longer than {MAX_BYTES} octets")))
    } else {
        serde_json::from_slice(&text).map_err(io::Error::from)
    })
}

/// Gives a damaged file another name. Of several, the last one is kept.
fn put_aside(path: PathBuf, source: io::Error) -> Result<StateError, StateError> {
    let kept = path.with_extension("json.damaged");
    match fs::rename(&path, &kept) {
        Ok(()) => Ok(StateError::Damaged { path, kept, source }),
        Err(source) => Err(StateError::Io {
            attempt: "cannot put aside the damaged",
            path,
            source,
        }),
    }
}

/// Whoever reads the file finds the old one or the new one, also after a crash.
fn write(path: &Path, state: &State) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&new)?;
    serde_json::to_writer_pretty(&mut file, state)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::{
        super::{
            Expiries, deadline,
            tests::{now, rule},
        },
        *,
    };
    use crate::targets::test_support;

    #[test]
    fn a_life_begins_at_the_first_load_and_no_later_one() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = [("a".to_owned(), Duration::from_secs(10))];
        let at_first = now(1000, 5_000_000_000, "one");
        let known = remember(folder.path(), &wanted, &at_first).unwrap().0;
        let again = remember(folder.path(), &wanted, &now(1004, 9_000_000_000, "one"))
            .unwrap()
            .0;
        assert_eq!(known, again);
        let life = Duration::from_secs(10);
        assert_eq!(
            deadline(&again["a"], life, &now(1004, 9_000_000_000, "one")),
            15_000_000_000
        );
        // The wall clock was set; this boot's clock was not.
        assert_eq!(
            deadline(&again["a"], life, &now(99, 9_000_000_000, "one")),
            15_000_000_000
        );
        // Another boot knows the wall clock only: 6 s are left, and later none.
        assert_eq!(
            deadline(&again["a"], life, &now(1004, 2_000_000_000, "two")),
            8_000_000_000
        );
        assert_eq!(deadline(&again["a"], life, &now(1011, 500_000_000, "two")), 1);
    }

    #[test]
    fn what_ended_long_ago_is_forgotten_unless_it_is_still_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let life = Duration::from_secs(10);
        let both = [("old".to_owned(), life), ("kept".to_owned(), life)];
        remember(folder.path(), &both, &now(1000, 1, "one")).unwrap();
        let later = now(1011 + REMEMBERED.as_secs(), 1, "two");
        let (known, _) = remember(folder.path(), &both[1..], &later).unwrap();
        assert_eq!(known.keys().collect::<Vec<_>>(), ["kept"]);
    }

    #[test]
    fn a_damaged_file_is_kept_and_lives_begin_again_once() {
        let too_long = vec![b' '; MAX_BYTES as usize + 1];
        for damage in [b"{ \"version\": 1, \"rul".as_slice(), &too_long, b"", b"\xff"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(FILE);
            fs::write(&path, damage).unwrap();
            let wanted = [("a".to_owned(), Duration::from_secs(10))];
            let (first, error) = remember(folder.path(), &wanted, &now(1000, 5, "one")).unwrap();
            let error = error.unwrap();
            assert!(
                error.to_string().contains("was damaged; it is kept as"),
                "{error}"
            );
            let kept = folder.path().join("expiries.json.damaged");
            assert_eq!(fs::read(kept).unwrap(), damage);
            let (second, error) = remember(folder.path(), &wanted, &now(1004, 9, "one")).unwrap();
            assert!(error.is_none(), "{error:?}");
            assert_eq!(first, second);
        }
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (mode, is_safe) in [
            (0o700, true),
            (0o755, true),
            (0o770, false),
            (0o702, false),
            (0o1777, false),
        ] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            let (expiries, error) = Expiries::load(&[rule("a", 1, 3)], folder.path());
            assert_eq!(expiries.durations.len(), 1);
            assert_eq!(error.is_none(), is_safe, "{mode:o}: {error:?}");
            assert_eq!(folder.path().join(FILE).exists(), is_safe, "{mode:o}");
            if let Some(error) = error {
                assert_eq!(
                    error.to_string(),
                    format!(
                        "{} is not safe to keep state in: its mode {mode:04o} lets others than its owner write",
                        folder.path().display()
                    )
                );
                assert!(error.hint().unwrap().contains("--state-dir"));
            }
            let _not_there = fs::remove_file(folder.path().join(FILE));
        }
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        const NAME: &str = "daemon::expiries::state_file::tests::a_directory_of_somebody_else_is_refused";
        let folder = tempfile::tempdir().unwrap();
        let own = fs::metadata(folder.path()).unwrap().uid();
        assert_eq!(why_unsafe(folder.path(), own).unwrap(), None);
        if !test_support::is_root(NAME) {
            return;
        }
        chown(folder.path(), Some(65_534), None).unwrap();
        assert_eq!(
            why_unsafe(folder.path(), 0).unwrap().unwrap(),
            "it belongs to user 65534"
        );
        assert_eq!(why_unsafe(folder.path(), 65_534).unwrap(), None);
        let (_, error) = Expiries::load(&[rule("a", 1, 3)], folder.path());
        assert!(matches!(error, Some(StateError::Unsafe { .. })), "{error:?}");
    }
}
