//! The warnings that `run`, `exec` and `check` give, once each, before something is cut off that nobody meant.
//!
//! What this host knows is said before anything is attached. What only the resolver knows (its NAT64 prefix) is
//! said when it has answered: a host whose DNS hangs must not wait for it.

use std::{
    collections::HashSet,
    net::Ipv6Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use enforcer_common::{
    address::words_from_octets,
    clause::{Action, IPPROTO_TCP, IPPROTO_UDP, Proto},
    decide::{Connect, Known, Mode, decide},
};

use super::console;
use crate::{
    policy::{compiled::CompiledPolicy, rule::Rule},
    surroundings::{Options, RejectingRule, Warning, WarningKind, gather},
};

/// Network namespaces of targets that are looked into, at most; the host's own is looked into as well.
const NAMESPACES: usize = 16;

/// What was said already: each thing is said once, also when the policy is loaded again.
#[derive(Clone, Default)]
pub(crate) struct Said(Arc<Mutex<HashSet<Warning>>>);

/// Says what the policies cut off. `processes` are one process of each target.
pub(crate) async fn surroundings(
    rules: Arc<[Rule]>,
    policies: Vec<Arc<CompiledPolicy>>,
    mut processes: Vec<u32>,
    said: &Said,
) {
    processes.truncate(NAMESPACES);
    let offline = Options {
        processes,
        nat64_limit: Duration::ZERO,
        ..Options::default()
    };
    let found = gather(&offline).await;
    for one in &found.unavailable {
        log::debug!("{one}");
    }
    // Without an answer every well-known NAT64 prefix would be suspected.
    say(
        warnings(&rules, &policies, &found, |kind| kind != WarningKind::Nat64),
        said,
    );
    let said = said.clone();
    tokio::spawn(async move {
        let found = gather(&Options::default()).await;
        say(
            warnings(&rules, &policies, &found, |kind| kind == WarningKind::Nat64),
            &said,
        );
    });
}

/// What this host knows against the policies, all of it, the resolver's answer included: that is waited for, for a
/// second at most.
pub(crate) async fn of_this_host(rules: &[Rule], policies: &[Arc<CompiledPolicy>]) -> Vec<Warning> {
    let found = gather(&Options::default()).await;
    for one in &found.unavailable {
        log::debug!("{one}");
    }
    let mut said = HashSet::new();
    let mut all = warnings(rules, policies, &found, |_| true);
    all.retain(|warning| said.insert(warning.clone()));
    all
}

fn say(warnings: Vec<Warning>, said: &Said) {
    let mut said = said.0.lock().unwrap_or_else(PoisonError::into_inner);
    for warning in warnings {
        if said.insert(warning.clone()) {
            console::warning(&warning, Some(&warning.hint));
        }
    }
}

fn warnings(
    rules: &[Rule],
    policies: &[Arc<CompiledPolicy>],
    found: &crate::surroundings::Surroundings,
    wanted: impl Fn(WarningKind) -> bool,
) -> Vec<Warning> {
    let mut all = Vec::new();
    for policy in policies {
        // What is warned of may come with any share of a rollout, whichever process asks.
        let policy = policy.for_the_included();
        let rejecting = |addr, port, proto| rejecting(rules, &policy, addr, port, proto);
        all.extend(
            found
                .warnings(rules, &rejecting)
                .into_iter()
                .filter(|warning| wanted(warning.kind)),
        );
    }
    all
}

fn rejecting(
    rules: &[Rule],
    policy: &CompiledPolicy,
    addr: Ipv6Addr,
    dport: u16,
    proto: Proto,
) -> Option<RejectingRule> {
    let connect = Connect {
        daddr_be: words_from_octets(addr.octets()),
        dport,
        protocol: match proto {
            Proto::Tcp => IPPROTO_TCP,
            Proto::Udp => IPPROTO_UDP,
        },
        mode: Mode::Enforce,
        rollout_key: 0,
        canaries: u64::MAX,
    };
    // A socket like most, of the one who warns.
    let circumstances = Known {
        unmovable: None,
        uid: rustix::process::getuid().as_raw(),
        process: std::process::id(),
        socket: 0,
        boot_ns: 1,
    };
    let decision = decide(policy, &circumstances, &connect).ok()?;
    if decision.verdict != Action::Reject {
        return None;
    }
    let rule = rules.get(usize::try_from(decision.rule).ok()?)?;
    Some(RejectingRule {
        label: rule.label.clone(),
        prefix: rule.covering_prefix(addr)?,
    })
}
