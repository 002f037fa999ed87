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
    address::{AddrWords, octets_from_words},
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

/// What is told of a decision, in numbers.
///
/// VERIFIER: of an `Option<(&Clause, Action)>` that lives on, the compiler makes copies byte by byte, and the verifier refuses
/// to shift a pointer ("R1 pointer arithmetic with >>= operator prohibited"). So everything is read once, here.
pub(crate) struct Told {
    verdict: Action,
    would: Option<Action>,
    unmovable: u8,
    errno: u16,
    rule: u32,
    would_rule: u32,
    /// Where a redirect leads, or cannot lead; zeroes where there is none.
    to_be: AddrWords,
    /// Host byte order.
    to_port: u16,
}

impl Told {
    #[inline(always)]
    pub(crate) fn of(decision: &Decision<'_>, asked: &Asked) -> Self {
        let (rule, errno) = match decision.acted {
            Some(clause) => (clause.rule, clause.errno),
            None => (NO_RULE, 0),
        };
        let (would_rule, would) = match decision.would {
            Some((clause, action)) => (clause.rule, Some(action)),
            None => (NO_RULE, None),
        };
        let redirect = match (decision.verdict, decision.unmovable, decision.acted) {
            (Action::Redirect, _, Some(clause)) | (_, Some(_), Some(clause)) => Some(clause),
            _ => None,
        };
        // VERIFIER 6.12 and newer, without CAP_PERFMON: of arrays of zeroes the compiler makes calls of memset, and the verifier refuses the
        // loop in it ("R5 tried to add from different maps, paths or scalars, pointer arithmetic with it prohibited"). So
        // words are chosen one by one.
        let to_word = |index: usize| redirect.map_or(0, |clause| clause.to_be[index]);
        Self {
            verdict: decision.verdict,
            would,
            unmovable: decision.unmovable.map_or(0, |reason| reason as u8),
            errno: if matches!(decision.verdict, Action::Reject) {
                errno
            } else {
                0
            },
            rule,
            would_rule,
            to_be: [to_word(0), to_word(1), to_word(2), to_word(3)],
            to_port: redirect.map_or(0, |clause| {
                if clause.to_port == 0 {
                    asked.dport
                } else {
                    clause.to_port
                }
            }),
        }
    }

    #[inline(always)]
    const fn would_number(&self) -> u8 {
        match self.would {
            Some(action) => action as u8,
            None => NO_ACTION,
        }
    }

    #[inline(always)]
    const fn is_wanted(&self, binding: &Binding) -> bool {
        if binding.events == EventsWanted::All as u8 {
            true
        } else if binding.events == EventsWanted::Acted as u8 {
            !matches!(self.verdict, Action::Allow) || !matches!(self.would, None | Some(Action::Allow))
        } else {
            false
        }
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
    told: &Told,
    generation: u32,
) {
    info!(
        context,
        "[{:i}]:{} protocol {} verdict {} mode {} target {}",
        octets_from_words(asked.daddr_be),
        asked.dport,
        asked.protocol,
        told.verdict as u8,
        mode as u8,
        binding.target
    );
    let counters = maps::counters(binding.target);
    counters.increment(Counters::verdict_word(mode, told.verdict));
    if let Some(would) = told.would {
        counters.increment(Counters::would_word(would));
    }
    if !told.is_wanted(binding) {
        return;
    }
    match hook {
        Hook::Connect => {
            event(&counters, hook, 0, binding, mode, asked, told, generation);
        }
        Hook::Sendmsg => {
            let cookie = sock_addr::cookie(context);
            let key = DatagramKey::new(
                cookie,
                asked.daddr_be,
                asked.dport,
                generation,
                told.verdict as u8,
                told.would_number(),
            );
            if maps::datagram_repeats(&key) {
                counters.increment(Counters::REPEATED);
            } else if event(&counters, hook, cookie, binding, mode, asked, told, generation) {
                maps::datagram_told(&key);
            }
        }
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
    told: &Told,
    generation: u32,
) -> bool {
    let Some(mut entry) = maps::reserve_event() else {
        counters.increment(Counters::LOST);
        return false;
    };
    // VERIFIER 6.12 and newer, without CAP_PERFMON: the padding's zeroes are made opaque, or they become a call of memset.
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
        redirect_be: told.to_be,
        pid: (pid_tgid >> 32) as u32,
        tid: pid_tgid as u32,
        uid: bpf_get_current_uid_gid() as u32,
        target: binding.target,
        generation,
        rule: told.rule,
        would_rule: told.would_rule,
        dport: asked.dport,
        redirect_port: told.to_port,
        protocol: asked.protocol,
        errno: told.errno,
        verdict: told.verdict as u8,
        would: told.would_number(),
        mode: mode as u8,
        socket_type: asked.socket_type,
        unmovable: told.unmovable,
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
