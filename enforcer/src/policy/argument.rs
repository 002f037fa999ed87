//! [`RuleArgument`]: a rule as written on the command line, `--reject 2001:db8::/32,port=443`.
//!
//! Knows the syntax and each value by itself; whether rules fit together is checked with the policy file's.

use std::{error, fmt, ops::RangeInclusive, time::Duration};

use enforcer_common::{clause::Proto, decide::Mode, errno::Errno};
use ipnet::Ipv6Net;

use super::{
    destination::{check_fit, parse_redirect_to},
    rule::{Expires, RedirectTo, RuleAction},
    value::{
        Problem, check_container, check_name, parse_errno, parse_ports, parse_prefix, parse_uids, quote,
        suggest,
    },
    when::parse_expires,
};

/// The options that take a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentKind {
    /// `--allow PREFIX`
    Allow,
    /// `--reject PREFIX`
    Reject,
    /// `--redirect PREFIX=ADDR`
    Redirect,
}

impl ArgumentKind {
    /// The option as written.
    #[must_use]
    pub const fn option(self) -> &'static str {
        match self {
            Self::Allow => "--allow",
            Self::Reject => "--reject",
            Self::Redirect => "--redirect",
        }
    }
}

/// A rule of the command line. It belongs to every group, and its order among the options never matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleArgument {
    /// Option and value as written.
    pub(super) spelling: String,
    pub(super) prefix: Ipv6Net,
    pub(super) action: RuleAction,
    /// Absent: the policy's default.
    pub(super) errno: Option<Errno>,
    pub(super) ports: Vec<RangeInclusive<u16>>,
    pub(super) proto: Option<Proto>,
    pub(super) uids: Vec<RangeInclusive<u32>>,
    /// Absent: it acts.
    pub(super) mode: Option<Mode>,
    pub(super) expires: Option<Expires>,
    /// Absent: a redirect hides where it went.
    pub(super) transparent: Option<bool>,
    pub(super) name: Option<String>,
}

/// A malformed rule on the command line: what is wrong with which part of it, and a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentError(Problem);

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl error::Error for ArgumentError {}

/// Parses the value of `--container`; a value parser for clap.
///
/// # Errors
///
/// [`ArgumentError`] for what no engine would accept as a name or an identifier.
pub fn container(value: &str) -> Result<String, ArgumentError> {
    check_container(value)
        .map(|()| value.to_owned())
        .map_err(ArgumentError)
}

/// A duration, as `expires` is written: `30s`, `5m`.
///
/// # Errors
///
/// [`ArgumentError`] for what is none.
pub fn duration(value: &str) -> Result<Duration, ArgumentError> {
    match parse_expires(value) {
        Ok(Expires::After(duration)) => Ok(duration),
        _ => {
            let problem = Problem::new(format!("{} is no duration", quote(value)));
            Err(ArgumentError(
                problem.hint("write it like `30s`, `1m30s` or `1h`"),
            ))
        }
    }
}

/// What may follow the prefix.
const OPTIONS: [&str; 8] = [
    "errno",
    "port",
    "proto",
    "uid",
    "mode",
    "expires",
    "transparent",
    "name",
];

impl RuleArgument {
    /// Parses `PREFIX[=TO]` with `,KEY=VALUE` after it: `errno=NAME`, `port=P|P-P`, `proto=tcp|udp`, `uid=N|N-N`,
    /// `mode=enforce|audit`, `expires=DURATION|TIME`, `transparent=true|false` and `name=NAME`. `port` and `uid` may
    /// repeat.
    ///
    /// # Errors
    ///
    /// [`ArgumentError`] for the first part that is wrong.
    pub fn parse(kind: ArgumentKind, value: &str) -> Result<Self, ArgumentError> {
        Self::parse_value(kind, value).map_err(ArgumentError)
    }

    /// Parses the value of `--allow`; a value parser for clap.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn allow(value: &str) -> Result<Self, ArgumentError> {
        Self::parse(ArgumentKind::Allow, value)
    }

    /// Parses the value of `--reject`; a value parser for clap.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn reject(value: &str) -> Result<Self, ArgumentError> {
        Self::parse(ArgumentKind::Reject, value)
    }

    /// Parses the value of `--redirect`; a value parser for clap.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn redirect(value: &str) -> Result<Self, ArgumentError> {
        Self::parse(ArgumentKind::Redirect, value)
    }

    fn parse_value(kind: ArgumentKind, value: &str) -> Result<Self, Problem> {
        let mut parts = value.split(',');
        let subject = parts.next().unwrap_or_default();
        let (prefix, action) = match (kind, subject.split_once('=')) {
            (ArgumentKind::Allow, None) => (subject, RuleAction::Allow),
            (ArgumentKind::Reject, None) => (subject, RuleAction::Reject),
            (ArgumentKind::Redirect, Some((prefix, to))) => {
                (prefix, RuleAction::Redirect(redirect_to(prefix, to)?))
            }
            (ArgumentKind::Redirect, None) => {
                return Err(Problem::new(format!("{} does not say where to", quote(subject)))
                    .hint("write `--redirect PREFIX=ADDRESS`, such as `2001:db8::/32=192.0.2.1`"));
            }
            (ArgumentKind::Allow | ArgumentKind::Reject, Some((prefix, _))) => {
                let option = kind.option();
                return Err(Problem::new(format!("{option} takes no address to go to"))
                    .hint(format!("write `{option} {prefix}`, or use `--redirect`")));
            }
        };
        let mut rule = Self {
            spelling: format!("{} {value}", kind.option()),
            prefix: parse_prefix(prefix)?,
            action,
            errno: None,
            ports: Vec::new(),
            proto: None,
            uids: Vec::new(),
            mode: None,
            expires: None,
            transparent: None,
            name: None,
        };
        for part in parts {
            rule.option(part)?;
        }
        if rule.action == RuleAction::Allow && rule.errno.is_some() {
            return Err(Problem::new(
                "--allow takes no errno: an allowed connect just goes on",
            ));
        }
        if kind != ArgumentKind::Redirect && rule.transparent.is_some() {
            return Err(Problem::new(format!(
                "{} takes no `transparent`: only a redirect hides where it went, or does not",
                kind.option()
            )));
        }
        Ok(rule)
    }

    /// Takes one `KEY=VALUE`.
    fn option(&mut self, part: &str) -> Result<(), Problem> {
        let Some((key, value)) = part.split_once('=') else {
            return Err(Problem::new(format!("{} is not `KEY=VALUE`", quote(part)))
                .hint("each rule is an option of its own: `--reject A --reject B`"));
        };
        let repeated = match key {
            "errno" => self.errno.replace(parse_errno(value)?).is_some(),
            "proto" => self
                .proto
                .replace(one_of(key, value, [("tcp", Proto::Tcp), ("udp", Proto::Udp)])?)
                .is_some(),
            "name" => {
                check_name(value, "rule")?;
                self.name.replace(value.to_owned()).is_some()
            }
            "port" => {
                self.ports.push(parse_ports(value)?);
                false
            }
            "uid" => {
                self.uids.push(parse_uids(value)?);
                false
            }
            "mode" => self
                .mode
                .replace(one_of(
                    key,
                    value,
                    [("enforce", Mode::Enforce), ("audit", Mode::Audit)],
                )?)
                .is_some(),
            "expires" => self.expires.replace(parse_expires(value)?).is_some(),
            "transparent" => self
                .transparent
                .replace(one_of(key, value, [("true", true), ("false", false)])?)
                .is_some(),
            other => {
                return Err(Problem::new(format!("a rule has no option {}", quote(other)))
                    .hint(suggest(other, &OPTIONS)));
            }
        };
        if repeated {
            return Err(Problem::new(format!("`{key}` is given twice")));
        }
        Ok(())
    }
}

fn redirect_to(prefix: &str, text: &str) -> Result<RedirectTo, Problem> {
    if text.is_empty() {
        return Err(Problem::new("the address to redirect to is missing after `=`"));
    }
    let to = parse_redirect_to(text)?;
    check_fit(&to, text, &[parse_prefix(prefix)?]).map(|()| to)
}

/// The value of a key that has only so many.
fn one_of<T, const N: usize>(key: &str, text: &str, values: [(&str, T); N]) -> Result<T, Problem> {
    let names = values.each_ref().map(|(name, _)| *name);
    let mut values = values.into_iter();
    match values.find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(value),
        None => Err(Problem::new(format!("`{key}` cannot be {}", quote(text))).hint(suggest(text, &names))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(value: &str) -> String {
        RuleArgument::reject(value).unwrap_err().to_string()
    }

    #[test]
    fn everything_a_rule_can_say_is_understood() {
        let rule =
            RuleArgument::reject("2001:db8::/32,errno=EACCES,port=443,port=8000-8999,proto=tcp,name=x")
                .unwrap();
        assert_eq!(rule.prefix, "2001:db8::/32".parse().unwrap());
        assert_eq!(rule.errno.unwrap().name, "EACCES");
        assert_eq!(rule.ports, [443..=443, 8000..=8999]);
        assert_eq!(rule.proto, Some(Proto::Tcp));
        assert_eq!(rule.name.as_deref(), Some("x"));
    }

    #[test]
    fn a_bare_address_is_its_own_prefix_and_internet_is_a_name() {
        assert_eq!(
            RuleArgument::allow("2001:db8::1").unwrap().prefix,
            "2001:db8::1/128".parse().unwrap()
        );
        assert_eq!(
            RuleArgument::allow("internet").unwrap().prefix,
            "2000::/3".parse().unwrap()
        );
    }

    #[test]
    fn redirects_go_to_either_family_with_or_without_a_port() {
        for (text, expected) in [
            ("192.0.2.1", "[::ffff:192.0.2.1]:0"),
            ("192.0.2.1:80", "[::ffff:192.0.2.1]:80"),
            ("[2001:db8::1]", "[2001:db8::1]:0"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("2001:db8::1", "[2001:db8::1]:0"),
            ("::ffff:192.0.2.1", "[::ffff:192.0.2.1]:0"),
        ] {
            let rule = RuleArgument::redirect(&format!("2001:db8:3::/48={text}")).unwrap();
            assert_eq!(
                rule.action,
                RuleAction::Redirect(RedirectTo::Address(expected.parse().unwrap())),
                "{text}"
            );
        }
    }

    #[test]
    fn users_times_modes_and_transparency_are_understood() {
        let rule = RuleArgument::redirect(
            "2001:db8::/120=198.51.100.0/24,uid=0,uid=1000-1999,mode=audit,expires=1h30m,transparent=false",
        )
        .unwrap();
        assert_eq!(rule.uids, [0..=0, 1000..=1999]);
        assert_eq!(rule.mode, Some(Mode::Audit));
        let expires = Expires::After(Duration::from_secs(5400));
        assert_eq!(rule.expires, Some(expires));
        assert_eq!(rule.transparent, Some(false));
        assert_eq!(rule.action.to_string(), "redirect to 198.51.100.0/24");
        let embedded = RuleArgument::redirect("64:ff9b::/96=embedded").unwrap();
        assert_eq!(embedded.action, RuleAction::Redirect(RedirectTo::Embedded));
    }

    #[test]
    fn malformed_rules_say_what_is_wrong() {
        for (value, expected) in [
            ("", "`` is not an IPv6 prefix\n  hint: write a prefix such as"),
            ("nonsense", "`nonsense` is not an IPv6 prefix"),
            ("inernet", "did you mean `internet`?"),
            ("2001:db8::1/129", "`2001:db8::1/129` has no valid prefix length"),
            ("::/-1", "`::/-1` has no valid prefix length"),
            ("::/+1", "`::/+1` has no valid prefix length"),
            ("::/", "`::/` has no valid prefix length"),
            ("10.0.0.0/8", "`10.0.0.0/8` is IPv4"),
            (
                "2001:db8::1/32",
                "the prefix that contains it is `2001:db8::/32`; or `2001:db8::1/128`",
            ),
            ("::ffff:10.0.0.0/104", "IPv4 written as IPv6"),
            ("::ffff:1.2.3.4", "IPv4 written as IPv6"),
            ("[2001:db8::]/32", "leave the brackets out"),
            (" 2001:db8::/32", "leave the spaces out"),
            ("fe80::1%eth0", "leave the zone"),
            ("::/0,errno=0", "`0` is not an errno"),
            ("::/0,errno=512", "`512` is not an errno"),
            ("::/0,errno=4096", "`4096` is not an errno"),
            ("::/0,errno=EFOO", "`EFOO` is not an errno that a rule can choose"),
            (
                "::/0,errno=EINPROGRESS",
                "`EINPROGRESS` is not an errno that a rule can choose",
            ),
            ("::/0,errno=ENETUNREACHABLE", "did you mean `ENETUNREACH`?"),
            ("::/0,errno=enetunreach", "did you mean `ENETUNREACH`?"),
            ("::/0,errno=111", "errnos are written by name: `ECONNREFUSED`"),
            ("::/0,port=0", "`0` is not a port"),
            ("::/0,port=65536", "`65536` is not a port"),
            ("::/0,port=99999999999999999999", "is not a port"),
            (
                "::/0,port=9-3",
                "the port range `9-3` is empty\n  hint: did you mean `3-9`?",
            ),
            ("::/0,port=http", "`http` is not a port"),
            ("::/0,port=1-2-3", "`1-2-3` is not a port"),
            ("::/0,proto=tpc", "did you mean `tcp`?"),
            (
                "::/0,ports=1",
                "a rule has no option `ports`\n  hint: did you mean `port`?",
            ),
            (
                "::/0,colour=red",
                "there are `errno`, `port`, `proto`, `uid`, `mode`, `expires`",
            ),
            (
                "::/0,uid=root",
                "users are written by number, which `id -u root` shows",
            ),
            ("::/0,uid=9-3", "did you mean `3-9`?"),
            ("::/0,uid=4294967295", "is not a user's number"),
            (
                "::/0,mode=adit",
                "`mode` cannot be `adit`\n  hint: did you mean `audit`?",
            ),
            ("::/0,mode=audit,mode=audit", "`mode` is given twice"),
            ("::/0,expires=soon", "write a duration such as `2h`"),
            ("::/0,transparent=false", "only a redirect hides where it went"),
            ("::/0,::/1", "`::/1` is not `KEY=VALUE`"),
            ("::/0,", "`` is not `KEY=VALUE`"),
            ("::/0,name=a,name=b", "`name` is given twice"),
            ("::/0,name=", "the name of a rule is empty"),
            ("::/0,name=a\nb", "the name `a\\nb` has control characters"),
            ("::/0=192.0.2.1", "--reject takes no address to go to"),
        ] {
            let message = rejected(value);
            assert!(message.contains(expected), "{value:?} gave {message:?}");
        }
    }

    #[test]
    fn malformed_redirects_say_what_is_wrong() {
        for (value, expected) in [
            ("::/0", "`::/0` does not say where to"),
            ("::/0=", "the address to redirect to is missing after `=`"),
            (
                "::/0=example.com",
                "a rule of a policy file says `to_host = \"example.com\"`",
            ),
            ("::/0=192.0.2.1:0", "`192.0.2.1:0` has port 0"),
            ("2001:db8::/64=198.51.100.0/24", "8 host bits"),
            ("2001:db8::/33=embedded", "there is no IPv4 address inside"),
            ("2001:db8::1/32=embedded", "has bits set after its prefix length"),
            ("::/0=192.0.2.1:65536", "is not an address to redirect to"),
            ("::/0=0.0.0.0", "the unspecified address"),
            ("::/0=[::]:80", "the unspecified address"),
            ("::/0=ff02::1", "a multicast address"),
            ("::/0=255.255.255.255", "the broadcast address"),
            ("::/0=fe80::1", "a link-local address"),
        ] {
            let message = RuleArgument::redirect(value).unwrap_err().to_string();
            assert!(message.contains(expected), "{value:?} gave {message:?}");
        }
        assert!(
            RuleArgument::allow("::/0,errno=EACCES")
                .unwrap_err()
                .to_string()
                .contains("takes no errno")
        );
    }
}
