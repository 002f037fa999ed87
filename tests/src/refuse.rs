//! [`Refuser`]: lets the kernel refuse just one of a program's changes to BPF objects, of all that it makes: the n-th.
//!
//! A seccomp filter stops the program at each `bpf(2)` that makes or changes something, and asks this process, which lets
//! the kernel carry it out, or answers ENOMEM instead. Nothing of the program knows of it, and nothing of what the kernel
//! does for the other calls is pretended.

use std::{
    io,
    mem::{self, MaybeUninit},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::{net::UnixDatagram, process::CommandExt as _},
    },
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{IoSlice, IoSliceMut},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
};

/// Commands of `bpf(2)` that make or change something (`enum bpf_cmd`, `include/uapi/linux/bpf.h`).
const CHANGES: [u32; 4] = [
    0,  // BPF_MAP_CREATE
    2,  // BPF_MAP_UPDATE_ELEM
    26, // BPF_MAP_UPDATE_BATCH
    28, // BPF_LINK_CREATE
];

/// How often the supervisor looks whether it is still wanted.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: Duration::from_millis(50).as_nanos() as i64,
};

/// What is counted.
#[derive(Debug, Default)]
struct Count {
    /// Changes since the last [`Refuser::refuse`].
    made: usize,
    /// Which of them is refused, from 1; 0 is none.
    refused: usize,
    is_over: bool,
}

/// Decides for a program which of its changes the kernel refuses: none, until told.
#[derive(Debug)]
pub struct Refuser {
    count: Arc<Mutex<Count>>,
    ours: UnixDatagram,
    theirs: Option<UnixDatagram>,
    thread: Option<JoinHandle<()>>,
}

fn lock(count: &Mutex<Count>) -> MutexGuard<'_, Count> {
    count.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Refuser {
    /// Prepares the command; [`watch`](Self::watch) comes right after it is started. Until then the program waits at its
    /// first change.
    ///
    /// # Errors
    ///
    /// When no socket can be made.
    pub fn prepare(command: &mut Command) -> Result<Self> {
        let (ours, theirs) = UnixDatagram::pair().context("make a socket pair")?;
        let channel = theirs.as_raw_fd();
        let filter = filter();
        let ask = move || {
            let listener = install(&filter)?;
            // SAFETY: the parent's descriptor, which this child has too until it executes its program.
            let channel = unsafe { BorrowedFd::borrow_raw(channel) };
            let descriptors = [listener.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            sendmsg(channel, &[IoSlice::new(b"x")], &mut control, SendFlags::empty())?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls on what was prepared before: it allocates nothing
        // and takes no lock.
        unsafe { command.pre_exec(ask) };
        Ok(Self {
            count: Arc::default(),
            ours,
            theirs: Some(theirs),
            thread: None,
        })
    }

    /// Begins to answer for the kernel. The program was started.
    ///
    /// # Errors
    ///
    /// When the program has not handed over its filter.
    pub fn watch(&mut self) -> Result<()> {
        self.theirs = None;
        let listener = received(&self.ours).context("receive the filter's descriptor")?;
        let count = Arc::clone(&self.count);
        self.thread = Some(thread::spawn(move || answer(&listener, &count)));
        Ok(())
    }

    /// Counts changes from now on, and lets the kernel refuse that one of them, from 1; none, if it is 0.
    pub fn refuse(&self, which: usize) {
        let mut count = lock(&self.count);
        (count.made, count.refused) = (0, which);
    }

    /// Changes since then.
    #[must_use]
    pub fn made(&self) -> usize {
        lock(&self.count).made
    }
}

impl Drop for Refuser {
    fn drop(&mut self) {
        lock(&self.count).is_over = true;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}

fn received(channel: &UnixDatagram) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        channel,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(descriptor);
        }
    }
    Err(io::Error::other("no descriptor came"))
}

/// Answers until the program has ended, or nobody wants it any more.
fn answer(listener: &OwnedFd, count: &Mutex<Count>) {
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        let polled = poll(&mut ready, Some(&LOOK));
        if lock(count).is_over || ready[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        if polled == Ok(1) && ready[0].revents().contains(PollFlags::IN) {
            // The program may have ended, or been interrupted, in this moment.
            let _gone = answer_one(listener, count);
        }
    }
}

fn answer_one(listener: &OwnedFd, count: &Mutex<Count>) -> io::Result<()> {
    // SAFETY: any bytes are such a structure, and the kernel wants it zeroed.
    let mut asked: libc::seccomp_notif = unsafe { mem::zeroed() };
    // SAFETY: the request writes one such structure.
    let received = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV as _,
            &raw mut asked,
        )
    };
    if received != 0 {
        return Err(io::Error::last_os_error());
    }
    let is_refused = {
        let mut count = lock(count);
        count.made += 1;
        count.made == count.refused
    };
    let mut answer = libc::seccomp_notif_resp {
        id: asked.id,
        val: 0,
        error: if is_refused { -libc::ENOMEM } else { 0 },
        flags: if is_refused {
            0
        } else {
            libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32
        },
    };
    // SAFETY: the request reads one such structure.
    let sent = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND as _,
            &raw mut answer,
        )
    };
    if sent == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Offset of `nr` in `struct seccomp_data` (`include/uapi/linux/seccomp.h`).
const NUMBER_OFFSET: u32 = 0;
/// Offset of the low half of `args[0]` in it.
const FIRST_ARGUMENT_OFFSET: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };

/// A filter that asks whoever listens about each of [`CHANGES`].
fn filter() -> Vec<libc::sock_filter> {
    let statement = |code: u32, k| libc::sock_filter {
        // The codes are below 256 (`include/uapi/linux/bpf_common.h`).
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let jump = |value, jt, jf| libc::sock_filter {
        jt,
        jf,
        ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value)
    };
    let give = |value| statement(libc::BPF_RET | libc::BPF_K, value);
    let changes = CHANGES.len() as u8;
    let mut filter = vec![
        load(NUMBER_OFFSET),
        jump(libc::SYS_bpf.unsigned_abs() as u32, 0, changes + 1),
        load(FIRST_ARGUMENT_OFFSET),
    ];
    for (left, command) in (0..changes).rev().zip(CHANGES) {
        filter.push(jump(command, left + 1, 0));
    }
    filter.push(give(libc::SECCOMP_RET_ALLOW));
    filter.push(give(libc::SECCOMP_RET_USER_NOTIF));
    filter
}

fn install(filter: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let program = libc::sock_fprog {
        // A handful.
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program and the instructions it points to live until the call returns, and the kernel only reads them.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER as libc::c_ulong,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    match i32::try_from(listener) {
        // SAFETY: the kernel has just made the descriptor for us.
        Ok(listener) if listener >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(listener) }),
        _ => Err(io::Error::last_os_error()),
    }
}
