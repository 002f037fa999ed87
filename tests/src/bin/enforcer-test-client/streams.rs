//! What only TCP sockets do: connects that block, listening, accepting, shutting down one direction.

use std::{
    io::{self, Write as _},
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use rustix::event::PollFlags;
use socket2::{SockAddr, Socket};

use crate::{Failure, sockets::ready};

/// More than anybody connects before it is accepted.
const BACKLOG: i32 = 16;

/// Connects with a call that blocks, for so long at most.
pub(crate) fn connect_blocking(socket: &Socket, to: SocketAddr, timeout: Duration) -> Result<(), Failure> {
    let connected = blocking(socket, timeout)
        .map_err(Failure::kernel("setsockopt"))
        .and_then(|()| match socket.connect(&SockAddr::from(to)) {
            // That is how the kernel says that `SO_SNDTIMEO` has passed.
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                Err(Failure::timed_out("connect"))
            }
            other => other.map_err(Failure::kernel("connect")),
        });
    socket
        .set_nonblocking(true)
        .map_err(Failure::kernel("set non-blocking"))?;
    connected
}

fn blocking(socket: &Socket, timeout: Duration) -> io::Result<()> {
    socket.set_write_timeout(Some(timeout))?;
    socket.set_nonblocking(false)
}

/// Begins to listen.
pub(crate) fn listen(socket: &Socket) -> Result<(), Failure> {
    socket.listen(BACKLOG).map_err(Failure::kernel("listen"))
}

/// Waits for a connection.
pub(crate) fn accept(socket: &Socket, timeout: Duration) -> Result<Socket, Failure> {
    if !ready(socket, PollFlags::IN, timeout).map_err(Failure::kernel("poll"))? {
        return Err(Failure::timed_out("accept"));
    }
    let (accepted, _) = socket.accept().map_err(Failure::kernel("accept"))?;
    Ok(accepted)
}

/// Writes it all.
pub(crate) fn say(mut socket: &Socket, data: &str) -> Result<(), Failure> {
    socket.write_all(data.as_bytes()).map_err(Failure::kernel("send"))
}

/// Ends one direction, or both.
pub(crate) fn shut_down(socket: &Socket, read: bool, write: bool) -> Result<(), Failure> {
    let how = match (read, write) {
        (true, true) => Shutdown::Both,
        (true, false) => Shutdown::Read,
        (false, true) => Shutdown::Write,
        (false, false) => return Ok(()),
    };
    socket.shutdown(how).map_err(Failure::kernel("shutdown"))
}
