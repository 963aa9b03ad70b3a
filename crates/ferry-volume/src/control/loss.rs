//! What is told of a source that is lost, or that cannot give all it should.

use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;

/// Most bad ranges that one status lists; how many there are is always told.
pub const BAD_RANGES_LISTED_MAX: usize = 64;

/// Most ranges that one answer lists of what giving up a source costs; how many there are is always told, and
/// [`crate::directory::ABANDONED`] has all of them.
pub const LOSSES_LISTED_MAX: usize = 16_384;

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

/// What becomes of guest requests that wait for a source that is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossPolicy {
    /// They wait until it is back, for ever if need be.
    #[default]
    Wait,
    /// Those that have waited for so many milliseconds while it was away get an error.
    FailAfterMs(NonZeroU64),
}

impl LossPolicy {
    pub(crate) fn is_wait(&self) -> bool {
        *self == Self::Wait
    }

    pub(crate) fn to_engine(self) -> ferry_engine::LossPolicy {
        match self {
            Self::Wait => ferry_engine::LossPolicy::Wait,
            Self::FailAfterMs(ms) => ferry_engine::LossPolicy::FailAfter { ms },
        }
    }
}

/// What giving up the source costs: what only it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// All of it together, in bytes. Whoever gives up the source repeats this figure.
    pub bytes: u64,
    /// How many ranges that is.
    pub count: u64,
    /// The first [`LOSSES_LISTED_MAX`] of them, in order.
    pub listed: Vec<Span>,
}
/// How the link to a source that stands in for another stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandIn {
    /// Its URI.
    pub uri: String,
    /// Whether the server is connected to it now.
    pub connected: bool,
    /// The last thing that went wrong with it, if anything did since the last connection.
    pub last_error: Option<String>,
}
