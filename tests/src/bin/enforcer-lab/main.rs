//! `cargo xtask lab`: a network whose IPv6 is broken, for a person to try things in.
//!
//! `run` makes a lab, runs a command on its client's side, and removes it; `up` leaves it standing and says how to
//! enter it; `down` removes it. What a lab is, `enforcer_tests::lab` says. `run` knows the first, `standing` the
//! other two and what they keep of each lab, `hold` the process in the background that is a standing lab.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to a person in a terminal is what it is for"
)]

use std::{env, ffi::OsString, process::ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use enforcer_tests::lab::Breakage;

mod hold;
mod run;
mod standing;

const USAGE: &str = "usage: enforcer-lab [list]
       enforcer-lab run BREAKAGE COMMAND [ARGUMENT…]
       enforcer-lab up BREAKAGE [NAME]
       enforcer-lab down [NAME…]";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    match perform(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: &[OsString]) -> Result<ExitCode> {
    let Some((verb, rest)) = arguments.split_first() else {
        return list();
    };
    match (verb.to_str(), rest) {
        (Some("list"), []) => return list(),
        (Some(hold::ANCHOR), []) => return hold::anchor().map(|()| ExitCode::SUCCESS),
        _ => {}
    }
    ensure!(
        rustix::process::geteuid().is_root(),
        "a lab is made of network namespaces, which needs root\nhint: run it as root"
    );
    match (verb.to_str(), rest) {
        (Some("run"), [breakage, command @ ..]) if !command.is_empty() => {
            run::run(text(breakage)?.parse()?, command)
        }
        (Some("up"), [breakage]) => standing::up(text(breakage)?, text(breakage)?.parse()?),
        (Some("up"), [breakage, name]) => standing::up(text(name)?, text(breakage)?.parse()?),
        (Some("down"), names) => {
            let names: Vec<_> = names.iter().map(text).collect::<Result<_>>()?;
            standing::down(&names)
        }
        (Some(hold::VERB), [name, breakage]) => hold::hold(text(name)?, text(breakage)?.parse()?),
        _ => bail!("understand the arguments\n{USAGE}"),
    }
}

fn text(argument: &OsString) -> Result<&str> {
    argument
        .to_str()
        .with_context(|| format!("understand {}: it is not UTF-8", argument.display()))
}

/// Every breakage, and the labs that stand.
fn list() -> Result<ExitCode> {
    for breakage in Breakage::ALL {
        println!("{:<15}{}", breakage.name(), breakage.description());
    }
    // Who may not look has none.
    let names = standing::names().unwrap_or_default();
    if !names.is_empty() {
        println!("\nup: {}", names.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}
