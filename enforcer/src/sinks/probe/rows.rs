//! What was measured, a row each, in words: what was found, how long it took, what it means.

use crate::probe::{
    Fate, Findings, fate,
    findings::{
        Address, Back, By, Connect, Echo, End, Exchange, Lookup, Names, Order, Protocol, Reverse, Said, Way,
    },
};

/// How much a row matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Ok,
    Note,
    Broken,
    Unknown,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) mark: Mark,
    pub(super) name: &'static str,
    pub(super) state: String,
    pub(super) time_us: Option<u64>,
    pub(super) means: Option<String>,
    /// What is to be copied, as it is.
    pub(super) copy: Option<String>,
}

impl Row {
    fn new(mark: Mark, name: &'static str, state: impl Into<String>) -> Self {
        Self {
            mark,
            name,
            state: state.into(),
            time_us: None,
            means: None,
            copy: None,
        }
    }

    fn took(mut self, time_us: u64) -> Self {
        self.time_us = Some(time_us);
        self
    }

    fn means(mut self, means: impl Into<String>) -> Self {
        self.means = Some(means.into());
        self
    }
}

/// What is said of the name.
pub(super) fn of_names(findings: &Findings) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some(names) = &findings.names {
        rows.extend(said(names));
        rows.push(order(&findings.order));
    }
    if let Some(prefixes) = findings.nat64.as_ref().filter(|prefixes| !prefixes.is_empty()) {
        rows.push(Row::new(Mark::Note, "NAT64", prefixes.join(", ")).means(
            "addresses in there are IPv4 hosts, reached by a translator: a rule must not cover the prefix",
        ));
    }
    rows
}

fn said(names: &Names) -> [Row; 2] {
    let row = |name, said: &Said, none| {
        let ttl = said
            .ttl_secs
            .map(|secs| format!(" (TTL {secs} s)"))
            .unwrap_or_default();
        match said.state {
            Lookup::Found => {
                let addresses: Vec<_> = said.addresses.iter().map(ToString::to_string).collect();
                Row::new(Mark::Ok, name, format!("{}{ttl}", addresses.join(", ")))
            }
            Lookup::None => Row::new(Mark::Note, name, format!("none{ttl}")).means(none),
            Lookup::NoSuchName => Row::new(Mark::Note, name, format!("there is no such name{ttl}")),
            Lookup::Failed => {
                let why = said.why.as_deref().unwrap_or("no answer");
                Row::new(Mark::Broken, name, why).means("whether there are addresses is not known")
            }
        }
        .took(names.time_us)
    };
    [
        row("AAAA", &names.aaaa, "the name has no IPv6 address"),
        row(
            "A",
            &names.a,
            "the name has no IPv4 address: clients have nothing to fall back to",
        ),
    ]
}

fn order(order: &Order) -> Row {
    let by = match order.by {
        By::Getaddrinfo => "getaddrinfo",
        By::Rfc6724 => "RFC 6724",
        By::Literal => "order",
    };
    let addresses: Vec<_> = order.addresses.iter().map(ToString::to_string).collect();
    let row = match &order.error {
        Some(error) => Row::new(Mark::Broken, by, error.clone()).means("programs get no address"),
        None => {
            let row = Row::new(Mark::Ok, by, addresses.join(", "));
            match order.addresses.first() {
                Some(first) if first.is_ipv6() => row.means("programs try IPv6 first"),
                Some(_) if order.addresses.iter().any(std::net::IpAddr::is_ipv6) => {
                    row.means("programs try IPv4 first: who goes by this order never meets IPv6")
                }
                _ => row,
            }
        }
    };
    Row {
        time_us: order.time_us,
        ..row
    }
}

/// Everything about an address.
pub(super) fn of_address(found: &Address, findings: &Findings) -> Vec<Row> {
    let fate = fate(found, findings.ipv6_sockets);
    let mut rows = vec![way(&found.way), connects(&found.connects, fate)];
    rows.extend(found.exchange.as_ref().map(exchange));
    rows.extend(found.echo.as_ref().and_then(echo));
    rows.extend(found.reverse.as_ref().map(reverse));
    rows
}

fn way(way: &Way) -> Row {
    let mut state = match (&way.source, &way.errno) {
        (Some(source), _) => format!("from {source}"),
        (None, Some(errno)) => errno.clone(),
        (None, None) => "was not asked in time".to_owned(),
    };
    if let Some(gateway) = way.gateway {
        state.push_str(&format!(", by {gateway}"));
    }
    if let Some(interface) = &way.interface {
        state.push_str(&format!(", {interface}"));
    }
    if let Some(mtu) = way.mtu {
        state.push_str(&format!(", packets of up to {mtu} octets"));
    }
    let row = match (&way.errno, &way.dead_end) {
        (None, None) => Row::new(Mark::Ok, "way", state),
        (_, Some(kind)) => {
            Row::new(Mark::Broken, "way", state).means(format!("the route is of the kind {kind}"))
        }
        (Some(errno), None) => Row::new(Mark::Broken, "way", state).means(match errno.as_str() {
            "EADDRNOTAVAIL" => "no address to send from: the kernel ends connects at once, and sends nothing",
            "EPERM" => "a program forbids it",
            _ => "no route: the kernel ends connects at once, and sends nothing",
        }),
    };
    row.took(way.time_us)
}

fn connects(connects: &[Connect], fate: Fate) -> Row {
    let mut states: Vec<String> = connects.iter().map(connect).collect();
    states.dedup();
    let (mark, shown) = match fate {
        Fate::Unknown => (Mark::Unknown, "was not tried in time".to_owned()),
        Fate::Works | Fate::Stalls | Fate::LosesLongPackets | Fate::Stranger => {
            (Mark::Ok, states.join(", then "))
        }
        _ => (Mark::Broken, states.join(", then ")),
    };
    let twice = if connects.len() > 1 && states.len() == 1 {
        ", twice"
    } else {
        ""
    };
    let row = Row::new(mark, "connect", format!("{shown}{twice}"));
    let row = if mark == Mark::Broken {
        row.means(fate.means())
    } else {
        row
    };
    match connects.first() {
        Some(first) => row.took(first.time_us),
        None => row,
    }
}

fn connect(connect: &Connect) -> String {
    match (connect.end, &connect.errno, connect.retransmits) {
        (End::Done, _, Some(count @ 1..)) => {
            let times = if count == 1 { "once" } else { "more than once" };
            format!("succeeds, its SYN sent again {times}")
        }
        (End::Done, ..) => "succeeds".to_owned(),
        (_, Some(errno), _) => errno.clone(),
        _ => "no answer".to_owned(),
    }
}

fn exchange(exchange: &Exchange) -> Row {
    let name = match exchange.protocol {
        Protocol::Tls => "TLS",
        Protocol::Http => "HTTP",
    };
    let row = match exchange.end {
        End::Done => Row::new(Mark::Ok, name, exchange.detail.clone()),
        End::Silent => Row::new(Mark::Broken, name, exchange.detail.clone())
            .means("connects come about and data does not: packets that are full are lost, or another answers in the host's place"),
        End::Failed | End::Untried => Row::new(Mark::Broken, name, exchange.detail.clone())
            .means("whoever answers does not speak the protocol that the port suggests"),
    };
    row.took(exchange.time_us)
}

fn echo(echo: &Echo) -> Option<Row> {
    let row = match (echo.end, &echo.large) {
        (End::Done, None) => Row::new(Mark::Ok, "ICMPv6 echo", "answered"),
        (End::Done, Some(large)) => match (large.end, large.learned) {
            (End::Done, None) => Row::new(
                Mark::Ok,
                "ICMPv6 echo",
                format!("answered, also one of {} octets", large.octets),
            ),
            (End::Done, Some(learned)) => Row::new(
                Mark::Note,
                "ICMPv6 echo",
                format!("answered; one of {} octets is too long, one of {learned} is not", large.octets),
            )
            .means("a router says how long packets may be, as it should"),
            _ => Row::new(
                Mark::Broken,
                "ICMPv6 echo",
                format!("answered, but not one of {} octets", large.octets),
            )
            .means("long packets vanish without a word (a path MTU black hole), or the host answers no long echoes"),
        },
        (End::Failed, _) => Row::new(Mark::Note, "ICMPv6 echo", echo.why.clone().unwrap_or_default())
            .means("what the kernel or a router says of it"),
        (End::Untried, _) => Row::new(Mark::Unknown, "ICMPv6 echo", "could not be sent")
            .means(echo.why.clone().unwrap_or_default()),
        (End::Silent, _) => Row::new(Mark::Note, "ICMPv6 echo", "no answer")
            .means("many hosts answer none, so that alone says nothing; path MTU trouble cannot be looked for"),
    };
    Some(row.took(echo.time_us))
}

fn reverse(reverse: &Reverse) -> Row {
    let names = reverse.names.join(", ");
    let row = match reverse.state {
        Back::Confirmed => Row::new(Mark::Ok, "PTR", names),
        Back::OtherName => Row::new(Mark::Note, "PTR", names)
            .means("another name that has this address: as it is where several share one"),
        Back::Wrong => Row::new(Mark::Broken, "PTR", names).means("that name does not have this address"),
        Back::Missing => Row::new(Mark::Note, "PTR", "none"),
        Back::Failed => Row::new(
            Mark::Unknown,
            "PTR",
            reverse.why.clone().unwrap_or_else(|| "no answer".to_owned()),
        ),
    };
    let row = match &reverse.record {
        Some(record) => {
            let means = row
                .means
                .clone()
                .map(|means| format!("{means}; "))
                .unwrap_or_default();
            Row {
                copy: Some(record.clone()),
                ..row.means(format!("{means}this record is missing:"))
            }
        }
        None => row,
    };
    row.took(reverse.time_us)
}
