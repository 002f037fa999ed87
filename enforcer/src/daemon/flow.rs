//! [`Flow`]: from the ring buffer to the subscribers. It needs nothing of what is attached and in force, so events go on
//! while that is changed.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::POLL_INTERVAL;
use crate::{
    events::{
        clock::{self, Clock},
        decode::decode,
        enrich::Catalog,
        hub::{BATCH, DEFAULT_CAPACITY, Hub, Subscription},
    },
    kernel::{BpfLog, DatagramCounts, EventRing, Kernel, KernelError, Losses},
};

/// How often the ring buffer is looked at where there is much in it: at the highest rates it is full after 6 ms.
const BUSY_INTERVAL: Duration = Duration::from_millis(1);

/// Records a millisecond that are much.
const BUSY_RATE: u128 = 100;

/// Records taken from the ring buffer before something else gets a turn.
const PUMP_AT_MOST: usize = 4_096;

/// Pumps between two looks at the counters for lost events.
const PUMPS_PER_LOSS_CHECK: u32 = 100;

/// What the numbers in records mean, for who names them and who changes what is in force.
pub(super) type SharedCatalog = Arc<Mutex<Catalog>>;

/// Locks it. What is put into a catalog is put in whole.
pub(super) fn lock(catalog: &SharedCatalog) -> MutexGuard<'_, Catalog> {
    catalog.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Moves events.
pub(super) struct Flow {
    ring: Option<EventRing>,
    datagrams: Option<DatagramCounts>,
    log: Option<BpfLog>,
    losses: Losses,
    catalog: SharedCatalog,
    clock: Clock,
    hub: Hub,
    until_loss_check: u32,
    /// Records that were waiting at the last look.
    taken_before: usize,
    /// When it is time for the next look, and how long after the last that is.
    due: Instant,
    interval: Duration,
}

impl Flow {
    /// Takes over the readers of what the programs say.
    pub(super) fn new(kernel: &mut Kernel, catalog: SharedCatalog) -> Self {
        Self {
            ring: kernel.take_ring(),
            datagrams: kernel.take_datagrams(),
            log: kernel.take_log(),
            losses: kernel.losses(),
            catalog,
            clock: Clock::new(),
            hub: Hub::new(DEFAULT_CAPACITY),
            until_loss_check: PUMPS_PER_LOSS_CHECK,
            taken_before: 0,
            due: Instant::now(),
            interval: POLL_INTERVAL,
        }
    }

    pub(super) fn subscribe(&self) -> Subscription {
        self.hub.subscribe()
    }

    /// Connects that were to be reported.
    pub(super) const fn seen(&self) -> u64 {
        self.hub.seen()
    }

    /// Waits until it is time to look at the ring buffer, and moves what is there. Cancelling loses nothing.
    pub(super) async fn keep_up(&mut self) -> Result<(), KernelError> {
        tokio::time::sleep_until(self.due).await;
        let mut taken = 0;
        let moved = loop {
            let moved = self.pump();
            taken += self.taken_before as u128;
            if !matches!(moved, Ok(true)) {
                break moved;
            }
            tokio::task::yield_now().await;
        };
        let is_busy = taken > BUSY_RATE * self.interval.as_millis();
        self.interval = if is_busy { BUSY_INTERVAL } else { POLL_INTERVAL };
        self.due = Instant::now() + self.interval;
        moved.map(drop)
    }

    /// Moves waiting records to the subscribers, a bounded number of them. Returns whether more may be waiting.
    pub(super) fn pump(&mut self) -> Result<bool, KernelError> {
        let Self {
            ring,
            datagrams,
            hub,
            clock,
            catalog,
            taken_before,
            ..
        } = self;
        let mut catalog = lock(catalog);
        let began_boot_ns = catalog.has_retired().then(clock::boot_now_ns);
        // As many as last time, likely.
        let expected = (*taken_before).min(BATCH);
        let mut batch = Vec::with_capacity(expected);
        let taken = ring.as_mut().map_or(0, |ring| {
            ring.drain(PUMP_AT_MOST, |bytes| match decode(bytes) {
                Ok(record) => {
                    let time = clock.timestamp(record.time_boot_ns);
                    let mut event = catalog.event(&record, time);
                    if let (Some(sent), Some(datagrams)) = (&mut event.datagrams, datagrams.as_ref()) {
                        *sent = datagrams.sent(record.datagram_key);
                    }
                    batch.push(event);
                    if batch.len() == BATCH {
                        hub.publish_all(std::mem::replace(&mut batch, Vec::with_capacity(expected)));
                    }
                }
                // A record nobody can read is a lost event like any other.
                Err(_) => {
                    hub.publish_all(std::mem::take(&mut batch));
                    hub.lost(clock.now(), 1);
                }
            })
        });
        // It may wait for a slow reader for long.
        batch.shrink_to_fit();
        hub.publish_all(batch);
        *taken_before = taken;
        // Rules are retired when no program runs with them any more, so all their records were there when this began.
        if let Some(began_boot_ns) = began_boot_ns
            && taken < PUMP_AT_MOST
        {
            catalog.forget_rules_retired_before(began_boot_ns);
        }
        drop(catalog);
        if let Some(log) = &mut self.log {
            log.flush();
        }
        self.until_loss_check -= 1;
        if self.until_loss_check == 0 {
            self.tell_losses()?;
        }
        Ok(taken == PUMP_AT_MOST)
    }

    /// Tells the subscribers what the kernel has lost by now.
    pub(super) fn tell_losses(&mut self) -> Result<(), KernelError> {
        self.until_loss_check = PUMPS_PER_LOSS_CHECK;
        let lost = self.losses.lost()?;
        self.hub.kernel_lost_total(self.clock.now(), lost);
        Ok(())
    }
}
