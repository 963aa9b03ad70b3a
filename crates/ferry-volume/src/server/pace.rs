//! The pace of hydration, as agents set it: told to the engine, and remembered in the volume's description.

use super::Server;
use super::command::{refused, whole_story};
use crate::control::Answer;
use crate::directory::VolumeConfig;
use ferry_engine::{Command, Event};
use std::num::NonZeroU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A rate below this says nothing about what the source could give.
const RATE_MIN_BYTES_PER_S: u64 = 64 << 10;

/// Bytes a second that arrived from the source, smoothed over a few ticks.
pub(super) struct Rate {
    pub(super) bytes_per_s: f64,
    seen_bytes: u64,
    seen_at: Instant,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self { bytes_per_s: 0.0, seen_bytes: 0, seen_at: now }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now - self.seen_at >= Duration::from_millis(50)
    }

    pub(super) fn observe(&mut self, bytes: u64, now: Instant) {
        let seconds = (now - self.seen_at).as_secs_f64();
        let current = bytes.saturating_sub(self.seen_bytes) as f64 / seconds;
        // The first bytes are the best guess there is; from then on half a second of the past counts.
        let weight = if self.bytes_per_s == 0.0 { 1.0 } else { (seconds / 0.5).min(1.0) };
        self.bytes_per_s += (current - self.bytes_per_s) * weight;
        (self.seen_bytes, self.seen_at) = (bytes, now);
    }
}

impl Server {
    /// Tells the engine what the description says.
    pub(super) fn pace_as_described(&mut self) {
        let VolumeConfig { guard_us, finish_by_ms, .. } = self.store.config;
        self.keep_to_budget();
        self.feed(Event::Command(Command::SetGuard { bound_us: guard_us }));
        // The engine counts from when the server started.
        let due_ms = finish_by_ms.map(|at_ms| self.now_ms() + at_ms.saturating_sub(wall_ms()));
        self.feed(Event::Command(Command::SetFinishBy { due_ms }));
    }

    pub(super) fn set_budget(&mut self, bytes_per_s: Option<NonZeroU64>) -> Answer {
        self.pace(|config| config.budget_bytes_per_s = bytes_per_s)
    }

    pub(super) fn set_guard(&mut self, bound_us: Option<NonZeroU64>) -> Answer {
        self.pace(|config| config.guard_us = bound_us)
    }

    /// Refuses what is known to be impossible now: what the source was not asked about yet, or what other hosts do to the
    /// rate, shows later, in [`Server::expected_end_ms`].
    pub(super) fn set_finish_by(&mut self, at_ms: Option<u64>) -> Answer {
        if let Some(at_ms) = at_ms {
            let status = self.engine.status();
            let share = self.share.at(self.now_ms());
            let is_held_back =
                share.is_some() || status.paused || !status.source_up || status.guard_bytes_per_s.is_some();
            let lately = (self.rate.bytes_per_s as u64).max(1);
            let prospect = Prospect {
                left_ms: at_ms.saturating_sub(wall_ms()),
                bytes_to_come: self.engine.bytes_to_come(),
                budget_bytes_per_s: self.store.config.budget_bytes_per_s.map(NonZeroU64::get),
                share_bytes_per_s: share.map(NonZeroU64::get),
                // Only what nothing held back says how fast it goes.
                lately_bytes_per_s: (!is_held_back && lately >= RATE_MIN_BYTES_PER_S).then_some(lately),
            };
            if let Some(reason) = prospect.why_impossible() {
                return refused(reason);
            }
        }
        self.pace(|config| config.finish_by_ms = at_ms)
    }

    /// When hydration will be complete if it goes on as lately.
    pub(super) fn expected_end_ms(&self) -> Option<u64> {
        let rate = self.rate.bytes_per_s as u64;
        let left_ms = self.engine.bytes_to_come().saturating_mul(1_000).checked_div(rate)?;
        (!self.engine.status().complete).then(|| wall_ms().saturating_add(left_ms))
    }

    fn pace(&mut self, change: impl FnOnce(&mut VolumeConfig)) -> Answer {
        match self.store.describe(change) {
            Ok(()) => {
                self.pace_as_described();
                Answer::Done
            }
            Err(e) => refused(whole_story(&e)),
        }
    }
}

/// What a time to be complete at is judged by.
struct Prospect {
    left_ms: u64,
    bytes_to_come: u64,
    budget_bytes_per_s: Option<u64>,
    share_bytes_per_s: Option<u64>,
    lately_bytes_per_s: Option<u64>,
}

impl Prospect {
    /// In one sentence with figures, why it cannot be.
    fn why_impossible(&self) -> Option<String> {
        let by_budget = self.budget_bytes_per_s.map(|rate| (rate, "the budget allows"));
        let by_share = self.share_bytes_per_s.map(|rate| (rate, "its share of the worker's budget allows"));
        let by_source = self.lately_bytes_per_s.map(|rate| (rate, "came lately"));
        let (rate, why) = [by_budget, by_share, by_source].into_iter().flatten().min()?;
        let takes_s = self.bytes_to_come / rate;
        let left_s = self.left_ms / 1_000;
        if u128::from(self.bytes_to_come) * 1_000 <= u128::from(rate) * u128::from(self.left_ms) {
            return None;
        }
        let would_do = self.bytes_to_come.div_ceil(left_s.max(1));
        Some(format!(
            "hydration cannot be complete in {left_s} s: {} MiB are still to come, which takes {takes_s} s at the {} KiB a \
             second that {why}; {} s more would do, or {} KiB a second",
            self.bytes_to_come >> 20,
            rate >> 10,
            takes_s.saturating_sub(left_s) + 1,
            (would_do >> 10) + 1,
        ))
    }
}

fn wall_ms() -> u64 {
    // A clock before 1970 is as good as none.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_time_is_impossible_when_budget_or_source_are_too_slow_and_says_what_would_do() {
        let fast = Prospect {
            left_ms: 10_000,
            bytes_to_come: 100 * MIB,
            budget_bytes_per_s: Some(10 * MIB),
            share_bytes_per_s: None,
            lately_bytes_per_s: Some(11 * MIB),
        };
        assert_eq!(fast.why_impossible(), None);
        let slow = Prospect { lately_bytes_per_s: Some(5 * MIB), ..fast };
        let why = slow.why_impossible().unwrap();
        for part in ["100 MiB", "takes 20 s", "5120 KiB", "came lately", "11 s more", "10241 KiB"] {
            assert!(why.contains(part), "{part}: {why}");
        }
        let shared = Prospect { share_bytes_per_s: Some(2 * MIB), ..slow };
        let why = shared.why_impossible().unwrap();
        assert!(why.contains("its share of the worker's budget allows"), "{why}");
        let past = Prospect { left_ms: 0, ..slow };
        assert!(past.why_impossible().unwrap().contains("in 0 s"));
        let unknown = Prospect { budget_bytes_per_s: None, lately_bytes_per_s: None, ..past };
        assert_eq!(unknown.why_impossible(), None, "nothing is known that stands against it");
    }
}
