//! What limits a rule of the file: ports, users, and the share of connects that it acts on.

use std::ops::RangeInclusive;

use toml::Spanned;

use super::{
    check_rule::{checked, is_written_empty},
    document::{ByName, Field, Numbers, RuleTable},
    parse::Report,
    rule::{Rollout, RolloutBy},
    source::Source,
    value::{Problem, check_name, parse_ports, parse_uids, port_number, quote, uid_number},
};

/// The ports of a rule; `None` if there is none among what is given.
pub(super) fn ports(
    field: &Field<Vec<Spanned<Numbers>>>,
    source: &Source,
    report: &mut Report,
) -> Option<Vec<RangeInclusive<u16>>> {
    let empty = (
        "the rule has an empty list of ports",
        "leave `ports` out for every port",
    );
    ranges(field, empty, port_number, parse_ports, source, report)
}

/// The users of a rule; `None` if there is none among what is given.
pub(super) fn uids(
    field: &Field<Vec<Spanned<Numbers>>>,
    source: &Source,
    report: &mut Report,
) -> Option<Vec<RangeInclusive<u32>>> {
    let empty = (
        "the rule has an empty list of users",
        "leave `uid` out for every user",
    );
    ranges(field, empty, uid_number, parse_uids, source, report)
}

fn ranges<N: Copy + Ord + Into<u64>>(
    field: &Field<Vec<Spanned<Numbers>>>,
    (empty, hint): (&str, &str),
    of_number: impl Fn(i64) -> Result<RangeInclusive<N>, Problem>,
    of_text: impl Fn(&str) -> Result<RangeInclusive<N>, Problem>,
    source: &Source,
    report: &mut Report,
) -> Option<Vec<RangeInclusive<N>>> {
    let list = match field {
        Field::Absent => return Some(Vec::new()),
        Field::Bad => return None,
        Field::Good(list) => list,
    };
    if list.get_ref().is_empty() && is_written_empty(list, source) {
        report.error(source, &list.span(), Problem::new(empty).hint(hint));
    }
    let mut ranges = Vec::new();
    for one in list.get_ref() {
        let parsed = match one.get_ref() {
            Numbers::One(number) => of_number(*number),
            Numbers::Text(text) => of_text(text),
        };
        match parsed {
            Ok(range) => ranges.push(range),
            Err(problem) => report.error(source, &one.span(), problem),
        }
    }
    merge(&mut ranges);
    (!ranges.is_empty()).then_some(ranges)
}

/// Sorts ranges and joins those that overlap or touch: each one left is a clause.
pub(super) fn merge<N: Copy + Ord + Into<u64>>(ranges: &mut Vec<RangeInclusive<N>>) {
    ranges.sort_unstable_by_key(|range| (*range.start(), *range.end()));
    ranges.dedup_by(|next, last| {
        let last_end: u64 = (*last.end()).into();
        let joins = (*next.start()).into() <= last_end + 1;
        if joins {
            *last = *last.start()..=*last.end().max(next.end());
        }
        joins
    });
}

/// The share of connects that a rule acts on: all, where it does not say. `None` if there is a mistake in it.
pub(super) fn rollout(
    table: &RuleTable<'_>,
    source: &Source,
    report: &mut Report,
) -> Option<Option<Rollout>> {
    let canary = canary(&table.canary, source, report);
    let Some(percent) = table.rollout.good() else {
        if table.rollout.is_absent() {
            let keys = [
                ("by", table.by.good().map(Spanned::span)),
                ("canary", table.canary.good().map(Spanned::span)),
            ];
            for (key, span) in keys {
                if let Some(span) = span {
                    let problem = Problem::new(format!("the rule has `{key}`, and no `rollout`"));
                    let hint = format!("remove `{key}`, or say of how many percent: `rollout = 25`");
                    report.error(source, &span, problem.hint(hint));
                }
            }
        }
        return table.rollout.is_absent().then_some(None);
    };
    if table.name.is_absent() {
        let problem = Problem::new("a rule with a `rollout` needs a name");
        let hint = "add `name = \"…\"`: it decides who is in, so that moving the rule changes nothing";
        report.missing(source, &percent.span(), problem.hint(hint));
    }
    let percent = checked(&table.rollout, source, report, |percent| {
        u8::try_from(*percent)
            .ok()
            .filter(|percent| *percent <= 100)
            .ok_or_else(|| {
                Problem::new(format!("{} is not a share", quote(&percent.to_string())))
                    .label("not a percentage")
                    .hint("a rollout is 0 to 100, in percent")
            })
    })?;
    let by = match &table.by {
        Field::Absent => RolloutBy::Target,
        Field::Bad => return None,
        Field::Good(by) => match by.get_ref() {
            ByName::Target => RolloutBy::Target,
            ByName::Process => RolloutBy::Process,
            ByName::Destination => RolloutBy::Destination,
        },
    };
    Some(Some(Rollout {
        percent,
        by,
        canary,
        // The lists of the whole policy are numbered when all its rules are there.
        canary_list: 0,
    }))
}

/// Names of targets, sorted.
fn canary(field: &Field<Vec<Spanned<String>>>, source: &Source, report: &mut Report) -> Vec<String> {
    let Some(list) = field.good() else {
        return Vec::new();
    };
    if list.get_ref().is_empty() && is_written_empty(list, source) {
        let problem = Problem::new("the rule has an empty list of canaries");
        report.error(
            source,
            &list.span(),
            problem.hint("leave `canary` out where no target is always in"),
        );
    }
    let mut names = Vec::new();
    for name in list.get_ref() {
        match check_name(name.get_ref(), "target") {
            Ok(()) => names.push(name.get_ref().clone()),
            Err(problem) => report.error(source, &name.span(), problem),
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_that_overlap_or_touch_become_one() {
        let mut ports = vec![
            8000..=8999_u16,
            443..=443,
            444..=450,
            8500..=9000,
            1..=1,
            65535..=65535,
        ];
        merge(&mut ports);
        assert_eq!(ports, [1..=1, 443..=450, 8000..=9000, 65535..=65535]);
        let mut users = vec![0..=0, 1000..=u32::MAX - 1, 2000..=2000, 1..=5_u32];
        merge(&mut users);
        assert_eq!(users, [0..=5, 1000..=u32::MAX - 1]);
    }
}
