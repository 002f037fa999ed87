//! ICMPv6 echo: whether anybody is there, and whether long packets come through.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

use super::{
    connect::micros,
    findings::{Echo, End, Large},
    option::{path_mtu, set_ipv6},
    words::errno,
};

/// Octets of the short one: every link of IPv6 carries them (RFC 8200 section 5).
const SHORT: u32 = 1280;

/// Octets of the longest one. Longer packets are not what ways outside of one machine carry.
const LONGEST: u32 = 9216;

/// IPv6 and ICMPv6 headers.
const HEADERS: u32 = 40 + 8;

/// How long an answer is waited for before the question is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(1000);

const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

/// Sockets for echoes, made where and as long as this process may make them: raw ones with CAP_NET_RAW, otherwise those
/// that `net.ipv4.ping_group_range` grants.
#[derive(Debug)]
pub struct Echoes {
    sockets: Mutex<Vec<(Socket, bool)>>,
    why: Option<String>,
}

impl Echoes {
    /// As many, in the network namespace of the calling thread.
    #[must_use]
    pub fn open(count: usize) -> Self {
        let mut sockets = Vec::with_capacity(count);
        let mut why = None;
        for _ in 0..count {
            match open() {
                Ok(socket) => sockets.push(socket),
                Err(error) => {
                    why = Some(format!(
                        "{}: it takes CAP_NET_RAW, or this user's group in net.ipv4.ping_group_range",
                        errno(&error)
                    ));
                    break;
                }
            }
        }
        Self {
            sockets: Mutex::new(sockets),
            why,
        }
    }

    fn take(&self) -> Result<(Socket, bool), String> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let why = || {
            self.why
                .clone()
                .unwrap_or_else(|| "too many addresses".to_owned())
        };
        sockets.pop().ok_or_else(why)
    }
}

/// A socket, and whether it is a raw one: the kernel gives others an identifier of its own.
fn open() -> io::Result<(Socket, bool)> {
    let make = |kind| Socket::new(Domain::IPV6, kind, Some(Protocol::ICMPV6));
    match make(Type::RAW) {
        Ok(socket) => Ok((socket, true)),
        Err(_) => make(Type::DGRAM).map(|socket| (socket, false)),
    }
}

/// Sends echoes to that address.
pub(super) async fn echo(to: Ipv6Addr, echoes: &Echoes, limit: Duration) -> Echo {
    let start = Instant::now();
    let ended = |end, why| Echo {
        end,
        why,
        time_us: micros(start),
        large: None,
    };
    let (socket, raw) = match echoes.take() {
        Ok(taken) => taken,
        Err(why) => return ended(End::Untried, Some(why)),
    };
    let mut talk = match Talk::start(socket, raw, to) {
        Ok(talk) => talk,
        Err(error) => return ended(End::Failed, Some(errno(&error))),
    };
    let short = talk.ask(SHORT, limit).await;
    let mut echo = match &short {
        Ok(true) => ended(End::Done, None),
        Ok(false) => ended(End::Silent, None),
        Err(error) => ended(End::Failed, Some(errno(error))),
    };
    if matches!(short, Ok(true)) {
        echo.large = talk.large(limit).await;
    }
    echo
}

/// A conversation with one address.
struct Talk {
    /// It is no socket of UDP's; of what a runtime does to sockets, nothing tells them apart.
    socket: UdpSocket,
    /// The identifier, where it is this process's to choose.
    identifier: Option<u16>,
    sequence: u16,
}

impl Talk {
    fn start(socket: Socket, raw: bool, to: Ipv6Addr) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // What routers say of these packets is heard, and what is too long for the way is not cut into fragments.
        for (option, value) in [
            (libc::IPV6_RECVERR, 1),
            (libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
            (libc::IPV6_DONTFRAG, 1),
        ] {
            set_ipv6(&socket, option, value)?;
        }
        socket.connect(&SocketAddr::new(to.into(), 0).into())?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            identifier: raw.then(|| fastrand::u16(..)),
            sequence: 0,
        })
    }

    /// Asks, again after a while, and says whether an answer came.
    async fn ask(&mut self, octets: u32, limit: Duration) -> io::Result<bool> {
        let first = self.sequence.wrapping_add(1);
        let end = Instant::now() + limit;
        loop {
            self.sequence = self.sequence.wrapping_add(1);
            self.send(octets)?;
            let left = end.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left.min(AGAIN_AFTER), self.answer(first)).await {
                Ok(answered) => return answered.map(|()| true),
                Err(_elapsed) if left <= AGAIN_AFTER => return Ok(false),
                Err(_elapsed) => {}
            }
        }
    }

    fn send(&self, octets: u32) -> io::Result<()> {
        let payload = usize::try_from(octets.saturating_sub(HEADERS)).unwrap_or_default();
        let mut packet = vec![0; 8 + payload];
        packet[0] = ECHO_REQUEST;
        // The kernel fills in the checksum.
        packet[4..6].copy_from_slice(&self.identifier.unwrap_or_default().to_be_bytes());
        packet[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        rustix::net::send(&self.socket, &packet, SendFlags::empty())?;
        Ok(())
    }

    /// Waits for the answer to any question since `first`.
    async fn answer(&self, first: u16) -> io::Result<()> {
        let mut packet = vec![0; 16 << 10];
        loop {
            let interest = Interest::READABLE | Interest::ERROR;
            let read = self.socket.async_io(interest, || {
                let (length, _) = rustix::net::recv(&self.socket, packet.as_mut_slice(), RecvFlags::empty())?;
                Ok(length)
            });
            let length = read.await?;
            let [kind, _, _, _, id0, id1, seq0, seq1, ..] = packet[..length] else {
                continue;
            };
            let identifier = u16::from_be_bytes([id0, id1]);
            let sequence = u16::from_be_bytes([seq0, seq1]);
            let is_ours = self.identifier.is_none_or(|ours| ours == identifier);
            let since = sequence.wrapping_sub(first);
            if kind == ECHO_REPLY && is_ours && since <= self.sequence.wrapping_sub(first) {
                return Ok(());
            }
        }
    }

    /// One as long as the kernel believes the way to carry, and where a router asks for shorter ones, one of those.
    async fn large(&mut self, limit: Duration) -> Option<Large> {
        let mtu = |talk: &Self| path_mtu(&talk.socket, true);
        let octets = mtu(self).filter(|mtu| (SHORT + 1..=LONGEST).contains(mtu))?;
        let mut learned = None;
        let mut answered = self.ask(octets, limit).await;
        if matches!(&answered, Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE)) {
            learned = mtu(self).filter(|shorter| *shorter < octets);
            if let Some(shorter) = learned {
                answered = self.ask(shorter, limit).await;
            }
        }
        let end = match answered {
            Ok(true) => End::Done,
            Ok(false) => End::Silent,
            Err(_) => End::Failed,
        };
        Some(Large { octets, end, learned })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::test_support::is_root;

    #[tokio::test]
    async fn loopback_answers() {
        if !is_root("probe::echo::tests::loopback_answers") {
            return;
        }
        let echoes = Echoes::open(1);
        let found = echo(Ipv6Addr::LOCALHOST, &echoes, Duration::from_secs(60)).await;
        // There are machines without IPv6 on loopback; a socket that was made is taken once.
        if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            assert_eq!((found.end, found.why), (End::Done, None));
        }
        let found = echo(Ipv6Addr::LOCALHOST, &echoes, Duration::from_secs(60)).await;
        assert_eq!(found.end, End::Untried);
    }
}
