//! `cargo xtask demo`: what enforcer is for, shown in half a minute on a host that is made for it.
//!
//! The host is the client's side of a lab, network namespaces without a name; the workload is a cgroup. Nothing else
//! of the machine is touched, and all of it is gone afterwards, also after ctrl-c. `clients` knows the clients,
//! `janitor` what is left when the demo is killed, `screen` how it looks; the host is `enforcer_tests::lab`.

use std::{
    env,
    io::{self, ErrorKind},
    net::IpAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use enforcer_tests::{
    cgroup::{self, CgroupFixture},
    enforcer::Enforcer,
    interrupt::{Interrupt, Interrupted},
    lab::{Breakage, CLIENT_IPV6, HTTP_PORT, Lab, NAME, PREFIX, SERVER_IPV4, SERVER_IPV6},
    process::{Stream, end_with_parent},
    wait::PATIENCE,
};

use crate::{
    clients::{Client, Outcome, Target},
    screen::Screen,
};

mod clients;
mod janitor;
mod screen;

/// How long each client is given before. Left alone, the kernel takes about two minutes to give up.
const BEFORE: Duration = Duration::from_secs(3);

/// How long each client is given after. It takes milliseconds; this is for machines that start a program slowly.
const AFTER: Duration = Duration::from_secs(20);

/// How long the demo waits for the event of a client that has already connected.
const EVENT: Duration = Duration::from_secs(2);

/// Exit code after an interrupt, as shells have it for SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut screen = Screen::new();
    let done = match words[..] {
        [] => demo(&mut screen),
        [clients::PLAIN, name, port] => clients::plain(name, port),
        [janitor::VERB, cgroup] => janitor::wait_and_remove(cgroup),
        _ => Err(anyhow::anyhow!("enforcer-demo takes no arguments")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            screen.problem("interrupted; everything was removed");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        // Whoever closed our output has seen enough.
        Err(error)
            if error.downcast_ref::<io::Error>().map(io::Error::kind) == Some(ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            screen.problem(&format!("enforcer-demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn demo(screen: &mut Screen) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "it makes network namespaces and a cgroup, which needs root\nhint: run it as root"
    );
    // Found missing now, not after the first half.
    Enforcer::program()?;
    let interrupt = Interrupt::watch()?;
    cgroup::sweep(CGROUP_PREFIX)?;

    let lab = Lab::new(Breakage::BlackHole)?;
    let cgroup = CgroupFixture::of_process(CGROUP_PREFIX)?;
    let _janitor = janitor::start(&cgroup)?;
    let place = lab.inside(&cgroup);
    let target = Target {
        name: NAME,
        port: HTTP_PORT,
    };
    let clients = Client::installed();

    screen.heading("A host whose IPv6 is broken")?;
    screen.text(&format!("{NAME} has two addresses:"))?;
    screen.text(&format!(
        "  AAAA  {SERVER_IPV6:<18}packets to it vanish, though the host has an"
    ))?;
    screen.text(&format!("  {:24}address ({CLIENT_IPV6}) and a default route", ""))?;
    screen.text(&format!(
        "  A     {SERVER_IPV4:<18}a small web server, port {HTTP_PORT}"
    ))?;

    screen.heading("Before")?;
    screen.text(&format!(
        "The clients try one address after the other, the way most programs do. Each is given {} s.",
        BEFORE.as_secs()
    ))?;
    screen.gap()?;
    let mut before = Vec::new();
    for client in &clients {
        screen.begin(client.name)?;
        let outcome = client.run(&place, &target, BEFORE, &interrupt)?;
        screen.end(&outcome)?;
        before.push(outcome);
    }

    screen.heading("After")?;
    let governed = cgroup.relative_path();
    let arguments = ["run", "--cgroup", &governed, "--reject", PREFIX];
    screen.text(&format!("$ enforcer {}", arguments.join(" ")))?;
    // It runs on the broken host, as it would on a real one, outside the cgroup it governs.
    let mut command = Enforcer::command(&lab.outside(), arguments)?;
    end_with_parent(&mut command, rustix::process::Signal::TERM);
    let enforcer = Enforcer::start(command)?;
    enforcer
        .wait_for_line(Stream::Stderr, PATIENCE, |line| line.starts_with("enforcing "))
        .context("enforcer does not enforce")?;
    for line in enforcer.lines(Stream::Stderr) {
        screen.event(&line)?;
    }
    let said = enforcer.lines(Stream::Stderr).len();
    screen.gap()?;
    screen.text(
        "The same clients. Below each, what enforcer saw: the C library asks the kernel, by connecting a UDP",
    )?;
    screen.text("socket, which address leads somewhere. Refused, the AAAA goes last in its list, and nobody tries it.")?;
    screen.gap()?;

    let mut after = Vec::new();
    let mut shown = 0;
    for client in &clients {
        screen.begin(client.name)?;
        let outcome = client.run(&place, &target, AFTER, &interrupt)?;
        screen.end(&outcome)?;
        after.push(outcome);
        shown = show_events(screen, &enforcer, shown)?;
    }
    screen.gap()?;
    let finished = enforcer.terminate()?;
    for line in finished
        .stdout
        .iter()
        .skip(shown)
        .chain(finished.stderr.iter().skip(said))
    {
        screen.event(line)?;
    }
    ensure!(
        finished.status.success(),
        "enforcer ended with {}",
        finished.status
    );

    let rows: Vec<_> = clients
        .iter()
        .map(|client| client.name)
        .zip(before)
        .zip(after)
        .collect();
    screen.heading("Before and after")?;
    screen.table(rows.iter().map(|((name, before), after)| (*name, before, after)))?;
    screen.gap()?;
    screen.text("Nothing but the kernel's answer to connect() changed: no client, no resolver, no route.")?;
    screen.text("On a host of yours:  enforcer exec --reject internet -- COMMAND")?;
    cgroup.remove()?;
    for ((name, _), after) in &rows {
        ensure!(
            matches!(after, Outcome::Connected { address, .. } if *address == IpAddr::from(SERVER_IPV4)),
            "{name} did not connect over IPv4 while enforcer was running: {after}"
        );
    }
    Ok(())
}

/// Name of the demo's cgroups begins with this.
const CGROUP_PREFIX: &str = "enforcer-demo";

/// Shows the events that came since, when at least one has and no more follow; gives back how many were shown in
/// all.
fn show_events(screen: &mut Screen, enforcer: &Enforcer, shown: usize) -> Result<usize> {
    /// Events of one client come together.
    const QUIET: Duration = Duration::from_millis(50);
    let start = Instant::now();
    let mut count = shown;
    let mut changed = start;
    let settled = || {
        let now = enforcer.lines(Stream::Stdout).len();
        if now != count {
            (count, changed) = (now, Instant::now());
        }
        count > shown && changed.elapsed() >= QUIET
    };
    // A client that asked nothing about IPv6 has no events; that is not an error.
    let _ = enforcer_tests::wait::eventually("events", EVENT, settled);
    let lines = enforcer.lines(Stream::Stdout);
    for line in &lines[shown..] {
        screen.event(line)?;
    }
    Ok(lines.len())
}
