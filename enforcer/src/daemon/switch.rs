//! From the cgroups that are attached and their bindings to others, in an order in which no connect is left ungoverned,
//! met by a policy that is not its own, or judged twice.
//!
//! A cgroup that stays has its binding replaced, by one store. Around that, nested ones need care: the inner target's
//! programs run first, and mark what they have judged for the outer one to see. So at every moment an outer target that
//! judges looks for marks wherever a target below it judges, and one below it leaves marks wherever the outermost takes
//! them away. While targets come and go both are so for all of them together; an outer target that comes or goes is off
//! (it passes everything, but takes marks away) while those below it do not leave marks.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use enforcer_common::binding::{Binding, FLAG_HAS_INNER, FLAG_HAS_OUTER, FLAG_OFF};

use super::{Said, control::Control};
use crate::{
    kernel::{Attachment, KernelError},
    targets::{Cgroup, nesting},
};

/// How often the kernel is asked to put a binding back.
const PUT_BACK_ATTEMPTS: usize = 3;

/// A governed cgroup.
pub(super) struct Attached {
    _attachment: Attachment,
    pub(super) cgroup: Arc<Cgroup>,
    pub(super) target: String,
    /// What the kernel holds.
    pub(super) binding: Binding,
}

/// What a cgroup is to be bound to.
pub(super) struct Wanted {
    pub(super) cgroup: Arc<Cgroup>,
    pub(super) target: String,
    pub(super) binding: Binding,
}

fn depth(path: &Path) -> usize {
    path.components().count()
}

impl Control {
    /// Makes that what is attached. Returns how many were not before, and the identifiers of those that are no more. If
    /// the kernel refuses any part, all is as it was.
    pub(super) fn switch(&mut self, wanted: &[Wanted]) -> Result<(usize, Vec<u64>), KernelError> {
        let before: HashMap<u64, (String, Binding)> = self
            .attached
            .iter()
            .map(|attached| (attached.cgroup.id(), (attached.target.clone(), attached.binding)))
            .collect();
        let together = self.nesting_with(wanted);
        match self.switched(wanted, &before, &together) {
            Ok(()) => {
                let stays: HashMap<u64, Binding> = wanted
                    .iter()
                    .map(|wanted| (wanted.cgroup.id(), wanted.binding))
                    .collect();
                let attached = self
                    .attached
                    .iter()
                    .filter(|attached| !before.contains_key(&attached.cgroup.id()))
                    .count();
                let left = self.let_leave(&stays, &together);
                Ok((attached, left))
            }
            Err(error) => {
                for attached in &mut self.attached {
                    if let Some((target, _)) = before.get(&attached.cgroup.id()) {
                        attached.target.clone_from(target);
                    }
                }
                let stays = before
                    .into_iter()
                    .map(|(id, (_, binding))| (id, binding))
                    .collect();
                self.let_leave(&stays, &together);
                self.tell_not_put_back(&stays);
                Err(error)
            }
        }
    }

    /// How all that is attached and all that will be lie to each other: flags by cgroup.
    fn nesting_with(&self, wanted: &[Wanted]) -> HashMap<u64, u8> {
        let mut all: HashMap<u64, &Path> = HashMap::new();
        all.extend(self.attached.iter().map(|it| (it.cgroup.id(), it.cgroup.path())));
        all.extend(wanted.iter().map(|it| (it.cgroup.id(), it.cgroup.path())));
        let (ids, paths): (Vec<u64>, Vec<&Path>) = all.into_iter().unzip();
        let flags = nesting::nesting(&paths).into_iter().map(nesting::Nesting::flags);
        ids.into_iter().zip(flags).collect()
    }

    /// Everything up to the moment from which the new bindings are in force.
    fn switched(
        &mut self,
        wanted: &[Wanted],
        before: &HashMap<u64, (String, Binding)>,
        together: &HashMap<u64, u8>,
    ) -> Result<(), KernelError> {
        let flags = |id: u64| together.get(&id).copied().unwrap_or(0);
        let mut coming: Vec<&Wanted> = wanted
            .iter()
            .filter(|wanted| !before.contains_key(&wanted.cgroup.id()))
            .collect();
        let are_nested = !coming.is_empty() && together.values().any(|flags| *flags != 0);
        if are_nested {
            // Those that are there look for marks before anybody below them leaves any.
            for at in 0..self.attached.len() {
                self.change(at, |binding| {
                    binding.flags |= flags(binding.cgroup_id) & FLAG_HAS_INNER;
                })?;
            }
        }
        let there: HashSet<_> = self
            .attached
            .iter()
            .map(|attached| attached.cgroup.path().to_owned())
            .collect();
        // From the inside out: what an inner target allows is at no time rejected by an outer one that came with it.
        coming.sort_by_key(|wanted| Reverse(depth(wanted.cgroup.path())));
        let mut is_any_off = false;
        for wanted in coming {
            let mut binding = wanted.binding;
            binding.flags |= flags(binding.cgroup_id) & FLAG_HAS_INNER;
            let above = wanted.cgroup.path().ancestors().skip(1);
            if above.into_iter().any(|above| there.contains(above)) {
                binding.flags |= FLAG_HAS_OUTER;
            } else {
                // Nobody is there yet who would take its marks away.
                binding.flags &= !FLAG_HAS_OUTER;
                if binding.flags & FLAG_HAS_INNER != 0 {
                    binding.flags |= FLAG_OFF;
                    is_any_off = true;
                }
            }
            match self.kernel.attach(&wanted.cgroup, binding) {
                Ok(attachment) => self.attached.push(Attached {
                    _attachment: attachment,
                    cgroup: Arc::clone(&wanted.cgroup),
                    target: wanted.target.clone(),
                    binding,
                }),
                // It went after it was looked up, as it may at any time later.
                Err(_) if wanted.cgroup.is_gone() => self
                    .missed
                    .push((wanted.target.clone(), wanted.cgroup.path().to_owned())),
                Err(error) => return Err(error),
            }
        }
        if are_nested {
            for at in 0..self.attached.len() {
                self.change(at, |binding| {
                    binding.flags |= flags(binding.cgroup_id) & FLAG_HAS_OUTER;
                })?;
            }
        }
        if is_any_off {
            // A call that has been judged below without a mark must not be judged again.
            self.kernel.wait_for_programs()?;
        }
        let finals: HashMap<u64, &Wanted> = wanted.iter().map(|it| (it.cgroup.id(), it)).collect();
        for at in 0..self.attached.len() {
            let Some(id) = self.attached.get(at).map(|attached| attached.cgroup.id()) else {
                continue;
            };
            if let Some(wanted) = finals.get(&id) {
                self.change(at, |binding| {
                    *binding = wanted.binding;
                    binding.flags |= flags(id);
                })?;
                if let Some(attached) = self.attached.get_mut(at) {
                    attached.target.clone_from(&wanted.target);
                }
            }
        }
        Ok(())
    }

    /// Replaces the binding of a cgroup that is attached, if it changes.
    fn change(&mut self, at: usize, change: impl FnOnce(&mut Binding)) -> Result<(), KernelError> {
        let Some(attached) = self.attached.get_mut(at) else {
            return Ok(());
        };
        let mut binding = attached.binding;
        change(&mut binding);
        if binding == attached.binding {
            return Ok(());
        }
        match self.kernel.bind(binding) {
            Ok(()) => attached.binding = binding,
            // Its storage went with it.
            Err(_) if attached.cgroup.is_gone() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Detaches all but those that stay, and lets these have their bindings; returns who left. What the kernel refuses is
    /// tried again; a flag too many does no harm.
    fn let_leave(&mut self, stays: &HashMap<u64, Binding>, together: &HashMap<u64, u8>) -> Vec<u64> {
        let (staying, mut leaving): (Vec<_>, Vec<_>) = std::mem::take(&mut self.attached)
            .into_iter()
            .partition(|attached| stays.contains_key(&attached.cgroup.id()));
        self.attached = staying;
        self.turn_off(&mut leaving);
        for at in 0..self.attached.len() {
            let Some(id) = self.attached.get(at).map(|attached| attached.cgroup.id()) else {
                continue;
            };
            let Some(wanted) = stays.get(&id).copied() else {
                continue;
            };
            // A call that runs below may have left its mark already.
            let looks = together.get(&id).copied().unwrap_or(0) & FLAG_HAS_INNER;
            let kept = Binding {
                flags: wanted.flags | looks,
                ..wanted
            };
            let mut done = Ok(());
            for _ in 0..PUT_BACK_ATTEMPTS {
                done = self.change(at, |binding| *binding = kept);
                if done.is_ok() {
                    break;
                }
            }
            if let Err(error) = done {
                log::debug!("cannot bring a binding up to date: {error}");
            }
            if kept != wanted {
                self.unsettled.push(wanted);
            }
        }
        let left = leaving.iter().map(|attached| attached.cgroup.id()).collect();
        drop(leaving);
        left
    }

    /// Detaches those, from the inside out.
    pub(super) fn detach(&mut self, mut leaving: Vec<Attached>) {
        self.turn_off(&mut leaving);
        drop(leaving);
    }

    /// Puts those that leave into the order in which they can, and lets outer ones pass what is not judged below them any
    /// more.
    fn turn_off(&mut self, leaving: &mut [Attached]) {
        leaving.sort_by_key(|attached| Reverse(depth(attached.cgroup.path())));
        for attached in leaving {
            if attached.binding.flags & FLAG_HAS_INNER != 0 {
                attached.binding.flags |= FLAG_OFF;
                if let Err(error) = self.kernel.bind(attached.binding) {
                    log::debug!("cannot turn a target off before it is detached: {error}");
                }
            }
        }
    }

    /// Lets those that had a target below them look for marks no more. Until then the kernel may run its programs.
    pub(super) fn settle_bindings(&mut self) {
        if self.unsettled.is_empty() {
            return;
        }
        if let Err(error) = self.kernel.wait_for_programs() {
            log::debug!("cannot settle bindings: {error}");
            return;
        }
        for wanted in std::mem::take(&mut self.unsettled) {
            let at = self
                .attached
                .iter()
                .position(|attached| attached.cgroup.id() == wanted.cgroup_id);
            if let Some(at) = at
                && let Err(error) = self.change(at, |binding| {
                    if binding.policy_slot == wanted.policy_slot {
                        *binding = wanted;
                    }
                })
            {
                log::debug!("cannot settle a binding: {error}");
                self.unsettled.push(wanted);
            }
        }
    }

    /// Says which cgroups the kernel would not put back.
    fn tell_not_put_back(&mut self, before: &HashMap<u64, Binding>) {
        for attached in &self.attached {
            let slot = before
                .get(&attached.cgroup.id())
                .map(|binding| binding.policy_slot);
            if slot.is_some_and(|slot| slot != attached.binding.policy_slot) {
                self.said.push(Said {
                    message: format!(
                        "cgroup {} of target {} could not be put back: the policy that was not loaded governs it",
                        attached.cgroup.path().display(),
                        attached.target
                    ),
                    hint: Some("reload, or restart enforcer".to_owned()),
                });
            }
        }
    }
}
