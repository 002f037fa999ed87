//! All checks of one host, at the same time as far as one does not need what another brings.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use ipnet::Ipv6Net;
use rtnetlink::Handle;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    Limits, Progress, Subject,
    connect::{connect, makes_ipv6_sockets, micros},
    echo::{Echoes, echo},
    exchange::{exchange, suggested},
    findings::{Address, Back, By, Connect, Exchange, Findings, Lookup, Names, Order, Reverse, Said, Twin},
    order::{getaddrinfo, once_each, rank},
    reverse::reverse,
    subject::Host,
    way::{source, way},
};
use crate::{
    names::{HostName, Once, Outcome},
    surroundings::{Nat64, nat64},
};

/// Addresses of a host that are looked at.
pub(super) const MAX_ADDRESSES: usize = 16;

/// The longest time that an echo is waited for: there are hosts enough that answer none.
const ECHO_LIMIT: Duration = Duration::from_secs(3);

/// Who is asked for names.
pub struct Asking {
    /// The nameservers and the `hosts` file.
    pub once: Once,
    /// Whether the C library of this process has a say: where the target is this process's own surroundings.
    pub c_library: bool,
}

/// Looks at a host, from the network namespace of the calling thread. Never fails: what cannot be measured is a finding.
///
/// Needs a tokio runtime with I/O and time.
pub async fn measure(
    subject: &Subject,
    asking: &Asking,
    echoes: &Echoes,
    limits: Limits,
    progress: Option<UnboundedSender<Progress>>,
) -> Findings {
    let start = Instant::now();
    // It ends by itself when nobody uses its handle any more.
    let routes = rtnetlink::new_connection().ok().map(|(connection, handle, _)| {
        tokio::spawn(connection);
        handle
    });
    let look = Look {
        subject,
        asking,
        echoes,
        limits,
        end: start + limits.all,
        routes,
        tell: Tell {
            progress,
            done: AtomicUsize::new(0),
            known: AtomicUsize::new(0),
        },
    };
    let mut findings = look.all().await;
    findings.time_us = micros(start);
    findings.out_of_time = Instant::now() >= look.end;
    findings
}

/// Who is told how far this is.
struct Tell {
    progress: Option<UnboundedSender<Progress>>,
    done: AtomicUsize,
    known: AtomicUsize,
}

impl Tell {
    /// A check, which counts from when it is begun.
    async fn check<T>(&self, what: impl FnOnce() -> String, check: impl Future<Output = T>) -> T {
        self.known.fetch_add(1, Ordering::Relaxed);
        let value = check.await;
        let done = 1 + self.done.fetch_add(1, Ordering::Relaxed);
        if let Some(progress) = &self.progress {
            // Whoever does not listen any more needs no news.
            let _ = progress.send(Progress {
                done,
                known: self.known.load(Ordering::Relaxed),
                last: what(),
            });
        }
        value
    }
}

struct Look<'look> {
    subject: &'look Subject,
    asking: &'look Asking,
    echoes: &'look Echoes,
    limits: Limits,
    end: Instant,
    routes: Option<Handle>,
    tell: Tell,
}

impl Look<'_> {
    /// How long something may take that should take no longer than that.
    fn at_most(&self, limit: Duration) -> Duration {
        limit.min(self.end.saturating_duration_since(Instant::now()))
    }

    /// What comes of a check within the time that is left.
    async fn in_time<T>(&self, check: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(self.at_most(self.limits.all), check)
            .await
            .ok()
    }

    async fn all(&self) -> Findings {
        let mut findings = Findings {
            host: self.subject.host.to_string(),
            port: self.subject.port,
            ipv6_sockets: makes_ipv6_sockets(),
            ..Findings::default()
        };
        let (order, nat64) = tokio::join!(self.order(&mut findings.names), self.nat64());
        findings.order = order;
        findings.nat64 = nat64
            .as_ref()
            .map(|found| found.iter().map(Ipv6Net::to_string).collect());
        let mut wanted = findings.order.addresses.clone();
        if wanted.is_empty() {
            wanted = findings.names.as_ref().map(known).unwrap_or_default();
        }
        findings.left_out = wanted.len().saturating_sub(MAX_ADDRESSES);
        wanted.truncate(MAX_ADDRESSES);
        findings.addresses = join_all(wanted.iter().map(|address| self.address(*address))).await;
        if findings.ipv4().next().is_none() {
            findings.twins = self.twins(&findings, &nat64.unwrap_or_default()).await;
        }
        findings
    }

    /// What the name leads to, and in which order.
    async fn order(&self, names: &mut Option<Names>) -> Order {
        let name = match &self.subject.host {
            Host::Address(address) => {
                return Order {
                    addresses: vec![*address],
                    ..Order::default()
                };
            }
            Host::Name(name) => name,
        };
        let port = self.subject.port;
        let asked = self.tell.check(|| "AAAA and A".to_owned(), self.ask(name));
        if self.asking.c_library {
            let limit = self.at_most(self.limits.all);
            let order = self
                .tell
                .check(|| "getaddrinfo".to_owned(), getaddrinfo(name, port, limit));
            let (found, order) = tokio::join!(asked, order);
            *names = Some(found);
            return order;
        }
        let found = asked.await;
        let start = Instant::now();
        let candidates = known(&found).into_iter().map(|address| {
            let source = source(SocketAddr::new(address, port)).ok();
            (address, source.map(|(source, _)| source))
        });
        let addresses = rank(candidates.collect());
        let order = Order {
            by: By::Rfc6724,
            error: addresses.is_empty().then(|| "there is no address".to_owned()),
            addresses,
            time_us: Some(micros(start)),
        };
        *names = Some(found);
        order
    }

    async fn ask(&self, name: &HostName) -> Names {
        let start = Instant::now();
        let (aaaa, a) = match self.in_time(self.asking.once.ask(name)).await {
            Some((aaaa, a)) => (said(aaaa, IpAddr::V6), said(a, IpAddr::V4)),
            None => (late(), late()),
        };
        Names {
            aaaa,
            a,
            hosts_file: self.asking.once.listed(name),
            time_us: micros(start),
        }
    }

    /// The prefixes of a NAT64, as far as the nameservers say so.
    async fn nat64(&self) -> Option<Vec<Ipv6Net>> {
        let name: HostName = nat64::IPV4_ONLY.parse().ok()?;
        let ask = self
            .tell
            .check(|| "NAT64".to_owned(), self.asking.once.ask(&name));
        let (aaaa, a) = tokio::time::timeout(self.at_most(self.limits.each), ask)
            .await
            .ok()?;
        let mut addresses = said(aaaa, IpAddr::V6).addresses;
        addresses.extend(said(a, IpAddr::V4).addresses);
        match nat64::evaluate(&addresses) {
            Nat64::Found(prefixes) => Some(prefixes),
            Nat64::Absent => Some(Vec::new()),
            Nat64::Unknown => None,
        }
    }

    /// Everything about one address.
    async fn address(&self, address: IpAddr) -> Address {
        let to = SocketAddr::new(address, self.subject.port);
        let way = self.in_time(way(to, self.routes.as_ref()));
        let echo = async {
            match address {
                IpAddr::V4(_) => None,
                IpAddr::V6(to) => {
                    let limit = self.at_most(self.limits.each.min(ECHO_LIMIT));
                    let check = echo(to, self.echoes, limit);
                    self.in_time(self.tell.check(|| format!("echo {to}"), check))
                        .await
                }
            }
        };
        let reverse = self
            .tell
            .check(|| format!("PTR of {address}"), self.reverse(address));
        let (way, (connects, exchange), echo, reverse) =
            tokio::join!(way, self.talk(to), echo, self.in_time(reverse));
        Address {
            address,
            way: way.unwrap_or_default(),
            connects,
            echo,
            exchange,
            reverse,
        }
    }

    async fn reverse(&self, address: IpAddr) -> Reverse {
        reverse(&self.subject.host, address, &self.asking.once).await
    }

    /// A connect, and what there is to say then.
    async fn talk(&self, to: SocketAddr) -> (Vec<Connect>, Option<Exchange>) {
        let limit = self.at_most(self.limits.each);
        let connect = connect(to, limit);
        let (connects, stream) = self.tell.check(|| format!("connect {}", to.ip()), connect).await;
        let (Some(stream), Some(protocol)) = (stream, suggested(to.port())) else {
            return (connects, None);
        };
        let host = self.subject.host.to_string();
        let talk = exchange(protocol, &host, stream, self.at_most(self.limits.each));
        let done = self.tell.check(|| format!("data {}", to.ip()), talk).await;
        (connects, Some(done))
    }

    /// IPv4 addresses that stand for the IPv6 addresses of a host without one.
    async fn twins(&self, findings: &Findings, prefixes: &[Ipv6Net]) -> Vec<Twin> {
        let well_known = [nat64::well_known_prefix()];
        let mut wanted: Vec<(Ipv6Addr, Option<String>, Ipv4Addr)> = Vec::new();
        for (found, of) in findings.ipv6() {
            let inside = prefixes.iter().chain(&well_known);
            if let Some(twin) = inside.filter_map(|prefix| nat64::ipv4_inside(*prefix, of)).next() {
                wanted.push((of, None, twin));
                continue;
            }
            // What a name's own records do not say, no other name's may.
            if self.subject.host.name().is_some() {
                continue;
            }
            let Some(back) = found
                .reverse
                .as_ref()
                .filter(|back| back.state == Back::Confirmed)
            else {
                continue;
            };
            for name in &back.names {
                let Ok(parsed) = name.parse::<HostName>() else {
                    continue;
                };
                let Some((Outcome::Found { addresses: aaaa, .. }, Outcome::Found { addresses: a, .. })) =
                    self.in_time(self.asking.once.ask(&parsed)).await
                else {
                    continue;
                };
                if aaaa.contains(&of) {
                    wanted.extend(a.into_iter().map(|twin| (of, Some(name.clone()), twin)));
                }
            }
        }
        wanted.truncate(MAX_ADDRESSES);
        let looked_at = wanted.into_iter().map(async |(of, name, twin)| Twin {
            of,
            name,
            address: self.address(twin.into()).await,
        });
        join_all(looked_at).await
    }
}

/// The addresses that programs get, as far as that can be known without asking their C library.
fn known(names: &Names) -> Vec<IpAddr> {
    if names.hosts_file.is_empty() {
        let answers = names.aaaa.addresses.iter().chain(&names.a.addresses);
        once_each(answers.copied())
    } else {
        once_each(names.hosts_file.iter().copied())
    }
}

fn said<A>(outcome: Outcome<A>, address: fn(A) -> IpAddr) -> Said {
    let nothing = |state, ttl_secs, why| Said {
        state,
        addresses: Vec::new(),
        ttl_secs,
        why,
    };
    match outcome {
        Outcome::Found { addresses, ttl_secs } => Said {
            addresses: addresses.into_iter().map(address).collect(),
            ..nothing(Lookup::Found, Some(ttl_secs), None)
        },
        Outcome::Nothing {
            exists: true,
            ttl_secs,
        } => nothing(Lookup::None, ttl_secs, None),
        Outcome::Nothing {
            exists: false,
            ttl_secs,
        } => nothing(Lookup::NoSuchName, ttl_secs, None),
        Outcome::Failed { why } => nothing(Lookup::Failed, None, Some(why)),
    }
}

fn late() -> Said {
    Said {
        state: Lookup::Failed,
        addresses: Vec::new(),
        ttl_secs: None,
        why: Some("no answer in time".to_owned()),
    }
}
