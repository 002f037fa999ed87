//! IPv6 addresses the way `struct bpf_sock_addr` holds them, and the prefixes no rule reaches by accident.

/// An IPv6 address as four 32-bit words, each **in network byte order**, as in `bpf_sock_addr.user_ip6`
/// (`include/uapi/linux/bpf.h`) and `struct in6_addr.s6_addr32`.
pub type AddrWords = [u32; 4];

/// The words of an address given as its 16 octets in transmission order.
#[must_use]
pub const fn words_from_octets(octets: [u8; 16]) -> AddrWords {
    let o = octets;
    [
        u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
        u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
        u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
        u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
    ]
}

/// The 16 octets, in transmission order, of an address given as words.
#[must_use]
pub const fn octets_from_words(words: AddrWords) -> [u8; 16] {
    let [a, b, c, d] = [
        words[0].to_ne_bytes(),
        words[1].to_ne_bytes(),
        words[2].to_ne_bytes(),
        words[3].to_ne_bytes(),
    ];
    [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
    ]
}

/// An IPv4 address, in network byte order, written as IPv6 (RFC 4291 section 2.5.5.2).
#[must_use]
#[inline(always)]
pub const fn ipv4_mapped(addr_be: u32) -> AddrWords {
    [0, 0, 0xffff_u32.to_be(), addr_be]
}

/// Whether the address is IPv4-mapped, `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
#[must_use]
#[inline(always)]
pub const fn is_ipv4_mapped(words: &AddrWords) -> bool {
    words[0] == 0 && words[1] == 0 && words[2] == 0xffff_u32.to_be()
}

/// Whether the address is the unspecified address `::` (RFC 4291 section 2.5.2).
#[must_use]
#[inline(always)]
pub const fn is_unspecified(words: &AddrWords) -> bool {
    words[0] == 0 && words[1] == 0 && words[2] == 0 && words[3] == 0
}

/// The address whose low bits are those of another, and whose other bits are those of `high`, of which the low ones are
/// zero. `width` is how many are low, 0 … 128.
#[must_use]
#[inline(always)]
pub const fn with_low_bits(high: &AddrWords, low: &AddrWords, width: u8) -> AddrWords {
    [
        high[0] | low[0] & low_mask_be(width, 96),
        high[1] | low[1] & low_mask_be(width, 64),
        high[2] | low[2] & low_mask_be(width, 32),
        high[3] | low[3] & low_mask_be(width, 0),
    ]
}

/// The mask of a word, in network byte order, of an address whose `width` low bits are wanted. `below` bits lie below
/// the word.
#[inline(always)]
const fn low_mask_be(width: u8, below: u8) -> u32 {
    if width <= below {
        0
    } else if width - below >= 32 {
        u32::MAX
    } else {
        ((1_u32 << ((width - below) & 31)) - 1).to_be()
    }
}

/// Prefix lengths with which an IPv4 address can be embedded in an IPv6 address (RFC 6052 section 2.2).
pub const EMBEDDING_LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

/// The IPv4 address inside an IPv6 address whose prefix has that length, IPv4-mapped (RFC 6052 section 2.2). Of a
/// length that is none of [`EMBEDDING_LENGTHS`] it is the one at the end.
#[must_use]
#[inline(always)]
pub const fn embedded_ipv4(addr_be: &AddrWords, prefix_len: u8) -> AddrWords {
    let [second, third, fourth] = [
        u32::from_be(addr_be[1]),
        u32::from_be(addr_be[2]),
        u32::from_be(addr_be[3]),
    ];
    // Bits 64 to 71 are not used, so that interface identifiers stay what RFC 4291 says they are.
    let ipv4 = match prefix_len {
        32 => second,
        40 => second << 8 | third >> 16 & 0xff,
        48 => second << 16 | third >> 8 & 0xffff,
        56 => second << 24 | third & 0x00ff_ffff,
        64 => third << 8 | fourth >> 24,
        _ => fourth,
    };
    [0, 0, 0xffff_u32.to_be(), ipv4.to_be()]
}

/// One prefix of [`EXEMPT_PREFIXES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExemptPrefix {
    /// Network address, as octets in transmission order.
    pub octets: [u8; 16],
    /// Prefix length in bits.
    pub prefix_len: u8,
    /// What it is, for people.
    pub what: &'static str,
    /// Whether a rule may name a prefix inside it at all.
    pub rules_allowed: bool,
}

const fn exempt(groups: [u16; 8], prefix_len: u8, what: &'static str, rules_allowed: bool) -> ExemptPrefix {
    let mut octets = [0; 16];
    let mut i = 0;
    while i < 8 {
        let [high, low] = groups[i].to_be_bytes();
        octets[2 * i] = high;
        octets[2 * i + 1] = low;
        i += 1;
    }
    ExemptPrefix {
        octets,
        prefix_len,
        what,
        rules_allowed,
    }
}

/// Prefixes matched only by a rule whose own prefix lies wholly within them, never by a wider one such as
/// `::/0`: nobody who writes `::/0` means to cut a JVM off IPv4, or a host off itself and its links.
///
/// The policy compiler turns each into a barrier entry, so longest-prefix match alone keeps the promise and
/// the kernel needs no check of its own.
pub const EXEMPT_PREFIXES: [ExemptPrefix; 5] = [
    exempt(
        [0, 0, 0, 0, 0, 0xffff, 0, 0],
        96,
        "IPv4 written as IPv6 (RFC 4291 section 2.5.5.2)",
        false,
    ),
    exempt(
        [0, 0, 0, 0, 0, 0, 0, 1],
        128,
        "the loopback address (RFC 4291 section 2.5.3)",
        true,
    ),
    exempt(
        [0; 8],
        128,
        "the unspecified address, which connect(2) turns into ::1",
        true,
    ),
    exempt(
        [0xfe80, 0, 0, 0, 0, 0, 0, 0],
        10,
        "link-local addresses (RFC 4291 section 2.5.6)",
        true,
    ),
    exempt(
        [0xff00, 0, 0, 0, 0, 0, 0, 0],
        8,
        "multicast addresses (RFC 4291 section 2.7)",
        true,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_octets_are_inverse() {
        let octets = [0x20, 1, 0xd, 0xb8, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        assert_eq!(octets_from_words(words_from_octets(octets)), octets);
    }

    fn words(text: &str) -> AddrWords {
        let address: core::net::Ipv6Addr = text.parse().expect("an address");
        words_from_octets(address.octets())
    }

    /// The table of RFC 6052 section 2.4, row by row, and its last line about the well-known prefix.
    #[test]
    fn embedded_addresses_are_those_of_the_rfc() {
        for (prefix_len, embedding) in [
            (32, "2001:db8:c000:221::"),
            (40, "2001:db8:1c0:2:21::"),
            (48, "2001:db8:122:c000:2:2100::"),
            (56, "2001:db8:122:3c0:0:221::"),
            (64, "2001:db8:122:344:c0:2:2100::"),
            (96, "2001:db8:122:344::192.0.2.33"),
            (96, "64:ff9b::192.0.2.33"),
        ] {
            let found = embedded_ipv4(&words(embedding), prefix_len);
            assert_eq!(found, words("::ffff:192.0.2.33"), "{embedding}/{prefix_len}");
        }
    }

    /// What else is in the address (the prefix, bits 64 to 71, the suffix) is no part of the IPv4 address.
    #[test]
    fn nothing_else_is_taken_for_embedded() {
        for (prefix_len, embedding) in [
            (32, "ffff:ffff:c000:221:ffff:ffff:ffff:ffff"),
            (40, "ffff:ffff:ffc0:2:ff21:ffff:ffff:ffff"),
            (48, "ffff:ffff:ffff:c000:ff02:21ff:ffff:ffff"),
            (56, "ffff:ffff:ffff:ffc0:ff00:221:ffff:ffff"),
            (64, "ffff:ffff:ffff:ffff:ffc0:2:21ff:ffff"),
            (96, "ffff:ffff:ffff:ffff:ffff:ffff:c000:221"),
            (0, "ffff:ffff:ffff:ffff:ffff:ffff:c000:221"),
        ] {
            let found = embedded_ipv4(&words(embedding), prefix_len);
            assert_eq!(found, words("::ffff:192.0.2.33"), "{embedding}/{prefix_len}");
        }
    }

    #[test]
    fn exempt_prefixes_are_what_they_are_called() {
        let found = EXEMPT_PREFIXES.map(|prefix| (words_from_octets(prefix.octets), prefix.prefix_len));
        let expected = [
            ("::ffff:0:0", 96),
            ("::1", 128),
            ("::", 128),
            ("fe80::", 10),
            ("ff00::", 8),
        ];
        assert_eq!(found, expected.map(|(address, length)| (words(address), length)));
        assert_eq!(
            EXEMPT_PREFIXES.map(|prefix| prefix.rules_allowed),
            [false, true, true, true, true]
        );
    }

    #[test]
    fn unspecified_is_no_bit_set() {
        assert!(is_unspecified(&[0; 4]));
        for bit in 0..128 {
            let octets = (1_u128 << bit).to_be_bytes();
            assert!(!is_unspecified(&words_from_octets(octets)), "bit {bit}");
        }
    }

    #[test]
    fn low_bits_are_taken_bit_by_bit() {
        let high = words("2001:db8::");
        let low = words("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        for width in 0..=96 {
            let bits = u128::from_be_bytes(octets_from_words(with_low_bits(&high, &low, width)));
            let expected = (0x2001_0db8_u128 << 96) | ((1_u128 << width) - 1);
            assert_eq!(bits, expected, "{width}");
        }
        for width in 0..=128 {
            let bits = u128::from_be_bytes(octets_from_words(with_low_bits(&[0; 4], &low, width)));
            let expected = u128::MAX.checked_shr(128 - u32::from(width)).unwrap_or(0);
            assert_eq!(bits, expected, "{width}");
        }
    }

    #[test]
    fn mapped_is_recognised_by_all_ninety_six_bits() {
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
        assert!(is_ipv4_mapped(&words_from_octets(mapped)));
        for bit in 0..96 {
            let mut other = mapped;
            other[bit / 8] ^= 0x80 >> (bit % 8);
            assert!(!is_ipv4_mapped(&words_from_octets(other)), "bit {bit}");
        }
    }
}
