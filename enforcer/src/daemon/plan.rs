//! What is to be governed by what.

use std::sync::Arc;

use crate::{
    policy::{
        compiled::CompiledPolicy,
        rule::{GroupName, Rule},
    },
    targets::Cgroup,
};

/// One cgroup of a target.
#[derive(Clone, Debug)]
pub struct PlannedCgroup {
    /// The cgroup, open.
    pub cgroup: Arc<Cgroup>,
    /// Another planned cgroup lies above it.
    pub has_outer: bool,
    /// Another planned cgroup lies below it.
    pub has_inner: bool,
}

/// One target with the policy of its groups.
#[derive(Clone, Debug)]
pub struct PlannedTarget {
    /// What events call it.
    pub name: String,
    /// Its number, counted from 0. A target that stays keeps it; one that comes has none that is in use.
    pub number: usize,
    /// Its cgroups.
    pub cgroups: Vec<PlannedCgroup>,
    /// What governs them.
    pub policy: Arc<CompiledPolicy>,
    /// The groups it was compiled for.
    pub groups: Vec<GroupName>,
}

/// Everything that is to be governed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The targets.
    pub targets: Vec<PlannedTarget>,
    /// The rules all the policies were compiled from; rule identifiers are indices into it.
    pub rules: Arc<[Rule]>,
}
