//! The map file: which blocks are local, and in which phase the volume is, in a form that survives a crash at any
//! point. Pure: bytes in, facts out. The drawing, byte by byte, is in docs/formats.md.
//!
//! A map is a superblock, written once, and a log of frames. A frame is what one [`crate::Operation::Persist`]
//! appends; it holds records, a checksum seeded with the superblock's own, and a number that rises by one.
//!
//! Invariant: a frame is only appended after the one before it is durable. So a frame that is not whole, with
//! nothing whole behind it, was being appended when the power went (it is dropped); with a whole frame behind it, the
//! file was damaged (it is refused, and never written to).

mod compaction;

use crate::frame::{self, SLOT_BYTES, u32_at, u64_at};
use crate::geometry::{BLOCK_BYTES, Blocks, Geometry, GeometryError};
use crate::marks::{MarkId, Marks};
use crate::truth::Truth;

use compaction::{mark_records, mask_runs, truth_records};

/// Size of the superblock in bytes.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// The version that this build writes and the only one that it reads.
pub const MAP_VERSION: u32 = 1;
/// A log shorter than this many bytes is never worth compacting.
pub const COMPACT_BYTES_MIN: u64 = 1 << 20;

const MAGIC: &[u8; 8] = b"FERRYMAP";
const FLAG_HAS_SOURCE: u32 = 1;

const KIND_LOCAL: u32 = 1;
const KIND_LOCAL_MASK: u32 = 2;
const KIND_PHASE: u32 = 3;
const KIND_SOURCE_DETACHED: u32 = 4;
const KIND_MAY_CHANGE: u32 = 5;
const KIND_MARK_SET: u32 = 6;
const KIND_MARK_FORGOTTEN: u32 = 7;
const KIND_GROWN: u32 = 10;
const KIND_ABANDONED: u32 = 8;

/// Whom a volume serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Nobody yet.
    Standby,
    /// The guest.
    Open,
    /// Readers only: nothing the guest wrote can change any more.
    Sealed,
}

/// One fact that the map learns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapRecord {
    /// These blocks are local.
    Local(Blocks),
    /// Of the 64 blocks from `first_block` (a multiple of 64), those whose bit is set are local.
    LocalMask {
        /// The block of bit 0.
        first_block: u64,
        /// Bit n stands for block `first_block + n`.
        mask: u64,
    },
    /// The volume changed its phase.
    Phase(Phase),
    /// Everything is local and the source is forgotten.
    SourceDetached,
    /// The guest may change these blocks from now on, if it has not before: they count as changed since every mark.
    MayChange(Blocks),
    /// A mark was set. A shell that must cut a list of records into frames leaves it together with all that follow it:
    /// they tell what has changed since.
    MarkSet(MarkId),
    /// A mark, if it is kept, is forgotten; its id is never given again.
    MarkForgotten(MarkId),
    /// The volume has so many bytes from now on; its new blocks are local, and zero.
    Grown {
        /// More than before, a multiple of 512.
        size_bytes: u64,
    },
    /// The source was given up: what was remote is local, and zero.
    Abandoned,
}

/// All that a map says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapState {
    /// The volume's id (a ULID's 16 bytes).
    pub volume_id: [u8; 16],
    /// The generation this copy of the volume belongs to.
    pub generation: u64,
    /// Whom it serves.
    pub phase: Phase,
    /// Whether remote blocks can exist. Without a source everything is local.
    pub has_source: bool,
    /// What a source must hold, in bytes: the volume's size before it grew. Beyond that a source is never asked; a last
    /// block that was short reads as zeroes there.
    pub source_bytes: u64,
    /// Which blocks are local; knows the geometry.
    pub truth: Truth,
    /// What may have changed since which moments.
    pub marks: Marks,
}

impl MapState {
    /// A volume that was never written: all remote if it has a source, else all local (and zero).
    #[must_use]
    pub fn fresh(
        volume_id: [u8; 16],
        geometry: Geometry,
        generation: u64,
        phase: Phase,
        has_source: bool,
    ) -> MapState {
        let truth = if has_source { Truth::all_remote(geometry) } else { Truth::all_local(geometry) };
        let source_bytes = geometry.size_bytes();
        MapState {
            volume_id,
            generation,
            phase,
            has_source,
            source_bytes,
            truth,
            marks: Marks::none(geometry),
        }
    }

    /// The same with a mark of its birth ([`MarkId::BIRTH`]): from the first write on it is known in what it may differ from
    /// its source.
    ///
    /// # Panics
    /// If it is not fresh.
    #[must_use]
    pub fn born(mut self) -> MapState {
        assert!(self.marks.set(MarkId::BIRTH), "a copy is born before anything else happens to it");
        self
    }

    /// The volume's geometry.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.truth.geometry()
    }

    /// Learns a fact.
    ///
    /// # Errors
    /// The reason, if the fact cannot be true of this volume.
    pub fn apply(&mut self, record: MapRecord) -> Result<(), RecordError> {
        match record {
            MapRecord::Local(blocks) => self.mark_local(blocks)?,
            MapRecord::LocalMask { first_block, mask } => {
                if !first_block.is_multiple_of(64) {
                    return Err(RecordError::Misaligned { first_block });
                }
                for blocks in mask_runs(first_block, mask) {
                    self.mark_local(blocks)?;
                }
            }
            MapRecord::Phase(phase) => self.phase = phase,
            MapRecord::SourceDetached => {
                if !self.truth.is_complete() {
                    return Err(RecordError::DetachedTooEarly);
                }
                self.has_source = false;
                self.source_bytes = self.geometry().size_bytes();
            }
            MapRecord::Grown { size_bytes } => self.grow(size_bytes)?,
            MapRecord::Abandoned => {
                // What the source held and is zero now has changed.
                let lost = self.truth.remote_runs(self.geometry().all_blocks());
                lost.for_each(|run| self.marks.change(run));
                self.truth.mark_local(self.geometry().all_blocks());
                self.has_source = false;
                self.source_bytes = self.geometry().size_bytes();
            }
            MapRecord::MayChange(blocks) => {
                if self.marks.is_empty() {
                    return Err(RecordError::Unmarked);
                }
                self.check(blocks)?;
                self.marks.change(blocks);
            }
            MapRecord::MarkSet(mark) if !self.marks.set(mark) => return Err(RecordError::Mark { mark }),
            MapRecord::MarkSet(_) => {}
            MapRecord::MarkForgotten(mark) => self.marks.forget(mark),
        }
        Ok(())
    }

    fn grow(&mut self, size_bytes: u64) -> Result<(), RecordError> {
        let former = self.geometry();
        let geometry = Geometry::new(size_bytes, former.region_bytes()).ok();
        let larger = geometry.filter(|geometry| geometry.size_bytes() > former.size_bytes());
        let larger = larger.ok_or(RecordError::Size { size_bytes })?;
        self.truth.grow(larger);
        self.marks.grow(larger);
        if !self.has_source {
            self.source_bytes = size_bytes;
        }
        Ok(())
    }

    fn mark_local(&mut self, blocks: Blocks) -> Result<(), RecordError> {
        self.check(blocks)?;
        self.truth.mark_local(blocks);
        Ok(())
    }

    fn check(&self, blocks: Blocks) -> Result<(), RecordError> {
        if blocks.end() > self.geometry().block_count() {
            return Err(RecordError::Beyond { first_block: blocks.first(), end_block: blocks.end() });
        }
        Ok(())
    }
}

/// Where the log of a map stands: what the next frame needs to know. A copy kept before an append that fails is the
/// way back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapLog {
    seed: u32,
    next_frame: u64,
    bytes_valid: u64,
    bytes_compact: u64,
}

impl MapLog {
    /// Length of the file up to the end of its last whole frame, in bytes. Cut the file here before appending.
    #[must_use]
    pub const fn bytes_valid(&self) -> u64 {
        self.bytes_valid
    }

    /// The bytes of the next frame, to be written at [`MapLog::bytes_valid`] (as it was before the call) and made
    /// durable before the frame after it is.
    #[must_use]
    pub fn append(&mut self, records: &[MapRecord]) -> Vec<u8> {
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

/// Why a map was refused. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MapError {
    /// The file ends before its superblock does.
    #[error("the map has {bytes} bytes, which is less than its superblock; restore it from a copy")]
    Short {
        /// How long the file is.
        bytes: usize,
    },
    /// The file is something else.
    #[error("this is not a map of a ferry volume; give the volume's own `map` file")]
    NotAMap,
    /// A newer ferry wrote it.
    #[error(
        "the map has version {version} and this ferry reads version {MAP_VERSION}; use the ferry that wrote it"
    )]
    Version {
        /// The version found.
        version: u32,
    },
    /// The superblock's checksum is wrong.
    #[error("the map's superblock is damaged (its checksum is wrong); restore it from a copy")]
    SuperblockDamaged,
    /// The superblock's checksum is right and its content makes no sense.
    #[error("the map's superblock says what cannot be (field {field}); use the ferry that wrote it")]
    SuperblockNonsense {
        /// Which field.
        field: &'static str,
    },
    /// The superblock's geometry makes no sense.
    #[error("the map's superblock describes a volume that cannot be")]
    Geometry(#[source] GeometryError),
    /// A frame is damaged although later ones are whole.
    #[error(
        "the map is damaged at byte {offset}: frame {frame} is not whole but a later one is; restore it from a copy"
    )]
    FrameDamaged {
        /// Where the frame begins.
        offset: usize,
        /// The frame's number.
        frame: u64,
    },
    /// A whole frame says something that cannot be.
    #[error("the map's frame at byte {offset} says what cannot be; use the ferry that wrote it")]
    Record {
        /// Where the frame begins.
        offset: usize,
        /// What is wrong.
        #[source]
        source: RecordError,
    },
}

/// Why a record cannot be true.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// Blocks outside the volume.
    #[error("blocks {first_block}..{end_block} lie beyond the volume's end")]
    Beyond {
        /// First block.
        first_block: u64,
        /// Block after the last one.
        end_block: u64,
    },
    /// A range without blocks or with too many.
    #[error("a range of {count} blocks from block {first_block} cannot be")]
    Range {
        /// First block.
        first_block: u64,
        /// How many.
        count: u64,
    },
    /// A mask that does not begin at a multiple of 64.
    #[error("a mask of blocks begins at block {first_block}, which is not a multiple of 64")]
    Misaligned {
        /// First block.
        first_block: u64,
    },
    /// A phase with an unknown number.
    #[error("phase {number} is unknown")]
    Phase {
        /// The number.
        number: u64,
    },
    /// A record of an unknown kind.
    #[error("record kind {kind} is unknown")]
    Kind {
        /// The number.
        kind: u32,
    },
    /// A size to which the volume cannot have grown.
    #[error("the volume cannot have grown to {size_bytes} bytes")]
    Size {
        /// The size.
        size_bytes: u64,
    },
    /// A mark that cannot be set: its id is not higher than all before, or there are too many.
    #[error("mark {mark} cannot have been set after those before it")]
    Mark {
        /// Its id.
        mark: MarkId,
    },
    /// What may change is told only while there is a mark.
    #[error("it says what may change and there is no mark")]
    Unmarked,
    /// The source was detached while blocks were remote.
    #[error("the source was detached while blocks were still remote")]
    DetachedTooEarly,
}

/// Reads a map file. Gives what it says and where its log stands; a frame that was being appended when the power
/// went is dropped.
///
/// # Errors
/// [`MapError`] says what is damaged and where.
pub fn decode(bytes: &[u8]) -> Result<(MapState, MapLog), MapError> {
    let (mut state, seed) = decode_superblock(bytes)?;
    let compact = SUPERBLOCK_BYTES as u64;
    let mut log = MapLog { seed, next_frame: 0, bytes_valid: compact, bytes_compact: compact };
    let mut offset = SUPERBLOCK_BYTES;
    while let Some(records) = frame::whole(bytes, offset, seed, log.next_frame) {
        for slot in records.chunks_exact(SLOT_BYTES) {
            decode_record(slot)
                .and_then(|record| state.apply(record))
                .map_err(|source| MapError::Record { offset, source })?;
        }
        offset += SLOT_BYTES + records.len();
        log.next_frame += 1;
        if log.next_frame == 1 {
            log.bytes_compact = offset as u64;
        }
    }
    if frame::more_follows(bytes, offset, seed, log.next_frame) {
        return Err(MapError::FrameDamaged { offset, frame: log.next_frame });
    }
    log.bytes_valid = offset as u64;
    Ok((state, log))
}

/// A fresh file that says the same, and where its log stands. Also how a map is made in the first place.
#[must_use]
pub fn compact(state: &MapState) -> (Vec<u8>, MapLog) {
    let mut bytes = encode_superblock(state);
    let seed = u32_at(&bytes, SUPERBLOCK_BYTES - 4);
    let mut log = MapLog {
        seed,
        next_frame: 0,
        bytes_valid: SUPERBLOCK_BYTES as u64,
        bytes_compact: SUPERBLOCK_BYTES as u64,
    };
    let size_bytes = state.geometry().size_bytes();
    let mut records = Vec::new();
    if state.has_source {
        // The superblock tells what the source must hold, so the growth is told again.
        records.extend((size_bytes != state.source_bytes).then_some(MapRecord::Grown { size_bytes }));
        records.extend(truth_records(&state.truth));
    }
    records.extend(mark_records(&state.marks));
    if !records.is_empty() {
        bytes.extend_from_slice(&log.append(&records));
        log.bytes_compact = log.bytes_valid;
    }
    (bytes, log)
}

fn encode_superblock(state: &MapState) -> Vec<u8> {
    let geometry = state.geometry();
    let mut bytes = vec![0; SUPERBLOCK_BYTES];
    let flags = if state.has_source { FLAG_HAS_SOURCE } else { 0 };
    bytes[0..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&MAP_VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&flags.to_le_bytes());
    bytes[16..32].copy_from_slice(&state.volume_id);
    bytes[32..40].copy_from_slice(&state.source_bytes.to_le_bytes());
    bytes[40..48].copy_from_slice(&geometry.region_bytes().to_le_bytes());
    bytes[48..56].copy_from_slice(&state.generation.to_le_bytes());
    bytes[56..64].copy_from_slice(&phase_number(state.phase).to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..SUPERBLOCK_BYTES - 4]);
    bytes[SUPERBLOCK_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Also gives the seed of the frames' checksums.
fn decode_superblock(bytes: &[u8]) -> Result<(MapState, u32), MapError> {
    let Some(block) = bytes.get(..SUPERBLOCK_BYTES) else {
        return Err(MapError::Short { bytes: bytes.len() });
    };
    if &block[0..8] != MAGIC {
        return Err(MapError::NotAMap);
    }
    if u32_at(block, SUPERBLOCK_BYTES - 4) != crc32c::crc32c(&block[..SUPERBLOCK_BYTES - 4]) {
        return Err(MapError::SuperblockDamaged);
    }
    let version = u32_at(block, 8);
    if version != MAP_VERSION {
        return Err(MapError::Version { version });
    }
    let flags = u32_at(block, 12);
    if flags & !FLAG_HAS_SOURCE != 0 {
        return Err(MapError::SuperblockNonsense { field: "flags" });
    }
    let geometry = Geometry::new(u64_at(block, 32), u64_at(block, 40)).map_err(MapError::Geometry)?;
    let phase = phase_of(u64_at(block, 56)).ok_or(MapError::SuperblockNonsense { field: "phase" })?;
    let mut volume_id = [0; 16];
    volume_id.copy_from_slice(&block[16..32]);
    let has_source = flags & FLAG_HAS_SOURCE != 0;
    let state = MapState::fresh(volume_id, geometry, u64_at(block, 48), phase, has_source);
    Ok((state, u32_at(block, SUPERBLOCK_BYTES - 4)))
}

fn encode_record(record: MapRecord, out: &mut Vec<u8>) {
    let (kind, a, b) = match record {
        MapRecord::Local(blocks) => (KIND_LOCAL, blocks.first(), blocks.count()),
        MapRecord::LocalMask { first_block, mask } => (KIND_LOCAL_MASK, first_block, mask),
        MapRecord::Phase(phase) => (KIND_PHASE, phase_number(phase), 0),
        MapRecord::SourceDetached => (KIND_SOURCE_DETACHED, 0, 0),
        MapRecord::MayChange(blocks) => (KIND_MAY_CHANGE, blocks.first(), blocks.count()),
        MapRecord::MarkSet(mark) => (KIND_MARK_SET, mark.0, 0),
        MapRecord::MarkForgotten(mark) => (KIND_MARK_FORGOTTEN, mark.0, 0),
        MapRecord::Grown { size_bytes } => (KIND_GROWN, size_bytes, 0),
        MapRecord::Abandoned => (KIND_ABANDONED, 0, 0),
    };
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&a.to_le_bytes());
    out.extend_from_slice(&b.to_le_bytes());
}

fn decode_blocks(first_block: u64, count: u64) -> Result<Blocks, RecordError> {
    let range = first_block.checked_add(count).and_then(|end| Blocks::between(first_block, end));
    // Far below 2^64, so that nobody overflows when turning blocks into bytes.
    let range = range.filter(|blocks| blocks.end() <= u64::MAX / BLOCK_BYTES);
    range.ok_or(RecordError::Range { first_block, count })
}

fn decode_record(slot: &[u8]) -> Result<MapRecord, RecordError> {
    let (kind, a, b) = (u32_at(slot, 0), u64_at(slot, 8), u64_at(slot, 16));
    match kind {
        KIND_LOCAL => decode_blocks(a, b).map(MapRecord::Local),
        KIND_MAY_CHANGE => decode_blocks(a, b).map(MapRecord::MayChange),
        KIND_MARK_SET => Ok(MapRecord::MarkSet(MarkId(a))),
        KIND_MARK_FORGOTTEN => Ok(MapRecord::MarkForgotten(MarkId(a))),
        KIND_LOCAL_MASK if a <= u64::MAX / BLOCK_BYTES => {
            Ok(MapRecord::LocalMask { first_block: a, mask: b })
        }
        KIND_LOCAL_MASK => Err(RecordError::Range { first_block: a, count: 64 }),
        KIND_PHASE => phase_of(a).map(MapRecord::Phase).ok_or(RecordError::Phase { number: a }),
        KIND_SOURCE_DETACHED => Ok(MapRecord::SourceDetached),
        KIND_GROWN => Ok(MapRecord::Grown { size_bytes: a }),
        KIND_ABANDONED => Ok(MapRecord::Abandoned),
        kind => Err(RecordError::Kind { kind }),
    }
}

const fn phase_number(phase: Phase) -> u64 {
    match phase {
        Phase::Standby => 0,
        Phase::Open => 1,
        Phase::Sealed => 2,
    }
}

const fn phase_of(number: u64) -> Option<Phase> {
    match number {
        0 => Some(Phase::Standby),
        1 => Some(Phase::Open),
        2 => Some(Phase::Sealed),
        _ => None,
    }
}
