//! One reader, many bounded subscribers. The reader never waits for any of them.
//!
//! A subscriber that is too slow loses the oldest events it has not read, and its stream says how many were
//! lost, in the place where they are missing. What the kernel could not put into the ring buffer appears in
//! the same way. The account is exact: for every subscriber, at every moment,
//! *seen = delivered + lost + still queued*, and nothing is queued once the stream has ended.
//!
//! That holds by construction: each batch carries how many connects came before it, so a subscriber finds any
//! gap, however it came about, by subtraction. Nothing is counted twice or on the side.
//!
//! Events go in batches, as the reader takes them from the ring buffer: a lock, a wake-up and a place in memory for each of
//! them would cost more than everything else that is done with it.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    ops::Deref,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::event::Event;

/// Events a subscriber may lag behind, unless chosen otherwise: twice what a full ring buffer of 1 MiB holds
/// (8,192 records of 128 bytes).
pub const DEFAULT_CAPACITY: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// The most events that should be one batch: a subscriber that lags behind loses them together.
pub const BATCH: usize = 256;

/// What a subscriber receives.
#[derive(Clone, Debug)]
pub enum Item {
    /// A connect of a governed cgroup.
    Connect(Delivered),
    /// Events that are missing here.
    Lost {
        /// When the loss was noticed, or the time of the event after the gap.
        time: Timestamp,
        /// How many; never 0.
        count: u64,
    },
}

/// An event, in the batch that all subscribers share.
#[derive(Clone, Debug)]
pub struct Delivered {
    batch: Arc<Vec<Event>>,
    at: usize,
}

impl Deref for Delivered {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.batch[self.at]
    }
}

impl From<Event> for Delivered {
    fn from(event: Event) -> Self {
        Self {
            batch: Arc::new(vec![event]),
            at: 0,
        }
    }
}

/// What lies in a queue.
#[derive(Clone, Debug)]
struct Numbered {
    /// [`Hub::seen`] before it.
    seen_before: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// Never none.
    Connects(Arc<Vec<Event>>),
    Lost {
        time: Timestamp,
        count: u64,
    },
}

impl What {
    /// How many connects it accounts for.
    fn connects(&self) -> u64 {
        match self {
            Self::Connects(batch) => batch.len() as u64,
            Self::Lost { count, .. } => *count,
        }
    }

    /// How much of a queue it takes.
    fn size(&self) -> usize {
        match self {
            Self::Connects(batch) => batch.len(),
            Self::Lost { .. } => 1,
        }
    }

    fn time(&self) -> Timestamp {
        match self {
            Self::Connects(batch) => batch.first().map_or(Timestamp::UNIX_EPOCH, |event| event.time),
            Self::Lost { time, .. } => *time,
        }
    }
}

/// What a subscriber has not read yet.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    /// For a thread that waits.
    filled: Condvar,
    /// For a task that waits.
    told: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Numbered>,
    /// The sizes of all that is waiting.
    size: usize,
    is_over: bool,
}

impl Queue {
    /// Every change is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.filled.notify_one();
        self.told.notify_one();
    }

    /// Puts it in, and takes the oldest out where there is no room. The newest always stays, so a stream cannot end in a gap.
    fn push(&self, numbered: Numbered, capacity: usize) {
        let mut state = self.lock();
        state.size += numbered.what.size();
        state.waiting.push_back(numbered);
        while state.size > capacity && state.waiting.len() > 1 {
            let oldest = state.waiting.pop_front();
            state.size -= oldest.map_or(0, |oldest| oldest.what.size());
        }
        // Who reads does not wait before all is read, so only the first can find somebody waiting.
        let is_first = state.waiting.len() == 1;
        drop(state);
        if is_first {
            self.wake();
        }
    }
}

/// Where the reader puts events. Dropping it ends every stream, after what is queued.
#[derive(Debug)]
pub struct Hub {
    queues: Mutex<Vec<Weak<Queue>>>,
    capacity: usize,
    seen: u64,
    kernel_lost: u64,
}

impl Hub {
    /// A hub whose subscribers may lag behind by `capacity` events, or by one batch, where that is more.
    #[must_use]
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self {
            queues: Mutex::default(),
            capacity: capacity.get(),
            seen: 0,
            kernel_lost: 0,
        }
    }

    fn queues(&self) -> MutexGuard<'_, Vec<Weak<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream of everything from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        let queue = Arc::new(Queue::default());
        self.queues().push(Arc::downgrade(&queue));
        Subscription {
            queue,
            seen: self.seen,
            current: None,
        }
    }

    /// Hands an event to all subscribers. Never waits.
    pub fn publish(&mut self, event: Event) {
        self.publish_all(vec![event]);
    }

    /// Hands events to all subscribers, in that order. Never waits.
    pub fn publish_all(&mut self, events: Vec<Event>) {
        if !events.is_empty() {
            self.send(What::Connects(Arc::new(events)));
        }
    }

    /// Tells all subscribers that `count` events are lost, in the place of the next one. 0 is nothing to tell.
    pub fn lost(&mut self, time: Timestamp, count: u64) {
        if count > 0 {
            self.send(What::Lost { time, count });
        }
    }

    /// Tells all subscribers what the kernel has lost since the last call, given the sum of its per-CPU
    /// counters. A sum below the last one (counters read while they move) tells nothing.
    pub fn kernel_lost_total(&mut self, time: Timestamp, total: u64) {
        let more = total.saturating_sub(self.kernel_lost);
        self.kernel_lost += more;
        self.lost(time, more);
    }

    /// Connects that were to be reported, delivered or lost. Whatever a subscriber since the beginning did
    /// not deliver of these is lost.
    #[must_use]
    pub const fn seen(&self) -> u64 {
        self.seen
    }

    fn send(&mut self, what: What) {
        let seen_before = self.seen;
        self.seen += what.connects();
        let capacity = self.capacity;
        self.queues().retain(|queue| {
            let Some(queue) = queue.upgrade() else {
                return false;
            };
            let what = what.clone();
            queue.push(Numbered { seen_before, what }, capacity);
            true
        });
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        for queue in self.queues().iter().filter_map(Weak::upgrade) {
            queue.lock().is_over = true;
            queue.wake();
        }
    }
}

/// One subscriber's stream. It ends after the [`Hub`] is dropped and everything queued is read.
#[derive(Debug)]
pub struct Subscription {
    queue: Arc<Queue>,
    /// What the items returned so far account for, on the count of [`Hub::seen`]: of a batch, all of it.
    seen: u64,
    /// A batch that is being read, and which of it is next.
    current: Option<Delivered>,
}

/// Whether there is more.
enum Next {
    Item(Item),
    NotYet,
    Over,
}

impl Subscription {
    /// The next item, or `None` at the end of the stream. Cancel safe.
    pub async fn next(&mut self) -> Option<Item> {
        loop {
            match self.look() {
                Next::Item(item) => return Some(item),
                Next::Over => return None,
                // Whoever puts something into an empty queue leaves word.
                Next::NotYet => self.queue.told.notified().await,
            }
        }
    }

    /// The next item, or `None` at the end of the stream, for a thread of its own.
    pub fn blocking_next(&mut self) -> Option<Item> {
        loop {
            match self.look() {
                Next::Item(item) => return Some(item),
                Next::Over => return None,
                Next::NotYet => {
                    let state = self.queue.lock();
                    let is_empty = |state: &mut State| state.waiting.is_empty() && !state.is_over;
                    drop(self.queue.filled.wait_while(state, is_empty));
                }
            }
        }
    }

    /// The next item if there is one now.
    pub fn try_next(&mut self) -> Option<Item> {
        match self.look() {
            Next::Item(item) => Some(item),
            Next::NotYet | Next::Over => None,
        }
    }

    fn look(&mut self) -> Next {
        if let Some(item) = self.next_of_batch() {
            return Next::Item(item);
        }
        let mut state = self.queue.lock();
        let Some(numbered) = state.waiting.pop_front() else {
            return if state.is_over { Next::Over } else { Next::NotYet };
        };
        state.size -= numbered.what.size();
        drop(state);
        self.account(numbered).map_or(Next::NotYet, Next::Item)
    }

    fn next_of_batch(&mut self) -> Option<Item> {
        let current = self.current.as_mut()?;
        if current.at + 1 < current.batch.len() {
            let next = current.clone();
            current.at += 1;
            return Some(Item::Connect(next));
        }
        // The last one: nobody else needs the batch.
        self.current.take().map(Item::Connect)
    }

    /// The first item of a batch, or the gap before it.
    fn account(&mut self, numbered: Numbered) -> Option<Item> {
        let Numbered { seen_before, what } = numbered;
        let missed = seen_before - self.seen;
        self.seen = seen_before + what.connects();
        let time = what.time();
        match what {
            What::Lost { count, .. } => Some(Item::Lost {
                time,
                count: missed + count,
            }),
            What::Connects(batch) => {
                self.current = Some(Delivered { batch, at: 0 });
                if missed > 0 {
                    return Some(Item::Lost { time, count: missed });
                }
                self.next_of_batch()
            }
        }
    }
}

#[cfg(test)]
mod tests;
