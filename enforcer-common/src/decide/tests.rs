//! `decide()` on tables of a few clauses each: every condition, every way to answer, every fault.

mod outcomes;

use super::*;
use crate::clause::{
    ALLOWS_AT_ONCE, ANY_PROTO, CLAUSE_AUDIT, CLAUSE_NAME_HIT, CLAUSE_NAME_MISS, CLAUSE_OPAQUE,
    CLAUSE_UNRESOLVED, IN_OVERLAY, IPPROTO_ICMPV6, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, MAX_WALK, NEVER,
    NO_ENTRY, Proto, RolloutBy, Service, entry_value,
};

/// Matches everything, and rejects.
const CLAUSE: Clause = Clause {
    next: NO_CLAUSE,
    rule: 0,
    action: Action::Reject as u8,
    proto: ANY_PROTO,
    errno: 113,
    port_min: 0,
    port_max: u16::MAX,
    uid_min: 0,
    uid_max: u32::MAX,
    flags: 0,
    to_form: DestinationForm::Fixed as u8,
    width: 0,
    choices: 0,
    to_port: 0,
    rollout_by: RolloutBy::Everybody as u8,
    canaries: 0,
    rollout_below: 0,
    rollout_salt: 0,
    expires_boot_ns: NEVER,
    to_be: [0; 4],
};
/// 192.0.2.7
const IPV4: AddrWords = address::ipv4_mapped(0xc000_0207_u32.to_be());
/// 2001:db8:ffff::7
const IPV6: AddrWords = [0x2001_0db8_u32.to_be(), 0xffff_0000_u32.to_be(), 0, 7_u32.to_be()];
/// 2001:db8:c000:209::1
const ASKED: AddrWords = [0x2001_0db8_u32.to_be(), 0xc000_0209_u32.to_be(), 0, 1_u32.to_be()];
const CONNECT: Connect = Connect::new(ASKED, 443, IPPROTO_TCP, Mode::Enforce);
const KNOWN: Known = Known {
    unmovable: None,
    uid: 1_000,
    process: 77,
    socket: 5,
    boot_ns: 1_000,
};

/// One list, of which each clause names the one after it; the entry is the base's.
struct Table<const N: usize>([Clause; N]);

impl<const N: usize> Table<N> {
    /// Numbers the rules 10, 11, … and chains them.
    fn of(mut clauses: [Clause; N]) -> Self {
        for (index, clause) in (0..).zip(&mut clauses) {
            clause.rule = 10 + index;
            clause.next = if index as usize + 1 < N {
                index + 1
            } else {
                NO_CLAUSE
            };
        }
        Self(clauses)
    }

    fn decide(&self, known: &Known, connect: &Connect) -> Decision {
        decide(self, known, connect).expect("a whole table")
    }
}

impl<const N: usize> PolicyTable for Table<N> {
    fn base_entry(&self, _: &AddrWords) -> u32 {
        entry_value(48, 0)
    }

    fn overlay_entry(&self, _: &AddrWords) -> u32 {
        NO_ENTRY
    }

    fn clause(&self, index: u32) -> Option<&Clause> {
        self.0.get(index as usize)
    }
}

fn redirect(to_be: AddrWords) -> Clause {
    Clause {
        action: Action::Redirect as u8,
        to_be,
        to_port: 6_543,
        ..CLAUSE
    }
}

fn allow() -> Clause {
    Clause {
        action: Action::Allow as u8,
        ..CLAUSE
    }
}

fn audited(clause: Clause) -> Clause {
    Clause {
        flags: clause.flags | CLAUSE_AUDIT,
        ..clause
    }
}

/// Whether the clause acts on that connect.
fn counts(clause: Clause, known: &Known, connect: &Connect) -> bool {
    let decision = Table::of([clause]).decide(known, connect);
    assert_eq!(decision.rule == 10, decision.verdict == Action::Reject);
    decision.rule == 10
}

#[test]
fn numbers_that_are_none_are_none() {
    assert_eq!(
        [0, 1, 2, u8::MAX].map(Mode::from_raw),
        [Some(Mode::Enforce), Some(Mode::Audit), None, None]
    );
    for (raw, unmovable) in (1..).zip([
        Unmovable::Ping,
        Unmovable::Bound,
        Unmovable::V6Only,
        Unmovable::Unconnected,
    ]) {
        assert_eq!(Unmovable::from_raw(raw), Some(unmovable));
        assert_eq!(unmovable as u8, raw);
    }
    assert_eq!([0, 5, u8::MAX].map(Unmovable::from_raw), [None; 3]);
    for (raw, action) in (0..).zip([Action::Allow, Action::Reject, Action::Redirect]) {
        assert_eq!(Action::from_raw(raw), Some(action));
    }
    assert_eq!([3, u8::MAX].map(Action::from_raw), [None; 2]);
}

/// What [`ALLOWS_AT_ONCE`] says of a clause that does is what reading it says, and no clause is read.
#[test]
fn what_allows_at_once_is_not_read() {
    struct AtOnce;
    impl PolicyTable for AtOnce {
        fn base_entry(&self, _: &AddrWords) -> u32 {
            entry_value(48, ALLOWS_AT_ONCE)
        }
        fn overlay_entry(&self, _: &AddrWords) -> u32 {
            NO_ENTRY
        }
        fn clause(&self, _: u32) -> Option<&Clause> {
            None
        }
    }
    let allows = allow();
    assert!(allows.allows_at_once());
    for mode in [Mode::Enforce, Mode::Audit] {
        let connect = Connect { mode, ..CONNECT };
        let at_once = walk(&AtOnce, &KNOWN, &connect).expect("a whole table");
        assert_eq!(
            at_once,
            walk(&Table::of([allows]), &KNOWN, &connect).expect("a whole table")
        );
        assert!(at_once.only_allows());
        assert_eq!(at_once.has_would(), mode == Mode::Audit);
    }
    for other in [
        CLAUSE,
        audited(allow()),
        Clause {
            port_max: 443,
            ..allow()
        },
        Clause {
            uid_min: 1,
            ..allow()
        },
        Clause {
            expires_boot_ns: 1,
            ..allow()
        },
        Clause {
            rollout_by: RolloutBy::Target as u8,
            ..allow()
        },
        Clause {
            flags: CLAUSE_NAME_HIT,
            ..allow()
        },
        Clause {
            flags: CLAUSE_NAME_MISS,
            ..allow()
        },
        Clause {
            flags: CLAUSE_UNRESOLVED,
            ..allow()
        },
    ] {
        assert!(!other.allows_at_once(), "{other:?}");
    }
}

#[test]
fn without_an_entry_a_connect_is_allowed() {
    struct Nothing;
    impl PolicyTable for Nothing {
        fn base_entry(&self, _: &AddrWords) -> u32 {
            NO_ENTRY
        }
        fn overlay_entry(&self, _: &AddrWords) -> u32 {
            NO_ENTRY
        }
        fn clause(&self, _: u32) -> Option<&Clause> {
            None
        }
    }
    let decision = decide(&Nothing, &KNOWN, &CONNECT).expect("a whole table");
    let expected = Decision {
        verdict: Action::Allow,
        rule: NO_RULE,
        would_rule: NO_RULE,
        would: None,
        errno: 0,
        flags: 0,
        to: Destination::NONE,
        unmovable: None,
        left_out_rule: NO_RULE,
        name: 0,
    };
    assert_eq!(decision, expected);
    assert_eq!(decision.destination(), None);
}

#[test]
fn a_clause_counts_where_its_conditions_hold() {
    let protocols = [IPPROTO_TCP, IPPROTO_MPTCP, IPPROTO_UDP, IPPROTO_ICMPV6, 132];
    for (proto, ports, expected) in [
        (ANY_PROTO, (0, u16::MAX), [true; 5]),
        (Proto::Tcp as u8, (0, u16::MAX), [true, true, false, false, false]),
        (
            Proto::Udp as u8,
            (0, u16::MAX),
            [false, false, true, false, false],
        ),
        // What has no ports is matched by no port.
        (ANY_PROTO, (0, 443), [true, true, true, false, false]),
        (ANY_PROTO, (443, u16::MAX), [true, true, true, false, false]),
        (Proto::Udp as u8, (443, 443), [false, false, true, false, false]),
        (9, (0, u16::MAX), [false; 5]),
    ] {
        let clause = Clause {
            proto,
            port_min: ports.0,
            port_max: ports.1,
            ..CLAUSE
        };
        let found = protocols.map(|protocol| {
            let connect = Connect { protocol, ..CONNECT };
            let counts = counts(clause, &KNOWN, &connect);
            assert_eq!(
                clause.matches(&Service::new(protocol, CONNECT.dport)),
                counts,
                "{proto} {ports:?} {protocol}"
            );
            counts
        });
        assert_eq!(found, expected, "{proto} {ports:?}");
    }
    let ports = Clause {
        port_min: 440,
        port_max: 443,
        ..CLAUSE
    };
    let found = [439, 440, 443, 444].map(|dport| counts(ports, &KNOWN, &Connect { dport, ..CONNECT }));
    assert_eq!(found, [false, true, true, false]);
}

#[test]
fn a_clause_counts_for_its_users() {
    for (uids, expected) in [
        ((0, u32::MAX), [true; 5]),
        ((0, 1_000), [true, true, true, false, false]),
        ((1_000, u32::MAX), [false, false, true, true, true]),
        ((1_000, 1_000), [false, false, true, false, false]),
        ((1_000, !1_000), [false, false, true, true, false]),
    ] {
        let clause = Clause {
            uid_min: uids.0,
            uid_max: uids.1,
            ..CLAUSE
        };
        let found =
            [0, 999, 1_000, 1_001, u32::MAX].map(|uid| counts(clause, &Known { uid, ..KNOWN }, &CONNECT));
        assert_eq!(found, expected, "{uids:?}");
    }
}

#[test]
fn a_clause_counts_until_it_expires() {
    let clause = Clause {
        expires_boot_ns: 2_000,
        ..CLAUSE
    };
    let at = |clause, boot_ns| counts(clause, &Known { boot_ns, ..KNOWN }, &CONNECT);
    assert_eq!(
        [1_999, 2_000, 2_001].map(|now| at(clause, now)),
        [true, false, false]
    );
    assert!(at(CLAUSE, u64::MAX));
}

#[test]
fn a_clause_without_an_address_or_of_surroundings_counts_never() {
    for flag in [CLAUSE_UNRESOLVED, CLAUSE_NAME_MISS] {
        let clause = Clause {
            flags: flag,
            ..CLAUSE
        };
        assert!(!counts(clause, &KNOWN, &CONNECT));
    }
}

#[test]
fn the_first_clause_that_counts_answers() {
    let udp = Clause {
        proto: Proto::Udp as u8,
        ..CLAUSE
    };
    let second = Clause {
        errno: 110,
        flags: CLAUSE_OPAQUE,
        ..CLAUSE
    };
    let decision = Table::of([udp, second, redirect(IPV6)]).decide(&KNOWN, &CONNECT);
    assert_eq!((decision.verdict, decision.rule), (Action::Reject, 11));
    assert_eq!((decision.errno, decision.flags), (110, CLAUSE_OPAQUE));
    assert_eq!((decision.would, decision.would_rule), (None, NO_RULE));
    assert_eq!(decision.to, Destination::NONE);
    let decision = Table::of([udp, allow(), CLAUSE]).decide(&KNOWN, &CONNECT);
    assert_eq!((decision.verdict, decision.rule), (Action::Allow, 11));
}

#[test]
fn a_clause_in_audit_mode_is_told_of_and_the_next_one_acts() {
    let table = Table::of([audited(CLAUSE), audited(redirect(IPV6)), allow(), CLAUSE]);
    let decision = table.decide(&KNOWN, &CONNECT);
    assert_eq!((decision.verdict, decision.rule), (Action::Allow, 12));
    assert_eq!((decision.would, decision.would_rule), (Some(Action::Reject), 10));
    // Alone, it gives what is told beside the verdict, too.
    let alone = audited(Clause {
        errno: 110,
        ..redirect(IPV6)
    });
    let decision = Table::of([alone]).decide(&KNOWN, &CONNECT);
    assert_eq!((decision.verdict, decision.rule), (Action::Allow, NO_RULE));
    assert_eq!(
        (decision.would, decision.would_rule),
        (Some(Action::Redirect), 10)
    );
    assert_eq!((decision.errno, decision.flags), (110, CLAUSE_AUDIT));
    assert_eq!(decision.destination().map(|to| to.addr_be), Some(IPV6));
}

#[test]
fn in_audit_mode_the_walk_ends_where_it_would_have() {
    let audit = Connect {
        mode: Mode::Audit,
        ..CONNECT
    };
    let left_out = Clause {
        rollout_by: RolloutBy::Target as u8,
        ..CLAUSE
    };
    // What comes after the one that would have acted is not walked to: the third is left out, and nobody is told.
    let decision = Table::of([audited(redirect(IPV6)), CLAUSE, left_out]).decide(&KNOWN, &audit);
    assert_eq!((decision.verdict, decision.rule), (Action::Allow, NO_RULE));
    assert_eq!(
        (decision.would, decision.would_rule),
        (Some(Action::Redirect), 10)
    );
    assert_eq!(decision.left_out_rule, NO_RULE);
    // After one in audit mode of its own it goes on.
    let decision = Table::of([audited(CLAUSE), left_out]).decide(&KNOWN, &audit);
    assert_eq!((decision.would_rule, decision.left_out_rule), (10, 11));
}

#[test]
fn a_rollout_includes_what_hashes_below_its_bound() {
    const SALT: u32 = 0x5a5a_0001;
    for (by, hash) in [
        (RolloutBy::Target, rollout_hash(SALT, 99)),
        (RolloutBy::Process, rollout_hash(SALT, KNOWN.process)),
        (RolloutBy::Destination, SALT),
    ] {
        for (rollout_below, expected) in [(0, false), (hash, false), (hash + 1, true), (u32::MAX, true)] {
            let clause = Clause {
                rollout_by: by as u8,
                rollout_salt: SALT,
                rollout_below,
                ..CLAUSE
            };
            let connect = Connect {
                rollout_key: 99,
                ..CONNECT
            };
            let decision = Table::of([clause, clause, allow()]).decide(&KNOWN, &connect);
            let (rule, left_out) = if expected { (10, NO_RULE) } else { (12, 10) };
            assert_eq!(
                (decision.rule, decision.left_out_rule),
                (rule, left_out),
                "{by:?} {rollout_below:x}"
            );
        }
    }
}

#[test]
fn canaries_are_always_in() {
    for (list, canaries, expected) in [
        (0, u64::MAX, false),
        (1, 1, true),
        (1, !1, false),
        (2, 2, true),
        (2, !2, false),
        (64, 1 << 63, true),
        (64, !(1 << 63), false),
    ] {
        let clause = Clause {
            rollout_by: RolloutBy::Target as u8,
            canaries: list,
            ..CLAUSE
        };
        let connect = Connect { canaries, ..CONNECT };
        assert_eq!(counts(clause, &KNOWN, &connect), expected, "{list} {canaries:x}");
    }
}
