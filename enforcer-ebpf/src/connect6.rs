//! `cgroup/connect6`: judges each IPv6 connect of a governed cgroup.

use aya_ebpf::{helpers::generated::bpf_set_retval, macros::cgroup_sock_addr, programs::SockAddrContext};
use enforcer_common::{
    binding::{Binding, FLAG_HAS_INNER, FLAG_HAS_OUTER, FLAG_OFF, LAYOUT_VERSION, UNCONFIGURED},
    clause::Action,
    counters::Fault,
    decide::{Connect, Mode, TableFault, decide},
};

use crate::{
    emit, globals, maps,
    sock_addr::{self, KernelCircumstances},
};

/// The connect goes on.
const PROCEED: i32 = 1;
/// The connect ends with the errno that `bpf_set_retval` was given, or with EPERM.
const STOP: i32 = 0;

#[cgroup_sock_addr(connect6)]
fn enforcer_connect6(context: SockAddrContext) -> i32 {
    let binding = maps::binding();
    match judge(&context, binding) {
        Ok(code) => code,
        Err(fault) => {
            emit::fault(&context, binding, fault);
            on_fault(fault)
        }
    }
}

/// From each thing that can go wrong to what the caller gets, written once.
#[inline(always)]
const fn on_fault(fault: Fault) -> i32 {
    match fault {
        Fault::Unconfigured
        | Fault::BindingUnknown
        | Fault::PolicyMissing
        | Fault::ClauseMissing
        | Fault::ActionUnknown
        | Fault::WalkTooLong
        | Fault::MarkFailed => PROCEED,
    }
}

#[inline(always)]
fn judge(context: &SockAddrContext, binding: &Binding) -> Result<i32, Fault> {
    let slot = match globals::fixed_policy() {
        0 if binding.layout_version == 0 => return Err(Fault::Unconfigured),
        0 if binding.layout_version != LAYOUT_VERSION => return Err(Fault::BindingUnknown),
        0 => binding.policy_slot,
        fixed => fixed,
    };
    if binding.flags & FLAG_OFF != 0 {
        return Ok(PROCEED);
    }
    if binding.flags & FLAG_HAS_INNER != 0 {
        // The outermost target takes the mark away, or the next connect of this socket would find it.
        let outermost = binding.flags & FLAG_HAS_OUTER == 0;
        if maps::spoken(context, outermost) {
            return Ok(PROCEED);
        }
    }
    if binding.flags & FLAG_HAS_OUTER != 0 && !maps::mark_spoken(context) {
        emit::fault(context, binding, Fault::MarkFailed);
    }
    if slot == UNCONFIGURED {
        return Err(Fault::Unconfigured);
    }
    let mode = Mode::from_raw(binding.mode).ok_or(Fault::BindingUnknown)?;
    let table = maps::policy(slot).ok_or(Fault::PolicyMissing)?;

    let asked = sock_addr::asked(context);
    let circumstances = KernelCircumstances {
        context,
        protocol: asked.protocol,
    };
    let connect = Connect {
        daddr_be: asked.daddr_be,
        dport: asked.dport,
        protocol: asked.protocol,
        mode,
        rollout_key: binding.rollout_key,
        canaries: binding.canaries,
        zero: binding.reserved_b,
    };
    let decision = decide(&table, &circumstances, &connect).map_err(|fault| match fault {
        TableFault::ClauseMissing => Fault::ClauseMissing,
        TableFault::ActionUnknown => Fault::ActionUnknown,
        TableFault::WalkTooLong => Fault::WalkTooLong,
    })?;
    emit::decision(context, binding, mode, &asked, &decision, table.generation());

    Ok(match decision.verdict {
        Action::Allow => PROCEED,
        Action::Redirect => {
            sock_addr::redirect(context, &decision.to);
            PROCEED
        }
        Action::Reject => reject(decision.errno),
    })
}

/// Ends the connect with that errno where the kernel can, with EPERM where it cannot.
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
