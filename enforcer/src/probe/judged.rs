//! Whose connects are judged by programs: those of this process, whose measurements they would falsify, and those of a
//! target, which measurements from outside of it do not show.

use std::{fs::File, io, path::Path};

use serde::Serialize;

use crate::{
    kernel::attached::{AttachType, programs_at},
    targets::{Hierarchy, own_cgroup_path},
};

/// How many programs judge IPv6 connects; `None` where the kernel does not say so to this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// Those of this process: at its cgroup and above.
    pub probe: Option<usize>,
    /// Those of the target: at its cgroup and above.
    pub target: Option<usize>,
}

impl Judged {
    /// Looks, for a target at that cgroup, relative to the mount.
    #[must_use]
    pub fn look(hierarchy: Option<&Hierarchy>, target: Option<&Path>) -> Self {
        let Some(hierarchy) = hierarchy else {
            return Self::default();
        };
        let own = own_cgroup_path().ok().and_then(|path| hierarchy.locate(&path));
        Self {
            probe: own.and_then(|own| programs_above(hierarchy, &own).ok()),
            target: target.and_then(|target| programs_above(hierarchy, target).ok()),
        }
    }

    /// What a person should be told.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let programs = |count: usize| {
            if count == 1 {
                "1 program judges".to_owned()
            } else {
                format!("{count} programs judge")
            }
        };
        let mut notes = Vec::new();
        if let Some(count @ 1..) = self.probe {
            notes.push(format!(
                "{} the connects of this process (enforcer doctor lists them): what they change is in what was measured",
                programs(count)
            ));
        }
        if let Some(count @ 1..) = self.target {
            notes.push(format!(
                "{} the connects of the target; this is how they would end without",
                programs(count)
            ));
        }
        notes
    }
}

/// Programs for IPv6 connects at a cgroup and those above it.
fn programs_above(hierarchy: &Hierarchy, cgroup: &Path) -> io::Result<usize> {
    let mut count = 0;
    for ancestor in cgroup.ancestors() {
        let directory = File::open(hierarchy.absolute(ancestor))?;
        count += programs_at(&directory, AttachType::Connect6)?.programs.len();
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_judges_is_worth_a_note() {
        let judged = |probe, target| Judged { probe, target }.notes();
        assert!(judged(None, None).is_empty());
        assert!(judged(Some(0), Some(0)).is_empty());
        let notes = judged(Some(1), Some(2));
        assert!(notes[0].starts_with("1 program judges the connects of this process"));
        assert!(notes[1].starts_with("2 programs judge the connects of the target"));
    }
}
