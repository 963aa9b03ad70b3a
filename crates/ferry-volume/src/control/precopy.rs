//! What the control socket tells of copying from a source whose guest still writes.

use serde::{Deserialize, Serialize};

/// How pre-copying stands: what a volume that stands by holds of a source whose guest still writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrecopyStatus {
    /// What the source says not to have changed since this mark of its is held; none: nothing is held yet.
    pub held_since: Option<u64>,
    /// Whether a round is under way.
    pub copies: bool,
    /// Bytes that this round, or the last one, is about.
    pub bytes_to_copy: u64,
    /// Bytes of them that were copied.
    pub bytes_copied: u64,
    /// Why the last round ended before it was done, if it did; what was held before it is still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What of a pre-copied volume is right now that its source is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// Bytes that are local from now on.
    pub bytes_held: u64,
    /// Bytes that are still at the source only.
    pub bytes_remote: u64,
}
