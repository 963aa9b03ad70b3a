//! The guard: the background goes only as fast as the guest does not feel it.
//!
//! ```text
//!  p99 > bound: half of what crossed          ┌─▶ on watch: pieces, one by one, at this pace
//!  else:        a step more ──▶ bytes a second┤
//!                                             └─▶ asleep (no guard, or a guest that asks for nothing): as ever
//! ```
//!
//! What slows a guest down is what the background makes the store do: a copy-in holds the file while it is written and
//! fills the disk's queue when it goes out. Hence small pieces, spread evenly, and their number a second is what is
//! adjusted: it doubles until the guest first feels it. From then on it falls by half and rises again, quickly at first,
//! slowly where the guest felt it last, quickly again when all is well beyond that. Invariant: the pace is never below
//! [`GUARANTEED_BYTES_PER_S`]. A guest that wakes up finds the pace that was found for it.

use std::num::NonZeroU64;

use crate::event::RequestKind;
use crate::geometry::{BLOCK_BYTES, Geometry};
use crate::limits::{
    GUARANTEED_BYTES_PER_S, GUARD_BURST_MS, GUARD_IDLE_MS, GUARD_PATIENCE, GUARD_PIECE_BYTES, GUARD_STEP,
    GUARD_STRIDE,
};

use super::Engine;
use super::budget::Budget;

/// How fast the background may go for the guest's sake.
#[derive(Debug)]
pub(super) struct Guard {
    bound_us: Option<NonZeroU64>,
    pace: Pace,
    /// What must cross a second, whatever the guest feels, in bytes.
    least: u64,
    /// The pace, turned into credit by time.
    credit: Budget,
    guest: Guest,
    /// What the background asked for since the last window, and when that was.
    window: Window,
}

#[derive(Clone, Copy, Debug)]
struct Pace {
    bytes_per_s: u64,
    /// What crossed a second when the guest felt it last; none: it never did.
    felt_at: Option<u64>,
    /// Windows in a row in which the guest felt nothing of more than that.
    patience: u32,
    /// The last window was bad: the next one still shows what was under way then.
    is_settling: bool,
}

#[derive(Clone, Copy, Debug)]
struct Guest {
    is_awake: bool,
    /// Since the last tick.
    asked: bool,
    quiet_since_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    bytes: u64,
    since_ms: u64,
}

impl Guard {
    pub(super) const fn none(geometry: Geometry) -> Guard {
        let piece_bytes = piece_bytes(geometry);
        Guard {
            bound_us: None,
            pace: Pace::start(),
            least: 0,
            credit: Budget::none(piece_bytes, GUARD_BURST_MS),
            guest: Guest { is_awake: false, asked: false, quiet_since_ms: 0 },
            window: Window { bytes: 0, since_ms: 0 },
        }
    }

    pub(super) fn bound_us(&self) -> Option<NonZeroU64> {
        self.bound_us
    }

    /// From now on this bound; what was found under another one is forgotten.
    pub(super) fn set(&mut self, bound_us: Option<NonZeroU64>) {
        if self.bound_us != bound_us {
            self.bound_us = bound_us;
            self.pace = Pace::start();
            self.follow_pace();
        }
    }

    /// So much must cross a second from now on, whatever the guest feels.
    pub(super) fn at_least(&mut self, bytes_per_s: u64) {
        if self.least != bytes_per_s {
            self.least = bytes_per_s;
            self.follow_pace();
        }
    }

    fn follow_pace(&mut self) {
        self.credit.set(NonZeroU64::new(self.pace.bytes_per_s.max(self.least)));
    }

    /// Whether there is somebody to guard.
    pub(super) fn is_on_watch(&self) -> bool {
        self.bound_us.is_some() && self.guest.is_awake
    }

    /// The pace in bytes a second, while it counts.
    pub(super) fn holds_back_to(&self) -> Option<u64> {
        self.is_on_watch().then_some(self.pace.bytes_per_s.max(self.least))
    }

    /// Whether the background may ask for another piece.
    pub(super) fn allows(&self) -> bool {
        !self.is_on_watch() || self.credit.allows()
    }

    /// The most that the background may ask for at once, in blocks.
    pub(super) fn piece_blocks(&self, geometry: Geometry) -> u64 {
        if self.is_on_watch() { piece_bytes(geometry) / BLOCK_BYTES } else { geometry.region_blocks() }
    }

    /// The background asks for so much.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.window.bytes += bytes;
        self.credit.spend(bytes);
    }

    pub(super) fn guest_asks(&mut self) {
        self.guest.asked = true;
        self.guest.is_awake = true;
    }

    /// Time has passed.
    pub(super) fn fill(&mut self, now_ms: u64) {
        self.credit.fill(now_ms);
        if std::mem::take(&mut self.guest.asked) {
            self.guest.quiet_since_ms = now_ms;
        } else if now_ms - self.guest.quiet_since_ms >= GUARD_IDLE_MS {
            self.guest.is_awake = false;
        }
    }

    /// So long did the guest wait lately.
    pub(super) fn heard(&mut self, p99_us: u64, now_ms: u64) {
        let passed_ms = (now_ms - self.window.since_ms).max(1);
        let crossed_per_s = self.window.bytes.saturating_mul(1_000) / passed_ms;
        self.window = Window { bytes: 0, since_ms: now_ms };
        let Some(bound_us) = self.bound_us else { return };
        if p99_us > bound_us.get() {
            self.pace.falls(crossed_per_s);
        } else {
            self.pace.rises(crossed_per_s);
        }
        self.follow_pace();
    }
}

impl Pace {
    const fn start() -> Pace {
        Pace { bytes_per_s: GUARANTEED_BYTES_PER_S, felt_at: None, patience: 0, is_settling: false }
    }

    fn falls(&mut self, crossed_per_s: u64) {
        if std::mem::take(&mut self.is_settling) {
            return;
        }
        let felt_at = self.bytes_per_s.min(crossed_per_s).max(GUARANTEED_BYTES_PER_S);
        let bytes_per_s = (felt_at / 2).max(GUARANTEED_BYTES_PER_S);
        *self = Pace { bytes_per_s, felt_at: Some(felt_at), patience: 0, is_settling: true };
    }

    /// What was not made use of proves nothing and does not rise.
    fn rises(&mut self, crossed_per_s: u64) {
        self.is_settling = false;
        if crossed_per_s < self.bytes_per_s / 2 {
            return;
        }
        let step = match self.felt_at {
            None => self.bytes_per_s,
            Some(felt_at) if self.bytes_per_s < felt_at / 4 * 3 => felt_at / GUARD_STRIDE,
            Some(felt_at) if self.bytes_per_s < felt_at => felt_at / GUARD_STEP,
            Some(felt_at) => {
                self.patience = self.patience.saturating_add(1);
                (felt_at / GUARD_STEP) << (self.patience / GUARD_PATIENCE).min(16)
            }
        };
        self.bytes_per_s = self.bytes_per_s.saturating_add(step);
    }
}

impl Engine {
    /// Whether a request would wait for the source if it came now.
    #[must_use]
    pub fn needs_source(&self, kind: RequestKind) -> bool {
        if self.complete {
            return false;
        }
        let geometry = self.geometry();
        match kind {
            RequestKind::Read { range } | RequestKind::Cache { range } => {
                geometry.holds(range) && !self.truth.covers(geometry.blocks_touched(range))
            }
            // Only a part of a block needs the rest of it.
            RequestKind::Write { range, .. } => {
                let is_whole = |at: u64| at.is_multiple_of(BLOCK_BYTES);
                geometry.holds(range)
                    && !(is_whole(range.offset()) && is_whole(range.end()))
                    && !self.truth.covers(geometry.blocks_touched(range))
            }
            RequestKind::Flush
            | RequestKind::Trim { .. }
            | RequestKind::WriteZeroes { .. }
            | RequestKind::ReadSnapshot { .. } => false,
        }
    }
}

const fn piece_bytes(geometry: Geometry) -> u64 {
    if geometry.region_bytes() < GUARD_PIECE_BYTES { geometry.region_bytes() } else { GUARD_PIECE_BYTES }
}
