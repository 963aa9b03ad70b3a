//! The volume's share of the worker's budget: told by an agent every second, and never remembered.
//!
//! ```text
//!  volume.json: own budget ─┐
//!                           ├─ the smaller one ─▶ the engine's budget
//!  agent: share ── lapses ──┘
//! ```

use super::Server;
use crate::control::Answer;
use ferry_engine::{Command, Event};
use std::num::NonZeroU64;

/// How long a share holds that no agent repeats, in milliseconds: longer than an agent needs to be started anew, and short
/// enough that one which is gone for good holds nobody back.
const SHARE_LASTS_MS: u64 = 60_000;

/// What an agent told last.
#[derive(Debug, Default)]
pub(super) struct Share {
    bytes_per_s: Option<NonZeroU64>,
    told_ms: u64,
}

impl Share {
    /// The share, unless it has lapsed.
    pub(super) fn at(&self, now_ms: u64) -> Option<NonZeroU64> {
        self.bytes_per_s.filter(|_| now_ms.saturating_sub(self.told_ms) < SHARE_LASTS_MS)
    }
}

impl Server {
    pub(super) fn set_share(&mut self, bytes_per_s: Option<NonZeroU64>) -> Answer {
        self.share = Share { bytes_per_s, told_ms: self.now_ms() };
        self.keep_to_budget();
        Answer::Done
    }

    /// Tells the engine the smaller one of the volume's own budget and its share, if that has changed.
    pub(super) fn keep_to_budget(&mut self) {
        let both = [self.store.config.budget_bytes_per_s, self.share.at(self.now_ms())];
        let bytes_per_s = both.into_iter().flatten().min();
        if self.engine.status().budget_bytes_per_s != bytes_per_s {
            self.feed(Event::Command(Command::SetBudget { bytes_per_s }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_that_nobody_repeats_holds_nobody_back_for_ever() {
        let share = Share { bytes_per_s: NonZeroU64::new(7), told_ms: 1_000 };
        assert_eq!(share.at(1_000), NonZeroU64::new(7));
        assert_eq!(share.at(1_000 + SHARE_LASTS_MS - 1), NonZeroU64::new(7));
        assert_eq!(share.at(1_000 + SHARE_LASTS_MS), None);
    }
}
