//! What the host's own network says about a policy: the things a rule may cut off that nobody meant to.
//!
//! [`gather`] looks once and returns plain data; [`Surroundings::warnings`] compares it with a policy and is
//! pure. Nothing here sends a packet but one lookup by the system's resolver, changes a rule, or prints. A
//! source that cannot be read is remembered and costs only its own warnings.

mod interfaces;
mod nameservers;
pub(crate) mod nat64;
mod peers;

mod warnings;

use std::{
    collections::HashSet,
    fmt, fs, io,
    net::Ipv6Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use procfs::process::Process;

pub use self::{
    interfaces::InterfaceAddr,
    nameservers::Nameserver,
    nat64::Nat64,
    warnings::{Rejecting, RejectingRule, Warning, WarningKind},
};

/// Where to look, and for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// The resolver's configuration.
    pub resolv_conf: PathBuf,
    /// Processes whose network namespaces count beside this process's own: one of each target is enough.
    pub processes: Vec<u32>,
    /// How long the question for a NAT64 prefix may take; zero asks nobody.
    pub nat64_limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            processes: Vec::new(),
            nat64_limit: Duration::from_secs(1),
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// IPv6 nameservers that this host asks.
    pub nameservers: Vec<Nameserver>,
    /// What is known of NAT64, from this process's network namespace.
    pub nat64: Nat64,
    /// Network namespaces, this process's own first, each once.
    pub namespaces: Vec<Namespace>,
    /// What could not be looked at.
    pub unavailable: Vec<Unavailable>,
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Whose it is.
    pub owner: Owner,
    /// Addresses of its interfaces, `::1` left out.
    pub addrs: Vec<InterfaceAddr>,
    /// Remote addresses of TCP connections that are established, link-local ones left out; sorted.
    pub peers: Vec<Ipv6Addr>,
}

/// Whose network namespace one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// This process's: the host's, usually.
    Host,
    /// That process's.
    Process(u32),
}

impl Owner {
    fn proc_dir(self) -> PathBuf {
        match self {
            Self::Host => PathBuf::from("/proc/self"),
            Self::Process(pid) => PathBuf::from(format!("/proc/{pid}")),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("this host"),
            Self::Process(pid) => write!(f, "the network namespace of process {pid}"),
        }
    }
}

/// A source that could not be read: the warnings that come from it are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// What was attempted, and on what.
    pub attempt: String,
    /// Why it failed.
    pub cause: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.attempt, self.cause)
    }
}

/// Looks at the host's network once. Never fails; takes little longer than [`Options::nat64_limit`] at worst.
///
/// Needs a tokio runtime with time.
pub async fn gather(options: &Options) -> Surroundings {
    let files = {
        let options = options.clone();
        tokio::task::spawn_blocking(move || gather_from_files(&options))
    };
    let nat64 = async {
        if options.nat64_limit.is_zero() {
            Ok(Nat64::Unknown)
        } else {
            nat64::detect(options.nat64_limit).await
        }
    };
    let (files, nat64) = tokio::join!(files, nat64);
    let mut found = files.unwrap_or_else(|error| {
        let mut nothing = Surroundings::default();
        nothing.missing("look at this host's network", &io::Error::other(error));
        nothing
    });
    match nat64 {
        Ok(nat64) => found.nat64 = nat64,
        Err(error) => found.missing("learn the NAT64 prefix from the resolver", &error),
    }
    found
}

fn gather_from_files(options: &Options) -> Surroundings {
    let mut found = Surroundings::default();
    match nameservers::read(&options.resolv_conf) {
        Ok(nameservers) => found.nameservers = nameservers,
        Err(error) => found.missing(&format!("read {}", options.resolv_conf.display()), &error),
    }
    let mut seen = HashSet::new();
    let processes = options.processes.iter().map(|&pid| Owner::Process(pid));
    for owner in std::iter::once(Owner::Host).chain(processes) {
        let proc_dir = owner.proc_dir();
        match fs::read_link(proc_dir.join("ns/net")) {
            Ok(namespace) => {
                if seen.insert(namespace) {
                    let namespace = found.namespace(owner, &proc_dir);
                    found.namespaces.push(namespace);
                }
            }
            Err(error) => found.missing(&format!("look into {owner}"), &error),
        }
    }
    found
}

impl Surroundings {
    fn namespace(&mut self, owner: Owner, proc_dir: &Path) -> Namespace {
        let addrs = interfaces::read(proc_dir).unwrap_or_else(|error| {
            self.missing(&format!("list the addresses of {owner}"), &error);
            Vec::new()
        });
        let peers = Process::new_with_root(proc_dir.to_owned())
            .map_err(io::Error::other)
            .and_then(|process| peers::read(&process))
            .unwrap_or_else(|error| {
                self.missing(&format!("list the TCP connections of {owner}"), &error);
                Vec::new()
            });
        Namespace { owner, addrs, peers }
    }

    fn missing(&mut self, attempt: &str, error: &io::Error) {
        self.unavailable.push(Unavailable {
            attempt: attempt.to_owned(),
            cause: error.to_string(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::test_support::{eventually, is_root};

    fn no_lookup() -> Options {
        Options {
            nat64_limit: Duration::ZERO,
            ..Options::default()
        }
    }

    #[tokio::test]
    async fn this_host_is_looked_at_and_own_namespace_only_once() {
        let options = Options {
            processes: vec![std::process::id()],
            ..no_lookup()
        };
        let found = gather(&options).await;
        assert_eq!(
            found.namespaces.iter().map(|it| it.owner).collect::<Vec<_>>(),
            [Owner::Host]
        );
        assert_eq!(found.nat64, Nat64::Unknown);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_remembered_and_the_rest_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            resolv_conf: folder.path().to_owned(),
            processes: vec![0],
            ..no_lookup()
        };
        let found = gather(&options).await;
        assert_eq!(found.namespaces.len(), 1);
        let missing: Vec<_> = found.unavailable.iter().map(ToString::to_string).collect();
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(
            missing[0].contains(folder.path().to_str().unwrap()),
            "{missing:?}"
        );
        assert!(missing[1].contains("process 0"), "{missing:?}");
    }

    #[tokio::test]
    async fn other_namespace_is_read_without_entering_it() {
        if !is_root("surroundings::tests::other_namespace_is_read_without_entering_it") {
            return;
        }
        struct Ended(std::process::Child);
        impl Drop for Ended {
            fn drop(&mut self) {
                let _ = self.0.kill();
                let _ = self.0.wait();
            }
        }
        let child = Ended(
            std::process::Command::new("unshare")
                .args(["-n", "sleep", "600"])
                .spawn()
                .unwrap(),
        );
        let pid = child.0.id();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        eventually("the child has its own namespace", || {
            fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|theirs| theirs != own)
        });
        let found = gather(&Options {
            processes: vec![pid],
            ..no_lookup()
        })
        .await;
        let theirs = found
            .namespaces
            .iter()
            .find(|it| it.owner == Owner::Process(pid))
            .unwrap();
        // A new namespace has its loopback interface down.
        assert_eq!(
            (theirs.addrs.as_slice(), theirs.peers.as_slice()),
            ([].as_slice(), [].as_slice())
        );
        assert_eq!(found.unavailable, []);
    }
}
