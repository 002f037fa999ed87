//! [`Binding`]: what a governed cgroup carries with it, in the kernel's cgroup storage.
//!
//! The value is found through the attachment, not through the calling task: the cgroup that counts is the
//! one the socket was created in, and a task can have moved since.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the [`Binding`] layout. A program that meets another one allows and counts it.
pub const LAYOUT_VERSION: u32 = 2;

/// Policy slot of a cgroup that has no policy yet: allow, and count apart.
pub const UNCONFIGURED: u32 = 0;

/// [`Binding::flags`]: a governed cgroup lies above this one and must yield to it.
pub const FLAG_HAS_OUTER: u8 = 1 << 0;
/// [`Binding::flags`]: a governed cgroup lies below this one; this one yields where that one has spoken.
pub const FLAG_HAS_INNER: u8 = 1 << 1;
/// [`Binding::flags`]: pass everything, count and report nothing; but take away what a governed cgroup below has marked.
pub const FLAG_OFF: u8 = 1 << 2;
/// [`Binding::flags`]: what a redirect has hidden may be kept of sockets of this cgroup, and must then be forgotten in time.
/// Where no policy ever redirected, nobody looks.
pub const FLAG_REDIRECTS: u8 = 1 << 3;

/// Which connects are reported as events. Applied in the kernel, so an unwanted event costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EventsWanted {
    /// None.
    None = 0,
    /// Those that are rejected or redirected, or would be in audit mode.
    Acted = 1,
    /// Every connect of a governed cgroup.
    All = 2,
}

/// The value in cgroup storage: 64 bytes, shared by all programs at a cgroup, replaced whole by one update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Binding {
    /// [`LAYOUT_VERSION`], or 0 in a value nobody has written yet.
    pub layout_version: u32,
    /// Slot of the policy that governs, or [`UNCONFIGURED`].
    pub policy_slot: u32,
    /// The governed cgroup's own identifier: the inode number of its directory.
    pub cgroup_id: u64,
    /// Index of the target in the controller's table, and of its counters. 0 is kept for unconfigured cgroups.
    pub target: u32,
    /// A [`Mode`](crate::decide::Mode) as its number.
    pub mode: u8,
    /// `FLAG_*`.
    pub flags: u8,
    /// An [`EventsWanted`] as its number.
    pub events: u8,
    /// Zero.
    pub reserved_a: u8,
    /// The lists of canaries that name the target, as bits: bit n is list n + 1 of
    /// [`Clause::canaries`](crate::clause::Clause::canaries).
    pub canaries: u64,
    /// What rollouts by target hash: the [`text_hash`](crate::clause::text_hash) of the target's name.
    pub rollout_key: u32,
    /// Zero.
    pub reserved_b: u32,
    /// Zero, which the kernel's verifier cannot know: see [`Circumstances::opaque`](crate::decide::Circumstances::opaque).
    pub zero: u64,
    /// Zero: room for later versions of this layout, so that the map's value size never changes.
    pub reserved_c: [u64; 2],
}

const _: () = assert!(size_of::<Binding>() == 64 && align_of::<Binding>() == 8);

/// What a policy slot points to. 8 bytes in an array map, so that an update is one store and every connect
/// sees either the old policy or the new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct PolicyHead {
    /// Index into the two arrays of inner maps (entries and clauses) of the compiled policy in force; 0 is
    /// none.
    pub generation: u32,
    /// The same of its overlay: what changes often, such as the answers to names. 0 is none.
    pub overlay: u32,
}

const _: () = assert!(size_of::<PolicyHead>() == 8);

impl PolicyHead {
    /// The value that one load of 8 bytes gives: base and overlay of one moment.
    #[must_use]
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        zerocopy::transmute!(word)
    }
}
