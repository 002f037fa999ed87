//! [`BlackHole`]: a host whose IPv6 looks healthy and is broken, and an internet that it reaches by IPv4 only.
//!
//! ```text
//! host                                            internet
//!   lan0  203.0.113.2/24       ── virtual cable ──  host0  203.0.113.1/24
//!   lan0  2001:db8:77::2/64                         host0  IPv6 switched off
//!   default route 2001:db8:77::1,
//!     whose hardware address is known for ever
//! ```
//!
//! So an IPv6 packet is sent, and vanishes: nobody asks who has the router's address, which would end in
//! EHOSTUNREACH after three seconds, and nobody answers anything. veth is all it needs of the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use ipnet::Ipv6Net;

use crate::netns::NetnsFixture;

/// The host's interface.
pub const HOST_INTERFACE: &str = "lan0";
/// The other end of its cable.
const INTERNET_INTERFACE: &str = "host0";

/// The host's IPv4 address (RFC 5737).
pub const HOST_IPV4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The address at which the internet is reached by IPv4.
pub const INTERNET_IPV4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// The host's IPv6 address (RFC 3849).
pub const HOST_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 2);
/// The host's router, which is not there.
const ROUTER_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 1);
/// A locally administered address that no interface has.
const ROUTER_HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The host and its internet.
#[derive(Debug)]
pub struct BlackHole {
    /// Where clients run.
    pub host: NetnsFixture,
    /// Where servers run, on [`INTERNET_IPV4`].
    pub internet: NetnsFixture,
}

impl BlackHole {
    /// Makes both.
    ///
    /// # Errors
    ///
    /// When a namespace, the cable (veth) or an address cannot be made.
    pub fn new() -> Result<Self> {
        let made = || -> Result<Self> {
            let internet = NetnsFixture::new()?;
            let host = NetnsFixture::new()?;
            host.add_cable(HOST_INTERFACE, &internet, INTERNET_INTERFACE)?;
            internet.set(&format!("ipv6/conf/{INTERNET_INTERFACE}/disable_ipv6"), "1")?;
            internet.add_address(INTERNET_INTERFACE, INTERNET_IPV4.into(), 24)?;
            host.add_address(HOST_INTERFACE, HOST_IPV4.into(), 24)?;
            host.add_address(HOST_INTERFACE, HOST_IPV6.into(), 64)?;
            host.add_neighbour(HOST_INTERFACE, ROUTER_IPV6.into(), ROUTER_HARDWARE)?;
            host.add_route(Ipv6Net::default(), HOST_INTERFACE, Some(IpAddr::V6(ROUTER_IPV6)))?;
            Ok(Self { host, internet })
        };
        made().context("make a host whose IPv6 is a black hole")
    }
}
