//! The words of the table, and what they stand for.

use enforcer_common::{
    clause::Action,
    decide::{Mode, Unmovable},
    errno::{self, Errno},
};
use serde::Deserialize as _;

/// One of a few words, each with its value.
fn word<'de, D: serde::Deserializer<'de>, T: Copy>(
    deserializer: D,
    words: &'static [(&'static str, T)],
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    let known = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    words
        .iter()
        .find_map(|(word, value)| (*word == text).then_some(*value))
        .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not one of {}", known())))
}

pub(super) fn mode<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Mode, D::Error> {
    word(
        deserializer,
        &[("enforce", Mode::Enforce), ("audit", Mode::Audit)],
    )
}

pub(super) fn action<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Action, D::Error> {
    word(
        deserializer,
        &[
            ("allow", Action::Allow),
            ("reject", Action::Reject),
            ("redirect", Action::Redirect),
        ],
    )
}

pub(super) fn some_action<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Action>, D::Error> {
    action(deserializer).map(Some)
}

pub(super) fn unmovable<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Unmovable>, D::Error> {
    let words = &[
        ("ping", Unmovable::Ping),
        ("bound", Unmovable::Bound),
        ("v6only", Unmovable::V6Only),
        ("unconnected", Unmovable::Unconnected),
    ];
    word(deserializer, words).map(Some)
}

pub(super) fn errno_by_name<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Errno>, D::Error> {
    let name = String::deserialize(deserializer)?;
    errno::by_name(&name)
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom(format!("{name:?} is not an errno a rule may name")))
}
