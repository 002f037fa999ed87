//! Telling the controller: counters always, an event where one is wanted.
//!
//! Nothing here can change a verdict. A full ring buffer costs one failed reservation and one increment.

use core::hint::black_box;

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_ktime_get_boot_ns,
        generated::bpf_get_current_comm,
    },
    programs::SockAddrContext,
};
use enforcer_common::{
    address::is_unspecified,
    binding::{Binding, EventsWanted},
    clause::{Action, CLAUSE_NAME_HIT, CLAUSE_NAME_MISS, NO_RULE},
    counters::{Counters, Fault},
    decide::{Decision, Mode, Walked},
    record::{COMM_LEN, ConnectRecord, DatagramKey, Hook, NO_ACTION},
};

use crate::{
    debug::{self, info, warn},
    globals,
    maps::{self, CpuCounters},
    sock_addr::{self, Asked},
};

/// Counts a fault of a call that goes on in spite of it.
#[inline(always)]
pub(crate) fn fault(context: &SockAddrContext, binding: &Binding, fault: Fault) {
    warn!(
        context,
        "fault {} at cgroup {}: the call goes on", fault as u8, binding.cgroup_id
    );
    let target = if binding.layout_version == 0 {
        0
    } else {
        binding.target
    };
    maps::counters(target).increment(Counters::fault_word(fault));
}

/// Whether calls are reported that nothing is done to.
#[inline(always)]
pub(crate) const fn tells_all(binding: &Binding) -> bool {
    debug::TALKS || binding.events == EventsWanted::All as u8
}

/// Counts a call that [is only allowed](Walked::only_allows).
#[inline(always)]
pub(crate) fn allowed(binding: &Binding, mode: Mode, walked: &Walked) {
    let counters = maps::counters(binding.target);
    let would = walked.has_would().then_some(Action::Allow);
    count(
        &counters,
        mode,
        Action::Allow,
        would,
        walked.left_out_rule,
        walked.name,
    );
}

#[inline(always)]
fn count(
    counters: &CpuCounters,
    mode: Mode,
    verdict: Action,
    would: Option<Action>,
    left_out_rule: u32,
    name: u8,
) {
    counters.increment(Counters::verdict_word(mode, verdict));
    if let Some(action) = would {
        counters.increment(Counters::would_word(action));
    }
    if left_out_rule != NO_RULE {
        counters.increment(Counters::LEFT_OUT);
    }
    if name & CLAUSE_NAME_HIT != 0 {
        counters.increment(Counters::NAME_HITS);
    } else if name & CLAUSE_NAME_MISS != 0 {
        counters.increment(Counters::NAME_MISSES);
    }
}

/// Counts a decision and, where it is wanted, reports it.
#[inline(always)]
pub(crate) fn decision(
    context: &SockAddrContext,
    hook: Hook,
    binding: &Binding,
    mode: Mode,
    asked: &Asked,
    decision: &Decision,
    generation: u32,
) {
    // Two lines, because what one of them needs would take more stack than the kernel gives programs.
    info!(
        context,
        "[{:i}]:{} protocol {}",
        enforcer_common::address::octets_from_words(asked.daddr_be),
        asked.dport,
        asked.protocol
    );
    info!(
        context,
        "verdict {} mode {} target {}", decision.verdict as u8, mode as u8, binding.target
    );
    let counters = maps::counters(binding.target);
    count(
        &counters,
        mode,
        decision.verdict,
        decision.would,
        decision.left_out_rule,
        decision.name,
    );
    if !wanted(binding, decision) {
        return;
    }
    match hook {
        Hook::Connect => {
            event(&counters, hook, 0, binding, mode, asked, decision, generation);
        }
        Hook::Sendmsg => {
            let cookie = sock_addr::cookie(context);
            let key = DatagramKey::new(
                cookie,
                asked.daddr_be,
                asked.dport,
                generation,
                decision.verdict as u8,
                would_number(decision),
            );
            if maps::datagram_repeats(&key) {
                counters.increment(Counters::REPEATED);
            } else if event(
                &counters, hook, cookie, binding, mode, asked, decision, generation,
            ) {
                maps::datagram_told(&key);
            }
        }
    }
}

#[inline(always)]
fn would_number(decision: &Decision) -> u8 {
    decision.would.map_or(NO_ACTION, |action| action as u8)
}

#[inline(always)]
fn wanted(binding: &Binding, decision: &Decision) -> bool {
    let acts = |action| !matches!(action, Action::Allow);
    if binding.events == EventsWanted::All as u8 {
        true
    } else if binding.events == EventsWanted::Acted as u8 {
        acts(decision.verdict) || matches!(decision.would, Some(action) if acts(action))
    } else {
        false
    }
}

/// `false` where the event is lost.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "a structure of them would take room on a stack of 512 bytes"
)]
fn event(
    counters: &CpuCounters,
    hook: Hook,
    socket_cookie: u64,
    binding: &Binding,
    mode: Mode,
    asked: &Asked,
    decision: &Decision,
    generation: u32,
) -> bool {
    let Some(mut entry) = maps::reserve_event() else {
        counters.increment(Counters::LOST);
        return false;
    };
    let acted = decision.rule != NO_RULE;
    // VERIFIER 6.12 and newer, without CAP_PERFMON: of arrays of zeroes the compiler makes calls of memset, and the verifier refuses the
    // loop in it ("R5 tried to add from different maps, paths or scalars, pointer arithmetic with it prohibited"). So
    // words are chosen one by one, and the padding's zeroes are made opaque.
    let to_word = |index: usize| if acted { decision.to.addr_be[index] } else { 0 };
    let zero = black_box(0_u64).to_ne_bytes();
    let [r0, r1, ..] = zero;
    let pid_tgid = bpf_get_current_pid_tgid();
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
        rule: decision.rule,
        would_rule: decision.would_rule,
        left_out_rule: decision.left_out_rule,
        dport: asked.dport,
        redirect_port: match (acted && !is_unspecified(&decision.to.addr_be), decision.to.port) {
            (false, _) => 0,
            (true, 0) => asked.dport,
            (true, port) => port,
        },
        protocol: asked.protocol,
        errno: if matches!(decision.verdict, Action::Reject) {
            decision.errno
        } else {
            0
        },
        verdict: decision.verdict as u8,
        would: would_number(decision),
        mode: mode as u8,
        socket_type: asked.socket_type,
        unmovable: decision.unmovable.map_or(0, |reason| reason as u8),
        hook: hook as u8,
        reserved: [r0, r1],
        comm: [
            zero[0], zero[1], zero[2], zero[3], zero[4], zero[5], zero[6], zero[7], zero[0], zero[1],
            zero[2], zero[3], zero[4], zero[5], zero[6], zero[7],
        ],
    });
    if globals::has_comm() {
        // Right into the record, not by way of the stack: the compiler calls memset for an array of bytes there, and see
        // `silent.rs` for what a function of its own costs.
        // SAFETY: the record was reserved; nothing is read of it.
        let comm = unsafe { &raw mut (*entry.as_mut_ptr()).comm };
        // SAFETY: there is room for as many bytes, all of which the helper writes, also where it fails.
        unsafe { bpf_get_current_comm(comm.cast(), COMM_LEN as u32) };
    }
    // The wake-up is what an event costs: 2.5 µs of the connecting thread's time with it, 0.1 to 0.4 µs
    // without. The controller polls.
    entry.submit(BPF_RB_NO_WAKEUP.into());
    counters.increment(Counters::EVENTS);
    true
}
