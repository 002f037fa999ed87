//! The rules of the table, as far as the table itself needs to know them.

use anyhow::{Context as _, Result, ensure};
use enforcer_common::errno;

/// What the table needs to know of a rule. Everything else is for the policy room.
pub(super) struct NamedRule<'text> {
    pub(super) name: &'text str,
    pub(super) errno: &'text str,
}

impl<'text> NamedRule<'text> {
    pub(super) fn parse(text: &'text str) -> Result<Self> {
        let (flag, value) = text.split_once(' ').context("it has no value")?;
        ensure!(
            matches!(flag, "--reject" | "--redirect" | "--allow"),
            "{flag} is not a kind of rule"
        );
        let option = |key| {
            value
                .split(',')
                .skip(1)
                .find_map(|option| option.strip_prefix(key))
        };
        Ok(Self {
            name: option("name=").context("it has no name")?,
            errno: option("errno=").unwrap_or(errno::DEFAULT.name),
        })
    }
}
