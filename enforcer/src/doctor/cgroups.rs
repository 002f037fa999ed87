//! Where this host keeps its cgroups, and which version.

use std::path::Path;

use procfs::process::Process;

use super::report::{Item, Level};
use crate::targets::{Hierarchy, HierarchyError};

const NAME: &str = "cgroup v2";

pub(super) fn examine(hierarchy: Result<&Hierarchy, &HierarchyError>) -> Vec<Item> {
    match hierarchy {
        Ok(hierarchy) => vec![mount(hierarchy), own(hierarchy)],
        Err(error) => {
            let version = match error {
                HierarchyError::V1Only { .. } => "v1 only",
                HierarchyError::NotMounted => "none",
                HierarchyError::ReadMounts(_) => "unknown",
                HierarchyError::Unreachable { .. } => "unreachable",
            };
            let item = Item::new("cgroup2", NAME, Level::Blocks, error.to_string())
                .follows("there is nothing to attach to")
                .hint(error.hint())
                .text("version", version);
            vec![item]
        }
    }
}

fn mount(hierarchy: &Hierarchy) -> Item {
    let place = hierarchy.mount_point().display().to_string();
    let item = if hierarchy.is_hybrid() {
        Item::new("cgroup2", NAME, Level::Note, format!("{place}, beside cgroup v1 (hybrid)"))
            .follows(
                "programs attach to v2 only: name cgroups as the `0::` line of /proc/PID/cgroup does; what no engine \
                 and no service manager puts into a v2 cgroup of its own is in the root, with everything else",
            )
            .text("version", "hybrid")
    } else {
        Item::new("cgroup2", NAME, Level::Ok, place.clone()).text("version", "v2")
    };
    let item = item.text("mount_point", place);
    if hierarchy.has_true_root() {
        return item;
    }
    let above = "programs above it, which can overrule enforcer's, cannot be seen; cgroups outside of it cannot be named";
    Item {
        level: item.level.max(Level::Note),
        state: format!("{}, shows one cgroup of a larger tree as its top", item.state),
        follows: Some(match item.follows {
            Some(already) => format!("{already}; {above}"),
            None => above.to_owned(),
        }),
        ..item
    }
}

fn own(hierarchy: &Hierarchy) -> Item {
    const NAME: &str = "this process's cgroup";
    let found = Process::myself().and_then(|process| process.cgroups());
    let own = match &found {
        Ok(cgroups) => cgroups.0.iter().find(|cgroup| cgroup.hierarchy == 0),
        Err(error) => return Item::unknown("own-cgroup", NAME, error),
    };
    let Some(own) = own else {
        return Item::unknown("own-cgroup", NAME, "/proc/self/cgroup has no line `0::`");
    };
    let located = hierarchy.locate(Path::new(&own.pathname));
    let shown = located
        .as_ref()
        .map_or_else(|| own.pathname.clone(), |path| path.display().to_string());
    let item = Item::new("own-cgroup", NAME, Level::Ok, shown);
    if located.as_deref() != Some(Path::new("/")) {
        item
    } else if hierarchy.has_true_root() {
        item.follows("the root: attaching there would govern everything on this host")
    } else {
        item.follows(
            "the top that this process sees: attaching there would govern everything in it and below it",
        )
    }
}
