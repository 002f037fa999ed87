//! Asking a target's own nameservers, from within its network namespace.
//!
//! Whoever runs a target decides what is in its file system and what its nameservers say, so neither is touched by
//! the process that governs. A helper is started: this program, with a verb that no help shows ([`VERB`]). It finds a
//! process of the target (`process`), enters its network namespace, gives up every privilege, reads the target's
//! `resolv.conf` without leaving the target's root (`file`), asks, writes one line an answer (`message`) and
//! ends. Whoever started it takes what it writes for the words of a stranger (`start`).

mod file;
mod helper;
mod message;
mod process;
mod start;

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use super::{Families, HostName, HostNameError};

pub use self::helper::answer;
pub(crate) use self::helper::enter_target;
pub(super) use self::start::ask;

/// The verb of the program that starts [`answer`].
pub const VERB: &str = "ask-inside";

/// Questions that one helper is given.
pub const MAX_QUESTIONS: usize = 64;

/// How long a helper may live.
const DEADLINE: Duration = Duration::from_secs(60);

/// What marks a question for IPv4 addresses only. No name contains it.
const IPV4_MARK: &str = "ipv4:";

/// A name to ask for. Written as an argument: `db.example.com.`, or `ipv4:db.example.com.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name.
    pub name: HostName,
    /// Which of its addresses.
    pub families: Families,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.families {
            Families::Both => "",
            Families::Ipv4 => IPV4_MARK,
        };
        let end = if self.name.is_complete() { "." } else { "" };
        write!(f, "{mark}{}{end}", self.name)
    }
}

impl FromStr for Question {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, HostNameError> {
        let (name, families) = match text.strip_prefix(IPV4_MARK) {
            Some(name) => (name, Families::Ipv4),
            None => (text, Families::Both),
        };
        Ok(Self {
            name: name.parse()?,
            families,
        })
    }
}

/// What a helper is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Who started it, and with whom it dies.
    pub parent: u32,
    /// Directories of the target's cgroups.
    pub cgroups: Vec<PathBuf>,
    /// What to ask.
    pub questions: Vec<Question>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_being_an_argument() {
        for name in ["db", "db.", "db.example.com"] {
            for families in [Families::Both, Families::Ipv4] {
                let name = name.parse().unwrap();
                let question = Question { name, families };
                assert_eq!(question.to_string().parse(), Ok(question));
            }
        }
    }
}
