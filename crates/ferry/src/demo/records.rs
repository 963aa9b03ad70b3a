//! What the demo's writer writes: a record is one 4 KiB block that names its number and its place and carries a
//! checksum over everything, so a record that is torn, stale, or in another record's place is recognised as such.
//!
//! ```text
//!    0  magic "FERRYREC"      8  number u64      16  offset on the volume u64
//!   24  written at, ns u64   32  writer u64      40  filler from the number
//! 4092  CRC-32C of the 4092 bytes before it                 all little-endian
//! ```
//!
//! Record `n` lives in slot `n % slots` of the ring. One record is in flight at a time and the next one begins after
//! the flush, so the slots of one lap are filled from the left: [`resume_at`] relies on it to find the end by halving.

use anyhow::Result;

use super::layout::{BLOCK_BYTES, fill_pseudo_random};

/// A record is exactly one block.
pub const RECORD_BYTES: usize = BLOCK_BYTES as usize;
const MAGIC: &[u8; 8] = b"FERRYREC";
const FILLER_AT: usize = 40;
const CHECKSUM_AT: usize = RECORD_BYTES - 4;

/// A record's facts; its filler follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Counts from 0 over all incarnations of the writer.
    pub number: u64,
    /// Where on the volume it was written, in bytes.
    pub offset: u64,
    /// Wall clock at writing, nanoseconds since 1970.
    pub written_at_ns: u64,
    /// Which incarnation wrote it.
    pub writer: u64,
}

/// A record as it lies on the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its facts.
    pub record: Record,
    /// Its checksum, which the acknowledgement repeats.
    pub checksum: u32,
}

impl Record {
    /// Writes the record into `block` and returns its checksum.
    pub fn encode(&self, block: &mut [u8; RECORD_BYTES]) -> u32 {
        block[0..8].copy_from_slice(MAGIC);
        block[8..16].copy_from_slice(&self.number.to_le_bytes());
        block[16..24].copy_from_slice(&self.offset.to_le_bytes());
        block[24..32].copy_from_slice(&self.written_at_ns.to_le_bytes());
        block[32..40].copy_from_slice(&self.writer.to_le_bytes());
        fill_pseudo_random(self.number, &mut block[FILLER_AT..CHECKSUM_AT]);
        let checksum = crc32c::crc32c(&block[..CHECKSUM_AT]);
        block[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }

    /// The record in `block`, which was read at `offset`; `None` if there is no whole record of that place.
    pub fn decode(block: &[u8], offset: u64) -> Option<Found> {
        let word = |at: usize| block.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        if block.len() != RECORD_BYTES || &block[..8] != MAGIC {
            return None;
        }
        let checksum = u32::from_le_bytes(block[CHECKSUM_AT..].try_into().ok()?);
        let record =
            Self { number: word(8)?, offset: word(16)?, written_at_ns: word(24)?, writer: word(32)? };
        let whole = checksum == crc32c::crc32c(&block[..CHECKSUM_AT]) && record.offset == offset;
        whole.then_some(Found { record, checksum })
    }
}

/// The area of the volume that records go round in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    offset: u64,
    slots: u64,
}

impl Ring {
    /// The ring `[offset, offset + len_bytes)`; `None` if not a single record fits.
    pub fn new(offset: u64, len_bytes: u64) -> Option<Self> {
        let slots = len_bytes / BLOCK_BYTES;
        (slots > 0).then_some(Self { offset, slots })
    }

    /// How many records it holds.
    pub fn slots(&self) -> u64 {
        self.slots
    }

    /// Where record `number` goes, in bytes.
    pub fn offset_of(&self, number: u64) -> u64 {
        self.offset + number % self.slots * BLOCK_BYTES
    }
}

/// The number the next record must get, found by reading about log2(slots) records through `read_slot`.
///
/// # Errors
/// Whatever `read_slot` fails with.
pub fn resume_at(ring: Ring, mut read_slot: impl FnMut(u64) -> Result<Option<u64>>) -> Result<u64> {
    let Some(first) = read_slot(0)? else { return Ok(0) };
    let lap = first / ring.slots;
    // Invariant: slot `filled` holds this lap, slot `open` does not (or is behind the end).
    let (mut filled, mut open) = (0, ring.slots);
    while open - filled > 1 {
        let middle = filled + (open - filled) / 2;
        if read_slot(middle)?.is_some_and(|number| number / ring.slots == lap) {
            filled = middle;
        } else {
            open = middle;
        }
    }
    Ok(lap * ring.slots + filled + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        Record { number: 7, offset: 28672, written_at_ns: 1_700_000_000_000_000_000, writer: 42 }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let mut block = [0; RECORD_BYTES];
        let checksum = sample().encode(&mut block);
        assert_eq!(Record::decode(&block, 28672), Some(Found { record: sample(), checksum }));
    }

    #[test]
    fn a_flipped_bit_anywhere_makes_it_no_record() {
        let mut block = [0; RECORD_BYTES];
        sample().encode(&mut block);
        for at in 0..RECORD_BYTES {
            block[at] ^= 1;
            assert_eq!(Record::decode(&block, 28672), None, "byte {at}");
            block[at] ^= 1;
        }
    }

    #[test]
    fn a_record_in_another_place_is_no_record() {
        let mut block = [0; RECORD_BYTES];
        sample().encode(&mut block);
        assert_eq!(Record::decode(&block, 32768), None);
        assert_eq!(Record::decode(&block[..4000], 28672), None);
    }

    #[test]
    fn the_writer_finds_the_end_after_any_number_of_records() {
        for slots in 1..=9 {
            let ring = Ring::new(8192, slots * BLOCK_BYTES).unwrap();
            let mut contents = vec![None; slots as usize];
            for next in 0..4 * slots {
                let found = resume_at(ring, |slot| Ok(contents[slot as usize])).unwrap();
                assert_eq!(found, next, "{slots} slots");
                contents[(next % slots) as usize] = Some(next);
            }
        }
    }

    #[test]
    fn finding_the_end_reads_few_records() {
        let ring = Ring::new(0, 1 << 30).unwrap();
        let mut reads = 0;
        let next = resume_at(ring, |slot| {
            reads += 1;
            Ok((slot < 12_345).then_some(slot))
        });
        assert_eq!(next.unwrap(), 12_345);
        assert!(reads <= 19, "{reads} reads");
    }
}
