//! Making sockets and connecting them, bounded in time.
//!
//! A connect is started without blocking and then waited for, so that one into a black hole ends when the test
//! says so; what the hook refuses, it refuses in the `connect` call itself either way.

use std::{
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use enforcer_tests::protocol::{Connect, Family, SocketKind, Way};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{Failure, ring};

/// What a Fast Open connect sends when the test does not say: without data it would be a plain connect.
const FASTOPEN_DATA: &str = "x";

/// More than any answer in the tests.
const ANSWER_BYTES: usize = 64 * 1024;

/// An unconnected socket with everything set that the request asks for.
pub(crate) fn prepare(connect: &Connect) -> Result<Socket, Failure> {
    let family = connect.family.unwrap_or(if connect.to.is_ipv4() {
        Family::Ipv4
    } else {
        Family::Ipv6
    });
    let domain = match family {
        Family::Ipv4 => Domain::IPV4,
        Family::Ipv6 => Domain::IPV6,
    };
    let (kind, protocol) = match (connect.socket, family) {
        (SocketKind::Tcp | SocketKind::Fastopen, _) => (Type::STREAM, Protocol::TCP),
        (SocketKind::Mptcp, _) => (Type::STREAM, Protocol::MPTCP),
        (SocketKind::Udp, _) => (Type::DGRAM, Protocol::UDP),
        (SocketKind::Ping, Family::Ipv4) => (Type::DGRAM, Protocol::ICMPV4),
        (SocketKind::Ping, Family::Ipv6) => (Type::DGRAM, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, kind, Some(protocol)).map_err(Failure::kernel("socket"))?;
    if let Some(v6only) = connect.v6only {
        socket
            .set_only_v6(v6only)
            .map_err(Failure::kernel("setsockopt"))?;
    }
    if connect.way == Way::FastopenConnect {
        fastopen_connect(&socket).map_err(Failure::kernel("setsockopt"))?;
    }
    if let Some(bind) = connect.bind {
        socket.bind(&bind.into()).map_err(Failure::kernel("bind"))?;
    }
    socket
        .set_nonblocking(true)
        .map_err(Failure::kernel("set non-blocking"))?;
    Ok(socket)
}

/// Sets `TCP_FASTOPEN_CONNECT`, which no library names.
fn fastopen_connect(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `on`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN_CONNECT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Connects; with something to send, sends it and gives back what came.
pub(crate) fn connect_and_send(socket: &Socket, connect: &Connect) -> Result<Option<String>, Failure> {
    let timeout = Duration::from_millis(connect.timeout_ms);
    if connect.socket == SocketKind::Fastopen {
        let data = connect.send.as_deref().unwrap_or(FASTOPEN_DATA);
        // Without a cookie of an earlier connection the kernel takes no data: then this is a connect, and the
        // data is sent after it.
        let sent = match socket.send_to_with_flags(data.as_bytes(), &connect.to.into(), libc::MSG_FASTOPEN) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                established(socket, timeout)?;
                0
            }
            other => other.map_err(Failure::kernel("connect"))?,
        };
        established(socket, timeout)?;
        return match &connect.send {
            Some(data) if sent == 0 => exchange(socket, data, timeout).map(Some),
            Some(data) => receive(socket, data.len(), timeout).map(Some),
            None => Ok(None),
        };
    }
    match connect.way {
        Way::Plain | Way::FastopenConnect => self::connect(socket, connect.to, timeout)?,
        Way::IoUring | Way::IoUringWorker | Way::IoUringPoller => {
            ring::connect(socket, connect.to, timeout, connect.way)?;
        }
    }
    match &connect.send {
        Some(data) => exchange(socket, data, timeout).map(Some),
        None => Ok(None),
    }
}

/// Connects a socket that does not block.
pub(crate) fn connect(socket: &Socket, to: SocketAddr, timeout: Duration) -> Result<(), Failure> {
    match socket.connect(&SockAddr::from(to)) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => established(socket, timeout),
        other => other.map_err(Failure::kernel("connect")),
    }
}

/// Waits until a connect that was begun has ended, well or badly.
fn established(socket: &Socket, timeout: Duration) -> Result<(), Failure> {
    if !ready(socket, PollFlags::OUT, timeout).map_err(Failure::kernel("poll"))? {
        return Err(Failure::timed_out("connect"));
    }
    match socket.take_error().map_err(Failure::kernel("getsockopt"))? {
        Some(error) => Err(Failure::kernel("connect")(error)),
        None => Ok(()),
    }
}

/// Sends, and waits for as many bytes to come back, or one datagram.
pub(crate) fn exchange(mut socket: &Socket, data: &str, timeout: Duration) -> Result<String, Failure> {
    socket
        .write_all(data.as_bytes())
        .map_err(Failure::kernel("send"))?;
    receive(socket, data.len(), timeout)
}

fn receive(mut socket: &Socket, wanted_bytes: usize, timeout: Duration) -> Result<String, Failure> {
    let deadline = Instant::now() + timeout;
    let mut received = Vec::new();
    let mut buffer = vec![0; ANSWER_BYTES];
    while received.len() < wanted_bytes {
        let left = deadline.saturating_duration_since(Instant::now());
        if !ready(socket, PollFlags::IN, left).map_err(Failure::kernel("poll"))? {
            return Err(Failure::timed_out("receive"));
        }
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Failure::kernel("receive")(error)),
        }
    }
    Ok(String::from_utf8_lossy(&received).into_owned())
}

/// Whether the socket became ready in time.
pub(crate) fn ready(socket: &Socket, flags: PollFlags, timeout: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(socket, flags)], Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
