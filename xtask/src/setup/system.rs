//! The system programs that the demo and the tests need, as a table, and how each is seen to be there.
//!
//! A program counts, not a package: what is there by other means is there.

use std::{fs, path::Path, process::Command};

use super::Purpose;
use crate::{debian::install as apt, workspace::program};

/// One thing the system must have.
pub(crate) struct Need {
    /// What it is called in lists.
    pub(crate) what: &'static str,
    /// What it is for.
    pub(crate) why: &'static str,
    /// Whether it is there.
    found: fn() -> bool,
    /// Debian packages that bring it. Where a suite lacks the first, the next one is taken.
    packages: &'static [&'static str],
    /// The first purpose that needs it.
    needed_for: Purpose,
}

const NEEDS: &[Need] = &[
    Need {
        what: "ip",
        why: "network namespaces with broken IPv6",
        found: || has("ip"),
        packages: &["iproute2"],
        needed_for: Purpose::Demo,
    },
    Need {
        what: "nft",
        why: "IPv6 that is slow",
        found: || has("nft"),
        packages: &["nftables"],
        needed_for: Purpose::Lab,
    },
    Need {
        what: "python3",
        why: "a client that takes the first address it is given",
        found: || has("python3"),
        packages: &["python3"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "curl",
        why: "a client with happy eyeballs",
        found: || has("curl"),
        packages: &["curl"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "node",
        why: "a client with a resolver pool of its own",
        found: || has("node"),
        packages: &["nodejs"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "postgres",
        why: "a server whose clients are given URLs",
        found: has_postgres,
        packages: &["postgresql"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "pgbouncer",
        why: "a pooler before that server, at a port of its own",
        found: || has("pgbouncer"),
        packages: &["pgbouncer"],
        needed_for: Purpose::Test,
    },
    Need {
        what: "java, javac 17 or later",
        why: "a client that writes IPv4 addresses as IPv6",
        found: has_java,
        packages: &["openjdk-17-jdk-headless", "default-jdk-headless"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "python3's ensurepip",
        why: "installs the clients from PyPI",
        found: has_ensurepip,
        packages: &["python3-venv"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "npm",
        why: "installs the clients from npm",
        found: || has("npm"),
        packages: &["npm"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "wget",
        why: "a client that tries one address after the other",
        found: || has("wget"),
        packages: &["wget"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "git",
        why: "a client by way of libcurl",
        found: || has("git"),
        packages: &["git"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "ssh",
        why: "a client that is told nothing of families",
        found: || has("ssh"),
        packages: &["openssh-client"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "psql",
        why: "libpq's own client",
        found: || has("psql"),
        packages: &["postgresql-client"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "redis-server",
        why: "a server whose clients keep their connections",
        found: || has("redis-server"),
        packages: &["redis-server"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "redis-cli",
        why: "its own client",
        found: || has("redis-cli"),
        packages: &["redis-tools"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "dig",
        why: "a client by UDP",
        found: || has("dig"),
        packages: &["bind9-dnsutils", "dnsutils"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "go",
        why: "a client with a resolver of its own",
        found: || has("go"),
        packages: &["golang-go"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "cc",
        why: "compiles clients written in C",
        found: || has("cc"),
        packages: &["gcc"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "musl-gcc",
        why: "a client with another C library",
        found: || has("musl-gcc"),
        packages: &["musl-tools"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "libpq's headers",
        why: "a client by way of libpq",
        found: || Path::new("/usr/include/postgresql/libpq-fe.h").is_file(),
        packages: &["libpq-dev"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "c-ares' headers",
        why: "a client by way of c-ares",
        found: || Path::new("/usr/include/ares.h").is_file(),
        packages: &["libc-ares-dev"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "the JDBC driver of PostgreSQL",
        why: "a Java client that is given URLs",
        found: || Path::new("/usr/share/java/postgresql.jar").is_file(),
        packages: &["libpostgresql-jdbc-java"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "qemu-system-x86_64",
        why: "boots other kernels",
        found: || has("qemu-system-x86_64"),
        packages: &["qemu-system-x86"],
        needed_for: Purpose::Test,
    },
    Need {
        what: "busybox, static",
        why: "user space of those kernels",
        found: has_static_busybox,
        packages: &["busybox-static"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "mount",
        why: "gives container engines directories of their own",
        found: || has("mount"),
        packages: &["mount"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "dockerd",
        why: "a container engine",
        // Those of packages: a program of that name elsewhere may be anything.
        found: || packaged("dockerd"),
        packages: &["docker.io"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "apparmor_parser",
        why: "what Docker asks for where the kernel has AppArmor",
        found: || has("apparmor_parser") || !has_apparmor(),
        packages: &["apparmor"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "docker",
        why: "talks to container engines",
        found: || packaged("docker"),
        packages: &["docker-cli", "docker.io"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "docker-compose",
        why: "starts services from a file",
        found: || has("docker-compose"),
        packages: &["docker-compose"],
        needed_for: Purpose::Test,
    },
    Need {
        what: "podman",
        why: "another container engine",
        found: || packaged("podman"),
        packages: &["podman"],
        needed_for: Purpose::Test,
    },
    Need {
        what: "runc",
        why: "runs containers also where both cgroup versions are mounted",
        found: || packaged("runc"),
        packages: &["runc"],
        needed_for: Purpose::Clients,
    },
    Need {
        what: "mmdebstrap",
        why: "makes a guest with systemd and container engines",
        found: || has("mmdebstrap"),
        packages: &["mmdebstrap"],
        needed_for: Purpose::Test,
    },
    Need {
        what: "mke2fs",
        why: "makes that guest's disk",
        found: || has("mke2fs"),
        packages: &["e2fsprogs"],
        needed_for: Purpose::Test,
    },
    Need {
        what: "strip",
        why: "makes the tests small enough for their memory",
        found: || has("strip"),
        packages: &["binutils"],
        needed_for: Purpose::Test,
    },
    Need {
        what: "zstd",
        why: "unpacks kernel modules",
        found: || has("zstd"),
        packages: &["zstd"],
        needed_for: Purpose::Test,
    },
];

/// What a purpose needs and the system lacks.
pub(crate) fn missing(purpose: Purpose) -> Vec<&'static Need> {
    NEEDS
        .iter()
        .filter(|need| need.needed_for <= purpose && !(need.found)())
        .collect()
}

impl Need {
    /// Whether the machine's lists have a package for it.
    pub(crate) fn has_candidate(&self) -> bool {
        self.candidate().is_some()
    }

    fn candidate(&self) -> Option<&'static str> {
        self.packages
            .iter()
            .copied()
            .find(|package| apt::is_there() && apt::has_candidate(package))
    }
}

/// The packages that bring these, those preferred which the machine's suites have.
pub(crate) fn packages(needs: &[&Need]) -> Vec<&'static str> {
    needs
        .iter()
        .filter_map(|need| need.candidate().or(need.packages.first().copied()))
        .collect()
}

fn has(name: &str) -> bool {
    program(name).is_some()
}

/// Whether AppArmor is switched on in the running kernel.
fn has_apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|said| said.trim() == "Y")
}

/// Whether a package has brought that program: package managers alone write there.
fn packaged(name: &str) -> bool {
    ["/usr/sbin", "/usr/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(name).is_file())
}

/// Whether a package has brought a PostgreSQL server: Debian keeps versions side by side, outside of PATH.
fn has_postgres() -> bool {
    fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut versions| {
        versions.any(|version| version.is_ok_and(|version| version.path().join("bin/postgres").is_file()))
    })
}

/// Debian keeps from python3 what makes a `venv` usable.
fn has_ensurepip() -> bool {
    fs::read_dir("/usr/lib").is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|entry| entry.path().join("ensurepip/__init__.py").is_file()))
    }) || (has("python3") && !packaged("python3"))
}

fn has_java() -> bool {
    let (Some(java), true) = (program("java"), has("javac")) else {
        return false;
    };
    // `openjdk version "17.0.15" 2025-04-15`, on stderr.
    Command::new(java).arg("-version").output().is_ok_and(|output| {
        java_major(&String::from_utf8_lossy(&output.stderr)).is_some_and(|major| major >= 17)
    })
}

/// Major version in what `java -version` says; 1 for Java 8 and older, which call themselves 1.8.
fn java_major(said: &str) -> Option<u32> {
    let version = said.split('"').nth(1)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn has_static_busybox() -> bool {
    program("busybox").is_some_and(|path| fs::read(path).is_ok_and(|elf| is_static_elf(&elf)))
}

/// Whether a 64-bit little-endian ELF program runs without a dynamic loader: it has no `PT_INTERP` header.
fn is_static_elf(elf: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    // Numbers of up to eight bytes at offsets that elf(5) names.
    let number = |offset: usize, bytes: usize| -> Option<u64> {
        let field = elf.get(offset..offset.checked_add(bytes)?)?;
        Some(
            field
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte)),
        )
    };
    let headers = || -> Option<Vec<u64>> {
        let table = usize::try_from(number(0x20, 8)?).ok()?;
        let (size, count) = (number(0x36, 2)?, number(0x38, 2)?);
        (0..count)
            .map(|index| {
                let offset = usize::try_from(index.checked_mul(size)?).ok()?;
                number(table.checked_add(offset)?, 4)
            })
            .collect()
    };
    elf.starts_with(b"\x7fELF\x02\x01") && headers().is_some_and(|types| !types.contains(&PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_says_its_major_version_first() {
        assert_eq!(java_major("openjdk version \"17.0.15\" 2025-04-15\n"), Some(17));
        assert_eq!(java_major("openjdk version \"21\" 2023-09-19\n"), Some(21));
        assert_eq!(java_major("java version \"1.8.0_402\"\n"), Some(1));
        assert_eq!(java_major("command not found"), None);
    }

    #[test]
    fn this_test_is_dynamic_and_rubbish_is_not_static() {
        let this = fs::read("/proc/self/exe").unwrap();
        assert!(!is_static_elf(&this));
        assert!(!is_static_elf(b"\x7fELF\x02\x01"));
        assert!(!is_static_elf(b"#!/bin/sh\n"));
        // The same program with its loader's header turned into a PT_NULL.
        let mut without = this;
        let table = usize::try_from(u64::from_le_bytes(without[0x20..0x28].try_into().unwrap())).unwrap();
        for index in 0..usize::from(without[0x38]) {
            let at = table + index * 56;
            if without[at] == 3 {
                without[at] = 0;
            }
        }
        assert!(is_static_elf(&without));
    }

    #[test]
    fn what_guests_are_made_with_is_in_the_table() {
        // Essential in the distribution, or apt itself.
        let always = ["apt", "dpkg", "libc-bin"];
        for (program, package) in crate::vm::NEEDED.iter().chain(crate::vm::NEEDED_FOR_IMAGE) {
            let brought = NEEDS.iter().any(|need| need.packages.contains(package));
            assert!(brought || always.contains(package), "nothing brings {program}");
        }
    }

    #[test]
    fn a_purpose_includes_the_ones_before_it() {
        let of = |purpose| NEEDS.iter().filter(|need| need.needed_for <= purpose).count();
        assert_eq!(of(Purpose::Build), 0);
        assert_eq!(of(Purpose::Demo), 1);
        assert_eq!(of(Purpose::Test), NEEDS.len());
    }
}
