//! Addresses that an answer may contain and that nothing must follow from. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_common::address::EXEMPT_PREFIXES;
use ipnet::Ipv6Net;

/// How far whoever answers is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The host's own nameservers, or a target's that a policy trusts in so many words.
    Own,
    /// A target's: whoever runs it may say what they like, and must not direct connects to where only the host
    /// itself may go.
    Stranger,
}

/// Where clouds keep credentials of the machine, outside the link-local addresses: AWS, Google (both IPv6), Alibaba
/// and Azure, by their own documentation.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// Why an address of an answer is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// What the address is, for people.
    pub what: &'static str,
    /// Whether it would be used if whoever answered were trusted.
    pub for_want_of_trust: bool,
}

/// Why that address of an answer is not used; `None` if it is.
#[must_use]
pub fn why(address: IpAddr, trust: Trust) -> Option<Unusable> {
    let anyway = match address {
        IpAddr::V4(address) => why_v4(address),
        IpAddr::V6(address) => why_v6(address),
    };
    let of_stranger = || match trust {
        Trust::Own => None,
        Trust::Stranger => why_of_stranger(address),
    };
    let unusable = |for_want_of_trust| {
        move |what| Unusable {
            what,
            for_want_of_trust,
        }
    };
    anyway
        .map(unusable(false))
        .or_else(|| of_stranger().map(unusable(true)))
}

/// No rule of a policy matches these unless it names them.
fn why_v6(address: Ipv6Addr) -> Option<&'static str> {
    EXEMPT_PREFIXES.iter().find_map(|exempt| {
        let prefix = Ipv6Net::new(exempt.octets.into(), exempt.prefix_len).ok()?;
        prefix.contains(&address).then_some(exempt.what)
    })
}

/// Nobody can be reached there by a connect.
fn why_v4(address: Ipv4Addr) -> Option<&'static str> {
    if address.octets()[0] == 0 {
        Some("an address of no host (RFC 1122 section 3.2.1.3)")
    } else if address.is_multicast() {
        Some("a multicast address (RFC 5771)")
    } else if address.is_broadcast() {
        Some("the broadcast address (RFC 919)")
    } else {
        None
    }
}

fn why_of_stranger(address: IpAddr) -> Option<&'static str> {
    if address.is_loopback() {
        Some("a loopback address")
    } else if METADATA.contains(&address) {
        Some("where the cloud keeps this machine's credentials")
    } else {
        match address {
            // 169.254.169.254 and the like among them.
            IpAddr::V4(address) if address.is_link_local() => Some("a link-local address"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, trust: Trust) -> bool {
        why(address.parse().unwrap(), trust).is_some()
    }

    #[test]
    fn what_no_wide_rule_matches_is_no_answer() {
        for exempt in EXEMPT_PREFIXES {
            assert!(
                why(IpAddr::from(exempt.octets), Trust::Own).is_some(),
                "{}",
                exempt.what
            );
        }
        for address in ["::", "::1", "fe80::1", "febf::1", "ff02::1", "::ffff:192.0.2.1"] {
            assert!(refused(address, Trust::Own), "{address}");
        }
        for address in ["2001:db8::1", "fd00::1", "::2", "fec0::1", "64:ff9b::c000:201"] {
            assert!(!refused(address, Trust::Stranger), "{address}");
        }
    }

    #[test]
    fn what_nobody_can_connect_to_is_no_answer() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
        ] {
            assert!(refused(address, Trust::Own), "{address}");
        }
        for address in ["192.0.2.1", "10.0.0.1", "172.17.0.2", "192.168.1.1", "100.64.0.1"] {
            assert!(!refused(address, Trust::Stranger), "{address}");
        }
    }

    #[test]
    fn a_stranger_may_not_point_into_the_host_or_its_cloud() {
        for address in [
            "127.0.0.1",
            "127.8.9.10",
            "169.254.1.1",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "fd00:ec2::254",
            "fd20:ce::254",
        ] {
            assert!(refused(address, Trust::Stranger), "{address}");
            assert!(!refused(address, Trust::Own), "{address}");
        }
    }
}
