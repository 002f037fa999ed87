//! Connecting through io_uring, in each of the ways in which the kernel then comes to call the hook.
//!
//! Bounded in time by a timeout that the ring itself keeps, which 5.10 can do too.

use std::{io, net::SocketAddr, os::fd::AsRawFd as _, time::Duration};

use enforcer_tests::protocol::Way;
use io_uring::{IoUring, opcode, squeue, types};
use socket2::{SockAddr, Socket};

use crate::Failure;

/// The step that fails where the kernel has no io_uring, or an administrator switched it off.
const STEP: &str = "io_uring";

/// Marks the completion of the connect, and that of its timeout.
const CONNECT: u64 = 1;
const TIMEOUT: u64 = 2;

/// How long the kernel thread of a polled ring watches before it sleeps. It is woken for the next request.
const POLL_IDLE_MS: u32 = 10;

/// Connects a socket that does not block.
pub(crate) fn connect(socket: &Socket, to: SocketAddr, timeout: Duration, way: Way) -> Result<(), Failure> {
    let mut builder = IoUring::builder();
    if way == Way::IoUringPoller {
        builder.setup_sqpoll(POLL_IDLE_MS);
    }
    let mut ring: IoUring = builder.build(2).map_err(Failure::kernel(STEP))?;
    // Before 5.11 a polled ring takes registered files only; afterwards they do no harm.
    ring.submitter()
        .register_files(&[socket.as_raw_fd()])
        .map_err(Failure::kernel(STEP))?;
    // A socket that does not block would have the ring answer EINPROGRESS instead of waiting.
    socket
        .set_nonblocking(false)
        .map_err(Failure::kernel("set blocking"))?;
    let done = submit(&mut ring, &SockAddr::from(to), timeout, way);
    socket
        .set_nonblocking(true)
        .map_err(Failure::kernel("set non-blocking"))?;
    match done.map_err(Failure::kernel(STEP))? {
        0.. => Ok(()),
        result if result == -libc::ECANCELED => Err(Failure::timed_out("connect")),
        result => Err(Failure::kernel("connect")(io::Error::from_raw_os_error(-result))),
    }
}

/// Submits the connect with its timeout, waits for both, and gives back the result of the connect.
fn submit(ring: &mut IoUring, to: &SockAddr, timeout: Duration, way: Way) -> io::Result<i32> {
    let limit = types::Timespec::from(timeout);
    let mut flags = squeue::Flags::IO_LINK;
    flags.set(squeue::Flags::ASYNC, way == Way::IoUringWorker);
    let entries = [
        opcode::Connect::new(types::Fixed(0), to.as_ptr().cast(), to.len())
            .build()
            .flags(flags)
            .user_data(CONNECT),
        opcode::LinkTimeout::new(&limit).build().user_data(TIMEOUT),
    ];
    // SAFETY: the address and the time limit outlive the requests: both completions are waited for below.
    unsafe { ring.submission().push_multiple(&entries) }.map_err(io::Error::other)?;
    ring.submit_and_wait(entries.len())?;
    ring.completion()
        .find(|completion| completion.user_data() == CONNECT)
        .map(|completion| completion.result())
        .ok_or_else(|| io::Error::other("the ring did not complete the connect"))
}
