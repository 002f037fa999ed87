//! Datagrams that come with an address, or go without one: `sendmsg` and `recvfrom`.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::AsRawFd as _,
    time::Duration,
};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use rustix::{
    event::PollFlags,
    net::{RecvFlags, recvfrom},
};
use socket2::Socket;

use crate::{Failure, sockets::ready};

/// More than any datagram in the tests.
const DATAGRAM_BYTES: usize = 2_048;

/// Sends one datagram, to that address or to the socket's peer, with a traffic class where there is one.
pub(crate) fn send(
    socket: &Socket,
    to: Option<SocketAddr>,
    tclass: Option<i32>,
    data: &str,
) -> io::Result<()> {
    let to = to.map(SockaddrStorage::from);
    let controls: Vec<_> = tclass.iter().map(ControlMessage::Ipv6TClass).collect();
    let data = [IoSlice::new(data.as_bytes())];
    sendmsg(
        socket.as_raw_fd(),
        &data,
        &controls,
        MsgFlags::empty(),
        to.as_ref(),
    )?;
    Ok(())
}

/// Waits for one datagram, and says where it came from by what the kernel wrote there.
pub(crate) fn receive(socket: &Socket, timeout: Duration) -> Result<(String, Option<SocketAddr>), Failure> {
    if !ready(socket, PollFlags::IN, timeout).map_err(Failure::kernel("poll"))? {
        return Err(Failure::timed_out("receive"));
    }
    let mut buffer = [0; DATAGRAM_BYTES];
    let (count, _, from) = recvfrom(socket, &mut buffer[..], RecvFlags::DONTWAIT)
        .map_err(|errno| Failure::kernel("receive")(errno.into()))?;
    let from = from.and_then(|from| SocketAddr::try_from(from).ok());
    Ok((String::from_utf8_lossy(&buffer[..count]).into_owned(), from))
}
