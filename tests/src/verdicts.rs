//! The verdict table, `cases/verdicts.toml` and what it includes: which connect gets which verdict, as data.
//!
//! [`load`] reads it, and has the room `check` see to it that it makes sense; [`World`] is a namespace in which every
//! connect of a group would succeed. What runs the cases, through `decide` and through the kernel, is not here.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use enforcer::policy::{
    Policy,
    argument::RuleArgument,
    rule::{DEFAULT_GROUP, RolloutBy, Rule},
};
use enforcer_common::{
    clause::{Action, rollout_below, rollout_hash, text_hash},
    decide::{Mode, Unmovable},
    errno::Errno,
};
use serde::Deserialize;

use crate::{
    need::tests_directory,
    protocol::{Connect, SocketKind},
};

mod batch;
mod callers;
mod check;
#[cfg(test)]
mod tests;
mod words;
mod world;

pub use batch::{Batch, batches};
pub use callers::Callers;
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
    #[serde(default)]
    pub rules: Vec<String>,
    /// The text of a policy file instead, without its targets.
    #[serde(default)]
    pub policy: Option<String>,
    /// The target that the governed cgroup is in that file.
    #[serde(default)]
    pub target: Target,
    /// The connects.
    #[serde(rename = "case")]
    pub cases: Vec<Case>,
}

/// The governed cgroup, as a target of a policy file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Target {
    /// Its name; that of the group where absent.
    pub name: Option<String>,
    /// The groups it uses.
    #[serde(rename = "use")]
    pub groups: Vec<String>,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            name: None,
            groups: vec![DEFAULT_GROUP.to_owned()],
        }
    }
}

/// One connect, or one datagram.
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
    /// Which calls are made.
    #[serde(default)]
    pub call: Call,
    /// `IPV6_V6ONLY`; left as the system has it where absent.
    #[serde(default)]
    pub v6only: Option<bool>,
    /// Address the socket is bound to.
    #[serde(default)]
    pub bind: Option<Ipv6Addr>,
    /// Real user of the caller; that of the tests where absent.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Rules with a rollout by process that includes the caller's.
    #[serde(default)]
    pub included_by: Vec<String>,
    /// Rules with a rollout by process that leaves the caller's out.
    #[serde(default)]
    pub excluded_by: Vec<String>,
    /// What the kernel must be able to do beyond the socket itself.
    #[serde(default)]
    pub needs: Option<Needs>,
    /// What must come of it.
    pub expect: Expect,
}

/// The calls of a case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// A connect.
    #[default]
    Connect,
    /// A datagram from an unconnected socket.
    Sendto,
    /// A connect, and then a datagram with a traffic class, as QUIC sends. Only the connect is judged.
    ConnectAndSend,
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
    /// What a rule would have done that only tells, because it or the cgroup is in audit mode.
    #[serde(default, deserialize_with = "words::some_action")]
    pub would: Option<Action>,
    /// The rule that would have done it.
    #[serde(default)]
    pub would_rule: Option<String>,
    /// The rule that would have counted, had its rollout included the connect.
    #[serde(default)]
    pub left_out: Option<String>,
    /// Why a redirect was a rejection, or would have been.
    #[serde(default, deserialize_with = "words::unmovable")]
    pub unmovable: Option<Unmovable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Files with more of it, relative to this one.
    #[serde(default)]
    include: Vec<String>,
    group: Vec<Group>,
}

/// Reads the table and checks that it makes sense.
///
/// # Errors
///
/// When it cannot be read or understood, and the first case that contradicts itself or its rules.
pub fn load() -> Result<Vec<Group>> {
    let cases = tests_directory().join("cases");
    let mut table = read(&cases.join("verdicts.toml"))?;
    for path in std::mem::take(&mut table.include) {
        let more = read(&cases.join(&path))?;
        ensure!(more.include.is_empty(), "{path} includes files itself");
        table.group.extend(more.group);
    }
    check::check(&table.group)?;
    Ok(table.group)
}

fn read(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("understand {}", path.display()))
}

impl Group {
    /// The rules as arguments of the command line, `--reject`, value, …, and the option that sets the mode.
    #[must_use]
    pub fn arguments(&self) -> Vec<&str> {
        let mut arguments: Vec<_> = self.rules.iter().flat_map(|rule| rule.splitn(2, ' ')).collect();
        match self.mode {
            Mode::Enforce => {}
            Mode::Audit => arguments.push("--audit"),
        }
        arguments
    }

    /// The name of the target that is governed, in a policy file.
    #[must_use]
    pub fn target_name(&self) -> &str {
        self.target.name.as_ref().unwrap_or(&self.name)
    }

    /// The policy file, if it has one, with the cgroup at `/table` as its target.
    #[must_use]
    pub fn policy_file(&self) -> Option<String> {
        let policy = self.policy.as_ref()?;
        let (name, groups) = (self.target_name(), &self.target.groups);
        Some(format!(
            "version = 1\n{policy}\n[[target]]\nname = {name:?}\ncgroup = \"/table\"\nuse = {groups:?}\n"
        ))
    }

    /// The rules, after every check of the policy room.
    ///
    /// # Errors
    ///
    /// When they are no policy.
    pub fn checked_policy(&self) -> Result<Policy> {
        if let Some(text) = self.policy_file() {
            return Ok(Policy::from_text(Path::new("policy.toml"), text, Vec::new())?.0);
        }
        let rule = |text: &String| -> Result<RuleArgument> {
            let (flag, value) = text.split_once(' ').context("it has no value")?;
            Ok(match flag {
                "--reject" => RuleArgument::reject(value)?,
                "--redirect" => RuleArgument::redirect(value)?,
                "--allow" => RuleArgument::allow(value)?,
                _ => bail!("{flag} is not a kind of rule"),
            })
        };
        let rules = self
            .rules
            .iter()
            .map(|text| rule(text).with_context(|| format!("rule {text:?}")))
            .collect::<Result<_>>()?;
        Ok(Policy::load(None, rules)?.0)
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

    /// Whether the case is about a process of that number, as the initial process namespace numbers it: the rollouts
    /// that shall include it do, and the others do not.
    #[must_use]
    pub fn is_about(&self, rules: &[Rule], process: u32) -> bool {
        rules.iter().all(|rule| match &rule.rollout {
            Some(rollout) if rollout.by == RolloutBy::Process => {
                let hash = rollout_hash(text_hash(rule.label.as_bytes()), process);
                let is_in = hash < rollout_below(rollout.percent);
                let contradicting = if is_in {
                    &self.excluded_by
                } else {
                    &self.included_by
                };
                !contradicting.contains(&rule.label)
            }
            _ => true,
        })
    }
}

/// A name that is there twice.
fn repeated<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

const fn enforce() -> Mode {
    Mode::Enforce
}

const fn tcp() -> SocketKind {
    SocketKind::Tcp
}
