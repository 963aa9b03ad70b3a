//! How long a source lets those wait who have asked it: the longest time lately in which nothing came. That is its disk, or the hosts
//! between, and not the width of the network: bytes that flow slowly are no silence. Pure.

use std::time::{Duration, Instant};

/// A source that is silent for less than this is not slow: a disk that must seek for each of some requests, or a network across a
/// continent.
const SLOW: Duration = Duration::from_millis(150);
/// What is lately: from one to two of these.
const WINDOW: Duration = Duration::from_secs(10);

/// The longest silences, in this window and in the one before.
#[derive(Debug)]
pub(super) struct Silences {
    began: Instant,
    longest: Duration,
    before: Duration,
}

impl Silences {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, longest: Duration::ZERO, before: Duration::ZERO }
    }

    /// Somebody waited so long until something came.
    pub(super) fn ended(&mut self, silence: Duration, now: Instant) {
        (self.longest, self.before) = self.at(now);
        if now.saturating_duration_since(self.began) >= WINDOW {
            self.began = now;
        }
        self.longest = self.longest.max(silence);
    }

    /// The longest one lately, also the one that lasts, if that is slow.
    pub(super) fn slow(&self, lasts: Option<Duration>, now: Instant) -> Option<Duration> {
        let (longest, before) = self.at(now);
        Some(longest.max(before).max(lasts.unwrap_or_default())).filter(|silence| *silence >= SLOW)
    }

    fn at(&self, now: Instant) -> (Duration, Duration) {
        match now.saturating_duration_since(self.began) {
            passed if passed < WINDOW => (self.longest, self.before),
            passed if passed < WINDOW * 2 => (Duration::ZERO, self.longest),
            _ => (Duration::ZERO, Duration::ZERO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_longest_silence_is_told_for_a_while_and_one_that_lasts_at_once() {
        let start = Instant::now();
        let mut silences = Silences::new(start);
        silences.ended(100 * MS, start);
        assert_eq!(silences.slow(None, start), None, "that is not slow");
        assert_eq!(silences.slow(Some(200 * MS), start), Some(200 * MS));
        silences.ended(300 * MS, start + WINDOW / 2);
        silences.ended(250 * MS, start + WINDOW);
        for (at, told) in
            [(WINDOW, Some(300)), (WINDOW * 2 - MS, Some(300)), (WINDOW * 2, Some(250)), (WINDOW * 3, None)]
        {
            assert_eq!(silences.slow(None, start + at), told.map(|ms| ms * MS), "{at:?}");
        }
    }

    #[test]
    fn a_source_that_nobody_asks_any_more_was_slow_once() {
        let start = Instant::now();
        let mut silences = Silences::new(start);
        silences.ended(9_000 * MS, start + 5 * WINDOW);
        assert_eq!(silences.slow(None, start + 5 * WINDOW), Some(9_000 * MS));
        assert_eq!(silences.slow(None, start + 7 * WINDOW), None);
    }
}
