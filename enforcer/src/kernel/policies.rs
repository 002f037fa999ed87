//! Compiled policies in the kernel, by slot.
//!
//! A slot is what bindings name; it points at a generation (`generations`), and at that of an overlay, through one 8-byte
//! value, so that the policy of every cgroup that uses the slot changes with a single store. A generation is filled before
//! anything points at it, and written again only when nothing does any more and every program that may have seen it is done.
//! A slot is given back once no binding names it. When bindings change is not known here.

use std::sync::Arc;

use aya::Ebpf;
use enforcer_common::binding::PolicyHead;

use super::{
    KernelError,
    generations::{Generation, Generations, Prefixes},
};
use crate::policy::compiled::CompiledPolicy;

/// Where an installed policy is. 0 is nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// What a binding names.
    pub slot: u32,
    /// What records name.
    pub generation: u32,
}

/// What a slot holds.
#[derive(Clone, Debug)]
pub struct Content {
    /// What it is of: a policy as it was compiled, before anything was known of times and names.
    pub identity: Arc<CompiledPolicy>,
    /// Whose answers to names lie over it, if there are names: contents of different scopes are never one.
    pub scope: Option<u32>,
    /// The same policy with what is known of times and names.
    pub policy: Arc<CompiledPolicy>,
    /// The answers to its names.
    pub overlay: Arc<CompiledPolicy>,
}

impl Content {
    /// A policy that depends on neither times nor names.
    #[must_use]
    pub fn plain(policy: &Arc<CompiledPolicy>) -> Self {
        Self {
            identity: Arc::clone(policy),
            scope: None,
            policy: Arc::clone(policy),
            overlay: Arc::default(),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.scope == other.scope
            && self.identity == other.identity
            && self.policy == other.policy
            && self.overlay == other.overlay
    }
}

/// Policies in force, by slot.
pub(crate) struct Policies {
    generations: Generations,
    /// What the slots hold, slot 1 first.
    slots: Vec<Option<Slot>>,
    /// Slots that no binding names any more, while programs may still have read one that did.
    leaving: Vec<u32>,
}

/// A slot that is taken.
struct Slot {
    content: Content,
    base: Generation,
    /// None where the overlay is empty.
    overlay: Option<Generation>,
}

impl Content {
    /// Whether times or names change it.
    fn changes(&self) -> bool {
        self.scope.is_some() || self.identity.is_living()
    }
}

impl Slot {
    fn installed(&self, slot: u32) -> Installed {
        Installed {
            slot,
            generation: self.base.number(),
        }
    }
}

/// One 8-byte value of both.
fn head(base: &Generation, overlay: Option<&Generation>) -> PolicyHead {
    PolicyHead {
        generation: base.number(),
        overlay: overlay.map_or(0, Generation::number),
    }
}

impl Policies {
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            generations: Generations::new(ebpf)?,
            slots: Vec::new(),
            leaving: Vec::new(),
        })
    }

    /// Puts that into a slot, and says whether it is one that no binding can name yet. Equal contents are one.
    pub(crate) fn install(&mut self, content: &Content) -> Result<(Installed, bool), KernelError> {
        for (slot, held) in (1..).zip(&mut self.slots) {
            if let Some(held) = held
                && !self.leaving.contains(&slot)
                && held.content.is_same(content)
            {
                // The next comparison with the same one is that of a pointer.
                held.content = content.clone();
                return Ok((held.installed(slot), false));
            }
        }
        // Slot 0 means "no policy".
        let free = self.slots.iter().position(Option::is_none);
        let at = free.unwrap_or(self.slots.len());
        let slot = at as u32 + 1;
        let slots = self.generations.slots();
        if slot >= slots {
            return Err(KernelError::TooMany {
                what: "policies",
                count: slot as usize,
                limit: slots as usize - 1,
            });
        }
        let known = self
            .slots
            .iter()
            .flatten()
            .find(|held| held.content.policy.entries() == content.policy.entries());
        let prefixes = known.map_or(Prefixes::Of(&content.policy), |held| {
            Prefixes::Same(held.base.entries())
        });
        let clauses = content.policy.clauses();
        let base = self.generations.make(prefixes, clauses, content.changes())?;
        let overlay = match self.make_overlay(&content.overlay) {
            Ok(overlay) => overlay,
            Err(error) => return Err(self.undone([Some(base)], error)),
        };
        if let Err(error) = self.generations.point(slot, head(&base, overlay.as_ref())) {
            return Err(self.undone([Some(base), overlay], error));
        }
        let held = Slot {
            content: content.clone(),
            base,
            overlay,
        };
        let installed = held.installed(slot);
        if at < self.slots.len() {
            self.slots[at] = Some(held);
        } else {
            self.slots.push(Some(held));
        }
        Ok((installed, true))
    }

    /// The generation of an overlay: none if it is empty.
    fn make_overlay(&mut self, overlay: &CompiledPolicy) -> Result<Option<Generation>, KernelError> {
        if overlay.entries().is_empty() {
            return Ok(None);
        }
        self.generations
            .make(Prefixes::Of(overlay), overlay.clauses(), true)
            .map(Some)
    }

    /// Takes back what nothing points at, because of that.
    fn undone(
        &mut self,
        made: impl IntoIterator<Item = Option<Generation>>,
        error: KernelError,
    ) -> KernelError {
        for generation in made.into_iter().flatten() {
            self.generations.leave(generation);
        }
        self.give_back();
        error
    }

    /// Says that no binding names these slots any more. [`give_back`](Self::give_back) frees them.
    pub(crate) fn leave(&mut self, slots: &[u32]) {
        self.leaving.extend(slots);
    }

    /// Gives back slots and generations that are in use nowhere any more. Blocks some milliseconds. What the kernel
    /// refuses is left for the next time: it is a matter of memory only.
    pub(crate) fn give_back(&mut self) {
        if self.leaving.is_empty() && !self.generations.has_left() {
            return;
        }
        // A program that read a binding before it was replaced may not have come to the slot yet, nor one that read the
        // slot to its maps.
        if let Err(error) = self.generations.wait_for_programs() {
            log::debug!("cannot give back slots {:?}: {error}", self.leaving);
            return;
        }
        for slot in std::mem::take(&mut self.leaving) {
            let held = self.slots.get_mut((slot as usize).wrapping_sub(1));
            if let Some(held) = held.and_then(Option::take) {
                // Nobody comes there. But what it names becomes another's.
                if let Err(error) = self.generations.point(slot, PolicyHead::default()) {
                    log::debug!("{error}");
                }
                self.generations.leave(held.base);
                held.overlay
                    .into_iter()
                    .for_each(|overlay| self.generations.leave(overlay));
            }
        }
        let Self {
            generations, slots, ..
        } = self;
        let held = || slots.iter().flatten();
        // A change takes two at most, and gives two back.
        let spares = 2 * held().filter(|held| held.content.changes()).count();
        generations.reclaim(spares, |entries| {
            held().any(|held| Arc::ptr_eq(held.base.entries(), entries))
        });
    }

    /// Puts other clauses of the same rules into force, and another overlay, both at once. What was there is taken back by
    /// [`give_back`](Self::give_back).
    pub(crate) fn replace(
        &mut self,
        slot: u32,
        policy: &Arc<CompiledPolicy>,
        overlay: Arc<CompiledPolicy>,
    ) -> Result<Installed, KernelError> {
        let at = (slot as usize).wrapping_sub(1);
        let Some(held) = self.slots.get(at).and_then(Option::as_ref) else {
            return Err(KernelError::Missing {
                kind: "policy",
                name: "slot",
            });
        };
        let has_other_overlay = held.content.overlay != overlay;
        let base = if held.content.policy == *policy {
            None
        } else {
            let prefixes = if held.content.policy.entries() == policy.entries() {
                Prefixes::Same(held.base.entries())
            } else {
                Prefixes::Of(policy)
            };
            Some(self.generations.make(prefixes, policy.clauses(), true)?)
        };
        let over = if has_other_overlay {
            match self.make_overlay(&overlay) {
                Ok(over) => over,
                Err(error) => return Err(self.undone([base], error)),
            }
        } else {
            None
        };
        let Some(held) = self.slots.get_mut(at).and_then(Option::as_mut) else {
            return Err(KernelError::Missing {
                kind: "policy",
                name: "slot",
            });
        };
        let is_over = if has_other_overlay {
            over.as_ref()
        } else {
            held.overlay.as_ref()
        };
        let is = head(base.as_ref().unwrap_or(&held.base), is_over);
        if is != head(&held.base, held.overlay.as_ref())
            && let Err(error) = self.generations.point(slot, is)
        {
            return Err(self.undone([base, over], error));
        }
        held.content.policy = Arc::clone(policy);
        held.content.overlay = overlay;
        let mut left = Vec::new();
        left.extend(base.map(|base| std::mem::replace(&mut held.base, base)));
        if has_other_overlay {
            left.extend(std::mem::replace(&mut held.overlay, over));
        }
        let installed = held.installed(slot);
        left.into_iter()
            .for_each(|generation| self.generations.leave(generation));
        Ok(installed)
    }

    /// Waits until every program run that has begun is over.
    pub(crate) fn wait_for_programs(&mut self) -> Result<(), KernelError> {
        self.generations.wait_for_programs()
    }
}
