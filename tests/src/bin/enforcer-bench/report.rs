//! What was measured: rows with what was reached, what the goal is, and what holds them back.

use enforcer_tests::bench::rounds::Estimate;
use serde::{Deserialize, Serialize};

/// What a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// Times as much.
    Ratio,
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Seconds,
    Bytes,
    Mebibytes,
    /// Something each second.
    PerSecond,
    /// Things.
    Count,
    Percent,
}

impl Unit {
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::Ratio if value.abs() < 100.0 => format!("{value:.3}"),
            Self::Ratio => format!("{value:.0}"),
            Self::Nanoseconds if value.abs() < 100.0 => format!("{value:.1} ns"),
            Self::Nanoseconds => format!("{value:.0} ns"),
            Self::Microseconds => format!("{value:.2} µs"),
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::Seconds => format!("{value:.2} s"),
            Self::Bytes => format!("{value:.0} B"),
            Self::Mebibytes => format!("{value:.1} MiB"),
            Self::PerSecond => format!("{value:.0}/s"),
            Self::Count => format!("{value:.0}"),
            Self::Percent => format!("{value:.1} %"),
        }
    }
}

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtMost(f64),
    /// The same, judged by the interval's upper end: for goals nearer than a tenth to what they are compared with.
    SurelyAtMost(f64),
    AtLeast(f64),
    /// The same, judged by the interval's lower end.
    SurelyAtLeast(f64),
}

impl Goal {
    const fn is_met_by(self, reached: &Estimate) -> bool {
        match self {
            Self::AtMost(limit) => reached.median <= limit,
            Self::SurelyAtMost(limit) => reached.high <= limit,
            Self::AtLeast(limit) => reached.median >= limit,
            Self::SurelyAtLeast(limit) => reached.low >= limit,
        }
    }

    fn show(self, unit: Unit) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {}", unit.show(limit)),
            Self::SurelyAtMost(limit) => format!("≤ {}, surely", unit.show(limit)),
            Self::AtLeast(limit) => format!("≥ {}", unit.show(limit)),
            Self::SurelyAtLeast(limit) => format!("≥ {}, surely", unit.show(limit)),
        }
    }
}

/// How a row came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Reached,
    FallsShort,
    /// There is no goal.
    Fact,
    /// It could not be measured.
    NotHere,
}

impl Standing {
    pub(crate) const fn mark(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::FallsShort => "FALLS SHORT",
            Self::Fact => "",
            Self::NotHere => "not here",
        }
    }
}

/// One figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// By what it is recorded: the group, a slash, and a name in it.
    pub(crate) id: String,
    /// What it is, for people.
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) goal: Option<Goal>,
    pub(crate) reached: Option<Estimate>,
    /// What holds it back where it falls short, or why it could not be measured, or what it is made of.
    pub(crate) note: Option<String>,
}

impl Row {
    /// A row without a goal.
    pub(crate) fn fact(
        id: impl Into<String>,
        what: impl Into<String>,
        unit: Unit,
        reached: Option<Estimate>,
    ) -> Self {
        Self {
            id: id.into(),
            what: what.into(),
            unit,
            goal: None,
            reached,
            note: None,
        }
    }

    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// Said where the row falls short.
    pub(crate) fn held_back_by(mut self, what: &str) -> Self {
        if self.standing() == Standing::FallsShort {
            self.note = Some(what.to_owned());
        }
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    pub(crate) fn standing(&self) -> Standing {
        match (&self.reached, self.goal) {
            (None, _) => Standing::NotHere,
            (Some(_), None) => Standing::Fact,
            (Some(reached), Some(goal)) if goal.is_met_by(reached) => Standing::Reached,
            (Some(_), Some(_)) => Standing::FallsShort,
        }
    }

    /// The cells of its line in a table: what, goal, reached, the interval, how it came out.
    pub(crate) fn cells(&self) -> [String; 5] {
        let goal = self.goal.map_or_else(String::new, |goal| goal.show(self.unit));
        let (reached, interval) = match &self.reached {
            None => (String::new(), String::new()),
            Some(reached) if reached.rounds == 1 => (self.unit.show(reached.median), String::new()),
            Some(reached) => (
                self.unit.show(reached.median),
                format!(
                    "{} … {}",
                    self.unit.show(reached.low),
                    self.unit.show(reached.high)
                ),
            ),
        };
        [
            self.what.clone(),
            goal,
            reached,
            interval,
            self.standing().mark().to_owned(),
        ]
    }
}

/// A line of a plot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// Where, how much.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plot {
    /// File name without its extension.
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) x: String,
    pub(crate) y: String,
    /// Whether places along x are multiples rather than steps.
    pub(crate) log_x: bool,
    pub(crate) series: Vec<Series>,
}

/// What a group of rows came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) rows: Vec<Row>,
    pub(crate) plots: Vec<Plot>,
}
