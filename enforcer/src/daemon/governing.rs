//! [`Governing`]: programs loaded and attached, events flowing into a hub.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use enforcer_common::{binding::EventsWanted, counters::Counters, decide::Mode};

use super::{Applied, Now, Plan, Said, control::Control, flow::Flow};
use crate::{
    events::{
        enrich::{CallerErrno, Catalog},
        hub::Subscription,
    },
    kernel::{BpfLogLevel, Kernel, KernelError, LoadOptions, Support},
};

/// How often the ring buffer is looked at, where there is not much in it. Programs submit without waking anybody (a wake-up costs the connecting
/// thread 2.5 µs), so this bounds how late an event can be.
pub const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How to govern.
#[derive(Clone, Copy, Debug)]
pub struct StartOptions {
    /// Whether verdicts are carried out.
    pub mode: Mode,
    /// Which connects become events.
    pub events: EventsWanted,
    /// The programs' debug channel.
    pub bpf_log: Option<BpfLogLevel>,
    /// Size of the ring buffer.
    pub ring_bytes: u32,
    /// For how many targets there are counters, if not only for those of the start: their numbers are below that.
    pub targets: usize,
}

/// Cgroups being governed. Dropping it ends that, for all of them.
///
/// What blocks on the kernel is done on another thread, while events go on.
pub struct Governing {
    control: Arc<Mutex<Control>>,
    flow: Flow,
}

/// What was counted, at the end.
#[derive(Clone, Debug)]
pub struct Report {
    /// Each target, in the order in which they came, those that went included.
    pub targets: Vec<TargetReport>,
    /// Connects that met a cgroup without a binding: faults only.
    pub unconfigured: Counters,
    /// Events that the streams were to deliver: those that did not are lost.
    pub wanted: u64,
}

/// What was counted for one target.
#[derive(Clone, Debug)]
pub struct TargetReport {
    /// Its name.
    pub name: String,
    /// Its counters, summed over CPUs.
    pub counters: Counters,
}

/// Every change is whole or undone, so what a panic leaves can be ended.
fn lock(control: &Mutex<Control>) -> MutexGuard<'_, Control> {
    control.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Governing {
    /// Loads the programs, installs the policies and attaches everything planned. When this returns, every
    /// planned cgroup that still exists is governed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses any part; then nothing stays attached.
    pub fn start(
        support: &Support,
        plan: &Plan,
        options: &StartOptions,
        now: Now,
    ) -> Result<Self, KernelError> {
        let numbers = plan.targets.iter().map(|target| target.number + 1);
        let targets = numbers.max().unwrap_or(0).max(options.targets);
        let load = LoadOptions {
            ring_bytes: options.ring_bytes,
            targets: u32::try_from(targets).unwrap_or(u32::MAX),
            bpf_log: options.bpf_log,
            fixed_policy: None,
        };
        let mut kernel = Kernel::load(support, &load)?;
        let caller = if support.set_retval {
            CallerErrno::AsRuled
        } else {
            CallerErrno::AlwaysEperm
        };
        let catalog = Arc::new(Mutex::new(Catalog::new(caller)));
        let flow = Flow::new(&mut kernel, Arc::clone(&catalog));
        let mut control = Control::new(kernel, catalog);
        control.apply(plan, options, now)?;
        Ok(Self {
            control: Arc::new(Mutex::new(control)),
            flow,
        })
    }

    /// Makes what is governed, and by what, that of the plan. When this returns, no connect that starts later sees what
    /// was; what was built for that is still there, until [`tidy`](Self::tidy). A cgroup that is governed before and after
    /// is so all the time. A cgroup that is gone by now is left to [`release_vanished`](Self::release_vanished).
    ///
    /// Needs a tokio runtime with time, as do all that wait here.
    ///
    /// # Errors
    ///
    /// When the kernel refuses any part; then all is as it was.
    pub async fn apply(
        &mut self,
        plan: Plan,
        options: StartOptions,
        now: Now,
    ) -> Result<Applied, KernelError> {
        self.on_another_thread(move |control| control.apply(&plan, &options, now))
            .await
    }

    /// Frees what is in force no more, once no program uses it.
    pub async fn tidy(&mut self) {
        self.on_another_thread(Control::tidy).await;
    }

    /// Puts into force what is true now of times and names. When this returns, no connect that starts later sees what
    /// was, which is still there until [`tidy`](Self::tidy).
    ///
    /// # Errors
    ///
    /// When the kernel refuses any part. What it refused for stays as it was.
    pub async fn follow(&mut self, now: Now) -> Result<(), KernelError> {
        self.on_another_thread(move |control| control.follow(now)).await
    }

    /// What people should hear of what was put into force since this was asked last.
    pub fn take_said(&mut self) -> Vec<Said> {
        std::mem::take(&mut lock(&self.control).said)
    }

    /// A stream of the events from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.flow.subscribe()
    }

    /// How many cgroups are governed.
    #[must_use]
    pub fn cgroups(&self) -> usize {
        lock(&self.control).attached.len()
    }

    /// Moves waiting records from the ring buffer to the subscribers, a bounded number of them. Returns whether
    /// more may be waiting.
    ///
    /// # Errors
    ///
    /// When the counters cannot be read.
    pub fn pump(&mut self) -> Result<bool, KernelError> {
        self.flow.pump()
    }

    /// Waits until it is time to look at the ring buffer, and moves what is there: the more there is, the sooner comes the
    /// next time. Cancelling loses nothing.
    ///
    /// # Errors
    ///
    /// When the counters cannot be read.
    pub async fn keep_up(&mut self) -> Result<(), KernelError> {
        self.flow.keep_up().await
    }

    /// Waits for something else while events go on. Where they cannot, [`keep_up`](Self::keep_up) says so afterwards.
    pub async fn meanwhile<T>(&mut self, something: impl Future<Output = T>) -> T {
        let mut something = std::pin::pin!(something);
        loop {
            tokio::select! {
                biased;
                _moved = self.flow.keep_up() => {}
                done = &mut something => return done,
            }
        }
    }

    async fn on_another_thread<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Control) -> T + Send + 'static,
    ) -> T {
        let control = Arc::clone(&self.control);
        let working = tokio::task::spawn_blocking(move || work(&mut lock(&control)));
        match self.meanwhile(working).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and with it whoever waits.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Lets go of cgroups that were removed, and calls `gone` with the target's name and the path of each.
    pub fn release_vanished(&mut self, gone: impl FnMut(&str, &Path)) {
        lock(&self.control).release_vanished(gone);
    }

    /// Detaches everything, waits for connects that are being judged, and delivers what is left. The streams
    /// end after that.
    ///
    /// # Errors
    ///
    /// When the counters cannot be read. Everything is detached all the same.
    pub fn finish(mut self) -> Result<Report, KernelError> {
        lock(&self.control).end();
        while self.flow.pump()? {}
        self.flow.tell_losses()?;
        let (targets, unconfigured) = lock(&self.control).report()?;
        Ok(Report {
            targets,
            unconfigured,
            wanted: self.flow.seen(),
        })
    }
}
