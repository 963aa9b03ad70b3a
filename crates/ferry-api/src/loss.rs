//! Sources that are lost, or that cannot give all they should.

use serde::{Deserialize, Serialize};

/// A range of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len_bytes: u64,
}

/// What a source cannot give: who reads it gets an error. Tried again from time to time; a write of the whole block
/// heals it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRanges {
    /// All of them together, in bytes.
    pub bytes: u64,
    /// How many there are.
    pub count: u64,
    /// The first of them, in order; at most 64.
    pub listed: Vec<Span>,
}
