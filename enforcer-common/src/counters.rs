//! [`Counters`]: what the programs count per target, on each CPU.

use core::mem::offset_of;

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
    /// Socket storage could not be had for what the application asked for: the connect was redirected, and the
    /// application can see where to.
    MemoFailed = 7,
}

impl Fault {
    /// How many faults there are; they number 0, 1, … below it.
    pub const COUNT: usize = 8;

    /// All of them, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Unconfigured,
        Self::BindingUnknown,
        Self::PolicyMissing,
        Self::ClauseMissing,
        Self::ActionUnknown,
        Self::WalkTooLong,
        Self::MarkFailed,
        Self::MemoFailed,
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
            Self::MemoFailed => "memo_failed",
        }
    }
}

/// Per-CPU counters of one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counters {
    /// Connects, and datagrams of unconnected sockets, by mode and by what was done. The sum is what the programs saw.
    pub verdicts: [[u64; Action::COUNT]; Mode::COUNT],
    /// Connects by what would have been done. Never summed with `verdicts`.
    pub would: [u64; Action::COUNT],
    /// Connects that some rule would have decided if its rollout included them.
    pub left_out: u64,
    /// Connects to addresses that a rule's name is known to have.
    pub name_hits: u64,
    /// Connects to other addresses in the same /48s.
    pub name_misses: u64,
    /// Events put into the ring buffer.
    pub events: u64,
    /// Events wanted that found the ring buffer full.
    pub lost: u64,
    /// Datagrams for which an event was wanted and is there already: that of an earlier one of the same socket, to the
    /// same destination, with the same verdict.
    pub repeated: u64,
    /// Faults, by [`Fault`].
    pub faults: [u64; Fault::COUNT],
}

const _: () = assert!(size_of::<Counters>() == 8 * (6 + 3 + 3 + 3 + Fault::COUNT));

/// The programs count by word, because an increment there must be one atomic instruction on memory: these say
/// which word is whose.
impl Counters {
    /// How many 64-bit words they are.
    pub const WORDS: usize = size_of::<Self>() / size_of::<u64>();
    /// Word of [`left_out`](Self::left_out).
    pub const LEFT_OUT: usize = offset_of!(Self, left_out) / size_of::<u64>();
    /// Word of [`name_hits`](Self::name_hits).
    pub const NAME_HITS: usize = offset_of!(Self, name_hits) / size_of::<u64>();
    /// Word of [`name_misses`](Self::name_misses).
    pub const NAME_MISSES: usize = offset_of!(Self, name_misses) / size_of::<u64>();
    /// Word of [`events`](Self::events).
    pub const EVENTS: usize = offset_of!(Self, events) / size_of::<u64>();
    /// Word of [`lost`](Self::lost).
    pub const LOST: usize = offset_of!(Self, lost) / size_of::<u64>();
    /// Word of [`repeated`](Self::repeated).
    pub const REPEATED: usize = offset_of!(Self, repeated) / size_of::<u64>();

    /// Word of [`verdicts`](Self::verdicts) that counts this.
    #[must_use]
    #[inline(always)]
    pub const fn verdict_word(mode: Mode, verdict: Action) -> usize {
        offset_of!(Self, verdicts) / size_of::<u64>() + mode as usize * Action::COUNT + verdict as usize
    }

    /// Word of [`would`](Self::would) that counts this.
    #[must_use]
    #[inline(always)]
    pub const fn would_word(would: Action) -> usize {
        offset_of!(Self, would) / size_of::<u64>() + would as usize
    }

    /// Word of [`faults`](Self::faults) that counts this.
    #[must_use]
    #[inline(always)]
    pub const fn fault_word(fault: Fault) -> usize {
        offset_of!(Self, faults) / size_of::<u64>() + fault as usize
    }

    /// Adds the counters of another CPU, or of another target.
    pub fn add(&mut self, other: &Self) {
        let mine: &mut [u64; Self::WORDS] = zerocopy::transmute_mut!(self);
        let theirs: &[u64; Self::WORDS] = zerocopy::transmute_ref!(other);
        for (mine, theirs) in mine.iter_mut().zip(theirs) {
            *mine = mine.wrapping_add(*theirs);
        }
    }

    /// What was counted since they were those.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut counted = *self;
        let mine: &mut [u64; Self::WORDS] = zerocopy::transmute_mut!(&mut counted);
        let theirs: &[u64; Self::WORDS] = zerocopy::transmute_ref!(earlier);
        for (mine, theirs) in mine.iter_mut().zip(theirs) {
            *mine = mine.wrapping_sub(*theirs);
        }
        counted
    }

    /// Connects the programs saw, and datagrams of unconnected sockets.
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

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;

    /// Counters in which that word alone is 1.
    fn with(word: usize) -> Counters {
        let mut counters = Counters::default();
        counters.as_mut_bytes()[word * size_of::<u64>()..][..size_of::<u64>()]
            .copy_from_slice(&1_u64.to_ne_bytes());
        counters
    }

    #[test]
    fn words_are_those_of_the_fields() {
        assert_eq!(with(Counters::LEFT_OUT).left_out, 1);
        assert_eq!(with(Counters::NAME_HITS).name_hits, 1);
        assert_eq!(with(Counters::NAME_MISSES).name_misses, 1);
        assert_eq!(with(Counters::EVENTS).events, 1);
        assert_eq!(with(Counters::LOST).lost, 1);
        assert_eq!(with(Counters::REPEATED).repeated, 1);
        for action in [Action::Allow, Action::Reject, Action::Redirect] {
            for mode in [Mode::Enforce, Mode::Audit] {
                let counters = with(Counters::verdict_word(mode, action));
                assert_eq!(counters.verdicts[mode as usize][action as usize], 1);
            }
            assert_eq!(with(Counters::would_word(action)).would[action as usize], 1);
        }
        for fault in Fault::ALL {
            assert_eq!(with(Counters::fault_word(fault)).fault(fault), 1);
        }
        assert_eq!(Counters::fault_word(Fault::MemoFailed), Counters::WORDS - 1);
    }
}
