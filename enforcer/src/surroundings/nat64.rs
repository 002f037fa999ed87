//! The NAT64 prefix of this network, learned as RFC 7050 says: by asking for a name that has only IPv4
//! addresses and seeing whether the resolver makes up IPv6 ones.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs as _},
    time::Duration,
};

use ipnet::Ipv6Net;

/// The name with only IPv4 addresses (RFC 7050 section 8.1).
pub(crate) const IPV4_ONLY: &str = "ipv4only.arpa";

/// Its addresses (RFC 7050 section 8.2).
const WELL_KNOWN_ADDRS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];

/// The prefix to use where the network has none of its own (RFC 6052 section 2.1).
pub(crate) fn well_known_prefix() -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96)
}

/// For each prefix length, which octets of the IPv6 address hold the IPv4 address (RFC 6052 section 2.2).
/// Octet 8 is always zero and skipped.
const POSITIONS: [(u8, [usize; 4]); 6] = [
    (96, [12, 13, 14, 15]),
    (64, [9, 10, 11, 12]),
    (56, [7, 9, 10, 11]),
    (48, [6, 7, 9, 10]),
    (40, [5, 6, 7, 9]),
    (32, [4, 5, 6, 7]),
];

/// What is known of NAT64 in this network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Nat64 {
    /// Nobody could tell: the resolver did not answer in time, or did not know the name.
    #[default]
    Unknown,
    /// The resolver answered, and makes up no addresses.
    Absent,
    /// It makes up addresses in these prefixes.
    Found(Vec<Ipv6Net>),
}

/// Asks the system's resolver, for at most `limit`.
///
/// # Errors
///
/// Why nobody could tell.
pub(super) async fn detect(limit: Duration) -> io::Result<Nat64> {
    let addrs = within(limit, || {
        (IPV4_ONLY, 0)
            .to_socket_addrs()
            .map(|addrs| addrs.map(|it| it.ip()).collect())
    });
    Ok(evaluate(&addrs.await?))
}

/// Runs a lookup on a thread of its own, not the runtime's: the C library's cannot be cancelled, and a runtime
/// waits for its blocking threads when it ends. After `limit` nobody waits for the answer any more.
async fn within<F>(limit: Duration, lookup: F) -> io::Result<Vec<IpAddr>>
where
    F: FnOnce() -> io::Result<Vec<IpAddr>> + Send + 'static,
{
    let (answer, answered) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("enforcer-nat64".to_owned())
        .spawn(move || drop(answer.send(lookup())))?;
    match tokio::time::timeout(limit, answered).await {
        Ok(Ok(addrs)) => addrs,
        Ok(Err(_)) => Err(io::Error::other("the lookup ended without an answer")),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What the addresses of [`IPV4_ONLY`] say.
pub(crate) fn evaluate(addrs: &[IpAddr]) -> Nat64 {
    let mut prefixes: Vec<Ipv6Net> = Vec::new();
    let mut is_real = false;
    for addr in addrs {
        match addr {
            IpAddr::V4(addr) => is_real |= WELL_KNOWN_ADDRS.contains(addr),
            IpAddr::V6(addr) => prefixes.extend(prefix_of(*addr)),
        }
    }
    prefixes.sort_unstable();
    prefixes.dedup();
    if !prefixes.is_empty() {
        Nat64::Found(prefixes)
    } else if is_real {
        Nat64::Absent
    } else {
        // Whoever answers with other addresses answers every name with them: a captive portal.
        Nat64::Unknown
    }
}

/// The NAT64 prefix that a made-up address shows. `None` if it holds none of the well-known addresses, or
/// holds one at more than one place, so that nobody can tell (RFC 7050 section 3).
fn prefix_of(addr: Ipv6Addr) -> Option<Ipv6Net> {
    let octets = addr.octets();
    let mut lengths = POSITIONS
        .iter()
        .filter(|(_, at)| WELL_KNOWN_ADDRS.contains(&Ipv4Addr::from(at.map(|index| octets[index]))))
        .filter(|(prefix_len, _)| *prefix_len == 96 || octets[8] == 0)
        .map(|(prefix_len, _)| *prefix_len);
    let prefix_len = lengths.next()?;
    if lengths.next().is_some() {
        return None;
    }
    Some(Ipv6Net::new(addr, prefix_len).ok()?.trunc())
}

/// The IPv4 address in an address of a NAT64 prefix. `None` for an address outside of it, and for a prefix length that has
/// no place for one.
pub(crate) fn ipv4_inside(prefix: Ipv6Net, addr: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = addr.octets();
    let (_, at) = POSITIONS
        .iter()
        .find(|(prefix_len, _)| *prefix_len == prefix.prefix_len())?;
    prefix
        .contains(&addr)
        .then(|| Ipv4Addr::from(at.map(|index| octets[index])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addrs: &[&str]) -> Nat64 {
        evaluate(&addrs.iter().map(|addr| addr.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn prefix_is_found_at_every_position() {
        // The prefixes of RFC 6052 section 2.4, with 192.0.0.170 in place of its example.
        for (made_up, prefix) in [
            ("2001:db8:c000:aa::", "2001:db8::/32"),
            ("2001:db8:1c0:0:aa::", "2001:db8:100::/40"),
            ("2001:db8:122:c000:0:aa00::", "2001:db8:122::/48"),
            ("2001:db8:122:3c0:0:aa::", "2001:db8:122:300::/56"),
            ("2001:db8:122:344:c0:0:aa00::", "2001:db8:122:344::/64"),
            ("2001:db8:122:344::c000:aa", "2001:db8:122:344::/96"),
            ("64:ff9b::c000:ab", "64:ff9b::/96"),
        ] {
            assert_eq!(
                found(&[made_up, "192.0.0.170"]),
                Nat64::Found(vec![prefix.parse().unwrap()]),
                "{made_up}"
            );
        }
    }

    #[test]
    fn the_address_inside_is_found_in_its_prefix_and_nowhere_else() {
        // RFC 6052 section 2.4.
        for (prefix, addr) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100:0"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
        ] {
            let (prefix, addr) = (prefix.parse().unwrap(), addr.parse().unwrap());
            assert_eq!(ipv4_inside(prefix, addr), Some(Ipv4Addr::new(192, 0, 2, 33)));
            assert_eq!(ipv4_inside(prefix, "2001:db9::1".parse().unwrap()), None);
        }
        assert_eq!(
            ipv4_inside("2001:db8::/33".parse().unwrap(), "2001:db8::1".parse().unwrap()),
            None
        );
    }

    #[test]
    fn both_addresses_show_one_prefix() {
        let both = found(&["64:ff9b::c000:aa", "64:ff9b::c000:ab"]);
        assert_eq!(both, Nat64::Found(vec![well_known_prefix()]));
    }

    #[test]
    fn resolver_that_makes_nothing_up_says_so() {
        assert_eq!(found(&["192.0.0.170", "192.0.0.171"]), Nat64::Absent);
    }

    #[test]
    fn other_answers_tell_nothing() {
        assert_eq!(found(&[]), Nat64::Unknown);
        assert_eq!(found(&["198.51.100.1", "2001:db8::1"]), Nat64::Unknown);
        // At two places at once.
        assert_eq!(found(&["2001:db8:c000:aa::c000:aa"]), Nat64::Unknown);
    }

    #[tokio::test]
    async fn resolver_that_never_answers_is_not_waited_for() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let lookup = move || {
            let _ = ended.recv();
            Ok(Vec::new())
        };
        let error = within(Duration::from_millis(10), lookup).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(end);
    }

    #[tokio::test]
    async fn answer_in_time_is_taken() {
        let addrs = within(Duration::from_secs(60), || Ok(vec![WELL_KNOWN_ADDRS[0].into()]))
            .await
            .unwrap();
        assert_eq!(evaluate(&addrs), Nat64::Absent);
    }
}
