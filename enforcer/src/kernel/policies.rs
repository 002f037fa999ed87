//! Compiled policies in the kernel: each a pair of inner maps (entries and clauses) of one generation, sized
//! to itself.
//!
//! A slot is what bindings name; it points at a generation, and at that of an overlay, through one 8-byte value, so that
//! the policy of every cgroup that uses the slot changes with a single store. A generation is filled before anything
//! points at it and is never written afterwards; it is given back once nothing points at it and every program that may
//! have seen it is done. So is a slot, once no binding names it. When bindings change is not known here.

use std::{sync::Arc, thread};

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, MapData, MapError},
};
use enforcer_common::{binding::PolicyHead, blocks::Block, clause::Clause};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{KernelError, loader, plain::Plain};
use crate::policy::{compiled::CompiledPolicy, tree::Tree};

/// `BPF_F_INNER_MAP` (`include/uapi/linux/bpf.h`, 5.10 and later): arrays of different sizes fit one outer map.
const BPF_F_INNER_MAP: u32 = 1 << 12;

type Entries = Array<MapData, Plain<Block>>;
type Clauses = Array<MapData, Plain<Clause>>;

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
    maps: Maps,
    /// What the slots hold, slot 1 first.
    slots: Vec<Option<Slot>>,
    /// Slots that no binding names any more, while programs may still have read one that did.
    leaving: Vec<u32>,
}

/// The policy maps.
struct Maps {
    entries: ArrayOfMaps<MapData, Entries>,
    clauses: ArrayOfMaps<MapData, Clauses>,
    heads: Array<MapData, Plain<PolicyHead>>,
    /// The lowest generation that was never used. 0 is none.
    next_generation: u32,
    /// Generations that were given back.
    free: Vec<u32>,
    /// Generations that nothing points at any more, while programs may still have read what did.
    leaving: Vec<u32>,
}

/// A slot that is taken.
struct Slot {
    content: Content,
    head: PolicyHead,
    /// The prefixes in force, which other generations with the same ones share.
    entries: Arc<Entries>,
}

impl Policies {
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            maps: Maps {
                entries: loader::typed_map(ebpf, "ENTRIES")?,
                clauses: loader::typed_map(ebpf, "CLAUSES")?,
                heads: loader::typed_map(ebpf, "POLICIES")?,
                next_generation: 1,
                free: Vec::new(),
                leaving: Vec::new(),
            },
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
                let generation = held.head.generation;
                return Ok((Installed { slot, generation }, false));
            }
        }
        // Slot 0 means "no policy".
        let free = self.slots.iter().position(Option::is_none);
        let at = free.unwrap_or(self.slots.len());
        let slot = at as u32 + 1;
        let slots = self.maps.heads.len();
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
        let entries = match known {
            Some(held) => Arc::clone(&held.entries),
            None => Arc::new(filled(&content.policy)?),
        };
        let mut head = PolicyHead {
            generation: self.maps.publish(&entries, &content.policy)?,
            overlay: 0,
        };
        let pointed = self
            .maps
            .publish_overlay(&content.overlay)
            .and_then(|generation| {
                head.overlay = generation;
                self.maps.point(slot, head)
            });
        if let Err(error) = pointed {
            self.maps.leave(PolicyHead::default(), head);
            self.maps.empty_those_that_left();
            return Err(error);
        }
        let held = Slot {
            content: content.clone(),
            head,
            entries,
        };
        if at < self.slots.len() {
            self.slots[at] = Some(held);
        } else {
            self.slots.push(Some(held));
        }
        let generation = head.generation;
        Ok((Installed { slot, generation }, true))
    }

    /// Says that no binding names these slots any more. [`give_back`](Self::give_back) frees them.
    pub(crate) fn leave(&mut self, slots: &[u32]) {
        self.leaving.extend(slots);
    }

    /// Gives back slots and generations that are in use nowhere any more. Blocks some milliseconds for each. What the
    /// kernel refuses is left for the next time: it is a matter of memory only.
    pub(crate) fn give_back(&mut self) {
        if self.leaving.is_empty() && self.maps.leaving.is_empty() {
            return;
        }
        // A program that read a binding before it was replaced may not have come to the slot yet, which must not be
        // another policy's by then.
        if let Err(error) = self.wait_for_programs() {
            log::debug!("cannot give back slots {:?}: {error}", self.leaving);
            return;
        }
        for slot in std::mem::take(&mut self.leaving) {
            let held = self.slots.get_mut((slot as usize).wrapping_sub(1));
            if let Some(held) = held.and_then(Option::take) {
                self.maps.leave(PolicyHead::default(), held.head);
            }
        }
        self.maps.empty_those_that_left();
    }

    /// Puts other clauses of the same rules into force, and another overlay, both at once. The entries must be those
    /// that the slot's policy has.
    pub(crate) fn replace(
        &mut self,
        slot: u32,
        policy: &Arc<CompiledPolicy>,
        overlay: Arc<CompiledPolicy>,
    ) -> Result<Installed, KernelError> {
        let at = (slot as usize).wrapping_sub(1);
        let Some(held) = self.slots.get_mut(at).and_then(Option::as_mut) else {
            return Err(KernelError::Missing {
                kind: "policy",
                name: "slot",
            });
        };
        let before = held.head;
        let mut head = before;
        let mut entries = Arc::clone(&held.entries);
        if held.content.policy != *policy {
            if held.content.policy.entries() != policy.entries() {
                entries = Arc::new(filled(policy)?);
            }
            head.generation = self.maps.publish(&entries, policy)?;
        }
        let mut replaced = Ok(());
        if held.content.overlay != overlay {
            replaced = self
                .maps
                .publish_overlay(&overlay)
                .map(|generation| head.overlay = generation);
        }
        if replaced.is_ok() && head != before {
            replaced = self.maps.point(slot, head);
        }
        if let Err(error) = replaced {
            self.maps.leave(before, head);
            self.maps.empty_those_that_left();
            return Err(error);
        }
        held.content.policy = Arc::clone(policy);
        held.content.overlay = overlay;
        held.head = head;
        held.entries = entries;
        self.maps.leave(head, before);
        self.give_back();
        Ok(Installed {
            slot,
            generation: head.generation,
        })
    }

    /// Waits until every program run that has begun is over.
    pub(crate) fn wait_for_programs(&mut self) -> Result<(), KernelError> {
        self.maps.wait_for_programs()
    }
}

impl Maps {
    /// Makes a new generation of those prefixes and the policy's clauses.
    fn publish(&mut self, entries: &Entries, policy: &CompiledPolicy) -> Result<u32, KernelError> {
        let clauses = fill(policy.clauses()).map_err(|e| failed("CLAUSES", "fill the clauses", e))?;
        let generation = match self.free.pop() {
            Some(generation) => generation,
            None if self.next_generation < self.entries.len() => {
                self.next_generation += 1;
                self.next_generation - 1
            }
            None => {
                return Err(KernelError::TooMany {
                    what: "generations of policies",
                    count: self.next_generation as usize,
                    limit: self.entries.len() as usize - 1,
                });
            }
        };
        let published = self.set(generation, entries, &clauses);
        match published {
            Ok(()) => Ok(generation),
            Err(error) => {
                // Nothing has ever pointed at it.
                self.empty(generation);
                Err(error)
            }
        }
    }

    /// Sets both maps of a generation, at the same time: the kernel lets who replaces a map within a map wait until every
    /// program that may have read the old one is done, and two can wait for the same.
    fn set(&mut self, generation: u32, entries: &Entries, clauses: &Clauses) -> Result<(), KernelError> {
        let Self {
            entries: all_entries,
            clauses: all_clauses,
            ..
        } = self;
        let mut set_clauses = || {
            all_clauses
                .set(generation, clauses, 0)
                .map_err(|e| failed("CLAUSES", "publish a generation", e))
        };
        let mut set_entries = || {
            all_entries
                .set(generation, entries, 0)
                .map_err(|e| failed("ENTRIES", "publish a generation", e))
        };
        let (set, set_beside) = thread::scope(|scope| {
            let beside = thread::Builder::new().spawn_scoped(scope, &mut set_clauses);
            (set_entries(), beside.ok().map(|beside| beside.join()))
        });
        let set_beside = match set_beside {
            Some(Ok(set)) => set,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            // There was no thread to be had.
            None => set_clauses(),
        };
        set.and(set_beside)
    }

    /// The generation of an overlay: none if it is empty.
    fn publish_overlay(&mut self, overlay: &CompiledPolicy) -> Result<u32, KernelError> {
        if overlay.entries().is_empty() {
            return Ok(0);
        }
        filled(overlay).and_then(|entries| self.publish(&entries, overlay))
    }

    /// One store: no connect sees the policy without its overlay.
    fn point(&mut self, slot: u32, head: PolicyHead) -> Result<(), KernelError> {
        self.heads
            .set(slot, Plain(head), 0)
            .map_err(|e| failed("POLICIES", "point a slot at its generation", e))
    }

    /// Waits until every program run that has begun is over. The kernel does so whenever a map within a map is
    /// replaced (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c), for programs run under RCU. Generation 0 is
    /// none, and without clauses stays none.
    fn wait_for_programs(&mut self) -> Result<(), KernelError> {
        Entries::create(1, BPF_F_INNER_MAP)
            .and_then(|empty| self.entries.set(0, &empty, 0))
            .map_err(|e| failed("ENTRIES", "wait for running programs", e))
    }

    /// Says that nothing points any more at the generations of `unused` that are not in `kept`.
    fn leave(&mut self, kept: PolicyHead, unused: PolicyHead) {
        let pairs = [
            (unused.generation, kept.generation),
            (unused.overlay, kept.overlay),
        ];
        let unused = pairs
            .into_iter()
            .filter(|(generation, kept)| *generation != 0 && generation != kept)
            .map(|(generation, _)| generation);
        self.leaving.extend(unused);
    }

    /// Empties generations that left. A program that has read the old head may not have looked its maps up yet, so they are
    /// emptied only after every program that runs now is done.
    fn empty_those_that_left(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        if let Err(error) = self.wait_for_programs() {
            log::debug!("cannot give back generations {:?}: {error}", self.leaving);
            return;
        }
        for generation in std::mem::take(&mut self.leaving) {
            self.empty(generation);
        }
    }

    /// Frees a generation that no program can come to, and its memory.
    fn empty(&mut self, generation: u32) {
        let emptied = Entries::create(1, BPF_F_INNER_MAP)
            .and_then(|empty| self.entries.set(generation, &empty, 0))
            .and_then(|()| Clauses::create(1, BPF_F_INNER_MAP))
            .and_then(|empty| self.clauses.set(generation, &empty, 0));
        match emptied {
            Ok(()) => self.free.push(generation),
            // Next time, perhaps.
            Err(error) => {
                log::debug!("cannot give back generation {generation}: {error}");
                self.leaving.push(generation);
            }
        }
    }
}

fn failed(map: &'static str, operation: &'static str, source: MapError) -> KernelError {
    KernelError::Map {
        operation,
        map,
        source: Box::new(source),
    }
}

fn filled(policy: &CompiledPolicy) -> Result<Entries, KernelError> {
    fill(Tree::new(policy.entries()).blocks()).map_err(|e| failed("ENTRIES", "fill the prefixes", e))
}

/// An array of just these. The flags must be those of the template the outer map was created with, or the kernel refuses
/// the pair.
fn fill<T>(values: &[T]) -> Result<Array<MapData, Plain<T>>, MapError>
where
    T: Copy + FromBytes + IntoBytes + Immutable + 'static,
{
    let count = u32::try_from(values.len()).unwrap_or(u32::MAX).max(1);
    let mut map = Array::create(count, BPF_F_INNER_MAP)?;
    for (index, value) in (0u32..).zip(values) {
        map.set(index, Plain(*value), 0)?;
    }
    Ok(map)
}
