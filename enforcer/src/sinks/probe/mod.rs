//! What `probe` found: a report for people ([`text()`]), lines for programs ([`json()`]), and a [`table()`] where many hosts were
//! looked at.

mod json;
mod rows;
mod table;
mod text;

use jiff::Timestamp;

use crate::probe::{Findings, Verdict, clients::Clients, judged::Judged};

pub use self::{json::json, table::table, text::text};

/// Everything that is known of one host.
#[derive(Clone, Debug)]
pub struct Probed {
    /// When it was known.
    pub time: Timestamp,
    /// The target that it was looked at from, as it was named; `None` for this process's own surroundings.
    pub from: Option<String>,
    /// What was measured.
    pub findings: Findings,
    /// What clients make of it.
    pub clients: Clients,
    /// Who judges connects already.
    pub judged: Judged,
    /// What follows.
    pub verdict: Verdict,
}

/// A time for people.
fn duration(time_us: u64) -> String {
    // Rounding is what this is for.
    #[expect(clippy::cast_precision_loss, reason = "to a tenth of a millisecond at best")]
    let ms = time_us as f64 / 1000.0;
    if time_us < 100_000 {
        format!("{ms:.1} ms")
    } else if time_us < 1_000_000 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_exact_as_people_want_them() {
        for (time_us, shown) in [
            (40, "0.0 ms"),
            (1_250, "1.2 ms"),
            (253_000, "253 ms"),
            (5_001_000, "5.0 s"),
        ] {
            assert_eq!(duration(time_us), shown);
        }
    }
}
