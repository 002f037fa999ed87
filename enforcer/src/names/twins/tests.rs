//! Twins by example, exhaustively for two names, and by property.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::names::known::Seen;

fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
}

fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

fn seen<A>(addresses: impl IntoIterator<Item = A>, current: bool) -> Vec<Seen<A>> {
    addresses
        .into_iter()
        .map(|address| Seen { address, current })
        .collect()
}

/// Addresses of the last answer only, and the question for IPv4 was answered.
fn answers(aaaa: &[u16], a: &[u8]) -> Answers {
    Answers {
        aaaa: seen(aaaa.iter().copied().map(v6), true),
        a: seen(a.iter().copied().map(v4), true),
        a_answered: true,
    }
}

fn claim<'a>(name: &'a str, answers: &'a Answers) -> Claim<'a> {
    Claim {
        name,
        resolver: Resolver::Host,
        allow_private: false,
        answers,
        without_twin: WithoutTwin::Reject,
    }
}

fn to(last: &[u8]) -> Twin {
    Twin::To(last.iter().copied().map(v4).collect())
}

#[test]
fn each_address_of_one_name_becomes_all_of_its_twins_in_one_order() {
    let mut answers = answers(&[2, 1], &[9, 3]);
    assert_eq!(
        twins([claim("db.example", &answers)]),
        Twins {
            twins: vec![(v6(1), to(&[3, 9])), (v6(2), to(&[3, 9]))],
            notes: vec![],
        }
    );
    let before = twins([claim("db.example", &answers)]);
    answers.a.reverse();
    answers.aaaa.reverse();
    assert_eq!(twins([claim("db.example", &answers)]), before);
}

#[test]
fn connects_go_to_addresses_of_the_last_answer() {
    let mut answers = answers(&[1], &[7]);
    answers.a.extend(seen([v4(8)], false));
    // An old IPv6 address may still be in some client's memory, so it is matched.
    answers.aaaa.extend(seen([v6(2)], false));
    assert_eq!(
        twins([claim("db.example", &answers)]).twins,
        [(v6(1), to(&[7])), (v6(2), to(&[7]))]
    );
}

#[test]
fn an_address_of_several_names_has_only_the_twins_they_share() {
    let (one, other) = (answers(&[1, 2], &[3, 4]), answers(&[2, 3], &[4, 5]));
    assert_eq!(
        twins([claim("a.example", &one), claim("b.example", &other)]),
        Twins {
            twins: vec![(v6(1), to(&[3, 4])), (v6(2), to(&[4])), (v6(3), to(&[4, 5]))],
            notes: vec![],
        }
    );
}

#[test]
fn names_that_rotate_share_what_they_had_before() {
    let (mut one, mut other) = (answers(&[1], &[3]), answers(&[1], &[4]));
    one.a.extend(seen([v4(4)], false));
    other.a.extend(seen([v4(3)], false));
    assert_eq!(
        twins([claim("a.example", &one), claim("b.example", &other)]).twins,
        [(v6(1), to(&[3, 4]))]
    );
}

#[test]
fn without_a_shared_twin_the_connect_ends_and_both_names_are_told() {
    let (one, other) = (answers(&[1], &[3]), answers(&[1], &[4]));
    let found = twins([claim("b.example", &other), claim("a.example", &one)]);
    assert_eq!(found.twins, [(v6(1), Twin::Reject(Why::Conflict))]);
    assert_eq!(
        found.notes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "2001:db8::1 belongs to a.example and b.example and they share no IPv4 address: connects to it are \
             rejected"
        ]
    );
}

#[test]
fn a_name_without_ipv4_is_told_and_does_what_its_rule_says() {
    let only = answers(&[1], &[]);
    for (without_twin, expected) in [
        (WithoutTwin::Reject, Twin::Reject(Why::NoTwin)),
        (WithoutTwin::Allow, Twin::Allow),
    ] {
        let found = twins([Claim {
            without_twin,
            ..claim("six.example", &only)
        }]);
        assert_eq!(found.twins, [(v6(1), expected)]);
        assert_eq!(
            found.notes,
            [Note::Ipv6Only {
                name: "six.example".to_owned(),
                without_twin,
            }]
        );
    }
    let rejecting = Note::Ipv6Only {
        name: "six.example".to_owned(),
        without_twin: WithoutTwin::Reject,
    };
    assert!(rejecting.to_string().ends_with("and cannot make it reachable"));
}

#[test]
fn where_names_without_ipv4_differ_reject_wins() {
    let only = answers(&[1], &[]);
    let allowing = Claim {
        without_twin: WithoutTwin::Allow,
        ..claim("a.example", &only)
    };
    assert_eq!(
        twins([allowing, claim("b.example", &only)]).twins,
        [(v6(1), Twin::Reject(Why::NoTwin))]
    );
}

#[test]
fn one_name_given_twice_is_no_conflict() {
    let (one, other) = (answers(&[1], &[3]), answers(&[1], &[4]));
    let found = twins([claim("a.example", &one), claim("a.example", &other)]);
    assert_eq!(found.twins, [(v6(1), to(&[3, 4]))]);
    assert_eq!(found.notes, []);
}

#[test]
fn before_the_question_for_ipv4_is_answered_nothing_is_said() {
    let unanswered = Answers {
        a_answered: false,
        ..answers(&[1, 2], &[])
    };
    let answered = answers(&[2, 3], &[9]);
    let found = twins([claim("a.example", &unanswered), claim("b.example", &answered)]);
    assert_eq!(found.twins, [(v6(3), to(&[9]))]);
    assert_eq!(found.notes, []);
    assert_eq!(twins([claim("c.example", &answers(&[], &[9]))]), Twins::default());
}

/// Every pair of names over two IPv6 and two IPv4 addresses, each of which a name has or not, against the
/// definition said in other words.
#[test]
fn two_names_in_every_way_they_can_be() {
    let pick = |bits: u16| (0..2).filter(move |bit| bits & (1 << bit) != 0);
    for case in 0..256_u16 {
        let side = |shift: u16| {
            let bits = case >> shift;
            let a: Vec<u8> = pick(bits >> 2).map(|bit| bit as u8).collect();
            answers(&pick(bits).collect::<Vec<_>>(), &a)
        };
        let (one, other) = (side(0), side(4));
        let found = twins([claim("a", &one), claim("b", &other)]);
        for address in (0..2).map(v6) {
            let has = |answers: &Answers| answers.aaaa.iter().any(|seen| seen.address == address);
            let expected = match (has(&one), has(&other)) {
                (false, false) => None,
                (true, false) => Some(one.current_a()),
                (false, true) => Some(other.current_a()),
                (true, true) => {
                    let mut both = one.current_a();
                    both.retain(|twin| other.current_a().contains(twin));
                    Some(both)
                }
            };
            let twin = found
                .twins
                .iter()
                .find(|(found, _)| *found == address)
                .map(|(_, twin)| twin);
            match (expected, twin) {
                (None, None) => {}
                (Some(expected), Some(Twin::To(twins))) => assert_eq!(*twins, expected, "{case:08b}"),
                (Some(expected), Some(Twin::Reject(why))) => {
                    assert!(expected.is_empty(), "{case:08b}: {expected:?}");
                    let any = has(&one) && !one.a.is_empty() || has(&other) && !other.a.is_empty();
                    assert_eq!(*why, if any { Why::Conflict } else { Why::NoTwin }, "{case:08b}");
                    let told = found
                        .notes
                        .iter()
                        .any(|note| matches!(note, Note::Conflict { addresses, .. } if addresses.contains(&address)));
                    assert_eq!(told, any, "{case:08b}");
                }
                (expected, twin) => panic!("{case:08b}: {expected:?} became {twin:?}"),
            }
        }
    }
}

fn any_answers() -> impl Strategy<Value = Answers> {
    let aaaa = prop::collection::btree_map(0..4_u16, any::<bool>(), 0..4);
    let a = prop::collection::btree_map(0..4_u8, any::<bool>(), 0..4);
    (aaaa, a, prop::bool::weighted(0.9)).prop_map(|(aaaa, a, a_answered)| Answers {
        aaaa: aaaa
            .into_iter()
            .map(|(last, current)| Seen {
                address: v6(last),
                current,
            })
            .collect(),
        a: a.into_iter()
            .map(|(last, current)| Seen {
                address: v4(last),
                current,
            })
            .collect(),
        a_answered,
    })
}

fn any_claims() -> impl Strategy<Value = Vec<(String, Answers, bool)>> {
    prop::collection::vec(("[a-d]", any_answers(), any::<bool>()), 0..6)
}

fn found(claims: &[(String, Answers, bool)]) -> Twins {
    twins(claims.iter().map(|(name, answers, allow)| Claim {
        name,
        resolver: Resolver::Host,
        allow_private: false,
        answers,
        without_twin: if *allow {
            WithoutTwin::Allow
        } else {
            WithoutTwin::Reject
        },
    }))
}

proptest! {
    #[test]
    fn the_order_of_names_and_addresses_never_matters(
        (claims, shuffled) in any_claims().prop_flat_map(|claims| {
            (Just(claims.clone()), Just(claims).prop_shuffle())
        })
    ) {
        let mut reversed = shuffled;
        for (_, answers, _) in &mut reversed {
            answers.a.reverse();
            answers.aaaa.reverse();
        }
        prop_assert_eq!(found(&claims), found(&reversed));
    }

    #[test]
    fn nobody_is_sent_to_an_address_that_one_of_the_names_does_not_have(claims in any_claims()) {
        for (address, twin) in found(&claims).twins {
            let Twin::To(twins) = twin else { continue };
            prop_assert!(!twins.is_empty());
            prop_assert!(twins.is_sorted());
            let owners = claims.iter().filter(|(_, answers, _)| {
                answers.aaaa.iter().any(|seen| seen.address == address)
            });
            for (owner, ..) in owners {
                // A name may have been given several times: then it has what any of them says.
                for twin in &twins {
                    let is_theirs = claims.iter().any(|(name, answers, _)| {
                        name == owner && answers.a.iter().any(|seen| seen.address == *twin)
                    });
                    prop_assert!(is_theirs, "{} of {}", twin, owner);
                }
            }
        }
    }
}

#[test]
fn one_name_asked_of_different_nameservers_is_two() {
    let (ours, theirs) = (answers(&[1, 2], &[1]), answers(&[1, 2], &[2]));
    let of_target = Claim {
        resolver: Resolver::Target(3),
        ..claim("db.example", &theirs)
    };
    let found = twins([claim("db.example", &ours), of_target]);
    let conflict = Twin::Reject(Why::Conflict);
    assert_eq!(found.twins, [(v6(1), conflict.clone()), (v6(2), conflict)]);
    assert_eq!(
        found.notes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "2001:db8::1 and 1 more belong to db.example as this host resolves it and db.example as its target \
             resolves it and they share no IPv4 address: connects to them are rejected"
        ]
    );
    let trusted = Claim {
        allow_private: true,
        ..of_target
    };
    let found = twins([of_target, trusted]);
    assert_eq!(found.twins, [(v6(1), to(&[2])), (v6(2), to(&[2]))]);
    assert_eq!(found.notes, []);
}

#[test]
fn many_addresses_of_the_same_names_are_one_note() {
    let many: Vec<u16> = (1..=200).collect();
    let (one, other) = (answers(&many, &[1]), answers(&many, &[2]));
    let found = twins([claim("a.example", &one), claim("b.example", &other)]);
    assert_eq!(found.twins.len(), 200);
    assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
}
