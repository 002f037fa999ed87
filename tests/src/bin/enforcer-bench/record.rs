//! The ratios on record, `tests/bench.toml`, and what is held against them: a machine's figures say little elsewhere,
//! ratios say a lot, and one that has doubled means that something broke.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{
    report::{Goal, Outcome, Row, Unit},
    results::Results,
};

/// How often a group is measured before a ratio counts as worse.
pub(crate) const REPEATS: usize = 3;

/// How many times the recorded ratio is too much.
const TOO_MUCH: f64 = 2.0;

const FILE: &str = "tests/bench.toml";

const HEAD: &str = "# Ratios that `cargo xtask bench` has measured, by row. `cargo xtask bench --quick` fails where one is\n\
                    # worse than twice that. `cargo xtask bench --bless` writes this file.\n\n";

/// Ratios by the row's identifier.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Records {
    ratios: BTreeMap<String, f64>,
}

/// The ratios on record.
pub(crate) fn read(repository: &Path) -> Result<Records> {
    let path = repository.join(FILE);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("understand {}", path.display()))
}

/// Records the ratios of these groups; those of others stay.
pub(crate) fn write(repository: &Path, all: &[Results]) -> Result<()> {
    let mut records = read(repository)?;
    for row in all.iter().flat_map(|results| &results.outcome.rows) {
        if let (Unit::Ratio, Some(reached)) = (row.unit, &row.reached) {
            records
                .ratios
                .insert(row.id.clone(), (reached.median * 1e3).round() / 1e3);
        }
    }
    let path = repository.join(FILE);
    let text = toml::to_string(&records).context("write ratios as TOML")?;
    fs::write(&path, format!("{HEAD}{text}")).with_context(|| format!("write {}", path.display()))
}

/// Measures, again where a ratio is worse than it may be, and names those that always were.
pub(crate) fn held_against(
    records: &Records,
    mut measure: impl FnMut() -> Result<Outcome>,
) -> Result<(Outcome, Vec<String>)> {
    let mut outcome = measure()?;
    let mut worse = records.worse(&outcome);
    for _ in 1..REPEATS {
        if worse.is_empty() {
            break;
        }
        outcome = measure()?;
        let again = records.worse(&outcome);
        worse.retain(|id| again.contains(id));
    }
    Ok((outcome, worse))
}

impl Records {
    fn worse(&self, outcome: &Outcome) -> Vec<String> {
        let worse = outcome.rows.iter().filter(|row| self.is_worse(row));
        worse.map(|row| row.id.clone()).collect()
    }

    fn is_worse(&self, row: &Row) -> bool {
        let (Some(recorded), Some(reached), Unit::Ratio) = (self.ratios.get(&row.id), &row.reached, row.unit)
        else {
            return false;
        };
        // Of how many times less something is, less is worse.
        match row.goal {
            Some(Goal::AtLeast(_) | Goal::SurelyAtLeast(_)) => reached.median * TOO_MUCH < *recorded,
            Some(_) => reached.median > recorded * TOO_MUCH,
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use enforcer_tests::bench::rounds::Estimate;

    use super::*;

    fn outcome(goal: Goal, ratio: f64) -> Outcome {
        let row = Row::fact("a/ratio", "a", Unit::Ratio, Some(Estimate::once(ratio))).goal(goal);
        Outcome {
            rows: vec![row],
            plots: Vec::new(),
        }
    }

    fn records() -> Records {
        Records {
            ratios: BTreeMap::from([("a/ratio".to_owned(), 3.0)]),
        }
    }

    #[test]
    fn worse_is_more_where_less_is_wanted_and_less_where_more_is() {
        for (goal, ratio, worse) in [
            (Goal::AtMost(4.0), 6.1, true),
            (Goal::AtMost(4.0), 5.9, false),
            (Goal::AtLeast(2.0), 1.4, true),
            (Goal::AtLeast(2.0), 1.6, false),
            (Goal::AtLeast(2.0), 9.0, false),
        ] {
            assert_eq!(
                !records().worse(&outcome(goal, ratio)).is_empty(),
                worse,
                "{goal:?} {ratio}"
            );
        }
    }

    #[test]
    fn a_ratio_must_be_worse_every_time() {
        let mut ratios = [9.0, 9.0, 3.0].into_iter();
        let measure = || Ok(outcome(Goal::AtMost(4.0), ratios.next().unwrap()));
        let (last, worse) = held_against(&records(), measure).unwrap();
        assert_eq!(last.rows[0].reached.unwrap().median, 3.0);
        assert!(worse.is_empty());
        let (_, worse) = held_against(&records(), || Ok(outcome(Goal::AtMost(4.0), 9.0))).unwrap();
        assert_eq!(worse, ["a/ratio"]);
    }
}
