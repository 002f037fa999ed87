//! [`Interrupt`]: SIGINT, SIGTERM and SIGHUP end a program that shows something in order, everything removed.
//!
//! The signals only leave a note; whoever waits looks at it and returns [`Interrupted`].

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

/// Whether a signal came.
#[derive(Debug)]
pub struct Interrupt {
    came: Arc<AtomicBool>,
}

/// A signal came.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

impl Interrupt {
    /// From now on the signals are noted and do not end the process.
    ///
    /// # Errors
    ///
    /// When the signals cannot be watched.
    pub fn watch() -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("start the runtime that watches signals")?;
        let mut signals = Vec::new();
        {
            let _inside = runtime.enter();
            for kind in [
                SignalKind::interrupt(),
                SignalKind::terminate(),
                SignalKind::hangup(),
            ] {
                signals.push(signal(kind).context("watch for signals")?);
            }
        }
        let came = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&came);
        // The thread lives as long as the process.
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let [interrupt, terminate, hangup] = &mut signals[..] else {
                        return;
                    };
                    loop {
                        tokio::select! {
                            _ = interrupt.recv() => {}
                            _ = terminate.recv() => {}
                            _ = hangup.recv() => {}
                        }
                        note.store(true, Ordering::Relaxed);
                    }
                });
            })
            .context("start the thread that watches signals")?;
        Ok(Self { came })
    }

    /// Whether to go on.
    ///
    /// # Errors
    ///
    /// [`Interrupted`] once a signal came.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.came.load(Ordering::Relaxed) {
            Err(Interrupted)
        } else {
            Ok(())
        }
    }
}
