//! The names that rules have: looked up once, now, by this host's nameservers. What follows from the answers is for
//! [`Now`] to say, as it is for `run`. Nothing is remembered, and `run` may have been given other answers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use crate::{
    daemon::{Now, request},
    names::{Answers, Follower, HostName, Note, Options, Request},
    policy::rule::{RedirectTo, Resolve, Rule, RuleAction},
};

/// How long nameservers are waited for.
const PATIENCE: Duration = Duration::from_secs(8);

/// The target that is asked about, for [`Now`]: one whose own nameservers nobody asked.
pub(super) const TARGET: Option<usize> = Some(0);

/// A name that rules have, and what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Name {
    /// Its addresses, sorted; none while nobody was asked.
    pub(super) aaaa: BTreeSet<Ipv6Addr>,
    /// As above.
    pub(super) a: BTreeSet<Ipv4Addr>,
    /// Whether a nameserver was asked, and answered or failed to.
    pub(super) looked_up: bool,
    /// What there is to say about that.
    pub(super) notes: Vec<String>,
}

impl Name {
    fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// The names of a policy's rules.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) names: BTreeMap<HostName, Name>,
    pub(super) answers: BTreeMap<Request, Answers>,
}

/// The name that a rule redirects to.
pub(super) const fn to_host(rule: &Rule) -> Option<&HostName> {
    match &rule.action {
        RuleAction::Redirect(RedirectTo::Host { name, .. }) => Some(name),
        _ => None,
    }
}

/// The name that a rule has: a rule for a name redirects to no other.
fn name_of(rule: &Rule) -> Option<&HostName> {
    rule.host.as_ref().map(|host| &host.name).or(to_host(rule))
}

/// Looks up the names of those rules, or leaves that out.
pub(super) async fn look_up<'rules>(
    rules: impl Iterator<Item = &'rules Rule>,
    is_wanted: bool,
    options: Options,
) -> Names {
    let mut names = Names::default();
    let mut requests = BTreeSet::new();
    for rule in rules {
        let Some(name) = name_of(rule) else { continue };
        let name = names.names.entry(name.clone()).or_default();
        if rule.resolve == Resolve::Target {
            name.note("its target's nameservers are to be asked, which only `run` does".to_owned());
        } else if is_wanted {
            requests.extend(request(rule, None));
        } else {
            name.note("not looked up".to_owned());
        }
    }
    if !requests.is_empty() {
        names.ask(requests, options).await;
    }
    names
}

impl Names {
    async fn ask(&mut self, requests: BTreeSet<Request>, options: Options) {
        let mut follower = Follower::new(options);
        if let Err(error) = follower.follow(requests) {
            for name in self.names.values_mut() {
                name.note(error.to_string());
            }
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        let mut heard_of = BTreeSet::new();
        while let Ok(change) = timeout_at(deadline, follower.changed()).await {
            for note in change.notes {
                let request = subject(&note);
                heard_of.insert(request.clone());
                let hint = note.hint().map_or(String::new(), |hint| format!("; {hint}"));
                if let Some(name) = self.names.get_mut(&request.name) {
                    name.note(format!("{note}{hint}"));
                }
            }
            heard_of.extend(change.changed);
            if change.settled {
                break;
            }
        }
        for (request, answers) in follower.answers() {
            let Some(name) = self.names.get_mut(&request.name) else {
                continue;
            };
            name.aaaa.extend(answers.aaaa.iter().map(|seen| seen.address));
            name.a.extend(answers.a.iter().map(|seen| seen.address));
            if heard_of.contains(request) {
                name.looked_up = true;
            } else {
                name.note(format!("no answer within {} s", PATIENCE.as_secs()));
            }
            self.answers.insert(request.clone(), answers);
        }
    }

    /// What follows from them, and from when rules end.
    pub(super) fn now(&self, rules: &[Rule], deadlines_boot_ns: HashMap<u32, u64>) -> Now {
        Now::of(Arc::from(rules), deadlines_boot_ns, self.answers.clone())
    }
}

const fn subject(note: &Note) -> &Request {
    match note {
        Note::Failed { request, .. }
        | Note::NoAddress { request, .. }
        | Note::Recovered { request }
        | Note::Unusable { request, .. }
        | Note::TooManyAddresses { request } => request,
    }
}
