//! Asking nameservers for the addresses of one name, once. Remembers nothing.
//!
//! The messages, retransmission and TCP after a truncated answer are hickory's. Which server, which name and what
//! counts as an answer is decided here, as the C library decides it: programs must get the same.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    NameServerPool, PoolContext, TlsConfig,
    config::{NameServerConfig, ResolverOpts},
    net::{
        DnsError, NetError,
        runtime::TokioRuntimeProvider,
        xfer::{DnsHandle as _, FirstAnswer as _},
    },
    proto::{
        op::{DnsRequestOptions, Query, ResponseCode},
        rr::{Name, RData, Record, RecordType},
    },
};
use serde::{Deserialize, Serialize};

use super::{Families, HostName, MAX_A, MAX_AAAA, resolv::ResolvConf};

/// How long the questions for one name may take together: three nameservers that do not answer, and then some.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// Names of one address that are looked at.
const MAX_POINTERS: usize = 8;

/// Aliases followed within an answer. Resolvers follow fewer.
const MAX_ALIASES: usize = 16;

/// What came of one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome<A> {
    /// Addresses: at least one.
    Found {
        /// Sorted, each once.
        addresses: Vec<A>,
        /// How long they may be remembered.
        ttl_secs: u32,
    },
    /// A server says that there are none.
    Nothing {
        /// Whether the name exists, with other records.
        exists: bool,
        /// How long that may be remembered.
        ttl_secs: Option<u32>,
    },
    /// Nobody says anything that counts.
    Failed {
        /// Why.
        why: String,
    },
}

/// What came of asking for a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Round {
    /// IPv6, where that was asked for.
    pub(super) aaaa: Option<Outcome<Ipv6Addr>>,
    /// IPv4.
    pub(super) a: Outcome<Ipv4Addr>,
}

impl Round {
    /// Nothing was learnt, for that reason.
    pub(super) fn failed(families: Families, why: &str) -> Self {
        Self {
            aaaa: (families == Families::Both).then(|| Outcome::Failed { why: why.to_owned() }),
            a: Outcome::Failed { why: why.to_owned() },
        }
    }

    fn has_found(&self) -> bool {
        matches!(self.aaaa, Some(Outcome::Found { .. })) || matches!(self.a, Outcome::Found { .. })
    }

    fn has_failed(&self) -> bool {
        matches!(self.aaaa, Some(Outcome::Failed { .. })) || matches!(self.a, Outcome::Failed { .. })
    }
}

/// The nameservers of one `resolv.conf`.
pub(super) struct Asker {
    conf: ResolvConf,
    /// One pool for each: a pool of several gives them one time limit together, so that behind one that is silent
    /// the next would never be asked.
    servers: Vec<(IpAddr, NameServerPool<TokioRuntimeProvider>)>,
    options: DnsRequestOptions,
}

impl Asker {
    /// Asks those that the file names.
    ///
    /// # Errors
    ///
    /// Says what cannot be set up.
    pub(super) fn new(conf: ResolvConf) -> Result<Self, String> {
        let mut options = ResolverOpts::default();
        options.timeout = conf.timeout;
        options.edns0 = conf.edns;
        let context = |options: &ResolverOpts| {
            let tls = TlsConfig::new().map_err(|error| error.to_string())?;
            Ok::<_, String>(Arc::new(PoolContext::new(options.clone(), tls)))
        };
        let mut servers = Vec::new();
        for address in &conf.nameservers {
            let server = NameServerConfig::udp_and_tcp(*address);
            let pool =
                NameServerPool::from_config([server], context(&options)?, TokioRuntimeProvider::default());
            servers.push((*address, pool));
        }
        let mut request = DnsRequestOptions::default();
        request.use_edns = conf.edns;
        request.recursion_desired = true;
        Ok(Self {
            conf,
            servers,
            options: request,
        })
    }

    /// Asks for the addresses of a name, within [`DEADLINE`].
    pub(super) async fn ask(&self, name: &HostName, families: Families) -> Round {
        tokio::time::timeout(DEADLINE, self.ask_candidates(name, families))
            .await
            .unwrap_or_else(|_elapsed| Round::failed(families, "no answer in time"))
    }

    /// The first of the candidates that has an address of either family has all that are found: otherwise addresses
    /// of two names would be taken for those of one.
    async fn ask_candidates(&self, name: &HostName, families: Families) -> Round {
        let mut last = Round::failed(families, "it cannot be written as a DNS name");
        for candidate in self.conf.candidates(name) {
            // A search domain can make it too long.
            let Ok(candidate) = Name::from_ascii(&candidate) else {
                continue;
            };
            let aaaa = async {
                match families {
                    Families::Both => Some(self.question(&candidate, RecordType::AAAA, MAX_AAAA, ipv6).await),
                    Families::Ipv4 => None,
                }
            };
            let (aaaa, a) = tokio::join!(aaaa, self.question(&candidate, RecordType::A, MAX_A, ipv4));
            last = Round { aaaa, a };
            if last.has_found() || last.has_failed() {
                break;
            }
        }
        last
    }

    /// Asks for the names that an address leads back to, within [`DEADLINE`].
    pub(super) async fn ask_back(&self, address: IpAddr) -> Outcome<String> {
        let name = Name::from(address);
        let question = self.question(&name, RecordType::PTR, MAX_POINTERS, pointer);
        tokio::time::timeout(DEADLINE, question)
            .await
            .unwrap_or_else(|_elapsed| Outcome::Failed {
                why: "no answer in time".to_owned(),
            })
    }

    /// Asks one server after the other until one says something that counts.
    async fn question<A: Clone + Ord>(
        &self,
        name: &Name,
        kind: RecordType,
        limit: usize,
        pick: fn(&RData) -> Option<A>,
    ) -> Outcome<A> {
        let mut failures = Vec::new();
        for (address, server) in &self.servers {
            let query = Query::query(name.clone(), kind);
            let failure = match server.lookup(query, self.options).first_answer().await {
                Ok(response) => return outcome(&response.answers, name, limit, pick),
                Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
                    return Outcome::Nothing {
                        exists: nothing.response_code != ResponseCode::NXDomain,
                        ttl_secs: nothing.negative_ttl,
                    };
                }
                Err(NetError::Dns(DnsError::ResponseCode(code))) => format!("{address} says {code}"),
                Err(NetError::Timeout) => format!("{address} does not answer"),
                Err(NetError::Io(error)) => format!("{address}: {error}"),
                Err(error) => format!("{address}: {error}"),
            };
            failures.push(failure);
        }
        let why = if failures.is_empty() {
            "resolv.conf names no nameserver that can be asked".to_owned()
        } else {
            failures.join(", ")
        };
        Outcome::Failed { why }
    }
}

fn ipv6(data: &RData) -> Option<Ipv6Addr> {
    match data {
        RData::AAAA(address) => Some(address.0),
        _ => None,
    }
}

fn ipv4(data: &RData) -> Option<Ipv4Addr> {
    match data {
        RData::A(address) => Some(address.0),
        _ => None,
    }
}

fn pointer(data: &RData) -> Option<String> {
    match data {
        RData::PTR(name) => Some(name.0.to_string().trim_end_matches('.').to_ascii_lowercase()),
        _ => None,
    }
}

/// The addresses of a name in an answer: its own, or those of what it is an alias of. What else an answer contains
/// is nobody's business.
fn outcome<A: Clone + Ord>(
    records: &[Record],
    name: &Name,
    limit: usize,
    pick: fn(&RData) -> Option<A>,
) -> Outcome<A> {
    let mut owner = name;
    let mut ttl_secs = u32::MAX;
    for _ in 0..=MAX_ALIASES {
        let of_owner = || records.iter().filter(|record| record.name == *owner);
        let found: Vec<_> = of_owner()
            .filter_map(|record| Some((pick(&record.data)?, record.ttl)))
            .collect();
        if !found.is_empty() {
            let mut addresses: Vec<_> = found.iter().map(|(address, _)| address.clone()).collect();
            addresses.sort_unstable();
            addresses.dedup();
            addresses.truncate(limit);
            return Outcome::Found {
                addresses,
                ttl_secs: found.iter().map(|(_, ttl)| *ttl).fold(ttl_secs, u32::min),
            };
        }
        let alias = of_owner().find_map(|record| match &record.data {
            RData::CNAME(target) => Some((&target.0, record.ttl)),
            _ => None,
        });
        let Some((target, ttl)) = alias else { break };
        ttl_secs = ttl_secs.min(ttl);
        owner = target;
    }
    Outcome::Nothing {
        exists: true,
        ttl_secs: (ttl_secs != u32::MAX).then_some(ttl_secs),
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::rdata::CNAME;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn address(owner: &str, ttl_secs: u32, last: u8) -> Record {
        let address = Ipv4Addr::new(192, 0, 2, last);
        Record::from_rdata(name(owner), ttl_secs, RData::A(address.into()))
    }

    fn alias(owner: &str, ttl_secs: u32, target: &str) -> Record {
        Record::from_rdata(name(owner), ttl_secs, RData::CNAME(CNAME(name(target))))
    }

    fn of(records: &[Record]) -> Outcome<Ipv4Addr> {
        outcome(records, &name("db.example."), 3, ipv4)
    }

    fn found(last: &[u8], ttl_secs: u32) -> Outcome<Ipv4Addr> {
        Outcome::Found {
            addresses: last.iter().map(|last| Ipv4Addr::new(192, 0, 2, *last)).collect(),
            ttl_secs,
        }
    }

    #[test]
    fn addresses_come_sorted_each_once_and_not_too_many() {
        let records = [3, 1, 3, 2].map(|last| address("DB.Example.", 60, last));
        assert_eq!(of(&records), found(&[1, 2, 3], 60));
        let many: Vec<_> = (0..9)
            .rev()
            .map(|last| address("db.example.", 60, last))
            .collect();
        assert_eq!(of(&many), found(&[0, 1, 2], 60));
    }

    #[test]
    fn the_shortest_ttl_of_the_way_counts() {
        let records = [
            address("b.example.", 50, 1),
            alias("a.example.", 20, "b.example."),
            alias("db.example.", 70, "a.example."),
        ];
        assert_eq!(of(&records), found(&[1], 20));
    }

    #[test]
    fn what_belongs_to_another_name_is_left_out() {
        let records = [address("other.example.", 60, 1)];
        assert_eq!(
            of(&records),
            Outcome::Nothing {
                exists: true,
                ttl_secs: None,
            }
        );
    }

    #[test]
    fn an_alias_of_itself_leads_nowhere() {
        let records = [
            alias("db.example.", 60, "a.example."),
            alias("a.example.", 60, "db.example."),
        ];
        assert!(matches!(of(&records), Outcome::Nothing { exists: true, .. }));
    }
}
