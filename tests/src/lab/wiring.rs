//! The lab's three network namespaces, and what is broken in them.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use ipnet::{Ipv4Net, Ipv6Net};

use super::{Breakage, CLIENT_IPV6, NAMESERVER, PREFIX, SERVER_IPV4, SERVER_IPV6};
use crate::{
    netns::{LOOPBACK, NetnsFixture},
    place::Place,
};

/// The only interface that the client has, and the only one that the server has.
pub(super) const UPLINK: &str = "uplink";
/// The router's, on the client's side and on the server's.
const INSIDE: &str = "inside";
const OUTSIDE: &str = "outside";

const CLIENT_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The nameserver is the router's, as in small networks.
const INSIDE_IPV4: Ipv4Addr = NAMESERVER;
const INSIDE_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 1);

const OUTSIDE_IPV4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
const OUTSIDE_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 1);
const SERVER_LINK_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 2);

/// Drops the first two SYNs of each connection. The timeout is that of a client that gives up in between.
const DROP_TWO_SYNS: &str = "
table ip6 lab {
    set once {
        type ipv6_addr . inet_service . ipv6_addr . inet_service
        flags dynamic
        timeout 10m
    }
    set twice {
        type ipv6_addr . inet_service . ipv6_addr . inet_service
        flags dynamic
        timeout 10m
    }
    chain forward {
        type filter hook forward priority 0
        tcp flags & (syn | ack) != syn accept
        ip6 saddr . tcp sport . ip6 daddr . tcp dport @twice accept
        ip6 saddr . tcp sport . ip6 daddr . tcp dport @once \\
            add @twice { ip6 saddr . tcp sport . ip6 daddr . tcp dport } drop
        add @once { ip6 saddr . tcp sport . ip6 daddr . tcp dport } drop
    }
}
";

/// Drops what is longer than every link carries. The length is that without IPv6's own 40 octets.
const DROP_LONG_PACKETS: &str = "
table ip6 long {
    chain forward {
        type filter hook forward priority 0
        ip6 length > 1240 drop
    }
}
";

/// What a firewall does that was written for IPv4 alone, with IPv6 forbidden to be safe.
const DROP_IPV6: &str = "
table ip6 firewall {
    chain forward {
        type filter hook forward priority 0; policy drop;
    }
}
";

/// The namespaces, joined.
#[derive(Debug)]
pub(super) struct Wiring {
    pub(super) client: NetnsFixture,
    pub(super) router: NetnsFixture,
    pub(super) server: NetnsFixture,
}

impl Wiring {
    /// Makes them around that one, with everything a lab has but servers.
    pub(super) fn around(client: NetnsFixture, breakage: Breakage) -> Result<Self> {
        // Engines switch IPv6 off where they give a container none.
        for scope in ["all", "default"] {
            client.set(&format!("ipv6/conf/{scope}/disable_ipv6"), "0")?;
        }
        let wiring = Self {
            client,
            router: NetnsFixture::new()?,
            server: NetnsFixture::new()?,
        };
        let Self {
            client,
            router,
            server,
        } = &wiring;
        for netns in [client, router, server] {
            // Nobody else can have an address here; and until it knew that, the router would not ask who has one.
            for scope in ["all", "default"] {
                netns.set(&format!("ipv6/conf/{scope}/accept_dad"), "0")?;
            }
        }
        client.add_cable(UPLINK, router, INSIDE)?;
        router.add_cable(OUTSIDE, server, UPLINK)?;
        wire_router(router, breakage).context("set the router up")?;
        wire_server(server).context("set the server up")?;
        wire_client(client, breakage).context("set the client up")?;
        Ok(wiring)
    }

    /// Lets long packets vanish at the router.
    pub(super) fn lose_long_packets(&self) -> Result<()> {
        filter(&self.router, DROP_LONG_PACKETS).context("lose long packets")
    }

    /// See [`super::Lab::drop_ipv6`].
    pub(super) fn drop_ipv6(&self) -> Result<()> {
        filter(&self.router, DROP_IPV6)
    }

    /// See [`super::Lab::route_to_client`]. The server asks the router for everything.
    pub(super) fn route_to_client(&self, network: Ipv4Net) -> Result<()> {
        self.client.set("ipv4/ip_forward", "1")?;
        self.router.add_route(network, INSIDE, Some(CLIENT_IPV4.into()))
    }
}

fn wire_client(client: &NetnsFixture, breakage: Breakage) -> Result<()> {
    client.add_address(UPLINK, CLIENT_IPV4.into(), 24)?;
    client.add_route(Ipv4Net::default(), UPLINK, Some(INSIDE_IPV4.into()))?;
    if breakage == Breakage::NoAddress {
        return client.set("ipv6/conf/all/disable_ipv6", "1");
    }
    client.add_address(UPLINK, CLIENT_IPV6.into(), 64)?;
    if breakage != Breakage::NoRoute {
        client.add_route(Ipv6Net::default(), UPLINK, Some(INSIDE_IPV6.into()))?;
    }
    Ok(())
}

fn wire_router(router: &NetnsFixture, breakage: Breakage) -> Result<()> {
    router.set("ipv4/ip_forward", "1")?;
    router.set("ipv6/conf/all/forwarding", "1")?;
    // Each connect is to be answered, not only as many a second as a router can spare.
    router.set("ipv6/icmp/ratelimit", "0")?;
    router.add_address(INSIDE, INSIDE_IPV4.into(), 24)?;
    router.add_address(INSIDE, INSIDE_IPV6.into(), 64)?;
    router.add_address(OUTSIDE, OUTSIDE_IPV4.into(), 24)?;
    router.add_address(OUTSIDE, OUTSIDE_IPV6.into(), 64)?;
    let prefix: Ipv6Net = PREFIX.parse().context("understand the lab's prefix")?;
    match breakage.dead_end() {
        Some(end) => router.add_dead_end(prefix, end)?,
        None => router.add_route(prefix, OUTSIDE, Some(SERVER_LINK_IPV6.into()))?,
    }
    if breakage == Breakage::Slow {
        filter(router, DROP_TWO_SYNS)?;
    }
    Ok(())
}

fn wire_server(server: &NetnsFixture) -> Result<()> {
    server.add_address(UPLINK, SERVER_IPV4.into(), 24)?;
    server.add_address(UPLINK, SERVER_LINK_IPV6.into(), 64)?;
    server.add_address(LOOPBACK, SERVER_IPV6.into(), 128)?;
    server.add_route(Ipv4Net::default(), UPLINK, Some(IpAddr::V4(OUTSIDE_IPV4)))?;
    server.add_route(Ipv6Net::default(), UPLINK, Some(IpAddr::V6(OUTSIDE_IPV6)))
}

/// Loads nftables rules in that namespace.
fn filter(netns: &NetnsFixture, rules: &str) -> Result<()> {
    let mut nft = Place::outside(netns)
        .command("nft")?
        .args(["--file", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(
            "start nft (hint: the package nftables has it; `cargo xtask setup --for lab` installs it)",
        )?;
    let written = match nft.stdin.take() {
        Some(mut stdin) => stdin.write_all(rules.as_bytes()),
        None => Ok(()),
    };
    let output = nft.wait_with_output().context("wait for nft")?;
    ensure!(
        output.status.success(),
        "load rules with nft: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    written.context("hand nft its rules")
}
