//! The file form of notes ([`crate::Operation::Note`]): a head, written once, and a log of frames that is only appended
//! to, like that of the map. Pure: bytes in, blocks out. The drawing is in docs/formats.md.
//!
//! Nothing of it is ever made durable. It holds for one boot of one host, as long as the page cache does; what another
//! boot left means nothing, whatever it looks like. A process that is killed while it appends leaves a frame that is not
//! whole: what that frame would have told was not answered.

use crate::frame::{self, SLOT_BYTES, u32_at, u64_at};
use crate::geometry::{Blocks, Geometry};

/// What the file begins with.
pub const MAGIC: &[u8; 8] = b"FERRYNOT";
/// The version that this build writes and the only one that it reads.
pub const VERSION: u32 = 1;
/// Size of the head in bytes.
pub const HEAD_BYTES: usize = 3 * SLOT_BYTES;
/// A log shorter than this many bytes is never worth writing anew.
pub const COMPACT_BYTES_MIN: u64 = 1 << 20;
/// Records in one frame of a file that is written anew.
const FRAME_RECORDS_MAX: usize = 1 << 16;

const KIND_LOCAL: u32 = 1;

/// Whose notes a file holds, and how long they hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotesOf {
    /// The volume's id (a ULID's 16 bytes).
    pub volume_id: [u8; 16],
    /// The generation of the copy in whose directory the file lies.
    pub generation: u64,
    /// Names the boot of the host.
    pub boot: u64,
}

/// Where the log of a file stands: what the next frame needs to know. A copy kept before an append that fails is the
/// way back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotesLog {
    seed: u32,
    next_frame: u64,
    bytes_valid: u64,
    bytes_compact: u64,
}

impl NotesLog {
    const fn begun(seed: u32) -> NotesLog {
        let head = HEAD_BYTES as u64;
        NotesLog { seed, next_frame: 0, bytes_valid: head, bytes_compact: head }
    }

    /// Length of the file up to the end of its last whole frame, in bytes. The next frame is written here.
    #[must_use]
    pub const fn bytes_valid(&self) -> u64 {
        self.bytes_valid
    }

    /// Whether nothing is noted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.next_frame == 0
    }

    /// The bytes of the next frame, to be written at [`NotesLog::bytes_valid`] as it was before the call.
    #[must_use]
    pub fn append(&mut self, notes: &[Blocks]) -> Vec<u8> {
        let frame = frame::encode(self.seed, self.next_frame, notes, encode_record);
        self.next_frame += 1;
        self.bytes_valid += frame.len() as u64;
        frame
    }

    /// Forgets all notes; the file is cut to [`NotesLog::bytes_valid`] with it.
    pub const fn clear(&mut self) {
        *self = NotesLog::begun(self.seed);
    }

    /// Whether the log has grown so much that a fresh file ([`compact`]) is worth its cost.
    #[must_use]
    pub const fn wants_compaction(&self) -> bool {
        let double = self.bytes_compact * 2;
        self.bytes_valid > if double > COMPACT_BYTES_MIN { double } else { COMPACT_BYTES_MIN }
    }
}

/// Why notes cannot be read, although they may hold. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotesError {
    /// Another ferry wrote them in this very boot.
    #[error(
        "the notes of unflushed writes have version {version} and this ferry reads version {VERSION}; start the ferry \
         that wrote them and let the guest flush first"
    )]
    Version {
        /// The version found.
        version: u32,
    },
}

/// A fresh file of these notes. Also how one is made in the first place.
#[must_use]
pub fn compact(of: NotesOf, notes: &[Blocks]) -> (Vec<u8>, NotesLog) {
    let mut bytes = vec![0; HEAD_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..32].copy_from_slice(&of.volume_id);
    bytes[32..40].copy_from_slice(&of.generation.to_le_bytes());
    bytes[40..48].copy_from_slice(&of.boot.to_le_bytes());
    let seed = crc32c::crc32c(&bytes[..HEAD_BYTES - 4]);
    bytes[HEAD_BYTES - 4..].copy_from_slice(&seed.to_le_bytes());
    let mut log = NotesLog::begun(seed);
    for records in notes.chunks(FRAME_RECORDS_MAX) {
        bytes.extend_from_slice(&log.append(records));
    }
    log.bytes_compact = log.bytes_valid;
    (bytes, log)
}

/// What a file notes, and where its log stands; none if it is not of this copy and this boot. What follows the first
/// frame that is not whole, or that names what the volume does not have, is dropped.
///
/// # Errors
/// [`NotesError`] if what holds cannot be read.
pub fn decode(
    bytes: &[u8],
    of: NotesOf,
    geometry: Geometry,
) -> Result<Option<(Vec<Blocks>, NotesLog)>, NotesError> {
    let Some(head) = bytes.get(..HEAD_BYTES).filter(|head| &head[..8] == MAGIC) else { return Ok(None) };
    let seed = u32_at(head, HEAD_BYTES - 4);
    if seed != crc32c::crc32c(&head[..HEAD_BYTES - 4]) {
        return Ok(None);
    }
    let is_of_this =
        head[16..32] == of.volume_id && (u64_at(head, 32), u64_at(head, 40)) == (of.generation, of.boot);
    if !is_of_this {
        return Ok(None);
    }
    let version = u32_at(head, 8);
    if version != VERSION {
        return Err(NotesError::Version { version });
    }
    let (mut notes, mut log) = (Vec::new(), NotesLog::begun(seed));
    let mut offset = HEAD_BYTES;
    while let Some(records) = frame::whole(bytes, offset, seed, log.next_frame) {
        let told = records.chunks_exact(SLOT_BYTES).map(|slot| decode_record(slot, geometry));
        let Some(told) = told.collect::<Option<Vec<Blocks>>>() else { break };
        notes.extend(told);
        offset += SLOT_BYTES + records.len();
        log.next_frame += 1;
        log.bytes_valid = offset as u64;
    }
    Ok(Some((notes, log)))
}

fn encode_record(blocks: Blocks, out: &mut Vec<u8>) {
    out.extend_from_slice(&KIND_LOCAL.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&blocks.first().to_le_bytes());
    out.extend_from_slice(&blocks.count().to_le_bytes());
}

fn decode_record(slot: &[u8], geometry: Geometry) -> Option<Blocks> {
    let (first, count) = (u64_at(slot, 8), u64_at(slot, 16));
    let end = first.checked_add(count).filter(|&end| end <= geometry.block_count())?;
    Blocks::between(first, end).filter(|_| u32_at(slot, 0) == KIND_LOCAL && u32_at(slot, 4) == 0)
}
