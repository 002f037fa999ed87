//! `decide()` on tables of a few clauses each: every condition, every way to answer, every fault.

use core::cell::Cell;

use super::*;
use crate::clause::{
    ANY_PROTO, CLAUSE_OPAQUE, IN_OVERLAY, IPPROTO_ICMPV6, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, NO_ENTRY,
    Proto, entry_value,
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
        let found = protocols.map(|protocol| counts(clause, &KNOWN, &Connect { protocol, ..CONNECT }));
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

#[test]
fn a_redirect_goes_where_its_form_says() {
    let to = |clause: Clause| {
        let decision = Table::of([clause]).decide(&KNOWN, &CONNECT);
        assert_eq!((decision.verdict, decision.unmovable), (Action::Redirect, None));
        decision.destination().map(|to| (to.addr_be, to.port))
    };
    assert_eq!(to(redirect(IPV4)), Some((IPV4, 6_543)));
    let low = Clause {
        width: 8,
        ..redirect(address::ipv4_mapped(0xc000_0200_u32.to_be()))
    };
    assert_eq!(
        to(low),
        Some((address::ipv4_mapped(0xc000_0201_u32.to_be()), 6_543))
    );
    let embedded = Clause {
        to_form: DestinationForm::Embedded as u8,
        width: 32,
        to_port: 0,
        ..redirect([0; 4])
    };
    let inside = address::ipv4_mapped(0xc000_0209_u32.to_be());
    assert_eq!(to(embedded), Some((inside, 0)));
}

#[test]
fn a_choice_is_the_sockets_and_all_are_chosen() {
    const CHOICES: usize = MAX_CHOICES;
    let mut block = [CLAUSE; CHOICES];
    for (octet, clause) in (1_u32..).zip(&mut block) {
        *clause = Clause {
            to_form: DestinationForm::Choice as u8,
            ..redirect(address::ipv4_mapped((0xc000_0200 + octet).to_be()))
        };
        clause.to_port = 6_000 + octet as u16;
    }
    for (choices, among) in [(1, 1), (3, 3), (8, 8), (9, 8), (u8::MAX, 8)] {
        block[0].choices = choices;
        let table = Table::of(block);
        let mut chosen = [0; CHOICES];
        for socket in 0..1_000 {
            let known = Known { socket, ..KNOWN };
            let decision = table.decide(&known, &CONNECT);
            let to = decision.to;
            let index = (u32::from_be(to.addr_be[3]) & 0xff) as usize - 1;
            assert_eq!(usize::from(to.port), 6_001 + index);
            assert_eq!(to, table.decide(&known, &CONNECT).to);
            // Its share of the hash, which the rule's number salts.
            let share = u64::from(rollout_hash(10, socket)) * among as u64 / (1 << 32);
            assert_eq!(index as u64, share);
            chosen[index] += 1;
        }
        for (index, times) in chosen.iter().enumerate() {
            let fair = if index < among { 1_000 / among } else { 0 };
            assert!(fair / 2 <= *times && *times <= fair * 2, "{choices}: {chosen:?}");
        }
    }
}

#[test]
fn what_cannot_be_moved_is_rejected_with_the_rules_errno() {
    let embedded = Clause {
        to_form: DestinationForm::Embedded as u8,
        width: 32,
        ..redirect([0; 4])
    };
    for unmovable in [Unmovable::Ping, Unmovable::Bound, Unmovable::V6Only] {
        let known = Known {
            unmovable: Some(unmovable),
            ..KNOWN
        };
        for clause in [redirect(IPV4), embedded] {
            let decision = Table::of([clause]).decide(&known, &CONNECT);
            assert_eq!((decision.verdict, decision.errno), (Action::Reject, 113));
            assert_eq!(decision.unmovable, Some(unmovable));
            assert_ne!(decision.destination(), None);
            // The same of one that only would have.
            let decision = Table::of([audited(clause), allow()]).decide(&known, &CONNECT);
            assert_eq!(
                (decision.verdict, decision.would),
                (Action::Allow, Some(Action::Reject))
            );
            let decision = Table::of([audited(clause)]).decide(&known, &CONNECT);
            assert_eq!(
                (decision.verdict, decision.would),
                (Action::Allow, Some(Action::Reject))
            );
            assert_eq!(decision.unmovable, Some(unmovable));
        }
        let decision = Table::of([redirect(IPV6)]).decide(&known, &CONNECT);
        assert_eq!((decision.verdict, decision.unmovable), (Action::Redirect, None));
        for clause in [CLAUSE, allow()] {
            let decision = Table::of([clause]).decide(&known, &CONNECT);
            assert_eq!(decision.unmovable, None);
        }
    }
    let datagram = Known {
        unmovable: Some(Unmovable::Unconnected),
        ..KNOWN
    };
    for to in [IPV4, IPV6] {
        let decision = Table::of([redirect(to)]).decide(&datagram, &CONNECT);
        assert_eq!(decision.verdict, Action::Reject);
        assert_eq!(decision.unmovable, Some(Unmovable::Unconnected));
    }
    assert_eq!(
        Table::of([allow()]).decide(&datagram, &CONNECT).verdict,
        Action::Allow
    );
}

/// Answers as a connect of a socket that can be moved, and counts what it was asked.
#[derive(Default)]
struct Asked {
    unmovable: Cell<u32>,
    uid: Cell<u32>,
    process: Cell<u32>,
    socket: Cell<u32>,
    boot_ns: Cell<u32>,
}

fn count(asked: &Cell<u32>) {
    asked.set(asked.get() + 1);
}

impl Circumstances for Asked {
    fn unmovable(&self) -> Option<Unmovable> {
        count(&self.unmovable);
        None
    }
    fn uid(&self) -> u32 {
        count(&self.uid);
        0
    }
    fn process(&self) -> u32 {
        count(&self.process);
        0
    }
    fn socket(&self) -> u32 {
        count(&self.socket);
        0
    }
    fn boot_ns(&self) -> u64 {
        count(&self.boot_ns);
        1
    }
}

#[test]
fn nothing_is_asked_that_no_clause_makes_matter() {
    let asked = Asked::default();
    let decision = decide(&Table::of([redirect(IPV6)]), &asked, &CONNECT).expect("a whole table");
    assert_eq!((decision.verdict, decision.unmovable), (Action::Redirect, None));
    let numbers = |asked: &Asked| {
        [
            &asked.unmovable,
            &asked.uid,
            &asked.process,
            &asked.socket,
            &asked.boot_ns,
        ]
        .map(Cell::get)
    };
    assert_eq!(numbers(&asked), [0; 5]);
    let all = Clause {
        uid_max: 0,
        rollout_by: RolloutBy::Process as u8,
        rollout_below: u32::MAX,
        expires_boot_ns: 2,
        to_form: DestinationForm::Choice as u8,
        choices: 1,
        ..redirect(IPV4)
    };
    decide(&Table::of([all]), &asked, &CONNECT).expect("a whole table");
    assert_eq!(numbers(&asked), [1; 5]);
}

#[test]
fn what_the_address_is_to_names_is_gathered_on_the_way() {
    let hit = Clause {
        flags: CLAUSE_NAME_HIT,
        proto: Proto::Udp as u8,
        ..CLAUSE
    };
    let miss = Clause {
        flags: CLAUSE_NAME_MISS,
        ..CLAUSE
    };
    for (clauses, name) in [
        ([hit, CLAUSE], CLAUSE_NAME_HIT),
        ([miss, CLAUSE], CLAUSE_NAME_MISS),
        ([miss, hit], CLAUSE_NAME_MISS | CLAUSE_NAME_HIT),
        ([audited(allow()), allow()], 0),
    ] {
        assert_eq!(Table::of(clauses).decide(&KNOWN, &CONNECT).name, name);
    }
}

#[test]
fn the_longest_list_is_walked_to_its_end_and_a_longer_one_is_a_fault() {
    const LONGEST: usize = MAX_WALK as usize;
    let udp = Clause {
        proto: Proto::Udp as u8,
        ..CLAUSE
    };
    let mut clauses = [udp; LONGEST];
    assert_eq!(Table::of(clauses).decide(&KNOWN, &CONNECT).verdict, Action::Allow);
    clauses[LONGEST - 1] = CLAUSE;
    assert_eq!(
        Table::of(clauses).decide(&KNOWN, &CONNECT).rule,
        10 + MAX_WALK - 1
    );
    let longer = Table::of([udp; LONGEST + 1]);
    assert_eq!(decide(&longer, &KNOWN, &CONNECT), Err(TableFault::WalkTooLong));
}

#[test]
fn a_damaged_table_is_a_fault() {
    let faults = |clause: Clause| decide(&Table([clause]), &KNOWN, &CONNECT);
    let onward = Clause {
        proto: Proto::Udp as u8,
        next: 1,
        ..CLAUSE
    };
    assert_eq!(faults(onward), Err(TableFault::ClauseMissing));
    let choice = Clause {
        to_form: DestinationForm::Choice as u8,
        choices: 8,
        ..redirect(IPV4)
    };
    let chosen = (0..100).map(|socket| decide(&Table([choice]), &Known { socket, ..KNOWN }, &CONNECT));
    assert!(
        chosen
            .clone()
            .any(|found| found == Err(TableFault::ClauseMissing))
    );
    assert!(chosen.clone().any(|found| found.is_ok()));
    let unknown = Clause { action: 3, ..CLAUSE };
    assert_eq!(faults(unknown), Err(TableFault::ActionUnknown));
    assert_eq!(faults(audited(unknown)), Err(TableFault::ActionUnknown));
    let both = Table::of([audited(unknown), CLAUSE]);
    assert_eq!(decide(&both, &KNOWN, &CONNECT), Err(TableFault::ActionUnknown));
}

#[test]
fn the_overlays_entry_answers_with_the_overlays_clauses() {
    struct Layers;
    const OVERLAYS: Clause = Clause { rule: 2, ..CLAUSE };
    impl PolicyTable for Layers {
        fn base_entry(&self, daddr_be: &AddrWords) -> u32 {
            entry_value(if *daddr_be == ASKED { 48 } else { 128 }, NO_CLAUSE)
        }
        fn overlay_entry(&self, _: &AddrWords) -> u32 {
            entry_value(64, IN_OVERLAY | 5)
        }
        fn clause(&self, index: u32) -> Option<&Clause> {
            (index == IN_OVERLAY | 5).then_some(&OVERLAYS)
        }
    }
    let rule = |daddr_be| {
        let connect = Connect { daddr_be, ..CONNECT };
        decide(&Layers, &KNOWN, &connect).expect("a whole table").rule
    };
    assert_eq!(rule(ASKED), 2);
    assert_eq!(rule(IPV6), NO_RULE);
}
