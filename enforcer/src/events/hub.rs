//! One reader, many bounded subscribers. The reader never waits for any of them.
//!
//! A subscriber that is too slow loses the oldest events it has not read, and its stream says how many were
//! lost, in the place where they are missing. What the kernel could not put into the ring buffer appears in
//! the same way. The account is exact: for every subscriber, at every moment,
//! *seen = delivered + lost + still queued*, and nothing is queued once the stream has ended.
//!
//! That holds by construction: each item carries how many connects came before it, so a subscriber finds any
//! gap, however it came about, by subtraction. Nothing is counted twice or on the side.

use std::{num::NonZeroUsize, sync::Arc};

use jiff::Timestamp;
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};

use super::event::Event;

/// Events a subscriber may lag behind, unless chosen otherwise: twice what a full ring buffer of 1 MiB holds
/// (8,192 records of 128 bytes).
pub const DEFAULT_CAPACITY: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// More than anybody needs, and far below where the channel would panic.
const MAX_CAPACITY: usize = 1 << 24;

/// What a subscriber receives.
#[derive(Clone, Debug)]
pub enum Item {
    /// A connect of a governed cgroup.
    Connect(Arc<Event>),
    /// Events that are missing here.
    Lost {
        /// When the loss was noticed, or the time of the event after the gap.
        time: Timestamp,
        /// How many; never 0.
        count: u64,
    },
}

impl Item {
    /// How many connects the item accounts for.
    const fn connects(&self) -> u64 {
        match self {
            Self::Connect(_) => 1,
            Self::Lost { count, .. } => *count,
        }
    }

    fn time(&self) -> Timestamp {
        match self {
            Self::Connect(event) => event.time,
            Self::Lost { time, .. } => *time,
        }
    }
}

#[derive(Clone, Debug)]
struct Numbered {
    /// [`Hub::seen`] before this item.
    seen_before: u64,
    item: Item,
}

/// Where the reader puts events. Dropping it ends every stream, after what is queued.
#[derive(Debug)]
pub struct Hub {
    sender: broadcast::Sender<Numbered>,
    seen: u64,
    kernel_lost: u64,
}

impl Hub {
    /// A hub whose subscribers may lag behind by `capacity` items (rounded up to a power of two).
    #[must_use]
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self {
            sender: broadcast::Sender::new(capacity.get().min(MAX_CAPACITY)),
            seen: 0,
            kernel_lost: 0,
        }
    }

    /// A stream of everything from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription {
            receiver: self.sender.subscribe(),
            seen: self.seen,
            waiting: None,
        }
    }

    /// Hands an event to all subscribers. Never waits.
    pub fn publish(&mut self, event: Event) {
        self.send(Item::Connect(Arc::new(event)));
    }

    /// Tells all subscribers that `count` events are lost, in the place of the next one. 0 is nothing to tell.
    pub fn lost(&mut self, time: Timestamp, count: u64) {
        if count > 0 {
            self.send(Item::Lost { time, count });
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

    fn send(&mut self, item: Item) {
        let seen_before = self.seen;
        self.seen += item.connects();
        // The only error is that nobody listens, which is allowed.
        let _nobody = self.sender.send(Numbered { seen_before, item });
    }
}

/// One subscriber's stream. It ends after the [`Hub`] is dropped and everything queued is read.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<Numbered>,
    /// What the items returned so far account for, on the count of [`Hub::seen`].
    seen: u64,
    /// The item after the gap that was just told.
    waiting: Option<Item>,
}

impl Subscription {
    /// The next item, or `None` at the end of the stream. Cancel safe.
    pub async fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.waiting.take() {
                return Some(item);
            }
            match self.receiver.recv().await {
                Ok(numbered) => return Some(self.account(numbered)),
                // How many slots were overwritten; a slot may stand for many connects, so it is not used.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next item, or `None` at the end of the stream, for a thread of its own. Must not be called on a
    /// thread that runs asynchronous tasks: tokio panics there.
    pub fn blocking_next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.waiting.take() {
                return Some(item);
            }
            match self.receiver.blocking_recv() {
                Ok(numbered) => return Some(self.account(numbered)),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next item if there is one now.
    pub fn try_next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.waiting.take() {
                return Some(item);
            }
            match self.receiver.try_recv() {
                Ok(numbered) => return Some(self.account(numbered)),
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    /// The item, or the gap before it and then the item. The newest item is never overwritten, so a stream
    /// cannot end in a gap.
    fn account(&mut self, numbered: Numbered) -> Item {
        let Numbered { seen_before, item } = numbered;
        let missed = seen_before - self.seen;
        self.seen = seen_before + item.connects();
        if missed == 0 {
            return item;
        }
        let time = item.time();
        match item {
            Item::Lost { count, .. } => Item::Lost {
                time,
                count: missed + count,
            },
            item @ Item::Connect(_) => {
                self.waiting = Some(item);
                Item::Lost { time, count: missed }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::fixture;

    fn numbered(pid: u32) -> Event {
        Event {
            pid,
            ..fixture::event_of(fixture::allowed())
        }
    }

    fn capacity(items: usize) -> NonZeroUsize {
        NonZeroUsize::new(items).unwrap()
    }

    const TIME: Timestamp = Timestamp::UNIX_EPOCH;

    /// The stream, with events as `Ok(pid)` and losses as `Err(count)`.
    fn drain(subscription: &mut Subscription) -> Vec<Result<u32, u64>> {
        std::iter::from_fn(|| subscription.try_next())
            .map(|item| match item {
                Item::Connect(event) => Ok(event.pid),
                Item::Lost { count, .. } => Err(count),
            })
            .collect()
    }

    #[test]
    fn a_subscriber_that_keeps_up_gets_everything() {
        let mut hub = Hub::new(capacity(4));
        let mut subscription = hub.subscribe();
        for pid in 0..100 {
            hub.publish(numbered(pid));
            assert_eq!(drain(&mut subscription), [Ok(pid)]);
        }
    }

    #[test]
    fn a_slow_subscriber_is_told_how_many_it_lost_and_disturbs_nobody() {
        let mut hub = Hub::new(capacity(4));
        let (mut slow, mut fast) = (hub.subscribe(), hub.subscribe());
        let mut kept_up = Vec::new();
        for pid in 0..10 {
            hub.publish(numbered(pid));
            kept_up.extend(drain(&mut fast));
        }
        assert_eq!(kept_up, (0..10).map(Ok).collect::<Vec<_>>());
        assert_eq!(drain(&mut slow), [Err(6), Ok(6), Ok(7), Ok(8), Ok(9)]);
    }

    #[test]
    fn a_kernel_loss_that_is_itself_overwritten_still_counts_in_full() {
        let mut hub = Hub::new(capacity(2));
        let mut subscription = hub.subscribe();
        hub.kernel_lost_total(TIME, 1_000);
        for pid in 0..3 {
            hub.publish(numbered(pid));
        }
        assert_eq!(drain(&mut subscription), [Err(1_001), Ok(1), Ok(2)]);
    }

    #[test]
    fn a_running_total_is_told_as_differences_and_never_twice() {
        let mut hub = Hub::new(capacity(16));
        let mut subscription = hub.subscribe();
        for total in [0, 5, 5, 4, 7] {
            hub.kernel_lost_total(TIME, total);
        }
        assert_eq!(drain(&mut subscription), [Err(5), Err(2)]);
        assert_eq!(hub.seen(), 7);
    }

    #[test]
    fn a_late_subscriber_is_not_told_of_what_came_before() {
        let mut hub = Hub::new(capacity(2));
        for pid in 0..9 {
            hub.publish(numbered(pid));
        }
        let mut late = hub.subscribe();
        hub.publish(numbered(9));
        assert_eq!(drain(&mut late), [Ok(9)]);
    }

    #[test]
    fn the_stream_ends_after_what_is_queued() {
        let mut hub = Hub::new(capacity(4));
        let mut subscription = hub.subscribe();
        hub.publish(numbered(1));
        drop(hub);
        assert!(matches!(subscription.blocking_next(), Some(Item::Connect(_))));
        assert!(subscription.blocking_next().is_none());
    }

    #[tokio::test]
    async fn a_waiting_subscriber_is_woken() {
        let mut hub = Hub::new(capacity(4));
        let mut subscription = hub.subscribe();
        let waiting = tokio::spawn(async move { subscription.next().await });
        tokio::task::yield_now().await;
        hub.publish(numbered(1));
        assert!(matches!(waiting.await.unwrap(), Some(Item::Connect(event)) if event.pid == 1));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Publish,
        KernelLost(u64),
        Read { subscriber: usize, items: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Publish),
            1 => (1..50_u64).prop_map(Step::KernelLost),
            3 => (0..2_usize, 1..6_usize).prop_map(|(subscriber, items)| Step::Read { subscriber, items }),
        ]
    }

    proptest! {
        /// Whatever the order of publishing, losing and reading: every event is delivered once, in order, or
        /// accounted for as lost exactly where it is missing.
        #[test]
        fn seen_is_delivered_plus_lost(
            steps in prop::collection::vec(step(), 0..200),
            slots in 1..9_usize,
        ) {
            let mut hub = Hub::new(capacity(slots));
            let mut subscriptions = [hub.subscribe(), hub.subscribe()];
            let mut position = [0_u64; 2];
            // Each event is numbered by its place among all connects, lost ones included.
            let mut advance = |subscriber: usize, item: Item| -> Result<(), TestCaseError> {
                match item {
                    Item::Connect(event) => {
                        prop_assert_eq!(u64::from(event.pid), position[subscriber]);
                        position[subscriber] += 1;
                    }
                    Item::Lost { count, .. } => {
                        prop_assert!(count > 0);
                        position[subscriber] += count;
                    }
                }
                Ok(())
            };
            let mut kernel_total = 0;
            for step in steps {
                match step {
                    Step::Publish => hub.publish(numbered(u32::try_from(hub.seen()).unwrap())),
                    Step::KernelLost(more) => {
                        kernel_total += more;
                        hub.kernel_lost_total(TIME, kernel_total);
                    }
                    Step::Read { subscriber, items } => {
                        for _ in 0..items {
                            if let Some(item) = subscriptions[subscriber].try_next() {
                                advance(subscriber, item)?;
                            }
                        }
                    }
                }
            }
            let seen = hub.seen();
            drop(hub);
            for (subscriber, subscription) in subscriptions.iter_mut().enumerate() {
                while let Some(item) = subscription.blocking_next() {
                    advance(subscriber, item)?;
                }
            }
            prop_assert_eq!(position, [seen; 2]);
        }
    }
}
