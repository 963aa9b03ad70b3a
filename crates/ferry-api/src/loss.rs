//! Sources that are lost, or that cannot give all they should.

use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;

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

/// What becomes of requests of the machine that wait for a source that is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossPolicy {
    /// They wait until it is back, for ever if need be.
    #[default]
    Wait,
    /// Those that have waited for so many milliseconds while it was away get an error.
    FailAfterMs(NonZeroU64),
}

/// Asks for another policy, from now on and over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnSourceLoss {
    /// The policy.
    pub policy: LossPolicy,
}

/// Asks for another set of sources that stand in for the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ChangeSources {
    /// Read from this URI, too, when those before it are away or cannot give something.
    Add(String),
    /// Read from this one no more.
    Remove(String),
}

/// How the link to a source that stands in for another stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandIn {
    /// Its URI.
    pub uri: String,
    /// Whether the clone is connected to it now.
    pub connected: bool,
    /// The last thing that went wrong with it, if anything did since the last connection.
    pub last_error: Option<String>,
}

/// Gives up the source of a volume for good: what only it has reads as zeroes from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbandonSource {
    /// What that costs in bytes, as it was told. None (`null`, never left out): tell it, and change nothing.
    #[serde(deserialize_with = "Option::deserialize")]
    pub lose_bytes: Option<u64>,
    /// Also while the source is connected.
    #[serde(default)]
    pub force: bool,
}

/// What giving up a source costs, or has cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Whether the source was given up. If not, nothing has changed.
    pub abandoned: bool,
    /// All that is lost, in bytes.
    pub bytes: u64,
    /// How many ranges that is, before it is lost.
    pub count: u64,
    /// The first of them, in order, at most 16384, before they are lost.
    pub listed: Vec<Span>,
    /// The file on the worker that lists all of them, once they are lost.
    pub list: Option<String>,
}
