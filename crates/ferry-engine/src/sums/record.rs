//! What is learnt of checksums, one fact at a time: what the file of sums is a log of.

use crate::geometry::Blocks;

/// Something that was learnt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SumRecord {
    /// These blocks, of one region, arrived with this CRC-32C.
    Arrived {
        /// Which.
        blocks: Blocks,
        /// Of their bytes.
        crc32c: u32,
    },
    /// These blocks, of one region, never arrived; the source says that this is their CRC-32C.
    Told {
        /// Which.
        blocks: Blocks,
        /// Of their bytes.
        crc32c: u32,
    },
    /// The source says that these blocks are zero.
    Zeroes(Blocks),
    /// The guest changes something in these regions (numbers of regions, not of blocks).
    Changed(Blocks),
    /// A server opened the volume, in the boot of the host that this number names.
    Opened {
        /// Names the boot.
        boot: u64,
    },
    /// It ended and everything that it learnt is durable.
    Closed,
    /// Some of what arrived is not told of here: what has no leaf may have arrived all the same.
    Gappy,
    /// The power went while the guest may have written: a region that is not marked may have been changed.
    Doubtful,
    /// All regions were looked at since.
    Settled,
    /// So many bytes arrived and were told: what the records before this one cannot say any more.
    TalliedData {
        /// [`SumTally::bytes_arrived`]
        bytes_arrived: u64,
        /// [`SumTally::bytes_told`]
        bytes_told: u64,
    },
    /// The same for what was said to be zero.
    TalliedZeroes {
        /// [`SumTally::bytes_zero`]
        bytes_zero: u64,
    },
}

/// How many bytes became known in which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SumTally {
    /// They arrived, and were summed as they did.
    pub bytes_arrived: u64,
    /// The source said that they are zero.
    pub bytes_zero: u64,
    /// They never arrived; the source told their checksum.
    pub bytes_told: u64,
}
