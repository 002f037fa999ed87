//! The kernel lines that must work, as data. To add a line is to add a row; nothing else knows their names.

use crate::debian::Suite;

/// One kernel line: the newest patch release of it is what is booted.
#[derive(Debug)]
pub(crate) struct Line {
    /// What `--kernel` and the tests call it.
    pub(crate) name: &'static str,
    /// Where its packages are. The line can be had as long as one of them can be read.
    pub(crate) suites: &'static [Suite],
    /// Matches the names of the packages that hold the kernel image, as `apt-cache search` takes it.
    pub(crate) image: &'static str,
    /// Beginning of the image package's name; the rest is the kernel's release.
    pub(crate) image_prefix: &'static str,
    /// Beginning of the name of the package with the modules, where that is not the image's.
    pub(crate) modules_prefix: Option<&'static str>,
    /// What this line is here to show.
    pub(crate) note: &'static str,
    /// Whether both an older and a newer line are tested whole. Then what the kernel hardly makes a difference to (the command
    /// line, waiting, endings) is left to them, unless this line is asked for by its name or everything is to be repeated.
    pub(crate) between: bool,
}

/// The test binaries about what the kernel does.
const OF_KERNELS: &[&str] = &[
    "account",
    "address_order",
    "allow_path",
    "datagrams",
    "expiry",
    "kernel_smoke",
    "kernels",
    "many_cgroups",
    "nesting",
    "paths",
    "reload_faults",
    "reload_names",
    "rollout",
    "run",
    "socket_states",
    "transparency",
    "verdicts",
];

/// Whether the test binary of that name is about what the kernel does.
pub(crate) fn is_of_kernels(name: &str) -> bool {
    OF_KERNELS.contains(&name)
}

/// All of them, oldest first. 5.15 and 6.6 are in no suite that a mirror still has: bookworm-backports begins at 6.12,
/// trixie-backports at 6.16. Cloud flavours: the smallest, and cgroup BPF, bpffs, IPv6 and BTF are built in.
pub(crate) const LINES: &[Line] = &[
    Line {
        name: "5.10",
        suites: &[Suite::Archive("bullseye"), Suite::Security("bullseye-security")],
        image: r"^linux-image-5\.10\.[-0-9]+-cloud-amd64$",
        image_prefix: "linux-image-",
        modules_prefix: None,
        note: "no bpf_set_retval: a rejection is EPERM; memory for maps counts against RLIMIT_MEMLOCK; no MPTCP",
        between: false,
    },
    Line {
        name: "6.1",
        suites: &[Suite::Archive("bookworm"), Suite::Security("bookworm-security")],
        image: r"^linux-image-6\.1\.[-0-9]+-cloud-amd64$",
        image_prefix: "linux-image-",
        modules_prefix: None,
        note: "the first line on which every feature is there",
        between: true,
    },
    Line {
        name: "6.12",
        suites: &[Suite::Archive("trixie"), Suite::Security("trixie-security")],
        image: r"^linux-image-6\.12\.[0-9]+\+deb13[.0-9]*-cloud-amd64$",
        image_prefix: "linux-image-",
        modules_prefix: None,
        note: "what servers run",
        between: true,
    },
    Line {
        name: "7.x",
        suites: &[Suite::Archive("sid")],
        image: r"^linux-binary-7\.[.0-9]+\+deb[0-9]+-cloud-amd64$",
        image_prefix: "linux-binary-",
        modules_prefix: Some("linux-modules-"),
        note: "the newest verifier: bpf_set_retval wants a provable bound; comm needs CAP_PERFMON",
        between: false,
    },
];

/// What `--kernel` accepts for every line.
pub(crate) const ALL: &str = "all";

/// Everything that `--kernel` accepts.
pub(crate) fn choices() -> impl Iterator<Item = &'static str> {
    LINES.iter().map(|line| line.name).chain([ALL])
}

/// The lines that were asked for, oldest first, each once.
pub(crate) fn chosen(names: &[String]) -> Vec<&'static Line> {
    LINES
        .iter()
        .filter(|line| names.iter().any(|name| name == ALL || name == line.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_none_is_the_word_for_all() {
        let names: BTreeSet<_> = choices().collect();
        assert_eq!(names.len(), LINES.len() + 1);
    }

    #[test]
    fn the_oldest_and_the_newest_line_are_tested_whole() {
        let between: Vec<_> = LINES.iter().map(|line| line.between).collect();
        assert!(!between[0] && !between[LINES.len() - 1], "{between:?}");
        for name in OF_KERNELS {
            let tests = crate::workspace::root().join("tests/tests");
            let is_there =
                tests.join(format!("{name}.rs")).is_file() || tests.join(name).join("main.rs").is_file();
            assert!(is_there, "there is no test file {name}");
        }
    }

    #[test]
    fn a_line_asked_for_twice_is_booted_once() {
        let names = ["6.1", "all", "6.1"].map(str::to_owned);
        assert_eq!(chosen(&names).len(), LINES.len());
        assert_eq!(chosen(&names[..1]).len(), 1);
    }
}
