//! Proof that what was sealed has arrived and is still there: roots of checksums, and checks of what lies on a disk.

use serde::{Deserialize, Serialize};

use crate::Span;

/// Asks a copy for the root checksum of the volume as it was sealed at a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskRoot {
    /// The generation: the copy's own, or the one that its bytes came from.
    pub of_generation: u64,
    /// Of the regions from this one on.
    #[serde(default)]
    pub first_region: u64,
    /// Of so many; none: of all that follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regions: Option<u64>,
}

/// What a copy knows of the volume as it was sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRoot {
    /// The root checksum of the regions that were asked for.
    pub root: Root,
    /// Regions of the volume.
    pub regions: u64,
    /// Size of a region in bytes.
    pub region_bytes: u64,
    /// Bytes that arrived and were summed as they did (on the source: that were read).
    pub bytes_arrived: u64,
    /// Bytes that never crossed because they are zero.
    pub bytes_zero: u64,
    /// Bytes that never crossed because the machine wrote there first; the source told their checksum.
    pub bytes_told: u64,
    /// Checksums of what arrived were lost: some of what was told did arrive, which is not proven.
    pub is_gappy: bool,
}

/// Whether a root checksum is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Root {
    /// Not yet: ask again.
    #[default]
    Summing,
    /// It is.
    Known {
        /// BLAKE3 in hexadecimal.
        root: String,
    },
    /// It cannot be.
    Unknown {
        /// Why, in a few words.
        reason: String,
    },
}

/// Asks for a check of what a copy holds on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyVolume {
    /// Begin one, unless one is under way; else tell of the one under way, or of the last one.
    pub anew: bool,
}

/// How a check of what a copy holds stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeCheck {
    /// How it stands.
    pub state: CheckState,
    /// Regions of the volume.
    pub regions: u64,
    /// Regions that hold what arrived (on a sealed copy: what was sealed).
    pub regions_equal: u64,
    /// Regions that the machine has changed since: nothing can be said of them.
    pub regions_changed: u64,
    /// Regions that are not here yet, or whose checksum is not known.
    pub regions_unknown: u64,
    /// Regions that hold something else.
    pub regions_differing: u64,
    /// Regions that hold something else where the power went while the machine may have written: perhaps it was the
    /// machine. The next check says nothing of them.
    pub regions_doubtful: u64,
    /// The first of the differing ones.
    pub differing: Vec<Span>,
    /// The first of the doubtful ones.
    pub doubtful: Vec<Span>,
    /// Bytes read so far; holes are not read.
    pub bytes_read: u64,
    /// The root checksum of a sealed copy all of which was found to be as it was sealed.
    pub root: Option<String>,
}

/// How a check stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum CheckState {
    /// It goes on.
    #[default]
    Running,
    /// Every region was looked at.
    Done,
    /// It could not go on.
    Failed {
        /// Why, in one sentence.
        reason: String,
    },
}

impl VolumeCheck {
    /// Regions that were looked at so far.
    #[must_use]
    pub fn regions_seen(&self) -> u64 {
        self.regions_equal
            + self.regions_changed
            + self.regions_unknown
            + self.regions_differing
            + self.regions_doubtful
    }
}

/// Bytes that came from the source with a wrong checksum three times or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// Which.
    pub span: Span,
    /// How often.
    pub times: u32,
    /// Whether the same wrong bytes came twice: then it is the source's disk or memory, else rather the way.
    pub same_bytes: bool,
}
