//! Moves rendered lines to a stream, on a thread of its own.
//!
//! The thread is a subscriber like any other: while it waits in `write(2)` for a slow terminal, the hub goes
//! on, and what does not fit into its queue comes back as a loss. There is no timer: after each event the
//! queue is emptied into one block, and the block is written and flushed when nothing is waiting or it is
//! full. An idle stream thus shows an event at once; a busy one is written in blocks that grow by themselves,
//! because events gather while the last block is written.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use thiserror::Error;
use tokio::sync::oneshot;

use super::Render;
use crate::events::hub::{Item, Subscription};

/// A block is written when it has grown to this many bytes.
const BLOCK_BYTES: usize = 64 * 1024;

/// How long to wait before trying a stream again that somebody made non-blocking. Terminals and pipes are
/// shared with other processes, and any of them can do that.
const RETRY_AFTER: Duration = Duration::from_millis(5);

/// What a stream has been given so far. A block that failed half-way counts as not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Events.
    pub events: u64,
    /// Events told as lost.
    pub lost: u64,
}

/// Why a stream ended.
#[derive(Debug)]
pub enum End {
    /// The hub is gone and everything queued is written.
    Drained,
    /// Nobody reads the stream any more (EPIPE). That is how `| head` says "enough", and not an error.
    Closed,
    /// Writing failed.
    Failed(WriteError),
}

/// Writing events failed.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The stream took no more.
    #[error("writing events to {stream}")]
    Write {
        /// What was written to, for people: `stdout`, or a path.
        stream: String,
        /// Why.
        source: io::Error,
    },
    /// The thread is gone without having said why.
    #[error("writing events to {stream}: the thread that does so ended unexpectedly")]
    Vanished {
        /// What was written to, for people.
        stream: String,
    },
}

/// A stream that is being written.
#[derive(Debug)]
pub struct Writer {
    stream: String,
    ended: oneshot::Receiver<End>,
    end: Option<End>,
    progress: Arc<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    events: AtomicU64,
    lost: AtomicU64,
}

impl Progress {
    fn add(&self, block: Written) {
        self.events.fetch_add(block.events, Ordering::Relaxed);
        self.lost.fetch_add(block.lost, Ordering::Relaxed);
    }

    fn written(&self) -> Written {
        Written {
            events: self.events.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }
}

impl Writer {
    /// Begins to write everything that `subscription` gives to `out`, each line after `prefix` (such as
    /// `enforcer: `). `stream` is what errors call it.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if the thread cannot be started.
    pub fn start<W: Write + Send + 'static>(
        stream: impl Into<String>,
        subscription: Subscription,
        render: impl Render,
        prefix: impl Into<String>,
        out: W,
    ) -> io::Result<Self> {
        let stream = stream.into();
        let progress = Arc::new(Progress::default());
        let (tell, ended) = oneshot::channel();
        let mut pump = Pump {
            subscription,
            render,
            prefix: prefix.into(),
            out,
            block: Vec::with_capacity(BLOCK_BYTES),
            pending: Written::default(),
            progress: Arc::clone(&progress),
        };
        let name = stream.clone();
        thread::Builder::new()
            .name("events-out".to_owned())
            .spawn(move || {
                let end = match pump.run() {
                    Ok(()) => End::Drained,
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => End::Closed,
                    Err(source) => End::Failed(WriteError::Write { stream: name, source }),
                };
                // Whoever started the thread may not want to know any more.
                let _unheard = tell.send(end);
            })?;
        Ok(Self {
            stream,
            ended,
            end: None,
            progress,
        })
    }

    /// Waits for the stream to end: because the hub is dropped and all is written, or because it can no
    /// longer be written. Cancel safe, and can be asked again. Never ends while the stream takes nothing:
    /// whoever shuts down waits for a limited time, and then leaves the thread to end with the process.
    pub async fn ended(&mut self) -> &End {
        let end = match self.end.take() {
            Some(end) => end,
            None => (&mut self.ended).await.unwrap_or_else(|_| {
                End::Failed(WriteError::Vanished {
                    stream: self.stream.clone(),
                })
            }),
        };
        self.end.insert(end)
    }

    /// What has been written so far.
    #[must_use]
    pub fn written(&self) -> Written {
        self.progress.written()
    }
}

struct Pump<R, W> {
    subscription: Subscription,
    render: R,
    prefix: String,
    out: W,
    block: Vec<u8>,
    /// What `block` holds.
    pending: Written,
    progress: Arc<Progress>,
}

impl<R: Render, W: Write> Pump<R, W> {
    fn run(&mut self) -> io::Result<()> {
        while let Some(item) = self.subscription.blocking_next() {
            self.append(&item)?;
            while self.block.len() < BLOCK_BYTES
                && let Some(item) = self.subscription.try_next()
            {
                self.append(&item)?;
            }
            self.write()?;
        }
        Ok(())
    }

    fn append(&mut self, item: &Item) -> io::Result<()> {
        self.block.extend_from_slice(self.prefix.as_bytes());
        self.render.render(item, &mut self.block)?;
        match item {
            Item::Connect(_) => self.pending.events += 1,
            Item::Lost { count, .. } => self.pending.lost += count,
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let mut rest = self.block.as_slice();
        while !rest.is_empty() {
            match patiently(|| self.out.write(rest))? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                taken => rest = &rest[taken..],
            }
        }
        patiently(|| self.out.flush())?;
        self.block.clear();
        self.progress.add(std::mem::take(&mut self.pending));
        Ok(())
    }
}

/// Does it again while it is interrupted or would block.
fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY_AFTER),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests;
