//! `enforcer explain`: which verdict a connect to an address gets, by which rule, and why not by another.
//!
//! The verdict is `decide()`'s, on the compiled policy. Here it is found out for whom the answers differ; what names
//! are is found in [`names`], and how an answer is written is in [`human`] and [`json`].

use std::{collections::BTreeSet, net::IpAddr, process::ExitCode, time::SystemTime};

use anyhow::anyhow;
use enforcer_common::{
    clause::{Proto, text_hash},
    decide::Mode,
};
use procfs::{ProcError, process::Process};

use self::names::Names;
use super::{
    cli::{ExplainArgs, Output},
    console::{self, Talk},
    exit::{Exit, Failure},
    prepare,
};
use crate::{
    daemon::Now,
    events::clock::boot_now_ns,
    names::Options,
    policy::{
        Policy,
        compile::compile,
        explain::{Case, Grounds, Question, Target, explain as explain_connects},
        overlay::overlay,
        rule::{Expires, GroupName, Rule, canary_lists},
    },
};

mod human;
mod json;
mod names;
mod words;

/// Everything that there is to say.
struct Answer<'policy> {
    address: IpAddr,
    /// Host byte order.
    port: Option<u16>,
    proto: Option<Proto>,
    who: Who,
    mode: Mode,
    rules: &'policy [Rule],
    names: &'policy Names,
    /// Empty for IPv4, of which no policy says anything.
    subjects: Vec<Subject>,
}

/// Who connects, as far as that is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Who {
    uid: Option<u32>,
    process: Option<u32>,
}

/// When it is asked.
#[derive(Clone, Copy, Debug)]
struct Moment {
    wall: SystemTime,
    /// CLOCK_BOOTTIME.
    boot_ns: u64,
}

/// Who gets an answer.
struct Subject {
    groups: Vec<GroupName>,
    /// Targets that use these groups and get this answer, by name.
    targets: Vec<String>,
    cases: Vec<Case>,
    /// What there is to say about names that have the address.
    notes: BTreeSet<String>,
}

pub(crate) async fn explain(arguments: &ExplainArgs) -> Result<ExitCode, Failure> {
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
    let who = who(arguments)?;
    let subjects = subjects(arguments, &policy)?;
    // Of IPv4 no rule says anything, so that nobody has to be asked.
    let rules = policy.rules.iter().filter(|rule| {
        let is_used = subjects.iter().any(|subject| rule.is_in(&subject.groups));
        rule.enabled && is_used && arguments.destination.address.is_ipv6()
    });
    let options = Options {
        resolv_conf: arguments.resolv_conf.clone(),
        ..Options::default()
    };
    let names = names::look_up(rules, !arguments.no_lookup, options).await;
    let moment = Moment {
        wall: SystemTime::now(),
        boot_ns: boot_now_ns(),
    };
    let answer = answer(arguments, &policy, subjects, who, &names, moment)?;
    let text = written(&answer, arguments.output)?;
    console::answer(&text).map_err(|error| {
        let error = anyhow!(error).context("cannot write to stdout");
        Failure::new(Exit::Failed, error)
    })?;
    Ok(Exit::Done.into())
}

/// Who connects: what the options say, and of a process its user.
fn who(arguments: &ExplainArgs) -> Result<Who, Failure> {
    let Some(pid) = arguments.pid else {
        return Ok(Who {
            uid: arguments.uid,
            process: None,
        });
    };
    let status = i32::try_from(pid)
        .map_err(|_| ProcError::NotFound(None))
        .and_then(Process::new)
        .and_then(|process| process.status());
    match status {
        Ok(status) => Ok(Who {
            uid: Some(arguments.uid.unwrap_or(status.ruid)),
            // Of a thread, that of its process.
            process: Some(u32::try_from(status.tgid).unwrap_or(pid)),
        }),
        Err(ProcError::NotFound(_)) => {
            let hint = "a process has to be there to be asked about; `--uid` alone asks about a user";
            Err(Failure::new(Exit::Failed, anyhow!("--pid {pid}: there is no such process")).hint(Some(hint)))
        }
        Err(error) => {
            let hint = "`--uid` asks about a user without looking at a process";
            let error = anyhow!(error).context(format!("--pid {pid}: cannot read /proc/{pid}/status"));
            Err(Failure::new(Exit::Failed, error).hint(Some(hint)))
        }
    }
}

fn answer<'policy>(
    arguments: &ExplainArgs,
    policy: &'policy Policy,
    subjects: Vec<Subject>,
    who: Who,
    names: &'policy Names,
    moment: Moment,
) -> Result<Answer<'policy>, Failure> {
    let mut answer = Answer {
        address: arguments.destination.address,
        port: arguments.destination.port.or(arguments.port),
        proto: arguments.proto.map(Proto::from),
        who,
        mode: policy.mode,
        rules: &policy.rules,
        names,
        subjects: Vec::new(),
    };
    if let IpAddr::V6(address) = answer.address {
        let question = Question {
            uid: who.uid,
            process: who.process,
            boot_ns: moment.boot_ns,
            ..Question::new(address, answer.port, answer.proto, policy.mode)
        };
        let deadlines = (0..)
            .zip(&policy.rules)
            .filter_map(|(index, rule)| Some((index, deadline_boot_ns(rule, moment)?)));
        let now = names.now(&policy.rules, deadlines.collect());
        for subject in subjects {
            let parts = answered(arguments, policy, subject, &question, &now)?;
            answer.subjects.extend(parts);
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

/// A subject with its answer: several, if its targets get different ones.
fn answered(
    arguments: &ExplainArgs,
    policy: &Policy,
    subject: Subject,
    question: &Question,
    now: &Now,
) -> Result<Vec<Subject>, Failure> {
    let groups = subject.groups;
    let live = now.live(names::TARGET);
    let answers = now.answers(&groups, names::TARGET);
    let base = compile(&policy.rules, &groups, &live)
        .map_err(|diagnostics| prepare::not_compiled(&diagnostics, arguments.rules.policy.as_deref()))?;
    let overlay = overlay(&policy.rules, &groups, &live, &base, &answers);
    let grounds = Grounds {
        rules: &policy.rules,
        groups: &groups,
        live: &live,
        answers: &answers,
        base: &base,
        overlay: &overlay,
    };
    let cases = |target: Option<&str>| {
        let target = target.map(|name| Target {
            rollout_key: text_hash(name.as_bytes()),
            canaries: canary_lists(&policy.rules, name),
        });
        explain_connects(&grounds, &Question { target, ..*question }).map_err(|fault| {
            let error = anyhow!("the compiled policy is damaged: {fault:?}");
            Failure::new(Exit::Failed, error).hint(Some("this is a mistake in enforcer; please report it"))
        })
    };
    let notes: BTreeSet<String> = now
        .notes(&groups, names::TARGET, Some(question.address))
        .into_values()
        .collect();
    let mut parts: Vec<Subject> = Vec::new();
    let mut add = |targets: Vec<String>, cases: Vec<Case>| match parts.iter_mut().find(|it| it.cases == cases)
    {
        Some(part) => part.targets.extend(targets),
        None => parts.push(Subject {
            groups: groups.clone(),
            targets,
            cases,
            notes: notes.clone(),
        }),
    };
    if subject.targets.is_empty() {
        add(Vec::new(), cases(None)?);
    }
    for target in subject.targets {
        let of_target = cases(Some(&target))?;
        add(vec![target], of_target);
    }
    Ok(parts)
}

/// When a rule ends by the clock of this machine, on CLOCK_BOOTTIME. From when a duration is counted is not known.
fn deadline_boot_ns(rule: &Rule, moment: Moment) -> Option<u64> {
    let Some(Expires::At(end)) = rule.expires else {
        return None;
    };
    Some(match end.duration_since(moment.wall) {
        Ok(left) => moment
            .boot_ns
            .saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX))
            .max(1),
        Err(_) => 1,
    })
}

/// Who is to be answered: the target asked for, the groups of `--use`, each list of groups that targets use, or else
/// each group. Without the answers.
fn subjects(arguments: &ExplainArgs, policy: &Policy) -> Result<Vec<Subject>, Failure> {
    let subject = |groups: Vec<GroupName>, targets: Vec<String>| Subject {
        groups,
        targets,
        cases: Vec::new(),
        notes: BTreeSet::new(),
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
mod tests;
