//! What comes of the clause that counts: where a redirect goes, what cannot be moved, what is asked, what is a fault.

use core::cell::Cell;

use super::*;

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
