//! Compiled policies in the kernel: each a pair of inner maps (entries and clauses) of one generation, sized
//! to itself.
//!
//! A slot is what bindings name; it points at a generation, and at that of an overlay, through one 8-byte value, so that
//! the policy of every cgroup that uses the slot changes with a single store. A generation is filled before anything
//! points at it and is never written afterwards; it is given back once nothing points at it and every program that may
//! have seen it is done.

use std::sync::Arc;

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

/// Where an installed policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installed {
    /// What a binding names.
    pub slot: u32,
    /// What records name.
    pub generation: u32,
}

/// Policies in force, by slot.
pub(crate) struct Policies {
    maps: Maps,
    /// What the slots hold, slot 1 first.
    slots: Vec<Slot>,
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
}

/// What a slot holds.
struct Slot {
    /// What it was installed for.
    identity: Arc<CompiledPolicy>,
    /// What is in force: the same, with what was learned since.
    policy: Arc<CompiledPolicy>,
    /// Whose overlay lies over it, if it is not for everybody.
    scope: Option<u32>,
    head: PolicyHead,
    /// The prefixes in force, which later generations of the same rules share.
    entries: Entries,
    overlay: CompiledPolicy,
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
            },
            slots: Vec::new(),
        })
    }

    /// Equal policies of one scope are one.
    pub(crate) fn install(
        &mut self,
        policy: &Arc<CompiledPolicy>,
        scope: Option<u32>,
    ) -> Result<Installed, KernelError> {
        let known = (1..)
            .zip(&self.slots)
            .find(|(_, slot)| slot.scope == scope && slot.identity == *policy);
        if let Some((slot, held)) = known {
            return Ok(Installed {
                slot,
                generation: held.head.generation,
            });
        }
        // Slot 0 means "no policy". Slots are not given back: there are as many as cgroups may be governed.
        let slot = self.slots.len() as u32 + 1;
        let slots = self.maps.heads.len();
        if slot >= slots {
            return Err(KernelError::TooMany {
                what: "policies",
                count: slot as usize,
                limit: slots as usize - 1,
            });
        }
        let entries = filled(policy)?;
        let head = PolicyHead {
            generation: self.maps.publish(&entries, policy)?,
            overlay: 0,
        };
        self.maps.point(slot, head)?;
        self.slots.push(Slot {
            identity: Arc::clone(policy),
            policy: Arc::clone(policy),
            scope,
            head,
            entries,
            overlay: CompiledPolicy::default(),
        });
        Ok(Installed {
            slot,
            generation: head.generation,
        })
    }

    /// Puts other clauses of the same rules into force, and another overlay, both at once. The entries must be those
    /// that the slot's policy has.
    pub(crate) fn replace(
        &mut self,
        slot: u32,
        policy: &Arc<CompiledPolicy>,
        overlay: CompiledPolicy,
    ) -> Result<Installed, KernelError> {
        let at = (slot as usize).wrapping_sub(1);
        let Some(held) = self.slots.get_mut(at) else {
            return Err(KernelError::Missing {
                kind: "policy",
                name: "slot",
            });
        };
        let before = held.head;
        let mut head = before;
        let mut changed_entries = None;
        if held.policy != *policy {
            if held.policy.entries() != policy.entries() {
                changed_entries = Some(filled(policy)?);
            }
            let entries = changed_entries.as_ref().unwrap_or(&held.entries);
            head.generation = self.maps.publish(entries, policy)?;
        }
        if held.overlay != overlay {
            let published = if overlay.entries().is_empty() {
                Ok(0)
            } else {
                filled(&overlay).and_then(|entries| self.maps.publish(&entries, &overlay))
            };
            match published {
                Ok(generation) => head.overlay = generation,
                Err(error) => {
                    self.maps.give_back(before, head);
                    return Err(error);
                }
            }
        }
        if let Err(error) = self.maps.point(slot, head) {
            self.maps.give_back(before, head);
            return Err(error);
        }
        held.policy = Arc::clone(policy);
        held.overlay = overlay;
        held.head = head;
        if let Some(entries) = changed_entries {
            held.entries = entries;
        }
        self.maps.give_back(head, before);
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
        self.clauses
            .set(generation, &clauses, 0)
            .map_err(|e| failed("CLAUSES", "publish a generation", e))?;
        self.entries
            .set(generation, entries, 0)
            .map_err(|e| failed("ENTRIES", "publish a generation", e))?;
        Ok(generation)
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

    /// Gives back the generations of `unused` that are not in `kept`. A program that has read the old head may not have
    /// looked its maps up yet, so they are emptied only after every program that runs now is done.
    fn give_back(&mut self, kept: PolicyHead, unused: PolicyHead) {
        let pairs = [
            (unused.generation, kept.generation),
            (unused.overlay, kept.overlay),
        ];
        let unused: Vec<u32> = pairs
            .into_iter()
            .filter(|(generation, kept)| *generation != 0 && generation != kept)
            .map(|(generation, _)| generation)
            .collect();
        if unused.is_empty() {
            return;
        }
        if let Err(error) = self.wait_for_programs() {
            log::debug!("cannot give back generations {unused:?}: {error}");
            return;
        }
        for generation in unused {
            let emptied = Entries::create(1, BPF_F_INNER_MAP)
                .and_then(|empty| self.entries.set(generation, &empty, 0))
                .and_then(|()| Clauses::create(1, BPF_F_INNER_MAP))
                .and_then(|empty| self.clauses.set(generation, &empty, 0));
            match emptied {
                Ok(()) => self.free.push(generation),
                // It is lost for good, which is a matter of memory only.
                Err(error) => log::debug!("cannot give back generation {generation}: {error}"),
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
