//! [`Breakage`]: the ways in which IPv6 is broken in the field, as data. How each is built is the business of
//! `wiring`.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use anyhow::{Context as _, Error, Result};

use super::{SERVER_IPV4, SERVER_IPV6};
use crate::netns::DeadEnd;

/// What is wrong with the lab's IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Breakage {
    /// Nothing.
    Healthy,
    /// IPv6 is switched off on every interface of the client, as container engines do it: no address, not even
    /// `::1`.
    NoAddress,
    /// The client has an address, and no route that leads beyond its own link.
    NoRoute,
    /// Address, default route, and a router that says nothing: packets vanish.
    BlackHole,
    /// The router answers that it has no route (ICMPv6 type 1, code 0).
    IcmpNoRoute,
    /// The router answers that an administrator prohibits it (ICMPv6 type 1, code 1).
    Prohibited,
    /// IPv6 works, and nothing listens there: the server answers with a reset.
    Refused,
    /// The router drops the first two SYNs of each TCP connection over IPv6. The third is sent after three seconds,
    /// or after two where the kernel first waits as long each time (`net.ipv4.tcp_syn_linear_timeouts`, from 6.5).
    Slow,
    /// A black hole, and the name has no other address.
    AaaaOnly,
    /// A black hole, and there is no name: the client was given the address itself.
    Literal,
}

impl Breakage {
    /// All of them, the healthy one first.
    pub const ALL: [Self; 10] = [
        Self::Healthy,
        Self::NoAddress,
        Self::NoRoute,
        Self::BlackHole,
        Self::IcmpNoRoute,
        Self::Prohibited,
        Self::Refused,
        Self::Slow,
        Self::AaaaOnly,
        Self::Literal,
    ];

    /// What it is called on a command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::NoAddress => "no-address",
            Self::NoRoute => "no-route",
            Self::BlackHole => "black-hole",
            Self::IcmpNoRoute => "icmp-no-route",
            Self::Prohibited => "prohibited",
            Self::Refused => "refused",
            Self::Slow => "slow",
            Self::AaaaOnly => "aaaa-only",
            Self::Literal => "literal",
        }
    }

    /// What a person sees of it, in a line.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Healthy => "nothing is broken",
            Self::NoAddress => "no IPv6 address at all: connect ends in EADDRNOTAVAIL at once",
            Self::NoRoute => "an address and no default route: connect ends in ENETUNREACH at once",
            Self::BlackHole => "packets vanish: connect hangs",
            Self::IcmpNoRoute => "the router answers \"no route\": connect ends in ENETUNREACH",
            Self::Prohibited => "the router answers \"administratively prohibited\": connect ends in EACCES",
            Self::Refused => "nothing listens by IPv6: connect ends in ECONNREFUSED",
            Self::Slow => {
                "the first two SYNs of each connection are lost: connect takes two or three seconds"
            }
            Self::AaaaOnly => "packets vanish, and the name has no A record",
            Self::Literal => "packets vanish, and there is only an address, no name",
        }
    }

    /// What the name leads to: the server's addresses, none where there is no name.
    #[must_use]
    pub fn addresses(self) -> Vec<IpAddr> {
        match self {
            Self::Literal => vec![],
            Self::AaaaOnly => vec![SERVER_IPV6.into()],
            _ => vec![SERVER_IPV6.into(), SERVER_IPV4.into()],
        }
    }

    /// Where a server of the lab listens.
    #[must_use]
    pub fn listening(self, port: u16) -> Vec<SocketAddr> {
        let ipv6 = self.serves_ipv6().then_some(IpAddr::from(SERVER_IPV6));
        let addresses = [SERVER_IPV4.into()].into_iter().chain(ipv6);
        addresses.map(|address| SocketAddr::new(address, port)).collect()
    }

    /// Whether the server listens by IPv6. Where packets do not get that far it does not matter.
    const fn serves_ipv6(self) -> bool {
        matches!(self, Self::Healthy | Self::Slow)
    }

    /// What the router does with packets for the server instead of forwarding them.
    pub(super) const fn dead_end(self) -> Option<DeadEnd> {
        match self {
            Self::BlackHole | Self::AaaaOnly | Self::Literal => Some(DeadEnd::BlackHole),
            Self::IcmpNoRoute => Some(DeadEnd::Unreachable),
            Self::Prohibited => Some(DeadEnd::Prohibit),
            Self::Healthy | Self::NoAddress | Self::NoRoute | Self::Refused | Self::Slow => None,
        }
    }
}

impl fmt::Display for Breakage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Breakage {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|breakage| breakage.name() == name);
        found.with_context(|| {
            format!(
                "{name:?} is no breakage\nhint: there are {}",
                Self::ALL.map(Self::name).join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_by_its_name_and_nothing_else_is() {
        for breakage in Breakage::ALL {
            assert_eq!(breakage.to_string().parse::<Breakage>().unwrap(), breakage);
        }
        let error = "blackhole".parse::<Breakage>().unwrap_err().to_string();
        assert!(error.contains("hint: there are healthy, no-address, "), "{error}");
    }
}
