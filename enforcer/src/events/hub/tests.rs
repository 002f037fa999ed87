//! Streams of one hub, each item accounted for.

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

#[test]
fn of_batches_the_oldest_are_lost_as_a_whole_and_the_newest_never_is() {
    let mut hub = Hub::new(capacity(4));
    let mut subscription = hub.subscribe();
    let batch = |pids: std::ops::Range<u32>| pids.map(numbered).collect();
    hub.publish_all(batch(0..3));
    hub.publish_all(batch(3..5));
    hub.publish_all(batch(5..7));
    assert_eq!(drain(&mut subscription), [Err(3), Ok(3), Ok(4), Ok(5), Ok(6)]);
    hub.publish_all(batch(7..8));
    hub.publish_all(batch(8..14));
    hub.publish_all(Vec::new());
    let rest = [Err(1), Ok(8), Ok(9), Ok(10), Ok(11), Ok(12), Ok(13)];
    assert_eq!(drain(&mut subscription), rest);
}

#[test]
fn what_is_being_read_is_not_lost() {
    let mut hub = Hub::new(capacity(2));
    let mut subscription = hub.subscribe();
    hub.publish_all((0..3).map(numbered).collect());
    assert!(matches!(subscription.try_next(), Some(Item::Connect(event)) if event.pid == 0));
    for pid in 3..7 {
        hub.publish(numbered(pid));
    }
    assert_eq!(drain(&mut subscription), [Ok(1), Ok(2), Err(2), Ok(5), Ok(6)]);
}

#[test]
fn a_waiting_thread_is_woken_and_told_of_the_end() {
    let mut hub = Hub::new(capacity(4));
    let mut subscription = hub.subscribe();
    let reading = std::thread::spawn(move || std::iter::from_fn(|| subscription.blocking_next()).count());
    for pid in 0..3 {
        hub.publish(numbered(pid));
        std::thread::yield_now();
    }
    drop(hub);
    assert_eq!(reading.join().unwrap(), 3);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish,
    PublishAll(u32),
    KernelLost(u64),
    Read { subscriber: usize, items: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Publish),
        2 => (0..6_u32).prop_map(Step::PublishAll),
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
                Step::PublishAll(count) => {
                    let first = u32::try_from(hub.seen()).unwrap();
                    hub.publish_all((first..first + count).map(numbered).collect());
                }
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
