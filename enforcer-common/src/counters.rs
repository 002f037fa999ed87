//! [`Counters`]: what the programs count per target, on each CPU.

use core::hint::black_box;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{clause::Action, decide::Mode};

/// Everything unexpected a program can meet. Each is allowed and counted: fail open, loudly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Fault {
    /// The cgroup's storage holds no binding yet.
    Unconfigured = 0,
    /// The cgroup's storage holds a binding of another layout version, or values this program does not know.
    BindingUnknown = 1,
    /// The policy slot points at nothing.
    PolicyMissing = 2,
    /// A clause list names a clause that does not exist.
    ClauseMissing = 3,
    /// A clause holds an action that does not exist.
    ActionUnknown = 4,
    /// A clause list is longer than the bound.
    WalkTooLong = 5,
    /// Socket storage could not be had for the mark that makes an outer target yield; the outer target
    /// judged the connect again.
    MarkFailed = 6,
}

impl Fault {
    /// How many faults there are; they number 0, 1, … below it.
    pub const COUNT: usize = 7;

    /// All of them, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Unconfigured,
        Self::BindingUnknown,
        Self::PolicyMissing,
        Self::ClauseMissing,
        Self::ActionUnknown,
        Self::WalkTooLong,
        Self::MarkFailed,
    ];

    /// Its name in summaries and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unconfigured => "unconfigured",
            Self::BindingUnknown => "binding_unknown",
            Self::PolicyMissing => "policy_missing",
            Self::ClauseMissing => "clause_missing",
            Self::ActionUnknown => "action_unknown",
            Self::WalkTooLong => "walk_too_long",
            Self::MarkFailed => "mark_failed",
        }
    }
}

/// Per-CPU counters of one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counters {
    /// Connects by mode and by what was done. The sum is what the programs saw.
    pub verdicts: [[u64; Action::COUNT]; Mode::COUNT],
    /// Connects by what would have been done. Never summed with `verdicts`.
    pub would: [u64; Action::COUNT],
    /// Events put into the ring buffer.
    pub events: u64,
    /// Events wanted that found the ring buffer full.
    pub lost: u64,
    /// Faults, by [`Fault`].
    pub faults: [u64; Fault::COUNT],
}

const _: () = assert!(size_of::<Counters>() == 8 * (6 + 3 + 2 + Fault::COUNT));

// VERIFIER all: a compiler that knows an index from an enum's range leaves its bounds check out, and a verifier
// that lost that range (a one-byte spill to the stack) then refuses the access ("R0 max value is outside of the
// allowed memory range"). Indexing by `[]` may instead keep a panic branch ("last insn is not an exit or jmp").
// So each index is made opaque to the compiler and checked by `get_mut`.
impl Counters {
    /// Counts one decision: what was done, and what would have been.
    #[inline(always)]
    pub fn count(&mut self, mode: Mode, verdict: Action, would: Option<Action>) {
        let flat = self.verdicts.as_flattened_mut();
        if let Some(count) = flat.get_mut(black_box(mode as usize * Action::COUNT + verdict as usize)) {
            *count += 1;
        }
        if let Some(would) = would
            && let Some(count) = self.would.get_mut(black_box(would as usize))
        {
            *count += 1;
        }
    }

    /// Counts one fault.
    #[inline(always)]
    pub fn count_fault(&mut self, fault: Fault) {
        if let Some(count) = self.faults.get_mut(black_box(fault as usize)) {
            *count += 1;
        }
    }

    /// Adds the counters of another CPU, or of another target.
    pub fn add(&mut self, other: &Self) {
        let Self {
            verdicts,
            would,
            events,
            lost,
            faults,
        } = self;
        let pairs = verdicts
            .as_flattened_mut()
            .iter_mut()
            .chain(would)
            .chain(faults)
            .chain([events, lost])
            .zip(
                other
                    .verdicts
                    .as_flattened()
                    .iter()
                    .chain(&other.would)
                    .chain(&other.faults)
                    .chain([&other.events, &other.lost]),
            );
        for (mine, theirs) in pairs {
            *mine = mine.wrapping_add(*theirs);
        }
    }

    /// Connects the programs saw.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.verdicts.as_flattened().iter().sum()
    }

    /// Connects with that verdict, in either mode.
    #[must_use]
    pub const fn done(&self, verdict: Action) -> u64 {
        self.verdicts[0][verdict as usize] + self.verdicts[1][verdict as usize]
    }

    /// How often that fault was met.
    #[must_use]
    pub const fn fault(&self, fault: Fault) -> u64 {
        self.faults[fault as usize]
    }
}
