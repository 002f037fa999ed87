//! [`Once`]: a resolver that is asked once and remembers nothing, for who wants to know what is said now.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_resolver::Hosts;

use super::{
    Families, HostName,
    ask::{Asker, Outcome},
    host::{listed, parse_hosts},
    resolv::ResolvConf,
};

/// What a `hosts` and a `resolv.conf` stand for.
pub struct Once {
    asker: Asker,
    hosts: Hosts,
}

impl Once {
    /// Understands the two files. Without the second, as without nameservers in it, this machine is asked
    /// (resolv.conf(5)); without the first, nobody is listed.
    ///
    /// # Errors
    ///
    /// Says what cannot be set up.
    pub fn new(hosts: Option<&[u8]>, resolv_conf: Option<&[u8]>) -> Result<Self, String> {
        Ok(Self {
            asker: Asker::new(ResolvConf::parse(resolv_conf.unwrap_or_default()))?,
            hosts: hosts.map(parse_hosts).transpose()?.unwrap_or_default(),
        })
    }

    /// What nameservers say of a name, whatever `hosts` says: IPv6, then IPv4.
    pub async fn ask(&self, name: &HostName) -> (Outcome<Ipv6Addr>, Outcome<Ipv4Addr>) {
        let round = self.asker.ask(name, Families::Both).await;
        let aaaa = round.aaaa.unwrap_or(Outcome::Nothing {
            exists: true,
            ttl_secs: None,
        });
        (aaaa, round.a)
    }

    /// The addresses that `hosts` lists for a name: where there are any, programs ask nobody.
    #[must_use]
    pub fn listed(&self, name: &HostName) -> Vec<IpAddr> {
        let Some(round) = listed(&self.hosts, name, Families::Both) else {
            return Vec::new();
        };
        let mut addresses = Vec::new();
        if let Some(Outcome::Found { addresses: found, .. }) = round.aaaa {
            addresses.extend(found.into_iter().map(IpAddr::V6));
        }
        if let Outcome::Found { addresses: found, .. } = round.a {
            addresses.extend(found.into_iter().map(IpAddr::V4));
        }
        addresses
    }

    /// The names that an address leads back to: lower case, without their final dot.
    pub async fn ask_back(&self, address: IpAddr) -> Outcome<String> {
        self.asker.ask_back(address).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_name_has_the_addresses_of_both_families() {
        let once = Once::new(
            Some(b"192.0.2.1 web web.example\n2001:db8::1 web.example\n"),
            None,
        )
        .unwrap();
        let expected: [IpAddr; 2] = ["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        assert_eq!(once.listed(&"web.example".parse().unwrap()), expected);
        assert_eq!(once.listed(&"db.example".parse().unwrap()), [] as [IpAddr; 0]);
    }
}
