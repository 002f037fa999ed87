//! Which prefix a rule should have: as wide as what is broken seems to be, and not so wide that it covers what works. Pure.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;

use super::{
    fate::{Fate, fate},
    findings::{Address, End, Findings},
};
use crate::surroundings::nat64;

/// The site, the link, the address: what networks are routed and filtered by.
const LENGTHS: [u8; 3] = [48, 64, 128];

/// The prefixes to write a rule about: they cover all that are broken, and nothing that is known to work.
pub(super) fn prefixes(findings: &Findings, broken: &[(&Address, Ipv6Addr, Fate)]) -> Vec<Ipv6Net> {
    let spared: Vec<Ipv6Addr> = findings
        .ipv6()
        .filter(|(found, _)| fate(found, findings.ipv6_sockets) == Fate::Works)
        .map(|(_, address)| address)
        .chain(findings.addresses.iter().flat_map(own))
        .collect();
    let known: Vec<Ipv6Net> = findings
        .nat64
        .iter()
        .flatten()
        .filter_map(|prefix| prefix.parse().ok())
        .chain([nat64::well_known_prefix()])
        .collect();
    let mut prefixes: Vec<Ipv6Net> = broken
        .iter()
        .filter_map(|(found, address, fate)| {
            let translated = known.iter().any(|prefix| prefix.contains(address));
            let narrow = translated || !is_public(*address) || is_reached(found, *fate);
            let lengths = if narrow { &LENGTHS[2..] } else { &LENGTHS[..] };
            lengths
                .iter()
                .filter_map(|length| Ipv6Net::new(*address, *length).ok())
                .map(|prefix| prefix.trunc())
                .find(|prefix| !spared.iter().any(|spared| prefix.contains(spared)))
        })
        .collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    // What a wider one covers needs none of its own.
    let covered = |one: &Ipv6Net| prefixes.iter().any(|other| other != one && other.contains(one));
    prefixes.iter().filter(|one| !covered(one)).copied().collect()
}

/// This host's own address on the way, and the next hop's.
fn own(found: &Address) -> impl Iterator<Item = Ipv6Addr> {
    [found.way.source, found.way.gateway]
        .into_iter()
        .flatten()
        .filter_map(|address| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        })
}

fn is_public(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xe000 == 0x2000
}

/// Whether packets reach the host, so that nothing is known of others beside it.
fn is_reached(found: &Address, fate: Fate) -> bool {
    let answers = found.echo.as_ref().is_some_and(|echo| echo.end == End::Done);
    fate.is_of_port() || answers && !matches!(fate, Fate::LosesLongPackets | Fate::Stalls | Fate::Slow)
}

#[cfg(test)]
mod tests {
    use super::{
        super::findings::{Connect, Echo, Way},
        *,
    };

    fn address(text: &str, end: End, source: &str, answers: bool) -> Address {
        Address {
            address: text.parse().unwrap(),
            way: Way {
                source: Some(source.parse().unwrap()),
                ..Way::default()
            },
            connects: vec![Connect {
                end,
                errno: None,
                retransmits: None,
                time_us: 1,
            }],
            echo: Some(Echo {
                end: if answers { End::Done } else { End::Silent },
                why: None,
                time_us: 1,
                large: None,
            }),
            exchange: None,
            reverse: None,
        }
    }

    #[track_caller]
    fn check(addresses: Vec<Address>, expected: &[&str]) {
        let findings = Findings {
            ipv6_sockets: true,
            addresses,
            ..Findings::default()
        };
        let broken: Vec<_> = findings
            .ipv6()
            .map(|(found, address)| (found, address, fate(found, true)))
            .filter(|(.., fate)| *fate != Fate::Works)
            .collect();
        let found: Vec<_> = prefixes(&findings, &broken)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_black_hole_is_taken_for_that_of_a_site() {
        let far = "2001:db8:77::2";
        check(
            vec![address("2001:db8:a::80", End::Silent, far, false)],
            &["2001:db8:a::/48"],
        );
        check(
            vec![
                address("2001:db8:a::80", End::Silent, far, false),
                address("2001:db8:a:1::80", End::Silent, far, false),
                address("2001:db8:b::80", End::Silent, far, false),
            ],
            &["2001:db8:a::/48", "2001:db8:b::/48"],
        );
    }

    #[test]
    fn what_works_and_what_is_this_hosts_is_spared() {
        let far = "2001:db8:77::2";
        check(
            vec![
                address("2001:db8:a::80", End::Silent, far, false),
                address("2001:db8:a:1::80", End::Done, far, false),
            ],
            &["2001:db8:a::/64"],
        );
        check(
            vec![address("2001:db8:77::80", End::Silent, far, false)],
            &["2001:db8:77::80/128"],
        );
    }

    #[test]
    fn a_host_that_is_reached_stands_for_itself_and_so_does_what_is_not_public() {
        let far = "2001:db8:77::2";
        check(
            vec![address("2001:db8:a::80", End::Silent, far, true)],
            &["2001:db8:a::80/128"],
        );
        check(
            vec![address("fd00:a::80", End::Silent, far, false)],
            &["fd00:a::80/128"],
        );
        check(
            vec![address("64:ff9b::c000:201", End::Silent, far, false)],
            &["64:ff9b::c000:201/128"],
        );
    }
}
