//! The worker's side: the loops that are timed. Nothing is in them but what is to be timed, and counting how it ended.

use std::{
    fs, iter,
    net::{Ipv6Addr, SocketAddrV6, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketType, accept, connect, getpeername, socket, sockopt::set_socket_linger},
};

use super::{Done, Outcomes, Percentiles, Task};

/// Where nobody listens: UDP does not mind.
const DISCARD_PORT: u16 = 9;

/// How many TCP connections are open at once.
const AT_ONCE: usize = 128;

/// What a worker has.
#[derive(Default)]
pub(super) struct Connecting {
    destinations: Vec<Ipv6Addr>,
    sockets: Vec<UdpSocket>,
}

impl Connecting {
    pub(super) fn perform(&mut self, task: &Task) -> Result<Done> {
        match task {
            Task::Load { path } => {
                self.destinations = read_destinations(path)?;
                Ok(Done::default())
            }
            Task::Sockets { procs } => {
                self.sockets = sockets_in(procs)?;
                Ok(Done::default())
            }
            Task::Udp { from, count } => {
                let socket = udp()?;
                self.timed(*from, *count, |to| connect(&socket, &at(to, DISCARD_PORT)))
            }
            Task::UdpByTurns { from, count } => {
                ensure!(!self.sockets.is_empty(), "there are no sockets");
                let mut sockets = self.sockets.iter().cycle();
                self.timed(*from, *count, |to| match sockets.next() {
                    Some(socket) => connect(socket, &at(to, DISCARD_PORT)),
                    None => Err(Errno::BADF),
                })
            }
            Task::UdpEach { from, count } => self.each(*from, *count),
            Task::UdpPaced { count, per_second } => self.paced(*count, *per_second),
            Task::UdpPeer { to, count } => {
                let family = if to.is_ipv4() {
                    AddressFamily::INET
                } else {
                    AddressFamily::INET6
                };
                timed(iter::repeat_n(to, *count), |to| {
                    let socket = socket(family, SocketType::DGRAM, None)?;
                    connect(&socket, to)?;
                    getpeername(&socket).map(drop)
                })
            }
            Task::Tcp { from, count } => self.timed(*from, *count, |to| {
                let socket = socket(AddressFamily::INET6, SocketType::STREAM, None)?;
                connect(&socket, &at(to, DISCARD_PORT))
            }),
            Task::TcpConnect { from, count } => self.tcp_connect(*from, *count),
        }
    }

    /// So many destinations, over and over.
    fn destinations(&self, from: usize, count: usize) -> Result<impl Iterator<Item = Ipv6Addr> + '_> {
        ensure!(!self.destinations.is_empty(), "there are no destinations");
        let begin = from % self.destinations.len();
        Ok(self.destinations.iter().cycle().skip(begin).take(count).copied())
    }

    fn timed(
        &self,
        from: usize,
        count: usize,
        each: impl FnMut(Ipv6Addr) -> Result<(), Errno>,
    ) -> Result<Done> {
        timed(self.destinations(from, count)?, each)
    }

    fn each(&self, from: usize, count: usize) -> Result<Done> {
        let socket = udp()?;
        let mut times_ns = Vec::with_capacity(count);
        let mut done = self.timed(from, count, |to| {
            let begin = Instant::now();
            let outcome = connect(&socket, &at(to, DISCARD_PORT));
            times_ns.push(u32::try_from(begin.elapsed().as_nanos()).unwrap_or(u32::MAX));
            outcome
        })?;
        done.each = Some(Percentiles::of(times_ns));
        Ok(done)
    }

    /// Waits by looking at the clock, as sleeping is not as fine as this has to be.
    fn paced(&self, count: usize, per_second: f64) -> Result<Done> {
        let socket = udp()?;
        let begin = Instant::now();
        let mut due = (0..).map(|number| Duration::from_secs_f64(f64::from(number) / per_second));
        self.timed(0, count, |to| {
            let due = due.next().unwrap_or_default();
            while begin.elapsed() < due {
                std::hint::spin_loop();
            }
            connect(&socket, &at(to, DISCARD_PORT))
        })
    }

    fn tcp_connect(&self, from: usize, count: usize) -> Result<Done> {
        let listener = TcpListener::bind("[::]:0").context("listen")?;
        let port = listener
            .local_addr()
            .context("ask for the listener's port")?
            .port();
        let mut outcomes = Outcomes::new();
        let mut time = Duration::ZERO;
        let mut destinations = self.destinations(from, count)?.peekable();
        while destinations.peek().is_some() {
            let mut made = Vec::with_capacity(AT_ONCE);
            for to in destinations.by_ref().take(AT_ONCE) {
                let socket =
                    socket(AddressFamily::INET6, SocketType::STREAM, None).context("make a socket")?;
                // Closing it ends the connection at once, with nothing left of it that would use up ports.
                set_socket_linger(&socket, Some(Duration::ZERO)).context("set a socket's lingering")?;
                made.push((socket, at(to, port)));
            }
            let mut connected = 0;
            let begin = Instant::now();
            for (socket, to) in &made {
                let outcome = connect(socket, to);
                connected += usize::from(outcome.is_ok());
                outcomes.add(outcome);
            }
            time += begin.elapsed();
            let accepted: Result<Vec<OwnedFd>, Errno> = (0..connected).map(|_| accept(&listener)).collect();
            drop(made);
            accepted.context("accept")?;
        }
        Ok(outcomes.done(time))
    }
}

fn timed<T>(places: impl Iterator<Item = T>, mut each: impl FnMut(T) -> Result<(), Errno>) -> Result<Done> {
    let mut outcomes = Outcomes::new();
    let begin = Instant::now();
    for place in places {
        outcomes.add(each(place));
    }
    Ok(outcomes.done(begin.elapsed()))
}

const fn at(address: Ipv6Addr, port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(address, port, 0, 0)
}

fn udp() -> Result<OwnedFd> {
    socket(AddressFamily::INET6, SocketType::DGRAM, None).context("make a socket")
}

fn sockets_in(procs: &[PathBuf]) -> Result<Vec<UdpSocket>> {
    let make = |path: &PathBuf| {
        fs::write(path, "0").with_context(|| format!("join the cgroup of {}", path.display()))?;
        Ok(UdpSocket::from(udp()?))
    };
    procs.iter().map(make).collect()
}

fn read_destinations(path: &Path) -> Result<Vec<Ipv6Addr>> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let addresses = bytes.chunks_exact(16).map(|chunk| {
        let mut octets = [0; 16];
        octets.copy_from_slice(chunk);
        octets.into()
    });
    Ok(addresses.collect())
}
