//! What was found, for people: a message, a label, a way out.

use std::{fmt, ops::RangeInclusive};

use enforcer_common::clause::{MAX_CLAUSES, MAX_ENTRIES, MAX_WALK};

use super::{
    super::{
        diagnostic::{Diagnostic, Place, Related, Severity},
        rule::Rule,
        value::quote,
    },
    Extent, Finding,
};

/// What to say of a finding; a place is asked for each rule that has to do with it.
pub(super) fn describe(
    finding: Finding,
    extent: Extent,
    rules: &[Rule],
    place_of: &dyn Fn(&Rule) -> Place,
) -> Diagnostic {
    let rule = |index: u32| &rules[index as usize];
    let name = |index: u32| quote(&rule(index).label);
    let at = match (extent.prefix, extent.count) {
        (Some(prefix), 1) => format!("at {prefix}"),
        (Some(prefix), 2) => format!("at {prefix} and one more prefix"),
        (Some(prefix), count) => format!("at {prefix} and {} more prefixes", count - 1),
        // Rules with names have no prefix.
        (None, _) => match finding {
            Finding::Tie { first, .. } | Finding::Duplicate { first, .. } => {
                let host = rule(first).host.as_ref();
                host.map_or(String::new(), |host| format!("at {}", host.name))
            }
            _ => String::new(),
        },
    };
    let (severity, subject, other, message, label, hint) = match finding {
        Finding::Tie { first, second } => (
            Severity::Error,
            second,
            Some((first, format!("{}: {}", name(first), conditions(rule(first))))),
            format!("{} and {} tie {at}", name(first), name(second)),
            Some(format!("{}: {}", name(second), conditions(rule(second)))),
            "give one rule a condition (`ports`, `proto`, `uid`) that the other has not, or a longer prefix",
        ),
        Finding::Duplicate { first, second } => (
            Severity::Warning,
            second,
            Some((first, format!("{} is here", name(first)))),
            format!("{} is an exact duplicate of {} {at}", name(second), name(first)),
            None,
            "remove one of them; the first is the one that events name",
        ),
        Finding::WalkTooLong { rule } => (
            Severity::Error,
            rule,
            None,
            format!(
                "{} clauses would have to be tried for an address of {}, but {MAX_WALK} is the most",
                extent.count,
                extent.prefix.unwrap_or_default()
            ),
            Some(
                "each port range of a rule is a clause, and so is each rule of a covering prefix".to_owned(),
            ),
            "join port ranges, or make rules unconditional: nothing is tried after such a rule",
        ),
        Finding::TooManyEntries { rule } => (
            Severity::Error,
            rule,
            None,
            format!(
                "the policy has {} entries, but {MAX_ENTRIES} is the most",
                extent.count
            ),
            Some("this rule has the most prefixes".to_owned()),
            "wider prefixes may do; prefixes of groups that no target uses together do not add up",
        ),
        Finding::TooManyClauses { rule } => (
            Severity::Error,
            rule,
            None,
            format!(
                "the policy has {} clauses, but {MAX_CLAUSES} is the most",
                extent.count
            ),
            None,
            "each port range and each range of users of a rule is a clause, for each list that it stands in",
        ),
        Finding::RedirectOntoItself { rule: index } => (
            Severity::Error,
            index,
            None,
            format!("{} redirects into its own prefix", name(index)),
            Some(rule(index).action.to_string()),
            "redirect to an address outside of it, or allow that address with a rule of its own",
        ),
        Finding::RedirectIntoRejected { redirect, reject } => (
            Severity::Error,
            redirect,
            Some((reject, format!("{}: {}", name(reject), conditions(rule(reject))))),
            format!("{} redirects to where {} rejects", name(redirect), name(reject)),
            Some(rule(redirect).action.to_string()),
            "redirect to an address that can be reached, or allow that address with a rule of its own",
        ),
    };
    let mut diagnostic = Diagnostic::new(severity, message, Some(place_of(rule(subject))));
    diagnostic.label = label;
    diagnostic.hint = Some(hint.to_owned());
    diagnostic.related = other
        .map(|(other, message)| Related {
            message,
            place: place_of(rule(other)),
        })
        .into_iter()
        .collect();
    diagnostic
}

/// What a rule does, and to which connects.
fn conditions(rule: &Rule) -> String {
    let proto = rule
        .proto
        .map_or(String::new(), |proto| format!(", proto {proto:?}").to_lowercase());
    let limits = ranges("ports", &rule.ports) + &ranges("uid", &rule.uids);
    format!("{}{proto}{limits}", rule.outcome())
}

fn ranges<N: PartialEq + fmt::Display>(what: &str, ranges: &[RangeInclusive<N>]) -> String {
    let mut text = String::new();
    for range in ranges {
        text += if text.is_empty() { what } else { "" };
        text += &match (range.start(), range.end()) {
            (first, last) if first == last => format!(" {first}"),
            (first, last) => format!(" {first}-{last}"),
        };
    }
    if text.is_empty() {
        text
    } else {
        format!(", {text}")
    }
}
