//! The bandwidth budget of background hydration: a bucket that fills with time and that fetches empty. The guard
//! ([`super::guard`]) has one of its own.
//!
//! ```text
//!  time × budget ─▶ [ credit ≤ burst ] ─▶ background: only while a whole fetch is there
//!                                      └▶ guest: always, also into debt, at most a burst deep
//! ```
//!
//! What the guest makes cross counts, so that both together keep within the budget where the background can see to
//! that; and since it is kept, hydration moves on by it while the background stands back. A fetch that failed may have
//! crossed all the same: nothing is given back. Invariant: since the last change, background fetches were begun for at
//! most budget × time + burst bytes.

use std::num::NonZeroU64;

/// What may be fetched in the background now.
#[derive(Debug)]
pub(super) struct Budget {
    /// None: as much as goes.
    bytes_per_s: Option<NonZeroU64>,
    /// The most that one fetch asks for.
    fetch_bytes: u64,
    /// How much time may be made up for at once, beside a fetch.
    burst_ms: u64,
    /// In thousandths of a byte, so that no rest is lost between two ticks. Means nothing without a budget.
    credit: i128,
    /// Up to when time has been turned into credit.
    filled_ms: u64,
}

impl Budget {
    pub(super) const fn none(fetch_bytes: u64, burst_ms: u64) -> Budget {
        Budget { bytes_per_s: None, fetch_bytes, burst_ms, credit: 0, filled_ms: 0 }
    }

    pub(super) fn bytes_per_s(&self) -> Option<NonZeroU64> {
        self.bytes_per_s
    }

    /// From now on this. What was earned or owed under another budget stays, within the limits of the new one.
    pub(super) fn set(&mut self, bytes_per_s: Option<NonZeroU64>) {
        let had_one = self.bytes_per_s.is_some();
        self.bytes_per_s = bytes_per_s;
        let burst = self.burst();
        self.credit = if had_one { self.credit.clamp(-burst, burst) } else { burst };
    }

    /// Time has passed.
    pub(super) fn fill(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.filled_ms);
        self.filled_ms += passed_ms;
        let earned = u128::from(self.rate()) * u128::from(passed_ms);
        // Beyond this it makes no difference, and the sum cannot overflow.
        let earned = i128::try_from(earned).unwrap_or(i128::MAX).min(2 * self.burst());
        self.credit = (self.credit + earned).min(self.burst());
    }

    /// Whether the background may begin another fetch.
    pub(super) fn allows(&self) -> bool {
        self.bytes_per_s.is_none() || self.credit >= thousandths(self.fetch_bytes)
    }

    /// So much is asked of the source.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.credit = (self.credit - thousandths(bytes)).max(-self.burst());
    }

    /// A fetch, and what comes between two ticks (also late ones) on top of what was left of a fetch before.
    fn burst(&self) -> i128 {
        thousandths(self.fetch_bytes) + i128::from(self.rate()) * i128::from(self.burst_ms)
    }

    fn rate(&self) -> u64 {
        self.bytes_per_s.map_or(0, NonZeroU64::get)
    }
}

fn thousandths(bytes: u64) -> i128 {
    i128::from(bytes) * 1_000
}
