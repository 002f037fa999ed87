//! Why a connect gets the verdict it gets: [`explain`] asks [`decide`](enforcer_common::decide::decide) about every
//! kind of connect to one address, and says of each rule that covers the address and did not act why it did not.
//!
//! The verdicts are those of `decide`, on the compiled policy that the kernel would get. The reasons are told from
//! the rules, and decide nothing. Looks up no names, knows no targets and prints nothing.

mod covering;
mod memberships;
mod outcome;
mod question;

use std::{net::Ipv6Addr, ops::RangeInclusive};

use enforcer_common::{
    address::{EXEMPT_PREFIXES, ExemptPrefix},
    decide::TableFault,
};
use ipnet::Ipv6Net;

use self::{
    covering::Covering,
    memberships::{Way, ways},
    question::Instance,
};
pub use self::{
    covering::{Loser, Reason},
    memberships::Membership,
    outcome::Outcome,
    question::{Grounds, Kind, Question, Target},
};

/// Connects that get the same for the same reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What kinds of sockets.
    pub kinds: Vec<Kind>,
    /// Which ports, host byte order, in order; every port, where kinds have ports at all, is one range.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Which users, in order; every user is one range.
    pub users: Vec<RangeInclusive<u32>>,
    /// Those that these rollouts include, or leave out, in the order in which the rules count. Only of rollouts that may
    /// do either, for all that is known, and where it makes a difference.
    pub memberships: Vec<Membership>,
    /// What comes of them.
    pub outcome: Outcome,
    /// What comes of them on a TCP or UDP socket that cannot be moved to IPv4 (`IPV6_V6ONLY`, or bound to an IPv6
    /// address), where that is something else.
    pub immovable: Option<Outcome>,
    /// The other rules that cover the address, in the order in which they count: longest prefix first, then more
    /// conditions, then in audit mode, then by prefixes rather than a name, then as written.
    pub losers: Vec<Loser>,
}

/// The prefix that is exempt from wider rules and covers the address, if one does.
#[must_use]
pub fn exempt(address: Ipv6Addr) -> Option<(Ipv6Net, &'static ExemptPrefix)> {
    EXEMPT_PREFIXES.iter().find_map(|exempt| {
        let net = Ipv6Net::new(exempt.octets.into(), exempt.prefix_len).ok()?;
        net.contains(&address).then_some((net, exempt))
    })
}

/// What comes of the connects asked about, as few cases as there are differences. Each connect belongs to one of them.
///
/// # Errors
///
/// [`TableFault`] if the policy is not one that the compiler made.
pub fn explain(grounds: &Grounds<'_>, question: &Question) -> Result<Vec<Case>, TableFault> {
    let asked = Asked {
        grounds,
        question,
        covering: Covering::new(*grounds, question),
    };
    let mut cases: Vec<Case> = Vec::new();
    for kind in question.kinds() {
        let mut of_kind: Vec<Case> = Vec::new();
        for users in asked.covering.user_ranges() {
            let mut of_users: Vec<Case> = Vec::new();
            for ports in asked.covering.port_ranges(kind) {
                for case in asked.cases(kind, &ports, &users)? {
                    match of_users.iter_mut().find(|known| known.is_alike(&case)) {
                        Some(known) => join(&mut known.ports, case.ports, |end| end.checked_add(1)),
                        None => of_users.push(case),
                    }
                }
            }
            for case in of_users {
                let is_same = |known: &&mut Case| known.is_alike(&case) && known.ports == case.ports;
                match of_kind.iter_mut().find(is_same) {
                    Some(known) => join(&mut known.users, case.users, |end| end.checked_add(1)),
                    None => of_kind.push(case),
                }
            }
        }
        for case in of_kind {
            let is_same = |known: &&mut Case| {
                known.is_alike(&case) && known.ports == case.ports && known.users == case.users
            };
            match cases.iter_mut().find(is_same) {
                Some(known) => known.kinds.push(kind),
                None => cases.push(case),
            }
        }
    }
    Ok(cases)
}

/// A question, and what it is asked about.
struct Asked<'asked, 'policy> {
    grounds: &'asked Grounds<'policy>,
    question: &'asked Question,
    covering: Covering<'policy>,
}

impl Asked<'_, '_> {
    /// The cases of connects that no rule's conditions tell apart: one for each way in which rollouts may take them.
    fn cases(
        &self,
        kind: Kind,
        ports: &RangeInclusive<u16>,
        users: &RangeInclusive<u32>,
    ) -> Result<Vec<Case>, TableFault> {
        let instance = Instance::new(self.question, kind, *ports.start(), *users.start());
        ways(self.grounds, self.question, &instance)?
            .into_iter()
            .map(|way| {
                let outcome = self.outcome(&way, &instance, false)?;
                let immovable = self.outcome(&way, &instance, true)?;
                Ok(Case {
                    kinds: vec![kind],
                    ports: vec![ports.clone()],
                    users: vec![users.clone()],
                    losers: self.covering.losers(&outcome, &instance, &way.left_out),
                    memberships: way.memberships,
                    immovable: (kind != Kind::Ping && immovable != outcome).then_some(immovable),
                    outcome,
                })
            })
            .collect()
    }

    fn outcome(&self, way: &Way<'_>, instance: &Instance, is_immovable: bool) -> Result<Outcome, TableFault> {
        let known = if is_immovable {
            instance.immovable()
        } else {
            instance.movable()
        };
        let decision = way.decide(&known, &instance.connect)?;
        Ok(Outcome::of(&decision, self.grounds, self.question.address))
    }
}

impl Case {
    /// Whether only kinds, ports and users tell them apart.
    fn is_alike(&self, other: &Self) -> bool {
        (&self.memberships, &self.outcome, &self.immovable, &self.losers)
            == (
                &other.memberships,
                &other.outcome,
                &other.immovable,
                &other.losers,
            )
    }

    /// Whether it is about every port.
    #[must_use]
    pub fn is_any_port(&self) -> bool {
        self.ports == [0..=u16::MAX]
    }

    /// Whether it is about every user.
    #[must_use]
    pub fn is_any_user(&self) -> bool {
        self.users == [0..=u32::MAX]
    }
}

/// Adds ranges that come after those it has.
fn join<T: Copy + PartialEq>(
    known: &mut Vec<RangeInclusive<T>>,
    more: Vec<RangeInclusive<T>>,
    next: impl Fn(T) -> Option<T>,
) {
    for range in more {
        match known.last_mut() {
            Some(last) if next(*last.end()) == Some(*range.start()) => *last = *last.start()..=*range.end(),
            _ => known.push(range),
        }
    }
}
