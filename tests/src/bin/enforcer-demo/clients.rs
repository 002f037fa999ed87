//! The clients of the demo: one of our own, and what the machine has of others. All of them without happy
//! eyeballs, which hides broken IPv6 at the price of a delay, and which most programs do not have.

use std::{
    env, fmt,
    net::{IpAddr, TcpStream, ToSocketAddrs as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use enforcer_tests::{
    interrupt::Interrupt,
    place::Place,
    process::{Running, Stream, end_with_parent},
    wait::eventually,
};
use rustix::process::Signal;

/// The argument with which the demo is its own plain client.
pub(crate) const PLAIN: &str = "plain-client";

/// What a client says once it has started and is about to look the name up. From then on its time counts.
const STARTED: &str = "started";

/// Where the clients go.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
}

/// What came of a client.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It connected.
    Connected {
        /// Where to.
        address: IpAddr,
        /// In how long, looking the name up included; by the client's own clock.
        milliseconds: f64,
    },
    /// It had not connected when its time was over, and was ended.
    GaveUp(Duration),
    /// It ended without connecting.
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected {
                address,
                milliseconds,
            } => write!(f, "{address} in {milliseconds:.1} ms"),
            Self::GaveUp(patience) => write!(f, "no connection, gave up after {} s", patience.as_secs()),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// A client of the demo.
pub(crate) struct Client {
    /// What people call it.
    pub(crate) name: &'static str,
    /// Whether it says [`STARTED`]; curl cannot.
    says_started: bool,
    /// The command that connects once and prints the address and the milliseconds.
    command: fn(&Place<'_>, &Target) -> Result<Command>,
}

impl Client {
    /// The built-in client, and those the machine has.
    pub(crate) fn installed() -> Vec<Self> {
        let mut clients = vec![Self {
            name: "plain client",
            says_started: true,
            command: |place, target| {
                let demo = env::current_exe().context("find the path of the demo")?;
                let mut command = place.command(demo)?;
                command.args([PLAIN, target.name, &target.port.to_string()]);
                Ok(command)
            },
        }];
        // The option is the one that is needed below, so an older curl counts as absent.
        if runs(&["curl", "--happy-eyeballs-timeout-ms", "1", "--version"]) {
            clients.push(Self {
                name: "curl",
                says_started: false,
                command: curl,
            });
        }
        if runs(&["python3", "--version"]) {
            clients.push(Self {
                name: "python3",
                says_started: true,
                command: python3,
            });
        }
        if runs(&["node", "--version"]) {
            clients.push(Self {
                name: "node",
                says_started: true,
                command: node,
            });
        }
        clients
    }

    /// Runs it once in that place. It is ended when its time is over.
    ///
    /// # Errors
    ///
    /// When it cannot be started, and [`Interrupted`](enforcer_tests::interrupt::Interrupted).
    pub(crate) fn run(
        &self,
        place: &Place<'_>,
        target: &Target,
        patience: Duration,
        interrupt: &Interrupt,
    ) -> Result<Outcome> {
        let mut command = (self.command)(place, target)?;
        end_with_parent(&mut command, Signal::KILL);
        let mut process = Running::start(command)?;
        process.close_stdin();
        let mut started = (!self.says_started).then(Instant::now);
        let ended = eventually("a client", patience * 10, || {
            if interrupt.check().is_err() {
                return Some(false);
            }
            if started.is_none()
                && process
                    .lines(Stream::Stdout)
                    .first()
                    .is_some_and(|line| line == STARTED)
            {
                started = Some(Instant::now());
            }
            if started.is_some_and(|started| started.elapsed() >= patience) {
                return Some(false);
            }
            matches!(process.exited(), Ok(Some(_)) | Err(_)).then_some(true)
        })?;
        interrupt.check()?;
        if !ended {
            return Ok(Outcome::GaveUp(patience));
        }
        let finished = process.finish(patience)?;
        let answer = finished.stdout.iter().find(|line| *line != STARTED);
        Ok(answer.and_then(|line| parse(line)).unwrap_or_else(|| {
            let said = finished.stderr.iter().rfind(|line| !line.trim().is_empty());
            Outcome::Failed(said.cloned().unwrap_or_else(|| finished.status.to_string()))
        }))
    }
}

/// The built-in client: what a program does that knows nothing better. Looks the name up, and tries one address
/// after the other, each for as long as the kernel does.
pub(crate) fn plain(name: &str, port: &str) -> Result<()> {
    let port: u16 = port.parse().context("understand the port")?;
    // What events call it.
    rustix::thread::set_name(c"plain-client").context("take a name")?;
    let mut screen = crate::screen::Screen::new();
    screen.line(STARTED)?;
    let start = Instant::now();
    let addresses = (name, port)
        .to_socket_addrs()
        .with_context(|| format!("look {name} up"))?;
    let mut failure = anyhow::anyhow!("{name} has no address");
    for address in addresses {
        match TcpStream::connect(address) {
            Ok(_) => {
                let milliseconds = start.elapsed().as_secs_f64() * 1e3;
                return screen.line(&format!("{} {milliseconds}", address.ip()));
            }
            Err(error) => failure = anyhow::Error::new(error).context(format!("connect to {address}")),
        }
    }
    Err(failure)
}

fn curl(place: &Place<'_>, target: &Target) -> Result<Command> {
    let mut command = place.command("curl")?;
    let url = format!("http://{}:{}/", target.name, target.port);
    // -q comes first: no configuration file. Happy eyeballs a minute late is none.
    command
        .args(["-q", "--silent", "--show-error", "--noproxy", "*"])
        .args(["--happy-eyeballs-timeout-ms", "60000"])
        .args([
            "--output",
            "/dev/null",
            "--write-out",
            "%{remote_ip} %{time_connect}s\\n",
            &url,
        ]);
    Ok(command)
}

fn python3(place: &Place<'_>, target: &Target) -> Result<Command> {
    const PROGRAM: &str = "
import socket, sys, time
print('started', flush=True)
start = time.monotonic()
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print(connection.getpeername()[0], (time.monotonic() - start) * 1e3)
";
    let mut command = place.command("python3")?;
    command.args(["-I", "-c", PROGRAM, target.name, &target.port.to_string()]);
    Ok(command)
}

fn node(place: &Place<'_>, target: &Target) -> Result<Command> {
    const PROGRAM: &str = "
const net = require('net')
console.log('started')
const start = process.hrtime.bigint()
const [host, port] = process.argv.slice(1)
const socket = net.connect({ host, port: Number(port), autoSelectFamily: false }, () => {
  console.log(socket.remoteAddress, Number(process.hrtime.bigint() - start) / 1e6)
  socket.destroy()
})
socket.on('error', (error) => { console.error(error.message); process.exitCode = 1 })
";
    let mut command = place.command("node")?;
    command.env_remove("NODE_OPTIONS");
    command.args(["-e", PROGRAM, "--", target.name, &target.port.to_string()]);
    Ok(command)
}

/// `ADDRESS MILLISECONDS`, or `ADDRESS SECONDSs` as curl has it.
fn parse(line: &str) -> Option<Outcome> {
    let (address, time) = line.split_once(' ')?;
    let milliseconds = match time.strip_suffix('s') {
        Some(seconds) => seconds.parse::<f64>().ok()? * 1e3,
        None => time.parse().ok()?,
    };
    Some(Outcome::Connected {
        address: address.parse().ok()?,
        milliseconds,
    })
}

fn runs(command: &[&str]) -> bool {
    Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_clients_answer_are_milliseconds() {
        let text = |line| parse(line).map(|outcome| outcome.to_string());
        assert_eq!(text("192.0.2.1 1.25").as_deref(), Some("192.0.2.1 in 1.2 ms"));
        assert_eq!(
            text("2001:db8::1 0.0014s").as_deref(),
            Some("2001:db8::1 in 1.4 ms")
        );
        assert_eq!(text(" 0.000000s"), None);
        assert_eq!(text("started"), None);
    }
}
