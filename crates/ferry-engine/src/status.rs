//! What a person may want to know about a volume, in numbers that only the engine has.

use std::num::NonZeroU64;

use crate::event::{Errno, LossPolicy};
use crate::map::Phase;

/// A snapshot. Bytes are of the volume unless said otherwise; counters start at zero with the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineStatus {
    /// Size of the volume.
    pub bytes_total: u64,
    /// Held by this store.
    pub bytes_local: u64,
    /// Held only by the source.
    pub bytes_remote: u64,
    /// Local, but the map does not say so yet.
    pub bytes_unpersisted: u64,
    /// Data that crossed the wire.
    pub bytes_fetched: u64,
    /// Bytes that came from another copy, since the source does not differ from it there.
    pub bytes_from_base: u64,
    /// Made local because the source said that it is zero.
    pub bytes_zero_skipped: u64,
    /// Made local by the guest's own writes, trims and zeroes.
    pub bytes_claimed_by_guest: u64,
    /// Fetched with a checksum that was right.
    pub bytes_verified: u64,
    /// Asked of the source before a guest that reads in sequence wanted it.
    pub bytes_read_ahead: u64,
    /// Reads that waited for the source.
    pub cold_reads: u64,
    /// Fetches and queries that failed other than by disconnection.
    pub fetch_errors: u64,
    /// Of these, those with a wrong checksum.
    pub checksum_errors: u64,
    /// Copies that the store refused to keep.
    pub keep_errors: u64,
    /// Bytes that the source failed to give so far; tried again from time to time.
    pub bytes_sick: u64,
    /// Bytes of blocks that the source failed to give when asked for them alone; see [`crate::Engine::bad_ranges`].
    pub bytes_bad: u64,
    /// How many ranges these are.
    pub bad_ranges: u64,
    /// Operations under way.
    pub in_flight: u64,
    /// Guest requests that wait for something the source has.
    pub waiting_for_source: u64,
    /// Standby, open or sealed, durably.
    pub phase: Phase,
    /// Ranges that the source's guest touched often, and that come before the rest.
    pub hot_ranges: u64,
    /// Whether the source can be asked.
    pub source_up: bool,
    /// For how long the source has answered nothing, in milliseconds; none while it is there.
    pub source_away_ms: Option<u64>,
    /// What becomes of requests that wait for a source that is away.
    pub loss_policy: LossPolicy,
    /// Whether background copying was paused by command.
    pub paused: bool,
    /// The most that background copying fetches a second; none: no budget.
    pub budget_bytes_per_s: Option<NonZeroU64>,
    /// What 99 of 100 requests of the guest may take, in microseconds; none: no guard.
    pub guard_us: Option<NonZeroU64>,
    /// What the guard lets the background fetch a second now; none while it does not hold it back.
    pub guard_bytes_per_s: Option<u64>,
    /// Every block is local and the map says so.
    pub complete: bool,
    /// Why the map could not be told the last time; none once it can be told again. See [`crate::Notice::PersistFailed`].
    pub persist_failed: Option<Errno>,
    /// The store failed to make data durable; see [`crate::Notice::StoreFailed`].
    pub store_failed: bool,
    /// It failed because its file system takes no writes any more: a volume that is whole can be sealed as it is.
    pub store_read_only: bool,
}
