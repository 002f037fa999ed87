//! Notes about programs of others that judge the same connects: at a target's cgroup, and at those above it.
//!
//! Nothing of them is changed, and none is a reason not to govern.

use std::{
    fs::File,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::console;
use crate::{
    kernel::attached::{self, AttachType, ProgramFacts},
    targets::{Cgroup, Hierarchy},
};

/// Says, for each cgroup that is about to be governed, which connect6 programs are there already, and for each cgroup
/// above them once. Where the kernel does not say, nothing is said: attaching will tell what is wrong.
pub(crate) fn note_programs<'cgroup>(
    hierarchy: &Hierarchy,
    cgroups: impl IntoIterator<Item = &'cgroup Cgroup>,
) {
    let mut above: Vec<PathBuf> = Vec::new();
    for cgroup in cgroups {
        for who in programs_at(cgroup) {
            console::note(format_args!(
                "cgroup {} has a program already, {who}: both judge each connect, and what either rejects is rejected",
                cgroup.path().display()
            ));
        }
        let ancestors = cgroup.path().ancestors().skip(1).map(Path::to_owned);
        above.extend(ancestors);
    }
    above.sort();
    above.dedup();
    for path in above {
        let Ok(relative) = path.strip_prefix("/") else {
            continue;
        };
        let Ok(directory) = File::open(hierarchy.mount_point().join(relative)) else {
            continue;
        };
        for who in programs_at(&directory) {
            console::note(format_args!(
                "cgroup {}, above a target, has a program, {who}: it runs after enforcer's and can overrule a reject",
                path.display()
            ));
        }
    }
}

fn programs_at(cgroup: &impl AsFd) -> Vec<String> {
    let programs = match attached::programs_at(cgroup, AttachType::Connect6) {
        Ok(attached) => attached.programs,
        Err(error) => {
            log::debug!("cannot ask which programs are attached: {error}");
            Vec::new()
        }
    };
    if programs.is_empty() {
        return Vec::new();
    }
    // Names need CAP_SYS_ADMIN, which governing does not.
    let facts = attached::loaded().unwrap_or_default();
    programs
        .into_iter()
        .map(|id| described(id, facts.get(&id)))
        .collect()
}

fn described(id: u32, facts: Option<&ProgramFacts>) -> String {
    match facts {
        Some(facts) if !facts.name.is_empty() => format!("{} (id {id})", facts.name),
        _ => format!("id {id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_named_where_the_kernel_names_it() {
        let facts = |name: &str| ProgramFacts {
            name: name.to_owned(),
            uid: None,
            loaded_at: None,
        };
        assert_eq!(described(7, None), "id 7");
        assert_eq!(described(7, Some(&facts(""))), "id 7");
        assert_eq!(described(7, Some(&facts("sd_deny"))), "sd_deny (id 7)");
    }
}
