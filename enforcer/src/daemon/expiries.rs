//! When rules with an expiry end, on the clock that the programs read.
//!
//! A time of the wall clock is converted anew whenever that clock is set. A duration counts from the rule's first load,
//! which is remembered in a state file under a hash of what the rule says: neither a restart nor a reload begins it
//! again, and a rule that says something else is another rule.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::{
    events::clock,
    policy::rule::{Expires, Rule, RuleGroups},
};

/// Where the state file is, unless said otherwise.
pub const STATE_DIRECTORY: &str = "/var/lib/enforcer";

/// The state file's name.
const FILE: &str = "expiries.json";

/// The longest state file that is read, in bytes: some 100,000 rules.
const MAX_BYTES: u64 = 16 << 20;

/// How long after its end a rule is remembered: who takes a file out of a drawer after that begins again.
const REMEMBERED: Duration = Duration::from_secs(400 * 24 * 3600);

/// A state file that cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// It, or its directory, cannot be read or written.
    #[error("{attempt} {}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// It is not what enforcer writes.
    #[error("{} is damaged; it is kept as {}", path.display(), kept.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it is now.
        kept: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
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
struct FirstLoad {
    /// Seconds since 1970-01-01T00:00:00Z.
    unix_secs: u64,
    /// Which boot it was in: the wall clock may be set in between, the boot's own clock cannot.
    boot_id: String,
    /// Nanoseconds on CLOCK_BOOTTIME, of that boot.
    boot_ns: u64,
    /// How long the rule lives.
    lives_secs: u64,
}

/// Both clocks, at one moment.
#[derive(Clone, Debug)]
struct Now {
    wall: SystemTime,
    boot_ns: u64,
    boot_id: String,
}

/// Which boot this is (`Documentation/admin-guide/sysctl/kernel.rst`, random).
fn boot_id() -> String {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot_id.trim().to_owned()
}

impl Now {
    fn read(boot_id: String) -> Self {
        Self {
            wall: SystemTime::now(),
            boot_ns: clock::boot_now_ns(),
            boot_id,
        }
    }

    fn unix_secs(&self) -> u64 {
        self.wall
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }

    /// That time of the wall clock on CLOCK_BOOTTIME; what lies before this boot is its first nanosecond.
    fn boot_ns_of(&self, wall: SystemTime) -> u64 {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        match wall.duration_since(self.wall) {
            Ok(ahead) => self.boot_ns.saturating_add(nanos(ahead)),
            Err(past) => self.boot_ns.saturating_sub(nanos(past.duration())).max(1),
        }
    }
}

/// The rules that end, with what is known of their beginnings.
#[derive(Clone, Debug, Default)]
pub struct Expiries {
    times: HashMap<u32, SystemTime>,
    durations: HashMap<u32, (FirstLoad, Duration)>,
    /// Read where there are durations.
    boot_id: String,
    /// As the clocks stood when they were last read: what is computed anew is never quite the same.
    deadlines_boot_ns: HashMap<u32, u64>,
}

impl Expiries {
    /// Looks up when each rule with a duration was first loaded, and remembers that of those that never were. Nothing is
    /// read or written if there is none. Where the state file cannot be used, durations count from now, and the second
    /// value says so.
    #[must_use]
    pub fn load(rules: &[Rule], directory: &Path) -> (Self, Option<StateError>) {
        let mut expiries = Self::default();
        let mut lives = Vec::new();
        for (index, rule) in (0..).zip(rules).filter(|(_, rule)| rule.enabled) {
            match rule.expires {
                None => {}
                Some(Expires::At(time)) => {
                    expiries.times.insert(index, time);
                }
                Some(Expires::After(duration)) => lives.push((index, hash(rule), duration)),
            }
        }
        if lives.is_empty() {
            expiries.read_clocks();
            return (expiries, None);
        }
        let now = Now::read(boot_id());
        expiries.boot_id.clone_from(&now.boot_id);
        let wanted: Vec<(String, Duration)> = lives
            .iter()
            .map(|(_, hash, life)| (hash.clone(), *life))
            .collect();
        let (known, error) = match remember(directory, &wanted, &now) {
            Ok(known) => (known, None),
            Err(error) => (BTreeMap::new(), Some(error)),
        };
        for (index, hash, duration) in lives {
            let first = known
                .get(&hash)
                .cloned()
                .unwrap_or_else(|| first_load(&now, duration));
            expiries.durations.insert(index, (first, duration));
        }
        expiries.read_clocks();
        (expiries, error)
    }

    /// Whether any rule ends.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.times.is_empty() && self.durations.is_empty()
    }

    /// When each rule ends, by its index: nanoseconds on CLOCK_BOOTTIME, as the wall clock stood when the clocks were
    /// last read.
    #[must_use]
    pub const fn deadlines_boot_ns(&self) -> &HashMap<u32, u64> {
        &self.deadlines_boot_ns
    }

    /// Reads the clocks again: the wall clock was set.
    pub fn read_clocks(&mut self) {
        self.deadlines_boot_ns = self.deadlines(&Now::read(self.boot_id.clone()));
    }

    fn deadlines(&self, now: &Now) -> HashMap<u32, u64> {
        let times = self
            .times
            .iter()
            .map(|(index, time)| (*index, now.boot_ns_of(*time)));
        let durations = self
            .durations
            .iter()
            .map(|(index, (first, life))| (*index, deadline(first, *life, now)));
        times.chain(durations).collect()
    }
}

/// When a life that began then ends.
fn deadline(first: &FirstLoad, life: Duration, now: &Now) -> u64 {
    if first.boot_id == now.boot_id {
        let life = u64::try_from(life.as_nanos()).unwrap_or(u64::MAX);
        return first.boot_ns.saturating_add(life).max(1);
    }
    let began = UNIX_EPOCH + Duration::from_secs(first.unix_secs);
    let end = began
        .checked_add(life)
        .map_or(u64::MAX, |end| now.boot_ns_of(end));
    // The clock may have been wrong at the first load; nothing has more left than its whole life.
    let life = u64::try_from(life.as_nanos()).unwrap_or(u64::MAX);
    end.min(now.boot_ns.saturating_add(life))
}

fn first_load(now: &Now, life: Duration) -> FirstLoad {
    FirstLoad {
        unix_secs: now.unix_secs(),
        boot_id: now.boot_id.clone(),
        boot_ns: now.boot_ns,
        lives_secs: life.as_secs(),
    }
}

/// Reads the state file, adds what is new, and forgets what ended long ago. Others wait meanwhile.
fn remember(
    directory: &Path,
    wanted: &[(String, Duration)],
    now: &Now,
) -> Result<BTreeMap<String, FirstLoad>, StateError> {
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
    let mut state = read(&path)?;
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
    Ok(state.rules)
}

fn read(path: &Path) -> Result<State, StateError> {
    let failed = |source| StateError::Io {
        attempt: "cannot read",
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(error) => return Err(failed(error)),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|source| {
        let kept = path.with_extension("json.damaged");
        let kept = match fs::rename(path, &kept) {
            Ok(()) => kept,
            Err(_) => path.to_owned(),
        };
        StateError::Damaged {
            path: path.to_owned(),
            kept,
            source,
        }
    })
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

/// What a rule says, without where it stands and why: its name too, if it has one.
fn hash(rule: &Rule) -> String {
    let groups = match &rule.groups {
        RuleGroups::All => vec!["*".to_owned()],
        RuleGroups::Named(names) => names.clone(),
    };
    let mut text = Sha256::new();
    let mut add = |part: &str| {
        // Lengths keep parts apart.
        text.update((part.len() as u64).to_be_bytes());
        text.update(part.as_bytes());
    };
    add(if rule.is_nameless() { "" } else { &rule.label });
    groups.iter().for_each(|group| add(group));
    rule.prefixes.iter().for_each(|prefix| add(&prefix.to_string()));
    add(&rule
        .host
        .as_ref()
        .map(|host| host.name.to_string())
        .unwrap_or_default());
    add(&rule.action.to_string());
    add(rule.errno.name);
    add(&format!(
        "{:?} {:?} {:?} {:?}",
        rule.ports, rule.proto, rule.uids, rule.mode
    ));
    let without_twin = rule.host.as_ref().map(|host| host.without_twin);
    add(&format!(
        "{without_twin:?} {:?} {}",
        rule.resolve, rule.allow_private
    ));
    add(&format!("{:?} {}", rule.expires, rule.transparent));
    if let Some(rollout) = &rule.rollout {
        add(&format!(
            "{} {:?} {:?}",
            rollout.percent, rollout.by, rollout.canary
        ));
    }
    text.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rule::{Origin, RuleAction};

    fn now(unix_secs: u64, boot_ns: u64, boot_id: &str) -> Now {
        Now {
            wall: UNIX_EPOCH + Duration::from_secs(unix_secs),
            boot_ns,
            boot_id: boot_id.to_owned(),
        }
    }

    fn rule(name: &str, line: usize, life_secs: u64) -> Rule {
        let origin = Origin::File {
            path: "p.toml".into(),
            line,
            column: 1,
        };
        let label = if name.is_empty() {
            origin.to_string()
        } else {
            name.to_owned()
        };
        let prefixes = vec!["2001:db8::/32".parse().unwrap()];
        Rule {
            expires: Some(Expires::After(Duration::from_secs(life_secs))),
            ..Rule::plain(label, origin, prefixes, RuleAction::Reject)
        }
    }

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("enforcer-expiries-{}-{name}", std::process::id()));
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_life_begins_at_the_first_load_and_no_later_one() {
        let scratch = Scratch::new("first");
        let wanted = [("a".to_owned(), Duration::from_secs(10))];
        let at_first = now(1000, 5_000_000_000, "one");
        let known = remember(&scratch.0, &wanted, &at_first).unwrap();
        let again = remember(&scratch.0, &wanted, &now(1004, 9_000_000_000, "one")).unwrap();
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
        let scratch = Scratch::new("forgotten");
        let life = Duration::from_secs(10);
        let both = [("old".to_owned(), life), ("kept".to_owned(), life)];
        remember(&scratch.0, &both, &now(1000, 1, "one")).unwrap();
        let later = now(1011 + REMEMBERED.as_secs(), 1, "two");
        let known = remember(&scratch.0, &both[1..], &later).unwrap();
        assert_eq!(known.keys().collect::<Vec<_>>(), ["kept"]);
    }

    #[test]
    fn a_damaged_file_is_kept_and_said_to_be() {
        let scratch = Scratch::new("damaged");
        fs::create_dir_all(&scratch.0).unwrap();
        fs::write(scratch.0.join(FILE), "{ \"version\": 1, \"rul").unwrap();
        let (expiries, error) = Expiries::load(&[rule("a", 1, 3)], &scratch.0);
        assert!(error.unwrap().to_string().contains("is damaged; it is kept as"));
        assert_eq!(expiries.durations.len(), 1);
        assert!(scratch.0.join("expiries.json.damaged").is_file());
        assert!(Expiries::load(&[rule("a", 1, 3)], &scratch.0).1.is_none());
    }

    #[test]
    fn a_rule_is_known_by_what_it_says_and_not_by_where_it_stands() {
        assert_eq!(hash(&rule("", 3, 5)), hash(&rule("", 9, 5)));
        assert_ne!(hash(&rule("", 3, 5)), hash(&rule("", 3, 6)));
        assert_ne!(hash(&rule("a", 3, 5)), hash(&rule("b", 3, 5)));
        let why = Rule {
            reason: Some("because".to_owned()),
            ..rule("a", 3, 5)
        };
        assert_eq!(hash(&why), hash(&rule("a", 3, 5)));
    }

    #[test]
    fn without_durations_there_is_no_file() {
        let scratch = Scratch::new("none");
        let at = Rule {
            expires: Some(Expires::At(UNIX_EPOCH + Duration::from_secs(1))),
            ..rule("a", 1, 3)
        };
        let (expiries, error) = Expiries::load(&[at], &scratch.0);
        assert!(error.is_none() && !scratch.0.exists());
        assert_eq!(expiries.deadlines(&now(1, 7_000, "one"))[&0], 7_000);
        assert_eq!(expiries.deadlines(&now(0, 7_000, "one"))[&0], 1_000_007_000);
    }
}
