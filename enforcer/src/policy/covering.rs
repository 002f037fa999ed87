//! The longest of a rule's prefixes that covers an address, in a list of up to a million.
//!
//! A few binary searches in the slice that the rule has anyway: no index is built, no memory used. This is for
//! naming what matched after the fact; what matches is decided by the compiled policy alone.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

/// The longest prefix that covers `addr`. `prefixes` must be sorted by address, then length, with host bits
/// zero, as [`Rule::prefixes`](crate::policy::rule::Rule::prefixes) are.
///
/// Usually one or two binary searches, never more than 129.
pub(crate) fn longest_covering(prefixes: &[Ipv6Net], addr: Ipv6Addr) -> Option<Ipv6Net> {
    let mut candidates = prefixes;
    let mut longest = 128;
    // `longest` falls with each round, from 128 to 0 at most.
    for _ in 0..=128 {
        // In this order a prefix that covers the address and is at most `longest` long is never after this key,
        // and of several the longest is the last.
        let key = (truncate(addr, longest), longest);
        let after = candidates.partition_point(|p| (p.network().to_bits(), p.prefix_len()) <= key);
        let (last, before) = candidates.get(..after)?.split_last()?;
        if last.contains(&addr) {
            return Some(*last);
        }
        // Whatever covers the address and comes earlier also covers `last`, which lies between its beginning
        // and the address. So it is no longer than what the two have in common, and that is shorter than
        // before: `last` is not `key` itself, so they differ within the first `longest` bits.
        let different = last.network().to_bits() ^ addr.to_bits();
        longest = u8::try_from(different.leading_zeros()).unwrap_or(128);
        candidates = before;
    }
    None
}

const fn truncate(addr: Ipv6Addr, len: u8) -> u128 {
    // A shift by all 128 bits, for length 0, does not exist.
    match u128::MAX.checked_shl(128 - len as u32) {
        Some(mask) => addr.to_bits() & mask,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(prefixes: &[Ipv6Net], addr: Ipv6Addr) -> Option<Ipv6Net> {
        let covering = prefixes.iter().filter(|prefix| prefix.contains(&addr));
        covering.max_by_key(|prefix| prefix.prefix_len()).copied()
    }

    /// Addresses that share bits often: few bits set, at a few places.
    fn address() -> impl Strategy<Value = Ipv6Addr> {
        let bit = prop::sample::select(vec![0_u32, 1, 2, 3, 31, 32, 63, 64, 125, 126, 127]);
        prop::collection::vec(bit, 0..5)
            .prop_map(|bits| Ipv6Addr::from_bits(bits.iter().fold(0, |all, bit| all | (1 << (127 - bit)))))
    }

    fn prefix() -> impl Strategy<Value = Ipv6Net> {
        (address(), 0_u8..=128).prop_map(|(addr, len)| Ipv6Net::new(addr, len).unwrap().trunc())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn it_is_the_one_that_a_look_at_all_finds(
            mut prefixes in prop::collection::vec(prefix(), 0..40),
            addr in address(),
        ) {
            prefixes.sort();
            prefixes.dedup();
            prop_assert_eq!(longest_covering(&prefixes, addr), naive(&prefixes, addr));
        }
    }

    #[test]
    fn neighbours_in_the_order_that_do_not_cover_do_not_hide_one_that_does() {
        let parse = |text: &str| text.parse::<Ipv6Net>().unwrap();
        let mut prefixes = vec![parse("2001:db8::/32")];
        // A long run between the covering prefix and the address.
        prefixes.extend((0..5_000_u16).map(|i| parse(&format!("2001:db8:{i:x}::/48"))));
        let addr = "2001:db8:ffff::1".parse().unwrap();
        assert_eq!(longest_covering(&prefixes, addr), Some(parse("2001:db8::/32")));
    }

    #[test]
    fn nothing_covers_is_none() {
        let addr = "2001:db8::1".parse().unwrap();
        assert_eq!(longest_covering(&[], addr), None);
        assert_eq!(longest_covering(&["2001:db9::/32".parse().unwrap()], addr), None);
        assert_eq!(longest_covering(&["2001:db7::/32".parse().unwrap()], addr), None);
    }
}
