//! Measuring in rounds, and what can be said of the outcome.
//!
//! In a round everything that is compared is measured once, one after the other, so that what the machine does meanwhile
//! meets all of it alike. Of the rounds' values the median is told, with an interval that holds the true median with
//! 95 % certainty whatever the distribution: its ends are the values at those ranks between which at least 95 % of all
//! binomial outcomes of "below the median" lie. A ratio is the median of the rounds' ratios, with the same interval.

use serde::{Deserialize, Serialize};

/// Certainty of the interval.
const CONFIDENCE: f64 = 0.95;

/// What rounds came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// How many rounds.
    pub rounds: usize,
}

impl Estimate {
    /// Of the rounds' values. With fewer than six the interval cannot be that certain; its ends are then the
    /// smallest and the largest. `None` without any.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let rounds = sorted.len();
        let middle = rounds / 2;
        let median = if rounds % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        let (low, high) = match interval_rank(rounds) {
            Some(rank) => (sorted[rank], sorted[rounds - 1 - rank]),
            None => (first, last),
        };
        Some(Self {
            median,
            low,
            high,
            rounds,
        })
    }

    /// Of the rounds' ratios.
    #[must_use]
    pub fn of_ratios(of: &[f64], to: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
        Self::of(&ratios)
    }

    /// Of the rounds' differences.
    #[must_use]
    pub fn of_differences(of: &[f64], to: &[f64]) -> Option<Self> {
        let differences: Vec<f64> = of.iter().zip(to).map(|(of, to)| of - to).collect();
        Self::of(&differences)
    }

    /// A value that was measured once.
    #[must_use]
    pub const fn once(value: f64) -> Self {
        Self {
            median: value,
            low: value,
            high: value,
            rounds: 1,
        }
    }
}

/// How many of the smallest values lie outside the interval; as many of the largest do.
fn interval_rank(rounds: usize) -> Option<usize> {
    // Sum over binomial(rounds, 1/2), from the smallest up, until the tail would be too heavy.
    let mut probability = 0.5_f64.powi(i32::try_from(rounds).ok()?);
    let mut tail = 0.0;
    let mut rank = None;
    for outside in 0..rounds / 2 {
        tail += probability;
        if 2.0 * tail > 1.0 - CONFIDENCE {
            break;
        }
        rank = Some(outside);
        probability *= (rounds - outside) as f64 / (outside + 1) as f64;
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_sign_test() {
        // Tables of the sign test: with 6 values the extremes, with 11 the second, with 31 the tenth from either end.
        for (rounds, rank) in [
            (5, None),
            (6, Some(0)),
            (11, Some(1)),
            (20, Some(5)),
            (31, Some(9)),
        ] {
            assert_eq!(interval_rank(rounds), rank, "{rounds}");
        }
    }

    #[test]
    fn the_median_lies_within_its_interval() {
        let values: Vec<f64> = (1..=31).rev().map(f64::from).collect();
        let estimate = Estimate::of(&values).unwrap();
        assert_eq!((estimate.low, estimate.median, estimate.high), (10.0, 16.0, 22.0));
        assert_eq!(Estimate::of(&[]), None);
        let even = Estimate::of(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!((even.low, even.median, even.high), (1.0, 2.5, 4.0));
    }

    #[test]
    fn ratios_are_those_of_each_round() {
        let ratio = Estimate::of_ratios(&[2.0, 40.0, 6.0], &[1.0, 10.0, 2.0]).unwrap();
        assert_eq!(ratio.median, 3.0);
        let difference = Estimate::of_differences(&[2.0, 40.0, 6.0], &[1.0, 10.0, 2.0]).unwrap();
        assert_eq!(difference.median, 4.0);
    }
}
