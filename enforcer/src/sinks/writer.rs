//! Moves rendered lines to a stream, on a thread of its own.
//!
//! The thread is a subscriber like any other: while it waits in `write(2)` for a slow terminal, the hub goes
//! on, and what does not fit into its queue comes back as a loss. There is no timer: after each event the
//! queue is emptied into one block, and the block is written and flushed when nothing is waiting or it is
//! full. An idle stream thus shows an event at once; a busy one is written in blocks that grow by themselves,
//! because events gather while the last block is written.

use std::{
    fmt,
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

impl<R, W> fmt::Debug for Pump<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump")
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{BufRead, BufReader, PipeReader, PipeWriter, Read},
        num::NonZeroUsize,
        sync::mpsc,
        time::Instant,
    };

    use jiff::tz::TimeZone;
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    use super::*;
    use crate::{
        events::{
            fixture::{event_of, rejected},
            hub::Hub,
        },
        sinks::{
            json::Json,
            live::{Colour, Live},
        },
    };

    /// Far beyond what a busy machine needs; only a test that fails waits for it.
    const LIMIT: Duration = Duration::from_secs(30);

    fn hub(capacity: usize) -> Hub {
        Hub::new(NonZeroUsize::new(capacity).unwrap())
    }

    fn start(hub: &Hub, out: PipeWriter) -> Writer {
        Writer::start("a pipe", hub.subscribe(), Json, "", out).unwrap()
    }

    async fn end(writer: &mut Writer) -> &End {
        tokio::time::timeout(LIMIT, writer.ended()).await.unwrap()
    }

    fn lines(reader: PipeReader) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(reader).lines() {
                if sender.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        receiver
    }

    #[tokio::test]
    async fn an_event_on_an_idle_stream_is_there_at_once_and_the_stream_goes_on() {
        let (reader, out) = io::pipe().unwrap();
        let mut hub = hub(16);
        let mut writer = start(&hub, out);
        let lines = lines(reader);
        for _ in 0..3 {
            hub.publish(event_of(rejected()));
            // Nothing follows that could push it out.
            assert!(lines.recv_timeout(LIMIT).unwrap().contains("\"reject\""));
        }
        drop(hub);
        assert!(matches!(end(&mut writer).await, End::Drained));
        assert_eq!(writer.written(), Written { events: 3, lost: 0 });
    }

    #[tokio::test]
    async fn a_closed_pipe_is_an_end_and_not_an_error() {
        let (reader, out) = io::pipe().unwrap();
        let mut hub = hub(16);
        let mut writer = start(&hub, out);
        drop(reader);
        hub.publish(event_of(rejected()));
        assert!(matches!(end(&mut writer).await, End::Closed));
        assert!(matches!(writer.ended().await, End::Closed), "can be asked again");
        assert_eq!(writer.written(), Written::default());
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error_that_names_the_stream() {
        let mut hub = hub(16);
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut writer = Writer::start("/dev/full", hub.subscribe(), Json, "", full).unwrap();
        hub.publish(event_of(rejected()));
        let End::Failed(error) = end(&mut writer).await else {
            panic!("it cannot have been written");
        };
        assert_eq!(error.to_string(), "writing events to /dev/full");
    }

    #[tokio::test]
    async fn a_reader_that_stops_blocks_nobody_and_every_event_is_accounted_for() {
        let (reader, out) = io::pipe().unwrap();
        let mut hub = hub(64);
        let mut writer = start(&hub, out);
        // Nobody reads: the pipe and the queue fill up, and publishing goes on.
        let began = Instant::now();
        for _ in 0..20_000 {
            hub.publish(event_of(rejected()));
        }
        assert!(began.elapsed() < LIMIT);
        let seen = hub.seen();
        drop(hub);
        let lines = lines(reader);
        assert!(matches!(end(&mut writer).await, End::Drained));
        let (mut events, mut lost) = (0, 0);
        for line in &lines {
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            match value["lost"].as_u64() {
                Some(count) => lost += count,
                None => events += 1,
            }
            if events + lost == seen {
                break;
            }
        }
        assert!(lost > 0, "20,000 lines do not fit into a pipe and 64 slots");
        assert_eq!(writer.written(), Written { events, lost });
        assert_eq!(events + lost, seen);
    }

    #[tokio::test]
    async fn a_stream_that_somebody_made_non_blocking_loses_no_byte() {
        let (mut reader, out) = io::pipe().unwrap();
        let flags = fcntl_getfl(&out).unwrap();
        fcntl_setfl(&out, flags | OFlags::NONBLOCK).unwrap();
        let mut hub = hub(4_096);
        let mut writer = start(&hub, out);
        for _ in 0..2_000 {
            hub.publish(event_of(rejected()));
        }
        drop(hub);
        let text = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        assert!(matches!(end(&mut writer).await, End::Drained));
        let text = text.join().unwrap().unwrap();
        assert_eq!(text.lines().count(), 2_000);
        assert!(
            text.lines()
                .all(|line| line.starts_with("{\"time\"") && line.ends_with('}'))
        );
    }

    #[tokio::test]
    async fn every_line_has_the_prefix() {
        let (reader, out) = io::pipe().unwrap();
        let mut hub = hub(16);
        let live = Live::new(Colour::Never, TimeZone::UTC);
        let mut writer = Writer::start("stderr", hub.subscribe(), live, "enforcer: ", out).unwrap();
        hub.publish(event_of(rejected()));
        hub.lost(jiff::Timestamp::UNIX_EPOCH, 2);
        drop(hub);
        assert!(matches!(end(&mut writer).await, End::Drained));
        let text = io::read_to_string(reader).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().all(|line| line.starts_with("enforcer: 0")), "{text}");
        assert_eq!(writer.written(), Written { events: 1, lost: 2 });
    }

    /// Counts how often it is written to.
    struct Slow(mpsc::SyncSender<usize>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_busy_stream_is_written_in_big_blocks() {
        let (taken, blocks) = mpsc::sync_channel(0);
        let mut hub = hub(4_096);
        let mut writer = Writer::start("a slow one", hub.subscribe(), Json, "", Slow(taken)).unwrap();
        for _ in 0..4_000 {
            hub.publish(event_of(rejected()));
        }
        drop(hub);
        // Everything gathers behind the first write, which ends only now.
        let sizes: Vec<_> = blocks.iter().collect();
        assert!(matches!(end(&mut writer).await, End::Drained));
        let big = &sizes[1..sizes.len() - 1];
        assert!(
            !big.is_empty() && big.iter().all(|size| *size >= BLOCK_BYTES),
            "{sizes:?}"
        );
    }
}
