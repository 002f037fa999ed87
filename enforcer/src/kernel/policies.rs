//! Compiled policies in the kernel: each a pair of inner maps (entries and clauses) of one generation, sized
//! to itself, addressed by its content.
//!
//! A slot is what bindings name; it points at a generation through one 8-byte value, so that the policy of
//! every cgroup that uses the slot changes with a single store. A generation is filled before anything points
//! at it and is never written afterwards.

use std::{collections::HashMap, sync::Arc};

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, LpmTrie, MapData, MapError, lpm_trie::Key},
};
use enforcer_common::{
    address::{AddrWords, words_from_octets},
    binding::PolicyHead,
    clause::Clause,
};

use super::{KernelError, loader, plain::Plain};
use crate::policy::compiled::CompiledPolicy;

/// `BPF_F_NO_PREALLOC` (`include/uapi/linux/bpf.h`): longest-prefix-match maps cannot be without it.
const BPF_F_NO_PREALLOC: u32 = 1 << 0;
/// `BPF_F_INNER_MAP` (`include/uapi/linux/bpf.h`, 5.10 and later): arrays of different sizes fit one outer map.
const BPF_F_INNER_MAP: u32 = 1 << 12;

type Entries = LpmTrie<MapData, Plain<AddrWords>, u32>;
type Clauses = Array<MapData, Plain<Clause>>;

/// Where an installed policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installed {
    /// What a binding names.
    pub slot: u32,
    /// What records name.
    pub generation: u32,
}

/// The policy maps.
pub(crate) struct Policies {
    entries: ArrayOfMaps<MapData, Entries>,
    clauses: ArrayOfMaps<MapData, Clauses>,
    heads: Array<MapData, Plain<PolicyHead>>,
    installed: HashMap<Arc<CompiledPolicy>, Installed>,
}

impl Policies {
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            entries: loader::typed_map(ebpf, "ENTRIES")?,
            clauses: loader::typed_map(ebpf, "CLAUSES")?,
            heads: loader::typed_map(ebpf, "POLICIES")?,
            installed: HashMap::new(),
        })
    }

    pub(crate) fn install(&mut self, policy: &Arc<CompiledPolicy>) -> Result<Installed, KernelError> {
        if let Some(installed) = self.installed.get(policy) {
            return Ok(*installed);
        }
        // Slot 0 means "no policy" and generation 0 "none"; slots and generations are not given back yet,
        // because a controller that never changes its policy installs each once.
        let number = self.installed.len() + 1;
        let limit = self.heads.len() as usize;
        if number >= limit {
            return Err(KernelError::TooMany {
                what: "policies",
                count: number,
                limit: limit - 1,
            });
        }
        let number = number as u32;
        let installed = Installed {
            slot: number,
            generation: number,
        };

        let entries = fill_entries(policy).map_err(|e| failed("ENTRIES", "fill the prefixes", e))?;
        let clauses = fill_clauses(policy).map_err(|e| failed("CLAUSES", "fill the clauses", e))?;
        self.clauses
            .set(installed.generation, &clauses, 0)
            .map_err(|e| failed("CLAUSES", "publish a generation", e))?;
        self.entries
            .set(installed.generation, &entries, 0)
            .map_err(|e| failed("ENTRIES", "publish a generation", e))?;
        let head = PolicyHead {
            generation: installed.generation,
            reserved: 0,
        };
        self.heads
            .set(installed.slot, Plain(head), 0)
            .map_err(|e| failed("POLICIES", "point a slot at its generation", e))?;
        self.installed.insert(Arc::clone(policy), installed);
        Ok(installed)
    }

    /// Waits until every program run that has begun is over. The kernel does so whenever a map within a map is
    /// replaced (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c), for programs run under RCU. Generation 0 is
    /// none, and without clauses stays none.
    pub(crate) fn wait_for_programs(&mut self) -> Result<(), KernelError> {
        Entries::create(1, BPF_F_NO_PREALLOC)
            .and_then(|empty| self.entries.set(0, &empty, 0))
            .map_err(|e| failed("ENTRIES", "wait for running programs", e))
    }
}

fn failed(map: &'static str, operation: &'static str, source: MapError) -> KernelError {
    KernelError::Map {
        operation,
        map,
        source: Box::new(source),
    }
}

/// The flags must be those of the template the outer map was created with, or the kernel refuses the pair.
fn fill_entries(policy: &CompiledPolicy) -> Result<Entries, MapError> {
    let count = u32::try_from(policy.entries().len()).unwrap_or(u32::MAX).max(1);
    let mut map = Entries::create(count, BPF_F_NO_PREALLOC)?;
    for entry in policy.entries() {
        let words = words_from_octets(entry.prefix.network().octets());
        map.insert(
            &Key::new(u32::from(entry.prefix.prefix_len()), Plain(words)),
            entry.head,
            0,
        )?;
    }
    Ok(map)
}

fn fill_clauses(policy: &CompiledPolicy) -> Result<Clauses, MapError> {
    let count = u32::try_from(policy.clauses().len()).unwrap_or(u32::MAX).max(1);
    let mut map = Clauses::create(count, BPF_F_INNER_MAP)?;
    for (index, clause) in (0u32..).zip(policy.clauses()) {
        map.set(index, Plain(*clause), 0)?;
    }
    Ok(map)
}
