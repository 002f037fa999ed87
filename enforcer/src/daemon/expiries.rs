//! When rules with an expiry end, on the clock that the programs read.
//!
//! A time of the wall clock is converted anew whenever that clock is set. A duration counts from the rule's first load,
//! which is remembered in a state file under a hash of what the rule says: neither a restart nor a reload begins it
//! again, and a rule that says something else is another rule.

mod state_file;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sha2::{Digest as _, Sha256};

pub use self::state_file::StateError;
use self::state_file::{FirstLoad, remember};
use crate::{
    events::clock,
    policy::rule::{Expires, Rule, RuleGroups},
};

/// Where the state file is, unless said otherwise.
pub const STATE_DIRECTORY: &str = "/var/lib/enforcer";

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
#[derive(Debug, Default)]
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
    /// value says so, and whether they do again at the next start: [`StateError`].
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
            Ok(remembered) => remembered,
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

    pub(super) fn now(unix_secs: u64, boot_ns: u64, boot_id: &str) -> Now {
        Now {
            wall: UNIX_EPOCH + Duration::from_secs(unix_secs),
            boot_ns,
            boot_id: boot_id.to_owned(),
        }
    }

    pub(super) fn rule(name: &str, line: usize, life_secs: u64) -> Rule {
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
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("state");
        let at = Rule {
            expires: Some(Expires::At(UNIX_EPOCH + Duration::from_secs(1))),
            ..rule("a", 1, 3)
        };
        let (expiries, error) = Expiries::load(&[at], &directory);
        assert!(error.is_none() && !directory.exists());
        assert_eq!(expiries.deadlines(&now(1, 7_000, "one"))[&0], 7_000);
        assert_eq!(expiries.deadlines(&now(0, 7_000, "one"))[&0], 1_000_007_000);
    }
}
