//! Telling the controller: counters always, an event where one is wanted.
//!
//! Nothing here can change a verdict. A full ring buffer costs one failed reservation and one increment.

use core::hint::black_box;

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        bpf_ktime_get_boot_ns,
    },
    programs::SockAddrContext,
};
use aya_log_ebpf::{info, warn};
use enforcer_common::{
    address::octets_from_words,
    binding::{Binding, EventsWanted},
    clause::{Action, NO_RULE},
    counters::{Counters, Fault},
    decide::{Decision, Mode},
    record::{COMM_LEN, ConnectRecord, DatagramKey, Hook, NO_ACTION},
};

use crate::{
    globals,
    maps::{self, CpuCounters},
    sock_addr::{self, Asked},
};

/// Counts a fault of a connect that is allowed because of it.
#[inline(always)]
pub(crate) fn fault(context: &SockAddrContext, binding: &Binding, fault: Fault) {
    warn!(
        context,
        "fault {} at cgroup {}: allowed", fault as u8, binding.cgroup_id
    );
    let target = if binding.layout_version == 0 {
        0
    } else {
        binding.target
    };
    maps::counters(target).increment(Counters::fault_word(fault));
}

/// Counts a decision and, where it is wanted, reports it.
#[inline(always)]
pub(crate) fn decision(
    context: &SockAddrContext,
    hook: Hook,
    binding: &Binding,
    mode: Mode,
    asked: &Asked,
    decision: &Decision<'_>,
    generation: u32,
) {
    info!(
        context,
        "[{:i}]:{} protocol {} verdict {} mode {} target {}",
        octets_from_words(asked.daddr_be),
        asked.dport,
        asked.protocol,
        decision.verdict as u8,
        mode as u8,
        binding.target
    );
    let counters = maps::counters(binding.target);
    counters.increment(Counters::verdict_word(mode, decision.verdict));
    if let Some((_, action)) = decision.would {
        counters.increment(Counters::would_word(action));
    }
    if !wanted(binding, decision) {
        return;
    }
    let told = |cookie| event(&counters, hook, cookie, binding, mode, asked, decision, generation);
    match hook {
        Hook::Connect => {
            told(0);
        }
        Hook::Sendmsg => {
            let cookie = sock_addr::cookie(context);
            let key = DatagramKey::new(
                cookie,
                asked.daddr_be,
                asked.dport,
                generation,
                decision.verdict as u8,
                would(decision),
            );
            if maps::datagram_repeats(&key) {
                counters.increment(Counters::REPEATED);
            } else if told(cookie) {
                maps::datagram_told(&key);
            }
        }
    }
}

/// What would have been done, as its number.
#[inline(always)]
fn would(decision: &Decision<'_>) -> u8 {
    decision.would.map_or(NO_ACTION, |(_, action)| action as u8)
}

#[inline(always)]
fn wanted(binding: &Binding, decision: &Decision<'_>) -> bool {
    let acts = |action| !matches!(action, Action::Allow);
    if binding.events == EventsWanted::All as u8 {
        true
    } else if binding.events == EventsWanted::Acted as u8 {
        acts(decision.verdict) || matches!(decision.would, Some((_, action)) if acts(action))
    } else {
        false
    }
}

/// `false` where the event is lost.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a structure of them would be on a stack of 512 bytes")]
fn event(
    counters: &CpuCounters,
    hook: Hook,
    socket_cookie: u64,
    binding: &Binding,
    mode: Mode,
    asked: &Asked,
    decision: &Decision<'_>,
    generation: u32,
) -> bool {
    let Some(mut entry) = maps::reserve_event() else {
        counters.increment(Counters::LOST);
        return false;
    };
    let redirect = match (decision.verdict, decision.unmovable, decision.acted) {
        (Action::Redirect, _, Some(clause)) | (_, Some(_), Some(clause)) => Some(clause),
        _ => None,
    };
    // VERIFIER 6.12 and newer, without CAP_PERFMON: of arrays of zeroes the compiler makes calls of memset, and the verifier refuses the
    // loop in it ("R5 tried to add from different maps, paths or scalars, pointer arithmetic with it prohibited"). So
    // words are chosen one by one, and the padding's zeroes are made opaque.
    let to_word = |index: usize| redirect.map_or(0, |clause| clause.to_be[index]);
    let [r0, r1, r2, r3, r4, r5, ..] = black_box(0_u64).to_ne_bytes();
    let pid_tgid = bpf_get_current_pid_tgid();
    let comm = if globals::has_comm() {
        bpf_get_current_comm().unwrap_or_default()
    } else {
        [0; COMM_LEN]
    };
    entry.write(ConnectRecord {
        // SAFETY: the helper has no preconditions.
        time_boot_ns: unsafe { bpf_ktime_get_boot_ns() },
        cgroup_id: binding.cgroup_id,
        // SAFETY: the helper has no preconditions.
        task_cgroup_id: unsafe { bpf_get_current_cgroup_id() },
        socket_cookie,
        daddr_be: asked.daddr_be,
        redirect_be: [to_word(0), to_word(1), to_word(2), to_word(3)],
        pid: (pid_tgid >> 32) as u32,
        tid: pid_tgid as u32,
        uid: bpf_get_current_uid_gid() as u32,
        target: binding.target,
        generation,
        rule: decision.acted.map_or(NO_RULE, |clause| clause.rule),
        would_rule: decision.would.map_or(NO_RULE, |(clause, _)| clause.rule),
        dport: asked.dport,
        redirect_port: redirect.map_or(0, |clause| {
            if clause.to_port == 0 {
                asked.dport
            } else {
                clause.to_port
            }
        }),
        protocol: asked.protocol,
        errno: match (decision.verdict, decision.acted) {
            (Action::Reject, Some(clause)) => clause.errno,
            _ => 0,
        },
        verdict: decision.verdict as u8,
        would: would(decision),
        mode: mode as u8,
        socket_type: asked.socket_type,
        unmovable: decision.unmovable.map_or(0, |reason| reason as u8),
        hook: hook as u8,
        reserved: [r0, r1, r2, r3, r4, r5],
        comm,
    });
    // The wake-up is what an event costs: 2.5 µs of the connecting thread's time with it, 0.1 to 0.4 µs
    // without. The controller polls.
    entry.submit(BPF_RB_NO_WAKEUP.into());
    counters.increment(Counters::EVENTS);
    true
}
