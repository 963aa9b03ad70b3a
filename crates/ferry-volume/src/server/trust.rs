//! Whether a base is worth being asked: one that fails rests for a while, longer each time, since the source can always do
//! what it cannot. Time is told, so that nothing here waits.

use std::time::{Duration, Instant};

/// First and longest time for which a base that failed is not asked.
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

#[derive(Default)]
pub(super) struct Trust {
    /// In a row; those that come while it rests are no news.
    failures: u32,
    rests_until: Option<Instant>,
}

impl Trust {
    pub(super) fn is_worth_asking(&self, now: Instant) -> bool {
        self.rests_until.is_none_or(|until| until <= now)
    }

    /// It has answered as it should. What it was asked before it failed it may still answer while it rests.
    pub(super) fn answered(&mut self) {
        self.failures = 0;
    }

    pub(super) fn failed(&mut self, now: Instant) {
        if self.is_worth_asking(now) {
            let rest = REST.0.saturating_mul(1 << self.failures.min(16)).min(REST.1);
            self.failures += 1;
            self.rests_until = Some(now + rest);
        }
    }

    /// It took a question and said nothing for so long that somebody has waited in vain.
    pub(super) fn was_silent(&mut self, now: Instant) {
        self.rests_until = Some(now + REST.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_that_fails_again_and_again_rests_longer_until_it_answers_and_a_burst_counts_once() {
        let mut trust = Trust::default();
        let mut now = Instant::now();
        assert!(trust.is_worth_asking(now));
        for rest_ms in [100, 200, 400] {
            (0..50).for_each(|_| trust.failed(now));
            now += Duration::from_millis(rest_ms - 1);
            assert!(!trust.is_worth_asking(now), "{rest_ms}");
            now += Duration::from_millis(1);
            assert!(trust.is_worth_asking(now), "{rest_ms}");
        }
        trust.answered();
        trust.failed(now);
        assert!(trust.is_worth_asking(now + REST.0));
        (0..100).for_each(|i| trust.failed(now + 2 * i * REST.1));
        assert!(trust.is_worth_asking(now + 200 * REST.1), "it is tried again in the end");
    }

    #[test]
    fn a_base_that_lets_somebody_wait_rests_longest_at_once() {
        let (mut trust, now) = (Trust::default(), Instant::now());
        trust.was_silent(now);
        trust.answered();
        assert!(!trust.is_worth_asking(now + REST.1 / 2));
        assert!(trust.is_worth_asking(now + REST.1));
    }
}
