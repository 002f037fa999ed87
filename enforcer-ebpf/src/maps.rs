//! Every map of the programs, each beside the only functions that touch it.

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering, atomic_xadd},
};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_INNER_MAP, bpf_map_def, bpf_map_type::BPF_MAP_TYPE_CGROUP_STORAGE_DEPRECATED},
    btf_maps::{Array, ArrayOfMaps, LruHashMap, PerCpuArray, RingBuf, SkStorage},
    helpers::bpf_get_local_storage,
    macros::btf_map,
    programs::SockAddrContext,
};
use enforcer_common::{
    address::{self, AddrWords},
    binding::{Binding, PolicyHead},
    blocks::{self, Block, Blocks, DAMAGED},
    clause::{Clause, IN_OVERLAY, MAX_CGROUPS, NO_ENTRY},
    counters::Counters,
    decide::PolicyTable,
    record::{ConnectRecord, DatagramKey},
};

use crate::sock_addr::{self, Asked};

/// Policies that can exist at once: one for each cgroup, as many that are being built beside them, and slot 0, which is
/// no policy.
const POLICY_SLOTS: usize = 2 * MAX_CGROUPS as usize + 1;

/// Compiled policies and overlays that can exist at once: two for each slot, one pair that is being built beside them, and
/// generation 0, which is none.
const GENERATIONS: usize = 2 * POLICY_SLOTS + 2;

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

/// A block or a clause as BTF describes it to the kernel.
///
/// KERNEL 6.1: an inner map fits only if it agrees with the template on the offset of a timer in the value, and "no
/// timer" is another number for a value with BTF of a struct (ENOENT) than for one without (EINVAL;
/// `btf_find_timer`, kernel/bpf/btf.c). The controller creates inner maps without BTF; for an array the two agree.
type Line = [u32; 16];

const _: () = assert!(size_of::<Block>() == size_of::<Line>() && size_of::<Clause>() == size_of::<Line>());

type Entries = Array<Line, 1, { BPF_F_INNER_MAP as usize }>;

#[btf_map]
static ENTRIES: ArrayOfMaps<Entries, GENERATIONS> = ArrayOfMaps::new();

type Clauses = Array<Line, 1, { BPF_F_INNER_MAP as usize }>;

#[btf_map]
static CLAUSES: ArrayOfMaps<Clauses, GENERATIONS> = ArrayOfMaps::new();

/// The compiled policy in a slot, as [`PolicyTable`]. Maps are looked up where they are needed: most connects need two.
pub(crate) struct KernelTable {
    generation: u32,
    /// 0 where there is none.
    overlay: u32,
}

/// The policy in that slot, or `None` where there is none.
#[inline(always)]
pub(crate) fn policy(slot: u32, binding: &Binding) -> Option<KernelTable> {
    let head = POLICIES.get_ptr(slot)?;
    // SAFETY: the pointer is to an element of 8 bytes, aligned to 8, which the controller may replace at any time. One
    // volatile load of all of it: the compiler would make two of 4 bytes, and base and overlay could be of different
    // moments.
    let head = PolicyHead::from_word(unsafe { head.cast::<u64>().read_volatile() });
    (head.generation != 0).then_some(KernelTable {
        generation: opaque(binding, head.generation.into()) as u32,
        overlay: opaque(binding, head.overlay.into()) as u32,
    })
}

/// See [`Circumstances::opaque`](enforcer_common::decide::Circumstances::opaque).
#[inline(always)]
pub(crate) fn opaque(binding: &Binding, mut number: u64) -> u64 {
    // SAFETY: the reference is to a value in a map, which the controller may replace but not write to. It is read each time,
    // because what the verifier learns of one reading by a comparison, it knows of all uses of that reading.
    let zero = unsafe { (&raw const binding.zero).read_volatile() };
    // SAFETY: exclusive or of two registers. In assembler, because the compiler would do without it in comparisons; and not
    // `pure`, because it would be done later, behind what should not be followed twice.
    unsafe { asm!("{0} ^= {1}", inout(reg) number, in(reg) zero, options(nomem, nostack)) };
    number
}

/// The prefixes of one generation.
struct Prefixes(&'static Entries);

impl Blocks for Prefixes {
    #[inline(always)]
    fn block(&self, number: u32) -> Option<&Block> {
        let words = self.0.get_ptr(number)?;
        // SAFETY: a block is made of as many words as an element has, elements are aligned to 8, and any words are a
        // block (`FromBytes`). The maps of a published generation are never written again.
        Some(unsafe { &*words.cast::<Block>() })
    }
}

#[inline(always)]
fn entry(generation: u32, daddr_be: &AddrWords) -> u32 {
    match ENTRIES.get(generation) {
        Some(entries) => blocks::find(&Prefixes(entries), daddr_be),
        None => DAMAGED,
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
        entry(self.generation, daddr_be)
    }

    #[inline(always)]
    fn overlay_entry(&self, daddr_be: &AddrWords) -> u32 {
        if self.overlay == 0 {
            NO_ENTRY
        } else {
            entry(self.overlay, daddr_be)
        }
    }

    #[inline(always)]
    fn clause(&self, index: u32) -> Option<&Clause> {
        // Computed rather than branched on: the verifier would follow what is done with the clause once for each of two maps.
        let in_overlay = (index >> IN_OVERLAY.trailing_zeros() & 1).wrapping_neg();
        let generation = self.generation ^ (self.generation ^ self.overlay) & in_overlay;
        let words = CLAUSES.get(generation)?.get_ptr(index & !IN_OVERLAY)?;
        // SAFETY: as for blocks, of which a clause differs in nothing that counts here.
        Some(unsafe { &*words.cast::<Clause>() })
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

/// How many combinations of socket, destination and verdict have their datagrams counted. Past that the one that was
/// quiet for longest is forgotten, and gets a new event when it sends again.
const DATAGRAM_KEYS: usize = 8_192;

#[btf_map]
static DATAGRAMS: LruHashMap<DatagramKey, u64, DATAGRAM_KEYS> = LruHashMap::new();

/// Counts a datagram where one of its kind has become an event; `false` where none has.
#[inline(always)]
pub(crate) fn datagram_repeats(key: &DatagramKey) -> bool {
    let Some(count) = DATAGRAMS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: the pointer is to a value that stays in place while the program runs; it can at worst be reused for
    // another key meanwhile, whose count is then one too high. Programs access it in no other way.
    unsafe { atomic_xadd::<_, _, { AtomicOrdering::Relaxed }>(count, 1_u64) };
    true
}

/// Begins to count the datagrams of that kind: one has become an event.
#[inline(always)]
pub(crate) fn datagram_told(key: &DatagramKey) {
    // Where there is no room, the next one becomes an event again: one too many rather than none.
    let _ = DATAGRAMS.insert(key, 1, BPF_ANY.into());
}

/// What is kept of a socket for as long as it lives. Ports are in host byte order.
#[repr(C)]
struct SocketState {
    /// What the application asked for, where `redirected` is set.
    asked_be: AddrWords,
    /// Where its connect went.
    went_be: AddrWords,
    asked_port: u32,
    went_port: u32,
    /// 1 from a redirect until a connect that goes to the same place without one.
    redirected: u32,
    /// 1 where an inner target has spoken for the call that is running.
    spoken: u32,
}

/// Only sockets that were redirected or that nested targets govern are in here. A socket's value goes with it.
#[btf_map]
static SOCKETS: SkStorage<SocketState> = SkStorage::new();

/// What is kept of the socket, or `None` where nothing is.
#[inline(always)]
fn socket_state(context: &SockAddrContext) -> Option<&'static mut SocketState> {
    // SAFETY: the context is the one the kernel passed; the verifier checks the socket pointer in it.
    let state = unsafe { SOCKETS.get_ptr_mut(context) };
    // SAFETY: the value lives as long as the socket, and the socket is locked by the kernel while any program of ours
    // runs, so nobody else writes.
    unsafe { state.as_mut() }
}

/// The same, making one of zeroes where there is none; `None` where socket storage is exhausted.
#[inline(always)]
fn new_socket_state(context: &SockAddrContext) -> Option<&'static mut SocketState> {
    // SAFETY: as in `socket_state`.
    let state = unsafe { SOCKETS.get_or_insert_ptr_mut(context, None) };
    // SAFETY: as in `socket_state`.
    unsafe { state.as_mut() }
}

/// Leaves the mark that makes the governed cgroups above yield. `false` where socket storage is exhausted.
#[inline(always)]
pub(crate) fn mark_spoken(context: &SockAddrContext) -> bool {
    match new_socket_state(context) {
        Some(state) => {
            state.spoken = 1;
            true
        }
        None => false,
    }
}

/// Whether an inner target has spoken for this call; with `consume`, also takes the mark away.
#[inline(always)]
pub(crate) fn spoken(context: &SockAddrContext, consume: bool) -> bool {
    let Some(state) = socket_state(context) else {
        return false;
    };
    let marked = state.spoken != 0;
    if consume {
        state.spoken = 0;
    }
    marked
}

/// Keeps what the application asked for and where its connect goes instead, the port in host byte order. `false` where
/// socket storage is exhausted.
#[inline(always)]
pub(crate) fn keep_asked(
    context: &SockAddrContext,
    asked: &Asked,
    went_be: &AddrWords,
    went_port: u16,
) -> bool {
    let Some(state) = new_socket_state(context) else {
        return false;
    };
    state.asked_be = asked.daddr_be;
    state.went_be = *went_be;
    state.asked_port = u32::from(asked.dport);
    state.went_port = u32::from(went_port);
    state.redirected = 1;
    true
}

/// The socket is being connected to the IPv6 address in the call, and nothing of that is to be hidden: if it is where a
/// redirect led, what was kept of that is no longer true.
///
/// If it is another, what was kept shows nothing either, as long as the peer is another. But the connect can still fail
/// (a UDP socket whose redirect bound it to IPv4 gets EAFNOSUPPORT for every other IPv6 address), and then the
/// kernel keeps the peer that the socket has.
#[inline(always)]
pub(crate) fn forget_asked(context: &SockAddrContext) {
    if let Some(state) = socket_state(context)
        && (sock_addr::has_address(context, &state.went_be, state.went_port as u16)
            || sock_addr::is_to_this_host(context))
    {
        state.redirected = 0;
    }
}

/// As [`forget_asked`], for a call with an IPv4 address.
#[inline(always)]
pub(crate) fn forget_asked_ipv4(context: &SockAddrContext) {
    if let Some(state) = socket_state(context) {
        let addr_be = sock_addr::ipv4_be(context);
        // 0.0.0.0 is this host: the kernel chooses an address afterwards.
        if addr_be == 0 || address::ipv4_mapped(addr_be) == state.went_be {
            state.redirected = 0;
        }
    }
}

/// Replaces the address of the call by the one asked for, if it is where enforcer redirected this socket to. Twice is
/// as good as once: nested targets each do it.
#[inline(always)]
pub(crate) fn show_asked(context: &SockAddrContext) {
    if let Some(state) = socket_state(context)
        && state.redirected != 0
        && sock_addr::has_address(context, &state.went_be, state.went_port as u16)
    {
        sock_addr::set_address(context, &state.asked_be, state.asked_port as u16);
    }
}
