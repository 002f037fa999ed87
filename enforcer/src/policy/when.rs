//! When a rule ends, as it is written: a time of the wall clock, or how long after its first load.

use std::time::{Duration, SystemTime};

use jiff::{Span, SpanRelativeTo, Timestamp, Unit};
use toml::value::Datetime;

use super::{
    document::When,
    rule::Expires,
    value::{Problem, quote},
};

/// The longest time that a rule may be given, in days: what is meant to last is written without an end.
const MAX_DAYS: u64 = 3650;

/// `expires` of a policy file.
pub(super) fn parse_when(written: &When) -> Result<Expires, Problem> {
    match written {
        When::Time(time) => parse_time(*time),
        When::Text(text) => parse_expires(text),
    }
}

/// RFC 3339, or a duration such as `2h`, `1h30m`, `7d`.
pub(super) fn parse_expires(text: &str) -> Result<Expires, Problem> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Expires::At(time.into()));
    }
    // A date, if not a whole one, is what has the form of one.
    if let Ok(time) = text.parse::<Datetime>() {
        return parse_time(time);
    }
    let no_duration = || {
        Problem::new(format!("{} is neither a time nor a duration", quote(text)))
            .hint("write a duration such as `2h`, `1h30m` or `7d`, or a time such as `2030-01-31T18:00:00Z`")
    };
    let span: Span = text.parse().map_err(|_| no_duration())?;
    if span.get_months() != 0 || span.get_years() != 0 {
        return Err(
            Problem::new(format!("{} is not the same length every time", quote(text)))
                .hint("write months and years in days, such as `30d`"),
        );
    }
    // What is negative is over before it begins.
    let length = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| no_duration())?;
    let duration = Duration::try_from(length).unwrap_or_default();
    if duration.is_zero() {
        return Err(Problem::new(format!("{} is no time at all", quote(text)))
            .hint("write how long the rule is to act, or `enabled = false`"));
    }
    if duration > Duration::from_secs(MAX_DAYS * 24 * 3600) {
        return Err(Problem::new(format!("{} is longer than ten years", quote(text)))
            .hint("leave `expires` out for a rule that stays"));
    }
    Ok(Expires::After(duration))
}

/// A time as TOML has them: with date, time and offset.
fn parse_time(written: Datetime) -> Result<Expires, Problem> {
    let text = written.to_string();
    let whole = match (written.date, written.time) {
        (Some(date), Some(time)) => format!("{date}T{time}Z"),
        (Some(date), None) => format!("{date}T00:00:00Z"),
        (None, _) => {
            return Err(Problem::new(format!("{} is a time without a date", quote(&text)))
                .hint("write it like `2030-01-31T18:00:00Z`"));
        }
    };
    if written.time.is_none() || written.offset.is_none() {
        return Err(Problem::new(format!("{} is not one moment", quote(&text)))
            .label("it depends on where one is")
            .hint(format!(
                "write it with time and offset: `{whole}` is UTC, `{}+01:00` an hour before that",
                whole.trim_end_matches('Z')
            )));
    }
    match text.parse::<Timestamp>() {
        Ok(time) => Ok(Expires::At(SystemTime::from(time))),
        Err(_) => Err(Problem::new(format!("there is no time {}", quote(&text)))),
    }
}

/// A time of the wall clock, for people: in UTC, to the second.
pub(super) fn show_time(time: SystemTime) -> String {
    match Timestamp::try_from(time) {
        Ok(time) => time.round(Unit::Second).unwrap_or(time).to_string(),
        Err(_) => "the end of time".to_owned(),
    }
}

/// A duration, for people: `1h 30m`.
pub(super) fn show_duration(duration: Duration) -> String {
    match jiff::SignedDuration::try_from(duration) {
        Ok(duration) => format!("{duration:#}"),
        Err(_) => format!("{duration:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_times_are_understood() {
        for (text, secs) in [
            ("3s", 3),
            ("2h", 7200),
            ("1h30m", 5400),
            ("1h 30m", 5400),
            ("90 minutes", 5400),
            ("7d", 7 * 86400),
            ("2w", 14 * 86400),
            ("PT2H", 7200),
        ] {
            let expected = Expires::After(Duration::from_secs(secs));
            assert_eq!(parse_expires(text), Ok(expected), "{text}");
        }
        assert_eq!(
            parse_expires("1500ms"),
            Ok(Expires::After(Duration::from_millis(1500)))
        );
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        for text in [
            "2030-03-17T17:46:40Z",
            "2030-03-17 17:46:40Z",
            "2030-03-17T18:46:40+01:00",
        ] {
            assert_eq!(parse_expires(text), Ok(Expires::At(time)), "{text}");
            assert_eq!(parse_time(text.parse().unwrap()), Ok(Expires::At(time)), "{text}");
        }
        assert_eq!(show_time(time), "2030-03-17T17:46:40Z");
        assert_eq!(show_duration(Duration::from_secs(5400)), "1h 30m");
    }

    #[test]
    fn what_is_no_end_says_how_one_is_written() {
        for (text, expected) in [
            ("", "`` is neither a time nor a duration"),
            ("soon", "write a duration such as `2h`"),
            ("5", "is neither"),
            ("0s", "`0s` is no time at all"),
            ("-2h", "`-2h` is no time at all"),
            ("1month", "`1month` is not the same length every time"),
            ("1y", "in days, such as `30d`"),
            ("4000d", "`4000d` is longer than ten years"),
            ("175000000h", "longer than ten years"),
            (
                "2030-03-17",
                "with time and offset: `2030-03-17T00:00:00Z` is UTC",
            ),
            (
                "2030-03-17T17:46:40",
                "`2030-03-17T17:46:40+01:00` an hour before",
            ),
            ("17:46:40", "`17:46:40` is a time without a date"),
        ] {
            let said = parse_expires(text).unwrap_err().to_string();
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
