//! Words for numbers, and text that others chose made harmless.

use std::fmt::{self, Write as _};

use enforcer_common::{
    clause::{Action, IPPROTO_MPTCP},
    decide::{Mode, Unmovable},
    errno,
    record::Hook,
};
use serde::{Serialize, Serializer};

use crate::events::decode::{Checked, Protocol, SocketType};

/// A word, or the number where there is none for it: a string or a number in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Name(&'static str),
    Number(u16),
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Name(name) => serializer.serialize_str(name),
            Self::Number(number) => serializer.serialize_u16(*number),
        }
    }
}

impl Word {
    fn checked<T>(value: Checked<T>, name: impl FnOnce(T) -> &'static str) -> Self {
        match value {
            Checked::Known(known) => Self::Name(name(known)),
            Checked::Unknown(raw) => Self::Number(raw.into()),
        }
    }

    pub(crate) fn action(action: Checked<Action>) -> Self {
        Self::checked(action, |action| match action {
            Action::Allow => "allow",
            Action::Reject => "reject",
            Action::Redirect => "redirect",
        })
    }

    pub(crate) fn mode(mode: Checked<Mode>) -> Self {
        Self::checked(mode, |mode| match mode {
            Mode::Enforce => "enforce",
            Mode::Audit => "audit",
        })
    }

    pub(crate) fn unmovable(reason: Checked<Unmovable>) -> Self {
        Self::checked(reason, |reason| match reason {
            Unmovable::Ping => "ping",
            Unmovable::Bound => "bound",
            Unmovable::V6Only => "v6only",
            Unmovable::Unconnected => "unconnected",
        })
    }

    pub(crate) fn hook(hook: Checked<Hook>) -> Self {
        Self::checked(hook, |hook| match hook {
            Hook::Connect => "connect",
            Hook::Sendmsg => "sendmsg",
        })
    }

    pub(crate) const fn socket_type(socket_type: SocketType) -> Self {
        match socket_type {
            SocketType::Stream => Self::Name("stream"),
            SocketType::Dgram => Self::Name("dgram"),
            SocketType::Unknown(raw) => Self::Number(raw as u16),
        }
    }

    /// The words that `docs/events.md` lists. MPTCP is not among them: it stays its number.
    pub(crate) const fn protocol(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Name("tcp"),
            Protocol::Udp => Self::Name("udp"),
            Protocol::Icmpv6 => Self::Name("icmpv6"),
            Protocol::Mptcp => Self::Number(IPPROTO_MPTCP),
            Protocol::Unknown(raw) => Self::Number(raw),
        }
    }

    pub(crate) fn errno(number: u16) -> Self {
        errno::by_number(number).map_or(Self::Number(number), |errno| Self::Name(errno.name))
    }
}

/// Whether a character does no more on a terminal than appear: neither a control, nor invisible, nor one that
/// turns the direction of text or joins the one before it.
pub(crate) fn is_plain(c: char) -> bool {
    // The standard library escapes for debugging what Unicode does not count as visible by itself, and the
    // quotes and the backslash besides.
    matches!(c, ' '..='~') || c.escape_debug().len() == 1
}

/// Text that somebody else chose, with everything that is not plain written as an escape of Rust's:
/// `\n`, `\u{1b}`. A backslash is doubled, so that escapes cannot be forged.
pub(crate) struct Harmless<'text>(pub(crate) &'text str);

impl fmt::Display for Harmless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c != '\\' && is_plain(c) {
                f.write_char(c)?;
            } else {
                write!(f, "{}", c.escape_debug())?;
            }
        }
        Ok(())
    }
}

/// A message of enforcer's own in which names that others chose can stand, such as paths of cgroups: what is
/// not plain is written as an escape, but lines stay lines, and a backslash stays one, for systemd puts it into
/// names of cgroups that people copy.
pub(crate) struct Shown<'text>(pub(crate) &'text str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if matches!(c, '\n' | '\t') || is_plain(c) {
                f.write_char(c)?;
            } else {
                write!(f, "{}", c.escape_debug())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_terminal_passes() {
        let hostile = [
            ("\x1b[2Jgone", "\\u{1b}[2Jgone"),
            ("two\nlines\r", "two\\nlines\\r"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\x7f\x08", "\\u{7f}\\u{8}"),
            ("\u{202e}txt", "\\u{202e}txt"),
            ("\u{2066}\u{200f}\u{61c}", "\\u{2066}\\u{200f}\\u{61c}"),
            ("\u{200b}\u{200d}\u{feff}", "\\u{200b}\\u{200d}\\u{feff}"),
            ("\u{2028}\u{2029}\u{a0}", "\\u{2028}\\u{2029}\\u{a0}"),
            ("e\u{301}", "e\\u{301}"),
            ("\\n", "\\\\n"),
        ];
        for (text, harmless) in hostile {
            assert_eq!(Harmless(text).to_string(), harmless);
        }
    }

    #[test]
    fn messages_keep_their_lines_and_backslashes_and_nothing_else() {
        let message = "a\\x2db\n\tc \x1b[2J\r\u{202e}";
        assert_eq!(Shown(message).to_string(), "a\\x2db\n\tc \\u{1b}[2J\\r\\u{202e}");
    }

    #[test]
    fn ordinary_names_pass_unchanged() {
        for text in [
            "psql",
            "DNS Resolver #3",
            "it's \"x\"",
            "größe",
            "名前",
            "rules/a.toml:12",
            "\u{fffd}",
        ] {
            assert_eq!(Harmless(text).to_string(), text);
        }
    }
}
