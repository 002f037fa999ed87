//! `cargo xtask clients`: real clients against each breakage of the lab, without enforcer, with a `reject` and with a
//! redirect.
//!
//! What is run and what must come of it is `enforcer_tests::clients`; `matrix` runs it, `report` is how it is kept and told,
//! `markdown` and `picture` are `docs/clients.md`.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use enforcer_tests::{
    cgroup,
    clients::{
        table::{self, Client},
        world::Mode,
    },
    interrupt::{Interrupt, Interrupted},
    lab::Breakage,
};

use crate::report::Report;

mod markdown;
mod matrix;
mod picture;
mod report;

/// Runs real clients against each breakage of the lab, without enforcer, with a `reject` and with a redirect.
#[derive(Parser)]
#[command(name = "cargo xtask clients")]
struct Arguments {
    /// Clients of that family, or with that in their name, only
    #[arg(long, value_name = "CLIENT")]
    only: Option<String>,
    /// One breakage only
    #[arg(long, value_name = "NAME")]
    breakage: Option<Breakage>,
    /// Writes docs/clients.md and its picture, of what was found now and before
    #[arg(long)]
    bless: bool,
    /// Where results go
    #[arg(long, value_name = "DIRECTORY")]
    output: PathBuf,
    /// The repository
    #[arg(long, value_name = "DIRECTORY")]
    repository: PathBuf,
}

/// Exit code after an interrupt, as shells have it for SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is::<Interrupted>() => {
            report::problem("interrupted; everything was removed");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) => {
            report::problem(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether everything is as it must be.
fn run(arguments: &Arguments) -> Result<bool> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "it makes network namespaces and cgroups and loads kernel programs, which needs root\nhint: run it as root"
    );
    let clients = chosen(arguments.only.as_deref())?;
    let breakages = arguments
        .breakage
        .map_or_else(|| Breakage::ALL.to_vec(), |breakage| vec![breakage]);
    let interrupt = Interrupt::watch()?;
    // Of one that was killed.
    for mode in Mode::ALL {
        cgroup::sweep(&format!("enforcer-clients-{mode}"))?;
    }
    let rows = matrix::run(&clients, &breakages, &interrupt)?;
    let folder = &arguments.output;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let kept = folder.join("clients.json");
    let report = Report::new(rows, &kept)?;
    report.write(&kept)?;
    let wrong = report.tell(&clients, &breakages);
    write(&folder.join("clients.md"), &markdown::tables(&report))?;
    write(&folder.join("clients.svg"), &picture::draw(&report)?)?;
    if arguments.bless {
        report.check_complete()?;
        let document = arguments.repository.join("docs/clients.md");
        let before = fs::read_to_string(&document).with_context(|| format!("read {}", document.display()))?;
        write(
            &document,
            &markdown::replaced(&before, &markdown::tables(&report))?,
        )?;
        write(
            &arguments.repository.join("docs/img/clients.svg"),
            &picture::draw(&report)?,
        )?;
    }
    Ok(wrong == 0)
}

fn write(path: &std::path::Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn chosen(only: Option<&str>) -> Result<Vec<Client>> {
    let mut clients = table::all();
    if let Some(only) = only {
        let wanted = only.to_lowercase();
        clients.retain(|client| {
            let family = format!("{:?}", client.family).to_lowercase();
            family == wanted || client.name.to_lowercase().contains(&wanted)
        });
    }
    if clients.is_empty() {
        let names: Vec<_> = table::all().iter().map(|client| client.name).collect();
        bail!(
            "--only {}: there is no such client\nhint: the clients are {}",
            only.unwrap_or_default(),
            names.join("; ")
        );
    }
    Ok(clients)
}
