//! One verb each: arguments in, rooms put together, an exit code out.

mod cli;
mod exit;

mod console;

mod living;
pub mod memory;
mod neighbours;
mod prepare;
mod stream;
mod warn;

mod run;

mod spawn;

mod exec;

mod check;
mod check_names;

mod ask_inside;

mod doctor;
mod explain;
mod probe;

use std::process::ExitCode;

use clap::Parser as _;

pub use exit::Exit;

use self::{
    cli::{Cli, Verb},
    exit::Failure,
};

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    memory::give_back_what_is_large();
    // Malformed arguments, --help and --version end here, with clap's codes: 2, 0, 0.
    let cli = Cli::parse();
    match run_to_end(cli) {
        Ok(code) => code,
        Err(failure) => {
            console::error(&failure);
            failure.exit.into()
        }
    }
}

/// Events are read, lines are handed on and signals are waited for on this one thread; each stream has a writer
/// thread of its own.
fn run_to_end(cli: Cli) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    let result = match cli.verb {
        Verb::Run(arguments) => runtime.block_on(run::run(&arguments)),
        Verb::Exec(arguments) => runtime.block_on(exec::exec(&arguments)),
        Verb::Check(arguments) => runtime.block_on(check::check(&arguments)),
        Verb::Explain(arguments) => runtime.block_on(explain::explain(&arguments)),
        Verb::AskInside(arguments) => runtime.block_on(ask_inside::ask_inside(arguments)),
        Verb::Probe(arguments) => runtime.block_on(probe::probe(&arguments)),
        Verb::ProbeInside(arguments) => runtime.block_on(probe::probe_inside(arguments)),
        Verb::Doctor(arguments) => runtime.block_on(doctor::doctor(&arguments)),
    };
    // A blocking task (a resolver that does not answer) must not hold up the end.
    runtime.shutdown_background();
    result
}
