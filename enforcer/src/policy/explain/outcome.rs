//! [`Outcome`]: what comes of a connect, in words that need no clause to be understood.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use enforcer_common::{
    address::octets_from_words,
    clause::{Action, MAX_CHOICES, NO_RULE},
    decide::{Decision, Unmovable},
    errno::{self, Errno},
};

use super::{
    super::{
        overlay::Becomes,
        rule::{RedirectTo, RuleAction},
    },
    question::Grounds,
};

/// What comes of a connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What is done.
    pub verdict: Action,
    /// Index of the rule that acts; none does where no rule matches, and in audit mode.
    pub rule: Option<u32>,
    /// The first rule that would have acted if neither it nor the cgroup were in audit mode, and what would have been
    /// done.
    pub would: Option<(u32, Action)>,
    /// Errno of what is, or would have been, a rejection.
    pub errno: Option<Errno>,
    /// Where what is, or would have been, redirected goes: to one of these; port 0 is the port asked for. Set too where
    /// a socket cannot be moved there. Empty where nothing redirects; several only where a name has as many addresses.
    pub to: Vec<SocketAddr>,
    /// Why what was to be a redirect is, or would have been, a rejection.
    pub unmovable: Option<Unmovable>,
    /// Whether what was to be a redirect is, or would have been, a rejection because there is no IPv4 address that it
    /// could go to.
    pub is_without_twin: bool,
}

impl Outcome {
    pub(super) fn of(decision: &Decision, grounds: &Grounds<'_>, address: Ipv6Addr) -> Self {
        let rule = |rule: u32| (rule != NO_RULE).then_some(rule);
        // Beside a rule that acts, one that would have is told, but not what it would have led to.
        let action = match rule(decision.rule) {
            Some(_) => decision.verdict,
            None => decision.would.unwrap_or(decision.verdict),
        };
        let is_redirect = action == Action::Redirect || decision.unmovable.is_some();
        let mut outcome = Self {
            verdict: decision.verdict,
            rule: rule(decision.rule),
            would: rule(decision.would_rule).zip(decision.would),
            errno: (action == Action::Reject)
                .then(|| errno::by_number(decision.errno))
                .flatten(),
            to: Vec::new(),
            unmovable: decision.unmovable,
            is_without_twin: false,
        };
        let decider = outcome.decider();
        if let Some(to) = decision.destination().filter(|_| is_redirect) {
            let chosen = Ipv6Addr::from(octets_from_words(to.addr_be)).to_canonical();
            let choices = decider.and_then(|decider| choices(grounds, decider, address));
            outcome.to = match choices {
                Some(choices) => choices
                    .iter()
                    .map(|choice| SocketAddr::new(IpAddr::V4(*choice), to.port))
                    .collect(),
                None => vec![SocketAddr::new(chosen, to.port)],
            };
        }
        outcome.is_without_twin =
            decider.and_then(|rule| grounds.becomes(rule, address)) == Some(&Becomes::Rejected);
        outcome
    }

    /// Index of the rule that decided, whether it acted or would have.
    #[must_use]
    pub fn decider(&self) -> Option<u32> {
        self.rule.or(self.would.map(|(rule, _)| rule))
    }
}

/// The addresses that a rule chooses from, if it does; by a hash of the socket, so that any can be the one.
fn choices<'policy>(grounds: &Grounds<'policy>, rule: u32, address: Ipv6Addr) -> Option<&'policy [Ipv4Addr]> {
    let all = match (&grounds.rule(rule)?.action, grounds.becomes(rule, address)) {
        (_, Some(Becomes::To(addresses))) => addresses.as_slice(),
        (RuleAction::Redirect(RedirectTo::Host { .. }), _) => grounds.live.destinations(rule),
        _ => return None,
    };
    Some(&all[..all.len().min(MAX_CHOICES)])
}
