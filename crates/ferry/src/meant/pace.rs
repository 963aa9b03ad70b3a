//! What is meant by a pace: spans and sizes a second, or none.

use super::Misuse;
use crate::output::bytes::{parse_size, parse_span};
use ferry_api::PaceVolume;
use std::num::NonZeroU64;

/// Longest bound of a guard, in seconds: a guest that waits longer has other worries.
const GUARD_MAX_S: u64 = 60;

/// What is to change of a volume's pace.
pub(super) fn of_volume(
    max: Option<&str>,
    guard: Option<&str>,
    finish_by: Option<&str>,
    now_ms: u64,
) -> Result<PaceVolume, Misuse> {
    let pace = PaceVolume {
        budget_bytes_per_s: max.map(budget).transpose()?,
        guard_us: guard.map(guard_us).transpose()?,
        finish_by_ms: finish_by.map(|typed| finish_by_ms(typed, now_ms)).transpose()?,
    };
    if pace == PaceVolume::default() {
        return Err(Misuse(
            "a pace needs --max, --guard or --finish-by; `ferry volume show` tells how it is now".to_owned(),
        ));
    }
    Ok(pace)
}

/// Bytes a second, or none.
pub(super) fn budget(typed: &str) -> Result<Option<NonZeroU64>, Misuse> {
    if typed == "none" {
        return Ok(None);
    }
    rate("--max", typed, ", or none").map(Some)
}

/// Bytes a second of the network.
pub(super) fn bandwidth(typed: &str) -> Result<NonZeroU64, Misuse> {
    rate("--bandwidth", typed, "")
}

fn rate(option: &str, typed: &str, or_else: &str) -> Result<NonZeroU64, Misuse> {
    let bytes_per_s = parse_size(typed.strip_suffix("/s").unwrap_or(typed)).map_err(|_| {
        Misuse(format!("{option} {typed:?} is no pace; write bytes a second as in 50MiB{or_else}"))
    })?;
    let zero = || Misuse(format!("{option} 0 would never end; give at least 1 byte a second{or_else}"));
    NonZeroU64::new(bytes_per_s).ok_or_else(zero)
}

/// Microseconds, or none.
fn guard_us(typed: &str) -> Result<Option<NonZeroU64>, Misuse> {
    if typed == "none" {
        return Ok(None);
    }
    let wrong = || {
        Misuse(format!(
            "--guard {typed:?} is no bound; write a span of at most {GUARD_MAX_S}s as in 5ms or 800us, or none"
        ))
    };
    let micros = match typed.strip_suffix("us") {
        Some(number) => number.trim().parse().map_err(|_| wrong())?,
        None => parse_span(typed).map_err(|_| wrong())?.as_micros(),
    };
    let within = u64::try_from(micros).ok().filter(|&us| us <= GUARD_MAX_S * 1_000_000);
    within.and_then(NonZeroU64::new).map(Some).ok_or_else(wrong)
}

/// A span from now, or none.
fn finish_by_ms(typed: &str, now_ms: u64) -> Result<Option<u64>, Misuse> {
    if typed == "none" {
        return Ok(None);
    }
    let wrong =
        || Misuse(format!("--finish-by {typed:?} is no span from now; write it as in 2h or 30m, or none"));
    let span = parse_span(typed).map_err(|_| wrong())?;
    let span_ms = u64::try_from(span.as_millis()).ok().filter(|&ms| ms > 0);
    span_ms.and_then(|ms| now_ms.checked_add(ms)).map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_size_a_second_or_none() {
        let mib = NonZeroU64::new(50 << 20);
        for (typed, bytes_per_s) in [("50MiB", mib), ("50MiB/s", mib), ("none", None)] {
            let pace = PaceVolume { budget_bytes_per_s: Some(bytes_per_s), ..PaceVolume::default() };
            assert_eq!(of_volume(Some(typed), None, None, 0).unwrap(), pace, "{typed}");
        }
        assert!(of_volume(Some("0"), None, None, 0).is_err());
    }

    #[test]
    fn a_guard_is_a_short_span_or_none() {
        let us = NonZeroU64::new;
        for (typed, bound_us) in
            [("5ms", us(5_000)), ("800us", us(800)), ("1s", us(1_000_000)), ("none", None)]
        {
            let pace = PaceVolume { guard_us: Some(bound_us), ..PaceVolume::default() };
            assert_eq!(of_volume(None, Some(typed), None, 0).unwrap(), pace, "{typed}");
        }
        for wrong in ["0ms", "2h", "fast", "-1ms", ""] {
            assert!(of_volume(None, Some(wrong), None, 0).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_to_finish_by_is_a_span_from_now_or_none() {
        for (typed, at_ms) in [("2h", Some(7_200_005)), ("10", Some(10_005)), ("none", None)] {
            let pace = PaceVolume { finish_by_ms: Some(at_ms), ..PaceVolume::default() };
            assert_eq!(of_volume(None, None, Some(typed), 5).unwrap(), pace, "{typed}");
        }
        assert!(of_volume(None, None, Some("tomorrow"), 5).is_err());
        assert!(of_volume(None, None, Some("0h"), 5).is_err());
    }

    #[test]
    fn no_pace_at_all_is_a_misuse() {
        assert!(of_volume(None, None, None, 0).is_err());
    }
}
