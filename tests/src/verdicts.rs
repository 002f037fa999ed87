//! The verdict table, `cases/verdicts.toml`: which connect gets which verdict, as data.
//!
//! [`load`] reads and checks it; [`World`] is a namespace in which every connect of a group would succeed. What
//! runs the cases, through `decide` and through `connect(2)`, is not here.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
};

use anyhow::{Context as _, Result, ensure};
use enforcer_common::{
    clause::Action,
    decide::{Mode, Unmovable},
    errno::Errno,
};
use serde::Deserialize;

use crate::{
    need::tests_directory,
    protocol::{Connect, SocketKind},
};

mod rule;
mod words;
mod world;

use rule::NamedRule;
pub use world::World;

/// Index of loopback, in every namespace: it is the first interface.
const LOOPBACK_INDEX: u32 = 1;

/// One policy, and connects under it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// What it shows; unique.
    pub name: String,
    /// Mode of the governed cgroup.
    #[serde(default = "enforce", deserialize_with = "words::mode")]
    pub mode: Mode,
    /// Rules as on the command line: `--reject 2001:db8::/32,name=doc`.
    pub rules: Vec<String>,
    /// The connects.
    #[serde(rename = "case")]
    pub cases: Vec<Case>,
}

/// One connect.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Destination address.
    pub dest: Ipv6Addr,
    /// Destination port.
    pub port: u16,
    /// What it is made with.
    #[serde(default = "tcp")]
    pub socket: SocketKind,
    /// `IPV6_V6ONLY`; left as the system has it where absent.
    #[serde(default)]
    pub v6only: Option<bool>,
    /// Address the socket is bound to.
    #[serde(default)]
    pub bind: Option<Ipv6Addr>,
    /// What the kernel must be able to do beyond the socket itself.
    #[serde(default)]
    pub needs: Option<Needs>,
    /// What must come of it.
    pub expect: Expect,
}

/// What a case needs of the kernel that its socket does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Needs {
    /// Programs can see `IPV6_V6ONLY`.
    V6only,
}

/// What must come of a connect. Rules are given by name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// What is done.
    #[serde(deserialize_with = "words::action")]
    pub verdict: Action,
    /// Errno of a rejection.
    #[serde(default, deserialize_with = "words::errno_by_name")]
    pub errno: Option<Errno>,
    /// Where a redirected connect arrives.
    #[serde(default)]
    pub redirect_to: Option<SocketAddr>,
    /// The rule that acts.
    #[serde(default)]
    pub rule: Option<String>,
    /// In audit mode, what would have been done.
    #[serde(default, deserialize_with = "words::some_action")]
    pub would: Option<Action>,
    /// The rule that would have done it.
    #[serde(default)]
    pub would_rule: Option<String>,
    /// Why a redirect to IPv4 was a rejection, or would have been.
    #[serde(default, deserialize_with = "words::unmovable")]
    pub unmovable: Option<Unmovable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    group: Vec<Group>,
}

/// Reads the table and checks that it makes sense.
///
/// # Errors
///
/// When it cannot be read or understood, and the first case that contradicts itself or its rules.
pub fn load() -> Result<Vec<Group>> {
    let path = tests_directory().join("cases/verdicts.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| format!("understand {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Group>> {
    let table: Table = toml::from_str(text)?;
    let mut names = BTreeSet::new();
    for group in &table.group {
        ensure!(names.insert(&group.name), "two groups are named {:?}", group.name);
        group.check().with_context(|| format!("group {:?}", group.name))?;
    }
    Ok(table.group)
}

impl Group {
    /// The rules as arguments of the command line: flag, value, flag, value, ….
    #[must_use]
    pub fn arguments(&self) -> Vec<&str> {
        self.rules.iter().flat_map(|rule| rule.splitn(2, ' ')).collect()
    }

    /// The same, with the option that sets the group's mode.
    #[must_use]
    pub fn arguments_with_mode(&self) -> Vec<&str> {
        let mut arguments = self.arguments();
        match self.mode {
            Mode::Enforce => {}
            Mode::Audit => arguments.push("--audit"),
        }
        arguments
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.cases.is_empty(), "it has no cases");
        let mut rules: Vec<NamedRule<'_>> = Vec::new();
        for text in &self.rules {
            let rule = NamedRule::parse(text).with_context(|| format!("rule {text:?}"))?;
            ensure!(
                rules.iter().all(|other| other.name != rule.name),
                "two rules are named {:?}",
                rule.name
            );
            rules.push(rule);
        }
        self.cases.iter().enumerate().try_for_each(|(index, case)| {
            case.check(self.mode, &rules)
                .with_context(|| format!("case {index}, to {} port {}", case.dest, case.port))
        })
    }
}

impl Case {
    /// The connect, for the client. Destinations that are meaningless without an interface get loopback.
    #[must_use]
    pub fn connect(&self) -> Connect {
        let scope = if self.dest.is_unicast_link_local() || self.dest.is_multicast() {
            LOOPBACK_INDEX
        } else {
            0
        };
        Connect {
            v6only: self.v6only,
            bind: self.bind.map(|bind| SocketAddr::new(bind.into(), 0)),
            ..Connect::new(
                self.socket,
                SocketAddrV6::new(self.dest, self.port, 0, scope).into(),
            )
        }
    }

    fn check(&self, mode: Mode, rules: &[NamedRule<'_>]) -> Result<()> {
        let expect = &self.expect;
        let rule = |name: &Option<String>| -> Result<Option<&NamedRule<'_>>> {
            name.as_ref()
                .map(|name| {
                    rules
                        .iter()
                        .find(|rule| rule.name == name)
                        .with_context(|| format!("no rule is named {name:?}"))
                })
                .transpose()
        };
        let (acts, would_act) = (rule(&expect.rule)?, rule(&expect.would_rule)?);
        ensure!(
            expect.verdict == Action::Allow || acts.is_some(),
            "a verdict other than allow needs the rule that acts"
        );
        ensure!(
            expect.errno.is_some() == (expect.verdict == Action::Reject),
            "a rejection has an errno, and nothing else has one"
        );
        if let (Some(errno), Some(rule)) = (expect.errno, acts) {
            ensure!(
                errno.name == rule.errno,
                "rule {:?} has errno {}",
                rule.name,
                rule.errno
            );
        }
        ensure!(
            expect.redirect_to.is_some() == (expect.verdict == Action::Redirect),
            "a redirected connect arrives somewhere, and nothing else does"
        );
        ensure!(
            expect.would.is_some() == would_act.is_some(),
            "would and would_rule belong together"
        );
        match mode {
            Mode::Enforce => ensure!(expect.would.is_none(), "would is for audit mode"),
            Mode::Audit => ensure!(
                expect.verdict == Action::Allow && acts.is_none(),
                "no rule acts in audit mode"
            ),
        }
        let rejected = expect.verdict == Action::Reject || expect.would == Some(Action::Reject);
        let (is_ping, is_v6only) = (self.socket == SocketKind::Ping, self.v6only == Some(true));
        ensure!(
            match expect.unmovable {
                None => true,
                // The table is of connects.
                Some(Unmovable::Unconnected) => false,
                Some(Unmovable::Ping) => rejected && is_ping,
                Some(Unmovable::Bound) => rejected && self.bind.is_some_and(|bind| !bind.is_unspecified()),
                Some(Unmovable::V6Only) => rejected && is_v6only && self.needs == Some(Needs::V6only),
            },
            "the socket is not unmovable for that reason, or the case does not say what it needs, or is not rejected"
        );
        Ok(())
    }
}

const fn enforce() -> Mode {
    Mode::Enforce
}

const fn tcp() -> SocketKind {
    SocketKind::Tcp
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(mode: &str, case: &str, expect: &str) -> String {
        format!(
            "[[group]]\nname = \"g\"\nmode = \"{mode}\"\n\
             rules = [\"--reject 2001:db8::/32,name=r\", \"--redirect 2001:db8:3::/48=192.0.2.7,errno=EACCES,name=m\"]\n\
             case = [{{ dest = \"2001:db8::1\", port = 443{case}, expect = {{ {expect} }} }}]\n"
        )
    }

    #[test]
    fn the_table_makes_sense_and_is_not_small() {
        let groups = load().unwrap();
        let cases: usize = groups.iter().map(|group| group.cases.len()).sum();
        assert!(cases >= 60, "{cases} cases");
    }

    #[test]
    fn rules_become_arguments() {
        let groups = parse(&table("audit", "", "verdict = \"allow\"")).unwrap();
        assert_eq!(
            groups[0].arguments_with_mode(),
            [
                "--reject",
                "2001:db8::/32,name=r",
                "--redirect",
                "2001:db8:3::/48=192.0.2.7,errno=EACCES,name=m",
                "--audit"
            ]
        );
    }

    #[test]
    fn cases_that_contradict_themselves_or_their_rules_are_refused() {
        let good = table(
            "enforce",
            "",
            "verdict = \"reject\", errno = \"ENETUNREACH\", rule = \"r\"",
        );
        parse(&good).unwrap();
        for (mode, case, expect, why) in [
            (
                "enforce",
                "",
                "verdict = \"reject\", errno = \"ENETUNREACH\"",
                "needs the rule",
            ),
            (
                "enforce",
                "",
                "verdict = \"reject\", rule = \"r\"",
                "has an errno",
            ),
            (
                "enforce",
                "",
                "verdict = \"reject\", rule = \"r\", errno = \"EACCES\"",
                "rule \"r\" has errno ENETUNREACH",
            ),
            (
                "enforce",
                "",
                "verdict = \"allow\", rule = \"x\"",
                "no rule is named \"x\"",
            ),
            (
                "enforce",
                "",
                "verdict = \"redirect\", rule = \"m\"",
                "arrives somewhere",
            ),
            (
                "enforce",
                "",
                "verdict = \"allow\", would = \"reject\", would_rule = \"r\"",
                "would is for audit",
            ),
            (
                "audit",
                "",
                "verdict = \"reject\", errno = \"ENETUNREACH\", rule = \"r\"",
                "no rule acts in audit",
            ),
            (
                "audit",
                "",
                "verdict = \"allow\", would = \"reject\"",
                "belong together",
            ),
            (
                "enforce",
                ", v6only = true",
                "verdict = \"reject\", rule = \"m\", errno = \"EACCES\", unmovable = \"v6only\"",
                "does not say what it needs",
            ),
            (
                "enforce",
                ", sockets = \"udp\"",
                "verdict = \"allow\"",
                "unknown field `sockets`",
            ),
            (
                "shadow",
                "",
                "verdict = \"allow\"",
                "\"shadow\" is not one of enforce, audit",
            ),
            (
                "enforce",
                "",
                "verdict = \"deny\"",
                "\"deny\" is not one of allow, reject, redirect",
            ),
        ] {
            let error = parse(&table(mode, case, expect)).map(|_| ()).unwrap_err();
            assert!(
                format!("{error:#}").contains(why),
                "{mode} {case} {expect}: {error:#}"
            );
        }
    }
}
