//! The rule that helps, as a policy file has it and as an argument, so that both mean the same. Pure.

use std::net::Ipv4Addr;

use ipnet::Ipv6Net;
use serde::Serialize;

/// Letters of the host's name in the rule's: what events call it should fit beside other things.
const MAX_NAME: usize = 40;

/// What a rule is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleFor {
    /// Clients use IPv4 at once.
    Ipv4AtOnce,
    /// Who has only the IPv6 address is sent to IPv4.
    OnlyIpv6,
    /// It fails at once instead of after minutes; it fails all the same.
    FailingFast,
}

/// A rule, ready to be pasted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// What it is good for.
    pub purpose: RuleFor,
    /// For a policy file that is there already.
    pub rule: String,
    /// A policy file of its own.
    pub policy: String,
    /// Arguments of `run` and `exec` that mean the same.
    pub arguments: Vec<String>,
    /// A command that can be typed.
    pub command: String,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    Reject,
    RedirectTo(Ipv4Addr),
}

/// What a rule is made of.
pub(super) struct Draft<'draft> {
    pub(super) purpose: RuleFor,
    pub(super) host: &'draft str,
    pub(super) prefixes: &'draft [Ipv6Net],
    /// Where the rest of the host works.
    pub(super) port: Option<u16>,
    pub(super) does: Does,
    /// Why, in a few words.
    pub(super) reason: &'draft str,
    /// Arguments of `run` that name the target; none for a command of `exec`.
    pub(super) target: &'draft [String],
}

impl Draft<'_> {
    pub(super) fn rule(&self) -> Rule {
        let rule = self.tables();
        let arguments = self.arguments();
        let shown: Vec<_> = arguments.iter().map(|argument| quoted(argument)).collect();
        let shown = shown.join(" ");
        let command = if self.target.is_empty() {
            format!("enforcer exec {shown} -- COMMAND")
        } else {
            let target: Vec<_> = self.target.iter().map(|argument| quoted(argument)).collect();
            format!("enforcer run {} {shown}", target.join(" "))
        };
        Rule {
            purpose: self.purpose,
            policy: format!("version = 1\n\n{rule}"),
            rule,
            arguments,
            command,
        }
    }

    /// Whatever stands in quotes here was an address, a number or a host's name.
    fn tables(&self) -> String {
        match self.does {
            Does::Reject => self.table("not by IPv6", None, "action = \"reject\""),
            // Datagrams that nobody connects cannot be moved to IPv4; and rejected, the address is listed last.
            Does::RedirectTo(to) => {
                let to = format!("action = \"redirect\"\nto     = \"{to}\"");
                let moved = self.table("to IPv4", Some("tcp"), &to);
                let rest = self.table("not by UDP", Some("udp"), "action = \"reject\"");
                format!("{moved}\n{rest}")
            }
        }
    }

    fn table(&self, what: &str, proto: Option<&str>, action: &str) -> String {
        let host: String = self.host.chars().take(MAX_NAME).collect();
        let prefixes: Vec<_> = self
            .prefixes
            .iter()
            .map(|prefix| format!("\"{prefix}\""))
            .collect();
        let mut lines = vec!["[[rule]]".to_owned(), format!("name   = \"{host} {what}\"")];
        lines.push(match &prefixes[..] {
            [prefix] => format!("prefix = {prefix}"),
            several => format!("prefixes = [{}]", several.join(", ")),
        });
        lines.extend(self.port.map(|port| format!("ports  = [{port}]")));
        lines.extend(proto.map(|proto| format!("proto  = \"{proto}\"")));
        lines.push(action.to_owned());
        lines.push(format!("reason = \"enforcer probe: {}\"\n", self.reason));
        lines.join("\n")
    }

    fn arguments(&self) -> Vec<String> {
        let port = self.port.map(|port| format!(",port={port}")).unwrap_or_default();
        let each = |flag: &str, rest: &str| -> Vec<String> {
            let prefixes = self.prefixes.iter();
            prefixes
                .flat_map(|prefix| [flag.to_owned(), format!("{prefix}{rest}{port}")])
                .collect()
        };
        match self.does {
            Does::Reject => each("--reject", ""),
            Does::RedirectTo(to) => {
                let mut arguments = each("--redirect", &format!("={to},proto=tcp"));
                arguments.extend(each("--reject", ",proto=udp"));
                arguments
            }
        }
    }
}

/// For a shell.
fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, argument::RuleArgument};

    #[test]
    fn a_rule_is_one_that_a_policy_and_a_command_line_take() {
        let one = ["2001:db8:a::/48".parse().unwrap()];
        let two = [
            "2001:db8:a::1/128".parse().unwrap(),
            "2001:db8:b::1/128".parse().unwrap(),
        ];
        let inside = ["64:ff9b::c000:201/128".parse().unwrap()];
        for (host, prefixes, port, does) in [
            ("shop.example", &one[..], None, Does::Reject),
            ("shop.example", &two, Some(443), Does::Reject),
            (
                "2001:db8:a::1",
                &two,
                None,
                Does::RedirectTo(Ipv4Addr::new(192, 0, 2, 1)),
            ),
            (
                "_db.shop.example",
                &inside,
                Some(1),
                Does::RedirectTo(Ipv4Addr::new(192, 0, 2, 1)),
            ),
        ] {
            let rule = Draft {
                purpose: RuleFor::Ipv4AtOnce,
                host,
                prefixes,
                port,
                does,
                reason: "nothing answers by IPv6",
                target: &[],
            }
            .rule();
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("policy.toml");
            std::fs::write(&file, &rule.policy).unwrap();
            let (policy, _) = Policy::load(Some(&file), Vec::new()).unwrap();
            let arguments = rule.arguments.chunks(2).map(|pair| match pair[0].as_str() {
                "--reject" => RuleArgument::reject(&pair[1]).unwrap(),
                _ => RuleArgument::redirect(&pair[1]).unwrap(),
            });
            let (typed, _) = Policy::load(None, arguments.collect()).unwrap();
            let meant = |policy: &Policy| -> Vec<_> {
                let rules = policy.rules.iter();
                rules
                    .flat_map(|rule| {
                        rule.prefixes
                            .iter()
                            .map(|it| format!("{it:?} {:?} {:?} {:?}", rule.action, rule.proto, rule.ports))
                    })
                    .collect()
            };
            assert_eq!(meant(&policy), meant(&typed));
        }
    }

    #[test]
    fn a_target_is_quoted_where_a_shell_needs_that() {
        let prefixes = ["2001:db8:a::/48".parse().unwrap()];
        let target = ["--cgroup".to_owned(), "/it's mine".to_owned()];
        let rule = Draft {
            purpose: RuleFor::Ipv4AtOnce,
            host: "shop.example",
            prefixes: &prefixes,
            port: None,
            does: Does::Reject,
            reason: "",
            target: &target,
        }
        .rule();
        assert_eq!(
            rule.command,
            "enforcer run --cgroup '/it'\\''s mine' --reject 2001:db8:a::/48"
        );
    }
}
