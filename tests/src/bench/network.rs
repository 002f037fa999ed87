//! A table of prefixes with the shape of the global IPv6 routing table, and destinations in it. The same seed gives the
//! same table on every machine.
//!
//! Half of the prefixes are /48, then come /32, /40, /44, /36, /29 and some of every length between. A regional
//! registry's block is handed out in /32 and /29, often to neighbours; most of those are announced as they are, and
//! longer prefixes lie within them, a few holders having very many, one after the other. Numbers of the real table:
//! the weekly reports of the routing registries, which agree within a few percent for years.

use std::{collections::HashSet, net::Ipv6Addr};

use fastrand::Rng;
use ipnet::Ipv6Net;

/// Blocks of the regional registries, with their part of all allocations in percent.
const BLOCKS: [(u128, u8, u32); 6] = [
    (0x2001 << 112, 16, 10),
    (0x2400 << 112, 12, 24),
    (0x2600 << 112, 12, 20),
    (0x2800 << 112, 12, 12),
    (0x2a00 << 112, 12, 30),
    (0x2c00 << 112, 12, 4),
];

/// Lengths of what is announced within allocations, with their part in per mille.
const LONGER: [(u8, u32); 14] = [
    (48, 602),
    (44, 110),
    (40, 105),
    (36, 62),
    (46, 30),
    (47, 22),
    (45, 18),
    (42, 15),
    (33, 12),
    (34, 10),
    (38, 6),
    (35, 4),
    (39, 2),
    (37, 2),
];

/// Lengths of allocations, with their part in per mille.
const ALLOCATED: [(u8, u32); 6] = [(32, 800), (29, 160), (30, 15), (31, 10), (28, 10), (24, 5)];

/// Of a hundred prefixes, how many are allocations announced as they are.
const ALLOCATIONS_PERCENT: usize = 17;

/// A table, sorted by address, then length; no prefix twice.
#[must_use]
pub fn table(count: usize, seed: u64) -> Vec<Ipv6Net> {
    let mut rng = Rng::with_seed(seed);
    let allocations = allocations(&mut rng, (count * ALLOCATIONS_PERCENT / 100).max(1));
    let mut prefixes: Vec<(u128, u8)> = allocations.iter().copied().take(count).collect();
    let mut known: HashSet<(u128, u8)> = prefixes.iter().copied().collect();
    let mut last = vec![None; allocations.len()];
    while prefixes.len() < count {
        // Few holders announce very many, most announce few.
        let holder = (rng.f64().powi(3) * allocations.len() as f64) as usize;
        let Some(&(network, allocated)) = allocations.get(holder) else {
            continue;
        };
        let length = choose(&mut rng, &LONGER);
        if length <= allocated {
            continue;
        }
        let step = 1_u128 << (128 - length);
        let beside = last[holder].filter(|(_, beside)| *beside == length && rng.u32(0..10) < 7);
        let prefix = match beside {
            Some((address, _)) => within(address + step, network, allocated, length),
            None => within(network | rng.u128(..) >> allocated, network, allocated, length),
        };
        last[holder] = Some((prefix, length));
        if known.insert((prefix, length)) {
            prefixes.push((prefix, length));
        }
    }
    prefixes.sort_unstable();
    let nets = prefixes.into_iter();
    nets.filter_map(|(address, length)| Ipv6Net::new(address.into(), length).ok())
        .collect()
}

/// Allocations that do not overlap.
fn allocations(rng: &mut Rng, count: usize) -> Vec<(u128, u8)> {
    let mut taken: HashSet<u128> = HashSet::new();
    let mut found: Vec<(u128, u8)> = Vec::with_capacity(count);
    let mut last = [0_u128; BLOCKS.len()];
    while found.len() < count {
        let weights = BLOCKS.iter().map(|block| block.2);
        let at = weighted(rng, weights);
        let (block, block_length, _) = BLOCKS[at];
        let length = choose(rng, &ALLOCATED);
        // Registries hand out the next place, or begin somewhere else to leave room.
        let place = if last[at] != 0 && rng.u32(0..10) < 6 {
            last[at] + (1 << (128 - length))
        } else {
            block | rng.u128(..) >> block_length
        };
        let network = within(place, block, block_length, length);
        last[at] = network;
        // In units of /32, so that a /29 takes eight places.
        let places = network >> 96..(network >> 96) + (1_u128 << 32_u8.saturating_sub(length));
        if places.clone().any(|place| taken.contains(&place)) {
            continue;
        }
        taken.extend(places);
        found.push((network, length));
    }
    found
}

/// The prefix of that length that an address is in, moved into the block where it is not within.
const fn within(address: u128, block: u128, block_length: u8, length: u8) -> u128 {
    let host = u128::MAX >> length;
    let inside = u128::MAX >> block_length;
    (block | (address & inside)) & !host
}

fn choose(rng: &mut Rng, lengths: &[(u8, u32)]) -> u8 {
    lengths[weighted(rng, lengths.iter().map(|length| length.1))].0
}

fn weighted(rng: &mut Rng, weights: impl Iterator<Item = u32> + Clone) -> usize {
    let mut left = rng.u32(0..weights.clone().sum());
    for (index, weight) in weights.enumerate() {
        if left < weight {
            return index;
        }
        left -= weight;
    }
    0
}

/// Where connects go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Picks {
    /// A hundred thousand destinations, of which the n-th most frequent is met 1/n as often as the first.
    Zipf,
    /// Every connect goes somewhere else.
    Uniform,
}

/// How many destinations [`Picks::Zipf`] chooses from.
pub const ZIPF_DESTINATIONS: usize = 100_000;

/// Destinations in prefixes, each prefix as likely as any other, that are `wanted`: `count` of them, in the order they
/// are connected to. None where there are no such prefixes.
#[must_use]
pub fn destinations(
    prefixes: &[Ipv6Net],
    picks: Picks,
    count: usize,
    seed: u64,
    wanted: impl Fn(Ipv6Addr) -> bool,
) -> Vec<Ipv6Addr> {
    let mut rng = Rng::with_seed(seed);
    let anywhere = |rng: &mut Rng| {
        let prefix = prefixes[rng.usize(..prefixes.len())];
        let host = u128::MAX.checked_shr(u32::from(prefix.prefix_len())).unwrap_or(0);
        Ipv6Addr::from(u128::from(prefix.network()) | (rng.u128(..) & host))
    };
    let is_hopeless = prefixes.is_empty() || !(0..10_000).any(|_| wanted(anywhere(&mut rng)));
    if is_hopeless {
        return Vec::new();
    }
    let somewhere = |rng: &mut Rng| loop {
        let address = anywhere(rng);
        if wanted(address) {
            break address;
        }
    };
    match picks {
        Picks::Uniform => (0..count).map(|_| somewhere(&mut rng)).collect(),
        Picks::Zipf => {
            let known: Vec<_> = (0..ZIPF_DESTINATIONS).map(|_| somewhere(&mut rng)).collect();
            let mut sum = 0.0;
            let sums: Vec<f64> = (1..=known.len())
                .map(|rank| {
                    sum += 1.0 / rank as f64;
                    sum
                })
                .collect();
            (0..count)
                .map(|_| {
                    let wanted = rng.f64() * sum;
                    known[sums.partition_point(|sum| *sum <= wanted).min(known.len() - 1)]
                })
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_the_size_and_shape_it_says() {
        let table = table(50_000, 1);
        assert_eq!(table.len(), 50_000);
        assert!(table.windows(2).all(|pair| pair[0] < pair[1]));
        let part = |length| {
            let of_length = table.iter().filter(|net| net.prefix_len() == length);
            of_length.count() as f64 / table.len() as f64
        };
        assert!((0.45..0.55).contains(&part(48)), "{}", part(48));
        assert!((0.10..0.16).contains(&part(32)), "{}", part(32));
        assert!((0.06..0.12).contains(&part(40)), "{}", part(40));
        assert!((0.06..0.12).contains(&part(44)), "{}", part(44));
        assert!((0.02..0.05).contains(&part(29)), "{}", part(29));
        let blocks = [
            "2001::/16",
            "2400::/12",
            "2600::/12",
            "2800::/12",
            "2a00::/12",
            "2c00::/12",
        ];
        let blocks: Vec<Ipv6Net> = blocks.iter().map(|block| block.parse().unwrap()).collect();
        assert!(
            table
                .iter()
                .all(|net| blocks.iter().any(|block| block.contains(net)))
        );
        assert_eq!(table, super::table(50_000, 1));
        assert_ne!(table, super::table(50_000, 2));
    }

    #[test]
    fn small_tables_are_as_large_as_asked_for() {
        for count in [1, 16, 1_000] {
            assert_eq!(table(count, 3).len(), count);
        }
    }

    #[test]
    fn destinations_lie_in_the_table_and_zipf_repeats_the_first_most() {
        let table = table(1_000, 1);
        for picks in [Picks::Zipf, Picks::Uniform] {
            let met = destinations(&table, picks, 20_000, 5, |address| address.octets()[15] % 2 == 0);
            assert!(met.iter().all(|address| address.octets()[15] % 2 == 0));
            assert_eq!(met.len(), 20_000);
            assert!(
                met.iter()
                    .all(|address| table.iter().any(|net| net.contains(address)))
            );
            let mut sorted = met.clone();
            sorted.sort_unstable();
            let most = sorted.chunk_by(|a, b| a == b).map(<[_]>::len).max().unwrap();
            // 1/H(100,000) of them are the first: 8.3 %.
            let expected = if picks == Picks::Zipf { 1_300..2_000 } else { 1..2 };
            assert!(expected.contains(&most), "{picks:?}: {most}");
        }
    }
}
