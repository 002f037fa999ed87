//! Noticing that the wall clock was set. What follows from that is not known here.

use std::{io, os::fd::OwnedFd};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Readable when the wall clock was set.
pub(super) fn wall_clock() -> io::Result<AsyncFd<OwnedFd>> {
    let timer = wall_clock_timer()?;
    // SAFETY: an `OwnedFd` is one and the same open descriptor until it is dropped, and `AsyncFd` owns it: it takes it out
    // of the reactor before that.
    let registered = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// A timer that never fires, but is cancelled when the wall clock is set (`TFD_TIMER_CANCEL_ON_SET`, timerfd_create(2)).
fn wall_clock_timer() -> io::Result<OwnedFd> {
    let timer = timerfd_create(
        TimerfdClockId::Realtime,
        TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
    )?;
    arm(&timer)?;
    Ok(timer)
}

/// Lets it wait for the next time.
pub(super) fn arm(timer: &OwnedFd) -> io::Result<()> {
    let never = Timespec {
        tv_sec: i64::MAX / 1_000_000_000,
        tv_nsec: 0,
    };
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let when = Itimerspec {
        it_interval: zero,
        it_value: never,
    };
    timerfd_settime(
        timer,
        TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET,
        &when,
    )?;
    Ok(())
}

/// Waits until the wall clock is set.
pub(super) async fn clock_set(timer: Option<&AsyncFd<OwnedFd>>) {
    match timer {
        None => std::future::pending().await,
        Some(timer) => {
            if let Ok(mut ready) = timer.readable().await {
                // The read takes the cancellation, as ECANCELED.
                let mut count = [0; 8];
                let _cancelled = rustix::io::read(timer.get_ref(), &mut count);
                ready.clear_ready();
            }
        }
    }
}
