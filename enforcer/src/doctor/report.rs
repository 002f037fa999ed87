//! What was found, as plain data.

use serde::Serialize;

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order in which they are shown.
    pub items: Vec<(Section, Item)>,
}

impl Report {
    pub(super) fn section(&mut self, section: Section, items: Vec<Item>) {
        self.items.extend(items.into_iter().map(|item| (section, item)));
    }

    /// The items that make enforcing impossible here.
    pub fn blocking(&self) -> impl Iterator<Item = &Item> {
        self.items
            .iter()
            .map(|(_, item)| item)
            .filter(|item| item.level == Level::Blocks)
    }
}

/// What an item is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Section {
    /// What the kernel has.
    Kernel,
    /// What this process may.
    Privileges,
    /// Where cgroups are.
    Cgroups,
    /// Programs that somebody has attached to cgroups.
    Attached,
    /// The host's own IPv6.
    Ipv6,
    /// Container engines.
    Engines,
    /// Workloads that no program of this host's kernel can govern.
    Workloads,
}

/// How much an item matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be, or of no consequence.
    Ok,
    /// Worth knowing.
    Note,
    /// enforcer does less because of it.
    Limits,
    /// Could not be looked at.
    Unknown,
    /// Makes enforcing impossible.
    Blocks,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What programs call it; the same on every machine.
    pub item: &'static str,
    /// Which one, where there are several: a path, an interface, a feature.
    pub subject: Option<String>,
    /// What people call it.
    pub name: String,
    /// What was found.
    pub state: String,
    /// How much that matters.
    pub level: Level,
    /// What follows from it.
    pub follows: Option<String>,
    /// What a person can do about it.
    pub hint: Option<String>,
    /// What programs may want to know more exactly.
    pub details: Vec<(&'static str, Detail)>,
}

/// A value for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Detail {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
    /// Texts.
    List(Vec<String>),
}

impl Item {
    pub(super) fn new(
        item: &'static str,
        name: impl Into<String>,
        level: Level,
        state: impl Into<String>,
    ) -> Self {
        Self {
            item,
            subject: None,
            name: name.into(),
            state: state.into(),
            level,
            follows: None,
            hint: None,
            details: Vec::new(),
        }
    }

    /// Something that could not be looked at.
    pub(super) fn unknown(item: &'static str, name: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::new(item, name, Level::Unknown, format!("cannot tell: {why}"))
    }

    pub(super) fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    pub(super) fn follows(mut self, text: impl Into<String>) -> Self {
        self.follows = Some(text.into());
        self
    }

    pub(super) fn hint(mut self, text: Option<impl Into<String>>) -> Self {
        self.hint = text.map(Into::into);
        self
    }

    pub(super) fn number(mut self, name: &'static str, value: u64) -> Self {
        self.details.push((name, Detail::Number(value)));
        self
    }

    pub(super) fn text(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.details.push((name, Detail::Text(value.into())));
        self
    }

    pub(super) fn list(mut self, name: &'static str, values: Vec<String>) -> Self {
        self.details.push((name, Detail::List(values)));
        self
    }
}
