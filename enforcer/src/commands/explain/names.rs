//! The names that rules have: looked up once, now, by this host's nameservers, and turned into what the policy is
//! compiled with. Nothing is remembered, and `run` may have been given other answers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use crate::{
    names::{
        Answers as Addresses, Families, Follower, HostName, Note, Options, Request, Resolver,
        twins::{self, Claim, Twin, twins},
    },
    policy::{
        overlay::{Answers, Becomes},
        rule::{GroupName, HostClause, RedirectTo, Resolve, Rule, RuleAction, WithoutTwin},
    },
};

/// How long nameservers are waited for.
const PATIENCE: Duration = Duration::from_secs(8);

/// A name that a rule has, and what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Name {
    /// Its addresses; none while nobody was asked.
    pub(super) addresses: Addresses,
    /// Whether a nameserver was asked, and answered or failed to.
    pub(super) looked_up: bool,
    /// What there is to say about that.
    pub(super) notes: Vec<String>,
}

/// The names of a policy's rules, as these write them.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) names: BTreeMap<String, Name>,
}

/// What follows from the names for the rules of some groups.
#[derive(Default)]
pub(super) struct Known {
    pub(super) answers: Answers,
    /// By rule, as [`Live::destinations`](crate::policy::live::Live::destinations).
    pub(super) destinations: HashMap<u32, Vec<Ipv4Addr>>,
    pub(super) notes: Vec<twins::Note>,
}

/// The name whose addresses a rule covers.
fn host(rule: &Rule) -> Option<&str> {
    rule.host.as_ref().map(|host| host.name.as_str())
}

/// The name that a rule redirects to.
pub(super) fn to_host(rule: &Rule) -> Option<&str> {
    match &rule.action {
        RuleAction::Redirect(RedirectTo::Host { name, .. }) => Some(name),
        _ => None,
    }
}

/// The names that a rule has.
pub(super) fn of_rule(rule: &Rule) -> impl Iterator<Item = &str> {
    host(rule).into_iter().chain(to_host(rule))
}

/// Looks up the names of those rules, or leaves that out.
pub(super) async fn look_up<'rules>(
    rules: impl Iterator<Item = &'rules Rule>,
    is_wanted: bool,
    options: Options,
) -> Names {
    let mut names = Names::default();
    let mut requests: BTreeMap<Request, BTreeSet<String>> = BTreeMap::new();
    for rule in rules {
        for text in of_rule(rule) {
            let name = names.names.entry(text.to_owned()).or_default();
            if rule.resolve == Resolve::Target {
                name.note("its target's nameservers are asked for it, which only `run` can do".to_owned());
            } else if !is_wanted {
                name.note("not looked up".to_owned());
            } else {
                match text.parse::<HostName>() {
                    Ok(parsed) => {
                        requests
                            .entry(request(parsed))
                            .or_default()
                            .insert(text.to_owned());
                    }
                    Err(error) => name.note(error.to_string()),
                }
            }
        }
    }
    if !requests.is_empty() {
        names.ask(&requests, options).await;
    }
    names
}

/// Both families, also of a name that is only redirected to: it costs one question, and is one answer for all rules.
const fn request(name: HostName) -> Request {
    Request {
        name,
        families: Families::Both,
        resolver: Resolver::Host,
        allow_private: false,
    }
}

impl Name {
    fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

impl Names {
    async fn ask(&mut self, requests: &BTreeMap<Request, BTreeSet<String>>, options: Options) {
        let mut follower = Follower::new(options);
        if let Err(error) = follower.follow(requests.keys().cloned()) {
            for name in self.names.values_mut() {
                name.note(error.to_string());
            }
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        let mut answered = BTreeSet::new();
        while let Ok(change) = timeout_at(deadline, follower.changed()).await {
            for note in change.notes {
                let Some(request) = subject(&note) else { continue };
                answered.insert(request.clone());
                let hint = note.hint().map_or(String::new(), |hint| format!("; {hint}"));
                for text in requests.get(request).into_iter().flatten() {
                    if let Some(name) = self.names.get_mut(text) {
                        name.note(format!("{note}{hint}"));
                    }
                }
            }
            answered.extend(change.changed);
            if change.settled {
                break;
            }
        }
        for (request, addresses) in follower.answers() {
            for text in requests.get(request).into_iter().flatten() {
                let Some(name) = self.names.get_mut(text) else {
                    continue;
                };
                name.looked_up = answered.contains(request);
                name.addresses = addresses.clone();
                if !name.looked_up {
                    name.note(format!("no answer within {} s", PATIENCE.as_secs()));
                }
            }
        }
    }

    fn addresses(&self, name: &str) -> Option<&Addresses> {
        self.names.get(name).map(|name| &name.addresses)
    }

    /// What follows for the rules of those groups.
    pub(super) fn known(&self, rules: &[Rule], groups: &[GroupName]) -> Known {
        let chosen = || {
            (0..)
                .zip(rules)
                .filter(|(_, rule)| rule.enabled && rule.is_in(groups))
        };
        let claims = chosen()
            .filter(|(_, rule)| rule.action == RuleAction::Redirect(RedirectTo::Twin))
            .filter_map(|(_, rule)| {
                let host = rule.host.as_ref()?;
                Some(Claim {
                    name: &host.name,
                    answers: self.addresses(&host.name)?,
                    without_twin: without_twin(host),
                })
            });
        let found = twins(claims);
        let twins: BTreeMap<Ipv6Addr, Twin> = found.twins.into_iter().collect();
        let mut known = Known {
            notes: found.notes,
            ..Known::default()
        };
        for (index, rule) in chosen() {
            if let Some(addresses) = to_host(rule).and_then(|name| self.addresses(name)) {
                known.destinations.insert(index, addresses.current_a());
            }
            let Some(addresses) = host(rule).and_then(|name| self.addresses(name)) else {
                continue;
            };
            let of_rule = addresses.aaaa.iter().filter_map(|seen| {
                let becomes = if rule.action == RuleAction::Redirect(RedirectTo::Twin) {
                    becomes(twins.get(&seen.address)?)
                } else {
                    Becomes::AsRuled
                };
                Some((seen.address, becomes))
            });
            known.answers.insert(index, of_rule.collect());
        }
        known
    }
}

const fn without_twin(host: &HostClause) -> twins::WithoutTwin {
    match host.without_twin {
        WithoutTwin::Reject => twins::WithoutTwin::Reject,
        WithoutTwin::Allow => twins::WithoutTwin::Allow,
    }
}

fn becomes(twin: &Twin) -> Becomes {
    match twin {
        Twin::To(addresses) => Becomes::To(addresses.clone()),
        Twin::Reject(_) => Becomes::Rejected,
        Twin::Allow => Becomes::Absent,
    }
}

const fn subject(note: &Note) -> Option<&Request> {
    match note {
        Note::Failed { request, .. }
        | Note::NoAddress { request, .. }
        | Note::Recovered { request }
        | Note::Unusable { request, .. }
        | Note::TooManyAddresses { request } => Some(request),
    }
}
