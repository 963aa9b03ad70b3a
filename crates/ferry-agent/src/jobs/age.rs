//! The clock by which things grow old: what was kept for a time is not deleted because somebody set the host's clock forward.
//!
//! Invariant: while an agent runs, no more time passes by this clock than really does, within [`TOLERANCE_MS`]. What a
//! clock was set to while no agent ran cannot be told from time that passed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Clock;

/// Time between two looks, in milliseconds.
const LOOK_MS: u64 = 10_000;
/// What the two clocks may differ by in that time before it counts as set, in milliseconds: they drift, and looks are late.
const TOLERANCE_MS: u64 = 5_000;

/// A clock less what it was set forward.
#[derive(Clone)]
pub struct AgeClock<C> {
    clock: C,
    ahead_ms: Arc<AtomicU64>,
}

impl<C: Clock> AgeClock<C> {
    /// The clock as it stands; from now on somebody must [`AgeClock::watch`] it.
    pub fn new(clock: C) -> Self {
        Self { clock, ahead_ms: Arc::default() }
    }

    /// Notices when the clock is set, for ever. A host that was suspended is taken for one whose clock was set: what is
    /// kept is kept for longer then.
    pub async fn watch(&self) {
        loop {
            let (wall_ms, begun) = (self.clock.now_ms(), Instant::now());
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            let passed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.noticed(wall_ms, passed_ms);
        }
    }

    /// `passed_ms` ago it was `wall_ms`.
    fn noticed(&self, wall_ms: u64, passed_ms: u64) {
        let ahead_ms = self.ahead_ms.load(Ordering::Relaxed);
        let after_ms = ahead_after(ahead_ms, wall_ms, self.clock.now_ms(), passed_ms);
        if after_ms != ahead_ms {
            tracing::warn!(
                ahead_ms = after_ms,
                "the clock was set; what is kept for a time is kept as long as before"
            );
            self.ahead_ms.store(after_ms, Ordering::Relaxed);
        }
    }
}

impl<C: Clock> Clock for AgeClock<C> {
    fn now_ms(&self) -> u64 {
        self.clock.now_ms().saturating_sub(self.ahead_ms.load(Ordering::Relaxed))
    }

    async fn sleep_until(&self, at_ms: u64) {
        let ahead_ms = self.ahead_ms.load(Ordering::Relaxed);
        self.clock.sleep_until(at_ms.saturating_add(ahead_ms)).await;
    }
}

/// How far a clock is ahead that was `ahead_ms` ahead, and went from `wall_ms` to `now_ms` while `passed_ms` passed. One
/// that is set back is behind nobody: what is kept is kept for longer.
fn ahead_after(ahead_ms: u64, wall_ms: u64, now_ms: u64, passed_ms: u64) -> u64 {
    let expected_ms = wall_ms.saturating_add(passed_ms);
    match now_ms.abs_diff(expected_ms) {
        0..=TOLERANCE_MS => ahead_ms,
        set_ms if now_ms > expected_ms => ahead_ms.saturating_add(set_ms),
        set_ms => ahead_ms.saturating_sub(set_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_MS: u64 = 365 * 24 * 3_600_000;

    #[test]
    fn a_clock_that_is_set_forward_and_back_again_has_aged_nothing() {
        let ahead_ms = ahead_after(0, 1_000, YEAR_MS + 11_000, 10_000);
        assert_eq!(ahead_ms, YEAR_MS);
        assert_eq!(ahead_after(ahead_ms, YEAR_MS + 11_000, 21_000, 10_000), 0);
    }

    #[test]
    fn a_clock_that_goes_a_little_wrong_or_is_set_back_is_not_ahead() {
        assert_eq!(ahead_after(0, 1_000, 13_000, 10_000), 0);
        assert_eq!(ahead_after(0, YEAR_MS, 1_000, 10_000), 0);
    }

    #[derive(Clone)]
    struct Wall(Arc<AtomicU64>);

    impl Clock for Wall {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        async fn sleep_until(&self, _: u64) {}
    }

    #[test]
    fn what_is_kept_for_an_hour_is_kept_also_when_the_clock_jumps_by_a_year() {
        let wall = Wall(Arc::new(AtomicU64::new(1_000)));
        let age = AgeClock::new(wall.clone());
        wall.0.store(YEAR_MS, Ordering::Relaxed);
        age.noticed(1_000, LOOK_MS);
        assert_eq!(age.now_ms(), 1_000 + LOOK_MS);
    }
}
