//! What a `resolv.conf` says: whom to ask, and which names to try. Reads no file.

use std::{net::IpAddr, time::Duration};

use resolv_conf::{Config, ScopedIp};

use super::HostName;

/// `MAXNS` of `resolv.h`, in glibc and musl: nameservers beyond the third are not asked.
const MAX_NAMESERVERS: usize = 3;

/// Search domains that are tried. `MAXDNSRCH` of older C libraries; newer ones have no limit, and enforcer needs one.
const MAX_SEARCH: usize = 6;

/// The longest time one nameserver is given, whatever the file says.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How a name becomes questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// Whom to ask, in order.
    pub(super) nameservers: Vec<IpAddr>,
    /// How long each is given to answer.
    pub(super) timeout: Duration,
    /// Whether to say that long answers are welcome (RFC 6891).
    pub(super) edns: bool,
    search: Vec<HostName>,
    /// A name without a dot is first tried as it is.
    bare_first: bool,
}

impl ResolvConf {
    /// Understands the text of a file. Lines that make no sense are skipped, as the C library does (resolv.conf(5)),
    /// and link-local nameservers, which have a zone.
    pub(super) fn parse(text: &[u8]) -> Self {
        let (config, _lines_not_understood) = Config::parse_with_errors(text);
        let search = config
            .get_last_search_or_domain()
            .filter_map(|domain| domain.parse().ok())
            .take(MAX_SEARCH)
            .collect();
        let mut nameservers: Vec<_> = config
            .nameservers
            .iter()
            .filter_map(|nameserver| match nameserver {
                ScopedIp::V4(address) => Some((*address).into()),
                ScopedIp::V6(address, None) => Some((*address).into()),
                ScopedIp::V6(_, Some(_)) => None,
            })
            .take(MAX_NAMESERVERS)
            .collect();
        if config.nameservers.is_empty() {
            // "If no nameserver entries are present, the default is to use the name server on the local machine."
            nameservers.push(std::net::Ipv4Addr::LOCALHOST.into());
        }
        Self {
            nameservers,
            timeout: Duration::from_secs(config.timeout.into())
                .clamp(Duration::from_secs(1), LONGEST_TIMEOUT),
            edns: config.edns0,
            search,
            bare_first: config.ndots == 0,
        }
    }

    /// The complete names to try for a name, in order, each with its final dot.
    ///
    /// One with a dot is complete, whatever `ndots` says: what a policy means must not depend on that. One without is
    /// looked for in the search domains, as programs do.
    pub(super) fn candidates(&self, name: &HostName) -> Vec<String> {
        let bare = format!("{name}.");
        if name.is_complete() {
            return vec![bare];
        }
        let mut candidates: Vec<_> = self
            .search
            .iter()
            .map(|domain| format!("{name}.{domain}."))
            .collect();
        candidates.insert(if self.bare_first { 0 } else { candidates.len() }, bare);
        candidates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(text: &str, name: &str) -> Vec<String> {
        ResolvConf::parse(text.as_bytes()).candidates(&name.parse().unwrap())
    }

    #[test]
    fn the_first_three_nameservers_that_can_be_asked() {
        let conf = ResolvConf::parse(
            b"# by hand\nnameserver fe80::1%eth0\nnameserver 192.0.2.1\nnonsense here\nnameserver 2001:db8::53\n\
              nameserver nowhere\nnameserver 192.0.2.2\nnameserver 192.0.2.3\noptions timeout:90 edns0\n\xff\xfe\n",
        );
        let expected: Vec<IpAddr> = ["192.0.2.1", "2001:db8::53", "192.0.2.2"]
            .map(|address| address.parse().unwrap())
            .into();
        assert_eq!(conf.nameservers, expected);
        assert_eq!(conf.timeout, LONGEST_TIMEOUT);
        assert!(conf.edns);
    }

    #[test]
    fn without_nameservers_this_machine_is_asked_and_with_link_local_ones_alone_nobody() {
        let localhost: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap()];
        assert_eq!(ResolvConf::parse(b"").nameservers, localhost);
        assert_eq!(
            ResolvConf::parse(b"nameserver fe80::1%eth0\n").nameservers,
            [] as [IpAddr; 0]
        );
    }

    #[test]
    fn a_name_with_a_dot_is_complete_whatever_ndots_says() {
        let text = "search a.example b.example\noptions ndots:5\n";
        assert_eq!(candidates(text, "db.example.com"), ["db.example.com."]);
        assert_eq!(candidates(text, "db."), ["db."]);
    }

    #[test]
    fn a_name_without_a_dot_is_searched_for_as_programs_do() {
        let text = "search a.example b.example.\n";
        assert_eq!(candidates(text, "db"), ["db.a.example.", "db.b.example.", "db."]);
        // As in containers of Docker's, whose nameserver knows the names of a network's containers.
        let text = "search a.example\noptions ndots:0\n";
        assert_eq!(candidates(text, "db"), ["db.", "db.a.example."]);
        let many: String = (0..20).map(|number| format!(" d{number}.example")).collect();
        assert_eq!(candidates(&format!("search{many}\n"), "db").len(), MAX_SEARCH + 1);
    }
}
