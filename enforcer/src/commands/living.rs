//! What `run` and `exec` do about the names and times of rules: follow them, and say what people should hear.

use std::sync::Arc;

use anyhow::Context as _;

use super::{
    cli::LivingArgs,
    console::{self, Talk},
    exit::{Exit, Failure},
    prepare,
};
use crate::{
    daemon::{Governing, Living, NamedTarget, Said},
    names::Options,
    policy::rule::Rule,
};

/// Follows the names and times of rules for these targets. Waits until names were asked for, within limits.
pub(crate) async fn follow(
    arguments: &LivingArgs,
    rules: Arc<[Rule]>,
    targets: Vec<NamedTarget>,
    talk: Talk,
) -> Result<Living, Failure> {
    let options = Options {
        resolv_conf: arguments.resolv_conf.clone(),
        ..Options::default()
    };
    let (mut living, forgotten) = Living::new(rules, &arguments.state_dir, options)
        .context("cannot follow the wall clock")
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    if let Some(error) = forgotten
        && talk != Talk::ErrorsOnly
    {
        let hint = error.hint();
        console::warning(
            format_args!(
                "rules that expire after a duration count from now: {:#}",
                anyhow::Error::new(error)
            ),
            hint.as_deref(),
        );
    }
    set_targets(&mut living, targets)?;
    say(living.settle().await, talk);
    Ok(living)
}

/// Tells which targets there are now.
pub(crate) fn set_targets(living: &mut Living, targets: Vec<NamedTarget>) -> Result<(), Failure> {
    living
        .set_targets(targets)
        .map_err(|error| Failure::new(Exit::Policy, error))
}

/// Says what changed.
pub(crate) fn say(said: Vec<Said>, talk: Talk) {
    for one in said {
        if talk != Talk::ErrorsOnly {
            console::note(&one.message);
            if let Some(hint) = one.hint {
                console::say(format_args!("{}hint: {hint}", console::PREFIX));
            }
        }
    }
}

/// Says what changed, and puts it into force. Where the kernel refuses that, what was in force stays so, which is better
/// than nothing being governed any more.
pub(crate) fn put_into_force(living: &Living, said: Vec<Said>, governing: &mut Governing, talk: Talk) {
    say(said, talk);
    if let Err(error) = governing.follow(living.now()) {
        console::error(prepare::kernel_failure(error));
    }
    say(governing.take_said(), talk);
}
