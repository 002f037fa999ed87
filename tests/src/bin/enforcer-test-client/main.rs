//! The client process of the tests: one JSON request a line on standard input, one JSON answer a line on
//! standard output. It ends when its standard input does.
//!
//! It does what it is told, bounds everything in time, and judges nothing. `sockets` makes the connects, `ring` those
//! through io_uring; `streams` connects as most programs do, and listens; `datagrams` sends and receives without any;
//! `sharing` gives sockets to other processes; `crowd` is many processes.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use dns_lookup::{AddrInfoHints, getaddrinfo};
use enforcer_tests::protocol::{Answer, Connect, Request};
use nix::unistd::{Uid, getuid, setresuid};
use socket2::Socket;

use self::crowd::Crowd;

mod crowd;
mod datagrams;
mod ring;
mod sharing;
mod sockets;
mod streams;

fn main() -> Result<()> {
    let mut client = Client::default();
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line.context("read a request")?;
        let request = serde_json::from_str(&line).with_context(|| format!("understand request {line:?}"))?;
        let answer = client.answer(request);
        serde_json::to_writer(&mut output, &answer).context("write an answer")?;
        writeln!(output).context("write an answer")?;
        output.flush().context("write an answer")?;
    }
    Ok(())
}

/// Why a step failed.
pub(crate) struct Failure {
    step: &'static str,
    cause: Cause,
}

enum Cause {
    /// What the kernel said.
    Kernel(io::Error),
    /// Our own patience ended.
    TimedOut,
    /// No such held socket.
    NotHeld,
}

impl Failure {
    pub(crate) fn kernel(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self {
            step,
            cause: Cause::Kernel(error),
        }
    }

    /// Puts it into an answer.
    pub(crate) fn tell(self, answer: &mut Answer) {
        answer.ok = false;
        answer.step = Some(self.step.to_owned());
        match self.cause {
            Cause::TimedOut => answer.timed_out = true,
            Cause::NotHeld => answer.error = Some("no such socket".to_owned()),
            Cause::Kernel(error) => match error.raw_os_error() {
                Some(errno) => answer.errno = Some(errno),
                None => answer.error = Some(error.to_string()),
            },
        }
    }

    pub(crate) const fn timed_out(step: &'static str) -> Self {
        Self {
            step,
            cause: Cause::TimedOut,
        }
    }
}

/// The sockets held for later requests.
#[derive(Default)]
struct Client {
    held: BTreeMap<u32, Socket>,
    next: u32,
    crowd: Crowd,
}

impl Client {
    fn answer(&mut self, request: Request) -> Answer {
        let mut answer = Answer::default();
        let start = Instant::now();
        let done = self.perform(request, &mut answer);
        if answer.elapsed_us == 0 {
            answer.elapsed_us = microseconds(start.elapsed());
        }
        if answer.pid == 0 {
            answer.pid = std::process::id();
        }
        match done {
            Ok(()) => {}
            Err(failure) => failure.tell(&mut answer),
        }
        answer
    }

    fn perform(&mut self, request: Request, answer: &mut Answer) -> Result<(), Failure> {
        answer.ok = true;
        match request {
            Request::Connect(connect) => {
                let socket = sockets::prepare(&connect)?;
                let start = Instant::now();
                let done = sockets::connect_and_send(&socket, &connect);
                answer.elapsed_us = microseconds(start.elapsed());
                describe(&socket, answer);
                if connect.hold {
                    answer.id = Some(self.hold(socket));
                }
                answer.received = done?;
            }
            Request::Repeat { connect, times } => answer.outcomes = Some(repeat(&connect, times)),
            Request::Threads {
                connect,
                threads,
                times,
            } => {
                let mut outcomes = BTreeMap::new();
                thread::scope(|scope| {
                    let running: Vec<_> = (0..threads)
                        .map(|_| scope.spawn(|| repeat(&connect, times)))
                        .collect();
                    for (outcome, count) in running.into_iter().flat_map(|thread| {
                        thread
                            .join()
                            .unwrap_or_else(|_| BTreeMap::from([("panic".to_owned(), 1)]))
                    }) {
                        *outcomes.entry(outcome).or_insert(0) += count;
                    }
                });
                answer.outcomes = Some(outcomes);
            }
            Request::Reconnect { id, to, timeout_ms } => {
                let socket = self.held(id)?;
                let done = sockets::connect(socket, to, Duration::from_millis(timeout_ms));
                describe(socket, answer);
                done?;
            }
            Request::ReconnectBlocking { id, to, timeout_ms } => {
                let socket = self.held(id)?;
                let done = streams::connect_blocking(socket, to, Duration::from_millis(timeout_ms));
                describe(socket, answer);
                done?;
            }
            Request::Listen { id } => streams::listen(self.held(id)?)?,
            Request::Accept { id, send, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms);
                let accepted = streams::accept(self.held(id)?, timeout)?;
                describe(&accepted, answer);
                streams::say(&accepted, &send)?;
            }
            Request::Shutdown { id, read, write } => streams::shut_down(self.held(id)?, read, write)?,
            Request::Disconnect { id } => {
                rustix::net::connect_unspec(self.held(id)?)
                    .map_err(|errno| Failure::kernel("connect")(errno.into()))?;
            }
            Request::Open(connect) => {
                let socket = sockets::prepare(&connect)?;
                answer.id = Some(self.hold(socket));
            }
            Request::Send {
                id,
                to,
                tclass,
                send,
                times,
            } => {
                let socket = self.held(id)?;
                let mut outcomes = BTreeMap::new();
                for _ in 0..times {
                    let mut one = Answer::default();
                    match datagrams::send(socket, to, tclass, &send) {
                        Ok(()) => one.ok = true,
                        Err(error) => one.errno = error.raw_os_error(),
                    }
                    *outcomes.entry(one.outcome()).or_insert(0) += 1;
                }
                answer.outcomes = Some(outcomes);
            }
            Request::Receive { id, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms);
                let (received, from) = datagrams::receive(self.held(id)?, timeout)?;
                answer.received = Some(received);
                answer.from = from;
            }
            Request::Duplicate { id } => {
                let copy = self.held(id)?.try_clone().map_err(Failure::kernel("dup"))?;
                answer.id = Some(self.hold(copy));
            }
            Request::Fork { request } => {
                *answer = sharing::forked(|| self.answer(*request)).map_err(Failure::kernel("fork"))?;
            }
            Request::Pass { id, request } => {
                let socket = self.held(id)?.try_clone().map_err(Failure::kernel("dup"))?;
                let in_child = |received: Socket| {
                    self.held.insert(id, received);
                    self.answer(*request)
                };
                *answer = sharing::passed(socket, in_child).map_err(Failure::kernel("pass"))?;
            }
            Request::Gather { size } => {
                self.crowd = Crowd::gather(size).map_err(Failure::kernel("fork"))?;
            }
            Request::Crowd { connects } => {
                let outcomes = self.crowd.connect(&connects);
                answer.crowd = Some(outcomes.map_err(Failure::kernel("tell the crowd"))?);
            }
            Request::Exchange { id, send, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms);
                answer.received = Some(sockets::exchange(self.held(id)?, &send, timeout)?);
            }
            Request::Names { id } => {
                let socket = self.held(id)?;
                describe(socket, answer);
                socket.peer_addr().map_err(Failure::kernel("getpeername"))?;
            }
            Request::Close { id } => {
                self.held(id)?;
                self.held.remove(&id);
            }
            Request::Resolve { name, port } => answer.addresses = Some(resolve(&name, port)?),
            Request::Whoami => {
                let cgroups = fs::read_to_string("/proc/self/cgroup")
                    .map_err(Failure::kernel("read /proc/self/cgroup"))?;
                let governed = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
                answer.cgroup = governed.map(str::to_owned);
            }
            Request::As { uid, request } => {
                let user = getuid();
                become_user(Uid::from_raw(uid))?;
                let done = self.perform(*request, answer);
                become_user(user)?;
                done?;
            }
            Request::Child { request } => *answer = in_a_child(&request).map_err(Failure::kernel("child"))?,
        }
        Ok(())
    }

    fn hold(&mut self, socket: Socket) -> u32 {
        let id = self.next;
        self.held.insert(id, socket);
        self.next += 1;
        id
    }

    fn held(&self, id: u32) -> Result<&Socket, Failure> {
        self.held.get(&id).ok_or(Failure {
            step: "find",
            cause: Cause::NotHeld,
        })
    }
}

/// Changes the real user and nothing else.
fn become_user(user: Uid) -> Result<(), Failure> {
    let unchanged = Uid::from_raw(u32::MAX);
    setresuid(user, unchanged, unchanged).map_err(|errno| Failure::kernel("setresuid")(errno.into()))
}

/// Makes the connect that many times and counts how it ended.
fn repeat(connect: &Connect, times: u32) -> BTreeMap<String, u64> {
    let mut client = Client::default();
    let mut outcomes = BTreeMap::new();
    for _ in 0..times {
        let mut one = connect.clone();
        one.hold = false;
        let outcome = client.answer(Request::Connect(one)).outcome();
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    outcomes
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn describe(socket: &Socket, answer: &mut Answer) {
    let ip = |address: io::Result<socket2::SockAddr>| address.ok().and_then(|address| address.as_socket());
    answer.peer = ip(socket.peer_addr());
    answer.local = ip(socket.local_addr());
}

/// Asks as most programs do: any family, stream sockets, the service's port. The C library ranks the addresses
/// by connecting a UDP socket to each of them, with that port.
fn resolve(name: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let hints = AddrInfoHints {
        socktype: libc::SOCK_STREAM,
        ..AddrInfoHints::default()
    };
    let failed = |error: io::Error| Failure::kernel("getaddrinfo")(io::Error::other(error.to_string()));
    getaddrinfo(Some(name), Some(&port.to_string()), Some(hints))
        .map_err(|error| failed(error.into()))?
        .map(|info| Ok(info.map_err(failed)?.sockaddr))
        .collect()
}

/// Runs another client, below this one, for one request.
fn in_a_child(request: &Request) -> io::Result<Answer> {
    let mut child = Command::new(env::current_exe()?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    if let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) {
        writeln!(input, "{}", serde_json::to_string(request)?)?;
        drop(input);
        BufReader::new(output).read_line(&mut line)?;
    }
    child.wait()?;
    Ok(serde_json::from_str(&line)?)
}
