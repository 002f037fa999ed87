//! Doing something while no signal reaches this thread.

use nix::sys::signal::{SigSet, SigmaskHow};

/// Does it with every signal of this thread held back; those that came are delivered afterwards.
///
/// The verifier gives up with EAGAIN when a signal is pending (`do_check` of kernel/bpf/verifier.c). aya tries a second
/// time, to get a log, and takes a second refusal for the verifier's last word; what it finds out about the kernel
/// by loading little programs it believes the first time.
pub(super) fn undisturbed<T>(f: impl FnOnce() -> T) -> T {
    let _held = Held(SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).ok());
    f()
}

/// The mask to go back to.
struct Held(Option<SigSet>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(before) = &self.0
            && let Err(error) = before.thread_set_mask()
        {
            ::log::debug!("cannot let signals through again: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_held_back_for_as_long_as_it_takes() {
        let before = SigSet::thread_get_mask().unwrap();
        let within = undisturbed(|| SigSet::thread_get_mask().unwrap());
        assert!(within.contains(nix::sys::signal::SIGTERM));
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
