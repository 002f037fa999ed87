//! The one table of what kernels have and lack: feature → probe → what enforcer does without it.
//!
//! It feeds the loader (which writes a read-only global for each row that has one), `enforcer doctor` (a line for each
//! row), the tests (each kernel's record in `tests/kernels.toml` has a value for each row) and `docs/kernels.md`.
//! Nothing is asked here; [`survey`](super::survey) asks. Versions are never compared: stable kernels backport, and
//! vendors take away.

/// A thing that some kernels lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What records and JSON call it.
    pub id: &'static str,
    /// What people call it.
    pub name: &'static str,
    /// How it is asked for.
    pub probe: Probe,
    /// The read-only global by which the programs learn of it.
    pub global: Option<Global>,
    /// What enforcer does without it.
    pub without: Without,
}

/// How a feature is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// That program of `enforcer-ebpf/src/probes.rs` is loaded.
    Program(&'static str),
    /// The same, and the kernel's BTF must place `skc_ipv6only` where the programs look for it.
    ProgramAndV6only(&'static str),
    /// A small map of that kind is made.
    Map(MapKind),
    /// `BPF_LINK_CREATE` is called with no program.
    Link,
    /// `/sys/kernel/btf/vmlinux` is opened.
    Btf,
    /// The kernel's BTF is searched for that function.
    BtfFunction(&'static str),
    /// A multipath TCP socket is made.
    MptcpSocket,
    /// A map is made while no memory may be locked.
    UnlockedMap,
}

impl Probe {
    /// Whether the kernel answers only a process that may use bpf(2). To others it gives EPERM, or on 7.2 EINVAL, which
    /// says nothing of the feature.
    #[must_use]
    pub const fn takes_privilege(self) -> bool {
        match self {
            Self::Program(_) | Self::ProgramAndV6only(_) | Self::Map(_) | Self::Link | Self::UnlockedMap => {
                true
            }
            Self::Btf | Self::BtfFunction(_) | Self::MptcpSocket => false,
        }
    }

    /// In words, for documentation.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Program(name) => format!("loads the program `{name}`"),
            Self::ProgramAndV6only(name) => {
                format!(
                    "loads the program `{name}`, and finds `skc_ipv6only` in byte 19 of `struct sock_common` in BTF"
                )
            }
            Self::Map(kind) => format!("makes {}", kind.describe()),
            Self::Link => {
                "calls `BPF_LINK_CREATE` without a program: EBADF if the kernel knows the command".to_owned()
            }
            Self::Btf => "opens `/sys/kernel/btf/vmlinux`".to_owned(),
            Self::BtfFunction(name) => format!("searches the kernel's BTF for the function `{name}`"),
            Self::MptcpSocket => "makes a socket of protocol `IPPROTO_MPTCP`".to_owned(),
            Self::UnlockedMap => "makes a map with RLIMIT_MEMLOCK at 0".to_owned(),
        }
    }
}

/// Kinds of maps that the programs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// Events.
    RingBuffer,
    /// Prefixes.
    LpmTrie,
    /// Policies of any size, swapped whole: an array whose inner maps differ in size.
    ArrayOfMaps,
    /// Bindings: one value for all programs at a cgroup.
    CgroupStorage,
    /// What is kept of sockets.
    SocketStorage,
    /// Counts of datagrams.
    LruHash,
}

impl MapKind {
    const fn describe(self) -> &'static str {
        match self {
            Self::RingBuffer => "a small ring buffer",
            Self::LpmTrie => "a longest-prefix-match map with keys of 128 bits",
            Self::ArrayOfMaps => {
                "an array of longest-prefix-match maps, and puts one of another size into it"
            }
            Self::CgroupStorage => "a cgroup storage map whose key is the cgroup's identifier alone",
            Self::SocketStorage => {
                "a socket storage map of types that are not there: EBADF if the kernel knows the kind"
            }
            Self::LruHash => "a small LRU hash map",
        }
    }
}

/// The globals of `enforcer-ebpf/src/globals.rs` that say what the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    /// `HAS_SET_RETVAL`
    SetRetval,
    /// `HAS_COMM`
    Comm,
    /// `HAS_V6ONLY`
    V6only,
}

impl Global {
    /// Its name in the object.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SetRetval => "HAS_SET_RETVAL",
            Self::Comm => "HAS_COMM",
            Self::V6only => "HAS_V6ONLY",
        }
    }
}

/// What enforcer does without a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// Nothing: it refuses to start, with exit code 4.
    Impossible,
    /// This.
    Instead(&'static str),
    /// It works as well; this is worth knowing.
    Fine(&'static str),
}

impl Without {
    /// In words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Impossible => "enforcer cannot govern and ends with exit code 4",
            Self::Instead(text) | Self::Fine(text) => text,
        }
    }
}

const fn needed(id: &'static str, name: &'static str, probe: Probe) -> Feature {
    Feature {
        id,
        name,
        probe,
        global: None,
        without: Without::Impossible,
    }
}

/// All of them: what nothing works without first.
pub const FEATURES: &[Feature] = &[
    needed(
        "connect6",
        "programs at cgroup/connect6",
        Probe::Program("probe_connect6"),
    ),
    needed(
        "getpeername6",
        "programs at cgroup/getpeername6",
        Probe::Program("probe_getpeername6"),
    ),
    needed(
        "recvmsg6",
        "programs at cgroup/recvmsg6",
        Probe::Program("probe_recvmsg6"),
    ),
    needed(
        "connect4",
        "programs at cgroup/connect4",
        Probe::Program("probe_connect4"),
    ),
    needed(
        "sendmsg6",
        "programs at cgroup/sendmsg6, and sockets' cookies there",
        Probe::Program("probe_sendmsg6"),
    ),
    needed("cgroup-link", "BPF links to cgroups", Probe::Link),
    needed("ring-buffer", "BPF ring buffer", Probe::Map(MapKind::RingBuffer)),
    needed(
        "lpm-trie",
        "longest-prefix-match maps",
        Probe::Map(MapKind::LpmTrie),
    ),
    needed(
        "inner-maps",
        "arrays of maps of different sizes",
        Probe::Map(MapKind::ArrayOfMaps),
    ),
    needed(
        "cgroup-storage",
        "cgroup storage shared by programs",
        Probe::Map(MapKind::CgroupStorage),
    ),
    needed("sk-storage", "socket storage", Probe::Map(MapKind::SocketStorage)),
    needed(
        "lru-hash",
        "hash maps that forget what was not used for longest",
        Probe::Map(MapKind::LruHash),
    ),
    Feature {
        id: "set-retval",
        name: "bpf_set_retval in cgroup/connect6",
        probe: Probe::Program("probe_set_retval"),
        global: Some(Global::SetRetval),
        without: Without::Instead(
            "a rejected connect ends in EPERM, whatever errno the rule names, and fewer clients take that as \
             \"try the next address\"",
        ),
    },
    Feature {
        id: "comm",
        name: "bpf_get_current_comm in cgroup/connect6",
        probe: Probe::Program("probe_comm"),
        global: Some(Global::Comm),
        without: Without::Instead("events carry no `comm`, the name of the connecting thread"),
    },
    Feature {
        id: "v6only",
        name: "seeing IPV6_V6ONLY",
        probe: Probe::ProgramAndV6only("probe_v6only"),
        global: Some(Global::V6only),
        without: Without::Instead(
            "a redirect to IPv4 on an IPV6_V6ONLY socket ends in the kernel's ENETUNREACH instead of the rule's \
             errno, and is reported as a redirect",
        ),
    },
    Feature {
        id: "btf",
        name: "the kernel's BTF",
        probe: Probe::Btf,
        global: None,
        without: Without::Instead("IPV6_V6ONLY is not seen, for want of the place where the kernel keeps it"),
    },
    Feature {
        id: "governed-ping",
        name: "connect6 programs for ping sockets",
        probe: Probe::BtfFunction("ping_v6_pre_connect"),
        global: None,
        without: Without::Instead("connects of ping sockets go on ungoverned and unreported"),
    },
    Feature {
        id: "mptcp",
        name: "multipath TCP",
        probe: Probe::MptcpSocket,
        global: None,
        without: Without::Fine("there are no multipath TCP sockets to govern"),
    },
    Feature {
        id: "memcg-accounting",
        name: "BPF memory counted by memory cgroups",
        probe: Probe::UnlockedMap,
        global: None,
        without: Without::Fine(
            "maps count against RLIMIT_MEMLOCK: enforcer raises it for itself, as far as it may",
        ),
    },
];

/// The row with that identifier.
#[must_use]
pub fn by_id(id: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|feature| feature.id == id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rows_have_names_of_their_own() {
        let ids: BTreeSet<_> = FEATURES.iter().map(|feature| feature.id).collect();
        let names: BTreeSet<_> = FEATURES.iter().map(|feature| feature.name).collect();
        assert_eq!((ids.len(), names.len()), (FEATURES.len(), FEATURES.len()));
    }

    #[test]
    fn every_global_of_the_programs_has_its_row_and_no_needed_feature_has_one() {
        let source = include_str!("../../../enforcer-ebpf/src/globals.rs");
        let declared: BTreeSet<_> = source
            .lines()
            .filter_map(|line| line.strip_prefix("static ")?.split(':').next())
            .filter(|name| name.starts_with("HAS_"))
            .collect();
        let rows: BTreeSet<_> = FEATURES
            .iter()
            .filter_map(|feature| Some(feature.global?.name()))
            .collect();
        assert_eq!(declared, rows);
        assert!(
            FEATURES
                .iter()
                .all(|feature| feature.global.is_none() || feature.without != Without::Impossible)
        );
    }

    #[test]
    fn every_probe_program_is_that_of_a_row() {
        let source = include_str!("../../../enforcer-ebpf/src/probes.rs");
        let declared: BTreeSet<_> = source
            .lines()
            .filter_map(|line| line.strip_prefix("fn ")?.split('(').next())
            .filter(|name| name.starts_with("probe_"))
            .collect();
        let rows: BTreeSet<_> = FEATURES
            .iter()
            .filter_map(|feature| match feature.probe {
                Probe::Program(name) | Probe::ProgramAndV6only(name) => Some(name),
                _ => None,
            })
            .collect();
        assert_eq!(declared, rows);
    }
}
