//! [`Services`]: what the clients talk to, at the server's addresses. Each tells a client at which of them it was reached,
//! which no redirect can hide.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use futures_util::SinkExt as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig, crypto,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use super::world::PLAIN;
use crate::{
    lab::{Lab, NAME, Nameserver, SERVER_IPV4, SERVER_IPV6},
    place::Place,
    postgres::Postgres,
    process::{Running, Stream},
    wait::PATIENCE,
};

/// A name that the server's own nameserver knows, and what it says of it.
pub const QUESTION: &str = "question.example";
const ANSWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);

/// The name of the branch by which the repository tells a client where it was reached. A branch cannot have the address as
/// its name.
pub const BRANCHES: [&str; 2] = ["refs/heads/by-ipv6", "refs/heads/by-ipv4"];

/// Something that clients talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// A web server.
    Http,
    /// A web server by TLS, with a certificate of the test's own authority and a git repository.
    Https,
    /// PostgreSQL.
    Postgres,
    /// Redis.
    Redis,
    /// A server that greets by WebSocket.
    WebSocket,
    /// A mail server's greeting.
    Smtp,
    /// An SSH server's banner.
    Ssh,
    /// A nameserver, by UDP.
    Dns,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Http,
        Self::Https,
        Self::Postgres,
        Self::Redis,
        Self::WebSocket,
        Self::Smtp,
        Self::Ssh,
        Self::Dns,
    ];

    /// Where it listens. Port 80 is the lab's own.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 8080,
            Self::Https => 443,
            Self::Postgres => 5432,
            Self::Redis => 6379,
            Self::WebSocket => 8081,
            Self::Smtp => 25,
            Self::Ssh => 22,
            Self::Dns => 53,
        }
    }
}

/// All services of a lab, until they are dropped.
#[derive(Debug)]
pub struct Services {
    authority: PathBuf,
    _postgres: Option<Postgres>,
    _redis: Option<Running>,
    _nameservers: Vec<Nameserver>,
    _greeter: Greeter,
}

impl Services {
    /// Starts these, with files of their own in that folder.
    ///
    /// # Errors
    ///
    /// When one does not start.
    pub fn start(lab: &Lab, wanted: &[Service], folder: &Path) -> Result<Self> {
        let listening = |service: Service| lab.breakage().listening(service.port());
        let wants = |service| wanted.contains(&service);
        let authority = folder.join("ca.pem");
        let tls = certified(&authority)?;
        let postgres = wants(Service::Postgres)
            .then(|| Postgres::start(lab.server(), &listening(Service::Postgres)))
            .transpose()?;
        let redis = wants(Service::Redis)
            .then(|| redis(lab, &listening(Service::Redis), folder))
            .transpose()?;
        let mut nameservers = Vec::new();
        if wants(Service::Dns) {
            for address in listening(Service::Dns) {
                let records = [(QUESTION, ANSWER.into())];
                nameservers.push(Nameserver::start(lab.server(), address.ip(), records)?);
            }
        }
        let mut listeners = Vec::new();
        for service in [
            Service::Http,
            Service::Https,
            Service::WebSocket,
            Service::Smtp,
            Service::Ssh,
        ] {
            for address in listening(service) {
                let bound = lab.server().run(|| Ok(TcpListener::bind(address)?));
                let bound = bound.with_context(|| format!("bind {service:?} to {address}"))?;
                bound.set_nonblocking(true).context("set non-blocking")?;
                listeners.push((service, bound));
            }
        }
        Ok(Self {
            authority,
            _postgres: postgres,
            _redis: redis,
            _nameservers: nameservers,
            _greeter: Greeter::start(listeners, tls)?,
        })
    }

    /// The file with the certificate of the authority that clients are to trust.
    #[must_use]
    pub fn authority(&self) -> &Path {
        &self.authority
    }
}

fn redis(lab: &Lab, listening: &[SocketAddr], folder: &Path) -> Result<Running> {
    let mut command = Place::outside(lab.server()).command("redis-server")?;
    command.current_dir(folder).arg("--bind");
    command.args(listening.iter().map(|address| address.ip().to_string()));
    let port = Service::Redis.port().to_string();
    command.args(["--port", &port, "--save", "", "--protected-mode", "no"]);
    let redis = Running::start(command)?;
    let is_ready = |line: &str| line.contains("Ready to accept connections");
    redis.wait_for_line(Stream::Stdout, PATIENCE, is_ready)?;
    Ok(redis)
}

/// An authority, written to that file, and a server with a certificate of it.
fn certified(authority: &Path) -> Result<TlsAcceptor> {
    let key = KeyPair::generate().context("make a key")?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // A certificate whose issuer has its own name counts as its own issuer.
    params
        .distinguished_name
        .push(DnType::CommonName, "the lab's authority");
    let certificate = params.self_signed(&key).context("make a certificate authority")?;
    fs::write(authority, certificate.pem()).with_context(|| format!("write {}", authority.display()))?;
    let issuer = Issuer::new(params, key);

    let names = [
        NAME.to_owned(),
        PLAIN.to_owned(),
        SERVER_IPV4.to_string(),
        SERVER_IPV6.to_string(),
    ];
    let key = KeyPair::generate().context("make a key")?;
    let params = CertificateParams::new(names).context("name a certificate")?;
    let certificate = params.signed_by(&key, &issuer).context("sign a certificate")?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .context("use a certificate")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The services that need no program of their own, on a thread.
#[derive(Debug)]
struct Greeter {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Greeter {
    fn start(listeners: Vec<(Service, TcpListener)>, tls: TlsAcceptor) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the services' runtime")?;
        {
            let _inside = runtime.enter();
            for (service, listener) in listeners {
                let listener =
                    tokio::net::TcpListener::from_std(listener).context("watch a listening socket")?;
                runtime.spawn(accept(service, listener, tls.clone()));
            }
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name("services".to_owned())
            .spawn(move || drop(runtime.block_on(stopped)))
            .context("start the services' thread")?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}

async fn accept(service: Service, listener: tokio::net::TcpListener, tls: TlsAcceptor) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        tokio::spawn(converse(service, stream, tls.clone()));
    }
}

/// What the client does wrong shows in the client.
async fn converse(service: Service, mut stream: TcpStream, tls: TlsAcceptor) -> io::Result<()> {
    let here = stream.local_addr()?;
    let address = here.ip();
    match service {
        Service::Https => answer(tls.accept(stream).await?, here).await,
        Service::WebSocket => {
            let opened = tokio_tungstenite::accept_async(stream).await;
            let mut socket = opened.map_err(io::Error::other)?;
            let sent = socket.send(address.to_string().into()).await;
            sent.map_err(io::Error::other)?;
            socket.close(None).await.map_err(io::Error::other)
        }
        Service::Smtp => greet(&mut stream, &format!("220 {address} ready\r\n")).await,
        Service::Ssh => greet(&mut stream, &format!("SSH-2.0-enforcer {address}\r\n")).await,
        _ => answer(stream, here).await,
    }
}

/// Says that, and closes when the client has said something.
async fn greet(stream: &mut TcpStream, greeting: &str) -> io::Result<()> {
    stream.write_all(greeting.as_bytes()).await?;
    let _said = stream.read(&mut [0; 256]).await?;
    stream.shutdown().await
}

/// Answers one HTTP request: with the address, or of the repository what a client asks for that only reads files
/// (gitprotocol-http(5), "dumb").
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, here: SocketAddr) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let request = String::from_utf8_lossy(&request);
    let branch = BRANCHES[usize::from(here.is_ipv4())];
    let page = match request.split_whitespace().nth(1) {
        Some(path) if path.starts_with("/repository/info/refs") => {
            format!("{:040x}\t{branch}\n", 0xe)
        }
        Some("/repository/HEAD") => format!("ref: {branch}\n"),
        _ => format!("{}\n", here.ip()),
    };
    let response = format!(
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}
