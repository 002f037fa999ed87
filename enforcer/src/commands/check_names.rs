//! The names of a policy, asked for once: which of them cannot be looked up, or not used as the policy wants to. Only
//! names that this host's nameservers are asked for: what targets' nameservers say is known while they are governed.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, timeout_at};

use crate::{
    names::{Families, Follower, HostName, Note, Options, Request, Resolver},
    policy::rule::{Resolve, Rule, RuleAction},
};

/// How long all names together are waited for.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// Something about the name of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Index of the first rule that has to do with it.
    pub(super) rule: usize,
    /// What it is, in a line.
    pub(super) message: String,
    /// A way out.
    pub(super) hint: &'static str,
}

/// Asks for the names of those rules, as long as the limit allows.
pub(super) async fn look_up(rules: &[Rule], options: Options, limit: Duration) -> Vec<Finding> {
    let wanted = wanted(rules);
    let mut follower = Follower::new(options);
    let Some(first) = wanted.values().min() else {
        return Vec::new();
    };
    if let Err(error) = follower.follow(wanted.keys().cloned()) {
        return vec![Finding {
            rule: *first,
            message: error.to_string(),
            hint: "write the prefixes of some of them instead",
        }];
    }
    let deadline = Instant::now() + limit;
    let mut missing = BTreeMap::new();
    let mut silent = BTreeMap::new();
    let mut settled = false;
    while let (false, Ok(change)) = (settled, timeout_at(deadline, follower.changed()).await) {
        settled = change.settled;
        for note in change.notes {
            match note {
                Note::NoAddress { request, exists } => drop(missing.insert(request, exists)),
                Note::Failed { request, why } => drop(silent.insert(request, why)),
                _ => {}
            }
        }
    }
    let mut findings = Vec::new();
    let mut unanswered: Vec<(usize, &HostName, Option<&String>)> = Vec::new();
    for (request, answers) in follower.answers() {
        let Some(&rule) = wanted.get(request) else {
            continue;
        };
        let name = &request.name;
        let found = |message| Finding {
            rule,
            message,
            hint: "a name may be known elsewhere only: `resolve = \"target\"` asks the target's nameservers",
        };
        if let Some(exists) = missing.get(request) {
            findings.push(found(match (exists, request.families) {
                (false, _) => format!("there is no name {name}"),
                (true, Families::Both) => format!("{name} has no address"),
                (true, Families::Ipv4) => format!("{name} has no IPv4 address"),
            }));
        } else if answers.aaaa.is_empty() && answers.a.is_empty() {
            unanswered.push((rule, name, silent.get(request)));
        } else if answers.a_answered && answers.a.is_empty() && redirects_name(&rules[rule]) {
            findings.push(Finding {
                rule,
                message: format!("{name} has IPv6 addresses only: there is nothing to redirect to"),
                hint: "`to` or `to_host` of a rule with its prefix goes to an IPv4 address that you choose",
            });
        }
    }
    // Where nobody answers, that is one thing, however many names there are.
    unanswered.sort();
    if let Some((rule, name, why)) = unanswered.first() {
        let others = match unanswered.len() - 1 {
            0 => String::new(),
            1 => " and one more name".to_owned(),
            more => format!(" and {more} more names"),
        };
        let why = why.map_or_else(
            || format!("no answer within {} seconds", limit.as_secs()),
            |why| why.clone(),
        );
        findings.push(Finding {
            rule: *rule,
            message: format!("cannot look up {name}{others}: {why}"),
            hint: "until there is an answer the rule does nothing; `--no-resolve` asks nobody",
        });
    }
    findings.sort_by(|one, other| (one.rule, &one.message).cmp(&(other.rule, &other.message)));
    findings
}

/// What is asked for, with the first rule that wants to know.
fn wanted(rules: &[Rule]) -> BTreeMap<Request, usize> {
    let mut wanted = BTreeMap::new();
    for (index, rule) in rules.iter().enumerate() {
        if !rule.enabled || rule.resolve != Resolve::Host {
            continue;
        }
        for name in rule.names() {
            let is_own = rule.host.as_ref().is_some_and(|host| host.name == *name);
            let request = Request {
                name: name.clone(),
                families: if is_own { Families::Both } else { Families::Ipv4 },
                resolver: Resolver::Host,
                allow_private: false,
            };
            let first = wanted.entry(request).or_insert(index);
            // Of a name that is redirected there is more to say.
            if redirects_name(rule) && !redirects_name(&rules[*first]) {
                *first = index;
            }
        }
    }
    wanted
}

fn redirects_name(rule: &Rule) -> bool {
    rule.host.is_some() && matches!(rule.action, RuleAction::Redirect(_))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::policy::Policy;

    const TEXT: &str = r#"
        version = 1
        [[rule]]
        host = "both.example"
        [[rule]]
        host = "six.example"
        action = "redirect"
        [[rule]]
        prefix = "2001:db8::/32"
        action = "redirect"
        to_host = "six.example:5432"
        [[rule]]
        host = "nobody.example"
        [[rule]]
        host = "nobody-else.example"
        [[rule]]
        host = "disabled.example"
        enabled = false
        [[rule]]
        host = "inside.example"
        resolve = "target"
    "#;

    /// A host that has a `hosts` file, and no nameserver that anybody could reach.
    fn alone(directory: &Path) -> Options {
        let (hosts, resolv_conf) = (directory.join("hosts"), directory.join("resolv.conf"));
        let known = "2001:db8::1 both.example six.example\n192.0.2.1 both.example\n";
        fs::write(&hosts, known).unwrap();
        // Link-local nameservers are not asked.
        fs::write(&resolv_conf, "nameserver fe80::1%lo\n").unwrap();
        Options {
            resolv_conf,
            hosts,
            ..Options::default()
        }
    }

    #[tokio::test]
    async fn names_that_nobody_answers_for_are_one_finding_and_known_ones_are_none() {
        let (policy, _) = Policy::from_text(Path::new("p.toml"), TEXT.to_owned(), Vec::new()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let found = look_up(&policy.rules, alone(directory.path()), LIMIT).await;
        let told: Vec<_> = found
            .iter()
            .map(|finding| (finding.rule, finding.message.split(": ").next().unwrap()))
            .collect();
        assert_eq!(
            told,
            [
                (1, "six.example has IPv6 addresses only"),
                (2, "six.example has no IPv4 address"),
                (3, "cannot look up nobody.example and one more name"),
            ],
            "{found:?}"
        );
    }

    #[tokio::test]
    async fn nobody_is_asked_for_nothing() {
        let (policy, _) = Policy::load(None, Vec::new()).unwrap();
        let found = look_up(&policy.rules, Options::default(), LIMIT).await;
        assert_eq!(found, []);
    }
}
