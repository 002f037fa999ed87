//! [`Stage`]: where a verdict is tested: a namespace in which every connect succeeds as long as nobody governs it,
//! and a client in a cgroup of its own.

use std::{
    ffi::OsStr,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Result;

use crate::{
    cgroup::CgroupFixture,
    client::Client,
    enforcer::Enforcer,
    names::NamesFixture,
    netns::NetnsFixture,
    place::Place,
    protocol::{Answer, Connect},
    server::Server,
};

/// An IPv6 address of the stage; rules are about it (RFC 3849).
pub const IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Another, outside the /48 of the first.
pub const OTHER_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1);
/// An IPv4 address of the stage (RFC 5737).
pub const IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The prefix that rules are about: it covers [`IPV6`] and not [`OTHER_IPV6`].
pub const PREFIX: &str = "2001:db8::/48";

/// `net.ipv4.tcp_fastopen`: clients and servers do it, without a cookie of an earlier connection, and on sockets
/// that did not ask for it (`Documentation/networking/ip-sysctl.rst`: 0x1, 0x2, 0x4, 0x200, 0x400).
const FASTOPEN_ALWAYS: &str = "1543";

/// The namespace, its server, the cgroup and the client in it.
#[derive(Debug)]
pub struct Stage {
    /// Makes connects from inside the cgroup.
    pub client: Client,
    /// The cgroup to be governed.
    pub cgroup: CgroupFixture,
    /// Echoes on all three addresses, on one port.
    pub server: Server,
    /// Where it all is.
    pub netns: NetnsFixture,
}

impl Stage {
    /// Sets it up; `what` names the cgroup.
    ///
    /// # Errors
    ///
    /// When a fixture cannot be made.
    pub fn new(what: &str) -> Result<Self> {
        Self::set_up(what, None)
    }

    /// The same, with a client that believes in these names.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_names(what: &str, names: &NamesFixture) -> Result<Self> {
        Self::set_up(what, Some(names))
    }

    fn set_up(what: &str, names: Option<&NamesFixture>) -> Result<Self> {
        let netns = NetnsFixture::new()?;
        netns.set("ipv4/ping_group_range", "0 2147483647")?;
        netns.set("ipv4/tcp_fastopen", FASTOPEN_ALWAYS)?;
        let addresses: [IpAddr; 3] = [IPV6.into(), OTHER_IPV6.into(), IPV4.into()];
        netns.add_local(addresses)?;
        let server = Server::echo(&netns, addresses.map(|address| SocketAddr::new(address, 0)))?;
        let cgroup = CgroupFixture::new(what)?;
        let client = Client::start(&Place {
            names,
            ..Place::new(&cgroup, &netns)
        })?;
        Ok(Self {
            client,
            cgroup,
            server,
            netns,
        })
    }

    /// The server's port at that address.
    #[must_use]
    pub fn at(&self, address: impl Into<IpAddr>) -> SocketAddr {
        SocketAddr::new(address.into(), self.server.address().port())
    }

    /// Starts `enforcer run --output json` on the cgroup, with those arguments too, and waits until it enforces.
    /// It is in the namespace, and outside the cgroup.
    ///
    /// # Errors
    ///
    /// As [`Enforcer::run`].
    pub fn govern<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Enforcer> {
        let cgroup = self.cgroup.relative_path();
        let mut command = Enforcer::command(
            &Place::outside(&self.netns),
            ["run", "--output", "json", "--cgroup", &cgroup],
        )?;
        command.args(arguments);
        Enforcer::start_governing(command)
    }

    /// Lets the client make the connect.
    ///
    /// # Errors
    ///
    /// As [`Client::ask`].
    pub fn connect(&mut self, connect: &Connect) -> Result<Answer> {
        self.client.connect(connect.clone())
    }
}
