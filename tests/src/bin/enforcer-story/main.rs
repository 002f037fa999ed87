//! `cargo xtask story`: tells a story from the field to a person. What they are, `enforcer_tests::stories` says.
#![expect(
    clippy::print_stderr,
    reason = "talking to a person in a terminal is what it is for"
)]

use std::{
    env,
    io::{self, ErrorKind},
    process::ExitCode,
};

use anyhow::{Result, bail, ensure};
use enforcer_tests::{
    enforcer::Enforcer,
    interrupt::{Interrupt, Interrupted},
    stories::{Screen, compose, firewall, orm, websocket},
};

/// Exit code after an interrupt, as shells have it for SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match tell(&words) {
        Ok(shortfalls) if shortfalls.is_empty() => ExitCode::SUCCESS,
        Ok(shortfalls) => {
            for shortfall in shortfalls {
                eprintln!("error: {shortfall}");
            }
            ExitCode::FAILURE
        }
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("\ninterrupted; everything was removed");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        // Whoever closed our output has seen enough.
        Err(error)
            if error.downcast_ref::<io::Error>().map(io::Error::kind) == Some(ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells that story, and returns what did not go as it should.
fn tell(words: &[&str]) -> Result<Vec<String>> {
    let [name] = words else {
        bail!("understand the arguments\nusage: enforcer-story orm|compose|websocket|firewall");
    };
    ensure!(
        rustix::process::geteuid().is_root(),
        "it makes network namespaces and a cgroup, which needs root\nhint: run it as root"
    );
    // Found missing now, not after the first half.
    Enforcer::program()?;
    let mut screen = Screen::terminal(Interrupt::watch()?);
    Ok(match *name {
        "orm" => orm::tell(&mut screen)?.shortfalls(),
        "compose" => compose::tell(&mut screen)?.shortfalls(),
        "websocket" => websocket::tell(&mut screen)?.shortfalls(),
        "firewall" => firewall::tell(&mut screen)?.shortfalls(),
        _ => bail!("there is no story {name:?}\nhint: there are orm, compose, websocket and firewall"),
    })
}
