//! [`Server`]: what clients connect to. It says where each connection really arrived.
//!
//! Runs on a thread of the test, on sockets made inside a network namespace; its cgroup is that of the test, so
//! no verdict concerns it.

use std::{
    io,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Runtime,
    sync::oneshot,
};

use crate::netns::NetnsFixture;

/// How often a port is chosen anew when the one the kernel chose for the first address is taken on another.
const PORT_ATTEMPTS: usize = 16;

/// Connections waiting to be accepted; a test that makes hundreds must not see one refused.
const BACKLOG: i32 = 1024;

/// Larger than any UDP datagram.
const DATAGRAM_BYTES: usize = 64 * 1024;

/// A TCP connection that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The address and port it arrived at. IPv4 is given as IPv4, whatever the listening socket's family.
    pub at: SocketAddr,
    /// Where it came from.
    pub from: SocketAddr,
}

/// What is done with a TCP connection. UDP is always echoed.
#[derive(Clone, Debug)]
enum Behaviour {
    Echo,
    /// Write this and close.
    Greeting(Arc<str>),
    /// Answer one HTTP request with this and close.
    Http(Arc<str>),
}

/// A server on TCP and UDP. Stops on drop: when that returns, a TCP connect is refused.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    listeners: Vec<Socket>,
    accepted: Arc<Mutex<Vec<Accepted>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// A server that sends back what it gets.
    ///
    /// All addresses with port 0 get the same port, chosen by the kernel. `[::]` takes IPv4 too; over UDP it is
    /// of little use, because answers come from whichever address the kernel picks.
    ///
    /// # Errors
    ///
    /// When an address is not one of the namespace's, or taken.
    pub fn echo(netns: &NetnsFixture, addresses: impl IntoIterator<Item = SocketAddr>) -> Result<Self> {
        Self::start(netns, addresses.into_iter().collect(), Behaviour::Echo)
    }

    /// A server that writes a text to each TCP connection and closes it.
    ///
    /// # Errors
    ///
    /// As [`echo`](Self::echo).
    pub fn greeting(
        netns: &NetnsFixture,
        addresses: impl IntoIterator<Item = SocketAddr>,
        text: &str,
    ) -> Result<Self> {
        Self::start(
            netns,
            addresses.into_iter().collect(),
            Behaviour::Greeting(text.into()),
        )
    }

    /// A server that answers each HTTP request with the page.
    ///
    /// # Errors
    ///
    /// As [`echo`](Self::echo).
    pub fn http(
        netns: &NetnsFixture,
        addresses: impl IntoIterator<Item = SocketAddr>,
        page: &str,
    ) -> Result<Self> {
        let response = format!(
            "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
            page.len()
        );
        Self::start(
            netns,
            addresses.into_iter().collect(),
            Behaviour::Http(response.into()),
        )
    }

    /// The first address, with its port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// All addresses, with their ports, in the order given.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The TCP connections accepted so far, in their order.
    #[must_use]
    pub fn accepted(&self) -> Vec<Accepted> {
        lock(&self.accepted).clone()
    }

    fn start(netns: &NetnsFixture, wanted: Vec<SocketAddr>, behaviour: Behaviour) -> Result<Self> {
        anyhow::ensure!(!wanted.is_empty(), "start a server: it needs an address");
        let sockets = netns.run(|| bind_all(&wanted))?;
        let addresses = sockets
            .iter()
            .map(|(tcp, _)| tcp.local_addr().context("ask a server for its address"))
            .collect::<Result<_>>()?;
        let listeners = sockets
            .iter()
            .map(|(tcp, _)| Ok(Socket::from(tcp.try_clone()?)))
            .collect::<io::Result<_>>()
            .context("duplicate a listening socket")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("start a server's runtime")?;
        let accepted = Arc::new(Mutex::new(Vec::new()));
        let arrivals = Arc::clone(&accepted);
        let (stop, stopped) = oneshot::channel();
        {
            // Registering the sockets here makes a failure the caller's, not that of a thread.
            let _inside = runtime.enter();
            for (tcp, udp) in sockets {
                let tcp = tokio::net::TcpListener::from_std(tcp).context("watch a listening socket")?;
                let udp = tokio::net::UdpSocket::from_std(udp).context("watch a UDP socket")?;
                runtime.spawn(accept(tcp, behaviour.clone(), Arc::clone(&arrivals)));
                runtime.spawn(echo_datagrams(udp));
            }
        }
        let thread = thread::Builder::new()
            .name("server".to_owned())
            .spawn(move || serve(runtime, stopped))
            .context("start a server's thread")?;
        Ok(Self {
            addresses,
            listeners,
            accepted,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there; nothing can be added.
            let _ = thread.join();
        }
        for listener in &self.listeners {
            // Closing alone would not do: a process that another test is starting right now has all our
            // descriptors until it runs its program.
            let _ = listener.shutdown(Shutdown::Both);
        }
    }
}

fn lock(accepted: &Mutex<Vec<Accepted>>) -> MutexGuard<'_, Vec<Accepted>> {
    accepted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A TCP and a UDP socket for each address, all with the same port where it was left to the kernel.
fn bind_all(wanted: &[SocketAddr]) -> Result<Vec<(TcpListener, UdpSocket)>> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match try_bind_all(wanted) {
            Err(error)
                if attempts < PORT_ATTEMPTS
                    && wanted.iter().any(|address| address.port() == 0)
                    && error
                        .downcast_ref::<io::Error>()
                        .is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse) => {}
            other => return other,
        }
    }
}

fn try_bind_all(wanted: &[SocketAddr]) -> Result<Vec<(TcpListener, UdpSocket)>> {
    let mut chosen = 0;
    wanted
        .iter()
        .map(|address| {
            let mut address = *address;
            if address.port() == 0 {
                address.set_port(chosen);
            }
            let tcp = bind(address, Type::STREAM, Protocol::TCP)?;
            tcp.listen(BACKLOG)
                .with_context(|| format!("listen on {address}"))?;
            let tcp = TcpListener::from(tcp);
            address = tcp.local_addr().context("ask a server for its address")?;
            if chosen == 0 {
                chosen = address.port();
            }
            Ok((tcp, UdpSocket::from(bind(address, Type::DGRAM, Protocol::UDP)?)))
        })
        .collect()
}

fn bind(address: SocketAddr, kind: Type, protocol: Protocol) -> Result<Socket> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        if kind == Type::STREAM {
            // Connections of a server that was there before must not be in the way.
            socket.set_reuse_address(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok::<_, io::Error>(socket)
    };
    bound().with_context(|| format!("bind a server to {address}"))
}

/// Runs until the sender is gone; then everything is dropped, and so closed.
fn serve(runtime: Runtime, stopped: oneshot::Receiver<()>) {
    let _ = runtime.block_on(stopped);
}

async fn accept(
    listener: tokio::net::TcpListener,
    behaviour: Behaviour,
    accepted: Arc<Mutex<Vec<Accepted>>>,
) {
    // Connections that end before they are accepted, and a moment without descriptors, must not end the server.
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let Ok(at) = stream.local_addr() else { continue };
        lock(&accepted).push(Accepted {
            at: canonical(at),
            from: canonical(from),
        });
        tokio::spawn(converse(stream, behaviour.clone()));
    }
}

/// What the client does wrong shows in the client.
async fn converse(mut stream: tokio::net::TcpStream, behaviour: Behaviour) -> io::Result<()> {
    match behaviour {
        Behaviour::Echo => {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
        }
        Behaviour::Greeting(text) => stream.write_all(text.as_bytes()).await?,
        Behaviour::Http(response) => {
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                if stream.read_buf(&mut request).await? == 0 {
                    return Ok(());
                }
            }
            stream.write_all(response.as_bytes()).await?;
        }
    }
    stream.shutdown().await
}

async fn echo_datagrams(socket: tokio::net::UdpSocket) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        // An ICMP error for an earlier answer is reported here; the next datagram is none the worse for it.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let _ = socket.send_to(&buffer[..length], from).await;
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };

    use super::*;
    use crate::wait::{PATIENCE, eventually};

    fn netns() -> (NetnsFixture, [SocketAddr; 2]) {
        let netns = NetnsFixture::new().unwrap();
        let addresses: [IpAddr; 2] = ["2001:db8::80".parse().unwrap(), "192.0.2.80".parse().unwrap()];
        netns.add_local(addresses).unwrap();
        (netns, addresses.map(|address| SocketAddr::new(address, 0)))
    }

    fn converse(netns: &NetnsFixture, to: SocketAddr, say: &str) -> String {
        netns
            .run(|| {
                let mut stream = TcpStream::connect(to)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(say.as_bytes())?;
                stream.shutdown(Shutdown::Write)?;
                let mut heard = String::new();
                stream.read_to_string(&mut heard)?;
                Ok(heard)
            })
            .unwrap()
    }

    #[test]
    fn all_addresses_of_a_server_have_one_port() {
        let (netns, addresses) = netns();
        let server = Server::echo(&netns, addresses).unwrap();
        let ports: Vec<_> = server.addresses().iter().map(SocketAddr::port).collect();
        assert_ne!(ports[0], 0);
        assert_eq!(ports[0], ports[1]);
        for address in server.addresses() {
            assert_eq!(converse(&netns, *address, "say"), "say");
        }
    }

    #[test]
    fn a_greeting_is_heard_and_a_page_fetched() {
        let (netns, addresses) = netns();
        let greeting = Server::greeting(&netns, addresses, "welcome").unwrap();
        assert_eq!(converse(&netns, greeting.address(), ""), "welcome");
        let http = Server::http(&netns, addresses, "page\n").unwrap();
        let answer = converse(&netns, http.address(), "GET / HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\npage\n"), "{answer}");
    }

    #[test]
    fn a_wildcard_server_tells_the_address_a_connection_arrived_at() {
        let (netns, addresses) = netns();
        let server = Server::echo(&netns, ["[::]:0".parse().unwrap()]).unwrap();
        let wanted = addresses.map(|address| SocketAddr::new(address.ip(), server.address().port()));
        for address in wanted {
            converse(&netns, address, "");
        }
        eventually("both connections", PATIENCE, || server.accepted().len() == 2).unwrap();
        assert_eq!(
            server
                .accepted()
                .iter()
                .map(|accepted| accepted.at)
                .collect::<Vec<_>>(),
            wanted
        );
    }
}
