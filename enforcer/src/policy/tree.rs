//! [`Tree`]: the prefixes of a compiled policy as the kernel looks them up, a tree of
//! [`Block`]s.
//!
//! First the prefixes become intervals, each with the entry of its longest prefix; then the intervals become blocks. Addresses
//! are looked at in two halves of 64 bits: what distinguishes addresses within one /64 is a tree of its own below that
//! of the first halves.

use enforcer_common::{
    blocks::{BOUNDS, Block, Blocks, COMPARED, MAX_STEPS, block_target},
    clause::NO_ENTRY,
};

use super::compiled::Entry;

/// Fewer bits than that tell apart no more than bounds do.
const MIN_BITS: u32 = 3;

/// What bounds tell in one step, in bits of information: five parts of the same size.
const WORTH_OF_BOUNDS: f64 = 2.33;

/// What each bit must tell more than it costs: it doubles the row of blocks.
const PRICE_OF_A_BIT: f64 = 0.25;

/// The most blocks on a way that choose by bits, of each half. Any other parts what it has to tell apart by nearly five: no
/// part keeps more than three tenths. So a way through a half has at most 4 + 1 + log(bounds / 4) / log(10 / 3) blocks, 16
/// for a million bounds.
const MOST_BY_BITS: u32 = 4;

/// The first bit of a half, which bounds do not compare: it is told apart before them. For first halves that is done by
/// which root a lookup begins at.
const FIRST_BIT: Bits = Bits { count: 1, shift: 63 };

const _: () = assert!(MAX_STEPS >= 32);

/// Blocks, the roots first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    blocks: Vec<Block>,
}

impl Tree {
    /// The tree of entries that are sorted by address, then prefix length.
    #[must_use]
    pub fn new(entries: &[Entry]) -> Self {
        let halves = Halves::of(entries);
        // Two blocks for an entry is what scattered prefixes take. What is not used is only addresses, which cost nothing;
        // growing would copy what is there, and need half as much again.
        let mut tree = Self {
            blocks: Vec::with_capacity(2 * entries.len() + 2),
        };
        // The roots are a row whose choosing block there is no need of.
        tree.by_bits(
            &halves,
            &halves.first,
            Part::whole(0, MOST_BY_BITS + 1),
            FIRST_BIT,
        );
        tree
    }

    /// The blocks, by number.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Makes the block of that number tell those cuts apart. The first cut begins at or before the part, the others lie in
    /// it.
    fn fill(&mut self, number: usize, halves: &Halves, cuts: &[Cut], part: Part) {
        let bits = if part.has_both_first_bits() {
            Some(FIRST_BIT)
        } else if cuts.len() <= BOUNDS + 1 || part.by_bits_left == 0 {
            None
        } else {
            choosing_bits(cuts, part)
        };
        let block = match bits {
            Some(bits) => self.by_bits(halves, cuts, part, bits),
            None => self.by_bounds(halves, cuts, part),
        };
        if let Some(slot) = self.blocks.get_mut(number) {
            *slot = block;
        }
    }

    fn by_bits(&mut self, halves: &Halves, cuts: &[Cut], part: Part, bits: Bits) -> Block {
        let row = self.blocks.len();
        self.blocks
            .resize(row + (1 << bits.count), Block::constant(NO_ENTRY));
        let mut rest = cuts;
        for cell in 0..1_u64 << bits.count {
            let low = part.low & !bits.low_mask() | cell << bits.shift;
            let inside = Part {
                low: low.max(part.low),
                high: (low | ((1 << bits.shift) - 1)).min(part.high),
                ..part.with_one_row_less()
            };
            if inside.low > inside.high {
                continue;
            }
            // The cut that covers the beginning of the cell, and those in it.
            let covering = rest
                .partition_point(|cut| cut.start <= inside.low)
                .saturating_sub(1);
            let beyond = rest.partition_point(|cut| cut.start <= inside.high);
            self.fill(row + cell as usize, halves, &rest[covering..beyond], inside);
            rest = &rest[beyond.saturating_sub(1)..];
        }
        // Blocks are numbered by 32 bits, and there are not that many.
        Block::by_bits(part.half, row as u32, (1 << bits.count) - 1, bits.shift as u8)
    }

    fn by_bounds(&mut self, halves: &Halves, cuts: &[Cut], part: Part) -> Block {
        let mut block = Block::constant(NO_ENTRY);
        block.half = part.half;
        let mut low = part.low;
        let ends = parting(cuts);
        let mut begin = 0;
        let mut before = 0_u32;
        for place in 0..=BOUNDS {
            let end = ends.get(place).copied().unwrap_or(cuts.len());
            // All that follow begin beyond the part's own beginning, so there is an address before them.
            let last = cuts.get(end).map(|cut| cut.start - 1);
            let inside = Part {
                low,
                high: last.unwrap_or(part.high),
                ..part
            };
            let target = self.target(halves, &cuts[begin..end], inside);
            block.targets[place] = target.wrapping_sub(before);
            before = target;
            let Some(last) = last else {
                break;
            };
            block.bounds[place] = last & COMPARED;
            low = last + 1;
            begin = end;
        }
        block
    }

    /// What a part leads to.
    fn target(&mut self, halves: &Halves, cuts: &[Cut], part: Part) -> u32 {
        let number = self.blocks.len();
        let (cuts, part) = match cuts {
            [only] => match only.leads_to {
                LeadsTo::Entry(value) => return value,
                LeadsTo::SecondHalf { begin, end } => (
                    &halves.second[begin as usize..end as usize],
                    Part::whole(1, MOST_BY_BITS),
                ),
            },
            several => (several, part),
        };
        self.blocks.push(Block::constant(NO_ENTRY));
        self.fill(number, halves, cuts, part);
        block_target(number as u32)
    }
}

impl Blocks for Tree {
    fn block(&self, number: u32) -> Option<&Block> {
        self.blocks.get(number as usize)
    }
}

/// Halves of addresses that a block has to tell apart, both ends included.
#[derive(Clone, Copy)]
struct Part {
    low: u64,
    high: u64,
    /// Which half, as in [`Block::half`].
    half: u8,
    /// How many blocks may yet choose by bits.
    by_bits_left: u32,
}

impl Part {
    const fn whole(half: u8, by_bits_left: u32) -> Self {
        Self {
            low: 0,
            high: u64::MAX,
            half,
            by_bits_left,
        }
    }

    const fn with_one_row_less(self) -> Self {
        Self {
            by_bits_left: self.by_bits_left.saturating_sub(1),
            ..self
        }
    }

    const fn has_both_first_bits(self) -> bool {
        self.low <= COMPARED && self.high > COMPARED
    }
}

/// From there on it leads elsewhere.
#[derive(Clone, Copy)]
struct Cut {
    start: u64,
    leads_to: LeadsTo,
}

#[derive(Clone, Copy)]
enum LeadsTo {
    /// All addresses until the next cut have that entry's value.
    Entry(u32),
    /// The one half at which the cut is leads to different entries: these cuts of the second halves.
    SecondHalf { begin: u32, end: u32 },
}

/// The cuts of all first halves, and of the second halves of those that need it.
#[derive(Default)]
struct Halves {
    first: Vec<Cut>,
    second: Vec<Cut>,
}

/// Makes intervals of prefixes.
struct Flattening {
    halves: Halves,
    /// Prefixes that cover the one at hand, the widest first: their last address and their entry's value.
    open: Vec<(u128, u32)>,
    /// The last address at which something may change, and to what. Of several values there, the last one is meant.
    pending: (u128, u32),
    /// What is in force before it.
    before: u32,
}

impl Flattening {
    fn change(&mut self, start: u128, value: u32) {
        if self.pending.0 != start {
            self.flush();
            self.pending.0 = start;
        }
        self.pending.1 = value;
    }

    fn flush(&mut self) {
        let (start, value) = self.pending;
        if start == 0 || value != self.before {
            self.halves.cut(start, value, self.before);
            self.before = value;
        }
    }

    /// Closes the open prefixes that end before that address, or all of them.
    fn close(&mut self, before: Option<u128>) {
        while let Some((end, _)) = self.open.last().copied() {
            if before.is_some_and(|start| start <= end) {
                return;
            }
            self.open.pop();
            let around = self.open.last().map_or(NO_ENTRY, |(_, value)| *value);
            if let Some(after) = end.checked_add(1) {
                self.change(after, around);
            }
        }
    }
}

impl Halves {
    fn of(entries: &[Entry]) -> Self {
        let mut flattening = Flattening {
            halves: Self::default(),
            open: Vec::new(),
            pending: (0, NO_ENTRY),
            before: NO_ENTRY,
        };
        for entry in entries {
            let start = u128::from(entry.prefix.network());
            flattening.close(Some(start));
            flattening.change(start, entry.value());
            flattening
                .open
                .push((u128::from(entry.prefix.broadcast()), entry.value()));
        }
        flattening.close(None);
        flattening.flush();
        let Flattening {
            mut halves, before, ..
        } = flattening;
        halves.leave(None, before);
        halves
    }

    /// From `start` on there is another value than the one before.
    fn cut(&mut self, start: u128, value: u32, before: u32) {
        let (first, second) = ((start >> 64) as u64, start as u64);
        self.leave(Some(first), before);
        if second == 0 {
            self.first.push(Cut {
                start: first,
                leads_to: LeadsTo::Entry(value),
            });
            return;
        }
        let divided = match self.first.last_mut() {
            Some(last) if last.start == first => last,
            _ => {
                self.first.push(Cut {
                    start: first,
                    leads_to: LeadsTo::Entry(before),
                });
                let at = self.first.len() - 1;
                &mut self.first[at]
            }
        };
        if let LeadsTo::Entry(value) = divided.leads_to {
            let begin = self.second.len() as u32;
            divided.leads_to = LeadsTo::SecondHalf { begin, end: begin };
            self.second.push(Cut {
                start: 0,
                leads_to: LeadsTo::Entry(value),
            });
        }
        self.second.push(Cut {
            start: second,
            leads_to: LeadsTo::Entry(value),
        });
        if let LeadsTo::SecondHalf { end, .. } = &mut divided.leads_to {
            *end = self.second.len() as u32;
        }
    }

    /// After a first half that is divided, what is in force goes on at the next one, unless the next cut is in that.
    fn leave(&mut self, next: Option<u64>, value: u32) {
        let Some(Cut {
            start,
            leads_to: LeadsTo::SecondHalf { .. },
        }) = self.first.last().copied()
        else {
            return;
        };
        let Some(after) = start.checked_add(1) else {
            return;
        };
        if next.is_none_or(|first| first > after) {
            self.first.push(Cut {
                start: after,
                leads_to: LeadsTo::Entry(value),
            });
        }
    }
}

/// Bits of a half that choose.
#[derive(Clone, Copy)]
struct Bits {
    count: u32,
    shift: u32,
}

impl Bits {
    /// The bits that choose, and those below them.
    fn low_mask(self) -> u64 {
        1_u64
            .checked_shl(self.shift + self.count)
            .map_or(u64::MAX, |above| above - 1)
    }

    fn cell(self, start: u64) -> u64 {
        start >> self.shift
    }
}

/// The bits that tell the cuts apart best, where that is better than by bounds: those that tell most, less what the row of
/// blocks takes.
fn choosing_bits(cuts: &[Cut], part: Part) -> Option<Bits> {
    let inner = cuts.get(1..).unwrap_or_default();
    let common = (part.low ^ part.high).leading_zeros();
    // Fewer than the part has, because it has no more cuts than addresses.
    let most = (inner.len() / 2).checked_ilog2()?;
    let worth = |bits: Bits| information(inner, bits) - PRICE_OF_A_BIT * f64::from(bits.count);
    (MIN_BITS..=most)
        .map(|count| Bits {
            count,
            shift: 64 - common - count,
        })
        .map(|bits| (worth(bits), bits))
        .filter(|(worth, _)| *worth > WORTH_OF_BOUNDS)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, bits)| bits)
}

/// How many bits of information it is to know the cell that a cut lies in.
fn information(inner: &[Cut], bits: Bits) -> f64 {
    let all = inner.len() as f64;
    let cells = inner.chunk_by(|a, b| bits.cell(a.start) == bits.cell(b.start));
    cells
        .map(|together| {
            let share = together.len() as f64 / all;
            -share * share.log2()
        })
        .sum()
}

/// Where to part cuts into five: indices of those that begin the second part and the later ones. Not quite evenly: bounds
/// of wide prefixes are preferred, because what lies between them is close together.
fn parting(cuts: &[Cut]) -> Vec<usize> {
    let inner = cuts.len() - 1;
    if inner <= BOUNDS {
        return (1..=inner).collect();
    }
    let slack = inner / 20;
    let ends = (1..=BOUNDS).map(|place| {
        let even = place * cuts.len() / (BOUNDS + 1);
        let near = even.saturating_sub(slack).max(1)..=(even + slack).min(inner);
        near.max_by_key(|at| cuts[*at].start.trailing_zeros())
            .unwrap_or(even)
    });
    ends.collect()
}
