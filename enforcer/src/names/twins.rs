//! Twins: which IPv4 addresses stand for an IPv6 address, because they have the same name. Pure.
//!
//! A connect brings an address and no name. Where one name has the address, the twins are that name's IPv4
//! addresses; where several have it, only those that all of them have, because any of them may have been meant.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::{Resolver, known::Answers};

/// What becomes of an IPv6 address whose name has no IPv4 address at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WithoutTwin {
    /// The connect goes on.
    Allow,
    /// The connect ends at once. Where names differ about an address they share, this wins.
    Reject,
}

/// A name and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The name.
    pub name: &'a str,
    /// Who was asked. What others say of the same name is another claim: it may be meant for somebody else.
    pub resolver: Resolver,
    /// Whether the answers were trusted with private addresses.
    pub allow_private: bool,
    /// Its addresses.
    pub answers: &'a Answers,
    /// What becomes of its IPv6 addresses when it has no others.
    pub without_twin: WithoutTwin,
}

/// What an IPv6 address is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Twin {
    /// One of these IPv4 addresses: sorted, each once, at least one.
    To(Vec<Ipv4Addr>),
    /// Nothing: the connect ends.
    Reject(Why),
    /// Itself: the connect goes on.
    Allow,
}

/// Why an address has no twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Several names have it, and no IPv4 address in common.
    Conflict,
    /// Its names have no IPv4 address.
    NoTwin,
}

/// What a person should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// Several names have the addresses, and no IPv4 address in common.
    Conflict {
        /// The addresses, sorted.
        addresses: Vec<Ipv6Addr>,
        /// The names, sorted: no two notes have the same.
        names: Vec<String>,
    },
    /// The name has IPv6 addresses only.
    Ipv6Only {
        /// The name.
        name: String,
        /// What becomes of them.
        without_twin: WithoutTwin,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { addresses, names } => {
                let names = names.join(" and ");
                match addresses.as_slice() {
                    [] => Ok(()),
                    [address] => write!(
                        f,
                        "{address} belongs to {names} and they share no IPv4 address: connects to it are rejected"
                    ),
                    [first, more @ ..] => write!(
                        f,
                        "{first} and {} more belong to {names} and they share no IPv4 address: connects to them are \
                         rejected",
                        more.len()
                    ),
                }
            }
            Self::Ipv6Only {
                name,
                without_twin: WithoutTwin::Reject,
            } => write!(
                f,
                "{name} has IPv6 addresses only: rejecting connects to them makes them fail at once, and cannot make \
                 it reachable"
            ),
            Self::Ipv6Only {
                name,
                without_twin: WithoutTwin::Allow,
            } => write!(
                f,
                "{name} has IPv6 addresses only: connects to them go on as if there were no rule"
            ),
        }
    }
}

/// What every known IPv6 address becomes, and what to say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Twins {
    /// Sorted by address, each once. Equal answers give equal results, in whatever order the names came.
    pub twins: Vec<(Ipv6Addr, Twin)>,
    /// Sorted, each once.
    pub notes: Vec<Note>,
}

/// A name, whom it was asked of, and whether with trust.
type Asked<'a> = (&'a str, Resolver, bool);

/// One name, after those given twice were put together.
#[derive(Default)]
struct Name {
    aaaa: BTreeSet<Ipv6Addr>,
    all_a: BTreeSet<Ipv4Addr>,
    current_a: BTreeSet<Ipv4Addr>,
    a_answered: bool,
    without_twin: Option<WithoutTwin>,
}

/// Finds the twins of all IPv6 addresses of these names. An address is left out while one of its names has never
/// had an answer about IPv4: that it has none would be a guess.
#[must_use]
pub fn twins<'a>(claims: impl IntoIterator<Item = Claim<'a>>) -> Twins {
    let names = by_name(claims);
    let mut owners: BTreeMap<Ipv6Addr, Vec<(Asked<'_>, &Name)>> = BTreeMap::new();
    for (asked, name) in &names {
        for address in &name.aaaa {
            owners.entry(*address).or_default().push((*asked, name));
        }
    }
    let mut found = Twins::default();
    let mut conflicts: BTreeMap<Vec<String>, Vec<Ipv6Addr>> = BTreeMap::new();
    for (address, owners) in owners {
        if owners.iter().any(|(_, name)| !name.a_answered) {
            continue;
        }
        let twin = twin(&owners);
        if twin == Twin::Reject(Why::Conflict) {
            conflicts.entry(labels(&owners)).or_default().push(address);
        }
        found.twins.push((address, twin));
    }
    let conflicts = conflicts.into_iter();
    found
        .notes
        .extend(conflicts.map(|(names, addresses)| Note::Conflict { addresses, names }));
    found.notes.extend(
        names
            .iter()
            .filter(|(_, name)| name.a_answered && name.all_a.is_empty() && !name.aaaa.is_empty())
            .map(|((text, ..), name)| Note::Ipv6Only {
                name: (*text).to_owned(),
                without_twin: name.without_twin.unwrap_or(WithoutTwin::Reject),
            }),
    );
    found.notes.sort();
    found.notes.dedup();
    found
}

/// What to call each of them: by its name, and where several have that, by whom it was asked of too.
fn labels(owners: &[(Asked<'_>, &Name)]) -> Vec<String> {
    let is_shared = |text: &str| owners.iter().filter(|((other, ..), _)| *other == text).count() > 1;
    let label = |(text, resolver, allow_private): &Asked<'_>| {
        let mut label = (*text).to_owned();
        if is_shared(text) {
            label.push_str(match resolver {
                Resolver::Host => " as this host resolves it",
                Resolver::Target(_) => " as its target resolves it",
            });
            if *allow_private {
                label.push_str(" with `allow_private`");
            }
        }
        label
    };
    owners.iter().map(|(asked, _)| label(asked)).collect()
}

fn by_name<'a>(claims: impl IntoIterator<Item = Claim<'a>>) -> BTreeMap<Asked<'a>, Name> {
    let mut names: BTreeMap<Asked<'_>, Name> = BTreeMap::new();
    for claim in claims {
        let asked = (claim.name, claim.resolver, claim.allow_private);
        let name = names.entry(asked).or_default();
        name.aaaa
            .extend(claim.answers.aaaa.iter().map(|seen| seen.address));
        name.all_a.extend(claim.answers.a.iter().map(|seen| seen.address));
        name.current_a.extend(claim.answers.current_a());
        name.a_answered |= claim.answers.a_answered;
        name.without_twin = name.without_twin.max(Some(claim.without_twin));
    }
    names
}

/// The twin of an address that all of these names have.
fn twin(owners: &[(Asked<'_>, &Name)]) -> Twin {
    if owners.iter().all(|(_, name)| name.all_a.is_empty()) {
        let wishes = owners.iter().filter_map(|(_, name)| name.without_twin);
        return match wishes.max() {
            Some(WithoutTwin::Allow) => Twin::Allow,
            _ => Twin::Reject(Why::NoTwin),
        };
    }
    // What the last answers share comes first. Names that rotate their addresses may share only what they had in
    // earlier answers, and that is still theirs.
    let shared = [
        shared(owners.iter().map(|(_, name)| &name.current_a)),
        shared(owners.iter().map(|(_, name)| &name.all_a)),
    ]
    .into_iter()
    .find(|shared| !shared.is_empty());
    match shared {
        Some(shared) => Twin::To(shared.into_iter().collect()),
        None => Twin::Reject(Why::Conflict),
    }
}

fn shared<'a>(sets: impl IntoIterator<Item = &'a BTreeSet<Ipv4Addr>>) -> BTreeSet<Ipv4Addr> {
    let mut sets = sets.into_iter();
    let first = sets.next().cloned().unwrap_or_default();
    sets.fold(first, |shared, set| shared.intersection(set).copied().collect())
}

#[cfg(test)]
mod tests;
