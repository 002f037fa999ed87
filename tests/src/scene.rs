//! [`Scene`]: a workload's cgroup, and a network namespace in which everything it connects to answers.
//!
//! Ungoverned, every connect to [`Scene::to`] succeeds, by whatever socket; so one that fails while enforcer runs was
//! rejected. Rules of tests reject with errnos that this network gives to nobody, such as EHOSTDOWN and ENETDOWN.

use std::{
    ffi::OsStr,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result};

use crate::{
    cgroup::CgroupFixture, client::Client, enforcer::Enforcer, kernel::expected_errno, netns::NetnsFixture,
    place::Place, server::Server,
};

/// The prefix that most rules are about: it covers [`A`] and not [`B`] (RFC 3849).
pub const PREFIX: &str = "2001:db8:a::/48";

/// In [`PREFIX`].
pub const A: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 1));
/// In 2001:db8:b::/48.
pub const B: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 1));
/// The same server by IPv4 (RFC 5737).
pub const IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// `net.ipv4.tcp_fastopen`: clients and servers do it, without a cookie of an earlier connection, and on sockets
/// that did not ask for it (`Documentation/networking/ip-sysctl.rst`: 0x1, 0x2, 0x4, 0x200, 0x400).
const FASTOPEN_ALWAYS: &str = "1543";

/// A workload with something to connect to. Fields are dropped in order: nobody is governed, nobody serves, and then
/// the places go.
#[derive(Debug)]
pub struct Scene {
    /// What listens at [`A`], [`B`] and [`IPV4`], with one port.
    pub server: Server,
    /// The workload's cgroup.
    pub cgroup: CgroupFixture,
    /// Where all of it happens.
    pub netns: NetnsFixture,
}

impl Scene {
    /// Makes one. `what` is part of the cgroup's name.
    ///
    /// # Errors
    ///
    /// When a part of it cannot be made.
    pub fn new(what: &str) -> Result<Self> {
        let netns = NetnsFixture::new()?;
        netns.set("ipv4/ping_group_range", "0 2147483647")?;
        netns.set("ipv4/tcp_fastopen", FASTOPEN_ALWAYS)?;
        netns.add_local([A, B, IPV4])?;
        let server = Server::echo(&netns, [A, B, IPV4].map(|address| SocketAddr::new(address, 0)))?;
        let cgroup = CgroupFixture::new(&format!("test-{what}"))?;
        Ok(Self {
            server,
            cgroup,
            netns,
        })
    }

    /// Where the server listens at that address.
    #[must_use]
    pub fn to(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.server.address().port())
    }

    /// Inside the workload's cgroup.
    #[must_use]
    pub const fn inside(&self) -> Place<'_> {
        Place::new(&self.cgroup, &self.netns)
    }

    /// Outside of it.
    #[must_use]
    pub const fn outside(&self) -> Place<'_> {
        Place::outside(&self.netns)
    }

    /// A client in the workload's cgroup.
    ///
    /// # Errors
    ///
    /// As [`Client::start`].
    pub fn client(&self) -> Result<Client> {
        Client::start(&self.inside())
    }

    /// Starts `enforcer run --output json` on the workload's cgroup, with those arguments too, and waits until it
    /// enforces. It is in the namespace, and outside the cgroup.
    ///
    /// # Errors
    ///
    /// As [`Enforcer::run`].
    pub fn govern<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Enforcer> {
        let mut command = Enforcer::command(
            &self.outside(),
            ["run", "--output", "json", "--cgroup", &self.path()],
        )?;
        command.args(arguments);
        Enforcer::start_governing(command)
    }

    /// The cgroup's path as `--cgroup` takes it.
    #[must_use]
    pub fn path(&self) -> String {
        self.cgroup.relative_path()
    }

    /// Fails unless a connect to that address succeeds.
    ///
    /// # Errors
    ///
    /// Says how it ended.
    pub fn connects(&self, client: &mut Client, address: IpAddr) -> Result<()> {
        let answer = client.connect_tcp(self.to(address))?;
        anyhow::ensure!(answer.ok, "connect to {address}: {}", answer.outcome());
        Ok(())
    }

    /// Fails unless a connect to that address ends as a rule with that errno ends it on this kernel.
    ///
    /// # Errors
    ///
    /// Says how it ended.
    pub fn rejects(&self, client: &mut Client, address: IpAddr, errno: &str) -> Result<()> {
        let outcome = client.connect_tcp(self.to(address))?.outcome();
        let expected = expected_errno(errno).name;
        anyhow::ensure!(
            outcome == expected,
            "connect to {address}: {outcome}, not {expected}"
        );
        Ok(())
    }

    /// Names of the cgroups below the workload's.
    ///
    /// # Errors
    ///
    /// When they cannot be listed.
    pub fn cgroups_below(&self) -> Result<Vec<String>> {
        let path = self.cgroup.path();
        let entries = fs::read_dir(path).with_context(|| format!("list cgroup {}", path.display()))?;
        Ok(entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect())
    }
}
