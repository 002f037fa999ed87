//! `enforcer explain`: which verdict a connect to an address gets, by which rule, and why not by another.
//!
//! The verdict is `decide()`'s, on the compiled policy. Here it is found out for whom the answers differ; how an
//! answer is written is in [`human`] and [`json`].

use std::{
    net::{IpAddr, Ipv6Addr},
    process::ExitCode,
};

use anyhow::anyhow;
use enforcer_common::{clause::Proto, decide::Mode};

use super::{
    cli::{ExplainArgs, Output},
    console::{self, Talk},
    exit::{Exit, Failure},
    prepare,
};
use crate::policy::{
    Policy,
    explain::{Case, Question, explain as explain_connects},
    rule::{GroupName, Rule},
};

mod human;
mod json;

/// Everything that there is to say.
struct Answer<'policy> {
    address: IpAddr,
    /// Host byte order.
    port: Option<u16>,
    proto: Option<Proto>,
    mode: Mode,
    rules: &'policy [Rule],
    /// Empty for IPv4, of which no policy says anything.
    subjects: Vec<Subject>,
}

/// Who gets an answer.
struct Subject {
    groups: Vec<GroupName>,
    /// Targets that use these groups, by name.
    targets: Vec<String>,
    cases: Vec<Case>,
}

pub(crate) fn explain(arguments: &ExplainArgs) -> Result<ExitCode, Failure> {
    if arguments.destination.port.is_some() && arguments.port.is_some() {
        let hint = "leave --port out, or the port of DESTINATION";
        let error = anyhow!("the port is given twice");
        return Err(Failure::new(Exit::Argument, error).hint(Some(hint)));
    }
    if arguments.rules.policy.is_none() && arguments.rules.rules().is_empty() {
        let hint =
            "give a policy file with --policy, or rules as `run` and `exec` take them: --reject internet";
        let error = anyhow!("there are no rules to explain");
        return Err(Failure::new(Exit::Argument, error).hint(Some(hint)));
    }
    // What is odd about the policy is for `check` to say.
    let policy = prepare::policy(&arguments.rules, Talk::ErrorsOnly)?;
    let text = written(&answer(arguments, &policy)?, arguments.output)?;
    console::answer(&text).map_err(|error| {
        let error = anyhow!(error).context("cannot write to stdout");
        Failure::new(Exit::Failed, error)
    })?;
    Ok(Exit::Done.into())
}

fn answer<'policy>(arguments: &ExplainArgs, policy: &'policy Policy) -> Result<Answer<'policy>, Failure> {
    let port = arguments.destination.port.or(arguments.port);
    let proto = arguments.proto.map(Proto::from);
    let mut answer = Answer {
        address: arguments.destination.address,
        port,
        proto,
        mode: policy.mode,
        rules: &policy.rules,
        subjects: Vec::new(),
    };
    let subjects = subjects(arguments, policy)?;
    if let IpAddr::V6(address) = answer.address {
        for subject in subjects {
            let cases = cases(arguments, policy, &subject.groups, address, port, proto)?;
            answer.subjects.push(Subject { cases, ..subject });
        }
    }
    Ok(answer)
}

fn written(answer: &Answer<'_>, output: Output) -> Result<String, Failure> {
    match output {
        Output::Human => Ok(human::write(answer)),
        Output::Json => json::write(answer).map_err(|error| Failure::new(Exit::Failed, error)),
    }
}

fn cases(
    arguments: &ExplainArgs,
    policy: &Policy,
    groups: &[GroupName],
    address: Ipv6Addr,
    port: Option<u16>,
    proto: Option<Proto>,
) -> Result<Vec<Case>, Failure> {
    let compiled = prepare::compiled(policy, groups, arguments.rules.policy.as_deref())?;
    let question = Question::new(address, port, proto, policy.mode);
    explain_connects(&*compiled, &policy.rules, groups, &question).map_err(|fault| {
        let error = anyhow!("the compiled policy is damaged: {fault:?}");
        Failure::new(Exit::Failed, error).hint(Some("this is a mistake in enforcer; please report it"))
    })
}

/// Who is to be answered: the target asked for, the groups of `--use`, each list of groups that targets use, or else
/// each group. Without the answers.
fn subjects(arguments: &ExplainArgs, policy: &Policy) -> Result<Vec<Subject>, Failure> {
    let subject = |groups: Vec<GroupName>, targets: Vec<String>| Subject {
        groups,
        targets,
        cases: Vec::new(),
    };
    if let Some(name) = &arguments.target {
        let found = policy.targets.iter().find(|target| target.name == *name);
        return match found {
            Some(target) => Ok(vec![subject(target.groups.clone(), vec![target.name.clone()])]),
            None => Err(no_such_target(name, policy)),
        };
    }
    if !arguments.rules.groups.is_empty() {
        let groups = prepare::groups(&arguments.rules, policy)?;
        return Ok(vec![subject(groups, Vec::new())]);
    }
    let sets = policy.group_sets().into_iter().map(|groups| {
        let targets = policy.targets.iter().filter(|target| target.groups == groups);
        let targets = targets.map(|target| target.name.clone()).collect();
        subject(groups, targets)
    });
    if policy.targets.is_empty() {
        return Ok(sets.collect());
    }
    Ok(sets.filter(|subject| !subject.targets.is_empty()).collect())
}

fn no_such_target(name: &str, policy: &Policy) -> Failure {
    let names: Vec<&str> = policy.targets.iter().map(|target| target.name.as_str()).collect();
    let hint = match names.as_slice() {
        [] => "the policy file has no targets; `--use GROUP` explains a group's rules".to_owned(),
        names => format!("there are: {}", names.join(", ")),
    };
    let error = anyhow!("--target {name}: the policy file has no such target");
    Failure::new(Exit::Argument, error).hint(Some(hint))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use clap::Parser as _;
    use serde_json::Value;

    use super::{
        super::cli::{Cli, Verb},
        *,
    };

    const MANUAL: &str = include_str!("../../../docs/explain.md");

    /// What comes after a line of the manual, up to the end of its block.
    fn block_after(line: &str) -> &'static str {
        let (_, after) = MANUAL.split_once(&format!("{line}\n")).unwrap();
        after.split_once("```").unwrap().0
    }

    /// The manual's policy, and what is said of a command line of the manual under it.
    fn said(command: &str) -> String {
        let Verb::Explain(arguments) = Cli::parse_from(command.split(' ')).verb else {
            panic!("{command}");
        };
        let text = block_after("```toml");
        let path = Path::new("web.toml");
        let (policy, _) = Policy::from_text(path, text.to_owned(), arguments.rules.rules()).unwrap();
        written(&answer(&arguments, &policy).unwrap(), arguments.output).unwrap()
    }

    #[test]
    fn the_examples_of_the_manual_are_what_is_printed() {
        let mut seen = 0;
        for line in MANUAL.lines().filter(|line| line.starts_with("$ enforcer ")) {
            seen += 1;
            assert_eq!(said(&line[2..]), block_after(line), "{line}");
        }
        assert!(seen >= 3);
    }

    /// Names of all fields of all objects in it.
    fn fields(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    found.insert(name.clone());
                    fields(value, found);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_manual_lists_every_field_of_the_object_and_no_other() {
        let mut found = BTreeSet::new();
        for destination in ["fe80::1", "2001:db8:3::1"] {
            let command = format!(
                "enforcer explain {destination} --policy web.toml --output json --reject ::/0 \
                 --redirect 2001:db8:3::/48=192.0.2.1"
            );
            fields(&serde_json::from_str(&said(&command)).unwrap(), &mut found);
        }
        let listed: BTreeSet<String> = MANUAL
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(name, _)| name.to_owned())
            .collect();
        assert_eq!(found, listed);
    }
}
