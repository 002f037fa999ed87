//! The small values a rule is written with: prefixes, ports, users, errnos, names. Where a redirect goes is in
//! `destination`, and when a rule ends in `when`.
//!
//! One parser for each, used by policy files, prefix lists and the command line alike, so that the same
//! mistake is answered with the same words everywhere.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
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

/// The longest reason of a rule, in bytes.
pub(super) const MAX_REASON_BYTES: usize = 512;

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
        .label("no length of an IPv6 prefix")
        .hint("the length is a number from 0 to 128: a provider has a /32 often, a site a /48; a single address needs none")
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

/// Ports: `443` or `8000-8999`.
pub(super) fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, Problem> {
    parse_range(text, "port", "443", "8000-8999", port)
}

/// A port given as a number.
pub(super) fn port_number(number: i64) -> Result<RangeInclusive<u16>, Problem> {
    port(number, &number.to_string()).map(|port| port..=port)
}

fn port(number: i64, text: &str) -> Result<u16, Problem> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| {
            Problem::new(format!("{} is not a port", quote(text)))
                .label("not a port")
                .hint("ports are 1 to 65535; a rule without ports is for all of them")
        })
}

/// Users: `1000` or `1000-1999`.
pub(super) fn parse_uids(text: &str) -> Result<RangeInclusive<u32>, Problem> {
    parse_range(text, "user's number", "1000", "1000-1999", uid).map_err(|problem| {
        let is_user = |first: char| first.is_ascii_alphabetic() || first == '_';
        if text.starts_with(is_user) && check_name(text, "user").is_ok() {
            return problem.hint(format!("users are written by number, which `id -u {text}` shows"));
        }
        problem
    })
}

/// A user given as a number.
pub(super) fn uid_number(number: i64) -> Result<RangeInclusive<u32>, Problem> {
    uid(number, &number.to_string()).map(|uid| uid..=uid)
}

fn uid(number: i64, text: &str) -> Result<u32, Problem> {
    // The largest number means "no user" to the kernel (`INVALID_UID`, `include/linux/uidgid.h`).
    u32::try_from(number)
        .ok()
        .filter(|uid| *uid != u32::MAX)
        .ok_or_else(|| {
            Problem::new(format!("{} is not a user's number", quote(text)))
                .label("not a user")
                .hint("users are 0 to 4294967294, as this host numbers them; a rule without `uid` is for all of them")
        })
}

/// A number, or two with a hyphen between them.
fn parse_range<N: Copy + PartialOrd + fmt::Display>(
    text: &str,
    what: &str,
    one: &str,
    several: &str,
    check: impl Fn(i64, &str) -> Result<N, Problem>,
) -> Result<RangeInclusive<N>, Problem> {
    let number = |digits: &str| {
        // `parse` would also take a sign.
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(
                Problem::new(format!("{} is not a {what}", quote(text))).hint(format!(
                    "write a {what} such as `{one}`, or a range such as `{several}`"
                )),
            );
        }
        check(digits.parse().unwrap_or(i64::MAX), text)
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last {
        let kind = if what == "port" {
            "port range"
        } else {
            "range of users"
        };
        return Err(Problem::new(format!("the {kind} {} is empty", quote(text)))
            .hint(format!("did you mean `{last}-{first}`?")));
    }
    Ok(first..=last)
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

/// Why a rule is there, in a line of text.
pub(super) fn check_reason(text: &str) -> Result<(), Problem> {
    if text.trim().is_empty() {
        return Err(Problem::new("the reason of a rule is empty").hint("leave the key out"));
    }
    if text.len() > MAX_REASON_BYTES {
        return Err(Problem::new(format!(
            "the reason of a rule is longer than {MAX_REASON_BYTES} bytes"
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(Problem::new("the reason of a rule has control characters").hint("write it in one line"));
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
