//! [`Batch`]: groups of the table that one `enforcer run` governs together, each in a cgroup of its own.
//!
//! Loading the programs takes longer than all connects of a group, on slow machines many times longer. A policy file may
//! have many targets, so groups that have one share it; those with rules of the command line are alone.

use anyhow::{Context as _, Result};
use enforcer::policy::rule::DEFAULT_GROUP;
use toml::{Table, Value};

use super::Group;

/// Groups that are governed together.
#[derive(Debug, Default)]
pub struct Batch<'group> {
    /// The groups; all are of one mode.
    pub groups: Vec<&'group Group>,
    /// Names that nobody else may have in one file.
    taken: Vec<String>,
}

/// Distributes groups, in their order.
///
/// # Errors
///
/// When a policy is no TOML.
pub fn batches(groups: &[Group]) -> Result<Vec<Batch<'_>>> {
    let mut batches: Vec<Batch<'_>> = Vec::new();
    for group in groups {
        let names = fixed_names(group)?;
        let fits = |batch: &Batch<'_>| {
            let shares = |one: &Group| one.policy.is_some() && one.mode == group.mode && !has_defaults(one);
            shares(group)
                && batch.groups.iter().all(|other| shares(other))
                && names.iter().all(|name| !batch.taken.contains(name))
        };
        let index = batches.iter().position(fits).unwrap_or(batches.len());
        if index == batches.len() {
            batches.push(Batch::default());
        }
        batches[index].groups.push(group);
        batches[index].taken.extend(names);
    }
    Ok(batches)
}

impl Batch<'_> {
    /// The policy file, if the groups have policies, with those cgroups as their targets.
    ///
    /// # Errors
    ///
    /// When a policy is no TOML, or cannot be written as such.
    pub fn policy_file(&self, cgroups: &[String]) -> Result<Option<String>> {
        let mut file = Table::from_iter([("version".to_owned(), Value::Integer(1))]);
        let (mut rules, mut targets) = (Vec::new(), Vec::new());
        for (group, cgroup) in self.groups.iter().zip(cgroups) {
            let Some(mut policy) = parsed(group)? else {
                return Ok(None);
            };
            for mut rule in rules_of(&policy) {
                if let Some(name) = rule.get("name").and_then(Value::as_str) {
                    let name = group.name_in_batch(name, rule.contains_key("rollout"));
                    rule.insert("name".to_owned(), name.into());
                }
                let own: Vec<_> = match rule.get("groups").and_then(Value::as_array) {
                    None => vec![group.own(DEFAULT_GROUP)],
                    Some(names) => names
                        .iter()
                        .filter_map(Value::as_str)
                        .map(|name| group.own(name))
                        .collect(),
                };
                rule.insert("groups".to_owned(), own.into());
                rules.push(Value::Table(rule));
            }
            let used: Vec<_> = group.target.groups.iter().map(|name| group.own(name)).collect();
            targets.push(Value::Table(Table::from_iter([
                ("name".to_owned(), group.target_name().into()),
                ("cgroup".to_owned(), cgroup.as_str().into()),
                ("use".to_owned(), used.into()),
            ])));
            if let Some(defaults) = policy.remove("defaults") {
                file.insert("defaults".to_owned(), defaults);
            }
        }
        file.insert("rule".to_owned(), Value::Array(rules));
        file.insert("target".to_owned(), Value::Array(targets));
        toml::to_string(&file).map(Some).context("write a policy file")
    }
}

impl Group {
    /// What a rule of the group is called where it is governed with others. Rollouts go by the name, so it stays.
    #[must_use]
    pub fn name_in_batch(&self, rule: &str, has_rollout: bool) -> String {
        if has_rollout || self.policy.is_none() {
            rule.to_owned()
        } else {
            self.own(rule)
        }
    }

    fn own(&self, name: &str) -> String {
        format!("{}: {name}", self.name)
    }
}

fn parsed(group: &Group) -> Result<Option<Table>> {
    let parse = |text: &String| text.parse().context("understand a policy");
    group.policy.as_ref().map(parse).transpose()
}

fn rules_of(policy: &Table) -> impl Iterator<Item = Table> {
    let rules = policy.get("rule").and_then(Value::as_array);
    rules.into_iter().flatten().filter_map(Value::as_table).cloned()
}

/// `[defaults]` are those of the whole file.
fn has_defaults(group: &Group) -> bool {
    parsed(group).is_ok_and(|policy| policy.is_some_and(|policy| policy.contains_key("defaults")))
}

fn fixed_names(group: &Group) -> Result<Vec<String>> {
    let policy = parsed(group)?.unwrap_or_default();
    let of_rollouts = rules_of(&policy).filter(|rule| rule.contains_key("rollout"));
    let names = of_rollouts.filter_map(|rule| Some(format!("rule {}", rule.get("name")?.as_str()?)));
    Ok(names.chain([format!("target {}", group.target_name())]).collect())
}
