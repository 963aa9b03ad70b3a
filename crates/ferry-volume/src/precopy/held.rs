//! What is held of a volume that is copied ahead: of each region whether it is zero, or the checksums of its blocks.
//!
//! From those of its blocks the checksum of any part of a region is put together, so that nothing is read again once the
//! source is sealed: that is while the machine is down.
//!
//! Invariant: what is known of blocks is true of the store, but for blocks that the source will say have changed.

use ferry_engine::sums::combine;
use ferry_engine::{BLOCK_BYTES, Blocks, Geometry};

/// Blocks of which the checksum is kept, 4 bytes each: those of 256 GiB. What is beyond is read again where it has changed in part.
const SUMMED_BLOCKS_MAX: u64 = 64 << 20;

/// What is held, as of a mark of the source's.
#[derive(Debug)]
pub(crate) struct Held {
    /// The mark.
    pub(crate) since: u64,
    geometry: Geometry,
    regions: Vec<Region>,
    /// How many more blocks may have their checksums kept.
    room_blocks: u64,
    append: Append,
}

/// What is known of a region in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Region {
    /// Nothing: it must be read.
    Unknown,
    Zero,
    /// The checksum of all of it.
    Whole(u32),
    /// The checksums of its blocks, and that of all of it: nobody waits yet when they come.
    Blocks {
        sums: Box<[u32]>,
        whole: u32,
    },
}

/// A part of the store that is right, within one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Right {
    pub(crate) blocks: Blocks,
    /// None: it is zero.
    pub(crate) crc32c: Option<u32>,
}

impl Held {
    /// Of a store that is all zero.
    pub(crate) fn nothing(geometry: Geometry, since: u64) -> Self {
        let regions = vec![Region::Zero; geometry.region_count() as usize];
        Self { since, geometry, regions, room_blocks: SUMMED_BLOCKS_MAX, append: Append::new() }
    }

    /// These blocks of one region will be copied anew.
    pub(crate) fn will_change(&mut self, part: Blocks) {
        let region = self.region_of(part);
        if let Region::Whole(_) = self.regions[region] {
            self.regions[region] = Region::Unknown;
        }
    }

    /// The store holds these blocks of one region, with the checksums of each.
    pub(crate) fn copied(&mut self, part: Blocks, sums: &[u32]) {
        let region = self.region_of(part);
        let all = self.blocks_of(region);
        let first = (part.first() - all.first()) as usize;
        let has_room = self.room_blocks >= all.count();
        let known = &mut self.regions[region];
        match known {
            Region::Blocks { sums: known, whole } => {
                known[first..][..sums.len()].copy_from_slice(sums);
                *whole = self.append.all(self.geometry, all, known);
            }
            Region::Zero | Region::Unknown | Region::Whole(_) if part == all && !has_room => {
                *known = Region::Whole(self.append.all(self.geometry, part, sums));
            }
            Region::Unknown | Region::Whole(_) if part != all => *known = Region::Unknown,
            Region::Zero if !has_room => *known = Region::Unknown,
            Region::Zero | Region::Unknown | Region::Whole(_) => {
                let zeroes = (all.first()..all.end()).map(|block| {
                    ferry_engine::sums::crc32c_of_zeroes(
                        self.geometry.bytes_of(Blocks::one(block)).len_bytes(),
                    )
                });
                let mut blocks: Box<[u32]> = if part == all { sums.into() } else { zeroes.collect() };
                blocks[first..][..sums.len()].copy_from_slice(sums);
                let whole = self.append.all(self.geometry, all, &blocks);
                *known = Region::Blocks { sums: blocks, whole };
                self.room_blocks -= all.count();
            }
        }
    }

    /// What of the store is right if these have changed, in order; `read` is asked for checksums that are not known (none: it is
    /// zero).
    pub(crate) fn right<E>(
        &self,
        changes: &[Blocks],
        mut read: impl FnMut(Blocks) -> Result<Option<u32>, E>,
    ) -> Result<Vec<Right>, E> {
        let mut changes = changes.iter().flat_map(|run| self.geometry.by_region(*run)).peekable();
        let mut right = Vec::new();
        for (region, known) in self.regions.iter().enumerate() {
            let all = self.blocks_of(region);
            let mut at = all.first();
            let mut kept = Vec::new();
            while let Some(change) = changes.next_if(|change| change.first() < all.end()) {
                kept.extend(Blocks::between(at, change.first()));
                at = change.end();
            }
            kept.extend(Blocks::between(at, all.end()));
            for blocks in kept {
                let crc32c = match known {
                    Region::Zero => None,
                    Region::Whole(crc32c) | Region::Blocks { whole: crc32c, .. } if blocks == all => {
                        Some(*crc32c)
                    }
                    Region::Blocks { sums, .. } => {
                        let sums =
                            &sums[(blocks.first() - all.first()) as usize..][..blocks.count() as usize];
                        Some(self.append.all(self.geometry, blocks, sums))
                    }
                    Region::Whole(_) | Region::Unknown => read(blocks)?,
                };
                right.push(Right { blocks, crc32c });
            }
        }
        Ok(right)
    }

    fn region_of(&self, part: Blocks) -> usize {
        (part.first() / self.geometry.region_blocks()) as usize
    }

    fn blocks_of(&self, region: usize) -> Blocks {
        self.geometry.blocks_of_region(region as u64)
    }
}

/// Puts the checksums of whole blocks together: what [`combine`] does for any length, by tables for this one.
struct Append(Box<[[u32; 256]; 4]>);

impl Append {
    fn new() -> Self {
        // What a register does to the bytes behind it is linear: that of each bit gives that of each byte.
        let bits: [u32; 32] = std::array::from_fn(|bit| combine(1 << bit, 0, BLOCK_BYTES));
        let of_byte = |bits: &[u32], value: usize| {
            let set = bits.iter().enumerate().filter(|(bit, _)| value >> bit & 1 == 1);
            set.fold(0, |sum, (_, of_bit)| sum ^ of_bit)
        };
        Self(Box::new(std::array::from_fn(|byte| {
            std::array::from_fn(|value| of_byte(&bits[8 * byte..][..8], value))
        })))
    }

    /// The checksum of these blocks, of which each has one of `sums`. The last one of a volume may be short.
    fn all(&self, geometry: Geometry, blocks: Blocks, sums: &[u32]) -> u32 {
        let len_bytes = |at: usize| geometry.bytes_of(Blocks::one(blocks.first() + at as u64)).len_bytes();
        let append = |first: u32, (at, &next): (usize, &u32)| match (at, len_bytes(at)) {
            (0, _) => next,
            (_, BLOCK_BYTES) => {
                let bytes = first.to_le_bytes().into_iter().zip(self.0.iter());
                bytes.fold(next, |sum, (value, table)| sum ^ table[usize::from(value)])
            }
            (_, short) => combine(first, next, short),
        };
        sums.iter().enumerate().fold(0, append)
    }
}

impl std::fmt::Debug for Append {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Append")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    const BLOCK: usize = BLOCK_BYTES as usize;
    /// Three regions of 64 blocks, and a fourth that ends within a block.
    const SIZE: usize = 3 * 64 * BLOCK + 5 * BLOCK + 1536;

    fn geometry() -> Geometry {
        Geometry::new(SIZE as u64, 64 * BLOCK_BYTES).unwrap()
    }

    fn bytes_of(blocks: Blocks) -> std::ops::Range<usize> {
        let range = geometry().bytes_of(blocks);
        range.offset() as usize..range.end() as usize
    }

    fn copy(held: &mut Held, store: &mut [u8], part: Blocks, seed: u8) {
        store[bytes_of(part)]
            .iter_mut()
            .enumerate()
            .for_each(|(at, byte)| *byte = (at as u8).wrapping_mul(seed));
        let sums: Vec<u32> = store[bytes_of(part)].chunks(BLOCK).map(crc32c::crc32c).collect();
        held.copied(part, &sums);
    }

    fn run() -> impl Strategy<Value = Blocks> {
        let count = geometry().block_count();
        (0..count, 1..90_u64)
            .prop_map(move |(first, len)| Blocks::between(first, (first + len).min(count)).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_right_has_the_checksums_of_the_store_however_it_was_copied(
            whole in proptest::collection::vec(0..4_u64, 0..4),
            rounds in proptest::collection::vec((run(), 0..=255_u8), 0..20),
            mut last in proptest::collection::vec(run(), 0..6),
            room_blocks in 0..200_u64,
        ) {
            let mut held = Held { room_blocks, ..Held::nothing(geometry(), 1) };
            let mut store = vec![0; SIZE];
            for region in whole {
                copy(&mut held, &mut store, geometry().blocks_of_region(region), 3);
            }
            for (run, seed) in rounds {
                let parts: Vec<Blocks> = geometry().by_region(run).collect();
                parts.iter().for_each(|part| held.will_change(*part));
                parts.iter().for_each(|part| copy(&mut held, &mut store, *part, seed));
            }
            last.sort_by_key(|run| run.first());
            let mut end = 0;
            last.retain(|run| {
                let is_behind = run.first() >= end;
                end = end.max(run.end());
                is_behind
            });
            let sum = |blocks: Blocks| crc32c::crc32c(&store[bytes_of(blocks)]);
            let right = held.right(&last, |blocks| Ok::<_, Infallible>(Some(sum(blocks)))).unwrap();
            let mut of_block = vec![0; geometry().block_count() as usize];
            for part in &right {
                let is_zero = store[bytes_of(part.blocks)].iter().all(|&byte| byte == 0);
                prop_assert!(part.crc32c.map_or(is_zero, |crc32c| crc32c == sum(part.blocks)), "{part:?}");
                (part.blocks.first()..part.blocks.end()).for_each(|block| of_block[block as usize] += 1);
            }
            for run in last {
                (run.first()..run.end()).for_each(|block| of_block[block as usize] += 1);
            }
            prop_assert!(of_block.iter().all(|&times| times == 1), "each block is right or has changed");
        }
    }

    #[test]
    fn nothing_is_read_again_while_there_is_room_for_checksums() {
        let mut held = Held::nothing(geometry(), 1);
        let mut store = vec![0; SIZE];
        copy(&mut held, &mut store, geometry().blocks_of_region(1), 7);
        copy(&mut held, &mut store, Blocks::between(3, 9).unwrap(), 11);
        let changes = [Blocks::between(5, 6).unwrap(), Blocks::between(70, 90).unwrap()];
        let right = held.right(&changes, Err).expect("all is known");
        assert_eq!(right.len(), 6);
    }
}
