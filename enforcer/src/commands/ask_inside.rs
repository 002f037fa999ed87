//! `enforcer ask-inside`: the helper that asks a target's nameservers from within it. No help shows it.

use std::process::ExitCode;

use super::{
    cli::AskInsideArgs,
    exit::{Exit, Failure},
};
use crate::names::inside::{self, Job};

/// Does what the arguments say, and writes it to standard output for the enforcer that started it.
pub(crate) async fn ask_inside(arguments: AskInsideArgs) -> Result<ExitCode, Failure> {
    let job = Job {
        parent: arguments.parent,
        cgroups: arguments.cgroup,
        questions: arguments.questions,
    };
    // Line by line, and nobody else in this process writes.
    inside::answer(job, std::io::stdout().lock())
        .await
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(ExitCode::SUCCESS)
}
