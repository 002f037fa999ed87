//! The IPv6 of this process's network namespace, as far as it can be seen without sending a packet.

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use enforcer_common::errno;

use super::report::{Item, Level};
use crate::surroundings::{self, Nat64, Surroundings, gather};

const CONF: &str = "/proc/sys/net/ipv6/conf";
const DISABLE: &str = "/sys/module/ipv6/parameters/disable";
const ROUTES: &str = "/proc/self/net/ipv6_route";

/// Where the way to is asked for. Any public address would do; this one Chromium asks too.
const DESTINATION: Ipv6Addr = Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888);

/// DNS's: no packet is sent to it.
const PORT: u16 = 53;

/// How long the resolver may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(3);

/// Kinds of addresses by which hosts can be reached over links: `2000::/3` is the public Internet.
fn is_public(addr: Ipv6Addr) -> bool {
    addr.segments()[0] & 0xe000 == 0x2000
}

pub(super) async fn examine(lookup: bool) -> Vec<Item> {
    if let Err(error) = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
        && error.raw_os_error() == Some(libc::EAFNOSUPPORT)
    {
        return vec![no_sockets()];
    }
    let found = gather(&surroundings::Options {
        nat64_limit: if lookup { LOOKUP_LIMIT } else { Duration::ZERO },
        ..surroundings::Options::default()
    })
    .await;
    let mut items = vec![
        switches(),
        addresses(&found),
        default_route(),
        way_out(),
        evidence(&found),
    ];
    items.extend([nameservers(&found), nat64(&found, lookup)]);
    items.extend(
        found
            .unavailable
            .iter()
            .map(|it| Item::unknown("ipv6-source", "looking at the network", it)),
    );
    items
}

/// No process of this host has an AF_INET6 socket.
fn no_sockets() -> Item {
    let booted = fs::read_to_string(DISABLE).is_ok_and(|text| text.trim() == "1");
    let state = if booted {
        "switched off: the kernel was booted with ipv6.disable=1"
    } else {
        "this kernel makes no IPv6 sockets"
    };
    Item::new("ipv6", "IPv6", Level::Limits, state)
        .follows(
            "the programs never run: applications cannot make IPv6 sockets, so there is nothing to reject, and nothing \
             to redirect to IPv4",
        )
        .hint(Some(
            "net.ipv6.conf.all.disable_ipv6=1 instead leaves the sockets, and a redirect can help them",
        ))
}

fn switches() -> Item {
    const NAME: &str = "disable_ipv6";
    let entries = match fs::read_dir(CONF) {
        Ok(entries) => entries,
        Err(error) => return Item::unknown("ipv6-disabled", NAME, format!("cannot list {CONF}: {error}")),
    };
    let mut off: Vec<String> = entries
        .flatten()
        .filter(|entry| {
            fs::read_to_string(entry.path().join("disable_ipv6")).is_ok_and(|text| text.trim() != "0")
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    off.sort();
    if off.is_empty() {
        return Item::new("ipv6-disabled", NAME, Level::Ok, "0 everywhere").list("interfaces", off);
    }
    Item::new("ipv6-disabled", NAME, Level::Note, format!("1 for {}", off.join(", ")))
        .follows(
            "those have no IPv6 addresses; where nothing else has one either, the kernel itself ends connects at once, \
             and a reject changes nothing; a redirect to IPv4 works all the same",
        )
        .list("interfaces", off)
}

fn addresses(found: &Surroundings) -> Item {
    const NAME: &str = "public IPv6 addresses";
    let all = found.namespaces.iter().flat_map(|namespace| &namespace.addrs);
    let (public, other): (Vec<_>, Vec<_>) = all.partition(|it| is_public(it.addr()));
    let shown: Vec<_> = public
        .iter()
        .map(|it| format!("{} ({})", it.net, it.interface))
        .collect();
    let others = other.len() as u64;
    let item = if shown.is_empty() {
        Item::new(
            "ipv6-addresses",
            NAME,
            Level::Note,
            format!("none ({others} local ones)"),
        )
    } else {
        Item::new("ipv6-addresses", NAME, Level::Ok, shown.join(", "))
    };
    item.list("public", public.iter().map(|it| it.addr().to_string()).collect())
        .number("other", others)
}

fn default_route() -> Item {
    const NAME: &str = "IPv6 default route";
    let text = match fs::read_to_string(ROUTES) {
        Ok(text) => text,
        Err(error) => {
            return Item::unknown(
                "ipv6-default-route",
                NAME,
                format!("cannot read {ROUTES}: {error}"),
            );
        }
    };
    let devices = default_routes(&text);
    if devices.is_empty() {
        return Item::new("ipv6-default-route", NAME, Level::Note, "none")
            .follows("connects to what has no other route end in ENETUNREACH at once: a reject changes nothing there")
            .list("interfaces", devices);
    }
    Item::new(
        "ipv6-default-route",
        NAME,
        Level::Ok,
        format!("by {}", devices.join(", ")),
    )
    .list("interfaces", devices)
}

/// The devices of default routes that lead somewhere, from lines of `rt6_seq_show` (net/ipv6/route.c): destination and
/// its length, source and its length, next hop, metric, reference count, use, flags, all hexadecimal, and the device.
fn default_routes(text: &str) -> Vec<String> {
    const RTF_REJECT: u32 = 0x0200;
    let mut devices: Vec<String> = text
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let [destination, length, _, _, _, _, _, _, flags, device] = fields.as_slice() else {
                return None;
            };
            let is_default = *length == "00" && destination.bytes().all(|digit| digit == b'0');
            let flags = u32::from_str_radix(flags, 16).ok()?;
            (is_default && flags & RTF_REJECT == 0 && *device != "lo").then(|| (*device).to_owned())
        })
        .collect();
    devices.sort();
    devices.dedup();
    devices
}

/// A UDP socket's connect finds a route and a source address, and sends nothing.
fn way_out() -> Item {
    const NAME: &str = "way to the public Internet";
    let tried = format!("a UDP socket connected to {DESTINATION}; nothing was sent");
    let connected = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((DESTINATION, PORT))?;
        socket.local_addr()
    });
    // An AF_INET6 socket that is connected to an IPv4 address has a source in ::ffff:0:0/96.
    match connected.map(|from| from.ip().to_canonical()) {
        Ok(IpAddr::V4(from)) => Item::new(
            "ipv6-way",
            NAME,
            Level::Note,
            format!("redirected to IPv4, from {from} ({tried})"),
        )
        .follows(
            "a program at this process's cgroup, or at one above it, redirects it; the way that IPv6 takes without it \
             cannot be seen from here",
        )
        .text("source", from.to_string()),
        Ok(IpAddr::V6(from)) => {
            let (from, public) = (from.to_string(), is_public(from));
            let (kind, follows) = if public {
                (
                    "a source address",
                    "whether packets come back was not tested: if they do not, this is the case in which a reject \
                     helps; if they do, enforcer must not be used against it",
                )
            } else {
                (
                    "a source address that is not public",
                    "connects are tried; unless something translates the address, no answer finds the way back, and this \
                     is the case in which a reject helps. That was not tested",
                )
            };
            Item::new(
                "ipv6-way",
                NAME,
                if public { Level::Ok } else { Level::Note },
                format!("a route and {kind}, {from} ({tried})"),
            )
            .follows(follows)
            .text("source", from)
        }
        Err(error) => {
            let said = name_of(&error);
            Item::new("ipv6-way", NAME, Level::Note, format!("{said} ({tried})"))
                .follows(
                    "connects end at once, by the kernel or by a program at this process's cgroup: a reject changes \
                     nothing, a redirect helps what has only an IPv6 address to go to",
                )
                .text("errno", said)
        }
    }
}

fn name_of(error: &io::Error) -> String {
    error
        .raw_os_error()
        .and_then(|number| u16::try_from(number).ok())
        .and_then(errno::by_number)
        .map_or_else(|| error.to_string(), |errno| errno.name.to_owned())
}

fn evidence(found: &Surroundings) -> Item {
    const NAME: &str = "evidence that IPv6 works";
    let peers: Vec<_> = found
        .namespaces
        .iter()
        .flat_map(|namespace| &namespace.peers)
        .filter(|peer| is_public(**peer))
        .map(ToString::to_string)
        .collect();
    if peers.is_empty() {
        return Item::new(
            "ipv6-peers",
            NAME,
            Level::Ok,
            "none: no TCP connection to a public address is established now",
        )
        .follows("that is no evidence of the contrary")
        .list("peers", peers);
    }
    Item::new(
        "ipv6-peers",
        NAME,
        Level::Note,
        format!(
            "{} TCP connections to public addresses are established now",
            peers.len()
        ),
    )
    .follows("IPv6 to those works; rejecting them would break what works")
    .list("peers", peers)
}

fn nameservers(found: &Surroundings) -> Item {
    let shown: Vec<_> = found.nameservers.iter().map(|it| it.addr.to_string()).collect();
    let state = if shown.is_empty() {
        "none".to_owned()
    } else {
        shown.join(", ")
    };
    let item = Item::new("ipv6-nameservers", "IPv6 nameservers", Level::Ok, state);
    if shown.is_empty() {
        item.list("nameservers", shown)
    } else {
        item.follows("a rule that covers them cuts off the resolution of names; `run` and `exec` warn of it")
            .list("nameservers", shown)
    }
}

fn nat64(found: &Surroundings, lookup: bool) -> Item {
    const NAME: &str = "NAT64 prefix";
    match &found.nat64 {
        Nat64::Found(prefixes) => {
            let prefixes: Vec<_> = prefixes.iter().map(ToString::to_string).collect();
            Item::new("nat64", NAME, Level::Note, prefixes.join(", "))
                .follows(
                    "the way to IPv4 on this network: a rule must not cover it; a redirect can lead there",
                )
                .list("prefixes", prefixes)
        }
        Nat64::Absent => Item::new(
            "nat64",
            NAME,
            Level::Ok,
            "none: the resolver makes up no addresses",
        ),
        Nat64::Unknown if lookup => Item::unknown("nat64", NAME, "the resolver did not answer"),
        Nat64::Unknown => Item::new(
            "nat64",
            NAME,
            Level::Ok,
            "not asked for: that sends a query to the resolver",
        )
        .hint(Some("--lookup asks")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_leads_somewhere() {
        let text = "\
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
20010db8000000000000000000000000 20 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth1
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 00000001 00000000 00000203     eth2
";
        assert_eq!(default_routes(text), ["eth0"]);
    }

    #[test]
    fn documentation_addresses_are_public_and_private_ones_are_not() {
        assert!(is_public("2001:db8::1".parse().unwrap()));
        assert!(!is_public("fd00::1".parse().unwrap()));
        assert!(!is_public("fe80::1".parse().unwrap()));
    }
}
