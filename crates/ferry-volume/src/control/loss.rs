//! What is told of a source that is lost, or that cannot give all it should.

use serde::{Deserialize, Serialize};

/// Most bad ranges that one status lists; how many there are is always told.
pub const BAD_RANGES_LISTED_MAX: usize = 64;

/// A range of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len_bytes: u64,
}

impl From<ferry_engine::ByteRange> for Span {
    fn from(range: ferry_engine::ByteRange) -> Self {
        Self { offset: range.offset(), len_bytes: range.len_bytes() }
    }
}

/// What the source cannot give: who reads it gets an error. Tried again from time to time; a write of the whole
/// block heals it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRanges {
    /// All of them together, in bytes.
    pub bytes: u64,
    /// How many there are.
    pub count: u64,
    /// The first [`BAD_RANGES_LISTED_MAX`] of them, in order.
    pub listed: Vec<Span>,
}
