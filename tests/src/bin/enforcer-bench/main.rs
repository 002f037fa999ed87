//! `cargo xtask bench`: what enforcer costs and what the alternatives cost, side by side in one run.
//!
//! Each group of rows is a file, in [`GROUPS`]. What they measure with is `enforcer_tests::bench`; `report` is what they
//! give back, `table`, `results`, `markdown` and `plots` how it is kept and how it looks, `record` what `--quick` holds it
//! against.

use std::{env, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use enforcer_tests::bench::{bpf, worker};

use crate::{bench::Bench, machine::Machine, report::Outcome, results::Results};

mod bench;

mod machine;
mod markdown;
mod plots;
mod record;
mod report;
mod results;
mod table;

mod controller;
mod delivery;
mod disturbance;
mod events;
mod leaks;
mod lookup;
mod loopback;
mod policies;
mod profile;
mod redirect;
mod reject;
mod reload;
mod scaling;
mod start;
mod targets;

/// A group of rows by its name, measured together.
struct Group {
    name: &'static str,
    what: &'static str,
    measure: fn(&Bench) -> Result<Outcome>,
}

/// All of them, in the order they are told.
const GROUPS: [Group; 15] = [
    Group {
        name: "lookup",
        what: "An allowed connect inside the program",
        measure: lookup::run,
    },
    Group {
        name: "policies",
        what: "Very many policies",
        measure: policies::run,
    },
    Group {
        name: "loopback",
        what: "A whole allowed connect",
        measure: loopback::run,
    },
    Group {
        name: "reject",
        what: "A rejected connect",
        measure: reject::run,
    },
    Group {
        name: "redirect",
        what: "A redirected connect",
        measure: redirect::run,
    },
    Group {
        name: "scaling",
        what: "Several CPUs at once",
        measure: scaling::run,
    },
    Group {
        name: "events",
        what: "Events",
        measure: events::run,
    },
    Group {
        name: "delivery",
        what: "Delivering events",
        measure: delivery::run,
    },
    Group {
        name: "reload",
        what: "Reloading",
        measure: reload::run,
    },
    Group {
        name: "disturbance",
        what: "Connects during changes",
        measure: disturbance::run,
    },
    Group {
        name: "start",
        what: "Starting, and the largest policy",
        measure: start::run,
    },
    Group {
        name: "targets",
        what: "Very many targets",
        measure: targets::run,
    },
    Group {
        name: "leaks",
        what: "What is left behind",
        measure: leaks::run,
    },
    Group {
        name: "controller",
        what: "The controller's work",
        measure: controller::run,
    },
    Group {
        name: "profile",
        what: "Where the time goes",
        measure: profile::run,
    },
];

/// Measures what enforcer costs and what the alternatives cost, side by side.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    /// Few rounds and small tables: checks the set-up and the output, and fails on a ratio worse than twice the recorded one
    #[arg(long)]
    quick: bool,
    /// Measures one group of rows only
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Writes docs/performance.md, its plots and the recorded ratios
    #[arg(long, conflicts_with = "quick")]
    bless: bool,
    /// Where results go
    #[arg(long, value_name = "DIRECTORY")]
    output: PathBuf,
    /// The repository
    #[arg(long, value_name = "DIRECTORY")]
    repository: PathBuf,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((verb, rest)) if verb == worker::VERB => worker::serve(rest),
        _ => run(&Arguments::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            table::problem(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "it makes network namespaces and cgroups and loads kernel programs, which needs root\nhint: run it as root"
    );
    let groups = chosen(arguments.only.as_deref())?;
    // Controllers within this process are to have their memory as enforcer has it.
    enforcer::commands::memory::give_back_what_is_large();
    bpf::raise_limits();
    let bench = Bench {
        quick: arguments.quick,
        cpu: std::thread::available_parallelism().context("count CPUs")?.get() - 1,
    };
    bench.leave_cpu()?;
    let machine = Machine::find()?;
    table::header(&machine);
    fs::create_dir_all(&arguments.output).with_context(|| format!("make {}", arguments.output.display()))?;
    let mut worse = Vec::new();
    for group in groups {
        let outcome = if arguments.quick {
            let records = record::read(&arguments.repository)?;
            let (outcome, still_worse) = record::held_against(&records, || (group.measure)(&bench))
                .with_context(|| format!("measure {}", group.name))?;
            worse.extend(still_worse);
            outcome
        } else {
            (group.measure)(&bench).with_context(|| format!("measure {}", group.name))?
        };
        table::print(group.what, &outcome.rows);
        let results = Results {
            group: group.name.to_owned(),
            what: group.what.to_owned(),
            quick: arguments.quick,
            machine: machine.clone(),
            outcome,
        };
        results.write(&arguments.output)?;
    }
    let all = results::read_all(
        &arguments.output,
        &machine,
        arguments.quick,
        &GROUPS.map(|group| group.name),
    )?;
    let text = markdown::tables(&machine, &all);
    write(&arguments.output.join("performance.md"), &text)?;
    plots::draw(&arguments.output, &all)?;
    if arguments.bless {
        let document = arguments.repository.join("docs/performance.md");
        let before = fs::read_to_string(&document).with_context(|| format!("read {}", document.display()))?;
        write(&document, &markdown::replaced(&before, &text)?)?;
        plots::draw(&arguments.repository.join("docs/img"), &all)?;
        record::write(&arguments.repository, &all)?;
    }
    if !worse.is_empty() {
        bail!(
            "worse than twice what is recorded, in {} repeats: {}",
            record::REPEATS,
            worse.join(", ")
        );
    }
    Ok(())
}

fn write(path: &std::path::Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn chosen(only: Option<&str>) -> Result<Vec<&'static Group>> {
    let Some(name) = only else {
        return Ok(GROUPS.iter().collect());
    };
    let Some(group) = GROUPS.iter().find(|group| group.name == name) else {
        bail!(
            "--only {name}: there is no such group of rows\nhint: the groups are {}",
            GROUPS.map(|group| group.name).join(", ")
        );
    };
    Ok(vec![group])
}
