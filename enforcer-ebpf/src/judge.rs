//! What `cgroup/connect6` and `cgroup/sendmsg6` have in common: finding the policy, doing what `decide` does, carrying the verdict
//! out, and keeping what the application asked for.
//!
//! Which hook it is, is a constant in each program: the other's branches are not in it.

use aya_ebpf::{helpers::generated::bpf_set_retval, programs::SockAddrContext};
use enforcer_common::{
    binding::{
        Binding, FLAG_HAS_INNER, FLAG_HAS_OUTER, FLAG_OFF, FLAG_REDIRECTS, LAYOUT_VERSION, UNCONFIGURED,
    },
    clause::{Action, CLAUSE_OPAQUE},
    counters::Fault,
    decide::{Connect, Mode, TableFault, settle, walk},
    record::Hook,
};

use crate::{
    emit, globals, maps,
    sock_addr::{self, KernelCircumstances},
};

/// The call goes on.
pub(crate) const PROCEED: i32 = 1;
/// The call ends with the errno that `bpf_set_retval` was given, or with EPERM.
const STOP: i32 = 0;

/// What becomes of the call, and of what is kept of the socket.
enum Outcome {
    /// It goes on as it came.
    Proceed,
    /// A target below has spoken: what it did stands, and what it kept.
    Yield,
    /// It goes on to another address.
    Redirected,
    /// It ends with that errno.
    Rejected(u16),
}

/// Judges the call and gives back what the program returns.
#[inline(always)]
pub(crate) fn judge(context: &SockAddrContext, hook: Hook) -> i32 {
    let binding = maps::binding();
    let outcome = match decided(context, binding, hook) {
        Ok(outcome) => outcome,
        Err(fault) => {
            emit::fault(context, binding, fault);
            on_fault(fault)
        }
    };
    match outcome {
        Outcome::Proceed => {
            if matches!(hook, Hook::Connect) && may_be_redirected(binding) {
                maps::forget_asked(context);
            }
            PROCEED
        }
        Outcome::Yield | Outcome::Redirected => PROCEED,
        // What is kept stays, too: a UDP socket whose connect is refused keeps the peer that it has.
        Outcome::Rejected(errno) => reject(errno),
    }
}

/// Whether sockets of the cgroup may have something kept that hides a redirect. Looking costs more than half of what deciding does.
#[inline(always)]
pub(crate) fn may_be_redirected(binding: &Binding) -> bool {
    binding.flags & FLAG_REDIRECTS != 0 || globals::fixed_policy() != UNCONFIGURED
}

/// From each thing that can go wrong to what becomes of the call, written once.
#[inline(always)]
const fn on_fault(fault: Fault) -> Outcome {
    match fault {
        Fault::Unconfigured
        | Fault::BindingUnknown
        | Fault::PolicyMissing
        | Fault::ClauseMissing
        | Fault::ActionUnknown
        | Fault::WalkTooLong
        | Fault::MarkFailed => Outcome::Proceed,
        Fault::MemoFailed => Outcome::Redirected,
    }
}

#[inline(always)]
fn decided(context: &SockAddrContext, binding: &Binding, hook: Hook) -> Result<Outcome, Fault> {
    let slot = match globals::fixed_policy() {
        0 if binding.layout_version == 0 => return Err(Fault::Unconfigured),
        0 if binding.layout_version != LAYOUT_VERSION => return Err(Fault::BindingUnknown),
        0 => binding.policy_slot,
        fixed => fixed,
    };
    if binding.flags & FLAG_HAS_INNER != 0 {
        // The outermost target takes the mark away, or the next call on this socket would find it.
        let outermost = binding.flags & FLAG_HAS_OUTER == 0;
        if maps::spoken(context, outermost) {
            return Ok(Outcome::Yield);
        }
    }
    if binding.flags & FLAG_OFF != 0 {
        // What a target below has kept of a redirect is not forgotten: it may have spoken without a mark yet.
        return Ok(Outcome::Yield);
    }
    if binding.flags & FLAG_HAS_OUTER != 0 && !maps::mark_spoken(context) {
        emit::fault(context, binding, Fault::MarkFailed);
    }
    if slot == UNCONFIGURED {
        return Err(Fault::Unconfigured);
    }
    let mode = mode_of(binding).ok_or(Fault::BindingUnknown)?;
    let table = maps::policy(slot, binding).ok_or(Fault::PolicyMissing)?;

    let asked = sock_addr::asked(context);
    let circumstances = KernelCircumstances {
        context,
        binding,
        protocol: asked.protocol,
        hook,
    };
    let connect = Connect {
        daddr_be: asked.daddr_be,
        dport: asked.dport,
        protocol: asked.protocol,
        mode,
        rollout_key: binding.rollout_key,
        canaries: binding.canaries,
    };
    let walked = walk(&table, &circumstances, &connect).map_err(fault_of)?;
    if walked.only_allows() && !emit::tells_all(binding) {
        emit::allowed(binding, mode, &walked);
        return Ok(Outcome::Proceed);
    }
    let decision = settle(&table, &circumstances, &connect, &walked).map_err(fault_of)?;
    emit::decision(
        context,
        hook,
        binding,
        mode,
        &asked,
        &decision,
        table.generation(),
    );

    match decision.verdict {
        Action::Allow => Ok(Outcome::Proceed),
        Action::Reject => Ok(Outcome::Rejected(decision.errno)),
        Action::Redirect => {
            let went_port = sock_addr::redirect(context, &asked, &decision.to);
            if decision.flags & CLAUSE_OPAQUE != 0 {
                maps::forget_asked(context);
            } else if !maps::keep_asked(context, &asked, &decision.to.addr_be, went_port) {
                emit::fault(context, binding, Fault::MemoFailed);
            }
            Ok(Outcome::Redirected)
        }
    }
}

/// The number itself, not what a match would make of it: the verifier would follow all else once for each mode.
#[inline(always)]
const fn mode_of(binding: &Binding) -> Option<Mode> {
    if binding.mode as usize >= Mode::COUNT {
        return None;
    }
    // SAFETY: a mode is one byte, and every number below their count is one.
    Some(unsafe { core::mem::transmute::<u8, Mode>(binding.mode) })
}

#[inline(always)]
const fn fault_of(fault: TableFault) -> Fault {
    match fault {
        TableFault::ClauseMissing => Fault::ClauseMissing,
        TableFault::ActionUnknown => Fault::ActionUnknown,
        TableFault::WalkTooLong => Fault::WalkTooLong,
    }
}

/// Ends the call with that errno where the kernel can, with EPERM where it cannot.
#[inline(always)]
fn reject(errno: u16) -> i32 {
    if globals::has_set_retval() {
        // VERIFIER 7.2: the argument of bpf_set_retval must provably lie in [-4095, 0] ("R1 has unknown
        // scalar value"): the mask bounds it, and 0, which would mean EPERM, is replaced.
        let bounded = i32::from(errno & 0xfff);
        let errno = if bounded == 0 {
            i32::from(enforcer_common::errno::DEFAULT.number)
        } else {
            bounded
        };
        // SAFETY: the helper has no preconditions beyond its argument's range.
        unsafe { bpf_set_retval(-errno) };
    }
    STOP
}
