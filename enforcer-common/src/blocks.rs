//! [`find`]: the longest prefix that covers an address, in a tree of [`Block`]s.
//!
//! Prefixes cut the addresses into intervals, each of which has one longest prefix. A block is a cache line of such a
//! tree: it either compares the address with up to four bounds and so chooses between five targets, or lets some bits of
//! the address choose between as many blocks that lie in a row. How the tree is shaped is the compiler's choice (many
//! prefixes that lie close together are best told apart by bits, few or scattered ones by bounds); the walk is the
//! same for all of them.
//!
//! A lookup reads three to five lines of memory for a hundred thousand prefixes. The kernel's own trie
//! (`kernel/bpf/lpm_trie.c`) reads a node for every bit at which prefixes part.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    address::AddrWords,
    clause::{MAX_CLAUSES, entry_value},
};

/// Bounds of a block.
pub const BOUNDS: usize = 4;

/// The most blocks on the way to an answer, as a constant for the kernel's verifier. The compiler shows that it needs no
/// more, whatever the prefixes; with the tables that people have it needs three to six.
pub const MAX_STEPS: u32 = 32;

/// The blocks that lookups begin at: the first for addresses whose first bit is 0, the second for the others.
pub const ROOTS: [u32; 2] = [0, 1];

/// From here on a target is a block, by its number; below it is an entry's value, whose prefix length is at most 128.
pub const FIRST_BLOCK: u32 = 129 << 24;

/// What a tree answers that is not whole: an entry whose clause does not exist, which is a fault that is counted.
pub const DAMAGED: u32 = entry_value(128, MAX_CLAUSES);

/// What counts of a half where bounds are compared: all but its first bit, so that a difference has a sign.
pub const COMPARED: u64 = u64::MAX >> 1;

/// One step of a lookup. All numbers are in host byte order; an address is two of 64 bits.
///
/// What a block leads to is `targets[0] + … + targets[n]` (modulo 2^32), where `n` is the number of bounds that the address
/// lies beyond, plus the chosen bits of the address. A block that chooses by bounds has no mask, one that chooses by bits has no
/// bounds. Sums rather than alternatives, because these need a branch for each, which the kernel's verifier follows one by
/// one in each step, and which processors guess wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct Block {
    /// The last half of each part but the last one, without its first bit, which all of them have in common. Rising. Those
    /// that are not needed are [`COMPARED`], beyond which nothing lies.
    pub bounds: [u64; BOUNDS],
    /// What the first part leads to, and what is to be added for each further part: [`FIRST_BLOCK`] and the number of a
    /// block, or an entry's value.
    pub targets: [u32; BOUNDS + 1],
    /// The bits that choose, after the shift.
    pub mask: u32,
    /// 0 looks at the first half of the address, 1 at the second.
    pub half: u8,
    /// How far to shift the bits that choose, 0 … 63.
    pub shift: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

const _: () = assert!(size_of::<Block>() == 64 && align_of::<Block>() == 8);

impl Block {
    /// A block in which everything has that target.
    #[must_use]
    pub const fn constant(target: u32) -> Self {
        Self {
            bounds: [COMPARED; BOUNDS],
            targets: [target, 0, 0, 0, 0],
            mask: 0,
            half: 0,
            shift: 0,
            reserved: [0; 6],
        }
    }

    /// A block that chooses one of the blocks in a row, by `mask` and `shift`.
    #[must_use]
    pub const fn by_bits(half: u8, first: u32, mask: u32, shift: u8) -> Self {
        Self {
            mask,
            half,
            shift,
            ..Self::constant(block_target(first))
        }
    }
}

/// The target that is the block of that number.
#[must_use]
pub const fn block_target(number: u32) -> u32 {
    FIRST_BLOCK + number
}

/// The blocks of one tree.
pub trait Blocks {
    /// The block of that number, or `None` if there is none, which a whole tree never asks for.
    fn block(&self, number: u32) -> Option<&Block>;
}

/// The [`entry_value`] of the longest prefix that covers the address, or
/// [`NO_ENTRY`](crate::clause::NO_ENTRY), or [`DAMAGED`].
#[inline(always)]
pub fn find<B: Blocks>(blocks: &B, addr_be: &AddrWords) -> u32 {
    let first = half(addr_be[0], addr_be[1]);
    let second = half(addr_be[2], addr_be[3]);
    let mut number = (first >> 63) as u32;
    for _ in 0..MAX_STEPS {
        let Some(block) = blocks.block(number) else {
            return DAMAGED;
        };
        let key = first ^ (first ^ second) & u64::from(block.half).wrapping_neg();
        let bits = (key >> (block.shift & 63)) as u32 & block.mask;
        let mut target = block.targets[0].wrapping_add(bits);
        let mut place = 0;
        while place < BOUNDS {
            let beyond = is_beyond(key & COMPARED, block.bounds[place]);
            target = target.wrapping_add(block.targets[place + 1] & beyond);
            place += 1;
        }
        if target < FIRST_BLOCK {
            return target;
        }
        number = target - FIRST_BLOCK;
    }
    DAMAGED
}

/// All bits where the number is more than the bound, else none: the sign of their difference, without a comparison. Both are
/// at most [`COMPARED`].
#[inline(always)]
const fn is_beyond(number: u64, bound: u64) -> u32 {
    (bound.wrapping_sub(number) as i64 >> 63) as u32
}

#[inline(always)]
const fn half(high_be: u32, low_be: u32) -> u64 {
    (u32::from_be(high_be) as u64) << 32 | u32::from_be(low_be) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        address::words_from_octets,
        clause::{NO_CLAUSE, NO_ENTRY},
    };

    struct Slice<'a>(&'a [Block]);

    impl Blocks for Slice<'_> {
        fn block(&self, number: u32) -> Option<&Block> {
            self.0.get(number as usize)
        }
    }

    fn address(first: u64, second: u64) -> AddrWords {
        words_from_octets((u128::from(first) << 64 | u128::from(second)).to_be_bytes())
    }

    fn found(blocks: &[Block], first: u64, second: u64) -> u32 {
        find(&Slice(blocks), &address(first, second))
    }

    #[test]
    fn bounds_divide_what_is_beyond_from_what_is_not() {
        let block = Block {
            bounds: [9, 19, 29, 39],
            targets: [1, 1, 5, 0, 3_u32.wrapping_neg()],
            ..Block::constant(0)
        };
        let keys = [0, 9, 10, 19, 20, 29, 30, 39, 40, COMPARED];
        let targets = [1, 1, 2, 2, 7, 7, 7, 7, 4, 4];
        for (key, target) in keys.into_iter().zip(targets) {
            let tree = [block, block];
            assert_eq!(found(&tree, key, 0), target, "{key}");
            assert_eq!(found(&tree, key | 1 << 63, 0), target, "{key}");
            let second = Block { half: 1, ..block };
            assert_eq!(found(&[second], 0, key), target, "{key}");
        }
    }

    #[test]
    fn bits_choose_among_blocks_in_a_row() {
        let root = Block::by_bits(1, 2, 3, 62);
        let tree = [
            root,
            root,
            Block::constant(10),
            Block::constant(11),
            Block::constant(12),
            Block::constant(13),
        ];
        for (second, value) in [(0, 10), (1 << 62, 11), (2 << 62, 12), (u64::MAX, 13)] {
            assert_eq!(found(&tree, 0, second), value);
            assert_eq!(found(&tree, u64::MAX, second), value);
        }
    }

    #[test]
    fn each_first_bit_has_a_root() {
        let tree = ROOTS.map(|root| Block::constant(root + 5));
        assert_eq!(found(&tree, COMPARED, u64::MAX), 5);
        assert_eq!(found(&tree, 1 << 63, 0), 6);
    }

    #[test]
    fn beyond_is_beyond() {
        let numbers = [0, 1, 2, COMPARED / 2, COMPARED / 2 + 1, COMPARED - 1, COMPARED];
        for a in numbers {
            for b in numbers {
                let expected = if a > b { u32::MAX } else { 0 };
                assert_eq!(is_beyond(a, b), expected, "{a} {b}");
            }
        }
    }

    #[test]
    fn no_entry_is_taken_for_a_block() {
        assert_eq!(entry_value(128, NO_CLAUSE), FIRST_BLOCK - 1);
    }

    #[test]
    fn a_damaged_tree_is_told_from_one_without_an_answer() {
        assert_eq!(found(&[], 0, 0), DAMAGED);
        let round = Block::constant(block_target(ROOTS[0]));
        assert_eq!(found(&[round], 0, 0), DAMAGED);
        assert_eq!(found(&[Block::constant(NO_ENTRY)], 0, 0), NO_ENTRY);
        assert_ne!(DAMAGED, NO_ENTRY);
    }
}
