//! [`Governing`]: programs loaded and attached, events flowing into a hub.

use std::{
    collections::BTreeSet,
    net::Ipv6Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use enforcer_common::{
    binding::{Binding, EventsWanted, FLAG_HAS_INNER, FLAG_HAS_OUTER, LAYOUT_VERSION},
    clause::{MAX_WALK, text_hash},
    counters::Counters,
    decide::Mode,
};

use super::{Now, Plan, PlannedTarget, Said};
use crate::{
    events::{
        clock::{self, Clock},
        decode::decode,
        enrich::{CallerErrno, Catalog},
        hub::{DEFAULT_CAPACITY, Hub, Subscription},
    },
    kernel::{
        Attachment, BpfLog, BpfLogLevel, DatagramCounts, EventRing, Installed, Kernel, KernelError,
        LoadOptions, Support,
    },
    policy::{
        compiled::CompiledPolicy,
        overlay::{MAX_OVERLAY_CLAUSES, overlay},
        rule::{GroupName, Rule, canary_lists},
    },
    targets::Cgroup,
};

/// How often the ring buffer is looked at. Programs submit without waking anybody (a wake-up costs the connecting
/// thread 2.5 µs), so this bounds how late an event can be; at full rate the ring holds about 13 ms of connects.
pub const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Records taken from the ring buffer before something else gets a turn.
const PUMP_AT_MOST: usize = 4_096;

/// Pumps between two looks at the counters for lost events.
const PUMPS_PER_LOSS_CHECK: u32 = 100;

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
}

/// Cgroups being governed. Dropping it ends that, for all of them.
pub struct Governing {
    // Attachments are dropped first: while anything can still be judged, the maps are whole.
    attached: Vec<Attached>,
    /// Targets and paths of cgroups that were gone when they were to be attached to.
    missed: Vec<(String, PathBuf)>,
    targets: Vec<String>,
    ring: Option<EventRing>,
    datagrams: Option<DatagramCounts>,
    log: Option<BpfLog>,
    kernel: Kernel,
    catalog: Catalog,
    clock: Clock,
    hub: Hub,
    until_loss_check: u32,
    /// Policies in force, each once.
    in_force: Vec<InForce>,
    /// Who share the answers to their names.
    sharing: Vec<Sharing>,
    now: Now,
    /// What people have not been told yet.
    said: Vec<Said>,
}

/// Targets whose rules have names are of one policy only if those are the same names, asked for in the same place:
/// addresses of names are no part of what was compiled before they were known.
#[derive(PartialEq, Eq)]
struct Sharing {
    groups: BTreeSet<GroupName>,
    /// Whose names have answers of their own.
    target: Option<usize>,
}

/// A policy in a slot, and what it takes to bring it up to date.
struct InForce {
    installed: Installed,
    /// As compiled before anything was known of times and names.
    policy: Arc<CompiledPolicy>,
    groups: Vec<GroupName>,
    /// Whose names have answers of their own.
    target: Option<usize>,
    /// Whether it was said that names' rules are left out at some addresses, for each reason there is.
    told_left_out: [bool; 2],
}

struct Attached {
    _attachment: Attachment,
    cgroup: Cgroup,
    target: String,
}

/// What was counted, at the end.
#[derive(Clone, Debug)]
pub struct Report {
    /// Each target, in the plan's order.
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

impl Governing {
    /// Loads the programs, installs the policies and attaches everything planned. When this returns, every
    /// planned cgroup that still exists is governed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses any part; then nothing stays attached.
    pub fn start(
        support: &Support,
        plan: Plan,
        options: &StartOptions,
        now: Now,
    ) -> Result<Self, KernelError> {
        let load = LoadOptions {
            ring_bytes: options.ring_bytes,
            targets: u32::try_from(plan.targets.len()).unwrap_or(u32::MAX),
            bpf_log: options.bpf_log,
            fixed_policy: None,
        };
        let mut kernel = Kernel::load(support, &load)?;
        let caller = if support.set_retval {
            CallerErrno::AsRuled
        } else {
            CallerErrno::AlwaysEperm
        };
        let mut governing = Self {
            attached: Vec::new(),
            missed: Vec::new(),
            targets: plan.targets.iter().map(|target| target.name.clone()).collect(),
            ring: kernel.take_ring(),
            datagrams: kernel.take_datagrams(),
            log: kernel.take_log(),
            kernel,
            catalog: Catalog::new(caller),
            clock: Clock::new(),
            hub: Hub::new(DEFAULT_CAPACITY),
            until_loss_check: PUMPS_PER_LOSS_CHECK,
            in_force: Vec::new(),
            sharing: Vec::new(),
            now,
            said: Vec::new(),
        };
        governing.attach(plan, options)?;
        Ok(governing)
    }

    /// Attaches everything planned, beside what is attached already: the targets that governing was started with,
    /// in the same order and with the same policies, whose cgroups have come back. A cgroup that is gone by now is
    /// left to [`release_vanished`](Self::release_vanished).
    ///
    /// # Errors
    ///
    /// When the kernel refuses any part. What was attached before that stays.
    pub fn attach(&mut self, plan: Plan, options: &StartOptions) -> Result<(), KernelError> {
        // Index 0 is what connects without a binding are counted under.
        for (index, target) in (1u32..).zip(plan.targets) {
            let installed = self.install(&plan.rules, &target, index as usize - 1)?;
            self.catalog.name_target(index, target.name.as_str());
            for planned in target.cgroups {
                let outer = if planned.has_outer { FLAG_HAS_OUTER } else { 0 };
                let inner = if planned.has_inner { FLAG_HAS_INNER } else { 0 };
                let binding = Binding {
                    layout_version: LAYOUT_VERSION,
                    policy_slot: installed.slot,
                    cgroup_id: planned.cgroup.id(),
                    target: index,
                    mode: options.mode as u8,
                    flags: outer | inner,
                    events: options.events as u8,
                    canaries: canary_lists(&plan.rules, &target.name),
                    rollout_key: text_hash(target.name.as_bytes()),
                    ..Binding::default()
                };
                self.catalog
                    .name_cgroup(planned.cgroup.id(), planned.cgroup.path().to_string_lossy());
                match self.kernel.attach(&planned.cgroup, binding) {
                    Ok(attachment) => self.attached.push(Attached {
                        _attachment: attachment,
                        cgroup: planned.cgroup,
                        target: target.name.clone(),
                    }),
                    // It went after it was looked up, as it may at any time later.
                    Err(_) if planned.cgroup.is_gone() => self
                        .missed
                        .push((target.name.clone(), planned.cgroup.path().to_owned())),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Puts the policy of a target, by its place in the plan, into a slot, with what is known of times and names by
    /// now.
    fn install(
        &mut self,
        rules: &Arc<[Rule]>,
        target: &PlannedTarget,
        number: usize,
    ) -> Result<Installed, KernelError> {
        let from_boot_ns = clock::boot_now_ns();
        let own_answers = Now::is_scoped(rules, &target.groups).then_some(number);
        let scope = Now::has_names(rules, &target.groups).then(|| {
            self.scope(Sharing {
                groups: target.groups.iter().cloned().collect(),
                target: own_answers,
            })
        });
        let installed = self.kernel.install(&target.policy, scope)?;
        self.catalog
            .publish_rules(installed.generation, from_boot_ns, Arc::clone(rules));
        let known = self
            .in_force
            .iter()
            .any(|one| one.installed.slot == installed.slot);
        if !known {
            self.in_force.push(InForce {
                installed,
                policy: Arc::clone(&target.policy),
                groups: target.groups.clone(),
                target: own_answers,
                told_left_out: [false; 2],
            });
            self.renew(self.in_force.len() - 1)?;
        }
        Ok(installed)
    }

    /// The number of those who share answers.
    fn scope(&mut self, sharing: Sharing) -> u32 {
        let known = self.sharing.iter().position(|one| *one == sharing);
        let at = known.unwrap_or_else(|| {
            self.sharing.push(sharing);
            self.sharing.len() - 1
        });
        // There are no more of them than targets.
        at as u32
    }

    /// Puts into force what is true now of times and names. When this returns, no connect that starts later sees what
    /// was.
    ///
    /// # Errors
    ///
    /// When the kernel refuses any part. What it refused for stays as it was.
    pub fn follow(&mut self, now: Now) -> Result<(), KernelError> {
        self.now = now;
        // What is refused for one is no reason to leave out the others.
        let renewed: Vec<_> = (0..self.in_force.len()).map(|at| self.renew(at)).collect();
        renewed.into_iter().collect()
    }

    fn renew(&mut self, at: usize) -> Result<(), KernelError> {
        let Some(one) = self.in_force.get_mut(at) else {
            return Ok(());
        };
        let rules = self.now.rules();
        let live = self.now.live(one.target);
        let answers = self.now.answers(&one.groups, one.target);
        let policy = Arc::new(one.policy.with_live(&live));
        let overlay = overlay(rules, &one.groups, &live, &policy, &answers);
        let left_out = [
            left_out(
                &overlay.too_long,
                format_args!("more than {MAX_WALK} clauses would have to be tried"),
                "write fewer rules for the prefixes around such addresses",
            ),
            left_out(
                &overlay.no_room,
                format_args!("names have more addresses than {MAX_OVERLAY_CLAUSES} clauses can hold"),
                "write fewer rules that have names",
            ),
        ];
        // Once for as long as there are any: which they are, nameservers can change with every answer.
        for (said, told) in left_out.into_iter().zip(&mut one.told_left_out) {
            if !std::mem::replace(told, said.is_some()) {
                self.said.extend(said);
            }
        }
        let from_boot_ns = clock::boot_now_ns();
        let replaced = self
            .kernel
            .replace(one.installed.slot, &policy, overlay.compiled)?;
        if replaced != one.installed {
            self.catalog
                .publish_rules(replaced.generation, from_boot_ns, Arc::clone(rules));
            one.installed = replaced;
        }
        Ok(())
    }

    /// What people should hear of what was put into force since this was asked last.
    pub fn take_said(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.said)
    }

    /// A stream of the events from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.hub.subscribe()
    }

    /// How many cgroups are governed.
    #[must_use]
    pub fn cgroups(&self) -> usize {
        self.attached.len()
    }

    /// Moves waiting records from the ring buffer to the subscribers, a bounded number of them. Returns whether
    /// more may be waiting.
    ///
    /// # Errors
    ///
    /// When the counters cannot be read.
    pub fn pump(&mut self) -> Result<bool, KernelError> {
        let Self {
            ring,
            datagrams,
            hub,
            clock,
            catalog,
            ..
        } = self;
        let taken = ring.as_mut().map_or(0, |ring| {
            ring.drain(PUMP_AT_MOST, |bytes| match decode(bytes) {
                Ok(record) => {
                    let time = clock.timestamp(record.time_boot_ns);
                    let mut event = catalog.event(&record, time);
                    if let (Some(sent), Some(datagrams)) = (&mut event.datagrams, datagrams.as_ref()) {
                        *sent = datagrams.sent(record.datagram_key);
                    }
                    hub.publish(event);
                }
                // A record nobody can read is a lost event like any other.
                Err(_) => hub.lost(clock.now(), 1),
            })
        });
        if let Some(log) = &mut self.log {
            log.flush();
        }
        self.until_loss_check -= 1;
        if self.until_loss_check == 0 {
            self.tell_losses()?;
        }
        Ok(taken == PUMP_AT_MOST)
    }

    fn tell_losses(&mut self) -> Result<(), KernelError> {
        self.until_loss_check = PUMPS_PER_LOSS_CHECK;
        let lost = self.kernel.lost()?;
        self.hub.kernel_lost_total(self.clock.now(), lost);
        Ok(())
    }

    /// Lets go of cgroups that were removed, and calls `gone` with the target's name and the path of each.
    pub fn release_vanished(&mut self, mut gone: impl FnMut(&str, &Path)) {
        for (target, path) in self.missed.drain(..) {
            gone(&target, &path);
        }
        self.attached.retain(|attached| {
            let is_gone = attached.cgroup.is_gone();
            if is_gone {
                gone(&attached.target, attached.cgroup.path());
            }
            !is_gone
        });
    }

    /// Detaches everything, waits for connects that are being judged, and delivers what is left. The streams
    /// end after that.
    ///
    /// # Errors
    ///
    /// When the counters cannot be read. Everything is detached all the same.
    pub fn finish(mut self) -> Result<Report, KernelError> {
        self.attached.clear();
        // A program may still be running, on another CPU or preempted on this one.
        if let Err(error) = self.kernel.wait_for_programs() {
            log::debug!("{error}");
        }
        while self.pump()? {}
        self.tell_losses()?;
        let mut counters = self.kernel.counters()?.into_iter();
        let unconfigured = counters.next().unwrap_or_default();
        let targets = self
            .targets
            .into_iter()
            .zip(counters)
            .map(|(name, counters)| TargetReport { name, counters });
        Ok(Report {
            targets: targets.collect(),
            unconfigured,
            wanted: self.hub.seen(),
        })
    }
}

/// What to say of addresses at which the rules of names are left out, if there are any.
fn left_out(addresses: &[Ipv6Addr], why: std::fmt::Arguments<'_>, hint: &str) -> Option<Said> {
    let (first, more) = addresses.split_first()?;
    let whose = if more.is_empty() {
        first.to_string()
    } else {
        format!("{first} and {} more addresses", more.len())
    };
    Some(Said {
        message: format!("{why} for {whose}: rules with a name are left out there"),
        hint: Some(hint.to_owned()),
    })
}
