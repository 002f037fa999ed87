//! In which order programs try the addresses of a name: as the C library of this process says, or where that is not the
//! one that counts, as RFC 6724 says.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, ToSocketAddrs as _},
    time::{Duration, Instant},
};

use super::{
    connect::micros,
    findings::{By, Order},
};
use crate::names::HostName;

/// Asks the C library, on a thread of its own: it cannot be interrupted, and after `limit` nobody waits for it any more.
pub(super) async fn getaddrinfo(name: &HostName, port: u16, limit: Duration) -> Order {
    let start = Instant::now();
    let (answer, answered) = tokio::sync::oneshot::channel();
    let wanted = (name.to_string(), port);
    let lookup =
        move || -> io::Result<Vec<IpAddr>> { Ok(wanted.to_socket_addrs()?.map(|it| it.ip()).collect()) };
    let spawned = std::thread::Builder::new()
        .name("enforcer-names".to_owned())
        .spawn(move || drop(answer.send(lookup())));
    let found = match spawned {
        Err(error) => Err(error.to_string()),
        Ok(_detached) => match tokio::time::timeout(limit, answered).await {
            Ok(Ok(Ok(addresses))) => Ok(addresses),
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Ok(Err(_)) => Err("it ended without an answer".to_owned()),
            Err(_elapsed) => Err("no answer in time".to_owned()),
        },
    };
    let (addresses, error) = match found {
        Ok(addresses) => (once_each(addresses.into_iter().map(|it| it.to_canonical())), None),
        Err(error) => (Vec::new(), Some(error)),
    };
    Order {
        by: By::Getaddrinfo,
        addresses,
        error,
        time_us: Some(micros(start)),
    }
}

/// Each address once, where it came first.
pub(super) fn once_each(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut seen = Vec::new();
    for address in addresses {
        if !seen.contains(&address) {
            seen.push(address);
        }
    }
    seen
}

/// Destination address selection (RFC 6724 section 6), with the rules that need no more than source addresses: 1, 2, 5, 6,
/// 8, 9, 10.
pub(super) fn rank(mut candidates: Vec<(IpAddr, Option<IpAddr>)>) -> Vec<IpAddr> {
    candidates.sort_by_key(|(to, source)| {
        let Some(source) = *source else {
            // Rule 1: nothing else matters where nothing can be sent.
            return (true, false, false, 0, 0, 0);
        };
        let to_scope = scope(*to);
        let (precedence, to_label) = policy(*to);
        (
            false,
            to_scope != scope(source),
            to_label != policy(source).1,
            i32::MIN + i32::from(u8::MAX - precedence),
            to_scope,
            128 - common_prefix(*to, source),
        )
    });
    candidates.into_iter().map(|(to, _)| to).collect()
}

/// The policy table of RFC 6724 section 2.1: precedence and label of the longest prefix.
fn policy(address: IpAddr) -> (u8, u8) {
    const TABLE: [(Ipv6Addr, u8, u8, u8); 9] = [
        (Ipv6Addr::LOCALHOST, 128, 50, 0),
        (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, 35, 4),
        (Ipv6Addr::UNSPECIFIED, 96, 1, 3),
        (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 5, 5),
        (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 30, 2),
        (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16, 1, 12),
        (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, 1, 11),
        (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, 3, 13),
        (Ipv6Addr::UNSPECIFIED, 0, 40, 1),
    ];
    let address = mapped(address);
    let row = TABLE
        .iter()
        .find(|(prefix, length, ..)| shared_bits(*prefix, address) >= u32::from(*length));
    row.map_or((40, 1), |(_, _, precedence, label)| (*precedence, *label))
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn shared_bits(one: Ipv6Addr, other: Ipv6Addr) -> u32 {
    (one.to_bits() ^ other.to_bits()).leading_zeros()
}

/// Rule 9 is for IPv6: which of several IPv4 addresses comes first is the nameserver's to say.
fn common_prefix(to: IpAddr, source: IpAddr) -> u32 {
    match (to, source) {
        (IpAddr::V6(to), IpAddr::V6(source)) => shared_bits(to, source),
        _ => 128,
    }
}

/// Scopes of RFC 6724 section 3.1 and 3.2.
fn scope(address: IpAddr) -> u8 {
    const LINK_LOCAL: u8 = 2;
    const SITE_LOCAL: u8 = 5;
    const GLOBAL: u8 = 14;
    match address {
        IpAddr::V4(address) if address.is_loopback() || address.is_link_local() => LINK_LOCAL,
        IpAddr::V4(_) => GLOBAL,
        IpAddr::V6(address) if address.is_multicast() => address.octets()[1] & 0xf,
        IpAddr::V6(address) if address.is_loopback() || address.is_unicast_link_local() => LINK_LOCAL,
        IpAddr::V6(address) if address.segments()[0] & 0xffc0 == 0xfec0 => SITE_LOCAL,
        IpAddr::V6(_) => GLOBAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(candidates: &[(&str, &str)], expected: &[&str]) {
        let parsed = candidates.iter().map(|(to, source)| {
            let source = (!source.is_empty()).then(|| source.parse().unwrap());
            (to.parse().unwrap(), source)
        });
        let ranked = rank(parsed.collect());
        let ranked: Vec<_> = ranked.iter().map(ToString::to_string).collect();
        assert_eq!(ranked, expected, "{candidates:?}");
    }

    /// Of RFC 6724 section 10.2, those that need no home or deprecated addresses.
    #[test]
    fn the_standards_own_examples() {
        check(
            &[
                ("198.51.100.121", "169.254.13.78"),
                ("2001:db8:1::1", "2001:db8:1::2"),
            ],
            &["2001:db8:1::1", "198.51.100.121"],
        );
        check(
            &[("2001:db8:1::1", "fe80::1"), ("198.51.100.121", "198.51.100.117")],
            &["198.51.100.121", "2001:db8:1::1"],
        );
        check(
            &[("10.1.2.3", "10.1.2.4"), ("2001:db8:1::1", "2001:db8:1::2")],
            &["2001:db8:1::1", "10.1.2.3"],
        );
        check(
            &[("2001:db8:1::1", "2001:db8:1::2"), ("fe80::1", "fe80::2")],
            &["fe80::1", "2001:db8:1::1"],
        );
        check(
            &[
                ("2002:c633:6401::1", "2002:c633:6401::2"),
                ("2001:db8:1::1", "2001:db8:1::2"),
            ],
            &["2001:db8:1::1", "2002:c633:6401::1"],
        );
    }

    #[test]
    fn what_has_no_source_comes_last_and_equals_stay_as_they_are() {
        check(
            &[("2001:db8::1", ""), ("192.0.2.1", "192.0.2.2")],
            &["192.0.2.1", "2001:db8::1"],
        );
        check(
            &[("192.0.2.9", "192.0.2.2"), ("192.0.2.1", "192.0.2.2")],
            &["192.0.2.9", "192.0.2.1"],
        );
    }

    #[test]
    fn an_ipv6_address_that_is_redirected_to_ipv4_comes_behind_ipv4() {
        // As C libraries do: its source has another label.
        check(
            &[("2001:db8::1", "192.0.2.2"), ("192.0.2.1", "192.0.2.2")],
            &["192.0.2.1", "2001:db8::1"],
        );
    }

    #[tokio::test]
    async fn the_c_library_knows_localhost() {
        let name = "localhost".parse().unwrap();
        let found = getaddrinfo(&name, 80, Duration::from_secs(60)).await;
        assert!(found.addresses.iter().all(IpAddr::is_loopback), "{found:?}");
        assert!(!found.addresses.is_empty(), "{found:?}");
    }
}
