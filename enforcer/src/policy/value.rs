//! The small values a rule is written with: prefixes, addresses, ports, errnos, names.
//!
//! One parser for each, used by policy files, prefix lists and the command line alike, so that the same
//! mistake is answered with the same words everywhere.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    ops::RangeInclusive,
};

use enforcer_common::{
    address::EXEMPT_PREFIXES,
    errno::{self, Errno},
};
use ipnet::Ipv6Net;

use super::diagnostic::{Diagnostic, Place, Severity};

/// The longest name of a rule, target or group, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// The longest name of a container, in bytes. Engines have no limit of their own; identifiers have 64.
const MAX_CONTAINER_BYTES: usize = 256;

/// What is wrong with a value, before it is known where the value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) label: Option<String>,
    pub(super) hint: Option<String>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            label: None,
            hint: None,
        }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The problem at its place.
    pub(super) fn at(self, severity: Severity, place: Place) -> Diagnostic {
        Diagnostic {
            label: self.label,
            hint: self.hint,
            ..Diagnostic::new(severity, self.message, Some(place))
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        // A label points at the value in a file; on a command line it is the hint, unless there is a better one.
        match self.hint.as_ref().or(self.label.as_ref()) {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// A piece of a user's text inside a message: one short line, whatever it is.
pub(super) fn quote(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = text.chars().take(SHOWN).flat_map(escape).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

fn escape(character: char) -> impl Iterator<Item = char> {
    let plain = (!character.is_control()).then_some(character);
    let escaped = plain.is_none().then(|| character.escape_default());
    plain.into_iter().chain(escaped.into_iter().flatten())
}

/// The known name that was probably meant: some letters apart, or cut short, or too long.
pub(super) fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Letters that say enough to be taken for a beginning.
    const BEGINNING: usize = 3;
    let text = text.to_lowercase();
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&text, &name.to_lowercase()), name))
        .filter(|(distance, name)| {
            let name = name.to_lowercase();
            let begins = |long: &str, short: &str| short.len() >= BEGINNING && long.starts_with(short);
            *distance <= name.chars().count().max(3) / 3 || begins(&name, &text) || begins(&text, &name)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// "did you mean", or else all there are.
pub(super) fn suggest(text: &str, names: &[&str]) -> String {
    match nearest(text, names.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("there are `{}`", names.join("`, `")),
    }
}

/// A prefix: `2001:db8::/32`, a bare address (its /128), or `internet` (`2000::/3`).
pub(super) fn parse_prefix(text: &str) -> Result<Ipv6Net, Problem> {
    const INTERNET: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0);
    if text == "internet" {
        return net(INTERNET, 3);
    }
    let (address_text, length_text) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: Ipv6Addr = address_text
        .parse()
        .map_err(|_| not_a_prefix(text, address_text))?;
    let length = match length_text {
        None => 128,
        // `parse` would also take a sign.
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
            .parse::<u8>()
            .ok()
            .filter(|length| *length <= 128)
            .ok_or_else(|| bad_length(text))?,
        Some(_) => return Err(bad_length(text)),
    };
    let written = net(address, length)?;
    let prefix = written.trunc();
    if written != prefix {
        let meant_address = if length_text.is_some() {
            format!("; or `{address}/128` for that one address")
        } else {
            String::new()
        };
        return Err(
            Problem::new(format!("{} has bits set after its prefix length", quote(text)))
                .label("not the first address of the prefix")
                .hint(format!(
                    "the prefix that contains it is `{prefix}`{meant_address}"
                )),
        );
    }
    let closed = EXEMPT_PREFIXES.iter().find(|exempt| {
        !exempt.rules_allowed
            && Ipv6Net::new(exempt.octets.into(), exempt.prefix_len)
                .is_ok_and(|exempt| exempt.contains(&prefix))
    });
    match closed {
        None => Ok(prefix),
        Some(exempt) => Err(Problem::new(format!("{} is {}", quote(text), exempt.what))
            .label("no rule may name it")
            .hint(
                "IPv4 sockets would pass such a rule, so it would promise what it cannot keep; \
                 enforcer leaves IPv4 alone",
            )),
    }
}

fn net(address: Ipv6Addr, length: u8) -> Result<Ipv6Net, Problem> {
    Ipv6Net::new(address, length).map_err(|_| bad_length(&format!("{address}/{length}")))
}

fn bad_length(text: &str) -> Problem {
    Problem::new(format!("{} has no valid prefix length", quote(text)))
        .label("the length is a number from 0 to 128")
}

fn not_a_prefix(text: &str, address: &str) -> Problem {
    if address.parse::<Ipv4Addr>().is_ok() {
        return Problem::new(format!("{} is IPv4", quote(text)))
            .label("not an IPv6 prefix")
            .hint("enforcer decides IPv6 connects only; IPv4 ones always go on");
    }
    let problem = Problem::new(format!("{} is not an IPv6 prefix", quote(text)));
    if text.is_empty() {
        return problem.hint("write a prefix such as `2001:db8::/32`, or `internet` for 2000::/3");
    }
    let bare = address.trim().trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<Ipv6Addr>() {
        Ok(_) if address.contains(['[', ']']) => problem.hint("leave the brackets out"),
        Ok(_) => problem.hint("leave the spaces out"),
        Err(_) if address.contains('%') => {
            problem.hint("leave the zone (`%…`) out: the kernel's hook does not see it")
        }
        Err(_) => match nearest(text, ["internet"]) {
            Some(name) => problem.hint(format!("did you mean `{name}`?")),
            None => problem.hint("write a prefix such as `2001:db8::/32`, or `internet` for 2000::/3"),
        },
    }
}

/// Where a redirect goes: IPv4 or IPv6, with an optional port. IPv6 with a port stands in brackets. IPv4
/// comes back IPv4-mapped, a port that is not given as 0.
pub(super) fn parse_redirect_to(text: &str) -> Result<SocketAddrV6, Problem> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let (ip, port) = if let Ok(ip) = text.parse::<IpAddr>() {
        (ip, 0)
    } else if let Some(Ok(ip)) = bracketed.map(str::parse::<Ipv6Addr>) {
        (ip.into(), 0)
    } else if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err(Problem::new(format!("{} has port 0", quote(text)))
                .hint("leave the port out to keep the one that was asked for"));
        }
        (address.ip(), address.port())
    } else {
        return Err(
            Problem::new(format!("{} is not an address to redirect to", quote(text))).hint(
                "write `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1` or `[2001:db8::1]:443`; names are not looked up",
            ),
        );
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

/// Ports: `443` or `8000-8999`.
pub(super) fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, Problem> {
    let number = |digits: &str| {
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Problem::new(format!("{} is not a port", quote(text)))
                .hint("write a port such as `443`, or a range such as `8000-8999`"));
        }
        port(digits.parse().unwrap_or(i64::MAX), text)
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last {
        return Err(Problem::new(format!("the port range {} is empty", quote(text)))
            .hint(format!("did you mean `{last}-{first}`?")));
    }
    Ok(first..=last)
}

/// A port given as a number.
pub(super) fn port_number(number: i64) -> Result<RangeInclusive<u16>, Problem> {
    port(number, &number.to_string()).map(|port| port..=port)
}

fn port(number: i64, text: &str) -> Result<u16, Problem> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Problem::new(format!("{} is not a port", quote(text))).label("ports are 1 to 65535"))
}

/// An errno by name.
pub(super) fn parse_errno(text: &str) -> Result<Errno, Problem> {
    if let Some(errno) = errno::by_name(text) {
        return Ok(errno);
    }
    let problem = Problem::new(format!("{} is not an errno that a rule can choose", quote(text)));
    let by_number = text.parse().ok().and_then(errno::by_number);
    Err(match by_number {
        Some(errno) => problem.hint(format!("errnos are written by name: `{}`", errno.name)),
        None => problem.hint(suggest(text, &errno::CHOICES.map(|errno| errno.name))),
    })
}

/// A name that can stand in a line of text.
pub(super) fn check_name(text: &str, what: &str) -> Result<(), Problem> {
    if text.trim().is_empty() {
        return Err(Problem::new(format!("the name of a {what} is empty")));
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(Problem::new(format!(
            "the name {} is longer than {MAX_NAME_BYTES} bytes",
            quote(text)
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(Problem::new(format!(
            "the name {} has control characters",
            quote(text)
        )));
    }
    Ok(())
}

/// A container's name or identifier as engines accept it: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`
/// (`RestrictedNameChars` in Docker's daemon/names, `NameRegex` in Podman's libpod/define).
pub(super) fn check_container(text: &str) -> Result<(), Problem> {
    let is_name = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-'))
            && text.len() <= MAX_CONTAINER_BYTES
    };
    if is_name(text) {
        return Ok(());
    }
    let problem = Problem::new(format!(
        "{} is not the name or identifier of a container",
        quote(text)
    ));
    Err(match text.strip_prefix('/').filter(|rest| is_name(rest)) {
        Some(rest) => problem.hint(format!("did you mean `{rest}`?")),
        None => problem.hint("write it as `docker ps` and `podman ps` show it"),
    })
}
