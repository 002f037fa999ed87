//! What a test says to the client process, and what that answers: one JSON object a line, each way.
//!
//! Shared by both sides. The client does what it is told and reports what the kernel said; it judges nothing.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// How long a connect may take unless the test says otherwise, in milliseconds: shorter than the fixture's
/// patience, longer than any connect that is not meant to hang.
pub const CONNECT_TIMEOUT_MS: u64 = 10_000;

/// What a connect is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SocketKind {
    /// A TCP socket.
    Tcp,
    /// A TCP socket whose first bytes go with the connect: `sendto(MSG_FASTOPEN)`.
    Fastopen,
    /// A multipath TCP socket.
    Mptcp,
    /// A UDP socket.
    Udp,
    /// An ICMPv6 datagram socket, or ICMP for IPv4.
    Ping,
}

/// By which call a socket is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// That of its kind.
    #[default]
    Plain,
    /// `connect(2)` with `TCP_FASTOPEN_CONNECT`: it returns at once, and what is sent then goes with the SYN.
    FastopenConnect,
    /// io_uring, in the caller's own thread.
    IoUring,
    /// io_uring, in a worker thread (`IOSQE_ASYNC`).
    IoUringWorker,
    /// io_uring, in the thread that watches the ring (`IORING_SETUP_SQPOLL`).
    IoUringPoller,
}

/// Family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// `AF_INET`.
    Ipv4,
    /// `AF_INET6`.
    Ipv6,
}

/// One connect on a new socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// What socket.
    pub socket: SocketKind,
    /// Where to. An IPv6 scope is written as its number: `[fe80::1%1]:80`.
    pub to: SocketAddr,
    /// How it is connected.
    #[serde(default)]
    pub way: Way,
    /// Family of the socket where it is not that of `to`: an IPv4 address on an IPv6 socket, as glibc's probes
    /// do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// `IPV6_V6ONLY`, set either way before the connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6only: Option<bool>,
    /// Address to bind to before the connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<SocketAddr>,
    /// How long to wait for the connect, and for an answer to `send`, in milliseconds.
    pub timeout_ms: u64,
    /// Sent once connected; what comes back is in [`Answer::received`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<String>,
    /// Whether the socket stays open, under [`Answer::id`], also when the connect failed.
    #[serde(default)]
    pub hold: bool,
}

impl Connect {
    /// A connect with nothing special about it.
    #[must_use]
    pub const fn new(socket: SocketKind, to: SocketAddr) -> Self {
        Self {
            socket,
            to,
            way: Way::Plain,
            family: None,
            v6only: None,
            bind: None,
            timeout_ms: CONNECT_TIMEOUT_MS,
            send: None,
            hold: false,
        }
    }
}

/// What the client shall do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// Make a socket and connect it.
    Connect(Connect),
    /// The same connect many times, each on a new socket, as fast as possible. [`Answer::outcomes`] counts how
    /// they ended.
    Repeat {
        /// The connect; `hold` is ignored.
        connect: Connect,
        /// How many times.
        times: u32,
    },
    /// The same, from many threads at once. [`Answer::outcomes`] counts for all of them together.
    Threads {
        /// The connect; `hold` is ignored.
        connect: Connect,
        /// How many threads.
        threads: u32,
        /// How many times in each.
        times: u32,
    },
    /// Connect a held socket again.
    Reconnect {
        /// Its identifier.
        id: u32,
        /// Where to.
        to: SocketAddr,
        /// How long to wait, in milliseconds.
        timeout_ms: u64,
    },
    /// The same with a blocking `connect(2)`.
    ReconnectBlocking {
        /// Its identifier.
        id: u32,
        /// Where to.
        to: SocketAddr,
        /// How long to wait, in milliseconds.
        timeout_ms: u64,
    },
    /// Make a held socket listen.
    Listen {
        /// Its identifier.
        id: u32,
    },
    /// Accept one connection on a held socket, send it something, and close it; [`Answer::peer`] and [`Answer::local`] are
    /// those of the connection.
    Accept {
        /// Its identifier.
        id: u32,
        /// What to send.
        send: String,
        /// How long to wait for a connection, in milliseconds.
        timeout_ms: u64,
    },
    /// Shut down one direction of a held socket, or both.
    Shutdown {
        /// Its identifier.
        id: u32,
        /// Whether nothing more is read.
        read: bool,
        /// Whether nothing more is written.
        write: bool,
    },
    /// Dissolve the connection of a held socket: connect it to `AF_UNSPEC`.
    Disconnect {
        /// Its identifier.
        id: u32,
    },
    /// Make a socket as for that connect and hold it, without connecting it.
    Open(Connect),
    /// Send one datagram after the other on a held socket. [`Answer::outcomes`] counts how that ended.
    Send {
        /// Its identifier.
        id: u32,
        /// Where to: `sendto`; absent, as on a connected socket, without an address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<SocketAddr>,
        /// With a control message `IPV6_TCLASS` of that value, as QUIC sends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tclass: Option<i32>,
        /// What to send.
        send: String,
        /// How many times.
        times: u32,
    },
    /// Wait for one datagram on a held socket: [`Answer::received`] and [`Answer::from`].
    Receive {
        /// Its identifier.
        id: u32,
        /// How long to wait, in milliseconds.
        timeout_ms: u64,
    },
    /// Another descriptor of a held socket, by `dup`.
    Duplicate {
        /// Its identifier.
        id: u32,
    },
    /// Fork, let the child do that with the held sockets it inherited, and pass on its answer.
    Fork {
        /// What it shall do.
        request: Box<Request>,
    },
    /// Fork, let the child close every held socket, send it one by `SCM_RIGHTS`, and let it do that with it under the
    /// same identifier.
    Pass {
        /// Its identifier.
        id: u32,
        /// What the child shall do.
        request: Box<Request>,
    },
    /// Send on a held connected socket and wait for what comes back.
    Exchange {
        /// Its identifier.
        id: u32,
        /// What to send.
        send: String,
        /// How long to wait, in milliseconds.
        timeout_ms: u64,
    },
    /// Fork processes that wait to be told to connect, instead of those there are.
    Gather {
        /// How many.
        size: u32,
    },
    /// Let each of those processes make these connects, each on a new socket. [`Answer::crowd`] says how they ended.
    Crowd {
        /// The connects; `hold` is ignored.
        connects: Vec<Connect>,
    },
    /// Ask a held socket for `getpeername` and `getsockname`. The errno is that of `getpeername`.
    Names {
        /// Its identifier.
        id: u32,
    },
    /// Close a held socket.
    Close {
        /// Its identifier.
        id: u32,
    },
    /// `getaddrinfo` for stream sockets of both families; [`Answer::addresses`] is its order.
    Resolve {
        /// The name.
        name: String,
        /// The service, as a port.
        port: u16,
    },
    /// Report who the client is.
    Whoami,
    /// Do that with another real user; what the client may do stays, and after it the user is who it was.
    As {
        /// The user.
        uid: u32,
        /// What shall be done.
        request: Box<Request>,
    },
    /// Start a child process, let it do that, and pass on its answer.
    Child {
        /// What it shall do.
        request: Box<Request>,
    },
}

/// What came of a request. What does not apply is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Answer {
    /// Whether it succeeded.
    pub ok: bool,
    /// The step that failed: `socket`, `setsockopt`, `bind`, `connect`, `send`, `receive`, ….
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The errno it failed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// Whether it failed because the client's own patience ended, not by anything the kernel said.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
    /// A failure that is neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Time the request took, without making the socket, in microseconds.
    pub elapsed_us: u64,
    /// `getpeername` of a connected socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// `getsockname`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
    /// Where a datagram came from, by `recvfrom`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<SocketAddr>,
    /// What came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<String>,
    /// Identifier of the held socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// Addresses of a name, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<SocketAddr>>,
    /// How many connects ended in which [`outcome`](Self::outcome).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcomes: Option<BTreeMap<String, u64>>,
    /// How each connect of each process ended, as [`outcome`](Self::outcome), by process identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crowd: Option<BTreeMap<u32, Vec<String>>>,
    /// Process identifier of whoever answers.
    pub pid: u32,
    /// Its cgroup, from the `0::` line of `/proc/self/cgroup`; only in answer to [`Request::Whoami`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

impl Answer {
    /// The answer in one word: `ok`, the errno's name, `timeout`, or the error's text.
    #[must_use]
    pub fn outcome(&self) -> String {
        match (self.ok, self.errno, &self.error) {
            (true, _, _) => "ok".to_owned(),
            (false, Some(errno), _) => errno_name(errno),
            (false, None, _) if self.timed_out => "timeout".to_owned(),
            (false, None, Some(error)) => error.clone(),
            (false, None, None) => "failed".to_owned(),
        }
    }

    /// The errno's name, if it failed with one.
    #[must_use]
    pub fn errno_name(&self) -> Option<String> {
        self.errno.map(errno_name)
    }
}

/// Name of an errno: one that a rule may choose, or another that sockets commonly give; otherwise its number.
#[must_use]
pub fn errno_name(number: i32) -> String {
    let chosen = u16::try_from(number)
        .ok()
        .and_then(enforcer_common::errno::by_number);
    let name = match (chosen, number) {
        (Some(errno), _) => errno.name,
        (None, libc::EAFNOSUPPORT) => "EAFNOSUPPORT",
        (None, libc::EAGAIN) => "EAGAIN",
        (None, libc::EBADF) => "EBADF",
        (None, libc::EDESTADDRREQ) => "EDESTADDRREQ",
        (None, libc::EINPROGRESS) => "EINPROGRESS",
        (None, libc::EINVAL) => "EINVAL",
        (None, libc::EISCONN) => "EISCONN",
        (None, libc::ENOPROTOOPT) => "ENOPROTOOPT",
        (None, libc::ENOSYS) => "ENOSYS",
        (None, libc::ENOTCONN) => "ENOTCONN",
        (None, libc::EPIPE) => "EPIPE",
        (None, libc::EPROTONOSUPPORT) => "EPROTONOSUPPORT",
        (None, _) => return format!("errno {number}"),
    };
    name.to_owned()
}
