//! [`decide`]: what happens to one connect. All precedence lives here and in the order the policy compiler
//! gives the clauses; nowhere else.

use crate::{
    address::{self, AddrWords},
    clause::{Action, Clause, MAX_WALK, NO_CLAUSE},
};

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

/// What the decision may ask of the socket, and only asks when it matters: it costs the kernel side a read.
pub trait Socket {
    /// Why this socket cannot be moved to IPv4, or `None` if it can (or if that cannot be seen).
    fn unmovable(&self) -> Option<Unmovable>;

    /// Whether what is judged is a datagram of an unconnected socket, which cannot be moved to anywhere.
    #[inline(always)]
    fn sends_unconnected(&self) -> bool {
        false
    }
}

/// A compiled policy, as maps in the kernel and as slices everywhere else.
pub trait PolicyTable {
    /// Index of the first clause of the longest prefix that covers the address, or [`NO_CLAUSE`] if no prefix
    /// does or the prefix is a barrier ([`EXEMPT_PREFIXES`](address::EXEMPT_PREFIXES)).
    fn head(&self, daddr_be: &AddrWords) -> u32;

    /// The clause at that index; `None` if there is none, which a whole table never answers for an index
    /// that it gave itself.
    fn clause(&self, index: u32) -> Option<&Clause>;
}

/// The answer to a connect: the verdict that is carried out, and beside it what would have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'table> {
    /// What is done.
    pub verdict: Action,
    /// The clause that acts, if any; without one the verdict is allow.
    pub acted: Option<&'table Clause>,
    /// The first clause that matched without acting, and the verdict it would have given.
    pub would: Option<(&'table Clause, Action)>,
    /// Set where a redirect became a rejection because the socket cannot be moved: by `acted` if that is
    /// set, otherwise by `would`.
    pub unmovable: Option<Unmovable>,
}

/// A table that is not what its compiler builds. The connect is allowed, and the fault counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TableFault {
    /// A head or a `next` names a clause that does not exist.
    ClauseMissing,
    /// A clause holds an action that does not exist.
    ActionUnknown,
    /// The list is longer than [`MAX_WALK`].
    WalkTooLong,
}

/// Decides one connect.
///
/// The table answers with the clause list of the longest matching prefix. The list is walked in its order:
/// the first clause whose conditions hold gives the verdict in enforce mode. In audit mode no clause acts:
/// each is as if absent, so the connect is allowed, and the first that matched is remembered as `would`. At
/// the end of the list the connect is allowed.
///
/// A redirect to IPv4 of a socket that cannot be moved there is a rejection with the rule's errno: the
/// kernel would only answer ENETUNREACH by itself, whatever the rule asked for. So is every redirect of a datagram of an
/// unconnected socket.
///
/// # Errors
///
/// [`TableFault`] where the table is damaged. The caller must allow the connect.
#[inline(always)]
pub fn decide<'table, T: PolicyTable, S: Socket>(
    table: &'table T,
    socket: &S,
    connect: &Connect,
) -> Result<Decision<'table>, TableFault> {
    let mut decision = Decision {
        verdict: Action::Allow,
        acted: None,
        would: None,
        unmovable: None,
    };
    let mut index = table.head(&connect.daddr_be);
    for _ in 0..MAX_WALK {
        if index == NO_CLAUSE {
            return Ok(decision);
        }
        let Some(clause) = table.clause(index) else {
            return Err(TableFault::ClauseMissing);
        };
        if clause.matches(connect) {
            let Some(action) = Action::from_raw(clause.action) else {
                return Err(TableFault::ActionUnknown);
            };
            let (verdict, unmovable) = settle(action, clause, socket);
            decision.unmovable = unmovable;
            match connect.mode {
                Mode::Enforce => {
                    decision.verdict = verdict;
                    decision.acted = Some(clause);
                    return Ok(decision);
                }
                Mode::Audit => {
                    // Only the mode of the whole cgroup keeps a clause from acting, so no later one acts either.
                    decision.would = Some((clause, verdict));
                    return Ok(decision);
                }
            }
        }
        index = clause.next;
    }
    if index == NO_CLAUSE {
        Ok(decision)
    } else {
        Err(TableFault::WalkTooLong)
    }
}

/// The verdict of an action on this socket.
#[inline(always)]
fn settle<S: Socket>(action: Action, clause: &Clause, socket: &S) -> (Action, Option<Unmovable>) {
    match action {
        Action::Redirect if socket.sends_unconnected() => (Action::Reject, Some(Unmovable::Unconnected)),
        Action::Redirect if address::is_ipv4_mapped(&clause.to_be) => match socket.unmovable() {
            Some(reason) => (Action::Reject, Some(reason)),
            None => (Action::Redirect, None),
        },
        other => (other, None),
    }
}
