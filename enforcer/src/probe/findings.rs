//! What was measured, as plain data: it is what a helper hands on, what is diagnosed, and what `--output json` writes.
//! docs/probe.md documents every field, and a test of the sink's compares.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Everything about one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Findings {
    /// As it was asked for, without the port.
    pub host: String,
    /// Where connects went.
    pub port: u16,
    /// Whether the kernel makes IPv6 sockets at all.
    pub ipv6_sockets: bool,
    /// What nameservers and files say of the name; `None` where an address was asked for.
    pub names: Option<Names>,
    /// What programs try, in that order.
    pub order: Order,
    /// Prefixes of this network in which IPv4 addresses can be reached (NAT64); `None` where nobody could tell.
    pub nat64: Option<Vec<String>>,
    /// Each address of the host, in the order of [`order`](Self::order).
    pub addresses: Vec<Address>,
    /// IPv4 addresses that stand for an IPv6 address of a host that has none itself: what its prefix of a NAT64 says,
    /// and those of the name that it leads back to.
    pub twins: Vec<Twin>,
    /// Addresses that were not looked at because there are too many.
    pub left_out: usize,
    /// Whether time ran out: what is missing was not measured.
    pub out_of_time: bool,
    /// How long all of it took.
    pub time_us: u64,
}

impl Findings {
    /// The IPv6 addresses of the host.
    pub fn ipv6(&self) -> impl Iterator<Item = (&Address, Ipv6Addr)> {
        self.addresses.iter().filter_map(|it| match it.address {
            IpAddr::V6(address) => Some((it, address)),
            IpAddr::V4(_) => None,
        })
    }

    /// The IPv4 addresses of the host.
    pub fn ipv4(&self) -> impl Iterator<Item = (&Address, Ipv4Addr)> {
        self.addresses.iter().filter_map(|it| match it.address {
            IpAddr::V4(address) => Some((it, address)),
            IpAddr::V6(_) => None,
        })
    }
}

/// What is said of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// What nameservers say.
    pub aaaa: Said,
    /// What nameservers say.
    pub a: Said,
    /// What `/etc/hosts` lists: where there is any, programs ask nobody.
    pub hosts_file: Vec<IpAddr>,
    /// How long asking took, for both.
    pub time_us: u64,
}

/// An answer of nameservers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// What kind of answer.
    pub state: Lookup,
    /// Sorted.
    pub addresses: Vec<IpAddr>,
    /// How long it may be remembered.
    pub ttl_secs: Option<u32>,
    /// Why there is no answer.
    pub why: Option<String>,
}

/// What kind of answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lookup {
    /// There are some.
    Found,
    /// The name exists, and has none.
    None,
    /// The name does not exist.
    NoSuchName,
    /// Nobody says anything that counts.
    Failed,
}

/// In which order programs try the addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Who says so.
    pub by: By,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// Why there is none.
    pub error: Option<String>,
    /// How long it took; `None` where nothing was asked.
    pub time_us: Option<u64>,
}

/// Who says in which order addresses are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// Nobody has to: it is one address.
    #[default]
    Literal,
    /// This host's C library.
    Getaddrinfo,
    /// RFC 6724, by the same probes of the kernel that C libraries make: what the C library of a target says cannot be had
    /// without running code in it.
    Rfc6724,
}

/// Everything about one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// What the kernel says without sending anything.
    pub way: Way,
    /// TCP connects. There is a second one where the first had not ended within a second.
    pub connects: Vec<Connect>,
    /// ICMPv6 echo; `None` for IPv4.
    pub echo: Option<Echo>,
    /// What was said over the first connection; `None` where the port does not suggest what to say, or none came about.
    pub exchange: Option<Exchange>,
    /// The names that it leads back to; `None` where that was not asked in time.
    pub reverse: Option<Reverse>,
}

/// The way to an address, as the kernel sees it: a UDP socket is connected, and the routing table asked. Sends nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Way {
    /// The source address that is used. One of IPv4 for an address of IPv6 says that a program redirects the connect.
    pub source: Option<IpAddr>,
    /// Why there is none.
    pub errno: Option<String>,
    /// The next hop; `None` where the address is on a link of this host.
    pub gateway: Option<IpAddr>,
    /// The interface.
    pub interface: Option<String>,
    /// The kind of route, where it leads nowhere: `blackhole`, `unreachable`, `prohibit`.
    pub dead_end: Option<String>,
    /// The longest packet that the kernel would send, by what it knows before.
    pub mtu: Option<u32>,
    /// How long asking took.
    pub time_us: u64,
}

/// How something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// As it should.
    Done,
    /// With an error.
    Failed,
    /// It had not ended when the time given to it was over.
    Silent,
    /// It could not be tried.
    Untried,
}

/// One TCP connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// How it ended.
    pub end: End,
    /// With which error.
    pub errno: Option<String>,
    /// How often the SYN was sent again, where it succeeded and the kernel says so.
    pub retransmits: Option<u32>,
    /// How long it took; from when it began, also for the second.
    pub time_us: u64,
}

/// ICMPv6 echo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Echo {
    /// How the short one ended, of as many octets as every link carries.
    pub end: End,
    /// With which error; or why it could not be tried.
    pub why: Option<String>,
    /// How long it took.
    pub time_us: u64,
    /// As long as the way allows; `None` where the short one was not answered, or is as long.
    pub large: Option<Large>,
}

/// An ICMPv6 echo as long as the kernel believes the way to carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Large {
    /// Octets of the packet.
    pub octets: u32,
    /// How it ended.
    pub end: End,
    /// The shorter length that a router asked for meanwhile. Then the echo was of that length.
    pub learned: Option<u32>,
}

/// A few words over a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// In which protocol.
    pub protocol: Protocol,
    /// How it ended: [`End::Silent`] where nothing came back.
    pub end: End,
    /// What came of it: the version of TLS, the status of HTTP, or why it failed.
    pub detail: String,
    /// How long it took, after the connect.
    pub time_us: u64,
}

/// A protocol in which the client speaks first, and every server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// A handshake. No certificate is verified.
    Tls,
    /// A request of two packets.
    Http,
}

/// Where an address leads back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reverse {
    /// What that is worth.
    pub state: Back,
    /// The names.
    pub names: Vec<String>,
    /// How long that may be remembered.
    pub ttl_secs: Option<u32>,
    /// The record that is missing, as a line of a zone file.
    pub record: Option<String>,
    /// Why there is no answer.
    pub why: Option<String>,
    /// How long it took.
    pub time_us: u64,
}

/// What the names that an address leads back to are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Back {
    /// The name that was asked for; where an address was, a name that has it.
    Confirmed,
    /// Another name, which has this address: as in shared hosting.
    OtherName,
    /// Names that do not have this address.
    Wrong,
    /// There is no record.
    Missing,
    /// Nobody says anything that counts.
    Failed,
}

/// An IPv4 address that stands for an IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Twin {
    /// What it stands for.
    pub of: Ipv6Addr,
    /// The name that both have; `None` where it is inside the address (RFC 6052).
    pub name: Option<String>,
    /// What was found on the way to it.
    pub address: Address,
}
