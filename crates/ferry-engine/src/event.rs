//! What the engine is told: the guest's requests, completions, the source's comings and goings, time, commands.
//!
//! Rules the shell keeps:
//! - every operation that carries an `op` is completed exactly once, by the event named in its description;
//! - a request's id is not used again before its [`crate::Operation::Reply`];
//! - [`Event::SourceDown`] comes before the [`FetchFailure::Disconnected`] completions of that connection, and
//!   [`Event::SourceUp`] only when fetches can be sent again.

use std::num::NonZeroU64;

use crate::engine::SnapshotId;
use crate::geometry::ByteRange;
use crate::heat::Hot;
use crate::marks::MarkId;
use crate::operation::OpId;

/// The shell's name for a guest request and for its buffer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RequestId(pub u64);

/// An operating system's error number, as the store or the source gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("error {0} of the operating system")]
pub struct Errno(pub i32);

impl Errno {
    /// Operation not permitted: a write to a sealed volume.
    pub const EPERM: Errno = Errno(1);
    /// Input/output error.
    pub const EIO: Errno = Errno(5);
    /// The range lies outside the volume.
    pub const EINVAL: Errno = Errno(22);
    /// No space left on device.
    pub const ENOSPC: Errno = Errno(28);
    /// The file system of the store takes no writes any more.
    pub const EROFS: Errno = Errno(30);
    /// Nobody has the data (any more).
    pub const ENODATA: Errno = Errno(61);
    /// The volume serves nobody (yet).
    pub const ESHUTDOWN: Errno = Errno(108);
    /// The request was cancelled.
    pub const ECANCELED: Errno = Errno(125);
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The guest asks for something; answered by one [`crate::Operation::Reply`].
    Request {
        /// Names the request and its buffer until the reply.
        id: RequestId,
        /// What is asked.
        kind: RequestKind,
    },
    /// Whoever asked is gone. A request that waits is dropped with a reply of `ECANCELED` as soon as nothing touches
    /// its buffer; one whose local work has begun is finished. Unknown ids are ignored.
    Cancel {
        /// The request.
        id: RequestId,
    },
    /// A `ReadLocal`, `WriteLocal`, `ZeroLocal`, `KeepLocal`, `KeepFetched`, `ReadKept`, `SyncLocal` or `Persist` ended. A read or write that moved fewer
    /// bytes than asked must be continued by the shell or reported as an error.
    Done {
        /// The operation.
        op: OpId,
        /// How it ended.
        result: Result<(), Errno>,
    },
    /// A `Fetch` ended. After `Ok` the buffer is kept until `DropFetch`, which always follows; after `Err` the buffer
    /// is free at once and no `DropFetch` follows.
    Fetched {
        /// The operation.
        op: OpId,
        /// How it ended.
        result: Result<Arrival, FetchFailure>,
    },
    /// A `QuerySource` ended. The extents follow one another from the start of the asked range; they may cover less
    /// or more than it, and may be empty.
    Extents {
        /// The operation.
        op: OpId,
        /// What the source says. A source that cannot tell answers one extent that is not zero.
        result: Result<Vec<SourceExtent>, FetchFailure>,
    },
    /// The source can be asked from now on.
    SourceUp,
    /// The source cannot be asked until the next [`Event::SourceUp`].
    SourceDown,
    /// Time, in milliseconds of any clock that never goes back. Needed while [`crate::Engine::wants_tick`], about
    /// every [`crate::Engine::tick_ms`].
    Tick {
        /// Now.
        now_ms: u64,
    },
    /// How hot the source is: what its guest touched. Told once, soon after [`Event::SourceUp`], if the source knows. The
    /// hottest ranges are fetched before the rest, in the background.
    SourceHeat {
        /// At most [`crate::heat::HEAT_RUNS_MAX`] ranges count, in any order.
        hot: Vec<Hot>,
    },
    /// How long the guest waited lately, measured where it asks. Requests that had to wait for the source
    /// ([`crate::Engine::needs_source`]) do not count: less hydration would only make more of them.
    GuestWaited {
        /// 99 of 100 requests of the time since the last such event, at least one, took no longer, in microseconds.
        p99_us: u64,
    },
    /// Somebody in charge wants something.
    Command(Command),
}

/// What a guest asks. Ranges have any alignment; one outside the volume is refused with `EINVAL`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestKind {
    /// Fill the request's buffer with the range's bytes.
    Read {
        /// What to read.
        range: ByteRange,
    },
    /// Store the request's buffer in the range.
    Write {
        /// Where to write.
        range: ByteRange,
        /// Reply only when durable.
        fua: bool,
    },
    /// Make everything durable that was replied to before.
    Flush,
    /// The range's content is no longer needed; whole blocks read as zeroes afterwards.
    Trim {
        /// What is no longer needed.
        range: ByteRange,
        /// Reply only when durable.
        fua: bool,
    },
    /// The range reads as zeroes afterwards.
    WriteZeroes {
        /// What to zero.
        range: ByteRange,
        /// Reply only when durable.
        fua: bool,
        /// Keep the space allocated.
        no_hole: bool,
    },
    /// Fill the request's buffer with the range's bytes as they were when the snapshot was taken. Refused with `EINVAL`
    /// beyond the snapshot's end, and with `ESHUTDOWN` when there is no such snapshot (any more).
    ReadSnapshot {
        /// Which.
        snapshot: SnapshotId,
        /// What to read.
        range: ByteRange,
    },
    /// The range will be read soon: make it local (at most its first [`crate::limits::CACHE_BYTES_MAX`] bytes).
    Cache {
        /// What will be read.
        range: ByteRange,
    },
}

/// What a completed fetch brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// The kind of content.
    pub content: Content,
    /// Whether a checksum made by the source was checked and right (counted, not judged: a wrong one is
    /// [`FetchFailure::Checksum`]).
    pub verified: bool,
    /// How much of it did not cross from the source, but came from another copy that is the same there, in bytes (counted, not
    /// judged).
    pub bytes_from_base: u64,
}

impl Arrival {
    /// Data without a checksum.
    pub const DATA: Arrival = Arrival { content: Content::Data, verified: false, bytes_from_base: 0 };
    /// Zeroes without a checksum.
    pub const ZEROES: Arrival = Arrival { content: Content::Zeroes, verified: false, bytes_from_base: 0 };
}

/// The kind of content that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// The fetch's buffer holds the bytes.
    Data,
    /// Every byte of the range is zero; the buffer is not looked at.
    Zeroes,
}

/// Why a fetch or a query brought nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FetchFailure {
    /// The connection was lost; asked again when the source is up. Never counted against the block.
    #[error("the connection to the source was lost; it is tried again")]
    Disconnected,
    /// The source answered with an error.
    #[error("the source answered with {0}; look at the source's own log")]
    Errno(Errno),
    /// The bytes do not match the source's checksum.
    #[error("the bytes that arrived do not match the source's checksum; they are fetched again")]
    Checksum,
    /// The source ends before the range does.
    #[error("the source is smaller than this volume; give the source that the volume was made for")]
    ShortSource,
}

/// A run of the source with one property.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourceExtent {
    /// Length in bytes; zero is tolerated.
    pub len_bytes: u64,
    /// Whether every byte is known to be zero.
    pub zero: bool,
}

/// What becomes of requests that wait for a source that is away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LossPolicy {
    /// They wait until it is back, for ever if need be.
    #[default]
    Wait,
    /// Those that have waited so long while it was away get `EIO`.
    FailAfter {
        /// In milliseconds, counted by [`Event::Tick`].
        ms: NonZeroU64,
    },
}

/// What somebody in charge wants. Each is idempotent and ends in one [`crate::Notice`] unless it says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Standby → Open: serve the guest, and hydrate. Ends in `Notice::Opened`.
    Open,
    /// Make durable what [`crate::Engine::adopt`] took over. Ends in `Notice::Adopted`.
    Adopt,
    /// Open → Sealed: refuse writes (`EPERM`), let those under way finish, make all durable. Ends in
    /// `Notice::Sealed`.
    Seal,
    /// Sealed → Open: the hand-over did not happen. All marks but that of the birth are forgotten with it. Ends in
    /// `Notice::Unsealed`.
    Unseal,
    /// Forget the source: only when hydration is complete. Ends in `Notice::SourceDetached`.
    DetachSource,
    /// Be larger from now on: the new blocks are local, and zero. The shell has made the data file so long before. Refused
    /// unless the volume is open; never shrinks. Ends in `Notice::Grown`.
    Grow {
        /// The size from then on in bytes, a multiple of 512.
        size_bytes: u64,
    },
    /// Give up the source for good: what is remote reads as zeroes from then on. Nothing remote changes until that is
    /// durable, so guest writes of remote blocks wait meanwhile. Ends in `Notice::SourceAbandoned`.
    AbandonSource,
    /// What becomes of requests that wait for a source that is away. At once, without a notice; not remembered across
    /// restarts.
    SetLossPolicy {
        /// From now on.
        policy: LossPolicy,
    },
    /// Take the volume as it is at one instant: after every write that was acknowledged, before any that comes later.
    /// What is remote may stay so; hydration is complete when the snapshots, too, have what only the source has. Ends in
    /// `Notice::SnapshotTaken`, at once if it was taken before; gone after a restart.
    Snapshot {
        /// Its name from then on. The shell has made the side file, which is one hole.
        id: SnapshotId,
    },
    /// Keep nothing for this snapshot any more; nothing happens if there is none. At once, ends in
    /// `Notice::SnapshotForgotten`.
    ForgetSnapshot {
        /// Which.
        id: SnapshotId,
    },
    /// Set a mark: from now on it is known what the guest may have changed since (also over a crash), and everything that
    /// was answered before is durable. In any phase. Ends in `Notice::Marked` with an id that was never given before.
    Mark,
    /// Forget a mark. Ends in `Notice::MarkForgotten`, also if it is not kept.
    ForgetMark {
        /// Which.
        mark: MarkId,
    },
    /// Fetch only what the guest needs, until resumed. At once, without a notice; not remembered across restarts.
    PauseHydration,
    /// Fetch in the background again. At once, without a notice.
    ResumeHydration,
    /// Fetch at most so much in the background from now on, on average over the time since the last change (see
    /// [`crate::limits::BUDGET_BURST_MS`]). What the guest needs is never held back, but counts. At once, without a
    /// notice; not remembered across restarts.
    SetBudget {
        /// None, as in the beginning: as much as goes.
        bytes_per_s: Option<NonZeroU64>,
    },
    /// Hydration shall be complete at this time: the guard lets as much through as that takes. A budget is kept all the
    /// same. At once, without a notice; not remembered across restarts.
    SetFinishBy {
        /// As [`Event::Tick`] counts. None, as in the beginning: when it comes to be.
        due_ms: Option<u64>,
    },
    /// Hold the background back from now on while [`Event::GuestWaited`] tells of more than this, though never below
    /// [`crate::limits::GUARANTEED_BYTES_PER_S`]. At once, without a notice; not remembered across restarts.
    SetGuard {
        /// What 99 of 100 requests of the guest may take, in microseconds. None, as in the beginning: no guard.
        bound_us: Option<NonZeroU64>,
    },
}
