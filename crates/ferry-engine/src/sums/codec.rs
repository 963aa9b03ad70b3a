//! The file form of [`Sums`]: a head, written once, and a log of frames that is only appended to, like that of the map.
//!
//! Unlike in the map a frame need not be durable before the next one is written: whoever appends makes the file durable
//! when somebody relies on it (docs/formats.md says when). So what is not whole ends the log, whatever follows.

use super::{LEAVES_AT_ONCE, SumRecord, SumTally, Sums};
use crate::frame::{self, SLOT_BYTES, u32_at, u64_at};
use crate::geometry::{Blocks, Geometry, GeometryError};

/// What the file begins with.
pub const MAGIC: &[u8; 8] = b"FERRYSUM";
/// The version that this build writes and the only one that it reads.
pub const VERSION: u32 = 1;
/// Size of the head in bytes.
pub const HEAD_BYTES: usize = 3 * SLOT_BYTES;
/// A log shorter than this many bytes is never worth writing anew.
pub const COMPACT_BYTES_MIN: u64 = 1 << 20;
/// Records in one frame of a file that is written anew.
const FRAME_RECORDS_MAX: usize = 1 << 16;

const KIND_ARRIVED: u32 = 1;
const KIND_TOLD: u32 = 2;
const KIND_ZEROES: u32 = 3;
const KIND_CHANGED: u32 = 4;
const KIND_OPENED: u32 = 5;
const KIND_CLOSED: u32 = 6;
const KIND_GAPPY: u32 = 7;
const KIND_DOUBTFUL: u32 = 8;
const KIND_SETTLED: u32 = 9;
const KIND_TALLIED_DATA: u32 = 10;
const KIND_TALLIED_ZEROES: u32 = 11;

/// Whose sums a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SumsOf {
    /// The volume's id (a ULID's 16 bytes).
    pub volume_id: [u8; 16],
    /// The generation of the copy in whose directory the file lies.
    pub generation: u64,
}

/// Where the log of a file stands: what the next frame needs to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SumsLog {
    seed: u32,
    next_frame: u64,
    bytes_valid: u64,
    bytes_compact: u64,
}

impl SumsLog {
    /// Length of the file up to the end of its last whole frame, in bytes. Cut the file here before appending.
    #[must_use]
    pub const fn bytes_valid(&self) -> u64 {
        self.bytes_valid
    }

    /// The bytes of the next frame, to be written at [`SumsLog::bytes_valid`] as it was before the call.
    #[must_use]
    pub fn append(&mut self, records: &[SumRecord]) -> Vec<u8> {
        let frame = frame::encode(self.seed, self.next_frame, records, encode_record);
        self.next_frame += 1;
        self.bytes_valid += frame.len() as u64;
        frame
    }

    /// Whether the log has grown so much that a fresh file ([`compact`]) is worth its cost.
    #[must_use]
    pub const fn wants_compaction(&self) -> bool {
        let double = self.bytes_compact * 2;
        self.bytes_valid > if double > COMPACT_BYTES_MIN { double } else { COMPACT_BYTES_MIN }
    }
}

/// Why a file of sums was refused. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SumsError {
    /// It is something else, or its head is damaged.
    #[error("this is no file of checksums of a ferry volume, or its head is damaged; remove it")]
    NoHead,
    /// A newer ferry wrote it.
    #[error(
        "the checksums have version {version} and this ferry reads version {VERSION}; use the ferry that wrote it"
    )]
    Version {
        /// The version found.
        version: u32,
    },
    /// It describes a volume that cannot be.
    #[error("the checksums are of a volume that cannot be")]
    Geometry(#[source] GeometryError),
    /// A whole frame says something that cannot be.
    #[error("the frame at byte {offset} of the checksums says what cannot be; remove the file")]
    Record {
        /// Where the frame begins.
        offset: usize,
    },
}

/// Reads a file of sums. What follows the first frame that is not whole is dropped; if whole frames are among it, what
/// has no leaf may have arrived all the same ([`Sums::is_gappy`]).
///
/// # Errors
/// [`SumsError`] says what is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<(SumsOf, Sums, SumsLog), SumsError> {
    let head = bytes.get(..HEAD_BYTES).filter(|head| &head[..8] == MAGIC).ok_or(SumsError::NoHead)?;
    let seed = u32_at(head, HEAD_BYTES - 4);
    if seed != crc32c::crc32c(&head[..HEAD_BYTES - 4]) {
        return Err(SumsError::NoHead);
    }
    let version = u32_at(head, 8);
    if version != VERSION {
        return Err(SumsError::Version { version });
    }
    let mut volume_id = [0; 16];
    volume_id.copy_from_slice(&head[16..32]);
    let geometry = Geometry::new(u64_at(head, 32), u64_at(head, 40)).map_err(SumsError::Geometry)?;
    let of = SumsOf { volume_id, generation: u64_at(head, 48) };
    let mut sums = Sums::new(geometry);
    let compact = HEAD_BYTES as u64;
    let mut log = SumsLog { seed, next_frame: 0, bytes_valid: compact, bytes_compact: compact };
    let mut offset = HEAD_BYTES;
    while let Some(records) = frame::whole(bytes, offset, seed, log.next_frame) {
        for slot in records.chunks_exact(SLOT_BYTES) {
            let record = decode_record(slot, &sums).ok_or(SumsError::Record { offset })?;
            sums.apply(record);
        }
        offset += SLOT_BYTES + records.len();
        log.next_frame += 1;
        if log.next_frame == 1 {
            log.bytes_compact = offset as u64;
        }
    }
    log.bytes_valid = offset as u64;
    if frame::more_follows(bytes, offset, seed, log.next_frame) {
        sums.make_gappy();
    }
    Ok((of, sums, log))
}

/// A fresh file that says the same. Also how one is made in the first place.
#[must_use]
pub fn compact(of: SumsOf, sums: &Sums) -> (Vec<u8>, SumsLog) {
    let mut bytes = vec![0; HEAD_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..32].copy_from_slice(&of.volume_id);
    bytes[32..40].copy_from_slice(&sums.geometry.size_bytes().to_le_bytes());
    bytes[40..48].copy_from_slice(&sums.geometry.region_bytes().to_le_bytes());
    bytes[48..56].copy_from_slice(&of.generation.to_le_bytes());
    let seed = crc32c::crc32c(&bytes[..HEAD_BYTES - 4]);
    bytes[HEAD_BYTES - 4..].copy_from_slice(&seed.to_le_bytes());
    let head = HEAD_BYTES as u64;
    let mut log = SumsLog { seed, next_frame: 0, bytes_valid: head, bytes_compact: head };
    for records in all_records(sums).chunks(FRAME_RECORDS_MAX) {
        bytes.extend_from_slice(&log.append(records));
    }
    log.bytes_compact = log.bytes_valid;
    (bytes, log)
}

fn all_records(sums: &Sums) -> Vec<SumRecord> {
    let size = sums.geometry.region_blocks();
    let mut records = Vec::new();
    for run in sums.zero.runs() {
        let end = sums.geometry.block_count().min(run.end() * size);
        records.extend(Blocks::between(run.first() * size, end).map(SumRecord::Zeroes));
    }
    for (&chunk, leaves) in &sums.leaves {
        let regions = (chunk * LEAVES_AT_ONCE..).zip(leaves.iter());
        for (region, &crc32c) in
            regions.filter(|&(region, _)| region < sums.geometry.region_count() && sums.summed.get(region))
        {
            records.push(SumRecord::Arrived { blocks: sums.blocks_of(region), crc32c });
        }
    }
    for piece in sums.pieces.values().flatten() {
        records.push(SumRecord::Arrived { blocks: piece.blocks, crc32c: piece.crc32c });
    }
    let count = sums.geometry.region_count();
    let mut at = sums.changed.next(0, true, count);
    while at < count {
        let end = sums.changed.next(at, false, count);
        records.extend(Blocks::between(at, end).map(SumRecord::Changed));
        at = sums.changed.next(end, true, count);
    }
    records.extend(sums.is_gappy.then_some(SumRecord::Gappy));
    records.extend(sums.is_doubtful.then_some(SumRecord::Doubtful));
    records.extend(sums.opened.map(|boot| SumRecord::Opened { boot }));
    let SumTally { bytes_arrived, bytes_zero, bytes_told } = sums.tally;
    if sums.tally != SumTally::default() {
        records.push(SumRecord::TalliedData { bytes_arrived, bytes_told });
        records.push(SumRecord::TalliedZeroes { bytes_zero });
    }
    records
}

fn encode_record(record: SumRecord, out: &mut Vec<u8>) {
    let (kind, word, a, b) = match record {
        SumRecord::Arrived { blocks, crc32c } => (KIND_ARRIVED, crc32c, blocks.first(), blocks.count()),
        SumRecord::Told { blocks, crc32c } => (KIND_TOLD, crc32c, blocks.first(), blocks.count()),
        SumRecord::Zeroes(blocks) => (KIND_ZEROES, 0, blocks.first(), blocks.count()),
        SumRecord::Changed(regions) => (KIND_CHANGED, 0, regions.first(), regions.count()),
        SumRecord::Opened { boot } => (KIND_OPENED, 0, boot, 0),
        SumRecord::Closed => (KIND_CLOSED, 0, 0, 0),
        SumRecord::Gappy => (KIND_GAPPY, 0, 0, 0),
        SumRecord::Doubtful => (KIND_DOUBTFUL, 0, 0, 0),
        SumRecord::Settled => (KIND_SETTLED, 0, 0, 0),
        SumRecord::TalliedData { bytes_arrived, bytes_told } => {
            (KIND_TALLIED_DATA, 0, bytes_arrived, bytes_told)
        }
        SumRecord::TalliedZeroes { bytes_zero } => (KIND_TALLIED_ZEROES, 0, bytes_zero, 0),
    };
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&word.to_le_bytes());
    out.extend_from_slice(&a.to_le_bytes());
    out.extend_from_slice(&b.to_le_bytes());
}

/// The record, if it can be true of what the records before it say.
fn decode_record(slot: &[u8], sums: &Sums) -> Option<SumRecord> {
    let (kind, crc32c, a, b) = (u32_at(slot, 0), u32_at(slot, 4), u64_at(slot, 8), u64_at(slot, 16));
    let run = |count: u64| {
        let end = a.checked_add(b).filter(|&end| end <= count)?;
        Blocks::between(a, end)
    };
    let geometry = sums.geometry;
    let unknown_piece = || {
        let blocks = run(geometry.block_count())?;
        (blocks.end() <= geometry.region_end(a) && sums.gaps(blocks) == [blocks]).then_some(blocks)
    };
    match kind {
        KIND_ARRIVED => Some(SumRecord::Arrived { blocks: unknown_piece()?, crc32c }),
        KIND_TOLD => Some(SumRecord::Told { blocks: unknown_piece()?, crc32c }),
        KIND_ZEROES => run(geometry.block_count()).map(SumRecord::Zeroes),
        KIND_CHANGED => run(geometry.region_count()).map(SumRecord::Changed),
        KIND_OPENED => Some(SumRecord::Opened { boot: a }),
        KIND_CLOSED => Some(SumRecord::Closed),
        KIND_GAPPY => Some(SumRecord::Gappy),
        KIND_DOUBTFUL => Some(SumRecord::Doubtful),
        KIND_SETTLED => Some(SumRecord::Settled),
        KIND_TALLIED_DATA | KIND_TALLIED_ZEROES if a.max(b) > geometry.size_bytes() => None,
        KIND_TALLIED_DATA => Some(SumRecord::TalliedData { bytes_arrived: a, bytes_told: b }),
        KIND_TALLIED_ZEROES => Some(SumRecord::TalliedZeroes { bytes_zero: a }),
        _ => None,
    }
}
