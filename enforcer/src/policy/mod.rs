//! From the text a person writes to the policy the kernel reads.
//!
//! A policy file becomes a document (what is written, key by key), then together with the command line's
//! [`argument`]s a [`Policy`] (every check passed), then for the groups a target uses a
//! [`CompiledPolicy`](compiled::CompiledPolicy) (what the kernel's maps hold). Every problem of all of them is
//! reported at once, as [`diagnostic`]s.
//!
//! This room does no I/O but reading policy files and the prefix lists they name, prints nothing, and knows
//! neither aya nor cgroups.

pub mod rule;

pub mod diagnostic;

mod source;
mod value;

mod destination;

mod when;

mod document;
mod parse;

pub mod argument;

mod prefix_list;

mod check_action;

mod check_limits;

mod check_rule;

mod udp_advice;

mod advice;

mod check;

pub mod compiled;

pub mod tree;

mod connects;

pub mod live;

mod lists;

mod review;

pub mod compile;

pub mod overlay;

pub mod explain;

use std::{
    collections::BTreeSet,
    fmt,
    io::Read,
    path::{Path, PathBuf},
};

use enforcer_common::{decide::Mode, errno::Errno};

use self::{
    argument::RuleArgument,
    diagnostic::{Diagnostic, Place, PolicyError},
    rule::{DEFAULT_GROUP, GroupName, Origin, Rule, RuleGroups},
    source::Source,
};

/// The longest policy file, in bytes. Longer lists of prefixes belong in a `prefixes_file`, which costs a
/// tenth of the memory and time.
pub const MAX_POLICY_BYTES: u64 = 32 << 20;

/// The longest prefixes file, in bytes.
pub const MAX_PREFIXES_FILE_BYTES: u64 = 256 << 20;

/// The most errors, and the most warnings, that are described one by one; the rest are counted.
pub const MAX_DIAGNOSTICS: usize = 100;

/// A policy after every check: what a file and the command line say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Mode of every target that is not told otherwise.
    pub mode: Mode,
    /// Errno of every rule that names none; already filled in where it applies.
    pub errno: Errno,
    /// Workloads the file names, in its order. Empty without a file.
    pub targets: Vec<TargetSpec>,
    /// Rules: the file's in its order, then the command line's. A rule's identifier, in clauses and records,
    /// is its index here.
    pub rules: Vec<Rule>,
}

/// A workload that a policy applies to, as named; not yet looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    /// What events and summaries call it. Unique within a policy.
    pub name: String,
    /// How to find it.
    pub selector: Selector,
    /// Groups whose rules apply to it: at least one, sorted, without duplicates.
    pub groups: Vec<GroupName>,
    /// Where it was written.
    pub origin: Origin,
}

/// How to find a target's cgroup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Selector {
    /// The cgroup at that path; absolute, counted from the cgroup v2 mount. `/` is the root cgroup.
    Cgroup(PathBuf),
    /// The cgroup that process is in.
    Pid(u32),
    /// The cgroup of the container that an engine of this machine knows by that name or identifier.
    Container(String),
}

impl Selector {
    /// Whether this asks for the root cgroup by its name, `/`. No other way of meaning it is accepted.
    #[must_use]
    pub fn names_root(&self) -> bool {
        matches!(self, Self::Cgroup(path) if path == Path::new("/"))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Self::Pid(pid) => write!(f, "pid {pid}"),
            Self::Container(name) => write!(f, "container {name}"),
        }
    }
}

/// A policy file that was read. Whoever has something to say about a rule besides what [`check`](Self::check) says
/// can show where it was written.
pub struct PolicyFile {
    source: Source,
}

impl PolicyFile {
    /// Reads a file if it is a regular one.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] if it cannot be read or is no text.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        Source::read(path).map(|source| Self { source })
    }

    /// Reads a stream such as standard input: as much of it as a policy file may be long. `name` is what diagnostics
    /// call it.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn from_reader(name: &Path, reader: impl Read) -> Result<Self, PolicyError> {
        Source::read_from(name, reader).map(|source| Self { source })
    }

    /// As [`Policy::load`], of this file alone.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] with every problem, if one of them is an error.
    pub fn check(&self) -> Result<(Policy, Vec<Diagnostic>), PolicyError> {
        check::check(Some(&self.source), Vec::new())
    }

    /// The place that an origin in this file stands for, with its line.
    #[must_use]
    pub fn place(&self, origin: &Origin) -> Place {
        check::place_of(origin, Some(&self.source))
    }
}

impl Policy {
    /// Reads and checks a policy file (if any) and the command line's rules, together. Beside a good policy
    /// come the warnings, in the order of the file.
    ///
    /// A file is only read if it is a regular one, so this never blocks on a fifo or wakes a device.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] with every problem of both, if one of them is an error.
    pub fn load(
        file: Option<&Path>,
        arguments: Vec<RuleArgument>,
    ) -> Result<(Self, Vec<Diagnostic>), PolicyError> {
        match file {
            None => check::check(None, arguments),
            Some(path) => {
                let source = Source::read(path)?;
                check::check(Some(&source), arguments)
            }
        }
    }

    /// As [`load`](Self::load), of a text that is at hand. `path` is what diagnostics call it and where
    /// relative `prefixes_file`s are looked for.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] with every problem, if one of them is an error.
    pub fn from_text(
        path: &Path,
        text: String,
        arguments: Vec<RuleArgument>,
    ) -> Result<(Self, Vec<Diagnostic>), PolicyError> {
        let source = Source::new(path.to_owned(), text)?;
        check::check(Some(&source), arguments)
    }

    /// Every set of groups that a target uses, and each group that none does: it may be used yet, by a target of
    /// the command line.
    #[must_use]
    pub fn group_sets(&self) -> BTreeSet<Vec<GroupName>> {
        let mut sets: BTreeSet<_> = self.targets.iter().map(|target| target.groups.clone()).collect();
        let used: BTreeSet<GroupName> = sets.iter().flatten().cloned().collect();
        for rule in &self.rules {
            if let RuleGroups::Named(names) = &rule.groups {
                let unused = names.iter().filter(|name| !used.contains(*name));
                sets.extend(unused.map(|name| vec![name.clone()]));
            }
        }
        if sets.is_empty() {
            sets.insert(vec![DEFAULT_GROUP.to_owned()]);
        }
        sets
    }
}

#[cfg(test)]
mod tests;
