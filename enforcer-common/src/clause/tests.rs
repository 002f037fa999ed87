//! Clauses, entries' values and hashes, by themselves.

use zerocopy::FromZeros as _;

use super::*;

#[test]
fn the_longer_prefix_answers_and_the_overlay_where_both_are_as_long() {
    let base = entry_value(48, 7);
    for (overlay, head) in [
        (NO_ENTRY, 7),
        (entry_value(47, 1), 7),
        (entry_value(48, 1), 1),
        (entry_value(128, NO_CLAUSE), NO_CLAUSE),
    ] {
        assert_eq!(head_of(base, overlay), head, "{overlay:x}");
    }
    assert_eq!(head_of(NO_ENTRY, entry_value(0, 3)), 3);
    assert_eq!(head_of(NO_ENTRY, NO_ENTRY), NO_CLAUSE);
    assert_eq!(head_of(entry_value(0, 4), NO_ENTRY), 4);
}

#[test]
fn a_rollout_takes_its_share_of_keys_that_follow_each_other() {
    for salt in [text_hash(b"a"), text_hash(b"b"), 0] {
        for percent in [1_u8, 10, 25, 50, 99] {
            let below = rollout_below(percent);
            let taken = (1000..101_000)
                .filter(|key| rollout_hash(salt, *key) < below)
                .count();
            let share = taken as f64 / 1000.0;
            assert!(
                (share - f64::from(percent)).abs() < 1.0,
                "{salt:x} {percent}: {share}"
            );
        }
    }
}

#[test]
fn rollouts_of_different_names_take_different_keys() {
    let below = rollout_below(25);
    let is_in = |name: &str, key| rollout_hash(text_hash(name.as_bytes()), key) < below;
    let both = (0..100_000)
        .filter(|key| is_in("one", *key) && is_in("two", *key))
        .count();
    // Independent ones share 6.25 %.
    assert!((5_500..7_000).contains(&both), "{both}");
}

#[test]
fn a_larger_share_only_adds() {
    assert!((0..100).all(|percent| rollout_below(percent) < rollout_below(percent + 1)));
    assert_eq!(rollout_below(0), 0);
}

/// The second is a known vector of the finalizer; the last two, which have a key, were computed by another program.
#[test]
fn rollouts_hash_as_they_always_did() {
    for (salt, key, hash) in [
        (0, 0, 0),
        (1, 0, 0x514e_28b7),
        (0, 1, 0x11fd_02eb),
        (0xdead_beef, 0x1234_5678, 0xc008_4df0),
    ] {
        assert_eq!(rollout_hash(salt, key), hash, "{salt:x} {key:x}");
    }
    assert_eq!([25, 50, 100].map(rollout_below), [1 << 30, 1 << 31, u32::MAX]);
}

#[test]
fn each_flag_is_a_bit_of_its_own() {
    let flags = [
        CLAUSE_AUDIT,
        CLAUSE_OPAQUE,
        CLAUSE_UNRESOLVED,
        CLAUSE_NAME_HIT,
        CLAUSE_NAME_MISS,
    ];
    assert!(flags.iter().all(|flag| flag.count_ones() == 1));
    assert_eq!(flags.iter().fold(0, |all, flag| all | flag), 0b1_1111);
}

#[test]
fn an_entry_holds_its_prefix_length_beside_its_head() {
    assert_eq!(entry_value(128, 5), 0x8000_0005);
    assert_eq!(entry_value(48, u32::MAX), 0x30ff_ffff);
    assert_eq!(NO_ENTRY, 0x00ff_ffff);
    assert_eq!(NO_CLAUSE & IN_OVERLAY, IN_OVERLAY);
    assert_eq!(NO_CLAUSE & ALLOWS_AT_ONCE, ALLOWS_AT_ONCE);
    for layer in [0, IN_OVERLAY] {
        assert_eq!((MAX_CLAUSES - 1) & ALLOWS_AT_ONCE, 0);
        let value = entry_value(48, (MAX_CLAUSES - 1) | layer);
        assert_eq!(to_be_read(value | ALLOWS_AT_ONCE), value);
        assert_eq!(to_be_read(value), value);
    }
    assert_eq!(to_be_read(NO_ENTRY), NO_ENTRY);
    assert_eq!(to_be_read(entry_value(96, NO_CLAUSE)), entry_value(96, NO_CLAUSE));
}

#[test]
fn a_clause_is_unconditional_without_any_condition() {
    let unconditional = Clause {
        next: NO_CLAUSE,
        port_max: u16::MAX,
        uid_max: u32::MAX,
        ..Clause::new_zeroed()
    };
    assert!(unconditional.is_unconditional() && unconditional.has_no_condition());
    type Change = fn(&mut Clause);
    let conditions: [Change; 7] = [
        |clause| clause.proto = Proto::Udp as u8,
        |clause| clause.port_min = 1,
        |clause| clause.port_max = 1,
        |clause| clause.uid_min = 1,
        |clause| clause.uid_max = 1,
        |clause| (clause.port_min, clause.port_max) = (1, !1),
        |clause| (clause.uid_min, clause.uid_max) = (1, !1),
    ];
    let otherwise: [Change; 5] = [
        |clause| clause.rollout_by = RolloutBy::Process as u8,
        |clause| clause.expires_boot_ns = 1,
        |clause| clause.flags = CLAUSE_AUDIT,
        |clause| clause.flags = CLAUSE_UNRESOLVED,
        |clause| clause.flags = CLAUSE_NAME_MISS,
    ];
    for (number, change) in conditions.iter().chain(&otherwise).enumerate() {
        let mut clause = unconditional;
        change(&mut clause);
        assert!(!clause.is_unconditional(), "{number}");
        assert_eq!(clause.has_no_condition(), number >= conditions.len(), "{number}");
    }
    for flags in [CLAUSE_OPAQUE, CLAUSE_NAME_HIT] {
        assert!(
            Clause {
                flags,
                ..unconditional
            }
            .is_unconditional()
        );
    }
}

/// Vectors that the hash's authors publish.
#[test]
fn texts_hash_as_published() {
    assert_eq!(text_hash(b""), 0x811c_9dc5);
    assert_eq!(text_hash(b"a"), 0xe40c_292c);
    assert_eq!(text_hash(b"foobar"), 0xbf9c_f968);
}
