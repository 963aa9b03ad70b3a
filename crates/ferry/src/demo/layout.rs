//! Where things are on the demo's volume, and what the filled part holds.
//!
//! ```text
//! 0                                                  ring_offset            size
//! | chunk 0 | hole | chunk 1 | hole | chunk 2 | hole ... | ring of records ... |
//! ```
//!
//! The ring belongs to the writer. It lies at the end, where the background copy comes last: what the machine reads
//! when it starts on the target is still on the source. Before it the bytes in use are spread over the whole volume
//! in chunks, as a lived-in disk has them. Every filled block is a function of (seed, its offset), so each byte can be checked and a
//! block that landed in the wrong place is found. Invariant: ring and chunks never overlap and stay inside the volume.

use anyhow::{Result, bail};

use crate::output::bytes::Bytes;

/// The unit of records, of the filled data and of their checking.
pub const BLOCK_BYTES: u64 = 4096;
/// The filled data is written in pieces of this size; the last one may be shorter.
pub const CHUNK_BYTES: u64 = 1024 * 1024;
/// More ring than the writer can fill during a demo: a record is not overwritten before it is checked.
const RING_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Less ring than this and records would be overwritten within seconds.
const RING_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// How the demo uses its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Size of the whole volume.
    pub size_bytes: u64,
    /// The ring of records is the last part of the volume, this long.
    pub ring_bytes: u64,
    /// Bytes of filled data before the ring.
    pub fill_bytes: u64,
    /// What the filled data is computed from.
    pub seed: u64,
}

/// A run of bytes on the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins on the volume.
    pub offset: u64,
    /// How long it is; never zero.
    pub len_bytes: u64,
}

impl Layout {
    /// Lays out a volume of `size_bytes` with `used_bytes` of filled data.
    ///
    /// # Errors
    /// A sentence for the person who typed the two sizes.
    pub fn plan(size_bytes: u64, used_bytes: u64, seed: u64) -> Result<Self> {
        if !size_bytes.is_multiple_of(BLOCK_BYTES) || !used_bytes.is_multiple_of(BLOCK_BYTES) {
            bail!("the sizes of the demo must be multiples of 4KiB, and {size_bytes} or {used_bytes} is not");
        }
        let room_bytes = size_bytes.saturating_sub(used_bytes);
        if room_bytes < RING_BYTES_MIN {
            bail!(
                "a volume of {} has no room for {} of data and {} of records: give a larger --size or a smaller --used",
                Bytes(size_bytes),
                Bytes(used_bytes),
                Bytes(RING_BYTES_MIN)
            );
        }
        let ring_bytes = (size_bytes / 4).clamp(RING_BYTES_MIN, RING_BYTES_MAX).min(room_bytes);
        let ring_bytes = ring_bytes - ring_bytes % BLOCK_BYTES;
        Ok(Self { size_bytes, ring_bytes, fill_bytes: used_bytes, seed })
    }

    /// Where the ring of records begins.
    pub fn ring_offset(&self) -> u64 {
        self.size_bytes - self.ring_bytes
    }

    /// The filled chunks in ascending order.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + use<> {
        let count = self.fill_bytes.div_ceil(CHUNK_BYTES);
        // Whole chunks apart; where the volume is nearly full they lie next to each other.
        let stride = self
            .ring_offset()
            .checked_div(count)
            .map_or(CHUNK_BYTES, |apart| (apart - apart % CHUNK_BYTES).max(CHUNK_BYTES));
        let layout = *self;
        (0..count).map(move |index| Chunk {
            offset: index * stride,
            len_bytes: CHUNK_BYTES.min(layout.fill_bytes - index * CHUNK_BYTES),
        })
    }

    /// Writes into `block` what the filled block at `offset` must hold.
    pub fn fill_block(&self, offset: u64, block: &mut [u8]) {
        fill_pseudo_random(self.seed ^ offset.rotate_left(17), block);
    }
}

/// Fills `buffer` with bytes that no compressor shortens, the same ones for the same `seed` (splitmix64).
pub fn fill_pseudo_random(seed: u64, buffer: &mut [u8]) {
    let mut state = seed;
    for word in buffer.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        word.copy_from_slice(&mixed.to_le_bytes()[..word.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const GIB: u64 = 1024 * MIB;

    #[test]
    fn chunks_hold_the_bytes_in_use_and_never_touch_the_ring_or_each_other() {
        let cases = [
            (8 * GIB, 256 * MIB),
            (GIB, 16 * MIB),
            (1024 * GIB, 5 * MIB),
            (272 * MIB, 256 * MIB),
            (300 * MIB, 256 * MIB + 4096),
            (64 * MIB, 0),
            (64 * MIB, 4096),
        ];
        for (size, used) in cases {
            let layout = Layout::plan(size, used, 1).unwrap();
            let mut end = 0;
            let mut sum = 0;
            for chunk in layout.chunks() {
                assert!(chunk.offset >= end, "{size} {used}");
                assert!(chunk.len_bytes > 0);
                end = chunk.offset + chunk.len_bytes;
                sum += chunk.len_bytes;
            }
            assert!(end <= layout.ring_offset(), "{size} {used}: ends at {end}");
            assert_eq!(sum, used);
        }
    }

    #[test]
    fn the_bytes_in_use_are_spread_over_the_whole_volume() {
        let layout = Layout::plan(1024 * GIB, 5 * MIB, 1).unwrap();
        assert!(layout.chunks().last().unwrap().offset > 512 * GIB);
    }

    #[test]
    fn a_volume_without_room_for_records_is_refused_in_one_sentence() {
        let error = Layout::plan(256 * MIB, 256 * MIB, 1).unwrap_err().to_string();
        assert!(error.contains("larger --size"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn equal_blocks_at_two_places_hold_different_bytes() {
        let layout = Layout::plan(GIB, MIB, 7).unwrap();
        let (mut here, mut there) = ([0; 4096], [0; 4096]);
        layout.fill_block(0, &mut here);
        layout.fill_block(4096, &mut there);
        assert_ne!(here, there);
    }
}
