//! Every map of the programs, each beside the only functions that touch it.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, bpf_map_def, bpf_map_type::BPF_MAP_TYPE_CGROUP_STORAGE_DEPRECATED},
    btf_maps::{Array, ArrayOfMaps, LpmTrie, PerCpuArray, RingBuf, SkStorage, lpm_trie::Key},
    helpers::bpf_get_local_storage,
    macros::btf_map,
    programs::SockAddrContext,
};
use enforcer_common::{
    address::AddrWords,
    binding::{Binding, PolicyHead},
    clause::{Clause, IN_OVERLAY, MAX_CGROUPS, NO_ENTRY},
    counters::Counters,
    decide::PolicyTable,
    record::ConnectRecord,
};

/// Policies that can be in force at once: one for each cgroup, and slot 0, which is no policy.
const POLICY_SLOTS: usize = MAX_CGROUPS as usize + 1;

/// Compiled policies and overlays that can exist at once: each slot's current ones, and those being built beside them.
const GENERATIONS: usize = 4 * POLICY_SLOTS;

/// The smallest legacy map definition that aya's loader takes. Its own cgroup storage type has the longer
/// key (cgroup, attach type), with which each hook would have a value of its own; with a `u64` key, the
/// cgroup id, all our programs at a cgroup share one (Linux 5.9, `Documentation/bpf/map_cgroup_storage.rst`).
#[repr(transparent)]
struct CgroupStorageDef(bpf_map_def);

// SAFETY: the definition is never read or written by the program; it stands for the map's address.
unsafe impl Sync for CgroupStorageDef {}

// A section of its own (the loader takes every name that begins with "maps"): aya-log's map lies in "maps", and
// two variables from different compilation units in one section get overlapping offsets in BTF, which the
// kernel then refuses whole.
#[unsafe(link_section = "maps.bindings")]
#[unsafe(no_mangle)]
static BINDINGS: CgroupStorageDef = CgroupStorageDef(bpf_map_def {
    type_: BPF_MAP_TYPE_CGROUP_STORAGE_DEPRECATED,
    key_size: size_of::<u64>() as u32,
    value_size: size_of::<Binding>() as u32,
    max_entries: 0,
    map_flags: 0,
    id: 0,
    pinning: 0,
});

/// The binding of the cgroup this program instance is attached to. All zeroes until the controller writes it.
#[inline(always)]
pub(crate) fn binding() -> &'static Binding {
    // SAFETY: the address of a map definition is what the loader relocates to the map.
    let value = unsafe { bpf_get_local_storage((&raw const BINDINGS).cast_mut().cast(), 0) };
    // SAFETY: the kernel returns a non-null pointer to a value of the map's size, aligned to 8, valid while
    // the program runs; an update from user space replaces the whole value and frees the old one after RCU.
    unsafe { &*value.cast::<Binding>() }
}

#[btf_map]
static POLICIES: Array<PolicyHead, POLICY_SLOTS> = Array::new();

#[btf_map]
static ENTRIES: ArrayOfMaps<Entries, GENERATIONS> = ArrayOfMaps::new();

/// A clause as BTF describes it to the kernel.
///
/// KERNEL 6.1: an inner map fits only if it agrees with the template on the offset of a timer in the value, and "no
/// timer" is another number for a value with BTF of a struct (ENOENT) than for one without (EINVAL;
/// `btf_find_timer`, kernel/bpf/btf.c). The controller creates inner maps without BTF; for an array the two agree.
type ClauseWords = [u32; size_of::<Clause>() / size_of::<u32>()];

type Clauses = Array<ClauseWords, 1, { BPF_F_INNER_MAP as usize }>;

#[btf_map]
static CLAUSES: ArrayOfMaps<Clauses, GENERATIONS> = ArrayOfMaps::new();

type Entries = LpmTrie<AddrWords, u32, 1>;

/// The maps of one generation.
struct Layer {
    entries: &'static Entries,
    clauses: &'static Clauses,
}

/// The compiled policy in a slot, as [`PolicyTable`].
pub(crate) struct KernelTable {
    generation: u32,
    base: Layer,
    /// The base again where there is no overlay: the verifier then sees one thing on both paths.
    overlay: Layer,
    has_overlay: bool,
}

/// The policy in that slot, or `None` where there is none.
#[inline(always)]
pub(crate) fn policy(slot: u32) -> Option<KernelTable> {
    let head = *POLICIES.get(slot)?;
    Some(KernelTable {
        generation: head.generation,
        base: layer(head.generation)?,
        overlay: layer(if head.overlay == 0 {
            head.generation
        } else {
            head.overlay
        })?,
        has_overlay: head.overlay != 0,
    })
}

#[inline(always)]
fn layer(generation: u32) -> Option<Layer> {
    Some(Layer {
        entries: ENTRIES.get(generation)?,
        clauses: CLAUSES.get(generation)?,
    })
}

impl Layer {
    #[inline(always)]
    fn entry(&self, daddr_be: &AddrWords) -> u32 {
        let key = Key::new(128, *daddr_be);
        // The maps of a published generation are never written again: the value cannot change under the read.
        self.entries.get(&key).copied().unwrap_or(NO_ENTRY)
    }

    #[inline(always)]
    fn clause(&self, index: u32) -> Option<&Clause> {
        let words = self.clauses.get_ptr(index)?;
        // SAFETY: a clause is made of as many words as an element has, elements are aligned to 8, and any words are a
        // clause (`FromBytes`). The maps of a published generation are never written again.
        Some(unsafe { &*words.cast::<Clause>() })
    }
}

impl KernelTable {
    #[inline(always)]
    pub(crate) const fn generation(&self) -> u32 {
        self.generation
    }
}

impl PolicyTable for KernelTable {
    #[inline(always)]
    fn base_entry(&self, daddr_be: &AddrWords) -> u32 {
        self.base.entry(daddr_be)
    }

    #[inline(always)]
    fn overlay_entry(&self, daddr_be: &AddrWords) -> u32 {
        if self.has_overlay {
            self.overlay.entry(daddr_be)
        } else {
            NO_ENTRY
        }
    }

    #[inline(always)]
    fn clause(&self, index: u32) -> Option<&Clause> {
        let layer = if index & IN_OVERLAY == 0 {
            &self.base
        } else {
            &self.overlay
        };
        layer.clause(index & !IN_OVERLAY)
    }
}

/// The words of every target's [`Counters`], one after the other. A target's words are elements of their own, not one
/// element that is indexed into.
///
/// VERIFIER 6.12 and newer, without CAP_PERFMON: adding to a pointer what is one number on one path and another on the next is
/// refused ("R2 tried to add from different maps, paths or scalars, pointer arithmetic with it prohibited").
#[btf_map]
static COUNTERS: PerCpuArray<u64, { (MAX_CGROUPS as usize + 1) * Counters::WORDS }> = PerCpuArray::new();

/// This CPU's counters of a target.
pub(crate) struct CpuCounters {
    first: u32,
}

/// This CPU's counters of a target.
#[inline(always)]
pub(crate) fn counters(target: u32) -> CpuCounters {
    CpuCounters {
        first: target.wrapping_mul(Counters::WORDS as u32),
    }
}

impl CpuCounters {
    /// Adds one to a word of [`Counters`]; to nothing where there is no such target.
    ///
    /// Atomically: migration is disabled while a program runs, but on a preemptible kernel another thread's
    /// connect can run on this CPU between load and store, and a plain increment would be lost.
    #[inline(always)]
    pub(crate) fn increment(&self, word: usize) {
        if let Some(counter) = COUNTERS.get_ptr_mut(self.first.wrapping_add(word as u32)) {
            // SAFETY: the pointer is to this CPU's value; programs access it in no other way.
            unsafe { atomic_xadd::<_, _, { AtomicOrdering::Relaxed }>(counter, 1_u64) };
        }
    }
}

#[btf_map]
static EVENTS: RingBuf<ConnectRecord, { 1 << 20 }> = RingBuf::new();

/// Room for one record, or `None` when the ring buffer is full.
#[inline(always)]
pub(crate) fn reserve_event() -> Option<aya_ebpf::maps::ring_buf::RingBufEntry<ConnectRecord>> {
    EVENTS.reserve(0)
}

/// Which sockets an inner target has spoken for in the connect that is running.
#[btf_map]
static SPOKEN: SkStorage<u32> = SkStorage::new();

/// Leaves the mark that makes the governed cgroups above yield. `false` where socket storage is exhausted.
#[inline(always)]
pub(crate) fn mark_spoken(context: &SockAddrContext) -> bool {
    // SAFETY: the context is the one the kernel passed; the verifier checks the socket pointer in it.
    let mark = unsafe { SPOKEN.get_or_insert_ptr_mut(context, None) };
    if mark.is_null() {
        return false;
    }
    // SAFETY: non-null, and the socket is locked by the kernel while this program runs, so nobody else
    // writes.
    unsafe { *mark = 1 };
    true
}

/// Whether an inner target has spoken for this connect; with `consume`, also takes the mark away.
#[inline(always)]
pub(crate) fn spoken(context: &SockAddrContext, consume: bool) -> bool {
    // SAFETY: as in `mark_spoken`.
    let mark = unsafe { SPOKEN.get_ptr_mut(context) };
    if mark.is_null() {
        return false;
    }
    // SAFETY: as in `mark_spoken`.
    let marked = unsafe { *mark } != 0;
    if consume {
        // SAFETY: as in `mark_spoken`.
        unsafe { *mark = 0 };
    }
    marked
}
