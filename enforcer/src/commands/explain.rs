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
    let port = match (arguments.destination.port, arguments.port) {
        (Some(_), Some(_)) => {
            let hint = "leave --port out, or the port of DESTINATION";
            let error = anyhow!("the port is given twice");
            return Err(Failure::new(Exit::Argument, error).hint(Some(hint)));
        }
        (within, beside) => within.or(beside),
    };
    if arguments.rules.policy.is_none() && arguments.rules.rules().is_empty() {
        let hint =
            "give a policy file with --policy, or rules as `run` and `exec` take them: --reject internet";
        let error = anyhow!("there are no rules to explain");
        return Err(Failure::new(Exit::Argument, error).hint(Some(hint)));
    }
    // What is odd about the policy is for `check` to say.
    let policy = prepare::policy(&arguments.rules, Talk::ErrorsOnly)?;
    let proto = arguments.proto.map(Proto::from);
    let sets = subjects(arguments, &policy)?;
    let mut answer = Answer {
        address: arguments.destination.address,
        port,
        proto,
        mode: policy.mode,
        rules: &policy.rules,
        subjects: Vec::new(),
    };
    if let IpAddr::V6(address) = answer.address {
        for (groups, targets) in sets {
            let cases = cases(arguments, &policy, &groups, address, port, proto)?;
            answer.subjects.push(Subject {
                groups,
                targets,
                cases,
            });
        }
    }
    let text = match arguments.output {
        Output::Human => human::write(&answer),
        Output::Json => json::write(&answer).map_err(|error| Failure::new(Exit::Failed, error))?,
    };
    console::answer(&text).map_err(|error| {
        let error = anyhow!(error).context("cannot write to stdout");
        Failure::new(Exit::Failed, error)
    })?;
    Ok(Exit::Done.into())
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
    let question = Question {
        address,
        port,
        proto,
        mode: policy.mode,
    };
    explain_connects(&compiled, &policy.rules, groups, &question).map_err(|fault| {
        let error = anyhow!("the compiled policy is damaged: {fault:?}");
        Failure::new(Exit::Failed, error).hint(Some("this is a mistake in enforcer; please report it"))
    })
}

/// Lists of groups with the targets that use them: of the target asked for, of `--use`, of each target, or else of
/// each group.
fn subjects(arguments: &ExplainArgs, policy: &Policy) -> Result<Vec<(Vec<GroupName>, Vec<String>)>, Failure> {
    let users = |groups: &[GroupName]| -> Vec<String> {
        let targets = policy.targets.iter().filter(|target| target.groups == groups);
        targets.map(|target| target.name.clone()).collect()
    };
    if let Some(name) = &arguments.target {
        let found = policy.targets.iter().find(|target| target.name == *name);
        return match found {
            Some(target) => Ok(vec![(target.groups.clone(), vec![target.name.clone()])]),
            None => Err(no_such_target(name, policy)),
        };
    }
    if !arguments.rules.groups.is_empty() {
        return Ok(vec![(prepare::groups(&arguments.rules, policy)?, Vec::new())]);
    }
    let sets = policy.group_sets().into_iter().map(|groups| {
        let targets = users(&groups);
        (groups, targets)
    });
    if policy.targets.is_empty() {
        return Ok(sets.collect());
    }
    Ok(sets.filter(|(_, targets)| !targets.is_empty()).collect())
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
