//! Doing two things at once, for what takes milliseconds each at every start. It knows nothing of what they are.

use std::{panic, thread};

/// Does the one in this thread and the other in a second one, with this thread's signal mask. Where there cannot be a
/// second thread, this one does both.
pub(super) fn side_by_side<A, B: Send>(here: impl FnOnce() -> A, there: impl Fn() -> B + Sync) -> (A, B) {
    thread::scope(|scope| {
        let second = thread::Builder::new().spawn_scoped(scope, &there);
        let here = here();
        let there = match second {
            Ok(second) => second.join().unwrap_or_else(|panic| panic::resume_unwind(panic)),
            Err(_) => there(),
        };
        (here, there)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn both_are_done_at_once() {
        let both = Barrier::new(2);
        let found = side_by_side(|| both.wait().is_leader(), || both.wait().is_leader());
        assert!(
            found.0 != found.1,
            "one of two that wait for each other is the leader"
        );
    }
}
