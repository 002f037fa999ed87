//! [`Subject`]: the host that is looked at, as it is written.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use crate::names::{HostName, HostNameError};

/// Where connects go when nothing else is said: HTTPS.
pub const DEFAULT_PORT: u16 = 443;

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// By its name.
    Name(HostName),
    /// By an address of its own.
    Address(IpAddr),
}

impl Host {
    /// The name, where it has one.
    #[must_use]
    pub const fn name(&self) -> Option<&HostName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, &self.host.to_string(), self.port)
    }
}

/// `name:port`, or `[address]:port`.
pub(super) fn write_place(f: &mut impl fmt::Write, host: &str, port: u16) -> fmt::Result {
    if host.parse::<Ipv6Addr>().is_ok() {
        write!(f, "[{host}]:{port}")
    } else {
        write!(f, "{host}:{port}")
    }
}

/// Why a text names no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// What stands before the port is no name.
    #[error("the name {0}")]
    Name(#[from] HostNameError),
    /// What stands behind the last colon is no port.
    #[error("the port is none")]
    Port,
    /// An address with a zone.
    #[error("an address with a zone cannot be looked at")]
    Zone,
    /// It has a scheme or a path.
    #[error("it is a URL")]
    Url,
}

impl SubjectError {
    /// A way out.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Name(error) => error.hint(),
            Self::Port => Some("ports are 1 to 65535"),
            Self::Zone => Some("leave the zone (`%…`) out: no rule covers link-local addresses"),
            Self::Url => Some("write the host alone, with a port if it is not 443: `db.example.com:5432`"),
        }
    }
}

impl FromStr for Subject {
    type Err = SubjectError;

    /// `name`, `name:port`, an address, `[address]`, `address:port` with brackets for IPv6.
    fn from_str(text: &str) -> Result<Self, SubjectError> {
        if text.contains('/') {
            return Err(SubjectError::Url);
        }
        if text.contains('%') {
            return Err(SubjectError::Zone);
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address = match bare {
            Some(bare) => bare.parse().ok().map(IpAddr::V6),
            None => text.parse().ok(),
        };
        if let Some(address) = address {
            return Ok(Self::of_address(address, DEFAULT_PORT));
        }
        if let Ok(place) = text.parse::<SocketAddr>() {
            return match place.port() {
                0 => Err(SubjectError::Port),
                port => Ok(Self::of_address(place.ip(), port)),
            };
        }
        let (name, port) = match text.rsplit_once(':') {
            None => (text, DEFAULT_PORT),
            Some((name, port)) => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (name, port.ok_or(SubjectError::Port)?)
            }
        };
        Ok(Self {
            host: Host::Name(name.parse()?),
            port,
        })
    }
}

impl Subject {
    /// IPv4 written as IPv6 is IPv4: that is where the packets go.
    fn of_address(address: IpAddr, port: u16) -> Self {
        Self {
            host: Host::Address(address.to_canonical()),
            port,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_with_and_without_a_port() {
        for (text, shown) in [
            ("Shop.example", "shop.example:443"),
            ("shop.example.:80", "shop.example:80"),
            ("2001:db8::1", "[2001:db8::1]:443"),
            ("[2001:db8::1]", "[2001:db8::1]:443"),
            ("[2001:db8::1]:5432", "[2001:db8::1]:5432"),
            ("192.0.2.1", "192.0.2.1:443"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("::ffff:192.0.2.1", "192.0.2.1:443"),
        ] {
            let subject: Subject = text.parse().unwrap();
            assert_eq!(subject.to_string(), shown, "{text}");
            // What is shown means the same.
            assert_eq!(shown.parse(), Ok(subject));
        }
    }

    #[test]
    fn what_is_none_is_said_with_a_way_out() {
        for text in [
            "shop.example:0",
            "shop.example:http",
            "192.0.2.1:65536",
            "[2001:db8::1]:0",
            "fe80::1%eth0",
            "https://shop.example",
            "2001:db8::/32",
        ] {
            let error = text.parse::<Subject>().unwrap_err();
            assert!(error.hint().is_some(), "{text}: {error}");
        }
        for text in ["", ":80", "a b", "127.1", "[192.0.2.1]", "shop..example"] {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
    }
}
