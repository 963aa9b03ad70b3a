//! What a volume server tells about checksums: the receipt of a volume, a check of its store, and what the source gave
//! wrong.

use super::Span;
use serde::{Deserialize, Serialize};

/// Stretches that a check lists; it counts the others.
pub const DIFFERING_MAX: usize = 256;

/// Bytes that the source has given with a wrong checksum three times or more; they are fetched again all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// Which bytes.
    pub span: Span,
    /// How often.
    pub times: u32,
    /// Whether the same wrong bytes came twice: then it is the source's disk or memory, else rather the way.
    pub same_bytes: bool,
}

/// What is known of a volume as it was sealed at a generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The root checksum.
    pub root: RootState,
    /// Regions of the volume.
    pub regions: u64,
    /// Size of a region in bytes.
    pub region_bytes: u64,
    /// Bytes that arrived, and were summed as they did (on the source: that were read).
    pub bytes_arrived: u64,
    /// Bytes that the source said are zero.
    pub bytes_zero: u64,
    /// Bytes that never arrived, since the guest wrote there first: the source told their checksum.
    pub bytes_told: u64,
    /// Checksums of what arrived were lost on the way: some of what was told did arrive, and that is not proven here.
    pub is_gappy: bool,
}

/// Whether a root is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RootState {
    /// Not yet: ask again.
    #[default]
    Summing,
    /// It is.
    Known {
        /// BLAKE3 in hexadecimal, see docs/formats.md.
        root: String,
    },
    /// It cannot be.
    Unknown {
        /// Why, in a few words.
        reason: String,
    },
}

/// A check of the store against what is known of the volume's regions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// How it stands.
    pub state: CheckState,
    /// Regions of the volume.
    pub regions: u64,
    /// They hold what they should.
    pub regions_equal: u64,
    /// The guest has changed them since, so that nothing can be said of them.
    pub regions_changed: u64,
    /// They are not here yet, or their checksum is not known.
    pub regions_unknown: u64,
    /// They hold something else.
    pub regions_differing: u64,
    /// They hold something else, but the power went while the guest may have written: it may have been the guest. The
    /// next check says nothing of them.
    pub regions_doubtful: u64,
    /// The first of those that hold something else.
    pub differing: Vec<Span>,
    /// The first of the doubtful ones.
    pub doubtful: Vec<Span>,
    /// Bytes read so far; holes are not read.
    pub bytes_read: u64,
    /// The root of a sealed copy all of which was found to be as it was sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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

impl Check {
    /// Regions that were looked at.
    #[must_use]
    pub fn regions_seen(&self) -> u64 {
        self.regions_equal
            + self.regions_changed
            + self.regions_unknown
            + self.regions_differing
            + self.regions_doubtful
    }

    /// Whether every region was looked at and holds what it should.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.regions_equal == self.regions
    }

    /// A region does not hold what it should.
    pub(crate) fn differs(&mut self, offset: u64, len_bytes: u64, is_doubtful: bool) {
        let (count, list) = match is_doubtful {
            true => (&mut self.regions_doubtful, &mut self.doubtful),
            false => (&mut self.regions_differing, &mut self.differing),
        };
        *count += 1;
        if list.len() < DIFFERING_MAX {
            list.push(Span { offset, len_bytes });
        }
    }
}
