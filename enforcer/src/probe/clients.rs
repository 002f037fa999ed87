//! What clients make of a host: computed from the connects that were measured, not measured. Pure.

use std::{collections::VecDeque, net::IpAddr};

use serde::Serialize;

use super::{
    fate::{Fate, fate},
    findings::{Address, End, Findings},
};

/// How long a client with happy eyeballs waits for one address before it tries the next beside it (RFC 8305 section 5).
const DELAY_US: u64 = 250_000;

/// How a kind of client fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fare {
    /// The address it ends up with; `None` where it ends up with none.
    pub address: Option<IpAddr>,
    /// After how long, looking the name up aside; `None` where nobody answers it, and the kernel gives up after two
    /// minutes for each such address, unless the client does before.
    pub time_us: Option<u64>,
    /// Addresses that it waited for in vain, without an answer of any kind.
    pub hangs_at: Vec<IpAddr>,
}

/// How clients fare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clients {
    /// One that tries addresses of both families in turn, each a quarter of a second after the one before (RFC 8305).
    pub happy_eyeballs: Fare,
    /// One that tries one address after the other, in the order that it was given.
    pub one_by_one: Fare,
}

/// What is to be expected of clients.
#[must_use]
pub fn clients(findings: &Findings) -> Clients {
    let addresses: Vec<&Address> = findings.addresses.iter().collect();
    Clients {
        happy_eyeballs: happy_eyeballs(&in_turn(&addresses), findings.ipv6_sockets),
        one_by_one: one_by_one(&addresses, findings.ipv6_sockets),
    }
}

/// How a connect ends for a client: after how long, and whether well. `None`: it does not end.
fn ending(address: &Address, ipv6_sockets: bool) -> Option<(u64, bool)> {
    let first = address.connects.first()?;
    match first.end {
        End::Done => Some((first.time_us, true)),
        End::Failed | End::Untried => Some((first.time_us, false)),
        End::Silent if fate(address, ipv6_sockets) == Fate::Silent => None,
        // The other one came to an end.
        End::Silent => Some((first.time_us, false)),
    }
}

/// Families in turn, beginning with that of the first address (RFC 8305 section 4).
fn in_turn<'found>(addresses: &[&'found Address]) -> Vec<&'found Address> {
    let first_is_ipv6 = addresses.first().is_some_and(|it| it.address.is_ipv6());
    let (mut one, mut other): (VecDeque<_>, VecDeque<_>) = addresses
        .iter()
        .copied()
        .partition(|it| it.address.is_ipv6() == first_is_ipv6);
    let mut mixed = Vec::with_capacity(addresses.len());
    while !one.is_empty() || !other.is_empty() {
        mixed.extend(one.pop_front());
        mixed.extend(other.pop_front());
    }
    mixed
}

fn happy_eyeballs(addresses: &[&Address], ipv6_sockets: bool) -> Fare {
    let mut winner: Option<(u64, IpAddr)> = None;
    let mut begin_us = 0;
    let mut hangs_at = Vec::new();
    let mut last_us = Some(0);
    for address in addresses {
        if winner.is_some_and(|(won_us, _)| won_us <= begin_us) {
            break;
        }
        let next_us = begin_us + DELAY_US;
        match ending(address, ipv6_sockets) {
            Some((took_us, true)) => {
                let done_us = begin_us + took_us;
                if winner.is_none_or(|(won_us, _)| done_us < won_us) {
                    winner = Some((done_us, address.address));
                }
                begin_us = next_us;
            }
            // A failure lets the next one begin at once.
            Some((took_us, false)) => {
                let failed_us = begin_us + took_us;
                last_us = last_us.map(|last: u64| last.max(failed_us));
                begin_us = next_us.min(failed_us);
            }
            None => {
                hangs_at.push(address.address);
                last_us = None;
                begin_us = next_us;
            }
        }
    }
    match winner {
        Some((time_us, address)) => Fare {
            address: Some(address),
            time_us: Some(time_us),
            // It does not wait for them.
            hangs_at: Vec::new(),
        },
        None => Fare {
            address: None,
            time_us: last_us,
            hangs_at,
        },
    }
}

fn one_by_one(addresses: &[&Address], ipv6_sockets: bool) -> Fare {
    let mut fare = Fare {
        address: None,
        time_us: Some(0),
        hangs_at: Vec::new(),
    };
    for address in addresses {
        match ending(address, ipv6_sockets) {
            Some((took_us, succeeds)) => {
                fare.time_us = fare.time_us.map(|time_us| time_us + took_us);
                if succeeds {
                    fare.address = Some(address.address);
                    break;
                }
            }
            None => {
                fare.hangs_at.push(address.address);
                fare.time_us = None;
            }
        }
    }
    fare
}

#[cfg(test)]
mod tests {
    use super::{
        super::findings::{Connect, Way},
        *,
    };

    fn address(text: &str, end: End, time_ms: u64) -> Address {
        let address: IpAddr = text.parse().unwrap();
        Address {
            address,
            way: Way {
                source: Some(address),
                ..Way::default()
            },
            connects: vec![Connect {
                end,
                errno: (end == End::Failed).then(|| "ECONNREFUSED".to_owned()),
                retransmits: None,
                time_us: time_ms * 1000,
            }],
            echo: None,
            exchange: None,
            reverse: None,
        }
    }

    fn of(addresses: &[(&str, End, u64)]) -> Clients {
        clients(&Findings {
            ipv6_sockets: true,
            addresses: addresses.iter().map(|it| address(it.0, it.1, it.2)).collect(),
            ..Findings::default()
        })
    }

    #[track_caller]
    fn check(fare: &Fare, address: Option<&str>, time_ms: Option<u64>, hangs_at: &[&str]) {
        assert_eq!(fare.address.map(|it| it.to_string()).as_deref(), address);
        assert_eq!(fare.time_us.map(|it| it / 1000), time_ms);
        let hanging: Vec<_> = fare.hangs_at.iter().map(ToString::to_string).collect();
        assert_eq!(hanging, hangs_at);
    }

    #[test]
    fn in_a_black_hole_one_waits_a_quarter_of_a_second_and_the_other_hangs() {
        let found = of(&[("2001:db8::1", End::Silent, 5000), ("192.0.2.1", End::Done, 3)]);
        check(&found.happy_eyeballs, Some("192.0.2.1"), Some(253), &[]);
        check(&found.one_by_one, Some("192.0.2.1"), None, &["2001:db8::1"]);
    }

    #[test]
    fn a_failure_lets_the_next_begin_at_once() {
        let found = of(&[("2001:db8::1", End::Failed, 20), ("192.0.2.1", End::Done, 3)]);
        check(&found.happy_eyeballs, Some("192.0.2.1"), Some(23), &[]);
        check(&found.one_by_one, Some("192.0.2.1"), Some(23), &[]);
        // But not before its time, where it is late.
        let found = of(&[("2001:db8::1", End::Failed, 1020), ("192.0.2.1", End::Done, 3)]);
        check(&found.happy_eyeballs, Some("192.0.2.1"), Some(253), &[]);
        check(&found.one_by_one, Some("192.0.2.1"), Some(1023), &[]);
    }

    #[test]
    fn what_is_slow_loses_the_race_and_what_is_quick_has_none() {
        let found = of(&[("2001:db8::1", End::Done, 3000), ("192.0.2.1", End::Done, 3)]);
        check(&found.happy_eyeballs, Some("192.0.2.1"), Some(253), &[]);
        check(&found.one_by_one, Some("2001:db8::1"), Some(3000), &[]);
        let found = of(&[("2001:db8::1", End::Done, 100), ("192.0.2.1", End::Done, 3)]);
        check(&found.happy_eyeballs, Some("2001:db8::1"), Some(100), &[]);
    }

    #[test]
    fn families_come_in_turn() {
        let found = of(&[
            ("2001:db8::1", End::Silent, 1),
            ("2001:db8::2", End::Silent, 1),
            ("192.0.2.1", End::Done, 3),
        ]);
        check(&found.happy_eyeballs, Some("192.0.2.1"), Some(253), &[]);
        check(
            &found.one_by_one,
            Some("192.0.2.1"),
            None,
            &["2001:db8::1", "2001:db8::2"],
        );
    }

    #[test]
    fn without_an_answer_there_is_no_end() {
        let found = of(&[("2001:db8::1", End::Silent, 1)]);
        check(&found.happy_eyeballs, None, None, &["2001:db8::1"]);
        check(&found.one_by_one, None, None, &["2001:db8::1"]);
        let found = of(&[("2001:db8::1", End::Failed, 1), ("192.0.2.1", End::Failed, 2)]);
        check(&found.happy_eyeballs, None, Some(3), &[]);
        check(&found.one_by_one, None, Some(3), &[]);
        check(&of(&[]).happy_eyeballs, None, Some(0), &[]);
    }
}
