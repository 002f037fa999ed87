//! [`Now`]: what is true at a moment of times and names, and what that means for the rules of groups. Follows nothing, and
//! asks nobody.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv6Addr,
    sync::Arc,
};

use enforcer_common::decide::Mode;

use crate::{
    events::clock::boot_now_ns,
    names::{
        self, Request,
        twins::{self, Claim, Twin, twins},
    },
    policy::{
        live::Live,
        overlay::{Answers, Becomes},
        rule::{GroupName, RedirectTo, Resolve, Rule, RuleAction, WithoutTwin},
    },
};

/// What is true now of times and names.
#[derive(Clone, Debug, Default)]
pub struct Now {
    rules: Arc<[Rule]>,
    /// When that was, on CLOCK_BOOTTIME.
    at_boot_ns: u64,
    deadlines_boot_ns: HashMap<u32, u64>,
    names: BTreeMap<Request, names::Answers>,
}

/// What is asked for because of a rule, for a target; of this host's nameservers where there is none.
#[must_use]
pub fn request(rule: &Rule, target: Option<usize>) -> Option<Request> {
    rule.request(target)
}

impl Now {
    /// Whether rules of those groups have names.
    #[must_use]
    pub fn has_names(rules: &[Rule], groups: &[GroupName]) -> bool {
        rules
            .iter()
            .any(|rule| rule.enabled && rule.is_in(groups) && request(rule, None).is_some())
    }

    /// Whether the rules of those groups have answers of their own for each target.
    #[must_use]
    pub fn is_scoped(rules: &[Rule], groups: &[GroupName]) -> bool {
        rules.iter().any(|rule| {
            let named = request(rule, None).is_some();
            rule.enabled && named && rule.resolve == Resolve::Target && rule.is_in(groups)
        })
    }

    /// What is true if that is all that is known: when rules end, and what names are.
    #[must_use]
    pub fn of(
        rules: Arc<[Rule]>,
        deadlines_boot_ns: HashMap<u32, u64>,
        names: BTreeMap<Request, names::Answers>,
    ) -> Self {
        Self {
            rules,
            deadlines_boot_ns,
            at_boot_ns: boot_now_ns(),
            names,
        }
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &Arc<[Rule]> {
        &self.rules
    }

    /// What the compiler needs of it for a target, by its place in the list of targets.
    #[must_use]
    pub fn live(&self, target: Option<usize>) -> Live {
        let mut destinations = HashMap::new();
        for (index, rule) in (0..).zip(self.rules.iter()) {
            if let RuleAction::Redirect(RedirectTo::Host { .. }) = rule.action
                && let Some(answers) = self.answers_of(rule, target)
            {
                destinations.insert(index, answers.current_a());
            }
        }
        Live {
            deadlines_boot_ns: self.deadlines_boot_ns.clone(),
            destinations,
        }
    }

    /// The addresses of the names of those groups' rules, for a target.
    #[must_use]
    pub fn answers(&self, groups: &[GroupName], target: Option<usize>) -> Answers {
        let named = self.named(groups, target);
        let of_all: HashMap<_, _> = self.twins(groups, target, false).twins.into_iter().collect();
        let of_enforced: HashMap<_, _> = self.twins(groups, target, true).twins.into_iter().collect();
        let mut found = Answers::new();
        for (index, rule, answers) in named {
            // What a rule that is only tried says must not change what another does.
            let twins = if self.is_enforced(index, rule) {
                &of_enforced
            } else {
                &of_all
            };
            let of_rule: &mut BTreeMap<_, _> = found.entry(index).or_default();
            for seen in &answers.aaaa {
                let becomes = if !matches!(rule.action, RuleAction::Redirect(_)) {
                    Becomes::AsRuled
                } else {
                    match twins.get(&seen.address) {
                        // Whether there are IPv4 addresses is not known yet.
                        None => Becomes::To(Vec::new()),
                        Some(Twin::Allow) => Becomes::Absent,
                        Some(Twin::Reject(_)) => Becomes::Rejected,
                        Some(Twin::To(addresses)) => Becomes::To(addresses.clone()),
                    }
                };
                of_rule.insert(seen.address, becomes);
            }
        }
        found
    }

    /// Whether a rule acts, as far as that is the same for every connect.
    fn is_enforced(&self, index: u32, rule: &Rule) -> bool {
        let deadline = self.deadlines_boot_ns.get(&index);
        rule.mode == Mode::Enforce && deadline.is_none_or(|deadline| *deadline > self.at_boot_ns)
    }

    fn answers_of(&self, rule: &Rule, target: Option<usize>) -> Option<&names::Answers> {
        self.names.get(&request(rule, target)?)
    }

    /// The rules of those groups that have a name, with what is known of it.
    fn named(&self, groups: &[GroupName], target: Option<usize>) -> Vec<(u32, &Rule, &names::Answers)> {
        (0..)
            .zip(self.rules.iter())
            .filter(|(_, rule)| rule.enabled && rule.host.is_some() && rule.is_in(groups))
            .filter_map(|(index, rule)| Some((index, rule, self.answers_of(rule, target)?)))
            .collect()
    }

    /// The twins of the addresses of all redirected names, or of those that are redirected in earnest.
    fn twins(&self, groups: &[GroupName], target: Option<usize>, enforced_only: bool) -> twins::Twins {
        let named = self.named(groups, target);
        twins(
            named
                .iter()
                .filter(|(_, rule, _)| matches!(rule.action, RuleAction::Redirect(_)))
                .filter(|(index, rule, _)| !enforced_only || self.is_enforced(*index, rule))
                .filter_map(|(_, rule, answers)| {
                    let asked = request(rule, target)?;
                    let host = rule.host.as_ref()?;
                    let without_twin = match host.without_twin {
                        WithoutTwin::Reject => twins::WithoutTwin::Reject,
                        WithoutTwin::Allow => twins::WithoutTwin::Allow,
                    };
                    Some(Claim {
                        name: host.name.as_str(),
                        resolver: asked.resolver,
                        allow_private: asked.allow_private,
                        answers,
                        without_twin,
                    })
                }),
        )
    }

    /// What people should know of the names of those groups' rules: of all, or of those that have that address. By
    /// what stays the same for as long as it is so, while numbers and addresses in the text may change.
    #[must_use]
    pub fn notes(
        &self,
        groups: &[GroupName],
        target: Option<usize>,
        about: Option<Ipv6Addr>,
    ) -> BTreeMap<String, String> {
        let has_it = |answers: &names::Answers| {
            about.is_none_or(|about| answers.aaaa.iter().any(|seen| seen.address == about))
        };
        let named = self.named(groups, target);
        let named: Vec<_> = named.iter().filter(|(_, _, answers)| has_it(answers)).collect();
        let is_wanted = |note: &twins::Note| match note {
            twins::Note::Conflict { addresses, .. } => about.is_none_or(|about| addresses.contains(&about)),
            twins::Note::Ipv6Only { name, .. } => named.iter().any(|(_, rule, _)| {
                let host = rule.host.as_ref();
                host.is_some_and(|host| host.name.as_str() == name)
            }),
        };
        let twins = self.twins(groups, target, false).notes;
        let mut notes = BTreeMap::new();
        for note in twins.into_iter().filter(is_wanted) {
            match note {
                twins::Note::Conflict { addresses, names } => {
                    let about = about.map_or(addresses, |about| vec![about]);
                    let key = names.join("\0");
                    let note = twins::Note::Conflict {
                        addresses: about,
                        names,
                    };
                    notes.insert(key, note.to_string());
                }
                note @ twins::Note::Ipv6Only { .. } => {
                    notes.insert(note.to_string(), note.to_string());
                }
            }
        }
        for (_, rule, answers) in &named {
            if let (Some(host), RuleAction::Reject) = (&rule.host, &rule.action)
                && answers.a_answered
                && answers.a.is_empty()
                && !answers.aaaa.is_empty()
            {
                let note = twins::Note::Ipv6Only {
                    name: host.name.to_string(),
                    without_twin: twins::WithoutTwin::Reject,
                };
                notes.insert(note.to_string(), note.to_string());
            }
        }
        notes
    }
}
