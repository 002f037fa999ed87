//! Numbers to names: a [`Record`] and a [`Catalog`] give an [`Event`].
//!
//! The run loop tells the catalog what each number means, when it attaches and when it applies a policy; this
//! room never looks anything up on the machine. Nothing is printed here, and nothing escaped: that is the
//! sinks' work.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use enforcer_common::{clause::Action, errno, record::Hook};
use jiff::Timestamp;

use super::{
    decode::{Checked, Record},
    event::{Event, RedirectTo, RuleRef, Would},
};
use crate::policy::rule::Rule;

/// Which errno a rejected caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerErrno {
    /// The rule's.
    AsRuled,
    /// EPERM whatever the rule says: a kernel without `bpf_set_retval` (before 5.18).
    AlwaysEperm,
}

/// What the numbers in records mean.
///
/// Names are never forgotten by themselves: a record can be in flight after its target is gone.
#[derive(Clone, Debug)]
pub struct Catalog {
    caller_errno: CallerErrno,
    targets: HashMap<u32, Arc<str>>,
    cgroups: HashMap<u64, Arc<str>>,
    /// For each generation number its policies, oldest first. The kernel's numbers are array indices, used
    /// again and again: the time of the record says which policy is meant.
    generations: HashMap<u32, Vec<Published>>,
    /// Whether some of them may be retired.
    has_retired: bool,
}

#[derive(Clone, Debug)]
struct Published {
    from_boot_ns: u64,
    until_boot_ns: Option<u64>,
    rules: Arc<[Rule]>,
}

impl Catalog {
    /// A catalog that knows nothing yet but which errno callers get.
    #[must_use]
    pub fn new(caller_errno: CallerErrno) -> Self {
        Self {
            caller_errno,
            targets: HashMap::new(),
            cgroups: HashMap::new(),
            generations: HashMap::new(),
            has_retired: false,
        }
    }

    /// Names the target with that index.
    pub fn name_target(&mut self, index: u32, name: impl Into<Arc<str>>) {
        self.targets.insert(index, name.into());
    }

    /// Names the governed cgroup with that id: its path relative to the v2 mount, beginning with `/`.
    pub fn name_cgroup(&mut self, id: u64, path: impl Into<Arc<str>>) {
        self.cgroups.insert(id, path.into());
    }

    /// Forgets a cgroup, once no record of it can be in flight any more.
    pub fn forget_cgroup(&mut self, id: u64) {
        self.cgroups.remove(&id);
    }

    /// From `from_boot_ns` on (CLOCK_BOOTTIME; read it before the kernel gets the policy), `rules` are what
    /// rule indices of that generation mean: the same slice, in the same order, that the policy was compiled
    /// from. Records from before keep the meaning that the number had then.
    pub fn publish_rules(&mut self, generation: u32, from_boot_ns: u64, rules: Arc<[Rule]>) {
        let current = self.generations.get(&generation).and_then(|all| all.last());
        // A number that means the same again needs no second entry, or there would be more with each change.
        if current
            .is_some_and(|current| current.until_boot_ns.is_none() && Arc::ptr_eq(&current.rules, &rules))
        {
            return;
        }
        self.retire_rules(generation, from_boot_ns);
        self.generations.entry(generation).or_default().push(Published {
            from_boot_ns,
            until_boot_ns: None,
            rules,
        });
    }

    /// The generation is in force nowhere since `at_boot_ns`. Records in flight are still resolved.
    pub fn retire_rules(&mut self, generation: u32, at_boot_ns: u64) {
        if let Some(current) = self
            .generations
            .get_mut(&generation)
            .and_then(|all| all.last_mut())
        {
            current.until_boot_ns.get_or_insert(at_boot_ns);
            self.has_retired = true;
        }
    }

    /// Retires the rules of all generations but these: none of the others is in force since `at_boot_ns`.
    pub fn retire_all_but(&mut self, in_force: &HashSet<u32>, at_boot_ns: u64) {
        let others: Vec<u32> = self
            .generations
            .keys()
            .filter(|generation| !in_force.contains(generation))
            .copied()
            .collect();
        for generation in others {
            self.retire_rules(generation, at_boot_ns);
        }
    }

    /// Whether there may be rules to forget.
    #[must_use]
    pub const fn has_retired(&self) -> bool {
        self.has_retired
    }

    /// Forgets the rules that were retired before `boot_ns`. Call it with a time before which the ring buffer
    /// is known to be drained.
    pub fn forget_rules_retired_before(&mut self, boot_ns: u64) {
        self.generations.retain(|_, published| {
            published.retain(|one| one.until_boot_ns.is_none_or(|until| until >= boot_ns));
            !published.is_empty()
        });
        let mut left = self.generations.values().flatten();
        self.has_retired = left.any(|one| one.until_boot_ns.is_some());
    }

    /// The event of a record, at the wall-clock time that [`Clock`](super::clock::Clock) gave it.
    #[must_use]
    pub fn event(&self, record: &Record, time: Timestamp) -> Event {
        let rule = record.rule.map(|index| self.rule(record, index));
        let would_rule = record.would_rule.map(|index| self.rule(record, index));
        let prefix = rule
            .as_ref()
            .or(would_rule.as_ref())
            .and_then(RuleRef::get)
            // Exact, although the record does not say which prefix it was. The kernel walks the clauses from
            // the longest prefix of the whole policy outwards (clause.rs: each list ends by continuing with
            // that of the covering prefix), and all prefixes of one rule carry the same conditions. So a rule
            // that matched at one of its prefixes matched first at its own longest.
            .and_then(|rule| rule.covering_prefix(record.daddr));
        let would = record.would.map(|action| Would {
            action,
            rule: would_rule,
        });
        let done_to = record
            .redirect
            .map(|(addr, port)| RedirectTo::new(addr, port, record.dport));
        // In audit mode no clause acted, so the kernel has no address to report; the rule has.
        let unmoved_to = || match (record.unmovable, &would) {
            (Some(_), Some(would)) => would.redirect_to(record.daddr, record.dport),
            _ => None,
        };
        let rejected = record.verdict == Checked::Known(Action::Reject);
        Event {
            time,
            verdict: record.verdict,
            redirect_to: done_to.or_else(unmoved_to),
            would,
            mode: record.mode,
            errno: record.errno,
            errno_caller: match self.caller_errno {
                CallerErrno::AlwaysEperm if rejected => Some(errno::EPERM.number),
                CallerErrno::AsRuled if rejected => record.errno,
                _ => None,
            },
            daddr: record.daddr,
            dport: record.dport,
            protocol: record.protocol,
            socket_type: record.socket_type,
            unmovable: record.unmovable,
            rule,
            prefix,
            target: self.targets.get(&record.target).cloned(),
            pid: record.pid,
            tid: record.tid,
            uid: record.uid,
            comm: record.comm,
            cgroup_id: record.cgroup_id,
            cgroup: self.cgroups.get(&record.cgroup_id).cloned(),
            task_cgroup_id: record.task_cgroup_id,
            left_out: record.left_out_rule.map(|index| self.rule(record, index)),
            hook: record.hook,
            // The one that became the record. Whoever can ask the kernel knows of more.
            datagrams: (record.hook == Checked::Known(Hook::Sendmsg)).then_some(1),
        }
    }

    fn rule(&self, record: &Record, index: u32) -> RuleRef {
        let rules = self.generations.get(&record.generation).and_then(|published| {
            published
                .iter()
                .rev()
                .find(|one| one.from_boot_ns <= record.time_boot_ns)
                .or(published.first())
                .map(|one| Arc::clone(&one.rules))
        });
        RuleRef {
            rules,
            generation: record.generation,
            index,
        }
    }
}

#[cfg(test)]
mod tests {
    use enforcer_common::{
        clause::NO_RULE,
        decide::{Mode, Unmovable},
        record::ConnectRecord,
    };

    use super::*;
    use crate::{
        events::fixture::{self, event_of, rule},
        policy::rule::RuleAction,
    };

    #[test]
    fn everything_the_catalog_knows_is_named() {
        let event = event_of(fixture::rejected());
        assert_eq!(event.target.as_deref(), Some("web"));
        assert_eq!(event.cgroup.as_deref(), Some("/system.slice/web.service"));
        assert_eq!(event.rule.unwrap().to_string(), "aws-apse1-has-no-route-here");
        assert_eq!(event.prefix, Some("2406:da1a::/32".parse().unwrap()));
        assert_eq!((event.errno, event.errno_caller), (Some(101), Some(101)));
    }

    #[test]
    fn what_the_catalog_does_not_know_is_absent_and_a_rule_is_still_told_apart_from_none() {
        let event = event_of(ConnectRecord {
            target: 77,
            cgroup_id: 78,
            rule: 79,
            ..fixture::rejected()
        });
        assert_eq!((event.target, event.cgroup, event.prefix), (None, None, None));
        assert_eq!(event.rule.unwrap().to_string(), "rule 79 of generation 1");
    }

    #[test]
    fn a_kernel_without_set_retval_gives_every_rejected_caller_eperm_and_no_other() {
        let catalog = fixture::catalog(CallerErrno::AlwaysEperm);
        let event = fixture::event_with(&catalog, fixture::rejected());
        assert_eq!((event.errno, event.errno_caller), (Some(101), Some(1)));
        for other in [fixture::redirected(), fixture::allowed(), fixture::audited()] {
            assert_eq!(fixture::event_with(&catalog, other).errno_caller, None);
        }
    }

    #[test]
    fn a_redirect_shows_its_port_only_where_the_rule_changed_it() {
        let to = |port| {
            let record = ConnectRecord {
                redirect_port: port,
                ..fixture::redirected()
            };
            event_of(record).redirect_to.unwrap().to_string()
        };
        assert_eq!(to(fixture::redirected().dport), "10.77.0.1");
        assert_eq!(to(6432), "10.77.0.1:6432");
    }

    #[test]
    fn in_audit_mode_the_prefix_and_the_errno_come_from_the_rule_that_would_have_acted() {
        let event = event_of(fixture::audited());
        assert_eq!(event.prefix, Some("2406:da1a::/32".parse().unwrap()));
        assert!(event.rule.is_none());
        assert_eq!((event.errno, event.errno_caller), (None, None));
        assert_eq!(event.would.unwrap().errno(), Some(101));
    }

    #[test]
    fn an_unmovable_socket_in_audit_mode_still_says_where_it_would_have_gone() {
        let event = event_of(ConnectRecord {
            verdict: 0,
            would: Action::Reject as u8,
            rule: NO_RULE,
            would_rule: 1,
            mode: Mode::Audit as u8,
            unmovable: Unmovable::Bound as u8,
            redirect_be: [0; 4],
            redirect_port: 0,
            ..fixture::redirected()
        });
        assert_eq!(event.redirect_to.unwrap().to_string(), "10.77.0.1");
    }

    #[test]
    fn records_in_flight_keep_the_rules_their_generation_had_when_they_were_made() {
        let mut catalog = Catalog::new(CallerErrno::AsRuled);
        let label_at = |catalog: &Catalog, time_boot_ns| {
            let record = ConnectRecord {
                time_boot_ns,
                ..fixture::rejected()
            };
            fixture::event_with(catalog, record).rule.unwrap().to_string()
        };
        catalog.publish_rules(1, 100, Arc::new([rule("old", &["::/0"], RuleAction::Reject)]));
        catalog.publish_rules(1, 200, Arc::new([rule("new", &["::/0"], RuleAction::Reject)]));
        assert_eq!(label_at(&catalog, 199), "old");
        assert_eq!(label_at(&catalog, 200), "new");
        catalog.forget_rules_retired_before(200);
        assert_eq!(label_at(&catalog, 199), "old", "retired at 200, not before");
        catalog.forget_rules_retired_before(201);
        assert_eq!(label_at(&catalog, 199), "new");
        catalog.retire_rules(1, 300);
        assert_eq!(label_at(&catalog, 301), "new", "retired is not forgotten");
        catalog.forget_rules_retired_before(400);
        assert_eq!(label_at(&catalog, 301), "rule 0 of generation 1");
    }
}
