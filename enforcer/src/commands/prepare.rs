//! What `run` and `exec` do before anything is governed: policy, groups, compiled policies, the kernel's abilities.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use anyhow::anyhow;
use enforcer_common::{binding::EventsWanted, decide::Mode};

use super::{
    cli::{DebugArgs, Events, RuleArgs},
    console::{self, Talk},
    exit::{Exit, Failure},
};
use crate::{
    daemon::StartOptions,
    kernel::{
        KernelError, Support,
        features::{FEATURES, Global},
    },
    policy::{
        Policy,
        compile::compile,
        compiled::CompiledPolicy,
        diagnostic::{self, Diagnostic, PolicyError},
        live::Live,
        rule::{DEFAULT_GROUP, GroupName, Rule, RuleAction, RuleGroups},
    },
};

/// Size of the ring buffer: about 8,000 events.
const RING_BYTES: u32 = 1 << 20;

/// The policy of the command line and its file, with its warnings shown.
pub(crate) fn policy(arguments: &RuleArgs, talk: Talk) -> Result<Policy, Failure> {
    let colour = colour();
    let (mut policy, warnings) =
        Policy::load(arguments.policy.as_deref(), arguments.rules()).map_err(policy_failure)?;
    if !warnings.is_empty() {
        talk.say(diagnostic::render(&warnings, colour).trim_end());
    }
    if arguments.audit {
        policy.mode = Mode::Audit;
    }
    Ok(policy)
}

/// A policy that cannot be used, with everything that is known about why.
pub(crate) fn policy_failure(error: PolicyError) -> Failure {
    let exit = if error.is_about_file() {
        Exit::Policy
    } else {
        Exit::Argument
    };
    Failure::rendered(exit, error.render(colour()))
}

/// Whether diagnostics are coloured: on a terminal, unless `NO_COLOR` is set.
pub(crate) fn colour() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

/// The groups that `--use` names, checked, or the default. That one may be named even if no rule is in it: without
/// `--use` it is the one.
pub(crate) fn groups(arguments: &RuleArgs, policy: &Policy) -> Result<Vec<GroupName>, Failure> {
    if arguments.groups.is_empty() {
        return Ok(vec![DEFAULT_GROUP.to_owned()]);
    }
    let known = named_groups(policy);
    if let Some(unknown) = arguments
        .groups
        .iter()
        .find(|group| *group != DEFAULT_GROUP && !known.contains(group.as_str()))
    {
        let hint = match &arguments.policy {
            None => "rules of the command line belong to every group; --use chooses among a policy file's"
                .to_owned(),
            Some(file) => groups_of(file, &known),
        };
        let error = anyhow!("--use {unknown}: no rule belongs to that group");
        return Err(Failure::new(Exit::Argument, error).hint(Some(hint)));
    }
    Ok(arguments.groups.clone())
}

/// The groups that rules name.
fn named_groups(policy: &Policy) -> BTreeSet<&str> {
    let named = policy.rules.iter().filter_map(|rule| match &rule.groups {
        RuleGroups::Named(names) => Some(names),
        RuleGroups::All => None,
    });
    named.flatten().map(String::as_str).collect()
}

fn groups_of(file: &Path, known: &BTreeSet<&str>) -> String {
    if known.is_empty() {
        return format!("{} has no rules in any group", file.display());
    }
    let known: Vec<&str> = known.iter().copied().collect();
    format!("the groups of {} are: {}", file.display(), known.join(", "))
}

/// Says that a policy file gives no rule to those who use the default group, where it has rules for others. That
/// targets of the file get none is said when it is read.
pub(crate) fn note_unused(arguments: &RuleArgs, policy: &Policy, groups: &[GroupName], talk: Talk) {
    let Some(file) = &arguments.policy else {
        return;
    };
    let is_unruled = groups == [DEFAULT_GROUP] && !policy.rules.iter().any(|rule| rule.is_in(groups));
    if talk != Talk::ErrorsOnly && is_unruled && !policy.rules.is_empty() {
        console::warning(
            format_args!("no rule is in the group `{DEFAULT_GROUP}`: connects are only observed"),
            Some(&format!(
                "`--use GROUP` chooses; {}",
                groups_of(file, &named_groups(policy))
            )),
        );
    }
}

/// The compiled policy of those groups.
pub(crate) fn compiled(
    policy: &Policy,
    groups: &[GroupName],
    file: Option<&Path>,
) -> Result<Arc<CompiledPolicy>, Failure> {
    compile(&policy.rules, groups, &Live::default())
        .map(Arc::new)
        .map_err(|diagnostics| not_compiled(&diagnostics, file))
}

/// Rules that cannot stand together, with everything that is known about why.
pub(crate) fn not_compiled(diagnostics: &[Diagnostic], file: Option<&Path>) -> Failure {
    let exit = if file.is_some() {
        Exit::Policy
    } else {
        Exit::Argument
    };
    Failure::rendered(exit, diagnostic::render(diagnostics, colour()))
}

/// What the kernel can do, with what follows from it for these rules.
pub(crate) fn support(rules: &[Rule], talk: Talk) -> Result<Support, Failure> {
    let support = Support::probe().map_err(kernel_failure)?;
    note_lacks(&support, rules, talk);
    Ok(support)
}

/// Whether rules do what this kernel cannot do as they say.
pub(crate) fn lacks_errnos(support: &Support, rules: &[Rule]) -> bool {
    !support.set_retval && rules.iter().any(|rule| !matches!(rule.action, RuleAction::Allow))
}

/// Says what this kernel lacks for these rules.
pub(crate) fn note_lacks(support: &Support, rules: &[Rule], talk: Talk) {
    if lacks_errnos(support, rules) {
        for feature in FEATURES.iter().filter(|it| it.global == Some(Global::SetRetval)) {
            talk.note(format_args!(
                "this kernel has no {}: {}",
                feature.name,
                feature.without.text()
            ));
        }
    }
}

/// A failure of the kernel, with its hint and code.
pub(crate) fn kernel_failure(error: KernelError) -> Failure {
    let hint = error.hint();
    Failure::new(Exit::Kernel, error).hint(hint)
}

/// How to govern.
pub(crate) fn start_options(mode: Mode, events: Events, debug: &DebugArgs, targets: usize) -> StartOptions {
    if debug.bpf_log.is_some() {
        console::show_bpf_messages();
    }
    StartOptions {
        mode,
        events: match events {
            Events::Acted => EventsWanted::Acted,
            Events::All => EventsWanted::All,
            Events::None => EventsWanted::None,
        },
        bpf_log: debug.bpf_log.map(Into::into),
        ring_bytes: RING_BYTES,
        targets,
    }
}

/// `1 rule`, `2 rules`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}
