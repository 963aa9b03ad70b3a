//! Amounts as people write and read them: sizes (`8GiB`, `256MiB`, `4096`), spans of time (`10s`, `1.5 ms`).
//!
//! Invariant: what [`parse_size`] accepts means one thing. `GB` is refused because some read it as 1000³ and some
//! as 1024³.

use std::fmt;
use std::time::Duration;

const UNITS: [(&str, u64); 6] =
    [("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A number of bytes, shown with three digits and its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, unit_bytes) =
            UNITS.into_iter().find(|(_, unit_bytes)| self.0 >= *unit_bytes).unwrap_or(("B", 1));
        let (whole, rest) = (self.0 / unit_bytes, self.0 % unit_bytes);
        if rest == 0 {
            return write!(f, "{whole} {unit}");
        }
        let decimals = if whole < 10 { 2 } else { usize::from(whole < 100) };
        write!(f, "{:.decimals$} {unit}", self.0 as f64 / unit_bytes as f64)
    }
}

/// Reads a size such as `8GiB`, `1.5TiB`, `256 MiB` or `4096` as bytes.
///
/// # Errors
/// One clause that says what was wrong and how to write it.
pub fn parse_size(typed: &str) -> Result<u64, String> {
    let trimmed = typed.trim();
    let digits_end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = (&trimmed[..digits_end], trimmed[digits_end..].trim_start());
    let unit_bytes = if unit.is_empty() {
        1
    } else {
        UNITS
            .into_iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(_, unit_bytes)| unit_bytes)
            .ok_or_else(|| {
                format!("{unit:?} is not a unit of size; write KiB, MiB, GiB or TiB, as in 8GiB")
            })?
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let not_a_size = || format!("{typed:?} is not a size; write it as in 8GiB, 256MiB or 4096");
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return Err(not_a_size());
    }
    let too_large = || format!("{typed:?} is larger than any volume can be");
    let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| not_a_size())?);
    let whole: u128 = whole.parse().map_err(|_| too_large())?;
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| not_a_size())? };
    let scaled = whole.checked_mul(scale).and_then(|n| (n + fraction).checked_mul(u128::from(unit_bytes)));
    let scaled = scaled.ok_or_else(too_large)?;
    if scaled % scale != 0 {
        return Err(format!("{typed:?} is not a whole number of bytes"));
    }
    u64::try_from(scaled / scale).map_err(|_| too_large())
}

/// Reads a span such as `10s`, `500ms`, `2m`, `24h`; a bare number is seconds.
///
/// # Errors
/// One clause that says what was wrong and how to write it.
pub fn parse_span(typed: &str) -> Result<Duration, String> {
    let wrong = || format!("{typed:?} is not a span of time; write it as in 10s, 500ms, 2m or 24h");
    let trimmed = typed.trim();
    let digits_end = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let number: u64 = trimmed[..digits_end].parse().map_err(|_| wrong())?;
    let unit_ms = match trimmed[digits_end..].trim_start() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)
}

/// A size as [`parse_size`] reads it again, exactly: in the largest unit of which it is a whole number.
pub fn whole_bytes(bytes: u64) -> String {
    let fits = |(_, unit_bytes): &(&str, u64)| bytes > 0 && bytes.is_multiple_of(*unit_bytes);
    let (unit, unit_bytes) = UNITS.into_iter().find(fits).unwrap_or(("B", 1));
    format!("{}{unit}", bytes / unit_bytes)
}

/// A span as [`parse_span`] reads it again, exactly to the millisecond: in the largest unit of which it is a whole number.
pub fn whole_span(span: Duration) -> String {
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let span_ms = span.as_millis();
    let fits = |(_, unit_ms): &(&str, u128)| span_ms > 0 && span_ms.is_multiple_of(*unit_ms);
    let (unit, unit_ms) = units.into_iter().find(fits).unwrap_or(("ms", 1));
    format!("{}{unit}", span_ms / unit_ms)
}

/// A span of time, shown in the unit people expect: `840 us`, `12.3 ms`, `4.05 s`, `3 min 20 s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        if seconds < 0.001 {
            write!(f, "{} us", self.0.as_micros())
        } else if seconds < 0.1 {
            write!(f, "{:.1} ms", seconds * 1e3)
        } else if seconds < 1.0 {
            write!(f, "{:.0} ms", seconds * 1e3)
        } else if seconds < 60.0 && self.0.subsec_millis() == 0 {
            write!(f, "{} s", self.0.as_secs())
        } else if seconds < 60.0 {
            write!(f, "{seconds:.2} s")
        } else if seconds < 3600.0 {
            write!(f, "{} min {} s", self.0.as_secs() / 60, self.0.as_secs() % 60)
        } else {
            write!(f, "{} h {} min", self.0.as_secs() / 3600, self.0.as_secs() / 60 % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_whole_units_is_read_as_the_same() {
        for (bytes, text) in [(20 << 30, "20GiB"), (1536 << 20, "1536MiB"), (4097, "4097B"), (0, "0B")] {
            assert_eq!((whole_bytes(bytes).as_str(), parse_size(text)), (text, Ok(bytes)));
        }
        for (ms, text) in [(120_000, "2m"), (7_200_000, "2h"), (90_000, "90s"), (1_500, "1500ms"), (0, "0ms")]
        {
            let span = Duration::from_millis(ms);
            assert_eq!((whole_span(span).as_str(), parse_span(text)), (text, Ok(span)));
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [
            ("4096", 4096),
            ("0", 0),
            ("8GiB", 8 << 30),
            ("256MiB", 256 << 20),
            ("256 mib", 256 << 20),
            ("1.5TiB", 3 << 39),
            ("0.5KiB", 512),
            ("12B", 12),
            ("18446744073709551615", u64::MAX),
        ];
        for (typed, bytes) in cases {
            assert_eq!(parse_size(typed), Ok(bytes), "{typed}");
        }
    }

    #[test]
    fn sizes_that_could_mean_two_things_or_nothing_are_refused() {
        for typed in
            ["", "GiB", "8GB", "8G", "-1", "1.GiB", ".5GiB", "1.2.3GiB", "8GiBs", "99999999PiB", "0.1B"]
        {
            let refusal = parse_size(typed).unwrap_err();
            assert!(!refusal.is_empty() && !refusal.contains('\n'), "{typed}: {refusal}");
        }
    }

    #[test]
    fn sizes_are_shown_short_and_whole_ones_exactly() {
        let cases = [
            (0, "0 B"),
            (4096, "4 KiB"),
            (8 << 30, "8 GiB"),
            ((8 << 30) + 1, "8.00 GiB"),
            (1536, "1.50 KiB"),
            (13 * 1024 + 512, "13.5 KiB"),
            (300 << 20 | 4096, "300 MiB"),
        ];
        for (bytes, shown) in cases {
            assert_eq!(Bytes(bytes).to_string(), shown);
        }
    }

    #[test]
    fn a_shown_whole_size_reads_back_as_the_same_size() {
        for bytes in [1, 512, 4096, 3 << 20, 8 << 30, 1 << 40] {
            assert_eq!(parse_size(&Bytes(bytes).to_string()), Ok(bytes));
        }
    }

    #[test]
    fn spans_are_read_and_shown() {
        assert_eq!(parse_span("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_span("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_span("24h"), Ok(Duration::from_secs(86400)));
        for typed in ["", "s", "1.5s", "10 minutes", "99999999999999999d"] {
            parse_span(typed).unwrap_err();
        }
        let cases = [(840, "840 us"), (12_340, "12.3 ms"), (840_000, "840 ms"), (4_050_000, "4.05 s")];
        for (micros, shown) in cases {
            assert_eq!(Span(Duration::from_micros(micros)).to_string(), shown);
        }
        assert_eq!(Span(Duration::from_secs(200)).to_string(), "3 min 20 s");
    }
}
