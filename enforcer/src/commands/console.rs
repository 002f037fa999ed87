//! What enforcer says on stderr, to people. stdout belongs to events, to the command of `exec`, or to the answer that
//! was asked for.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use crate::sinks::text::Shown;

/// What lines begin with where stderr is shared with a command.
pub(crate) const PREFIX: &str = "enforcer: ";

/// How much a verb says besides errors, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Talk {
    /// Everything: stderr is enforcer's own.
    Plain,
    /// Everything, each line with [`PREFIX`]: a command writes to the same stderr.
    Prefixed,
    /// Nothing: errors only.
    ErrorsOnly,
}

impl Talk {
    /// Says one thing, which may have several lines.
    pub(crate) fn say(self, message: impl Display) {
        match self {
            Self::Plain => say(message),
            Self::Prefixed => {
                for line in message.to_string().lines() {
                    say(format_args!("{PREFIX}{line}"));
                }
            }
            Self::ErrorsOnly => {}
        }
    }

    /// Says what is so.
    pub(crate) fn note(self, message: impl Display) {
        if self != Self::ErrorsOnly {
            note(message);
        }
    }
}

/// Says one thing, which may have several lines. Where stderr takes nothing there is nobody to tell, and what is
/// being governed must not end for that: so this neither fails nor panics. It is one write, as other lines may
/// come from elsewhere.
pub(crate) fn say(message: impl Display) {
    let _nobody_listens = anstream::stderr().write_all(format!("{message}\n").as_bytes());
}

/// Writes what was asked for to stdout, all of it. A reader that has enough is no failure.
///
/// # Errors
///
/// What the stream says, such as that the disk is full.
pub(crate) fn answer(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Says that a verb ended before its work was done.
pub(crate) fn error(failure: impl Display) {
    say(format_args!("{PREFIX}{failure}"));
}

/// Says what the person may want to know before relying on what was asked for.
pub(crate) fn warning(message: impl Display, hint: Option<&str>) {
    say(format_args!("{PREFIX}warning: {}", Shown(&message.to_string())));
    if let Some(hint) = hint {
        say(format_args!("{PREFIX}hint: {}", Shown(hint)));
    }
}

/// Says what is so.
pub(crate) fn note(message: impl Display) {
    say(format_args!("{PREFIX}note: {}", Shown(&message.to_string())));
}

/// Shows the kernel programs' own messages, and nothing else that is logged: only `--bpf-log` installs it.
struct BpfMessages;

impl log::Log for BpfMessages {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // aya-log gives the program's crate as target.
        metadata.target().starts_with("enforcer_programs")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            say(format_args!(
                "{PREFIX}bpf: {}: {}",
                record.level().as_str().to_lowercase(),
                record.args()
            ));
        }
    }

    fn flush(&self) {}
}

/// From now on what the kernel programs say on their debug channel is shown.
pub(crate) fn show_bpf_messages() {
    if log::set_logger(&BpfMessages).is_ok() {
        log::set_max_level(log::LevelFilter::Trace);
    }
}
