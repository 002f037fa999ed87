//! [`Nameserver`]: a real DNS server, authoritative for every name there is. What it says can be changed while it
//! runs, and it remembers who asked for what.

use std::{
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use hickory_server::{
    Server,
    net::{
        runtime::{Time, TokioRuntimeProvider},
        xfer::Protocol,
    },
    proto::rr::{
        Name, RData, Record, RecordType,
        rdata::{PTR, SOA},
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog, ZoneType},
};
use socket2::Socket;
use tokio::{runtime, sync::oneshot};

use crate::netns::NetnsFixture;

/// Where resolvers ask; `resolv.conf` cannot name another.
const PORT: u16 = 53;

/// How long what it says may be remembered, in seconds, where nothing else is said.
const TTL_SECS: u32 = 60;

/// How long a client may leave a TCP connection idle.
const IDLE: Duration = Duration::from_secs(60);

/// Answers waiting to be written to one TCP connection.
const QUEUE: usize = 64;

/// Answers by UDP and TCP. What it does not know does not exist: NXDOMAIN for a name, NODATA for a type. Stops
/// on drop.
#[derive(Debug)]
pub struct Nameserver {
    said: Arc<Said>,
    listener: Socket,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Nameserver {
    /// Starts one at that address of the namespace, for these names.
    ///
    /// # Errors
    ///
    /// When it cannot listen there, or a name is none.
    pub fn start<'name>(
        netns: &NetnsFixture,
        address: IpAddr,
        records: impl IntoIterator<Item = (&'name str, IpAddr)>,
    ) -> Result<Self> {
        let said = Arc::new(Said {
            catalog: Mutex::new(catalog(TTL_SECS, records)?),
            asked: Mutex::default(),
        });

        let at = SocketAddr::new(address, PORT);
        let (udp, tcp) = netns
            .run(|| Ok((UdpSocket::bind(at)?, TcpListener::bind(at)?)))
            .with_context(|| format!("bind a nameserver to {at}"))?;
        udp.set_nonblocking(true).context("set non-blocking")?;
        tcp.set_nonblocking(true).context("set non-blocking")?;
        let listener = tcp.try_clone().context("duplicate a listening socket")?.into();

        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a nameserver's runtime")?;
        let mut server = {
            // Registering the sockets here makes a failure the caller's, not that of a thread.
            let _inside = runtime.enter();
            let mut server = Server::new(Answering(Arc::clone(&said)));
            server.register_socket(tokio::net::UdpSocket::from_std(udp).context("watch a UDP socket")?);
            let tcp = tokio::net::TcpListener::from_std(tcp).context("watch a listening socket")?;
            server.register_listener(tcp, IDLE, QUEUE);
            server
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    // It ends by itself only when its sockets fail; then clients see that nobody answers.
                    _ = server.block_until_done() => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new()
            .name("nameserver".to_owned())
            .spawn(serve)
            .context("start a nameserver's thread")?;
        Ok(Self {
            said,
            listener,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// From now on it knows these names and no others, with that TTL.
    ///
    /// # Errors
    ///
    /// When a name is none. Then it goes on saying what it said.
    pub fn set<'name>(
        &self,
        ttl_secs: u32,
        records: impl IntoIterator<Item = (&'name str, IpAddr)>,
    ) -> Result<()> {
        *lock(&self.said.catalog) = catalog(ttl_secs, records)?;
        Ok(())
    }

    /// From now on it knows these names and no others, and these names of addresses, with that TTL.
    ///
    /// # Errors
    ///
    /// When a name is none. Then it goes on saying what it said.
    pub fn set_with_pointers<'name>(
        &self,
        ttl_secs: u32,
        records: impl IntoIterator<Item = (&'name str, IpAddr)>,
        pointers: impl IntoIterator<Item = (IpAddr, &'name str)>,
    ) -> Result<()> {
        let mut zone = zone(ttl_secs, records)?;
        for (address, name) in pointers {
            let target =
                Name::from_ascii(format!("{name}.")).with_context(|| format!("understand name {name}"))?;
            let record = Record::from_rdata(Name::from(address), ttl_secs, RData::PTR(PTR(target)));
            ensure!(
                zone.upsert_mut(record, 1),
                "add {name} for {address} to a DNS zone: it refuses it"
            );
        }
        *lock(&self.said.catalog) = catalog_of(zone);
        Ok(())
    }

    /// Every question so far, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.said.asked).clone()
    }
}

/// A question that a nameserver was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The name, in lower case, without its final dot.
    pub name: String,
    /// Whether it was for IPv6 addresses. Questions for what is no address are not remembered.
    pub ipv6: bool,
    /// Whether it came by TCP.
    pub tcp: bool,
    /// Who asked.
    pub from: SocketAddr,
}

/// What a nameserver says, and was asked.
struct Said {
    catalog: Mutex<Arc<Catalog>>,
    asked: Mutex<Vec<Asked>>,
}

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Said")
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers from the catalog that is there when the question comes.
struct Answering(Arc<Said>);

#[async_trait]
impl RequestHandler for Answering {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        response: R,
    ) -> ResponseInfo {
        if let Ok(information) = request.request_info() {
            let ipv6 = match information.query.query_type() {
                RecordType::A => Some(false),
                RecordType::AAAA => Some(true),
                _ => None,
            };
            let name = information.query.name().to_string();
            lock(&self.0.asked).extend(ipv6.map(|ipv6| Asked {
                name: name.trim_end_matches('.').to_owned(),
                ipv6,
                tcp: request.protocol() == Protocol::Tcp,
                from: request.src(),
            }));
        }
        let catalog = Arc::clone(&lock(&self.0.catalog));
        catalog.handle_request::<R, T>(request, response).await
    }
}

/// All that there is.
fn catalog<'name>(
    ttl_secs: u32,
    records: impl IntoIterator<Item = (&'name str, IpAddr)>,
) -> Result<Arc<Catalog>> {
    Ok(catalog_of(zone(ttl_secs, records)?))
}

fn catalog_of(zone: InMemoryZoneHandler<TokioRuntimeProvider>) -> Arc<Catalog> {
    let mut catalog = Catalog::new();
    catalog.upsert(Name::root().into(), vec![Arc::new(zone)]);
    Arc::new(catalog)
}

impl Drop for Nameserver {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there; nothing can be added.
            let _ = thread.join();
        }
        // A process that another test is starting right now has our descriptors until it runs its program.
        let _ = self.listener.shutdown(Shutdown::Both);
    }
}

/// The zone of the root, with these names in it and no others.
fn zone<'name>(
    ttl_secs: u32,
    records: impl IntoIterator<Item = (&'name str, IpAddr)>,
) -> Result<InMemoryZoneHandler<TokioRuntimeProvider>> {
    let mut zone = InMemoryZoneHandler::empty(Name::root(), ZoneType::Primary, AxfrPolicy::Deny);
    // Refresh, retry and expiry are for secondaries, of which there are none.
    let authority = SOA::new(Name::root(), Name::root(), 1, 0, 0, 0, ttl_secs);
    let authority = Record::from_rdata(Name::root(), ttl_secs, RData::SOA(authority));
    ensure!(
        zone.upsert_mut(authority, 1),
        "make a DNS zone: it refuses its SOA"
    );
    for (name, address) in records {
        let absolute =
            Name::from_ascii(format!("{name}.")).with_context(|| format!("understand name {name}"))?;
        let data = match address {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        };
        let record = Record::from_rdata(absolute, ttl_secs, data);
        ensure!(
            zone.upsert_mut(record, 1),
            "add {address} for {name} to a DNS zone: it refuses it"
        );
    }
    Ok(zone)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{Ipv4Addr, TcpStream},
    };

    use hickory_server::proto::{
        op::{Message, MessageType, OpCode, Query, ResponseCode},
        rr::RecordType,
    };

    use super::*;
    use crate::wait::PATIENCE;

    const AT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 80));

    fn question(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::new(4242, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    fn by_udp(question: &[u8]) -> Result<Message> {
        let socket = UdpSocket::bind((AT, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(question, (AT, PORT))?;
        let mut answer = [0; 4096];
        let length = socket.recv(&mut answer)?;
        Ok(Message::from_vec(&answer[..length])?)
    }

    fn by_tcp(question: &[u8]) -> Result<Message> {
        let mut stream = TcpStream::connect((AT, PORT))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // The length goes before (RFC 1035, 4.2.2).
        stream.write_all(&u16::try_from(question.len())?.to_be_bytes())?;
        stream.write_all(question)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer)?;
        Ok(Message::from_vec(&answer)?)
    }

    #[test]
    fn what_it_knows_it_says_and_the_rest_does_not_exist() {
        let netns = NetnsFixture::new().unwrap();
        netns.add_local([AT]).unwrap();
        let _nameserver = Nameserver::start(&netns, AT, [("shop.example", V4)]).unwrap();
        for (name, kind, code, count) in [
            ("shop.example.", RecordType::A, ResponseCode::NoError, 1),
            // The name is there, and has no such record.
            ("shop.example.", RecordType::AAAA, ResponseCode::NoError, 0),
            ("nobody.example.", RecordType::A, ResponseCode::NXDomain, 0),
            ("example.org.", RecordType::AAAA, ResponseCode::NXDomain, 0),
        ] {
            for ask in [by_udp, by_tcp] {
                let answer = netns.run(|| ask(&question(name, kind))).unwrap();
                assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
                assert_eq!(answer.answers.len(), count, "{name} {kind}: {answer:?}");
                // Otherwise a resolver would take it for a lame delegation and ask somebody else.
                assert!(answer.metadata.authoritative, "{name} {kind}");
            }
        }
    }
}
