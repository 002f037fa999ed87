//! How enforcer ends: exit codes as a documented type, and errors with their hint.

use std::{fmt, process::ExitCode};

use crate::sinks::text::Shown;

/// What the exit code of `enforcer` means. `exec` gives its command's instead, once the command has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done what was asked.
    Done = 0,
    /// Failed while running, or a target that is not there.
    Failed = 1,
    /// A malformed argument.
    Argument = 2,
    /// A policy file that cannot be used.
    Policy = 3,
    /// The kernel cannot, or this process may not.
    Kernel = 4,
    /// `probe`: something is wrong, and a rule helps.
    Fixable = 10,
    /// `probe`: something is wrong, and no rule helps.
    NotFixable = 11,
    /// `exec`: the command was found but cannot be executed.
    NotExecutable = 126,
    /// `exec`: the command was not found.
    NotFound = 127,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A verb that ended before its work was done: why, what a person can do, and with which code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    text: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            text: Shown(&format!("error: {:#}", error.into())).to_string(),
            hint: None,
        }
    }

    /// A failure whose whole text is there already, such as a list of diagnostics.
    pub(crate) fn rendered(exit: Exit, text: impl AsRef<str>) -> Self {
        Self {
            exit,
            text: text.as_ref().trim_end().to_owned(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: Option<impl Into<String>>) -> Self {
        self.hint = hint.map(Into::into);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nenforcer: hint: {}", Shown(hint))?;
        }
        Ok(())
    }
}
