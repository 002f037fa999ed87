//! [`decide`]: what happens to one connect. All precedence lives here and in the order the policy compiler
//! gives the clauses; nowhere else.

mod walk;

use crate::{
    address::{self, AddrWords},
    clause::{Action, Clause, DestinationForm, MAX_CHOICES, NO_CLAUSE, NO_RULE, rollout_hash},
};

pub use self::walk::{Walked, walk};

/// Whether a governed cgroup's policy acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Verdicts are carried out.
    Enforce = 0,
    /// Everything but carrying out: connects go on, and what would have been done is reported.
    Audit = 1,
}

impl Mode {
    /// How many modes there are; they number 0, 1, … below it.
    pub const COUNT: usize = 2;

    /// The mode with that number, or `None` if it is none.
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Enforce),
            1 => Some(Self::Audit),
            _ => None,
        }
    }
}

/// One connect: what the application asked for, and the mode it is judged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Destination address, each word in network byte order.
    pub daddr_be: AddrWords,
    /// Destination port, host byte order.
    pub dport: u16,
    /// The socket's protocol number, as in `IPPROTO_*`; 16 bits because MPTCP is 262.
    pub protocol: u16,
    /// Mode of the governed cgroup.
    pub mode: Mode,
    /// What rollouts by target hash, see [`Binding::rollout_key`](crate::binding::Binding::rollout_key).
    pub rollout_key: u32,
    /// The canary lists that name the target, see [`Binding::canaries`](crate::binding::Binding::canaries).
    pub canaries: u64,
}

impl Connect {
    /// A connect of a target without a name, which no canary list names.
    #[must_use]
    pub const fn new(daddr_be: AddrWords, dport: u16, protocol: u16, mode: Mode) -> Self {
        Self {
            daddr_be,
            dport,
            protocol,
            mode,
            rollout_key: 0,
            canaries: 0,
        }
    }
}

/// Why a socket cannot be moved to IPv4, or a datagram to anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Unmovable {
    /// A ping socket: its protocol exists in one family only.
    Ping = 1,
    /// Bound to an IPv6 address.
    Bound = 2,
    /// `IPV6_V6ONLY` is set (RFC 3493 section 5.3).
    V6Only = 3,
    /// A datagram of an unconnected socket: no kernel sends it to IPv4, and an answer from anywhere but where it was
    /// sent to is no answer to whoever sent it.
    Unconnected = 4,
}

impl Unmovable {
    /// The reason with that number; 0 and unknown numbers are none.
    #[must_use]
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Ping),
            2 => Some(Self::Bound),
            3 => Some(Self::V6Only),
            4 => Some(Self::Unconnected),
            _ => None,
        }
    }
}

/// What the decision may ask of caller and socket. It asks only where a clause makes it matter, because each answer costs
/// the kernel side a call.
pub trait Circumstances {
    /// Why this socket cannot be moved to IPv4, or `None` if it can (or if that cannot be seen).
    fn unmovable(&self) -> Option<Unmovable>;

    /// Whether what is judged is a datagram of an unconnected socket, which cannot be moved to anywhere.
    #[inline(always)]
    fn sends_unconnected(&self) -> bool {
        false
    }

    /// Real user of the calling thread, as the initial user namespace numbers users.
    fn uid(&self) -> u32;

    /// Thread group of the calling thread, as the initial process namespace numbers it.
    fn process(&self) -> u32;

    /// A number of the socket's own.
    fn socket(&self) -> u32;

    /// Nanoseconds on CLOCK_BOOTTIME; never [`NEVER`](crate::clause::NEVER).
    fn boot_ns(&self) -> u64;

    /// The same number, made such that the kernel's verifier knows nothing of it. It follows each value that it knows on a
    /// path of its own, to the end of the program; where several ways of deciding something come together again, what they
    /// decided goes through this.
    #[inline(always)]
    fn opaque(&self, number: u64) -> u64 {
        number
    }
}

/// Circumstances that are at hand: what a person asks about, rather than what the kernel sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Why the socket cannot be moved to IPv4, if it cannot.
    pub unmovable: Option<Unmovable>,
    /// Real user.
    pub uid: u32,
    /// Thread group.
    pub process: u32,
    /// A number of the socket's own.
    pub socket: u32,
    /// Nanoseconds on CLOCK_BOOTTIME.
    pub boot_ns: u64,
}

impl Circumstances for Known {
    fn unmovable(&self) -> Option<Unmovable> {
        self.unmovable
    }

    fn sends_unconnected(&self) -> bool {
        self.unmovable == Some(Unmovable::Unconnected)
    }

    fn uid(&self) -> u32 {
        self.uid
    }

    fn process(&self) -> u32 {
        self.process
    }

    fn socket(&self) -> u32 {
        self.socket
    }

    fn boot_ns(&self) -> u64 {
        self.boot_ns
    }
}

/// A compiled policy, as maps in the kernel and as slices everywhere else.
///
/// Entries are found in two layers: the base, and an overlay of what changes often. Indices of the overlay's clauses
/// have [`IN_OVERLAY`](crate::clause::IN_OVERLAY) set.
pub trait PolicyTable {
    /// The [`entry_value`](crate::clause::entry_value) of the base's longest prefix that covers the address, or
    /// [`NO_ENTRY`](crate::clause::NO_ENTRY). The head in it is [`NO_CLAUSE`] for a barrier
    /// ([`EXEMPT_PREFIXES`](address::EXEMPT_PREFIXES)).
    fn base_entry(&self, daddr_be: &AddrWords) -> u32;

    /// The same of the overlay.
    fn overlay_entry(&self, daddr_be: &AddrWords) -> u32;

    /// The clause at that index; `None` if there is none, which a whole table never answers for an index
    /// that it gave itself.
    fn clause(&self, index: u32) -> Option<&Clause>;
}

/// Where a redirect goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Address, each word in network byte order; IPv4 is IPv4-mapped.
    pub addr_be: AddrWords,
    /// Port, host byte order; 0 keeps the one asked for.
    pub port: u16,
}

impl Destination {
    /// Nowhere: `::`, to which no redirect goes.
    pub const NONE: Self = Self {
        addr_be: [0; 4],
        port: 0,
    };
}

/// The answer to a connect: the verdict that is carried out, and beside it what would have been.
///
/// Numbers rather than clauses, and without `Option`s but those of one byte: compilers copy also what an `Option` does
/// not hold, and verifiers refuse to read what was never written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is done.
    pub verdict: Action,
    /// Rule that acts, or [`NO_RULE`]; without one the verdict is allow.
    pub rule: u32,
    /// The first rule that matched without acting, because it or the cgroup is in audit mode, or [`NO_RULE`].
    pub would_rule: u32,
    /// What that rule would have done.
    pub would: Option<Action>,
    /// Errno of the rule that acts, or else of the one that would have.
    pub errno: u16,
    /// `CLAUSE_*` of the clause that acts, or else of the one that would have.
    pub flags: u8,
    /// Where the redirect goes, or would go: of the rule that acts, or else of the one that would have. Set too where the
    /// socket cannot be moved there; [`Destination::NONE`] where nothing redirects.
    pub to: Destination,
    /// Set where a redirect became a rejection because the socket cannot be moved: of the rule that acts, or else of the
    /// one that would have.
    pub unmovable: Option<Unmovable>,
    /// The first rule that would have counted if its rollout included the connect, or [`NO_RULE`].
    pub left_out_rule: u32,
    /// What the address is to the rules that have names: `CLAUSE_NAME_HIT` or `CLAUSE_NAME_MISS`, or 0.
    pub name: u8,
}

impl Decision {
    /// The same, see [`Circumstances::opaque`]: what is made of the answer is the same, however it came about.
    #[must_use]
    #[inline(always)]
    fn opaque<C: Circumstances>(mut self, circumstances: &C) -> Self {
        let again = |number: u8| circumstances.opaque(number.into()) as u8;
        self.verdict = Action::from_raw(again(self.verdict as u8)).unwrap_or(Action::Allow);
        self.would = Action::from_raw(again(self.would.map_or(u8::MAX, |would| would as u8)));
        self.unmovable = Unmovable::from_raw(again(self.unmovable.map_or(0, |reason| reason as u8)));
        self
    }

    /// [`to`](Self::to), where something redirects.
    #[must_use]
    pub fn destination(&self) -> Option<Destination> {
        (self.to != Destination::NONE).then_some(self.to)
    }
}

/// A table that is not what its compiler builds. The connect is allowed, and the fault counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TableFault {
    /// A head or a `next` names a clause that does not exist.
    ClauseMissing,
    /// A clause holds an action that does not exist.
    ActionUnknown,
    /// The list is longer than [`MAX_WALK`](crate::clause::MAX_WALK).
    WalkTooLong,
}

/// Decides one connect.
///
/// The table answers with the clause list of the longest matching prefix. The list is walked in its order. A clause
/// whose conditions do not hold, that has expired, or whose rollout does not include the connect, is as if absent. So is
/// one in audit mode, but the first of those that matches is remembered as `would`; in audit mode of the whole
/// cgroup every clause is. The first clause that is left gives the verdict. At the end of the list the connect is
/// allowed.
///
/// A redirect to IPv4 of a socket that cannot be moved there is a rejection with the rule's errno: the
/// kernel would only answer ENETUNREACH by itself, whatever the rule asked for. So is every redirect of a datagram of an
/// unconnected socket.
///
/// # Errors
///
/// [`TableFault`] where the table is damaged. The caller must allow the connect.
#[inline(always)]
pub fn decide<T: PolicyTable, C: Circumstances>(
    table: &T,
    circumstances: &C,
    connect: &Connect,
) -> Result<Decision, TableFault> {
    let walked = walk(table, circumstances, connect)?;
    settle(table, circumstances, connect, &walked)
}

/// The second half of [`decide`]: what follows from what the [`walk()`] found. Where that
/// [is only allowed](Walked::only_allows), nothing follows that it does not say itself.
///
/// # Errors
///
/// As [`decide`].
#[inline(always)]
pub fn settle<T: PolicyTable, C: Circumstances>(
    table: &T,
    circumstances: &C,
    connect: &Connect,
    walked: &Walked,
) -> Result<Decision, TableFault> {
    let mut decision = Decision {
        verdict: Action::Allow,
        rule: NO_RULE,
        would_rule: NO_RULE,
        would: None,
        errno: 0,
        flags: 0,
        to: Destination::NONE,
        unmovable: None,
        left_out_rule: walked.left_out_rule,
        name: walked.name,
    };
    let speaking = if walked.acted == NO_CLAUSE {
        walked.would
    } else {
        walked.acted
    };
    if speaking == NO_CLAUSE {
        return Ok(decision);
    }
    let (clause, action) = clause_and_action(table, speaking)?;
    let unmovable = immovable(action, clause, circumstances);
    let verdict = if unmovable.is_some() {
        Action::Reject
    } else {
        action
    };
    decision.unmovable = unmovable;
    decision.errno = clause.errno;
    decision.flags = clause.flags;
    if matches!(action, Action::Redirect) {
        decision.to = destination(table, circumstances, connect, speaking & NO_CLAUSE, clause)?;
    }
    if walked.acted == NO_CLAUSE {
        decision.would = Some(verdict);
        decision.would_rule = clause.rule;
        return Ok(decision.opaque(circumstances));
    }
    decision.verdict = verdict;
    decision.rule = clause.rule;
    if walked.would != NO_CLAUSE {
        let (clause, action) = clause_and_action(table, walked.would)?;
        decision.would = match immovable(action, clause, circumstances) {
            Some(_) => Some(Action::Reject),
            None => Some(action),
        };
        decision.would_rule = clause.rule;
    }
    Ok(decision.opaque(circumstances))
}

#[inline(always)]
fn clause_and_action<T: PolicyTable>(table: &T, found: u32) -> Result<(&Clause, Action), TableFault> {
    let Some(clause) = table.clause(found & NO_CLAUSE) else {
        return Err(TableFault::ClauseMissing);
    };
    match Action::from_raw(clause.action) {
        Some(action) => Ok((clause, action)),
        None => Err(TableFault::ActionUnknown),
    }
}

/// Why the clause's action cannot be carried out on this socket.
#[inline(always)]
fn immovable<C: Circumstances>(action: Action, clause: &Clause, circumstances: &C) -> Option<Unmovable> {
    if !matches!(action, Action::Redirect) {
        return None;
    }
    if circumstances.sends_unconnected() {
        return Some(Unmovable::Unconnected);
    }
    if clause.to_form == DestinationForm::Embedded as u8 || address::is_ipv4_mapped(&clause.to_be) {
        return circumstances.unmovable();
    }
    None
}

/// Where a redirecting clause sends this connect.
#[inline(always)]
fn destination<T: PolicyTable, C: Circumstances>(
    table: &T,
    circumstances: &C,
    connect: &Connect,
    index: u32,
    clause: &Clause,
) -> Result<Destination, TableFault> {
    if clause.to_form == DestinationForm::Choice as u8 {
        let hash = rollout_hash(clause.rule, circumstances.socket());
        let choices = u64::from(clause.choices).min(MAX_CHOICES as u64);
        // The share of the hash rather than its remainder: a division could be by zero, for all the compiler knows.
        let chosen = ((u64::from(hash) * choices) >> 32) as u32;
        let Some(clause) = table.clause(index.wrapping_add(chosen)) else {
            return Err(TableFault::ClauseMissing);
        };
        return Ok(Destination {
            addr_be: clause.to_be,
            port: clause.to_port,
        });
    }
    let addr_be = if clause.to_form == DestinationForm::Embedded as u8 {
        address::embedded_ipv4(&connect.daddr_be, clause.width)
    } else {
        address::with_low_bits(&clause.to_be, &connect.daddr_be, clause.width)
    };
    Ok(Destination {
        addr_be,
        port: clause.to_port,
    })
}

#[cfg(test)]
mod tests;
