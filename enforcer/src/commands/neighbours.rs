//! Notes about programs of others that judge the same connects: at a target's cgroup, and at those above it.
//!
//! Nothing of them is changed. None of those told of here is a reason not to govern: what keeps the programs out, or
//! would be switched off by them, is found when they are attached.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::console;
use crate::{
    kernel::{
        Support,
        attached::{self, AttachType, ProgramFacts, Sharing},
    },
    targets::{Cgroup, Hierarchy},
};

/// Says, for each cgroup that is about to be governed, which connect6 programs are there already, and for each cgroup
/// above them once.
pub(crate) fn note_programs<'cgroup>(
    hierarchy: &Hierarchy,
    support: &Support,
    cgroups: impl IntoIterator<Item = &'cgroup Cgroup>,
) {
    let mut above: Vec<PathBuf> = Vec::new();
    for cgroup in cgroups {
        match programs_at(cgroup) {
            Ok(programs) => {
                for who in programs {
                    console::note(format_args!(
                        "cgroup {} has a program already, {who}: both judge each connect, and what either rejects is \
                         rejected",
                        cgroup.path().display()
                    ));
                }
            }
            // Attaching asks the same, and goes on without an answer.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                console::note(
                    "which programs of others judge the same connects cannot be asked without CAP_NET_ADMIN: one that \
                     was attached above a target with BPF_F_ALLOW_OVERRIDE does not run for it while enforcer does",
                );
                return;
            }
            Err(error) => log::debug!("cannot ask which programs are attached: {error}"),
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
        for who in programs_at(&directory).unwrap_or_default() {
            console::note(format_args!(
                "cgroup {}, above a target, has a program, {who}: {}",
                path.display(),
                if support.set_retval {
                    "it runs after enforcer's and can overrule a reject"
                } else {
                    "it runs after enforcer's, and what either rejects is rejected"
                }
            ));
        }
    }
}

/// The programs at that cgroup that run beside enforcer's. One that does not share its cgroup does not.
fn programs_at(cgroup: &impl AsFd) -> io::Result<Vec<String>> {
    let attached = attached::programs_at(cgroup, AttachType::Connect6)?;
    if attached.programs.is_empty() || attached.sharing != Sharing::Multi {
        return Ok(Vec::new());
    }
    // Names need CAP_SYS_ADMIN, which governing does not.
    let facts = attached::loaded().unwrap_or_default();
    let described = |id| described(id, facts.get(&id));
    Ok(attached.programs.into_iter().map(described).collect())
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
