//! The tree that the kernel looks prefixes up in, against the longest match in the list of entries.

use std::{cell::Cell, net::Ipv6Addr};

use enforcer_common::{
    address::words_from_octets,
    blocks::{Block, Blocks, FIRST_BLOCK, MAX_STEPS, ROOTS, find},
    clause::NO_ENTRY,
};
use ipnet::Ipv6Net;
use proptest::{collection::vec, prelude::*, sample::select};

use super::super::{compiled::Entry, rule::longest_match, tree::Tree};

fn entries(mut prefixes: Vec<Ipv6Net>) -> Vec<Entry> {
    prefixes.sort();
    prefixes.dedup();
    let numbered = (0..).zip(prefixes);
    numbered
        .map(|(head, prefix)| Entry {
            prefix,
            // Neighbours may lead to the same list.
            head: head / 2,
            allows_at_once: head / 2 % 3 == 0,
        })
        .collect()
}

fn longest(entries: &[Entry], address: Ipv6Addr) -> u32 {
    longest_match(entries, |entry| entry.prefix, address.into()).map_or(NO_ENTRY, Entry::value)
}

fn look_up(tree: &Tree, address: Ipv6Addr) -> u32 {
    find(tree, &words_from_octets(address.octets()))
}

/// Both ends of each prefix and what lies beside them: everything at which an answer can change.
fn borders(entries: &[Entry]) -> impl Iterator<Item = Ipv6Addr> {
    let ends = entries.iter().flat_map(|entry| {
        let [first, last] = [entry.prefix.network(), entry.prefix.broadcast()].map(u128::from);
        [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
    });
    ends.chain([0, u128::MAX]).map(Ipv6Addr::from)
}

/// The most blocks on any way through the tree.
fn deepest(tree: &Tree) -> u32 {
    ROOTS.map(|root| depth(tree, root)).into_iter().max().unwrap()
}

/// How many blocks the lookup of an address reads.
fn steps(tree: &Tree, address: Ipv6Addr) -> u32 {
    struct Counted<'tree>(&'tree Tree, Cell<u32>);
    impl Blocks for Counted<'_> {
        fn block(&self, number: u32) -> Option<&Block> {
            self.1.set(self.1.get() + 1);
            self.0.block(number)
        }
    }
    let counted = Counted(tree, Cell::new(0));
    find(&counted, &words_from_octets(address.octets()));
    counted.1.get()
}

fn depth(tree: &Tree, number: u32) -> u32 {
    let block: &Block = tree.block(number).unwrap();
    let mut target = 0_u32;
    let below: Vec<u32> = if block.mask != 0 {
        (0..=block.mask).map(|cell| block.targets[0] + cell).collect()
    } else {
        let sums = block.targets.iter().map(|further| {
            target = target.wrapping_add(*further);
            target
        });
        sums.collect()
    };
    1 + below
        .into_iter()
        .filter_map(|target| target.checked_sub(FIRST_BLOCK))
        .map(|number| depth(tree, number))
        .max()
        .unwrap_or(0)
}

fn hold(prefixes: Vec<Ipv6Net>, further: &[u128]) -> Tree {
    let entries = entries(prefixes);
    let tree = Tree::new(&entries);
    for address in borders(&entries).chain(further.iter().map(|address| Ipv6Addr::from(*address))) {
        assert_eq!(
            look_up(&tree, address),
            longest(&entries, address),
            "{address} among {} entries",
            entries.len()
        );
    }
    let depth = deepest(&tree);
    assert!(depth <= MAX_STEPS, "{depth} blocks on a way");
    tree
}

fn net(address: u128, length: u8) -> Ipv6Net {
    Ipv6Net::new(address.into(), length).unwrap().trunc()
}

/// A deterministic sequence of numbers that look random (splitmix64, public domain).
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    })
}

#[test]
fn no_prefix_at_all_is_no_entry() {
    let tree = hold(Vec::new(), &[1, 2, 1 << 64]);
    assert_eq!(tree.blocks().len(), ROOTS.len());
    assert_eq!(look_up(&tree, Ipv6Addr::LOCALHOST), NO_ENTRY);
}

#[test]
fn few_prefixes_are_the_roots() {
    let prefixes = ["2000::/3", "2001:db8::/32"].map(|prefix| prefix.parse().unwrap());
    assert_eq!(hold(prefixes.into(), &[]).blocks().len(), ROOTS.len());
}

#[test]
fn everything_and_single_addresses() {
    let prefixes = [
        "::/0",
        "::/128",
        "::1/128",
        "::2/127",
        "::ffff:0:0/96",
        "0:0:0:1::/64",
        "0:0:0:1::1/128",
        "0:0:0:1:ffff:ffff:ffff:ffff/128",
        "0:0:0:2::/128",
        "ffff:ffff:ffff:ffff::/64",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
        "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
    ];
    hold(prefixes.map(|prefix| prefix.parse().unwrap()).into(), &[]);
}

#[test]
fn prefixes_of_every_length_within_each_other() {
    for address in [
        0,
        u128::MAX,
        0x2001_0db8_8000_0001_0000_0001_8000_0001,
        0x5555 << 100,
    ] {
        hold((0..=128).map(|length| net(address, length)).collect(), &[]);
    }
}

#[test]
fn prefixes_that_lie_close_are_told_apart_by_bits() {
    let row = |count: u128, length: u8| {
        (0..count)
            .map(|at| net(0x2001_0db8 << 96 | at << (128 - length), length))
            .collect::<Vec<_>>()
    };
    for length in [40, 48, 56, 64, 72, 128] {
        let tree = hold(row(2_000, length), &[]);
        assert!(tree.blocks().iter().any(|block| block.mask != 0), "{length}");
        let (depth, blocks) = (deepest(&tree), tree.blocks().len());
        // Of them one tells the first bits of second halves apart.
        assert!(depth <= 7, "{length}: {depth} blocks on a way");
        assert!(blocks <= 2_000, "{length}: {blocks} blocks");
    }
}

#[test]
fn many_scattered_prefixes() {
    let mut random = numbers(1);
    for (count, lengths) in [
        (3_000_usize, &[29_u8, 32, 36, 40, 44, 48][..]),
        (3_000, &[64, 128, 97]),
    ] {
        let mut address = || u128::from(random.next().unwrap()) << 64 | u128::from(random.next().unwrap());
        let prefixes = (0..count).map(|at| net(address() >> 3 | 1 << 125, lengths[at % lengths.len()]));
        let prefixes: Vec<_> = prefixes.collect();
        let further: Vec<u128> = (0..2_000).map(|_| address()).collect();
        hold(prefixes, &further);
    }
}

/// What leaves the tree no good place to part: each prefix has nearly all of the others within it.
#[test]
fn no_way_is_longer_than_a_lookup_goes() {
    let mut prefixes = Vec::new();
    for top in 0..16_u128 {
        for length in 0..60 {
            // Two neighbours at every length along the way.
            let way = top << 124 | 0x0555_5555_5555_5555 << 64;
            prefixes.push(net(way, 4 + length));
            prefixes.push(net(way ^ 1 << (124 - length), 4 + length));
        }
    }
    hold(prefixes.clone(), &[]);
    let low: Vec<_> = (0..64_u8)
        .flat_map(|length| (0..40_u128).map(move |at| net(0x2001 << 112 | at << 20, 64 + length)))
        .collect();
    prefixes.extend(low);
    hold(prefixes, &[]);
}

/// What a table of prefixes takes, and how many blocks a lookup reads: neither at the expense of the other.
#[test]
fn a_table_of_scattered_prefixes_is_small_and_read_in_three() {
    const LENGTHS: [u8; 8] = [48, 48, 48, 32, 44, 40, 36, 29];
    let mut random = numbers(3);
    let mut address = || u128::from(random.next().unwrap()) << 64;
    let prefixes: Vec<_> = (0..20_000)
        .map(|at| net(address() >> 3 | 1 << 125, LENGTHS[at % LENGTHS.len()]))
        .collect();
    let entries = entries(prefixes);
    let tree = Tree::new(&entries);
    let lines = tree.blocks().len() as f64 / entries.len() as f64;
    let read = entries
        .iter()
        .map(|entry| f64::from(steps(&tree, entry.prefix.network())))
        .sum::<f64>()
        / entries.len() as f64;
    assert!(
        lines < 1.6 && read < 2.95,
        "{lines} lines for an entry, {read} read"
    );
}

fn scattered() -> impl Strategy<Value = Ipv6Net> {
    const LENGTHS: [u8; 15] = [0, 1, 3, 8, 16, 29, 32, 48, 56, 63, 64, 65, 96, 127, 128];
    const BASES: [u128; 4] = [0, 0x2001_0db8 << 96, 0x2a00 << 112, u128::MAX << 64];
    (select(&BASES[..]), any::<u64>(), 0_u32..128, select(&LENGTHS[..])).prop_map(
        |(base, bits, shift, length)| net(base ^ u128::from(bits).checked_shl(shift).unwrap_or(0), length),
    )
}

proptest! {
    #[test]
    fn a_tree_finds_the_longest_prefix(
        prefixes in vec(scattered(), 0..200),
        further in vec(any::<u128>(), 0..20),
    ) {
        hold(prefixes, &further);
    }

    /// Close together, so that bits tell them apart down to the last one.
    #[test]
    fn a_tree_finds_the_longest_prefix_among_neighbours(
        neighbours in vec((0_u128..512, 0_u8..4), 40..400),
        length in select(vec![64_u8, 128]),
    ) {
        let place = |at: u128| 0x2001_0db8 << 96 | at << (128 - length);
        hold(neighbours.into_iter().map(|(at, wider)| net(place(at), length - wider)).collect(), &[]);
    }
}
