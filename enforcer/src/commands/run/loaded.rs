//! What the command line and the policy file say: read, checked and compiled. No target is looked for yet.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use anyhow::anyhow;
use enforcer_common::decide::Mode;

use super::super::{
    cli::{RunArgs, TargetArgs},
    console::Talk,
    exit::{Exit, Failure},
    prepare,
};
use crate::{
    policy::{
        Policy, Selector,
        compile::compile,
        compiled::CompiledPolicy,
        live::Live,
        rule::{GroupName, Rule},
    },
    targets::Request,
};

/// A target to resolve, and the groups that govern it.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) request: Request,
    pub(super) groups: Vec<GroupName>,
}

/// What is to be governed by what.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) mode: Mode,
    pub(super) rules: Arc<[Rule]>,
    pub(super) wanted: Vec<Wanted>,
    pub(super) policies: HashMap<Vec<GroupName>, Arc<CompiledPolicy>>,
}

impl Loaded {
    /// The rules that count for some target.
    pub(super) fn used_rules(&self) -> Vec<&Rule> {
        let groups: BTreeSet<&[GroupName]> = self
            .wanted
            .iter()
            .map(|target| target.groups.as_slice())
            .collect();
        self.rules
            .iter()
            .filter(|rule| groups.iter().any(|groups| rule.is_in(groups)))
            .collect()
    }
}

/// Reads and compiles. Warnings are shown.
pub(super) fn load(arguments: &RunArgs) -> Result<Loaded, Failure> {
    let policy = prepare::policy(&arguments.rules, Talk::Plain)?;
    let wanted = wanted(arguments, &policy)?;
    let policies = compiled_policies(arguments, &policy, &wanted)?;
    Ok(Loaded {
        mode: policy.mode,
        rules: policy.rules.into(),
        wanted,
        policies,
    })
}

/// The same, away from where events are moved.
pub(super) async fn load_again(arguments: &RunArgs) -> Result<Loaded, Failure> {
    let arguments = arguments.clone();
    match tokio::task::spawn_blocking(move || load(&arguments)).await {
        Ok(loaded) => loaded,
        Err(error) => Err(Failure::new(Exit::Failed, error)),
    }
}

/// Whether the command line names targets, which are there instead of the policy file's.
pub(super) fn names_targets(targets: &TargetArgs) -> bool {
    !(targets.cgroup.is_empty() && targets.pid.is_empty() && targets.container.is_empty())
}

/// The command line's targets, or else the policy file's.
fn wanted(arguments: &RunArgs, policy: &Policy) -> Result<Vec<Wanted>, Failure> {
    let groups = prepare::groups(&arguments.rules, policy)?;
    if names_targets(&arguments.targets) {
        let cgroups = arguments.targets.cgroup.iter().cloned().map(Selector::Cgroup);
        let pids = arguments.targets.pid.iter().copied().map(Selector::Pid);
        let containers = arguments
            .targets
            .container
            .iter()
            .cloned()
            .map(Selector::Container);
        prepare::note_unused(&arguments.rules, policy, &groups, Talk::Plain);
        return Ok(cgroups
            .chain(pids)
            .chain(containers)
            .map(|selector| Wanted {
                request: Request { name: None, selector },
                groups: groups.clone(),
            })
            .collect());
    }
    if !arguments.rules.groups.is_empty() {
        let error =
            anyhow!("--use chooses groups for --cgroup, --pid and --container, and none of them is given");
        let hint = "targets of a policy file name their groups there, with `use`";
        return Err(Failure::new(Exit::Argument, error).hint(Some(hint)));
    }
    if policy.targets.is_empty() {
        let hint = "name one with --cgroup PATH, --pid PID or --container NAME, or give a policy file with a [[target]]; \
                    `enforcer exec` runs a command in a cgroup of its own";
        return Err(Failure::new(Exit::Argument, anyhow!("no target to govern")).hint(Some(hint)));
    }
    let from_file = policy.targets.iter().map(|target| Wanted {
        request: Request {
            name: Some(target.name.clone()),
            selector: target.selector.clone(),
        },
        groups: target.groups.clone(),
    });
    Ok(from_file.collect())
}

/// Each distinct list of groups, compiled once; or all that is wrong with any of them, each thing once.
fn compiled_policies(
    arguments: &RunArgs,
    policy: &Policy,
    wanted: &[Wanted],
) -> Result<HashMap<Vec<GroupName>, Arc<CompiledPolicy>>, Failure> {
    let mut policies = HashMap::new();
    let mut problems = Vec::new();
    let lists: BTreeSet<&[GroupName]> = wanted.iter().map(|target| target.groups.as_slice()).collect();
    for groups in lists {
        match compile(&policy.rules, groups, &Live::default()) {
            Ok(compiled) => {
                policies.insert(groups.to_vec(), Arc::new(compiled));
            }
            Err(diagnostics) => {
                for diagnostic in diagnostics {
                    if !problems.contains(&diagnostic) {
                        problems.push(diagnostic);
                    }
                }
            }
        }
    }
    if problems.is_empty() {
        Ok(policies)
    } else {
        Err(prepare::not_compiled(
            &problems,
            arguments.rules.policy.as_deref(),
        ))
    }
}
