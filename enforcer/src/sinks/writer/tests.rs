//! Real pipes, a real full device: nothing here stands in for the kernel.

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
    Writer::start("a pipe", hub.subscribe(), Json::default(), "", out).unwrap()
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
    let mut writer = Writer::start("/dev/full", hub.subscribe(), Json::default(), "", full).unwrap();
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
    let mut writer = Writer::start("a slow one", hub.subscribe(), Json::default(), "", Slow(taken)).unwrap();
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
