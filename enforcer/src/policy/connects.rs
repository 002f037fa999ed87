//! [`Connects`]: sets of connects to one address, told apart by user, protocol and port.
//!
//! The algebra behind "these two rules overlap" and "this rule can never match". It mirrors what
//! a clause's conditions tell apart, and nothing more.

use std::ops::RangeInclusive;

use enforcer_common::clause::{ANY_PROTO, Clause, Proto};

use super::rule::Rule;

/// A set of connects to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connects {
    /// By ranges of users, in order, apart from each other; of none there is nothing.
    users: Vec<(RangeInclusive<u32>, Kinds)>,
}

impl Connects {
    /// All of them.
    pub(super) fn all() -> Self {
        Self {
            users: vec![(0..=u32::MAX, Kinds::all())],
        }
    }

    /// Those that match the conditions of a clause.
    pub(super) fn of_clause(clause: &Clause) -> Self {
        let ports = Ports(vec![clause.port_min..=clause.port_max]);
        let kinds = Kinds::of(ports, |proto| {
            clause.proto == ANY_PROTO || clause.proto == proto as u8
        });
        Self {
            users: vec![(clause.uid_min..=clause.uid_max, kinds)],
        }
    }

    /// Those that match the conditions of a rule.
    pub(super) fn of_rule(rule: &Rule) -> Self {
        let ports = if rule.ports.is_empty() {
            Ports::all()
        } else {
            Ports(rule.ports.clone())
        };
        let kinds = Kinds::of(ports, |proto| rule.proto.is_none_or(|only| only == proto));
        let uids = if rule.uids.is_empty() {
            vec![0..=u32::MAX]
        } else {
            rule.uids.clone()
        };
        Self {
            users: uids.into_iter().map(|uids| (uids, kinds.clone())).collect(),
        }
    }

    /// The same, gone to one port.
    pub(super) fn moved_to_port(mut self, port: u16) -> Self {
        for (_, kinds) in &mut self.users {
            for ports in [&mut kinds.tcp, &mut kinds.udp] {
                if !ports.0.is_empty() {
                    ports.0 = vec![port..=port];
                }
            }
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether some connect is in both.
    pub(super) fn intersects(&self, other: &Self) -> bool {
        self.users.iter().any(|(uids, kinds)| {
            other
                .users
                .iter()
                .any(|(others, of_others)| overlap(uids, others) && kinds.intersects(of_others))
        })
    }

    /// Takes out those that are in the other.
    pub(super) fn subtract(&mut self, other: &Self) {
        for (taken, kinds_taken) in &other.users {
            let mut left = Vec::with_capacity(self.users.len());
            for (uids, kinds) in self.users.drain(..) {
                if !overlap(&uids, taken) {
                    left.push((uids, kinds));
                    continue;
                }
                let below = taken.start().checked_sub(1).map(|last| *uids.start()..=last);
                let above = taken.end().checked_add(1).map(|first| first..=*uids.end());
                let within = *uids.start().max(taken.start())..=*uids.end().min(taken.end());
                let mut rest = kinds.clone();
                rest.subtract(kinds_taken);
                left.extend(below.map(|uids| (uids, kinds.clone())));
                left.push((within, rest));
                left.extend(above.map(|uids| (uids, kinds)));
            }
            left.retain(|(uids, kinds)| !uids.is_empty() && !kinds.is_empty());
            self.users = left;
        }
    }
}

fn overlap<N: PartialOrd>(a: &RangeInclusive<N>, b: &RangeInclusive<N>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

/// A set of connects of one user to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kinds {
    tcp: Ports,
    udp: Ports,
    /// Protocols without ports, such as a ping socket's.
    other: bool,
}

impl Kinds {
    fn all() -> Self {
        Self::of(Ports::all(), |_| true)
    }

    fn of(ports: Ports, wants: impl Fn(Proto) -> bool) -> Self {
        let of = |proto| {
            if wants(proto) {
                ports.clone()
            } else {
                Ports::none()
            }
        };
        Self {
            tcp: of(Proto::Tcp),
            udp: of(Proto::Udp),
            other: wants(Proto::Tcp) && wants(Proto::Udp) && ports == Ports::all(),
        }
    }

    fn is_empty(&self) -> bool {
        self.tcp.0.is_empty() && self.udp.0.is_empty() && !self.other
    }

    fn intersects(&self, other: &Self) -> bool {
        self.tcp.intersects(&other.tcp) || self.udp.intersects(&other.udp) || (self.other && other.other)
    }

    fn subtract(&mut self, other: &Self) {
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
        self.0.iter().any(|a| other.0.iter().any(|b| overlap(a, b)))
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
        of_users(&[(0..=u32::MAX, ports)])
    }

    fn of_users(users: &[(RangeInclusive<u32>, &[RangeInclusive<u16>])]) -> Connects {
        let kinds = |ports: &[RangeInclusive<u16>]| Kinds {
            tcp: Ports(ports.to_vec()),
            udp: Ports::none(),
            other: false,
        };
        Connects {
            users: users
                .iter()
                .map(|(uids, ports)| (uids.clone(), kinds(ports)))
                .collect(),
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
        let mut udp = Connects::all();
        udp.subtract(&tcp(&[0..=65535]));
        assert!(!tcp(&[0..=65535]).intersects(&udp) && !udp.is_empty());
    }

    #[test]
    fn what_has_no_ports_is_gone_only_with_what_takes_every_port_of_every_protocol() {
        let mut set = Connects::all();
        set.subtract(&tcp(&[0..=65535]));
        let before = set.clone();
        set.subtract(&tcp(&[0..=65535]));
        assert_eq!(set, before);
        assert!(set.users[0].1.other);
        set.subtract(&Connects::all());
        assert!(set.is_empty());
    }

    #[test]
    fn users_are_told_apart() {
        let mut set = tcp(&[1..=9]);
        set.subtract(&of_users(&[(5..=7, &[1..=4]), (7..=7, &[5..=9])]));
        let expected = of_users(&[(0..=4, &[1..=9]), (5..=6, &[5..=9]), (8..=u32::MAX, &[1..=9])]);
        assert_eq!(set, expected);
        assert!(!set.intersects(&of_users(&[(7..=7, &[1..=9])])));
        assert!(set.intersects(&of_users(&[(u32::MAX..=u32::MAX, &[9..=9])])));
        set.subtract(&of_users(&[(0..=u32::MAX, &[1..=9])]));
        assert!(set.is_empty());
    }
}
