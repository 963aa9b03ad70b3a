//! The clone engine as a value: events in, operations out.
//!
//! A clone is a volume that is all there at once and becomes local by and by. This crate decides, for every
//! request of the guest and every byte of the source, what must happen in which order. It never does any of it:
//! no I/O, no clock, no payload bytes. The shell around it feeds [`Event`]s to [`Engine::handle`] and executes the
//! [`Operation`]s it gets back, in the order in which they were given; completions may come back in any order.
//!
//! | room | what it is for |
//! |---|---|
//! | [`geometry`] | ranges of bytes, ranges of blocks, and how a volume is cut into them |
//! | [`blockmap`] | a set of blocks as bits |
//! | [`truth`] | which blocks are local |
//! | [`heat`] | what the guest touches often, and how another volume learns it |
//! | [`map`] | the same on disk: the map file, encoded and decoded |
//! | [`marks`] | what may have changed since certain moments |
//! | [`differences`] | what a source differs in from a base, and who is asked for what |
//! | [`notes`] | the file of what is local and not in the map yet, for the next server on the same host |
//! | [`sums`] | the checksums of regions, as they arrived, and their file |
//! | [`event`], [`operation`] | the two vocabularies |
//! | [`engine`] | the decisions |
//! | [`status`] | what a person may want to know |
//!
//! Invariant of the whole: *a block that is local is the truth, a block that is remote is the source's truth*. A
//! bit turns from remote to local only when the store holds the right bytes, reaches the map only when they are
//! durable there, and never turns back.

pub mod blockmap;
mod blockset;
pub mod differences;
pub mod engine;
pub mod event;
mod frame;
pub mod geometry;
pub mod heat;
pub mod limits;
pub mod map;
pub mod marks;
pub mod notes;
pub mod operation;
mod slab;
pub mod status;
pub mod sums;
pub mod truth;

pub use blockmap::BlockMap;
pub use differences::{Differences, Holder};
pub use engine::{Engine, Keeping, SnapshotId};
pub use event::{
    Arrival, Command, Content, Errno, Event, FetchFailure, LossPolicy, RequestId, RequestKind, SourceExtent,
};
pub use geometry::{BLOCK_BYTES, Blocks, ByteRange, Geometry, GeometryError};
pub use heat::{Heat, Hot};
pub use limits::Limits;
pub use map::{MapError, MapLog, MapRecord, MapState, Phase};
pub use marks::{MarkId, Marks};
pub use operation::{DataRef, Notice, OpId, Operation, Refusal, Urgency};
pub use status::EngineStatus;
pub use sums::Sums;
pub use truth::{Residence, Truth};
