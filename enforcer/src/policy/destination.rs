//! Where a redirect goes, as it is written: an address, a prefix, `embedded`, or a name; and whether that fits the
//! prefixes that it is for. Looks nothing up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use enforcer_common::address::EXEMPT_PREFIXES;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    rule::{HostName, RedirectTo},
    value::{Problem, nearest, parse_ports, quote},
};

/// What is written for the IPv4 address inside the one asked for.
const EMBEDDED: &str = "embedded";

/// Prefix lengths that have a place for an IPv4 address (RFC 6052 section 2.2).
const EMBEDDING_LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

/// IPv4 addresses that are no way to reach anybody: unspecified, multicast, broadcast.
const NOWHERE: [(Ipv4Addr, u8, &str); 3] = [
    (Ipv4Addr::UNSPECIFIED, 32, "the unspecified address"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast addresses"),
    (Ipv4Addr::BROADCAST, 32, "the broadcast address"),
];

/// `to`: an address with an optional port, a prefix, or `embedded`. IPv6 with a port stands in brackets. IPv4 comes back
/// IPv4-mapped, a port that is not given as 0.
pub(super) fn parse_redirect_to(text: &str) -> Result<RedirectTo, Problem> {
    if text == EMBEDDED {
        return Ok(RedirectTo::Embedded);
    }
    if text.contains('/') {
        return parse_to_prefix(text).map(RedirectTo::Prefix);
    }
    parse_to_address(text).map(RedirectTo::Address)
}

/// `to_host`: a name with an optional port.
pub(super) fn parse_to_host(text: &str) -> Result<RedirectTo, Problem> {
    let (name, port) = match text.split_once(':') {
        // More colons are an IPv6 address.
        Some((name, port)) if !port.contains(':') => (name, Some(port)),
        _ => (text, None),
    };
    let name = parse_host(name)?;
    let port = match port {
        None => 0,
        Some(port) if port.contains('-') => {
            return Err(Problem::new(format!("{} has a range of ports", quote(text)))
                .hint("a redirect goes to one port, or keeps the one that was asked for"));
        }
        Some("0") => return Err(port_zero(text)),
        Some(port) => *parse_ports(port)?.start(),
    };
    Ok(RedirectTo::Host { name, port })
}

/// A name to look up.
pub(super) fn parse_host(text: &str) -> Result<HostName, Problem> {
    text.parse().map_err(|error: crate::names::HostNameError| {
        let subject = if text.is_empty() {
            "the name".to_owned()
        } else {
            quote(text)
        };
        let problem = Problem::new(format!("{subject} {error}")).label("not a name that can be looked up");
        match error.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    })
}

/// Says what is wrong if a destination cannot be that of all those prefixes.
pub(super) fn check_fit(to: &RedirectTo, written: &str, prefixes: &[Ipv6Net]) -> Result<(), Problem> {
    match to {
        RedirectTo::Prefix(to) => check_width(*to, written, prefixes),
        RedirectTo::Embedded => check_embedded(prefixes),
        RedirectTo::Address(_) | RedirectTo::Host { .. } | RedirectTo::Twin => Ok(()),
    }
}

fn check_width(to: Ipv6Net, written: &str, prefixes: &[Ipv6Net]) -> Result<(), Problem> {
    let mut unfit = prefixes
        .iter()
        .filter(|prefix| prefix.prefix_len() != to.prefix_len());
    let Some(first) = unfit.next() else {
        return Ok(());
    };
    let host_bits = |prefix: &Ipv6Net| 128 - prefix.prefix_len();
    let message = format!(
        "{} has {} and `{first}`{} has {}",
        quote(written),
        bits(host_bits(&to)),
        and_more(unfit.count()),
        bits(host_bits(first)),
    );
    let fitting = first.prefix_len().checked_sub(96);
    let change = match (to.network().to_ipv4_mapped(), fitting) {
        (None, _) => format!("a `to` of length /{} fits `{first}`", first.prefix_len()),
        (Some(_), Some(length)) => format!("a `to` of length /{length} fits `{first}`"),
        (Some(_), None) => format!("no IPv4 prefix is as wide as `{first}`"),
    };
    Err(Problem::new(message)
        .label("the bits after the prefix length are kept, so there must be as many")
        .hint(format!(
            "{change}, a prefix of length /{} fits {}",
            to.prefix_len(),
            quote(written)
        )))
}

fn check_embedded(prefixes: &[Ipv6Net]) -> Result<(), Problem> {
    let mut unfit = prefixes
        .iter()
        .filter(|prefix| !EMBEDDING_LENGTHS.contains(&prefix.prefix_len()));
    let Some(first) = unfit.next() else {
        return Ok(());
    };
    Err(Problem::new(format!(
        "there is no IPv4 address inside addresses of `{first}`{}",
        and_more(unfit.count())
    ))
    .label("the prefix length says where it is")
    .hint("lengths with a place for it are 32, 40, 48, 56, 64 and 96 (RFC 6052)"))
}

fn bits(count: u8) -> String {
    match count {
        1 => "1 host bit".to_owned(),
        count => format!("{count} host bits"),
    }
}

fn and_more(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => ", like one more prefix,".to_owned(),
        count => format!(", like {count} more prefixes,"),
    }
}

fn port_zero(text: &str) -> Problem {
    Problem::new(format!("{} has port 0", quote(text)))
        .hint("leave the port out to keep the one that was asked for")
}

fn parse_to_prefix(text: &str) -> Result<Ipv6Net, Problem> {
    let written: IpNet = text.parse().map_err(|_| {
        Problem::new(format!("{} is not a prefix to redirect to", quote(text)))
            .hint("write `198.51.100.0/24` or `2001:db8:1::/48`; such a redirect keeps the port")
    })?;
    if written != written.trunc() {
        return Err(
            Problem::new(format!("{} has bits set after its prefix length", quote(text)))
                .label("not the first address of the prefix")
                .hint(format!("the prefix that contains it is `{}`", written.trunc())),
        );
    }
    let mapped = |net: Ipv4Net| Ipv6Net::new(net.addr().to_ipv6_mapped(), 96 + net.prefix_len()).ok();
    let (prefix, ipv4) = match written {
        IpNet::V4(net) => (mapped(net), Some(net)),
        IpNet::V6(net) => {
            let ipv4 = net
                .addr()
                .to_ipv4_mapped()
                .zip(net.prefix_len().checked_sub(96))
                .and_then(|(addr, length)| Ipv4Net::new(addr, length).ok());
            (Some(net), ipv4)
        }
    };
    if let Some(problem) = prefix.and_then(|prefix| unreachable_part(text, prefix, ipv4)) {
        return Err(problem);
    }
    prefix.ok_or_else(|| Problem::new(format!("{} has no valid prefix length", quote(text))))
}

/// What is wrong with a prefix to which something would be sent that has no reachable address, or none that this host
/// would look for on the network.
fn unreachable_part(text: &str, prefix: Ipv6Net, ipv4: Option<Ipv4Net>) -> Option<Problem> {
    let problem = |what: &str| {
        Problem::new(format!("{} has {what} in it", quote(text))).label("nothing can be reached there")
    };
    if let Some(ipv4) = ipv4 {
        let (.., what) = NOWHERE.into_iter().find(|(addr, length, _)| {
            Ipv4Net::new(*addr, *length)
                .is_ok_and(|nowhere| ipv4.contains(&nowhere) || nowhere.contains(&ipv4))
        })?;
        let problem = problem(what);
        return Some(if ipv4.prefix_len() == 0 {
            problem.hint("write `to = \"embedded\"` for the IPv4 address inside")
        } else {
            problem
        });
    }
    let exempt = EXEMPT_PREFIXES.iter().find(|exempt| {
        Ipv6Net::new(exempt.octets.into(), exempt.prefix_len)
            .is_ok_and(|exempt| exempt.contains(&prefix) || prefix.contains(&exempt))
    })?;
    // To the loopback address itself one may redirect.
    let is_loopback = prefix.prefix_len() == 128 && prefix.network().is_loopback();
    (!is_loopback).then(|| problem(exempt.what))
}

/// An address, IPv4 or IPv6, with an optional port.
fn parse_to_address(text: &str) -> Result<SocketAddrV6, Problem> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let (ip, port) = if let Ok(ip) = text.parse::<IpAddr>() {
        (ip, 0)
    } else if let Some(Ok(ip)) = bracketed.map(str::parse::<Ipv6Addr>) {
        (ip.into(), 0)
    } else if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err(port_zero(text));
        }
        (address.ip(), address.port())
    } else {
        return Err(not_an_address(text));
    };
    let problem = match ip.to_canonical() {
        ip if ip.is_unspecified() => Some("the unspecified address"),
        ip if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("the broadcast address"),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            Some("a link-local address, which means nothing without an interface")
        }
        _ => None,
    };
    if let Some(what) = problem {
        return Err(Problem::new(format!("{} is {what}", quote(text))).label("nothing can be reached there"));
    }
    let ip = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    Ok(SocketAddrV6::new(ip, port, 0, 0))
}

fn not_an_address(text: &str) -> Problem {
    let problem = Problem::new(format!("{} is not an address to redirect to", quote(text)));
    if let Some(near) = nearest(text, [EMBEDDED]) {
        return problem.hint(format!("did you mean `{near}`?"));
    }
    match parse_to_host(text) {
        Ok(_) if text.contains('.') => problem.hint(format!(
            "names are not looked up here: a rule of a policy file says `to_host = \"{text}\"`"
        )),
        _ => problem.hint(
            "write `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1`, `[2001:db8::1]:443`, a prefix such as \
             `198.51.100.0/24`, or `embedded`; names are not looked up here",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Ipv6Net> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn each_form_of_a_destination_is_understood() {
        for (text, expected) in [
            ("embedded", "the IPv4 address inside"),
            ("198.51.100.0/24", "198.51.100.0/24"),
            ("::ffff:198.51.100.0/120", "198.51.100.0/24"),
            ("2001:db8:1::/48", "2001:db8:1::/48"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("::1/128", "::1/128"),
        ] {
            assert_eq!(parse_redirect_to(text).unwrap().to_string(), expected);
        }
        assert_eq!(
            parse_redirect_to("198.51.100.0/24"),
            parse_redirect_to("::ffff:198.51.100.0/120")
        );
        for (text, expected) in [
            ("Db.Example.com", "db.example.com"),
            ("db.example.com.:6543", "db.example.com:6543"),
        ] {
            assert_eq!(parse_to_host(text).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn prefixes_where_nothing_can_be_reached_are_refused() {
        for (text, expected) in [
            ("224.0.0.0/4", "`224.0.0.0/4` has multicast addresses in it"),
            ("225.1.0.0/16", "multicast addresses"),
            ("240.0.0.0/4", "the broadcast address"),
            ("0.0.0.0/8", "the unspecified address"),
            ("0.0.0.0/0", "`to = \"embedded\"`"),
            ("ff02::/16", "multicast"),
            ("fe80::/64", "link-local"),
            ("::/64", "in it"),
            ("::/128", "unspecified"),
            ("::/0", "in it"),
            ("::ffff:0:0/90", "bits set after"),
            (
                "198.51.100.1/24",
                "the prefix that contains it is `198.51.100.0/24`",
            ),
            ("198.51.100.0/33", "is not a prefix to redirect to"),
            ("198.51.100.0/24:80", "such a redirect keeps the port"),
            ("db.example.com:6543", "`to_host = \"db.example.com:6543\"`"),
            ("embeded", "did you mean `embedded`?"),
        ] {
            let said = parse_redirect_to(text).unwrap_err().to_string();
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn names_that_cannot_be_looked_up_are_refused() {
        for (text, expected) in [
            ("", "the name is empty"),
            ("192.0.2.1", "`192.0.2.1` is an address, not a name"),
            ("192.0.2.1:80", "`192.0.2.1` is an address, not a name"),
            ("2001:db8::1", "`2001:db8::1` is an address, not a name"),
            ("db.example.com:", "is not a port"),
            ("db.example.com:0", "has port 0"),
            ("db.example.com:1-2", "has a range of ports"),
            ("*.example.com", "contains '*'"),
        ] {
            let said = parse_to_host(text).unwrap_err().to_string();
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn widths_that_do_not_fit_are_named_with_those_that_do() {
        for (to, from, expected) in [
            (
                "198.51.100.0/24",
                &["2001:db8::/120", "2001:db8:1::/120"][..],
                None,
            ),
            ("2001:db8:1::/48", &["2001:db8:2::/48"], None),
            (
                "198.51.100.0/24",
                &["2001:db8::/64"],
                Some(
                    "`198.51.100.0/24` has 8 host bits and `2001:db8::/64` has 64 host bits\n  hint: no IPv4 prefix \
                     is as wide as `2001:db8::/64`, a prefix of length /120 fits `198.51.100.0/24`",
                ),
            ),
            (
                "198.51.100.0/24",
                &["2001:db8::/116", "2001:db8:1::/120", "2001:db8:2::/112"],
                Some(
                    "`198.51.100.0/24` has 8 host bits and `2001:db8::/116`, like one more prefix, has 12 host bits\n  \
                     hint: a `to` of length /20 fits `2001:db8::/116`, a prefix of length /120 fits",
                ),
            ),
            (
                "2001:db8:1::/127",
                &["2001:db8:2::/48"],
                Some("`2001:db8:1::/127` has 1 host bit and `2001:db8:2::/48` has 80 host bits"),
            ),
            ("embedded", &["64:ff9b::/96", "2001:db8::/32"], None),
            (
                "embedded",
                &["64:ff9b::/96", "2001:db8::/33"],
                Some("there is no IPv4 address inside addresses of `2001:db8::/33`\n  hint: lengths with"),
            ),
        ] {
            let parsed = parse_redirect_to(to).unwrap();
            let fit = check_fit(&parsed, to, &prefixes(from));
            match (fit, expected) {
                (Ok(()), None) => {}
                (Err(problem), Some(expected)) => {
                    let said = problem.to_string();
                    assert!(said.contains(expected), "{to}: {said}");
                }
                (fit, expected) => panic!("{to}: {fit:?} instead of {expected:?}"),
            }
        }
    }
}
