//! The account at the end, for people, from the kernel's own counters.
//!
//! What would have been done is never added to what was: each stands on a line of its own. This room does not
//! read the counters, nor decide where the text goes.

use std::fmt;

use enforcer_common::{
    clause::Action,
    counters::{Counters, Fault},
    decide::Mode,
};

use super::text::Harmless;

/// What happened from attach to detach. Shown as several lines, without a newline at the end.
#[derive(Clone, Debug)]
pub struct Summary<'run> {
    /// Counters of all targets, summed over CPUs, unconfigured cgroups (index 0) included.
    pub total: Counters,
    /// Name and counters of each target, in the order to show them. Shown where there are several.
    pub targets: &'run [(&'run str, Counters)],
    /// Events that reached the stream.
    pub delivered: u64,
    /// Events that were wanted and did not reach the stream, wherever they were lost.
    pub lost: u64,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Connects(&self.total))?;
        if let Some(would) = Would::of(&self.total) {
            write!(f, "\naudit: {would}")?;
        }
        if let Some(left_out) = LeftOut::of(&self.total) {
            write!(f, "\nrollout: {left_out}")?;
        }
        if let Some(names) = Names::of(&self.total) {
            write!(f, "\nnames: {names}")?;
        }
        write!(f, "\nevents: {} delivered, {} lost", self.delivered, self.lost)?;
        match self.total.repeated {
            0 => {}
            1 => write!(f, "; 1 more datagram shares one")?,
            count => write!(f, "; {count} more datagrams share one")?,
        }
        if let Some(faults) = Faults::of(&self.total) {
            write!(f, "\nfaults: {faults}")?;
        }
        if self.targets.len() > 1 {
            for (name, counters) in self.targets {
                write!(f, "\n  {}: {}", Harmless(name), Connects(counters))?;
                if let Some(would) = Would::of(counters) {
                    write!(f, "; audit: {would}")?;
                }
                if let Some(left_out) = LeftOut::of(counters) {
                    write!(f, "; rollout: {left_out}")?;
                }
                if let Some(names) = Names::of(counters) {
                    write!(f, "; names: {names}")?;
                }
                if let Some(faults) = Faults::of(counters) {
                    write!(f, "; faults: {faults}")?;
                }
            }
        }
        Ok(())
    }
}

/// What was done.
struct Connects<'run>(&'run Counters);

impl fmt::Display for Connects<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.0.seen();
        let noun = if seen == 1 { "connect" } else { "connects" };
        write!(
            f,
            "{seen} {noun} seen: {} allowed, {} rejected, {} redirected",
            self.0.done(Action::Allow),
            self.0.done(Action::Reject),
            self.0.done(Action::Redirect),
        )
    }
}

/// What would have been done.
struct Would<'run>(&'run Counters);

impl<'run> Would<'run> {
    /// `None` where nothing was only tried.
    fn of(counters: &'run Counters) -> Option<Self> {
        let audited = audited(counters);
        (audited > 0 || counters.would.iter().any(|count| *count > 0)).then_some(Self(counters))
    }
}

fn audited(counters: &Counters) -> u64 {
    counters.verdicts[Mode::Audit as usize].iter().sum()
}

impl fmt::Display for Would<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let would = |action: Action| self.0.would[action as usize];
        match audited(self.0) {
            // Single rules are in audit mode.
            0 => {}
            audited => write!(f, "of {audited} connects in audit mode, ")?,
        }
        write!(
            f,
            "{} would have been rejected, {} redirected, {} allowed by a rule",
            would(Action::Reject),
            would(Action::Redirect),
            would(Action::Allow),
        )
    }
}

/// Connects that rollouts did not include.
struct LeftOut(u64);

impl LeftOut {
    fn of(counters: &Counters) -> Option<Self> {
        (counters.left_out > 0).then_some(Self(counters.left_out))
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.0 == 1 { "connect" } else { "connects" };
        write!(f, "{} {noun} left_out", self.0)
    }
}

/// How well the addresses of names are known.
struct Names {
    hits: u64,
    misses: u64,
}

impl Names {
    /// `None` where no connect went to an address of a name, or near one.
    fn of(counters: &Counters) -> Option<Self> {
        let names = Self {
            hits: counters.name_hits,
            misses: counters.name_misses,
        };
        (names.hits + names.misses > 0).then_some(names)
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.hits + self.misses;
        write!(
            f,
            "hit_ratio {:.3}: {} to known addresses, {} to others in the same /48",
            self.hits as f64 / all as f64,
            self.hits,
            self.misses
        )
    }
}

/// Faults that were met, by name.
struct Faults<'run>(&'run Counters);

impl<'run> Faults<'run> {
    fn of(counters: &'run Counters) -> Option<Self> {
        counters
            .faults
            .iter()
            .any(|count| *count > 0)
            .then_some(Self(counters))
    }
}

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = Fault::ALL.into_iter().filter(|fault| self.0.fault(*fault) > 0);
        for (i, fault) in met.enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{} {}", fault.name(), self.0.fault(fault))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enforced() -> Counters {
        Counters {
            verdicts: [[20, 8, 2], [0; 3]],
            events: 29,
            lost: 1,
            ..Counters::default()
        }
    }

    fn audited_only() -> Counters {
        Counters {
            verdicts: [[0; 3], [10, 0, 0]],
            would: [1, 5, 2],
            events: 10,
            ..Counters::default()
        }
    }

    fn summary(total: Counters, targets: &[(&str, Counters)]) -> String {
        Summary {
            total,
            targets,
            delivered: 29,
            lost: 1,
        }
        .to_string()
    }

    #[test]
    fn one_target_needs_two_lines() {
        assert_eq!(
            summary(enforced(), &[("web", enforced())]),
            "30 connects seen: 20 allowed, 8 rejected, 2 redirected\n\
             events: 29 delivered, 1 lost"
        );
    }

    #[test]
    fn datagrams_that_share_an_event_are_told() {
        for (repeated, expected) in [
            (1, "events: 29 delivered, 1 lost; 1 more datagram shares one"),
            (99, "events: 29 delivered, 1 lost; 99 more datagrams share one"),
        ] {
            let counters = Counters {
                repeated,
                ..enforced()
            };
            assert!(summary(counters, &[]).ends_with(expected));
        }
    }

    #[test]
    fn what_would_have_been_done_is_never_added_to_what_was() {
        let mut total = enforced();
        total.add(&audited_only());
        assert_eq!(
            summary(total, &[("web", enforced()), ("db", audited_only())]),
            "40 connects seen: 30 allowed, 8 rejected, 2 redirected\n\
             audit: of 10 connects in audit mode, 5 would have been rejected, 2 redirected, 1 allowed by a rule\n\
             events: 29 delivered, 1 lost\n\
             \x20 web: 30 connects seen: 20 allowed, 8 rejected, 2 redirected\n\
             \x20 db: 10 connects seen: 10 allowed, 0 rejected, 0 redirected; \
             audit: of 10 connects in audit mode, 5 would have been rejected, 2 redirected, 1 allowed by a rule"
        );
    }

    #[test]
    fn audit_that_matched_nothing_says_so() {
        let counters = Counters {
            verdicts: [[0; 3], [3, 0, 0]],
            ..Counters::default()
        };
        assert!(summary(counters, &[]).contains("of 3 connects in audit mode, 0 would have been rejected"));
    }

    #[test]
    fn faults_are_named_and_only_those_that_were_met() {
        let mut counters = enforced();
        counters.faults[Fault::Unconfigured as usize] = 3;
        counters.faults[Fault::MarkFailed as usize] = 1;
        let text = summary(counters, &[]);
        assert!(
            text.ends_with("\nfaults: unconfigured 3, mark_failed 1"),
            "{text}"
        );
        assert!(!summary(enforced(), &[]).contains("fault"));
    }

    #[test]
    fn a_target_cannot_write_its_own_lines() {
        let targets = [("a\nb", enforced()), ("c", enforced())];
        assert_eq!(summary(enforced(), &targets).lines().count(), 4);
    }
}
