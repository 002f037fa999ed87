//! What becomes of connects to one address, told from what was measured. Pure.

use serde::Serialize;

use super::findings::{Address, End};

/// From when on a connect is slow where the kernel does not say how often it sent its SYN.
const SLOW_US: u64 = 900_000;

/// What becomes of connects to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// They succeed, and so does what follows.
    Works,
    /// The kernel makes no sockets of the family.
    NoSockets,
    /// There is no source address: the kernel ends them at once.
    NoAddress,
    /// There is no route, or one that leads nowhere: the kernel ends them at once.
    NoRoute,
    /// A program at this process's cgroup, or above, ends them at once.
    Denied,
    /// A packet filter of this host ends them at once.
    Filtered,
    /// A program redirects them to IPv4: the way that they take without it cannot be seen.
    Redirected,
    /// Nothing listens there.
    Refused,
    /// A router says that it has no route.
    RouterNoRoute,
    /// A router says that an administrator prohibits it.
    Prohibited,
    /// A router, or the last link, says that the address is not there.
    Unreachable,
    /// Nobody says anything.
    Silent,
    /// They succeed after packets were lost, each time.
    Slow,
    /// They succeed, and then nothing comes through.
    Stalls,
    /// They succeed, and packets as long as the way is believed to carry vanish.
    LosesLongPackets,
    /// They succeed, and whoever answers does not speak the protocol of the port.
    Stranger,
    /// They end with another error.
    Fails,
    /// It was not measured.
    Unknown,
}

impl Fate {
    /// Whether the kernel itself ends connects at once, as a reject would: then C libraries also list the address last.
    #[must_use]
    pub const fn is_at_once(self) -> bool {
        matches!(self, Self::NoAddress | Self::NoRoute | Self::NoSockets)
    }

    /// Whether it is this one port that is in the way: packets reach the host.
    #[must_use]
    pub const fn is_of_port(self) -> bool {
        matches!(self, Self::Refused | Self::Stranger)
    }
}

/// What becomes of connects to that address.
#[must_use]
pub fn fate(address: &Address, ipv6_sockets: bool) -> Fate {
    let is_ipv6 = address.address.is_ipv6();
    if is_ipv6 && !ipv6_sockets {
        return Fate::NoSockets;
    }
    if is_ipv6 && address.way.source.is_some_and(|source| source.is_ipv4()) {
        return Fate::Redirected;
    }
    // What the kernel says before it sends anything is its own doing, whatever a router might have said.
    if let Some(errno) = &address.way.errno {
        return match errno.as_str() {
            "EADDRNOTAVAIL" => Fate::NoAddress,
            "EAFNOSUPPORT" => Fate::NoSockets,
            "EPERM" => Fate::Denied,
            _ => Fate::NoRoute,
        };
    }
    let (Some(first), Some(last)) = (address.connects.first(), address.connects.last()) else {
        return Fate::Unknown;
    };
    // Two that end differently: what succeeds slowly now and then is still slow, and of errors the first counts.
    match (first.end, last.end) {
        (End::Done, End::Done) => after_connect(address),
        (End::Done, _) | (_, End::Done) => Fate::Slow,
        (End::Failed, _) => of_errno(first.errno.as_deref()),
        (_, End::Failed) => of_errno(last.errno.as_deref()),
        (End::Silent, End::Silent) => Fate::Silent,
        _ => Fate::Unknown,
    }
}

fn of_errno(errno: Option<&str>) -> Fate {
    match errno {
        Some("ECONNREFUSED") => Fate::Refused,
        Some("ENETUNREACH") => Fate::RouterNoRoute,
        Some("EHOSTUNREACH") => Fate::Unreachable,
        Some("EACCES") => Fate::Prohibited,
        Some("EPERM") => Fate::Filtered,
        Some("EADDRNOTAVAIL") => Fate::NoAddress,
        _ => Fate::Fails,
    }
}

/// Of an address to which all connects succeeded.
fn after_connect(address: &Address) -> Fate {
    match address.exchange.as_ref().map(|exchange| exchange.end) {
        Some(End::Silent) => return Fate::Stalls,
        Some(End::Failed) => return Fate::Stranger,
        _ => {}
    }
    // A single connect can lose a packet anywhere.
    let is_slow = address.connects.len() > 1
        && address
            .connects
            .iter()
            .all(|it| it.retransmits.map_or(it.time_us >= SLOW_US, |count| count > 0));
    if is_slow {
        return Fate::Slow;
    }
    // Data that came through, in both directions and in long packets, says more than an echo.
    let loses = address.exchange.is_none()
        && address
            .echo
            .as_ref()
            .and_then(|echo| echo.large.as_ref())
            .is_some_and(|large| large.end == End::Silent);
    if loses {
        Fate::LosesLongPackets
    } else {
        Fate::Works
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::findings::{Connect, Echo, Exchange, Large, Protocol, Way},
        *,
    };

    fn connect(end: End, errno: &str, retransmits: u32) -> Connect {
        Connect {
            end,
            errno: (!errno.is_empty()).then(|| errno.to_owned()),
            retransmits: (end == End::Done).then_some(retransmits),
            time_us: 1,
        }
    }

    fn address(connects: &[(End, &str, u32)]) -> Address {
        Address {
            address: "2001:db8::1".parse().unwrap(),
            way: Way {
                source: Some("2001:db8::2".parse().unwrap()),
                ..Way::default()
            },
            connects: connects.iter().map(|it| connect(it.0, it.1, it.2)).collect(),
            echo: None,
            exchange: None,
            reverse: None,
        }
    }

    #[test]
    fn connects_tell_what_is_the_matter() {
        use End::{Done, Failed, Silent};
        for (connects, expected) in [
            (&[(Done, "", 0)][..], Fate::Works),
            // One lost packet is no pattern.
            (&[(Done, "", 1), (Done, "", 0)], Fate::Works),
            (&[(Done, "", 2), (Done, "", 1)], Fate::Slow),
            (&[(Silent, "", 0), (Done, "", 0)], Fate::Slow),
            (&[(Silent, "", 0), (Silent, "", 0)], Fate::Silent),
            (&[(Silent, "ETIMEDOUT", 0), (Silent, "", 0)], Fate::Silent),
            (&[(Failed, "ECONNREFUSED", 0)], Fate::Refused),
            (
                &[(Failed, "ENETUNREACH", 0), (Failed, "ENETUNREACH", 0)],
                Fate::RouterNoRoute,
            ),
            (&[(Silent, "", 0), (Failed, "EACCES", 0)], Fate::Prohibited),
            (&[(Failed, "EHOSTUNREACH", 0)], Fate::Unreachable),
            (&[(Failed, "EPERM", 0)], Fate::Filtered),
            (&[(Failed, "EPROTO", 0)], Fate::Fails),
            (&[], Fate::Unknown),
        ] {
            assert_eq!(fate(&address(connects), true), expected, "{connects:?}");
        }
    }

    #[test]
    fn what_the_kernel_says_before_it_sends_comes_first() {
        for (errno, expected) in [
            ("ENETUNREACH", Fate::NoRoute),
            ("EINVAL", Fate::NoRoute),
            ("EADDRNOTAVAIL", Fate::NoAddress),
            ("EPERM", Fate::Denied),
        ] {
            let mut found = address(&[(End::Failed, errno, 0)]);
            found.way = Way {
                errno: Some(errno.to_owned()),
                ..Way::default()
            };
            assert_eq!(fate(&found, true), expected, "{errno}");
            assert_eq!(fate(&found, false), Fate::NoSockets);
        }
        let mut redirected = address(&[(End::Done, "", 0)]);
        redirected.way.source = Some("192.0.2.2".parse().unwrap());
        assert_eq!(fate(&redirected, true), Fate::Redirected);
    }

    #[test]
    fn data_says_more_than_an_echo() {
        let exchange = |end| Exchange {
            protocol: Protocol::Tls,
            end,
            detail: String::new(),
            time_us: 1,
        };
        let mut found = address(&[(End::Done, "", 0)]);
        found.echo = Some(Echo {
            end: End::Done,
            why: None,
            time_us: 1,
            large: Some(Large {
                octets: 1500,
                end: End::Silent,
                learned: None,
            }),
        });
        assert_eq!(fate(&found, true), Fate::LosesLongPackets);
        for (end, expected) in [
            (End::Done, Fate::Works),
            (End::Silent, Fate::Stalls),
            (End::Failed, Fate::Stranger),
        ] {
            found.exchange = Some(exchange(end));
            assert_eq!(fate(&found, true), expected);
        }
    }
}
