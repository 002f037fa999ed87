//! Results in files, a JSON file for each group of rows, so that groups can be measured one at a time.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{machine::Machine, report::Outcome};

/// What a group came to, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) group: String,
    /// What the group is about, for people.
    pub(crate) what: String,
    pub(crate) quick: bool,
    pub(crate) machine: Machine,
    pub(crate) outcome: Outcome,
}

impl Results {
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(format!("{}.json", self.group));
        let text = serde_json::to_string_pretty(self).context("write results as JSON")?;
        fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))
    }
}

/// Of those groups, what was measured on this machine in the same manner, now or before.
pub(crate) fn read_all(
    directory: &Path,
    machine: &Machine,
    quick: bool,
    groups: &[&str],
) -> Result<Vec<Results>> {
    let mut all = Vec::new();
    for group in groups {
        let path = directory.join(format!("{group}.json"));
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let results: Results =
            serde_json::from_str(&text).with_context(|| format!("understand {}", path.display()))?;
        if results.machine == *machine && results.quick == quick {
            all.push(results);
        }
    }
    Ok(all)
}
