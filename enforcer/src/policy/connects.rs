//! [`Connects`]: sets of connects to one address, told apart by protocol and port.
//!
//! The algebra behind "these two rules overlap" and "this rule can never match". It mirrors what
//! [`Clause::matches`] tells apart, and nothing more.

use std::ops::RangeInclusive;

use enforcer_common::clause::{ANY_PROTO, Clause, Proto};

use super::rule::Rule;

/// A set of connects to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connects {
    tcp: Ports,
    udp: Ports,
    /// Protocols without ports, such as a ping socket's.
    other: bool,
}

impl Connects {
    /// All of them.
    pub(super) fn all() -> Self {
        Self {
            tcp: Ports::all(),
            udp: Ports::all(),
            other: true,
        }
    }

    /// Those that a clause matches.
    pub(super) fn of_clause(clause: &Clause) -> Self {
        let ports = Ports(vec![clause.port_min..=clause.port_max]);
        let wants = |proto: Proto| clause.proto == ANY_PROTO || clause.proto == proto as u8;
        Self {
            tcp: if wants(Proto::Tcp) {
                ports.clone()
            } else {
                Ports::none()
            },
            udp: if wants(Proto::Udp) { ports } else { Ports::none() },
            other: clause.is_unconditional(),
        }
    }

    /// Those that a rule matches.
    pub(super) fn of_rule(rule: &Rule) -> Self {
        let ports = if rule.ports.is_empty() {
            Ports::all()
        } else {
            Ports(rule.ports.clone())
        };
        let wants = |proto: Proto| rule.proto.is_none_or(|only| only == proto);
        Self {
            tcp: if wants(Proto::Tcp) {
                ports.clone()
            } else {
                Ports::none()
            },
            udp: if wants(Proto::Udp) { ports } else { Ports::none() },
            other: rule.conditions() == 0,
        }
    }

    /// The same, gone to one port.
    pub(super) fn moved_to_port(mut self, port: u16) -> Self {
        for ports in [&mut self.tcp, &mut self.udp] {
            if !ports.0.is_empty() {
                ports.0 = vec![port..=port];
            }
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tcp.0.is_empty() && self.udp.0.is_empty() && !self.other
    }

    /// Whether some connect is in both.
    pub(super) fn intersects(&self, other: &Self) -> bool {
        self.tcp.intersects(&other.tcp) || self.udp.intersects(&other.udp) || (self.other && other.other)
    }

    /// Takes out those that are in the other.
    pub(super) fn subtract(&mut self, other: &Self) {
        self.tcp.subtract(&other.tcp);
        self.udp.subtract(&other.udp);
        self.other &= !other.other;
    }
}

/// A set of ports: ranges in order, apart from each other.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ports(Vec<RangeInclusive<u16>>);

impl Ports {
    fn all() -> Self {
        Self(vec![0..=u16::MAX])
    }

    fn none() -> Self {
        Self(Vec::new())
    }

    fn intersects(&self, other: &Self) -> bool {
        self.0.iter().any(|a| {
            other
                .0
                .iter()
                .any(|b| a.start() <= b.end() && b.start() <= a.end())
        })
    }

    fn subtract(&mut self, other: &Self) {
        for taken in &other.0 {
            let (first, last) = (*taken.start(), *taken.end());
            self.0 = self
                .0
                .iter()
                .flat_map(|range| {
                    let below = first
                        .checked_sub(1)
                        .map(|below| *range.start()..=below.min(*range.end()));
                    let above = last
                        .checked_add(1)
                        .map(|above| above.max(*range.start())..=*range.end());
                    below.into_iter().chain(above).filter(|rest| !rest.is_empty())
                })
                .collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(ports: &[RangeInclusive<u16>]) -> Connects {
        Connects {
            tcp: Ports(ports.to_vec()),
            udp: Ports::none(),
            other: false,
        }
    }

    #[test]
    fn what_is_subtracted_is_gone_and_the_rest_stays() {
        let mut set = tcp(&[10..=20, 30..=40]);
        set.subtract(&tcp(&[15..=32]));
        assert_eq!(set, tcp(&[10..=14, 33..=40]));
        set.subtract(&tcp(&[0..=10, 12..=12, 40..=65535]));
        assert_eq!(set, tcp(&[11..=11, 13..=14, 33..=39]));
        set.subtract(&Connects::all());
        assert!(set.is_empty());
    }

    #[test]
    fn the_ends_of_the_port_space_are_ports_like_any_other() {
        let mut set = Connects::all();
        set.subtract(&tcp(&[0..=0, 65535..=65535]));
        assert!(!set.intersects(&tcp(&[0..=0])) && !set.intersects(&tcp(&[65535..=65535])));
        assert!(set.intersects(&tcp(&[65534..=65535])));
    }

    #[test]
    fn ranges_intersect_where_they_share_a_port() {
        assert!(tcp(&[1..=5, 9..=9]).intersects(&tcp(&[9..=12])));
        assert!(!tcp(&[1..=5]).intersects(&tcp(&[6..=12])));
        let udp = Connects {
            tcp: Ports::none(),
            udp: Ports::all(),
            other: false,
        };
        assert!(!tcp(&[0..=65535]).intersects(&udp));
    }
}
