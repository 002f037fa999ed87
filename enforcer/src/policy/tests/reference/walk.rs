//! How many clauses the rules make for an address, counted anew.

use std::net::Ipv6Addr;

use enforcer_common::{clause::MAX_WALK, decide::Mode};
use ipnet::Ipv6Net;

use super::{
    super::super::rule::{RedirectTo, Rollout, Rule, RuleAction},
    Policy, barred, conditions, connects, in_groups, matches,
};

impl Policy<'_> {
    /// How many clauses would have to be tried for an address of a prefix, or for just that address if names have it too.
    pub(super) fn walk(&self, within: Ipv6Net, names: Option<Ipv6Addr>) -> usize {
        let mut members = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            if !rule.enabled || !in_groups(rule, self.groups) {
                continue;
            }
            let reaching = rule
                .prefixes
                .iter()
                .filter(|prefix| prefix.contains(&within) && !barred(prefix, within));
            members.extend(reaching.map(|prefix| (index, rule, *prefix, false)));
            let known = self.answers.get(&(index as u32));
            if names.is_some_and(|address| known.is_some_and(|known| known.contains_key(&address))) {
                members.push((index, rule, within, true));
            }
        }
        members.sort_by_key(|&(index, rule, prefix, is_named)| {
            let first = (rule.mode != Mode::Audit, is_named, index);
            (std::cmp::Reverse((prefix.prefix_len(), conditions(rule))), first)
        });
        let mut kept: Vec<(usize, &Rule, Ipv6Net, bool)> = Vec::new();
        for member in members {
            let (_, rule, prefix, _) = member;
            // What has an address in common with a name is not compared once more.
            let is_compared = names.is_none() || prefix != within;
            let is_duplicate = |&(_, other, at, _): &(usize, &Rule, Ipv6Net, bool)| {
                at == prefix && is_duplicate(other, rule)
            };
            if !(is_compared && kept.iter().any(is_duplicate)) {
                kept.push(member);
            }
        }
        let mut tried: Vec<(usize, u8, usize)> = Vec::new();
        for (index, rule, prefix, is_named) in kept.into_iter().rev() {
            // A prefix counts where addresses keep bits of it, or have others inside.
            let width = match &rule.action {
                RuleAction::Redirect(RedirectTo::Embedded) => prefix.prefix_len(),
                _ => 0,
            };
            if !is_named
                && tried
                    .last()
                    .is_some_and(|(next, of_next, _)| (*next, *of_next) == (index, width))
            {
                continue;
            }
            if !is_named && takes_everything(rule) {
                tried.clear();
            }
            let clauses = rule.ports.len().max(1) * rule.uids.len().max(1);
            let index = if is_named { usize::MAX } else { index };
            tried.push((index, width, clauses));
        }
        tried.iter().map(|(_, _, clauses)| clauses).sum()
    }

    /// Whether there is an address for which more clauses would have to be tried than ever are.
    pub(in crate::policy::tests) fn walks_too_far(&self) -> bool {
        let chosen = self
            .rules
            .iter()
            .filter(|rule| rule.enabled && in_groups(rule, self.groups));
        let mut prefixes = chosen.flat_map(|rule| &rule.prefixes);
        prefixes.any(|prefix| self.walk(*prefix, None) > MAX_WALK as usize)
    }

    /// Whether a name that rules of these groups have has that address.
    pub(in crate::policy::tests) fn is_named(&self, address: Ipv6Addr) -> bool {
        self.answers.iter().any(|(index, known)| {
            let rule = &self.rules[*index as usize];
            rule.enabled && in_groups(rule, self.groups) && known.contains_key(&address)
        })
    }

    /// Whether so many rules cover an address that those with a name are left out there.
    pub(in crate::policy::tests) fn leaves_names_out(&self, address: Ipv6Addr) -> bool {
        self.walk(address.into(), Some(address)) > MAX_WALK as usize
    }
}

/// Whether nothing is tried after a rule.
fn takes_everything(rule: &Rule) -> bool {
    let is_known = !matches!(
        rule.action,
        RuleAction::Redirect(RedirectTo::Host { .. } | RedirectTo::Twin)
    );
    let takes_all = |rollout: &Rollout| rollout.percent == 100;
    conditions(rule) == 0
        && is_known
        && rule.mode == Mode::Enforce
        && rule.expires.is_none()
        && rule.rollout.as_ref().is_none_or(takes_all)
}

/// Whether two rules at one prefix are alike in all that they do, to the same connects.
fn is_duplicate(a: &Rule, b: &Rule) -> bool {
    let of = |rule: &Rule| {
        let errno = (rule.action != RuleAction::Allow).then_some(rule.errno.number);
        let life = (rule.mode, rule.expires, rule.rollout.clone());
        (
            conditions(rule),
            rule.action.clone(),
            errno,
            rule.transparent,
            life,
        )
    };
    let matched = |rule: &Rule| -> Vec<bool> {
        connects()
            .map(|(port, protocol, uid)| matches(rule, port, protocol, uid))
            .collect()
    };
    of(a) == of(b) && a.host == b.host && matched(a) == matched(b)
}
