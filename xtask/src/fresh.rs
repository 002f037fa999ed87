//! x
#[derive(clap::Args)]
pub(crate) struct Args {}
pub(crate) fn run(_a: &Args) -> anyhow::Result<std::process::ExitCode> {
    Ok(std::process::ExitCode::SUCCESS)
}
