//! `enforcer doctor`: what this machine offers.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;

use super::{
    cli::{DoctorArgs, ReportOutput},
    exit::{Exit, Failure},
};
use crate::{
    doctor::{Options, examine},
    sinks::{live::Colour, report},
};

/// Exit code 4 where enforcing is impossible.
pub(crate) async fn doctor(arguments: &DoctorArgs) -> Result<ExitCode, Failure> {
    let found = examine(Options {
        lookup: arguments.lookup,
    })
    .await;
    let mut stdout = io::stdout();
    let bytes = match arguments.output {
        ReportOutput::Human => Ok(report::text(&found, Colour::for_stream(&stdout)).into_bytes()),
        ReportOutput::Json => report::json(&found),
    };
    let written = bytes.and_then(|bytes| {
        stdout.write_all(&bytes)?;
        stdout.flush()
    });
    match written {
        // Whoever reads it has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other
            .context("cannot write the report to stdout")
            .map_err(|error| Failure::new(Exit::Failed, error))?,
    }
    Ok(match found.blocking().next() {
        Some(_) => Exit::Kernel.into(),
        None => Exit::Done.into(),
    })
}
