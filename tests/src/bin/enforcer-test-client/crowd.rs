//! Many processes that live on and each do the same, when they are told to.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
};

use enforcer_tests::protocol::{Answer, Connect};
use nix::{
    sys::wait::waitpid,
    unistd::{ForkResult, Pid, fork},
};

use super::sockets;

/// Child processes that wait for a word. They end, and are waited for, when this is dropped.
#[derive(Default)]
pub(crate) struct Crowd(Vec<(Pid, UnixStream)>);

impl Crowd {
    /// Forks that many.
    pub(crate) fn gather(size: u32) -> io::Result<Self> {
        let mut crowd = Self::default();
        for _ in 0..size {
            let (ours, theirs) = UnixStream::pair()?;
            // SAFETY: this process has one thread whenever it handles a request, so the child may do what this one may.
            match unsafe { fork() }? {
                ForkResult::Child => {
                    // Their ends would keep the others from ever seeing that this process is gone.
                    for (_, other) in crowd.0.drain(..) {
                        drop(other);
                    }
                    drop(ours);
                    let ended = serve(theirs);
                    // SAFETY: ends this process at once, without what the parent registered to be done at its end.
                    unsafe { libc::_exit(i32::from(ended.is_err())) }
                }
                ForkResult::Parent { child } => crowd.0.push((child, ours)),
            }
        }
        Ok(crowd)
    }

    /// Lets each make these connects, one after the other, and says how they ended, by process.
    pub(crate) fn connect(&mut self, connects: &[Connect]) -> io::Result<BTreeMap<u32, Vec<String>>> {
        let request = serde_json::to_vec(connects)?;
        let mut outcomes = BTreeMap::new();
        for (pid, stream) in &mut self.0 {
            write(stream, &request)?;
            outcomes.insert(
                pid.as_raw().unsigned_abs(),
                serde_json::from_slice(&read(stream)?)?,
            );
        }
        Ok(outcomes)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for (pid, stream) in self.0.drain(..) {
            drop(stream);
            let _ended = waitpid(pid, None);
        }
    }
}

/// What a child does until its parent has nothing more to say.
fn serve(mut parent: UnixStream) -> io::Result<()> {
    loop {
        let Ok(request) = read(&mut parent) else {
            return Ok(());
        };
        let connects: Vec<Connect> = serde_json::from_slice(&request)?;
        let outcomes: Vec<String> = connects.iter().map(outcome).collect();
        write(&mut parent, &serde_json::to_vec(&outcomes)?)?;
    }
}

fn outcome(connect: &Connect) -> String {
    let done = sockets::prepare(connect).and_then(|socket| sockets::connect_and_send(&socket, connect));
    let mut answer = Answer {
        ok: done.is_ok(),
        ..Answer::default()
    };
    if let Err(failure) = done {
        failure.tell(&mut answer);
    }
    answer.outcome()
}

/// A message is its length and itself.
fn write(stream: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_ne_bytes())?;
    stream.write_all(message)
}

fn read(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u32::from_ne_bytes(length) as usize];
    stream.read_exact(&mut message)?;
    Ok(message)
}
