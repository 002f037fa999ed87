//! [`World`]: where the connects of a group would all succeed, were it not for the policy.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use anyhow::Result;
use ipnet::Ipv6Net;

use super::Group;
use crate::{
    netns::{LOOPBACK, NetnsFixture},
    protocol::SocketKind,
    server::{Accepted, Server},
};

/// A namespace in which each connect of a group succeeds as long as nobody governs it, and arrives where a
/// redirect sends it.
#[derive(Debug)]
pub struct World {
    /// Where clients run.
    pub netns: NetnsFixture,
    server: Server,
}

impl World {
    /// Adds every address of the group to loopback and listens on every port of it.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be made so.
    pub fn new(group: &Group) -> Result<Self> {
        let netns = NetnsFixture::new()?;
        // Ping sockets are for nobody unless the namespace says otherwise.
        netns.set("ipv4/ping_group_range", "0 2147483647")?;
        // UDP is connected to multicast addresses.
        netns.add_route("ff00::/8".parse::<Ipv6Net>()?, LOOPBACK, None)?;
        let mut addresses = BTreeSet::new();
        let mut ports = BTreeSet::new();
        for case in &group.cases {
            addresses.insert(case.dest.to_canonical());
            addresses.extend(case.bind.map(IpAddr::V6));
            addresses.extend(case.expect.redirect_to.map(|to| to.ip()));
            ports.extend(case.expect.redirect_to.map(|to| to.port()));
            if case.socket != SocketKind::Ping {
                ports.insert(case.port);
            }
        }
        netns.add_local(addresses.into_iter().filter(|address| {
            !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
        }))?;
        let listen = ports
            .into_iter()
            .map(|port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
        let server = Server::echo(&netns, listen)?;
        Ok(Self { netns, server })
    }

    /// The TCP connections that arrived, in their order, with the address each really arrived at.
    #[must_use]
    pub fn accepted(&self) -> Vec<Accepted> {
        self.server.accepted()
    }
}
