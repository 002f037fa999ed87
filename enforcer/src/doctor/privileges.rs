//! What this process may: its capabilities, and whether they count.

use std::os::unix::fs::MetadataExt as _;

use rustix::{
    process::{Resource, Rlimit, geteuid, getrlimit},
    thread::{CapabilitySet, capabilities},
};

use super::report::{Item, Level};

/// Inode number of the first user namespace (`PROC_USER_INIT_INO`, include/linux/proc_ns.h).
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// A capability that enforcer has a use for.
struct Row {
    name: &'static str,
    set: CapabilitySet,
    /// CAP_SYS_ADMIN stands for it (`bpf_capable`, `perfmon_capable`, include/linux/capability.h; `bpf_prog_load`,
    /// kernel/bpf/syscall.c).
    in_sys_admin: bool,
    without: Level,
    follows: &'static str,
}

const ROWS: &[Row] = &[
    Row {
        name: "CAP_BPF",
        set: CapabilitySet::BPF,
        in_sys_admin: true,
        without: Level::Blocks,
        follows: "the kernel loads no program for this process",
    },
    Row {
        name: "CAP_NET_ADMIN",
        set: CapabilitySet::NET_ADMIN,
        in_sys_admin: true,
        without: Level::Blocks,
        follows: "the kernel loads no cgroup/connect6 program for this process",
    },
    Row {
        name: "CAP_PERFMON",
        set: CapabilitySet::PERFMON,
        in_sys_admin: true,
        without: Level::Limits,
        follows: "older kernels then refuse enforcer's programs, which is said above; others do not show IPV6_V6ONLY (a \
                  redirect to IPv4 on such a socket ends in the kernel's ENETUNREACH instead of the rule's errno), and \
                  the newest not the thread's name",
    },
    Row {
        name: "CAP_SYS_RESOURCE",
        set: CapabilitySet::SYS_RESOURCE,
        in_sys_admin: false,
        without: Level::Note,
        follows: "RLIMIT_MEMLOCK goes up to its hard limit only, which matters where maps count against it",
    },
    Row {
        name: "CAP_SYS_ADMIN",
        set: CapabilitySet::SYS_ADMIN,
        in_sys_admin: false,
        without: Level::Note,
        follows: "doctor cannot say what the programs of others are called; enforcing does not need that",
    },
    Row {
        name: "CAP_SYS_PTRACE",
        set: CapabilitySet::SYS_PTRACE,
        in_sys_admin: false,
        without: Level::Note,
        follows: "descriptors and network namespaces of other users' processes cannot be looked into",
    },
];

/// What was found about this process.
pub(super) struct Privileges {
    effective: Result<CapabilitySet, rustix::io::Errno>,
    /// Whether the user namespace is the first one; the kernel asks for capabilities there.
    first_namespace: Option<bool>,
    /// As it was before anything here raised it.
    memlock: Rlimit,
}

impl Privileges {
    pub(super) fn of_this_process() -> Self {
        Self {
            effective: capabilities(None).map(|sets| sets.effective),
            first_namespace: std::fs::metadata("/proc/self/ns/user")
                .ok()
                .map(|namespace| namespace.ino() == FIRST_USER_NAMESPACE),
            memlock: getrlimit(Resource::Memlock),
        }
    }

    /// Whether the kernel loads programs for this process, as far as capabilities go.
    pub(super) fn suffice(&self) -> bool {
        let held = self.effective.is_ok_and(|effective| {
            ROWS.iter()
                .filter(|row| row.without == Level::Blocks)
                .all(|row| row.held(effective))
        });
        held && self.first_namespace != Some(false)
    }

    pub(super) fn items(&self) -> Vec<Item> {
        let mut items = vec![
            Item::new("user", "user", Level::Ok, format!("uid {}", geteuid().as_raw()))
                .number("uid", geteuid().as_raw().into()),
            match self.first_namespace {
                Some(true) => Item::new("user-namespace", "user namespace", Level::Ok, "the host's"),
                Some(false) => Item::new(
                    "user-namespace",
                    "user namespace",
                    Level::Blocks,
                    "not the host's",
                )
                .follows("the capabilities below do not count: the kernel asks for them in the host's")
                .hint(Some(
                    "run enforcer on the host, or in a container without user namespace",
                )),
                None => Item::unknown(
                    "user-namespace",
                    "user namespace",
                    "/proc/self/ns/user cannot be read",
                ),
            },
        ];
        match self.effective {
            Ok(effective) => items.extend(ROWS.iter().map(|row| row.item(effective))),
            Err(error) => items.push(Item::unknown("capability", "capabilities", error)),
        }
        items.push(memlock(self.memlock));
        items
    }
}

impl Row {
    fn held(&self, effective: CapabilitySet) -> bool {
        effective.contains(self.set) || (self.in_sys_admin && effective.contains(CapabilitySet::SYS_ADMIN))
    }

    fn item(&self, effective: CapabilitySet) -> Item {
        let item = |level, state| Item::new("capability", self.name, level, state).subject(self.name);
        if effective.contains(self.set) {
            item(Level::Ok, "effective")
        } else if self.held(effective) {
            item(Level::Ok, "contained in CAP_SYS_ADMIN")
        } else {
            let hint = (self.without == Level::Blocks)
                .then_some("run enforcer as root, or give it CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON");
            item(self.without, "missing").follows(self.follows).hint(hint)
        }
    }
}

fn memlock(limit: Rlimit) -> Item {
    let shown =
        |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |bytes| format!("{bytes} bytes"));
    let state = format!("soft {}, hard {}", shown(limit.current), shown(limit.maximum));
    Item::new("memlock", "RLIMIT_MEMLOCK", Level::Ok, state)
        .follows("enforcer raises it for itself; whether it matters, \"BPF memory counted by memory cgroups\" above says")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_capability_stands_for_all_in_the_first_namespace() {
        let with = |effective, first_namespace| Privileges {
            effective: Ok(effective),
            first_namespace,
            memlock: getrlimit(Resource::Memlock),
        };
        assert!(with(CapabilitySet::SYS_ADMIN, Some(true)).suffice());
        assert!(with(CapabilitySet::BPF | CapabilitySet::NET_ADMIN, Some(true)).suffice());
        assert!(!with(CapabilitySet::BPF, Some(true)).suffice());
        assert!(!with(CapabilitySet::NET_ADMIN, Some(true)).suffice());
        assert!(!with(CapabilitySet::SYS_ADMIN, Some(false)).suffice());
    }
}
