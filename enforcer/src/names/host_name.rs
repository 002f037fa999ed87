//! [`HostName`]: a name that can be asked for, in one spelling. Asks nobody.

use std::{fmt, net::IpAddr, str::FromStr};

/// Octets of a name without its final dot (RFC 1035 section 3.1: 255 with lengths and root).
const MAX_BYTES: usize = 253;

/// Octets of a label (RFC 1035 section 2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// A host name: lower case, without a final dot. Whether it was written with one is kept, because that says that
/// it is complete.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName {
    text: String,
    complete: bool,
}

impl HostName {
    /// The name, without a final dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the name is complete as it stands, and no search domain is tried with it: it has a dot.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is no host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostNameError {
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// Longer than DNS can carry.
    #[error("is longer than {MAX_BYTES} octets")]
    TooLong,
    /// Two dots in a row, or one at the beginning.
    #[error("has an empty part between its dots")]
    EmptyLabel,
    /// A part longer than DNS can carry.
    #[error("has a part of more than {MAX_LABEL_BYTES} octets between its dots")]
    LongLabel,
    /// Not a letter, digit, hyphen or underscore.
    #[error("contains {0:?}")]
    Character(char),
    /// A hyphen where none may be.
    #[error("has a part that begins or ends with a hyphen")]
    Hyphen,
    /// An address, or what a C library takes for one.
    #[error("is an address, not a name")]
    Address,
}

impl HostNameError {
    /// A way out, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Character(character) if !character.is_ascii() => {
                Some("write the name as DNS has it, with `xn--`: `idn2 NAME` shows it")
            }
            Self::Character('*') => {
                Some("names are followed one by one; there is no way to ask for all of them")
            }
            Self::Character(':') => Some("a port stands apart from the name"),
            Self::Address => {
                Some("write an address where an address is asked for, or a prefix instead of `host`")
            }
            _ => None,
        }
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    /// Letters, digits, hyphens and, because they occur, underscores.
    fn from_str(text: &str) -> Result<Self, HostNameError> {
        let bare = text.strip_suffix('.').unwrap_or(text);
        if bare.is_empty() {
            return Err(HostNameError::Empty);
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(HostNameError::Address);
        }
        if let Some(character) = bare
            .chars()
            .find(|character| !(character.is_ascii_alphanumeric() || "-_.".contains(*character)))
        {
            return Err(HostNameError::Character(character));
        }
        if bare.len() > MAX_BYTES {
            return Err(HostNameError::TooLong);
        }
        for label in bare.split('.') {
            if label.is_empty() {
                return Err(HostNameError::EmptyLabel);
            }
            if label.len() > MAX_LABEL_BYTES {
                return Err(HostNameError::LongLabel);
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(HostNameError::Hyphen);
            }
        }
        // inet_aton(3) takes `127.1`, `0x7f.1` and `2130706433` for addresses: whatever ends in a number.
        let last = bare.rsplit('.').next().unwrap_or_default();
        let hexadecimal = last
            .strip_prefix("0x")
            .or_else(|| last.strip_prefix("0X"))
            .is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        if hexadecimal || last.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(HostNameError::Address);
        }
        Ok(Self {
            text: bare.to_ascii_lowercase(),
            complete: text.contains('.'),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_has_one_spelling() {
        let name: HostName = "DB.Example.COM.".parse().unwrap();
        assert_eq!(name, "db.example.com".parse().unwrap());
        assert_eq!(name.to_string(), "db.example.com");
        assert!(name.is_complete());
        assert!("_sip.db-1.example".parse::<HostName>().unwrap().is_complete());
    }

    #[test]
    fn only_a_name_without_any_dot_is_searched_for() {
        assert!(!"db".parse::<HostName>().unwrap().is_complete());
        assert!("db.".parse::<HostName>().unwrap().is_complete());
    }

    #[test]
    fn what_is_no_name_is_refused_with_its_reason() {
        let long_label = "a".repeat(64);
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(63)].join(".");
        for (text, error) in [
            ("", HostNameError::Empty),
            (".", HostNameError::Empty),
            ("a..b", HostNameError::EmptyLabel),
            (".a", HostNameError::EmptyLabel),
            (long_label.as_str(), HostNameError::LongLabel),
            (long.as_str(), HostNameError::TooLong),
            ("bücher.example", HostNameError::Character('ü')),
            ("*.example", HostNameError::Character('*')),
            ("db.example:5432", HostNameError::Character(':')),
            ("-a.example", HostNameError::Hyphen),
            ("a-.example", HostNameError::Hyphen),
            ("192.0.2.1", HostNameError::Address),
            ("192.0.2.1.", HostNameError::Address),
            ("127.1", HostNameError::Address),
            ("0x7f.0x1", HostNameError::Address),
            ("2001:db8::1", HostNameError::Address),
        ] {
            assert_eq!(text.parse::<HostName>(), Err(error), "{text:?}");
        }
    }
}
