//! [`eventually`]: waiting for a state, with a bound. Tests wait in no other way.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long a fixture waits for something that takes milliseconds when all is well. Long, because a guest
/// without KVM on a busy machine is slow, and because nobody waits when all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks at a state.
const PAUSE: Duration = Duration::from_millis(2);

/// An observation: `bool` for a state that has a name only, `Option` for one that brings a value.
pub trait Observation {
    /// What the awaited state brings.
    type Value;

    /// The value, if the state has come.
    fn reached(self) -> Option<Self::Value>;
}

impl Observation for bool {
    type Value = ();

    fn reached(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Observation for Option<T> {
    type Value = T;

    fn reached(self) -> Self {
        self
    }
}

/// Looks until the state has come. The state must be a level, not an edge: something that stays once it is
/// there.
///
/// # Errors
///
/// Names `what` and the timeout when the state has not come by then. There is at least one look, and one after
/// the timeout has passed, however slow the machine.
pub fn eventually<O: Observation>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> O,
) -> Result<O::Value> {
    let start = Instant::now();
    loop {
        let last = start.elapsed() >= timeout;
        if let Some(value) = look().reached() {
            return Ok(value);
        }
        if last {
            bail!("wait for {what}: not within {timeout:?}");
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_comes_is_returned_with_its_value() {
        let mut looks = 0;
        let value = eventually("three looks", PATIENCE, || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn a_state_that_never_comes_is_an_error_that_names_it() {
        let error = eventually("the impossible", Duration::ZERO, || false).unwrap_err();
        assert_eq!(error.to_string(), "wait for the impossible: not within 0ns");
    }
}
