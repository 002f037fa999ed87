//! What `run` and `exec` do about the names and times of rules: follow them, and say what people should hear.

use std::sync::Arc;

use super::{
    cli::LivingArgs,
    console::{self, Talk},
    exit::{Exit, Failure},
    prepare,
};
use crate::{
    daemon::{Coming, ExpectError, Governing, Living, NamedTarget, Said},
    names::Options,
    policy::rule::Rule,
};

/// Follows nothing yet.
pub(crate) fn new(arguments: &LivingArgs) -> Living {
    Living::new(Options {
        resolv_conf: arguments.resolv_conf.clone(),
        ..Options::default()
    })
}

/// Follows the names and times of rules for these targets. Waits until names were asked for, within limits.
pub(crate) async fn follow(
    arguments: &LivingArgs,
    rules: Arc<[Rule]>,
    targets: Vec<NamedTarget>,
    talk: Talk,
) -> Result<Living, Failure> {
    let mut living = new(arguments);
    let coming = expect(&mut living, coming(arguments, rules, talk), &targets, talk).await?;
    say(living.adopt(coming, targets), talk);
    Ok(living)
}

/// Rules to follow, with a warning where they may begin again. Reads and writes a file.
pub(crate) fn coming(arguments: &LivingArgs, rules: Arc<[Rule]>, talk: Talk) -> Coming {
    let (coming, forgotten) = Coming::load(rules, &arguments.state_dir);
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
    coming
}

/// Begins to follow these rules too, and waits until names were asked for, within limits.
pub(crate) async fn expect(
    living: &mut Living,
    coming: Coming,
    targets: &[NamedTarget],
    talk: Talk,
) -> Result<Coming, Failure> {
    living.expect(&coming, targets).map_err(|error| {
        let exit = match error {
            ExpectError::Names(_) => Exit::Policy,
            ExpectError::WallClock(_) => Exit::Failed,
        };
        Failure::new(exit, error)
    })?;
    say(living.settle().await, talk);
    Ok(coming)
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
pub(crate) async fn put_into_force(living: &Living, said: Vec<Said>, governing: &mut Governing, talk: Talk) {
    say(said, talk);
    if let Err(error) = governing.follow(living.now()).await {
        console::error(prepare::kernel_failure(error));
    }
    say(governing.take_said(), talk);
    governing.tidy().await;
}
