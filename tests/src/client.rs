//! [`Client`]: a process in a place that makes the connects it is told to.
//!
//! It must be a process of its own: the cgroup that counts is the one in which a socket was made.

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    place::Place,
    process::{Running, Stream},
    protocol::{Answer, CONNECT_TIMEOUT_MS, Connect, Request, SocketKind},
    unique,
    wait::PATIENCE,
};

/// Names the client program where it does not lie beside the running one.
pub const PROGRAM_VARIABLE: &str = "ENFORCER_TEST_CLIENT";

/// File name of the client program.
const PROGRAM: &str = "enforcer-test-client";

/// The client process. It ends when the fixture is dropped, or its standard input closes in any other way.
#[derive(Debug)]
pub struct Client {
    process: Running,
    answers: usize,
}

impl Client {
    /// Starts a client in that place.
    ///
    /// # Errors
    ///
    /// When the program is not found, or the process cannot join the place.
    pub fn start(place: &Place<'_>) -> Result<Self> {
        Self::start_by(Self::command(place)?)
    }

    /// Starts a client by a command of the caller's, which connects its standard streams.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start_by(command: Command) -> Result<Self> {
        let process = Running::start(command).context("start a client")?;
        Ok(Self { process, answers: 0 })
    }

    /// Path of the client program.
    ///
    /// # Errors
    ///
    /// When it was not built.
    pub fn program() -> Result<PathBuf> {
        unique::built_program(PROGRAM, PROGRAM_VARIABLE)
    }

    /// The command that starts a client in that place.
    ///
    /// # Errors
    ///
    /// When the program is not found, or the place cannot be prepared.
    pub fn command(place: &Place<'_>) -> Result<Command> {
        place.command(Self::program()?)
    }

    /// Process identifier.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Lets the client do something, and waits for its answer. What the kernel refused is an answer, too.
    ///
    /// # Errors
    ///
    /// When the client does not answer: it bounds what it does itself, so that means it is gone or stuck.
    pub fn ask(&mut self, request: &Request) -> Result<Answer> {
        self.tell(request)?;
        self.answer()
    }

    /// Lets the client do something, without waiting. Answers come in the order of the requests.
    ///
    /// # Errors
    ///
    /// When the client is gone.
    pub fn tell(&mut self, request: &Request) -> Result<()> {
        let line = serde_json::to_string(request).context("write a request as JSON")?;
        self.process.write_line(&line)
    }

    /// Waits for the answer to the oldest unanswered request.
    ///
    /// # Errors
    ///
    /// When it does not come in time.
    pub fn answer(&mut self) -> Result<Answer> {
        let patience = PATIENCE + Duration::from_millis(CONNECT_TIMEOUT_MS);
        let line = self.process.line(Stream::Stdout, self.answers, patience)?;
        self.answers += 1;
        serde_json::from_str(&line).with_context(|| format!("read a client's answer: {line:?}"))
    }

    /// Makes one connect.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn connect(&mut self, connect: Connect) -> Result<Answer> {
        self.ask(&Request::Connect(connect))
    }

    /// Makes one TCP connect and closes the socket.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn connect_tcp(&mut self, to: SocketAddr) -> Result<Answer> {
        self.connect(Connect::new(SocketKind::Tcp, to))
    }

    /// Connects one UDP socket and closes it.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn connect_udp(&mut self, to: SocketAddr) -> Result<Answer> {
        self.connect(Connect::new(SocketKind::Udp, to))
    }

    /// Addresses of a name, in the order `getaddrinfo` ranks them inside the client's place.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask), and when the name is not known.
    pub fn resolve(&mut self, name: &str, port: u16) -> Result<Vec<SocketAddr>> {
        let answer = self.ask(&Request::Resolve {
            name: name.to_owned(),
            port,
        })?;
        ensure!(answer.ok, "resolve {name}: {}", answer.outcome());
        answer
            .addresses
            .with_context(|| format!("resolve {name}: the client answered without addresses"))
    }
}
