//! What enforcer says on stderr, to people. stdout belongs to events, or to the command of `exec`.

use std::fmt::Display;

/// Says one thing, which may have several lines.
pub(crate) fn say(message: impl Display) {
    anstream::eprintln!("{message}");
}

/// Says that a verb ended before its work was done.
pub(crate) fn error(failure: impl Display) {
    anstream::eprintln!("enforcer: {failure}");
}

/// Says what the person may want to know before relying on what was asked for.
pub(crate) fn warning(message: impl Display, hint: Option<&str>) {
    anstream::eprintln!("enforcer: warning: {message}");
    if let Some(hint) = hint {
        anstream::eprintln!("enforcer: hint: {hint}");
    }
}

/// Says what is so.
pub(crate) fn note(message: impl Display) {
    anstream::eprintln!("enforcer: note: {message}");
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
            anstream::eprintln!(
                "enforcer: bpf: {}: {}",
                record.level().as_str().to_lowercase(),
                record.args()
            );
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
