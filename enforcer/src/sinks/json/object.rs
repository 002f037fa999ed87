//! JSON objects, written field by field to the end of a block of bytes. Events come by the hundred thousand a second, and what a
//! general serializer does for each of their fields, allocating some of them, takes several times as long.
//!
//! Characters that could confuse a terminal are `\u` escapes. JSON itself asks that only of those below U+0020; parsers see
//! no difference, people who look at the stream are safe.

use std::{
    fmt,
    io::{self, Write as _},
    net::Ipv6Addr,
};

use ipnet::Ipv6Net;
use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde_json::ser::Formatter;

use crate::{
    events::event::RuleRef,
    sinks::text::{Word, is_plain},
};

/// An object in the making.
pub(super) struct Object<'block> {
    block: &'block mut Vec<u8>,
    /// What stands before the next field.
    before: u8,
}

impl<'block> Object<'block> {
    /// Begins one.
    pub(super) const fn new(block: &'block mut Vec<u8>) -> Self {
        Self { block, before: b'{' }
    }

    /// A field. The key is plain text.
    pub(super) fn field(&mut self, key: &str, value: impl Value) -> &mut Self {
        self.block.extend_from_slice(&[self.before, b'"']);
        self.block.extend_from_slice(key.as_bytes());
        self.block.extend_from_slice(b"\":");
        value.write(self.block);
        self.before = b',';
        self
    }

    /// Ends it. It must have a field.
    pub(super) fn end(&mut self) {
        self.block.push(b'}');
    }
}

/// What can be the value of a field.
pub(super) trait Value {
    fn write(self, block: &mut Vec<u8>);
}

impl<V: Value> Value for Option<V> {
    fn write(self, block: &mut Vec<u8>) {
        match self {
            Some(value) => value.write(block),
            None => block.extend_from_slice(b"null"),
        }
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Value for $number {
            fn write(self, block: &mut Vec<u8>) {
                block.extend_from_slice(itoa::Buffer::new().format(self).as_bytes());
            }
        }
    )*};
}
numbers!(u16, u32, u64);

impl Value for Word {
    fn write(self, block: &mut Vec<u8>) {
        match self {
            Self::Name(name) => name.write(block),
            Self::Number(number) => number.write(block),
        }
    }
}

impl Value for &str {
    fn write(self, block: &mut Vec<u8>) {
        let is_special = |byte: u8| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\');
        // Looked at as a whole, which is faster than stopping at the first.
        if self.bytes().fold(false, |any, byte| any | is_special(byte)) {
            escape(self, block);
        } else {
            quoted(block, |block| block.extend_from_slice(self.as_bytes()));
        }
    }
}

/// The label of a rule, or what stands for it.
impl Value for &RuleRef {
    fn write(self, block: &mut Vec<u8>) {
        match self.get() {
            Some(rule) => rule.label.as_str().write(block),
            None => Plain(self).write(block),
        }
    }
}

impl Value for Ipv6Addr {
    fn write(self, block: &mut Vec<u8>) {
        quoted(block, |block| address(self, block));
    }
}

impl Value for Ipv6Net {
    fn write(self, block: &mut Vec<u8>) {
        quoted(block, |block| {
            address(self.addr(), block);
            block.push(b'/');
            u16::from(self.prefix_len()).write(block);
        });
    }
}

/// What shows itself as plain text without quotes and backslashes.
pub(super) struct Plain<T>(pub(super) T);

impl<T: fmt::Display> Value for Plain<T> {
    fn write(self, block: &mut Vec<u8>) {
        quoted(block, |block| {
            // Writing to memory does not fail.
            let _written = write!(block, "{}", self.0);
        });
    }
}

fn quoted(block: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    block.push(b'"');
    write(block);
    block.push(b'"');
}

fn escape(text: &str, block: &mut Vec<u8>) {
    use serde::Serialize as _;
    let mut serializer = serde_json::Serializer::with_formatter(block, Harmless);
    // Writing text to memory does not fail.
    let _written = text.serialize(&mut serializer);
}

/// As the standard library shows it (RFC 5952), which takes its time.
fn address(address: Ipv6Addr, block: &mut Vec<u8>) {
    if let Some(ipv4) = address.to_ipv4_mapped() {
        let _written = write!(block, "::ffff:{ipv4}");
        return;
    }
    let segments = address.segments();
    let (mut longest, mut run) = (0..0, 0..0);
    for (at, segment) in segments.iter().enumerate() {
        run = if *segment == 0 {
            run.start..at + 1
        } else {
            at + 1..at + 1
        };
        if run.len() > longest.len() {
            longest = run.clone();
        }
    }
    if longest.len() < 2 {
        hexadecimal(&segments, block);
        return;
    }
    hexadecimal(&segments[..longest.start], block);
    block.extend_from_slice(b"::");
    hexadecimal(&segments[longest.end..], block);
}

fn hexadecimal(segments: &[u16], block: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (at, segment) in segments.iter().enumerate() {
        if at > 0 {
            block.push(b':');
        }
        let most = if *segment == 0 { 0 } else { segment.ilog2() / 4 };
        for place in (0..=most).rev() {
            block.push(DIGITS[usize::from(segment >> (4 * place) & 0xf)]);
        }
    }
}

/// RFC 3339, UTC, always nine digits: so that lines sort as text.
pub(super) const TIME: DateTimePrinter = DateTimePrinter::new().precision(Some(9));

/// Writes times. All those of a second have the same beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    second: i64,
    /// `2026-03-01T02:59:58.`
    beginning: [u8; 20],
}

impl Default for Times {
    fn default() -> Self {
        Self {
            second: i64::MIN,
            beginning: [0; 20],
        }
    }
}

impl Times {
    /// A time as a value.
    pub(super) fn at(&mut self, time: Timestamp) -> Time {
        let (second, nanoseconds) = (time.as_second(), time.subsec_nanosecond());
        // Before 1970 they count backwards.
        if second != self.second || nanoseconds < 0 {
            let text = TIME.timestamp_to_string(&time);
            match text.as_bytes().first_chunk() {
                // Years of four digits.
                Some(beginning) if text.len() == 30 && nanoseconds >= 0 => {
                    (self.second, self.beginning) = (second, *beginning);
                }
                _ => return Time::Whole(text),
            }
        }
        Time::Within(self.beginning, nanoseconds.unsigned_abs())
    }
}

/// A time.
pub(super) enum Time {
    Whole(String),
    Within([u8; 20], u32),
}

impl Value for Time {
    fn write(self, block: &mut Vec<u8>) {
        match self {
            Self::Whole(text) => Plain(text).write(block),
            Self::Within(beginning, mut nanoseconds) => quoted(block, |block| {
                let mut digits = [b'0'; 9];
                for digit in digits.iter_mut().rev() {
                    *digit += (nanoseconds % 10) as u8;
                    nanoseconds /= 10;
                }
                block.extend_from_slice(&beginning);
                block.extend_from_slice(&digits);
                block.push(b'Z');
            }),
        }
    }
}

/// Compact JSON whose text is harmless.
pub(super) struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut written = 0;
        for (at, c) in fragment.char_indices().filter(|(_, c)| !is_plain(*c)) {
            writer.write_all(&fragment.as_bytes()[written..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            written = at + c.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[written..])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(value: impl Value) -> String {
        let mut block = Vec::new();
        value.write(&mut block);
        String::from_utf8(block).unwrap()
    }

    #[test]
    fn an_object_has_its_fields_in_order() {
        let mut block = b"before ".to_vec();
        let none: Option<u16> = None;
        Object::new(&mut block)
            .field("a", 1_u32)
            .field("b", none)
            .field("c", "d")
            .end();
        assert_eq!(block, b"before {\"a\":1,\"b\":null,\"c\":\"d\"}");
    }

    #[test]
    fn times_are_those_of_their_second_whichever_came_before() {
        let mut times = Times::default();
        let texts = [
            "2026-03-01T02:59:58.417000123Z",
            "2026-03-01T02:59:58.000000000Z",
            "2026-03-01T02:59:59.999999999Z",
            "2026-03-01T02:59:58.000000001Z",
            "1970-01-01T00:00:00.000000000Z",
            "1969-12-31T23:59:59.500000000Z",
            "1970-01-01T00:00:00.500000000Z",
            "-000001-01-01T00:00:00.000000007Z",
            "9999-12-30T22:00:00.999999999Z",
        ];
        for text in texts {
            let time = times.at(text.parse().unwrap());
            assert_eq!(written(time), format!("\"{text}\""));
        }
    }

    proptest! {
        #[test]
        fn addresses_are_written_as_the_standard_library_shows_them(
            segments in prop::array::uniform8(prop_oneof![2 => Just(0_u16), 1 => any::<u16>(), 1 => 0..0x200_u16]),
            is_mapped in prop::bool::weighted(0.1),
            length in 0..=128_u8,
        ) {
            let [_, _, _, _, _, _, high, low] = segments;
            let segments = if is_mapped { [0, 0, 0, 0, 0, 0xffff, high, low] } else { segments };
            let address = Ipv6Addr::from(segments);
            prop_assert_eq!(written(address), format!("\"{address}\""));
            let prefix = Ipv6Net::new(address, length).unwrap().trunc();
            prop_assert_eq!(written(prefix), format!("\"{prefix}\""));
        }

        #[test]
        fn any_text_parses_back_and_moves_no_terminal(text: String) {
            let shown = written(text.as_str());
            prop_assert!(shown.chars().all(is_plain));
            prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }

        #[test]
        fn any_time_is_written_as_the_library_writes_it(nanoseconds: i64, other: i64) {
            let mut times = Times::default();
            for nanoseconds in [nanoseconds, other, nanoseconds] {
                let time = Timestamp::from_nanosecond(nanoseconds.into()).unwrap();
                prop_assert_eq!(written(times.at(time)), format!("\"{}\"", TIME.timestamp_to_string(&time)));
            }
        }
    }
}
