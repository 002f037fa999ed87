//! What a reload changed, in a line.

use std::{collections::HashMap, fmt, time::Duration};

use enforcer_common::decide::Mode;
use ipnet::Ipv6Net;

use super::{super::prepare::counted, loaded::Loaded};
use crate::{
    daemon::Applied,
    policy::rule::{Rollout, Rule},
};

/// What became of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Changes {
    added: usize,
    removed: usize,
    changed: usize,
}

/// The line.
pub(super) struct Line {
    rules: usize,
    changes: Changes,
    mode: Option<Mode>,
    applied: Applied,
    took: Duration,
}

impl Line {
    pub(super) fn new(before: &Loaded, after: &Loaded, applied: Applied, took: Duration) -> Self {
        let rules = after.used_rules();
        Self {
            rules: rules.len(),
            changes: Changes::between(&before.used_rules(), &rules),
            mode: (before.mode != after.mode).then_some(after.mode),
            applied,
            took,
        }
    }
}

impl fmt::Display for Line {
    /// `reloaded: 12 rules (2 added, 1 removed, 1 changed), 4,096 entries, 1 cgroup attached, in 23 ms`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = match self.applied.entries {
            1 => "1 entry".to_owned(),
            several => format!("{} entries", grouped(several)),
        };
        write!(
            f,
            "reloaded: {} ({}), {entries}",
            counted(self.rules, "rule"),
            self.changes
        )?;
        if self.applied.attached > 0 {
            write!(f, ", {} attached", counted(self.applied.attached, "cgroup"))?;
        }
        if self.applied.detached > 0 {
            write!(f, ", {} detached", counted(self.applied.detached, "cgroup"))?;
        }
        match self.mode {
            Some(Mode::Audit) => f.write_str(", in audit mode now")?,
            Some(Mode::Enforce) => f.write_str(", enforcing now")?,
            None => {}
        }
        write!(f, ", in {} ms", self.took.as_millis())
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.added, "added"),
            (self.removed, "removed"),
            (self.changed, "changed"),
        ];
        let parts: Vec<_> = parts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if parts.is_empty() {
            f.write_str("unchanged")
        } else {
            f.write_str(&parts.join(", "))
        }
    }
}

/// What rules are likely the same by: their name, or else what they cover.
#[derive(PartialEq, Eq, Hash)]
enum Key<'rule> {
    Name(&'rule str),
    Covers(Option<Ipv6Net>, usize, Option<&'rule str>),
}

fn key(rule: &Rule) -> Key<'_> {
    if rule.is_nameless() {
        let host = rule.host.as_ref().map(|host| host.name.as_str());
        Key::Covers(rule.prefixes.first().copied(), rule.prefixes.len(), host)
    } else {
        Key::Name(&rule.label)
    }
}

impl Changes {
    fn between(before: &[&Rule], after: &[&Rule]) -> Self {
        let mut changes = Self::default();
        let mut left: HashMap<Key<'_>, Vec<&Rule>> = HashMap::new();
        for rule in before {
            left.entry(key(rule)).or_default().push(rule);
        }
        let mut other = Vec::new();
        for rule in after {
            let alike = left.get_mut(&key(rule));
            let same = alike.and_then(|alike| {
                let at = alike.iter().position(|earlier| is_same(earlier, rule))?;
                Some(alike.swap_remove(at))
            });
            if same.is_none() {
                other.push(key(rule));
            }
        }
        for key in other {
            match left.get_mut(&key).and_then(Vec::pop) {
                Some(_) => changes.changed += 1,
                None => changes.added += 1,
            }
        }
        changes.removed = left.values().map(Vec::len).sum();
        changes
    }
}

/// Whether they say the same, wherever they stand.
fn is_same(a: &Rule, b: &Rule) -> bool {
    let shares = |rule: &Rule| {
        rule.rollout.clone().map(|rollout| Rollout {
            canary_list: 0,
            ..rollout
        })
    };
    let a_is = (
        &a.groups,
        &a.host,
        a.resolve,
        a.allow_private,
        &a.action,
        a.errno.number,
    );
    let b_is = (
        &b.groups,
        &b.host,
        b.resolve,
        b.allow_private,
        &b.action,
        b.errno.number,
    );
    let a_counts = (
        &a.ports,
        a.proto,
        &a.uids,
        &a.reason,
        a.enabled,
        a.mode,
        a.expires,
        a.transparent,
    );
    let b_counts = (
        &b.ports,
        b.proto,
        &b.uids,
        &b.reason,
        b.enabled,
        b.mode,
        b.expires,
        b.transparent,
    );
    a_is == b_is && a_counts == b_counts && shares(a) == shares(b) && a.prefixes == b.prefixes
}

/// `4,096`
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rule::{Origin, RuleAction};

    fn rule(name: &str, line: usize, prefix: &str, action: RuleAction) -> Rule {
        let origin = Origin::File {
            path: "p.toml".into(),
            line,
            column: 1,
        };
        let label = if name.is_empty() {
            origin.to_string()
        } else {
            name.to_owned()
        };
        Rule::plain(label, origin, vec![prefix.parse().unwrap()], action)
    }

    fn between(before: &[Rule], after: &[Rule]) -> String {
        let before: Vec<_> = before.iter().collect();
        let after: Vec<_> = after.iter().collect();
        Changes::between(&before, &after).to_string()
    }

    #[test]
    fn rules_that_only_moved_are_unchanged() {
        let before = [
            rule("", 3, "2001:db8:a::/48", RuleAction::Reject),
            rule("b", 7, "2001:db8:b::/48", RuleAction::Reject),
        ];
        let after = [
            rule("b", 3, "2001:db8:b::/48", RuleAction::Reject),
            rule("", 9, "2001:db8:a::/48", RuleAction::Reject),
        ];
        assert_eq!(between(&before, &after), "unchanged");
    }

    #[test]
    fn what_is_added_removed_and_changed_is_counted_once() {
        let before = [
            rule("", 3, "2001:db8:a::/48", RuleAction::Reject),
            rule("b", 7, "2001:db8:b::/48", RuleAction::Reject),
            rule("c", 9, "2001:db8:c::/48", RuleAction::Reject),
        ];
        let after = [
            rule("", 3, "2001:db8:a::/48", RuleAction::Allow),
            rule("b", 7, "2001:db8:bb::/48", RuleAction::Reject),
            rule("d", 9, "2001:db8:c::/48", RuleAction::Reject),
            rule("", 12, "2001:db8:e::/48", RuleAction::Reject),
        ];
        assert_eq!(between(&before, &after), "2 added, 1 removed, 2 changed");
    }

    #[test]
    fn equal_rules_are_counted_each() {
        let one = rule("", 3, "2001:db8:a::/48", RuleAction::Reject);
        let again = rule("", 5, "2001:db8:a::/48", RuleAction::Reject);
        let both = [one, again];
        assert_eq!(between(&both[..1], &both), "1 added");
        assert_eq!(between(&both, &both[1..]), "1 removed");
    }

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (4_096, "4,096"), (1_000_000, "1,000,000")] {
            assert_eq!(grouped(number), text);
        }
    }
}
