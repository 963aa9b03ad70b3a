//! What the engine wants done.
//!
//! The shell executes operations in the order in which they were given: those without an `op` (`CopyFetched`,
//! `ZeroBuffer`, `DropFetch`, `Reply`, `Notice`) at once and completely, those with an `op` by starting them. It owes one
//! completion event for each `op`. The engine never holds bytes; it names buffers: that of a request (from its event
//! to its `Reply`) and that of a fetch (from `Fetch` to `DropFetch`, or to its failure).
//!
//! Buffers: after `Reply` no operation touches the request's buffer, and none that does is under way; after
//! `DropFetch` none touches the fetch's.

use crate::engine::SnapshotId;
use crate::event::{Command, Errno, FetchFailure, RequestId};
use crate::geometry::{Blocks, ByteRange};
use crate::map::MapRecord;
use crate::marks::MarkId;

/// Names an operation until its completion, and a fetch's buffer until `DropFetch`. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpId(pub(crate) u64);

impl OpId {
    /// The id as a number, for tables and for an io_uring's user data (the top bit is never set).
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The id that [`OpId::as_u64`] gave. Any other number makes the engine panic when it sees it.
    #[must_use]
    pub const fn from_u64(id: u64) -> OpId {
        OpId(id)
    }
}

/// Where the bytes of a local write are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataRef {
    /// In the request's buffer, from `at`.
    Request {
        /// The request.
        id: RequestId,
        /// Offset in the buffer in bytes.
        at: u64,
    },
    /// In the fetch's buffer, from `at`.
    Fetch {
        /// The fetch.
        op: OpId,
        /// Offset in the buffer in bytes.
        at: u64,
    },
}

/// Who waits for a fetch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Urgency {
    /// The guest: overtakes everything in the background.
    Guest,
    /// Nobody yet, but the guest reads in sequence and will soon: overtakes the background, never the guest.
    Ahead,
    /// Nobody yet.
    Background,
}

/// Something to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Read the store into the request's buffer. → `Event::Done`
    ReadLocal {
        /// Completed by this.
        op: OpId,
        /// What to read.
        range: ByteRange,
        /// Whose buffer.
        request: RequestId,
        /// Offset in the buffer in bytes.
        at: u64,
    },
    /// Write bytes to the store. → `Event::Done`
    WriteLocal {
        /// Completed by this.
        op: OpId,
        /// Where to.
        range: ByteRange,
        /// Where from; `range.len_bytes()` bytes.
        data: DataRef,
    },
    /// Make the range read as zeroes. A store that cannot punch or zero a range writes zeroes. → `Event::Done`
    ZeroLocal {
        /// Completed by this.
        op: OpId,
        /// What to zero.
        range: ByteRange,
        /// Give the space back.
        punch: bool,
    },
    /// Fill a part of the request's buffer with zeroes, now.
    ZeroBuffer {
        /// Whose buffer.
        request: RequestId,
        /// Offset in the buffer in bytes.
        at: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Copy from the fetch's buffer to the request's, now.
    CopyFetched {
        /// Which fetch.
        fetch: OpId,
        /// Offset in its buffer in bytes.
        at: u64,
        /// Whose buffer.
        request: RequestId,
        /// Offset in that buffer in bytes.
        request_at: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Read from the source into a new buffer of `range.len_bytes()`, at most a region. → `Event::Fetched`
    Fetch {
        /// Completed by this; names the buffer.
        op: OpId,
        /// What to read.
        range: ByteRange,
        /// `Guest` overtakes `Background` wherever they queue.
        urgency: Urgency,
    },
    /// The fetch's buffer is no longer needed.
    DropFetch {
        /// Which fetch.
        fetch: OpId,
    },
    /// Ask the source which parts of the range are zero. The range may be huge: answer for as much of its start as
    /// is cheap. → `Event::Extents`
    QuerySource {
        /// Completed by this.
        op: OpId,
        /// What to ask about.
        range: ByteRange,
    },
    /// Copy the range from the store to the snapshot's side file; holes may stay holes. No write to the range is under
    /// way. Need not be durable. → `Event::Done`
    KeepLocal {
        /// Completed by this.
        op: OpId,
        /// Whose side file.
        snapshot: SnapshotId,
        /// What to copy; as long as can be, also the whole volume.
        range: ByteRange,
    },
    /// Write bytes from a fetch's buffer to the snapshot's side file. Need not be durable. → `Event::Done`
    KeepFetched {
        /// Completed by this.
        op: OpId,
        /// Whose side file.
        snapshot: SnapshotId,
        /// Where to.
        range: ByteRange,
        /// Where from; `range.len_bytes()` bytes of a fetch.
        data: DataRef,
    },
    /// Read the snapshot's side file into the request's buffer. → `Event::Done`
    ReadKept {
        /// Completed by this.
        op: OpId,
        /// Whose side file.
        snapshot: SnapshotId,
        /// What to read.
        range: ByteRange,
        /// Whose buffer.
        request: RequestId,
        /// Offset in the buffer in bytes.
        at: u64,
    },
    /// Make durable all that was written to the store and completed before. → `Event::Done`
    SyncLocal {
        /// Completed by this.
        op: OpId,
    },
    /// Append these records to the map as one frame and make it durable. After an error the map must be as it was
    /// before (cut it back to its valid length, or write it anew). At most one is under way. → `Event::Done`
    Persist {
        /// Completed by this.
        op: OpId,
        /// What to append; never empty.
        records: Vec<MapRecord>,
    },
    /// Note that these blocks are local, so that the next engine of this volume can be told
    /// ([`crate::Engine::take_up_note`]) if this process ends without a word. The note must outlive the process, not the
    /// host; it is needed while [`crate::Engine::noted`] names its blocks. → `Event::Done`
    Note {
        /// Completed by this.
        op: OpId,
        /// Which blocks; some may be in the map already.
        blocks: Blocks,
    },
    /// Answer the guest. The request and its buffer are over.
    Reply {
        /// The request.
        request: RequestId,
        /// How it ended.
        result: Result<(), Errno>,
    },
    /// Tell whoever is in charge.
    Notice(Notice),
}

/// Something that somebody in charge should know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// What was taken over before the volume was opened is local, durably.
    Adopted,
    /// The volume is open, durably.
    Opened,
    /// The volume is sealed, durably, with every write that was acknowledged.
    Sealed,
    /// The volume is open again, durably.
    Unsealed,
    /// The map no longer asks for a source.
    SourceDetached,
    /// The volume has this size, durably; requests may use it from now on.
    Grown {
        /// The size in bytes.
        size_bytes: u64,
    },
    /// The source was given up, durably: what was remote reads as zeroes.
    SourceAbandoned,
    /// The snapshot holds the volume as it is now.
    SnapshotTaken {
        /// Which.
        id: SnapshotId,
    },
    /// There is no such snapshot (any more); its side file is of no use.
    SnapshotForgotten {
        /// Which.
        id: SnapshotId,
    },
    /// What the guest overwrites could not be kept, or the source that it still needed was given up (`ENODATA`): the
    /// snapshot is gone, and its readers get errors.
    SnapshotLost {
        /// Which.
        id: SnapshotId,
        /// Why.
        errno: Errno,
    },
    /// The mark is set, durably.
    Marked {
        /// Its id.
        mark: MarkId,
    },
    /// The mark is not kept, durably.
    MarkForgotten {
        /// Its id.
        mark: MarkId,
    },
    /// A command makes no sense now. Nothing has changed.
    CommandRefused {
        /// The command.
        command: Command,
        /// The reason.
        refusal: Refusal,
    },
    /// A command failed in the store or the map. Nothing has changed.
    CommandFailed {
        /// The command.
        command: Command,
        /// How.
        errno: Errno,
    },
    /// Every block is local, durably, and the map says so. The source is no longer needed. Once.
    HydrationComplete,
    /// A fetch or a query failed other than by disconnection. It is tried again.
    SourceFailed {
        /// Which bytes.
        range: ByteRange,
        /// How.
        failure: FetchFailure,
    },
    /// The source cannot give exactly this range: whoever reads it gets an error, its neighbours are not touched. It is
    /// tried again from time to time, and told only once.
    SourceBad {
        /// Which bytes.
        range: ByteRange,
    },
    /// Bytes that arrived could not be kept. They are fetched again later.
    KeepFailed {
        /// Which bytes.
        range: ByteRange,
        /// How.
        errno: Errno,
    },
    /// The map could not be appended to. It is tried again.
    PersistFailed {
        /// How.
        errno: Errno,
    },
    /// The store failed to make data durable. What it holds beyond the map can no longer be trusted, so writes and
    /// flushes fail from now on; restart the volume server to go on from what is durable. Once.
    StoreFailed {
        /// How.
        errno: Errno,
    },
}

/// Why a command was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Only an open volume can be sealed.
    #[error("the volume is on standby; open it first")]
    Standby,
    /// A sealed volume opens only by being unsealed.
    #[error("the volume is sealed; it may have been handed over: unseal it only if it was not")]
    Sealed,
    /// Some blocks are only at the source.
    #[error("some blocks are still only at the source; wait until hydration is complete")]
    NotComplete,
    /// Somebody else took it back meanwhile.
    #[error("the snapshot was forgotten before it was taken; take another")]
    Forgotten,
    /// As many snapshots as there may be.
    #[error("the volume has as many snapshots as it can keep; wait until a fork of it is whole")]
    TooManySnapshots,
    /// See [`crate::limits::MARKS_MAX`].
    #[error(
        "a volume keeps at most {} marks at a time; forget one that is not needed",
        crate::limits::MARKS_MAX
    )]
    TooManyMarks,
    /// A volume never shrinks.
    #[error("a volume never shrinks; give a size that is larger than it has")]
    Smaller,
    /// No volume can have this size.
    #[error("no volume can have this size; give a multiple of 512 that its regions allow")]
    Impossible,
}
