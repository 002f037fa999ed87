//! Doing something in a child process with sockets of this one: inherited by `fork`, or sent by `SCM_RIGHTS`.

use std::{
    io::{self, IoSlice, IoSliceMut, PipeReader, PipeWriter, Read as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    os::unix::net::UnixDatagram,
};

use enforcer_tests::protocol::Answer;
use nix::{
    sys::{
        socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork},
};
use socket2::Socket;

/// Forks, does that in the child, and gives back the child's answer.
pub(crate) fn forked(in_child: impl FnOnce() -> Answer) -> io::Result<Answer> {
    let (reader, writer) = io::pipe()?;
    // SAFETY: this process has one thread whenever it handles a request, so the child may do what this one may.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let answer = in_child();
            end_child(writer, &answer)
        }
        ForkResult::Parent { child } => {
            drop(writer);
            answer_of(child, reader)
        }
    }
}

/// Forks, sends the child a socket, does that in the child with what it received, and gives back its answer. The child
/// has no other descriptor of the socket but those that `in_child` holds: it replaces them.
pub(crate) fn passed(socket: Socket, in_child: impl FnOnce(Socket) -> Answer) -> io::Result<Answer> {
    let (reader, writer) = io::pipe()?;
    let (ours, theirs) = UnixDatagram::pair()?;
    // SAFETY: as in `forked`.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(socket);
            let answer = match received(&theirs) {
                Ok(received) => in_child(received),
                Err(error) => Answer {
                    step: Some("receive a socket".to_owned()),
                    error: Some(error.to_string()),
                    ..Answer::default()
                },
            };
            end_child(writer, &answer)
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let sent = sent(&ours, &socket);
            drop((ours, theirs));
            let answer = answer_of(child, reader);
            sent.and(answer)
        }
    }
}

fn sent(channel: &UnixDatagram, socket: &Socket) -> io::Result<()> {
    let descriptors = [socket.as_raw_fd()];
    let controls = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(
        channel.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &controls,
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

fn received(channel: &UnixDatagram) -> io::Result<Socket> {
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(
        channel.as_raw_fd(),
        &mut data,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let [descriptor] = descriptors[..]
        {
            // SAFETY: the kernel has just made the descriptor, for whoever receives the message.
            return Ok(Socket::from(unsafe { OwnedFd::from_raw_fd(descriptor) }));
        }
    }
    Err(io::Error::other("no descriptor came"))
}

/// Writes the answer and ends the child without returning to the parent's code.
fn end_child(writer: PipeWriter, answer: &Answer) -> ! {
    let written = serde_json::to_writer(writer, answer);
    // SAFETY: ends this process at once, without what the parent registered to be done at its end.
    unsafe { libc::_exit(i32::from(written.is_err())) }
}

fn answer_of(child: Pid, mut reader: PipeReader) -> io::Result<Answer> {
    let mut text = String::new();
    let read = reader.read_to_string(&mut text);
    waitpid(child, None)?;
    read?;
    Ok(serde_json::from_str(&text)?)
}
