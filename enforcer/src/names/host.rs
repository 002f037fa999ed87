//! This host's resolver: its `hosts` and `resolv.conf`, read again whenever they have changed.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::Arc,
};

use hickory_resolver::{
    Hosts,
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
};

use super::{
    Families, HostName, MAX_A, MAX_AAAA,
    ask::{Asker, Outcome, Round},
    resolv::ResolvConf,
};

/// No real `resolv.conf` is longer.
const MAX_RESOLV_CONF_BYTES: u64 = 64 << 10;

/// Lists of blocked names are kept in such files, and are long.
const MAX_HOSTS_BYTES: u64 = 16 << 20;

/// How long an address from `hosts` counts: the file has no such thing, and reading it costs nearly nothing.
const HOSTS_TTL_SECS: u32 = 10;

/// A file, and which of its versions was understood last.
struct Watched<T> {
    path: PathBuf,
    max_bytes: u64,
    understood: Option<(Version, T)>,
}

/// What differs between a file and what takes its place: device, inode, size, and time of change in ns.
type Version = (u64, u64, u64, i128);

impl<T: Clone> Watched<T> {
    fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self {
            path,
            max_bytes,
            understood: None,
        }
    }

    /// What the file says now; read only if it is another one than last time.
    fn get(&mut self, understand: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, String> {
        let version = self.version();
        if let (Ok(version), Some((understood, value))) = (&version, &self.understood)
            && version == understood
        {
            return Ok(value.clone());
        }
        let read = version.and_then(|version| Ok((version, self.read()?)));
        let (version, bytes) =
            read.map_err(|error| format!("cannot read {}: {error}", self.path.display()))?;
        let value = understand(&bytes)?;
        self.understood = Some((version, value.clone()));
        Ok(value)
    }

    fn version(&self) -> io::Result<Version> {
        let found = fs::metadata(&self.path)?;
        if !found.is_file() {
            // Opening a pipe would wait for a writer.
            return Err(io::Error::other("not a regular file"));
        }
        let changed_ns = i128::from(found.ctime()) * 1_000_000_000 + i128::from(found.ctime_nsec());
        Ok((found.dev(), found.ino(), found.size(), changed_ns))
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(&self.path)?
            .take(self.max_bytes)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// This host's resolver.
pub(super) struct Host {
    resolv_conf: Watched<Arc<Asker>>,
    hosts: Watched<Arc<Hosts>>,
}

impl Host {
    pub(super) fn new(resolv_conf: PathBuf, hosts: PathBuf) -> Self {
        Self {
            resolv_conf: Watched::new(resolv_conf, MAX_RESOLV_CONF_BYTES),
            hosts: Watched::new(hosts, MAX_HOSTS_BYTES),
        }
    }

    /// What the files say now about a name: all of it, or whom to ask.
    pub(super) fn look(&mut self, name: &HostName, families: Families) -> Result<Look, String> {
        // Few miss that file, and the C library does not mind either.
        if let Ok(hosts) = self.hosts.get(|bytes| parse_hosts(bytes).map(Arc::new))
            && let Some(round) = listed(&hosts, name, families)
        {
            return Ok(Look::Known(round));
        }
        self.resolv_conf
            .get(|bytes| Asker::new(ResolvConf::parse(bytes)).map(Arc::new))
            .map(Look::Ask)
    }
}

/// What a `hosts` file says.
pub(super) fn parse_hosts(bytes: &[u8]) -> Result<Hosts, String> {
    let mut hosts = Hosts::default();
    hosts
        .read_hosts_conf(readable(bytes).as_bytes())
        .map_err(|error| error.to_string())?;
    Ok(hosts)
}

/// The lines of a `hosts` file that are text. One that is not, in somebody's comment perhaps, is no reason to do without
/// the others.
fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    text.extend(lines.filter_map(|line| str::from_utf8(line).ok()));
    text
}

/// Where the addresses of a name come from.
pub(super) enum Look {
    /// They are these.
    Known(Round),
    /// They have to be asked for.
    Ask(Arc<Asker>),
}

/// What `hosts` says of a name. Where it has one of either family, nobody is asked for the other: so does glibc.
pub(super) fn listed(hosts: &Hosts, name: &HostName, families: Families) -> Option<Round> {
    let fully_qualified = Name::from_ascii(format!("{name}.")).ok()?;
    let addresses = |kind| -> Vec<IpAddr> {
        let found = hosts.lookup_static_host(&Query::query(fully_qualified.clone(), kind));
        found
            .iter()
            .flat_map(|lookup| lookup.answers())
            .filter_map(|record| record.data.ip_addr())
            .collect()
    };
    let aaaa: Vec<Ipv6Addr> = addresses(RecordType::AAAA)
        .into_iter()
        .filter_map(ipv6)
        .take(MAX_AAAA)
        .collect();
    let a: Vec<Ipv4Addr> = addresses(RecordType::A)
        .into_iter()
        .filter_map(ipv4)
        .take(MAX_A)
        .collect();
    if aaaa.is_empty() && a.is_empty() {
        return None;
    }
    Some(Round {
        aaaa: (families == Families::Both).then(|| outcome(aaaa)),
        a: outcome(a),
    })
}

fn ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn outcome<A>(addresses: Vec<A>) -> Outcome<A> {
    if addresses.is_empty() {
        Outcome::Nothing {
            exists: true,
            ttl_secs: Some(HOSTS_TTL_SECS),
        }
    } else {
        Outcome::Found {
            addresses,
            ttl_secs: HOSTS_TTL_SECS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(host: &mut Host, name: &str) -> Option<Round> {
        match host.look(&name.parse().unwrap(), Families::Both).unwrap() {
            Look::Known(round) => Some(round),
            Look::Ask(_) => None,
        }
    }

    #[tokio::test]
    async fn hosts_comes_first_and_is_read_again_when_it_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let (resolv_conf, hosts) = (folder.path().join("resolv.conf"), folder.path().join("hosts"));
        fs::write(&resolv_conf, "nameserver 192.0.2.53\n").unwrap();
        let mut host = Host::new(resolv_conf.clone(), hosts.clone());
        assert_eq!(known(&mut host, "db"), None, "without the file somebody is asked");
        fs::write(&hosts, "192.0.2.1 DB db.example # mine\n2001:db8::1 db.example\n").unwrap();
        assert_eq!(
            known(&mut host, "db.example"),
            Some(Round {
                aaaa: Some(outcome(vec!["2001:db8::1".parse().unwrap()])),
                a: outcome(vec!["192.0.2.1".parse().unwrap()]),
            })
        );
        // Nobody is asked for the other family.
        assert_eq!(
            known(&mut host, "db"),
            Some(Round {
                aaaa: Some(outcome(vec![])),
                a: outcome(vec!["192.0.2.1".parse().unwrap()]),
            })
        );
        fs::write(folder.path().join("new"), "192.0.2.2 other.example\n").unwrap();
        fs::rename(folder.path().join("new"), &hosts).unwrap();
        assert_eq!(known(&mut host, "db.example"), None);
        assert!(known(&mut host, "other.example").is_some());
    }

    #[tokio::test]
    async fn a_line_that_is_no_text_costs_that_line_only() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().join("hosts");
        let lines: [&[u8]; 4] = [
            b"192.0.2.1 first.example\n",
            b"192.0.2.2 caf\xe9.example # Latin-1\n",
            b"192.0.2.3 third.example # caf\xe9\n",
            b"192.0.2.4 last.example",
        ];
        fs::write(&hosts, lines.concat()).unwrap();
        let mut host = Host::new(folder.path().join("resolv.conf"), hosts);
        fs::write(folder.path().join("resolv.conf"), "nameserver 192.0.2.53\n").unwrap();
        for (name, is_known) in [
            ("first.example", true),
            ("third.example", false),
            ("last.example", true),
        ] {
            assert_eq!(known(&mut host, name).is_some(), is_known, "{name}");
        }
    }

    #[tokio::test]
    async fn a_resolv_conf_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut host = Host::new(folder.path().to_owned(), folder.path().join("hosts"));
        let name = "db.example".parse().unwrap();
        let error = host.look(&name, Families::Both).err().unwrap();
        assert_eq!(
            error,
            format!("cannot read {}: not a regular file", folder.path().display())
        );
    }
}
