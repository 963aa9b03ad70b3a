//! Every limit of the engine, with its unit.

/// How often a fetch that a guest waits for is tried before the guest gets `EIO`.
pub const FETCH_ATTEMPTS_MAX: u32 = 5;
/// How often a query is tried before its range is taken for data.
pub const QUERY_ATTEMPTS_MAX: u32 = 3;
/// First pause before a guest's fetch is tried again, in milliseconds; doubles each time.
pub const FETCH_BACKOFF_MS: u64 = 100;
/// First pause before a failed background fetch, copy-in or persist is tried again, in milliseconds; doubles.
pub const BACKGROUND_BACKOFF_MS: u64 = 1_000;
/// Longest pause of any kind in milliseconds.
pub const BACKOFF_MAX_MS: u64 = 60_000;
/// After this many failed background fetches in a row the whole background pauses.
pub const FAILURES_IN_A_ROW_MAX: u32 = 8;
/// How many ranges that the source fails to give are remembered; beyond that only these are tried.
pub const SICK_RANGES_MAX: usize = 1_024;
/// The most of the source that one query asks about, in bytes.
pub const QUERY_BYTES_MAX: u64 = 1 << 40;
/// The most that one query asks about where zeroes must be written, in bytes: a guest that writes there waits for that.
pub const ZERO_BYTES_MAX: u64 = 64 << 20;
/// The most extents of one answer that are looked at.
pub const EXTENTS_MAX: usize = 1 << 16;
/// Runs of data that are known ahead of what is fetched at most, where all of the source is to be known.
pub const WINDOW_RUNS_MAX: usize = 1 << 16;
/// How much of its budget the background may make up for at once, in milliseconds, beside a region: more than passes
/// between two ticks, so that nothing is lost to them.
pub const BUDGET_BURST_MS: u64 = 250;
/// What the background fetches a second at least while it backs off for the guest's latency, in bytes: progress under any
/// load of the guest.
pub const GUARANTEED_BYTES_PER_S: u64 = 4 << 20;
/// The most that the background fetches at once while a guard is on and the guest is awake, in bytes: what is copied in
/// holds up the guest's writes for as long as it takes.
pub const GUARD_PIECE_BYTES: u64 = 128 << 10;
/// Pause between ticks while the guard lets pieces through, in milliseconds: so that they come one by one.
pub const GUARD_TICK_MS: u64 = 2;
/// How much the guarded background may make up for at once, in milliseconds, beside a piece.
pub const GUARD_BURST_MS: u64 = 50;
/// Below three quarters of the pace at which the guest felt the background last, the pace rises by this part of it with
/// each window.
pub const GUARD_STRIDE: u64 = 32;
/// Beyond that it rises by this part of it only.
pub const GUARD_STEP: u64 = 512;
/// Beyond that pace itself the steps double after so many windows.
pub const GUARD_PATIENCE: u32 = 8;
/// A guest that asks for nothing for so long, in milliseconds, has no latency to guard.
pub const GUARD_IDLE_MS: u64 = 5_000;
/// Pause between ticks where nothing needs them more often, in milliseconds.
pub const TICK_MS: u64 = 100;
/// How far ahead of a guest that reads in sequence is fetched at first, in bytes; doubles up to a region.
pub const AHEAD_BYTES_FIRST: u64 = 64 << 10;
/// Regions of fetches ahead of the guest under way or in buffers.
pub const AHEAD_REGIONS_MAX: u64 = 2;
/// Reads in sequence that are followed at a time.
pub const RUNS_MAX: usize = 8;
/// The most of a cache request that is heeded, in bytes.
pub const CACHE_BYTES_MAX: u64 = 64 << 20;
/// Ranges in which a source differs from a base that are remembered at most (16 bytes each); with more they become coarser.
pub const DIFFERENCES_MAX: usize = 1 << 20;
/// Marks of one volume at a time.
pub const MARKS_MAX: usize = 8;
/// The most that the map is told of at once of where a guest that writes in sequence may change something, in bytes. Any
/// other write has no more listed around it than this or its share of the volume, see [`STRETCHES_MIN`].
pub const STRETCH_BYTES_MAX: u64 = 64 << 20;
/// Into how many parts at least a large volume is cut when it is listed as a whole.
pub const STRETCHES_MIN: u64 = 1_024;
/// After so many frames of listing since a mark, twice as much is listed around a write that is out of sequence.
pub const FRAMES_PER_DOUBLING: u32 = 8;
/// The most records that list what may change in one frame of the map.
pub const LISTING_RECORDS_MAX: usize = 1_024;
/// How often listing is tried before the writes that wait for it fail.
pub const LISTING_ATTEMPTS_MAX: u32 = 5;

/// The unit in which a snapshot keeps what is overwritten, in bytes.
pub const KEEP_BYTES: u64 = 64 << 10;
/// Snapshots of a volume at a time.
pub const SNAPSHOTS_MAX: usize = 4;

/// What may be set for each volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Background fetches under way or in buffers, each at most a region.
    pub hydration_fetches_max: u32,
    /// Bytes of fetches for the guest under way or in buffers (at least one fetch always goes).
    pub guest_fetch_bytes_max: u64,
    /// Bytes made local before the map is told.
    pub persist_every_bytes: u64,
    /// Runs of blocks made local before the map is told.
    pub persist_every_runs: usize,
    /// Milliseconds before the map is told, if anything is there to tell.
    pub persist_every_ms: u64,
    /// Whether the guest's requests are counted as heat.
    pub count_heat: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            hydration_fetches_max: 16,
            guest_fetch_bytes_max: 16 << 20,
            persist_every_bytes: 256 << 20,
            persist_every_runs: 4_096,
            persist_every_ms: 2_000,
            count_heat: true,
        }
    }
}

/// The pause before the next try after `failures` failures (at least 1) in milliseconds.
pub(crate) fn backoff_ms(first_ms: u64, failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1).min(16);
    (first_ms << doublings).min(BACKOFF_MAX_MS)
}
