//! [`Document`]: a policy file as written. One struct a table, one field a key, each with where it stands.
//!
//! Nothing is judged here but the type of each value, by serde: what a prefix or a port is, and what fits
//! together, is for the check that follows.

use std::{borrow::Cow, ops::Range};

use serde::Deserialize;
use toml::{Spanned, value::Datetime};

/// What a key's value turned out to be.
#[derive(Debug)]
pub(super) enum Field<T> {
    /// The key is not there.
    Absent,
    /// It is there, with a value of the wrong type, which has been reported.
    Bad,
    /// Its value.
    Good(Spanned<T>),
}

impl<T> Field<T> {
    pub(super) fn good(&self) -> Option<&Spanned<T>> {
        match self {
            Self::Good(value) => Some(value),
            Self::Absent | Self::Bad => None,
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// A whole policy file.
#[derive(Debug)]
pub(super) struct Document<'text> {
    pub(super) version: Field<i64>,
    pub(super) defaults: DefaultsTable,
    pub(super) targets: Vec<TargetTable>,
    pub(super) rules: Vec<RuleTable<'text>>,
}

impl Document<'_> {
    pub(super) const KEYS: &'static [&'static str] = &["version", "defaults", "target", "rule"];
}

/// `[defaults]`.
#[derive(Debug)]
pub(super) struct DefaultsTable {
    pub(super) mode: Field<ModeName>,
    pub(super) errno: Field<String>,
}

impl DefaultsTable {
    pub(super) const KEYS: &'static [&'static str] = &["mode", "errno"];
}

/// One `[[target]]`.
#[derive(Debug)]
pub(super) struct TargetTable {
    /// Where its header stands.
    pub(super) header: Range<usize>,
    pub(super) name: Field<String>,
    pub(super) cgroup: Field<String>,
    pub(super) pid: Field<i64>,
    pub(super) container: Field<String>,
    /// `use`.
    pub(super) groups: Field<Vec<Spanned<String>>>,
}

impl TargetTable {
    pub(super) const KEYS: &'static [&'static str] = &["name", "cgroup", "pid", "container", "use"];
}

/// One `[[rule]]`.
#[derive(Debug)]
pub(super) struct RuleTable<'text> {
    /// Where its header stands.
    pub(super) header: Range<usize>,
    pub(super) name: Field<String>,
    pub(super) groups: Field<Vec<Spanned<String>>>,
    pub(super) prefix: Field<Text<'text>>,
    pub(super) prefixes: Field<Vec<Spanned<Text<'text>>>>,
    pub(super) prefixes_file: Field<String>,
    pub(super) host: Field<String>,
    pub(super) resolve: Field<ResolveName>,
    pub(super) allow_private: Field<bool>,
    pub(super) action: Field<ActionName>,
    pub(super) errno: Field<String>,
    pub(super) to: Field<String>,
    pub(super) to_host: Field<String>,
    pub(super) without_twin: Field<WithoutTwinName>,
    pub(super) transparent: Field<bool>,
    pub(super) ports: Field<Vec<Spanned<Numbers>>>,
    pub(super) proto: Field<ProtoName>,
    pub(super) uid: Field<Vec<Spanned<Numbers>>>,
    pub(super) reason: Field<String>,
    pub(super) enabled: Field<bool>,
    pub(super) mode: Field<ModeName>,
    pub(super) expires: Field<When>,
    pub(super) rollout: Field<i64>,
    pub(super) by: Field<ByName>,
    pub(super) canary: Field<Vec<Spanned<String>>>,
}

impl RuleTable<'_> {
    pub(super) const KEYS: &'static [&'static str] = &[
        "name",
        "groups",
        "prefix",
        "prefixes",
        "prefixes_file",
        "host",
        "resolve",
        "allow_private",
        "action",
        "errno",
        "to",
        "to_host",
        "without_twin",
        "transparent",
        "ports",
        "proto",
        "uid",
        "reason",
        "enabled",
        "mode",
        "expires",
        "rollout",
        "by",
        "canary",
    ];
}

/// The type of a value that is not a table.
pub(super) trait Leaf<'text>: Deserialize<'text> {
    /// What a message calls the type.
    const EXPECTED: &'static str;
    /// The strings there are, of a type that has only so many.
    const NAMES: &'static [&'static str] = &[];
}

impl Leaf<'_> for String {
    const EXPECTED: &'static str = "a string";
}

impl Leaf<'_> for i64 {
    const EXPECTED: &'static str = "an integer";
}

impl Leaf<'_> for bool {
    const EXPECTED: &'static str = "`true` or `false`";
}

/// A string, borrowed from the file where it can be: there may be a million prefixes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'text>(#[serde(borrow)] pub(super) Cow<'text, str>);

impl<'text> Leaf<'text> for Text<'text> {
    const EXPECTED: &'static str = "a string";
}

/// One of `ports`, or of `uid`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Numbers {
    /// `443`
    One(i64),
    /// `"8000-8999"`
    Text(String),
}

impl Leaf<'_> for Numbers {
    const EXPECTED: &'static str = "an integer, or a string for a range";
}

/// `expires`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum When {
    /// `2030-01-01T00:00:00Z`, without quotes.
    Time(Datetime),
    /// The same with quotes, or `"2h"`.
    Text(String),
}

impl Leaf<'_> for When {
    const EXPECTED: &'static str = "a date with time and offset, or a string such as \"2h\"";
}

/// `mode`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ModeName {
    Enforce,
    Audit,
}

impl Leaf<'_> for ModeName {
    const EXPECTED: &'static str = "a string";
    const NAMES: &'static [&'static str] = &["enforce", "audit"];
}

/// `action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ActionName {
    Allow,
    Reject,
    Redirect,
}

impl Leaf<'_> for ActionName {
    const EXPECTED: &'static str = "a string";
    const NAMES: &'static [&'static str] = &["allow", "reject", "redirect"];
}

/// `proto`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ProtoName {
    Tcp,
    Udp,
}

impl Leaf<'_> for ProtoName {
    const EXPECTED: &'static str = "a string";
    const NAMES: &'static [&'static str] = &["tcp", "udp"];
}

/// `resolve`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ResolveName {
    Host,
    Target,
}

impl Leaf<'_> for ResolveName {
    const EXPECTED: &'static str = "a string";
    const NAMES: &'static [&'static str] = &["host", "target"];
}

/// `without_twin`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WithoutTwinName {
    Reject,
    Allow,
}

impl Leaf<'_> for WithoutTwinName {
    const EXPECTED: &'static str = "a string";
    const NAMES: &'static [&'static str] = &["reject", "allow"];
}

/// `by`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ByName {
    Target,
    Process,
    Destination,
}

impl Leaf<'_> for ByName {
    const EXPECTED: &'static str = "a string";
    const NAMES: &'static [&'static str] = &["target", "process", "destination"];
}
