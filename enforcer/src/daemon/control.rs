//! [`Control`]: what is attached and in force, and how both change. All that blocks on the kernel is here, away from where
//! events are moved.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::Ipv6Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

use enforcer_common::{
    binding::{Binding, FLAG_HAS_INNER, FLAG_HAS_OUTER, FLAG_REDIRECTS, LAYOUT_VERSION},
    clause::{MAX_WALK, text_hash},
    counters::Counters,
};

use super::{
    Now, Plan, PlannedTarget, Said, StartOptions, TargetReport,
    flow::{SharedCatalog, lock},
    now::request,
    switch::{Attached, Wanted},
    tally::{Tallies, index},
};
use crate::{
    events::clock,
    kernel::{Content, Installed, Kernel, KernelError},
    policy::{
        compiled::CompiledPolicy,
        overlay::{MAX_OVERLAY_CLAUSES, overlay},
        rule::{GroupName, Rule, RuleAction, canary_lists},
    },
};

/// What is attached and in force. Dropping it ends that, for all of it.
pub(super) struct Control {
    // Attachments are dropped first: while anything can still be judged, the maps are whole.
    pub(super) attached: Vec<Attached>,
    /// Targets and paths of cgroups that were gone when they were to be attached to.
    pub(super) missed: Vec<(String, PathBuf)>,
    /// What is written when nothing runs any more that the bindings before were for.
    pub(super) unsettled: Vec<Binding>,
    tallies: Tallies,
    pub(super) kernel: Kernel,
    catalog: SharedCatalog,
    /// Policies in force, each once.
    in_force: Vec<InForce>,
    /// Who share the answers to their names, by number.
    sharing: Vec<(u32, Sharing)>,
    next_scope: u32,
    now: Now,
    /// Whether any policy redirects, or ever has: what is kept of a socket then may outlive the policy.
    redirects: bool,
    /// What people have not been told yet.
    pub(super) said: Vec<Said>,
    /// Cgroups that events may still name, although they are not governed any more.
    left_cgroups: Vec<u64>,
}

/// What a change of the plan came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Cgroups that are governed and were not before.
    pub attached: usize,
    /// Cgroups that are not governed any more.
    pub detached: usize,
    /// Entries of all policies in force, overlays included.
    pub entries: usize,
}

/// Targets whose rules have names are of one policy only if those are the same rules, and their names are asked for in the
/// same place: what becomes of names is no part of what was compiled before they were known.
#[derive(PartialEq, Eq)]
struct Sharing {
    groups: BTreeSet<GroupName>,
    /// Whose names have answers of their own.
    target: Option<usize>,
    rules: Vec<(u32, Rule)>,
}

/// A policy in a slot, and what it takes to bring it up to date.
#[derive(Clone)]
struct InForce {
    installed: Installed,
    /// As compiled before anything was known of times and names.
    policy: Arc<CompiledPolicy>,
    groups: Vec<GroupName>,
    /// Whose names have answers of their own.
    target: Option<usize>,
    scope: Option<u32>,
    /// Whether it was said that names' rules are left out at some addresses, for each reason there is.
    told_left_out: [bool; 2],
    entries: usize,
}

impl Control {
    pub(super) fn new(kernel: Kernel, catalog: SharedCatalog) -> Self {
        Self {
            attached: Vec::new(),
            missed: Vec::new(),
            unsettled: Vec::new(),
            tallies: Tallies::default(),
            kernel,
            catalog,
            in_force: Vec::new(),
            sharing: Vec::new(),
            next_scope: 0,
            now: Now::default(),
            redirects: false,
            said: Vec::new(),
            left_cgroups: Vec::new(),
        }
    }

    /// Makes what is governed, and by what, that of the plan. When this returns, no connect that starts later sees what
    /// was. If the kernel refuses any part, all is as it was.
    pub(super) fn apply(
        &mut self,
        plan: &Plan,
        options: &StartOptions,
        now: Now,
    ) -> Result<Applied, KernelError> {
        // What was left to do last time has to be done first: what has left is no part of what follows.
        self.tidy();
        let tallies = self.tallies.with(plan, &self.kernel)?;
        self.redirects |= plan
            .rules
            .iter()
            .any(|rule| rule.enabled && matches!(rule.action, RuleAction::Redirect(_)));
        let before = self.in_force.clone();
        let was_now = std::mem::replace(&mut self.now, now);
        let switched = self.build(plan).and_then(|slots| {
            self.name(plan);
            self.switch(&wanted(plan, options, self.redirects, &slots))
        });
        match switched {
            Ok((attached, left)) => {
                self.tallies = tallies;
                self.let_go(before);
                let from_boot_ns = clock::boot_now_ns();
                let mut catalog = lock(&self.catalog);
                for one in &self.in_force {
                    catalog.publish_rules(one.installed.generation, from_boot_ns, Arc::clone(&plan.rules));
                }
                drop(catalog);
                let detached = left.len();
                self.left_cgroups.extend(left);
                Ok(Applied {
                    attached,
                    detached,
                    entries: self.in_force.iter().map(|one| one.entries).sum(),
                })
            }
            Err(error) => {
                self.now = was_now;
                let built = std::mem::replace(&mut self.in_force, before);
                self.let_go(built);
                self.tidy();
                Err(error)
            }
        }
    }

    /// Puts the policies of the plan into slots, beside those in force, and takes them for those in force, also where it
    /// fails. Returns the slot of each target.
    fn build(&mut self, plan: &Plan) -> Result<Vec<u32>, KernelError> {
        let before = std::mem::take(&mut self.in_force);
        let mut known: HashMap<(*const CompiledPolicy, Option<u32>), u32> = HashMap::new();
        let mut of_targets = Vec::with_capacity(plan.targets.len());
        for target in &plan.targets {
            let own_answers = Now::is_scoped(&plan.rules, &target.groups).then_some(target.number);
            let scope = self.scope(&plan.rules, target, own_answers);
            let key = (Arc::as_ptr(&target.policy), scope);
            if let Some(slot) = known.get(&key) {
                of_targets.push(*slot);
                continue;
            }
            let mut one = InForce {
                installed: Installed::default(),
                policy: Arc::clone(&target.policy),
                groups: target.groups.clone(),
                target: own_answers,
                scope,
                told_left_out: [false; 2],
                entries: 0,
            };
            if let Some(earlier) = before.iter().find(|it| scope.is_some() && it.scope == scope) {
                one.told_left_out = earlier.told_left_out;
            }
            let content = self.content(&mut one);
            let (installed, is_new) = self.kernel.install(&content)?;
            one.installed = installed;
            known.insert(key, installed.slot);
            of_targets.push(installed.slot);
            if is_new {
                let rules = Arc::clone(&plan.rules);
                lock(&self.catalog).publish_rules(installed.generation, clock::boot_now_ns(), rules);
            }
            if !self.in_force.iter().any(|it| it.installed.slot == installed.slot) {
                self.in_force.push(one);
            }
        }
        Ok(of_targets)
    }

    /// What is in force of a policy now.
    fn content(&mut self, one: &mut InForce) -> Content {
        let live = self.now.live(one.target);
        let answers = self.now.answers(&one.groups, one.target);
        let policy = if one.policy.is_living() {
            Arc::new(one.policy.with_live(&live))
        } else {
            Arc::clone(&one.policy)
        };
        let overlay = overlay(self.now.rules(), &one.groups, &live, &policy, &answers);
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
        one.entries = policy.entries().len() + overlay.compiled.entries().len();
        Content {
            identity: Arc::clone(&one.policy),
            scope: one.scope,
            policy,
            overlay: Arc::new(overlay.compiled),
        }
    }

    /// The number of those who share answers; none where there are no names.
    fn scope(&mut self, rules: &[Rule], target: &PlannedTarget, own_answers: Option<usize>) -> Option<u32> {
        let named: Vec<_> = (0..)
            .zip(rules)
            .filter(|(_, rule)| rule.enabled && rule.is_in(&target.groups) && request(rule, None).is_some())
            .map(|(index, rule)| (index, rule.clone()))
            .collect();
        if named.is_empty() {
            return None;
        }
        let sharing = Sharing {
            groups: target.groups.iter().cloned().collect(),
            target: own_answers,
            rules: named,
        };
        if let Some((number, _)) = self.sharing.iter().find(|(_, known)| *known == sharing) {
            return Some(*number);
        }
        let number = self.next_scope;
        self.next_scope = number.wrapping_add(1);
        self.sharing.push((number, sharing));
        Some(number)
    }

    /// Tells the catalog what the plan calls what.
    fn name(&mut self, plan: &Plan) {
        let mut catalog = lock(&self.catalog);
        // Their last records were moved on long ago.
        for id in self.left_cgroups.drain(..) {
            catalog.forget_cgroup(id);
        }
        for target in &plan.targets {
            catalog.name_target(index(target.number), target.name.as_str());
            for planned in &target.cgroups {
                catalog.name_cgroup(planned.cgroup.id(), planned.cgroup.path().to_string_lossy());
            }
        }
    }

    /// Lets go of those that are in force no more. A slot that a binding still names, because the kernel would not put
    /// another into its place, stays.
    fn let_go(&mut self, unused: Vec<InForce>) {
        let named: HashSet<u32> = self
            .attached
            .iter()
            .map(|attached| attached.binding.policy_slot)
            .collect();
        let mut leaving = Vec::new();
        for one in unused {
            let slot = one.installed.slot;
            if self.in_force.iter().any(|it| it.installed.slot == slot) {
                continue;
            }
            if named.contains(&slot) {
                self.in_force.push(one);
            } else {
                leaving.push(slot);
            }
        }
        self.kernel.leave(&leaving);
        self.sharing
            .retain(|(number, _)| self.in_force.iter().any(|it| it.scope == Some(*number)));
    }

    /// Does what had to wait until no program uses what was in force before. Blocks some milliseconds for each policy.
    pub(super) fn tidy(&mut self) {
        self.settle_bindings();
        self.kernel.give_back();
        let in_force = self.in_force.iter().map(|one| one.installed.generation).collect();
        lock(&self.catalog).retire_all_but(&in_force, clock::boot_now_ns());
    }

    /// Puts into force what is true now of times and names. When this returns, no connect that starts later sees what
    /// was. What the kernel refuses for one policy stays as it was, and is no reason to leave out the others.
    pub(super) fn follow(&mut self, now: Now) -> Result<(), KernelError> {
        self.now = now;
        let renewed: Vec<_> = (0..self.in_force.len()).map(|at| self.renew(at)).collect();
        renewed.into_iter().collect()
    }

    fn renew(&mut self, at: usize) -> Result<(), KernelError> {
        let Some(mut one) = self.in_force.get(at).cloned() else {
            return Ok(());
        };
        let content = self.content(&mut one);
        let from_boot_ns = clock::boot_now_ns();
        let replaced = self
            .kernel
            .replace(one.installed.slot, &content.policy, content.overlay)?;
        if replaced != one.installed {
            let rules = Arc::clone(self.now.rules());
            lock(&self.catalog).publish_rules(replaced.generation, from_boot_ns, rules);
            one.installed = replaced;
        }
        if let Some(held) = self.in_force.get_mut(at) {
            *held = one;
        }
        Ok(())
    }

    /// Lets go of cgroups that were removed, and calls `gone` with the target's name and the path of each.
    pub(super) fn release_vanished(&mut self, mut gone: impl FnMut(&str, &Path)) {
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

    /// Detaches everything, and waits for connects that are being judged.
    pub(super) fn end(&mut self) {
        let all = std::mem::take(&mut self.attached);
        self.detach(all);
        // A program may still be running, on another CPU or preempted on this one.
        if let Err(error) = self.kernel.wait_for_programs() {
            log::debug!("{error}");
        }
    }

    /// What was counted: of each target, and of cgroups without a binding.
    pub(super) fn report(&self) -> Result<(Vec<TargetReport>, Counters), KernelError> {
        let counters = self.kernel.counters()?;
        let unconfigured = counters.first().copied().unwrap_or_default();
        Ok((self.tallies.report(&counters), unconfigured))
    }
}

/// What each cgroup of the plan is to be bound to.
fn wanted(plan: &Plan, options: &StartOptions, redirects: bool, slots: &[u32]) -> Vec<Wanted> {
    let mut all = Vec::new();
    let redirects = if redirects { FLAG_REDIRECTS } else { 0 };
    for (target, slot) in plan.targets.iter().zip(slots) {
        let canaries = canary_lists(&plan.rules, &target.name);
        for planned in &target.cgroups {
            let outer = if planned.has_outer { FLAG_HAS_OUTER } else { 0 };
            let inner = if planned.has_inner { FLAG_HAS_INNER } else { 0 };
            all.push(Wanted {
                cgroup: Arc::clone(&planned.cgroup),
                target: target.name.clone(),
                binding: Binding {
                    layout_version: LAYOUT_VERSION,
                    policy_slot: *slot,
                    cgroup_id: planned.cgroup.id(),
                    target: index(target.number),
                    mode: options.mode as u8,
                    flags: outer | inner | redirects,
                    events: options.events as u8,
                    canaries,
                    rollout_key: text_hash(target.name.as_bytes()),
                    ..Binding::default()
                },
            });
        }
    }
    all
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
