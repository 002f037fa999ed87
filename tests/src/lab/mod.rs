//! [`Lab`]: a client, a router and a server, a name that leads from one to the other, and IPv6 broken in a way that
//! is seen in the field.
//!
//! ```text
//! client                            router                              server
//!   uplink  192.0.2.2/24        ──  inside   192.0.2.1/24
//!           2001:db8:77::2/64                2001:db8:77::1/64
//!                                   outside  203.0.113.254/24       ──  uplink  203.0.113.1/24
//!                                            2001:db8:99::1/64                  2001:db8:99::2/64
//!                                   port 53  the nameserver             lo      2001:db8:a::80/128
//! ```
//!
//! Each [`Breakage`] is one change to that, and IPv4 works in all of them. The name [`NAME`] has the server's two
//! addresses; the server answers HTTP at port 80 and echoes at port 7, by TCP and UDP.
//!
//! Three network namespaces without a name, held by descriptors of this process: all of it is gone with the
//! fixture, and with the process, however that ends. veth and routes are all it needs of the kernel; only
//! [`Breakage::Slow`] needs nftables and its program `nft`.

mod breakage;
mod nameserver;
mod wiring;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;

use self::wiring::Wiring;
pub use self::{
    breakage::Breakage,
    nameserver::{Asked, Nameserver},
};
use crate::{
    cgroup::CgroupFixture, names::NamesFixture, netns::NetnsFixture, place::Place, server::Server, unique,
};

/// The name that the client knows (RFC 2606).
pub const NAME: &str = "shop.example";

/// The server's IPv4 address (RFC 5737).
pub const SERVER_IPV4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The server's IPv6 address (RFC 3849).
pub const SERVER_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x80);
/// The prefix to write a rule about: it covers [`SERVER_IPV6`] and no other address of the lab.
pub const PREFIX: &str = "2001:db8:a::/48";

/// The client's IPv6 address, but for [`Breakage::NoAddress`].
pub const CLIENT_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 2);
/// The client's interface, the only one beside loopback.
pub const CLIENT_INTERFACE: &str = wiring::UPLINK;
/// Where the client's nameserver is.
pub const NAMESERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Where the server answers HTTP.
pub const HTTP_PORT: u16 = 80;
/// Where the server sends back what it gets.
pub const ECHO_PORT: u16 = 7;

/// The page that the server answers with.
pub const PAGE: &str = "Hello from the lab.\n";

/// Names the program that makes labs for people where it does not lie beside the running one.
pub const PROGRAM_VARIABLE: &str = "ENFORCER_LAB";

/// Path of the program that makes labs for people.
///
/// # Errors
///
/// When it was not built.
pub fn program() -> Result<PathBuf> {
    unique::built_program("enforcer-lab", PROGRAM_VARIABLE)
}

/// A lab, until it is dropped. Fields are dropped in order: nobody serves, and then the places go.
#[derive(Debug)]
pub struct Lab {
    /// Answers HTTP.
    pub http: Server,
    /// Sends back what it gets.
    pub echo: Server,
    /// Knows [`NAME`], until it is told otherwise.
    pub nameserver: Nameserver,
    names: NamesFixture,
    wiring: Wiring,
    breakage: Breakage,
}

impl Lab {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// When a part of it cannot be made: root, veth, `/etc/resolv.conf`, `nft` for [`Breakage::Slow`].
    pub fn new(breakage: Breakage) -> Result<Self> {
        Self::make(breakage).with_context(|| format!("make a lab: {breakage}"))
    }

    /// Makes one around a client's side that is there already, a container's: it has loopback and nothing else. A process
    /// in it needs the lab's names in a way of its own.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and when there is something else in it.
    pub fn around(client: NetnsFixture, breakage: Breakage) -> Result<Self> {
        Wiring::around(client, breakage)
            .and_then(|wiring| Self::on(wiring, breakage))
            .with_context(|| format!("make a lab: {breakage}"))
    }

    fn make(breakage: Breakage) -> Result<Self> {
        Self::on(Wiring::around(NetnsFixture::new()?, breakage)?, breakage)
    }

    fn on(wiring: Wiring, breakage: Breakage) -> Result<Self> {
        let names = NamesFixture::of_nameserver(NAMESERVER.into())?;
        let listening = |port| breakage.listening(port);
        let addresses = breakage.addresses();
        let records = addresses.into_iter().map(|address| (NAME, address));
        Ok(Self {
            http: Server::http(&wiring.server, listening(HTTP_PORT), PAGE)?,
            echo: Server::echo(&wiring.server, listening(ECHO_PORT))?,
            nameserver: Nameserver::start(&wiring.router, NAMESERVER.into(), records)?,
            names,
            wiring,
            breakage,
        })
    }

    /// From now on the router loses IPv6 packets of more than 1280 octets, and says nothing: a path MTU black hole. Beside
    /// the breakage, which is another matter.
    ///
    /// # Errors
    ///
    /// Without `nft`.
    pub fn lose_long_packets(&self) -> Result<()> {
        self.wiring.lose_long_packets()
    }

    /// Starts another server of HTTP at that port of the server's addresses, or of those of IPv4 alone.
    ///
    /// # Errors
    ///
    /// When the port is taken.
    pub fn serve_http(&self, addresses: &[IpAddr], port: u16) -> Result<Server> {
        let addresses = addresses.iter().map(|address| SocketAddr::new(*address, port));
        Server::http(&self.wiring.server, addresses, PAGE)
    }

    /// What is broken.
    #[must_use]
    pub const fn breakage(&self) -> Breakage {
        self.breakage
    }

    /// The name to connect to, where there is one.
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        (!self.breakage.addresses().is_empty()).then_some(NAME)
    }

    /// The client's network namespace. A process also needs the lab's names: see [`outside`](Self::outside).
    #[must_use]
    pub const fn client(&self) -> &NetnsFixture {
        &self.wiring.client
    }

    /// The server's network namespace, for more servers; [`Breakage::listening`] says where they are to listen.
    #[must_use]
    pub const fn server(&self) -> &NetnsFixture {
        &self.wiring.server
    }

    /// Drops, at the router, every IPv6 packet that is to be forwarded, as a firewall does whose rules were written for IPv4.
    /// The nameserver is asked by IPv4, so AAAA records go through.
    ///
    /// # Errors
    ///
    /// When `nft` is not there or refuses.
    pub fn drop_ipv6(&self) -> Result<()> {
        self.wiring.drop_ipv6()
    }

    /// Lets the router know a network behind the client: that of containers which run there.
    ///
    /// # Errors
    ///
    /// When there is such a route already.
    pub fn route_to_client(&self, network: Ipv4Net) -> Result<()> {
        self.wiring.route_to_client(network)
    }

    /// The client's side, with the lab's resolver, in the cgroup of whoever starts a process there.
    #[must_use]
    pub const fn outside(&self) -> Place<'_> {
        Place::outside(&self.wiring.client).with_names(&self.names)
    }

    /// The client's side, with the lab's resolver, in that cgroup.
    #[must_use]
    pub const fn inside<'lab>(&'lab self, cgroup: &'lab CgroupFixture) -> Place<'lab> {
        Place::new(cgroup, &self.wiring.client).with_names(&self.names)
    }
}
