//! Times and spans as people type them.

use std::time::Duration;

use jiff::civil::{DateTime, Time};
use jiff::{Timestamp, ToSpan, Zoned};

use super::Misuse;
use crate::output::bytes::parse_span;

/// A point in time, in milliseconds since 1970: with its own offset, or by the time zone of `now`; a time of day is the
/// next one.
pub fn at_ms(typed: &str, now: &Zoned) -> Result<u64, Misuse> {
    moment_ms(typed, now, |today| if today > *now { Ok(today) } else { today.checked_add(1.day()) })
}

/// A point in time that has passed, in milliseconds since 1970: as for [`at_ms`], but a time of day is the last one; or a
/// span before `now`.
pub fn since_ms(typed: &str, now: &Zoned) -> Result<u64, Misuse> {
    if let Ok(span) = parse_span(typed) {
        let now_ms = u64::try_from(now.timestamp().as_millisecond()).unwrap_or_default();
        return Ok(now_ms.saturating_sub(span_ms(span)));
    }
    moment_ms(typed, now, |today| if today > *now { today.checked_sub(1.day()) } else { Ok(today) })
}

/// A point in time; a time of day is given as that of today, and `of_day` tells which day is meant.
fn moment_ms(
    typed: &str,
    now: &Zoned,
    of_day: impl FnOnce(Zoned) -> Result<Zoned, jiff::Error>,
) -> Result<u64, Misuse> {
    let wrong = || {
        Misuse(format!("'{typed}' is not a time; write it like 03:00, 2026-03-01 03:00 or 2026-03-01T03:00Z"))
    };
    let at = match (typed.parse::<Timestamp>(), typed.parse::<DateTime>(), typed.parse::<Time>()) {
        (Ok(at), _, _) => at,
        (_, Ok(at), _) => at.to_zoned(now.time_zone().clone()).map_err(|_| wrong())?.timestamp(),
        (_, _, Ok(time)) => {
            let today = now.with().time(time).build().map_err(|_| wrong())?;
            of_day(today).map_err(|_| wrong())?.timestamp()
        }
        _ => return Err(wrong()),
    };
    u64::try_from(at.as_millisecond()).map_err(|_| wrong())
}

/// A span in milliseconds.
pub fn span_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noon() -> Zoned {
        "2026-03-01T12:00:00Z".parse::<Timestamp>().unwrap().to_zoned(jiff::tz::TimeZone::UTC)
    }

    #[test]
    fn a_time_of_day_is_the_next_one_and_an_offset_is_kept() {
        let now = noon();
        let meant = |typed: &str| {
            Timestamp::from_millisecond(at_ms(typed, &now).unwrap() as i64).unwrap().to_string()
        };
        assert_eq!(meant("13:30"), "2026-03-01T13:30:00Z");
        assert_eq!(meant("11:59"), "2026-03-02T11:59:00Z");
        assert_eq!(meant("2026-04-01 03:00"), "2026-04-01T03:00:00Z");
        assert_eq!(meant("2026-04-01T03:00+02:00"), "2026-04-01T01:00:00Z");
    }

    #[test]
    fn a_time_that_has_passed_may_be_a_span_before_now() {
        let now = noon();
        let meant = |typed: &str| {
            Timestamp::from_millisecond(since_ms(typed, &now).unwrap() as i64).unwrap().to_string()
        };
        assert_eq!(meant("2h"), "2026-03-01T10:00:00Z");
        assert_eq!(meant("13:30"), "2026-02-28T13:30:00Z");
        assert_eq!(meant("2026-01-01 00:00"), "2026-01-01T00:00:00Z");
    }

    #[test]
    fn the_last_time_of_day_is_that_of_the_calendar_also_over_a_change_of_the_clocks() {
        // Two hours west of UTC, where clocks go forward on the second Sunday of March.
        let zone = jiff::tz::TimeZone::posix("AST2ADT,M3.2.0,M11.1.0").unwrap();
        let now = "2026-03-08T12:00:00Z".parse::<Timestamp>().unwrap().to_zoned(zone);
        assert_eq!(now.datetime().to_string(), "2026-03-08T11:00:00");
        let yesterday = "2026-03-07T14:00:00Z".parse::<Timestamp>().unwrap().as_millisecond();
        assert_eq!(since_ms("12:00", &now).unwrap(), yesterday as u64);
    }

    #[test]
    fn what_is_no_time_is_refused_with_examples() {
        for typed in ["soon", "25:00", "2026-13-01 00:00", ""] {
            let Misuse(said) = at_ms(typed, &Zoned::now()).unwrap_err();
            assert!(said.contains("write it like 03:00"), "{said}");
        }
    }
}
