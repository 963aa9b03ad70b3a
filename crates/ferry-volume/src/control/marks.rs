//! What the control socket tells of marks.

use serde::{Deserialize, Serialize};

/// A mark that a volume keeps, and how much may have changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkStatus {
    /// Its id. Never given twice to one copy of a volume.
    pub mark: u64,
    /// Bytes of the volume that may have changed since it was set: whole blocks of 4 KiB; after a crash wider stretches.
    pub bytes_changed: u64,
}
