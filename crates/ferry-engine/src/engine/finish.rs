//! Finish-by: hydration shall be complete at a given time.
//!
//! What is still to come, by the time that is left, is what must cross a second. The guard lets at least that much
//! through, and while less crosses the background has more fetches under way beside a guest that waits. A budget is never
//! exceeded for it: one that is too small is refused when the time is set, by whoever can count (see [`Engine::needs`]).

use super::Engine;
use super::hydration::BESIDE_GUEST;
use crate::geometry::BLOCK_BYTES;

/// How often it is looked whether enough crosses, in milliseconds.
const LOOK_MS: u64 = 1_000;

/// Until when, and how it goes.
#[derive(Debug)]
pub(super) struct Finish {
    due_ms: Option<u64>,
    beside_guest: u32,
    looked_ms: u64,
    bytes_then: u64,
}

impl Finish {
    pub(super) const fn none() -> Finish {
        Finish { due_ms: None, beside_guest: BESIDE_GUEST, looked_ms: 0, bytes_then: 0 }
    }

    pub(super) fn is_set(&self) -> bool {
        self.due_ms.is_some()
    }

    pub(super) fn set(&mut self, due_ms: Option<u64>) {
        self.due_ms = due_ms;
        self.beside_guest = BESIDE_GUEST;
    }

    /// Background fetches under way at a time while the guest waits.
    pub(super) fn beside_guest(&self) -> u32 {
        self.beside_guest
    }

    fn look(&mut self, now_ms: u64, bytes: u64, needed_per_s: u64, most: u32) {
        let passed_ms = now_ms - self.looked_ms;
        if passed_ms < LOOK_MS {
            return;
        }
        let crossed_per_s = (bytes - self.bytes_then).saturating_mul(1_000) / passed_ms;
        (self.looked_ms, self.bytes_then) = (now_ms, bytes);
        self.beside_guest = if crossed_per_s < needed_per_s {
            self.beside_guest.saturating_mul(2).min(most.max(BESIDE_GUEST))
        } else {
            (self.beside_guest / 2).max(BESIDE_GUEST)
        };
    }
}

impl Engine {
    /// What must cross a second so that hydration is complete in time, in bytes, with an eighth to spare. None without
    /// such a time, and when nothing is remote.
    #[must_use]
    pub fn needs(&self) -> Option<u64> {
        let due_ms = self.finish.due_ms.filter(|_| !self.truth.is_complete())?;
        let left_ms = u128::from(due_ms.saturating_sub(self.now_ms).max(1));
        let remote_bytes = u128::from(self.truth.blocks_remote() * BLOCK_BYTES);
        Some(u64::try_from(remote_bytes * 1_000 * 9 / 8 / left_ms).unwrap_or(u64::MAX))
    }

    /// Bytes that are still to come for sure: remote, and not known to be zero. What the source was not asked about yet
    /// does not count.
    #[must_use]
    pub fn bytes_to_come(&self) -> u64 {
        if self.knows_all() {
            self.truth.blocks_remote() * BLOCK_BYTES
        } else {
            self.hydration.window_blocks() * BLOCK_BYTES
        }
    }

    /// Time has passed.
    pub(super) fn keep_to_finish(&mut self) {
        let needed_per_s = self.needs();
        self.guard.at_least(needed_per_s.unwrap_or(0));
        if let Some(needed_per_s) = needed_per_s {
            let most = self.limits.hydration_fetches_max;
            self.finish.look(self.now_ms, self.tally.bytes_fetched, needed_per_s, most);
        }
    }
}
