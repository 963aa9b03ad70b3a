//! Which blocks are local: the volume's truth, in memory.
//!
//! One bit a region says that all of it is local (1 MiB for 8 TiB at the default region size); only a region that is
//! neither all local nor all remote has a bitmap of its blocks. Invariant: a partial bitmap has a set and a clear bit,
//! and its region's bit is clear. Blocks never turn remote; those by which a volume grows are local from the first.

use std::collections::BTreeMap;

use crate::geometry::{BLOCK_BYTES, Blocks, ByteRange, Geometry};

/// Where the truth of a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residence {
    /// In this store.
    Local,
    /// Only at the source.
    Remote,
}

/// The map of a volume's blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Truth {
    geometry: Geometry,
    whole: Bitmap,
    partial: BTreeMap<u64, Bitmap>,
    blocks_local: u64,
}

impl Truth {
    /// Nothing is local.
    #[must_use]
    pub fn all_remote(geometry: Geometry) -> Truth {
        let whole = Bitmap::new(geometry.region_count());
        Truth { geometry, whole, partial: BTreeMap::new(), blocks_local: 0 }
    }

    /// Everything is local.
    #[must_use]
    pub fn all_local(geometry: Geometry) -> Truth {
        let mut truth = Truth::all_remote(geometry);
        truth.whole.set(0, geometry.region_count());
        truth.blocks_local = geometry.block_count();
        truth
    }

    /// The volume's geometry.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Whether nothing is remote.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.blocks_local == self.geometry.block_count()
    }

    /// How many blocks are only at the source.
    #[must_use]
    pub const fn blocks_remote(&self) -> u64 {
        self.geometry.block_count() - self.blocks_local
    }

    /// How many bytes are local.
    #[must_use]
    pub fn bytes_local(&self) -> u64 {
        let last = self.geometry.block_count() - 1;
        let lacking = self.geometry.block_count() * BLOCK_BYTES - self.geometry.size_bytes();
        let short = if self.is_local(last) { lacking } else { 0 };
        self.blocks_local * BLOCK_BYTES - short
    }

    /// Whether this block is local.
    #[must_use]
    pub fn is_local(&self, block: u64) -> bool {
        let region = block / self.geometry.region_blocks();
        self.whole.get(region)
            || self.partial.get(&region).is_some_and(|bits| bits.get(block % self.geometry.region_blocks()))
    }

    /// Whether all these blocks are local.
    #[must_use]
    pub fn covers(&self, blocks: Blocks) -> bool {
        self.is_complete() || {
            let (residence, run) = self.run_at(blocks.first(), blocks.end());
            residence == Residence::Local && run.end() == blocks.end()
        }
    }

    /// The longest run of one residence that starts at `block` and ends at or before `end`.
    #[must_use]
    pub fn run_at(&self, block: u64, end: u64) -> (Residence, Blocks) {
        let (residence, mut reach) = self.segment_at(block, end);
        while reach < end {
            let (next, next_reach) = self.segment_at(reach, end);
            if next != residence {
                break;
            }
            reach = next_reach;
        }
        (residence, Blocks::between(block, reach.min(end)).expect("a run has at least its first block"))
    }

    /// The runs of these blocks, in order, each as long as can be.
    pub fn runs(&self, blocks: Blocks) -> impl Iterator<Item = (Residence, Blocks)> + '_ {
        let mut at = blocks.first();
        std::iter::from_fn(move || {
            if at >= blocks.end() {
                return None;
            }
            let (residence, run) = self.run_at(at, blocks.end());
            at = run.end();
            Some((residence, run))
        })
    }

    /// The remote runs of these blocks, in order.
    pub fn remote_runs(&self, blocks: Blocks) -> impl Iterator<Item = Blocks> + '_ {
        self.runs(blocks).filter(|(residence, _)| *residence == Residence::Remote).map(|(_, run)| run)
    }

    /// The runs of this range in bytes, cut to the range.
    pub fn byte_runs(&self, range: ByteRange) -> impl Iterator<Item = (ByteRange, Residence)> + '_ {
        self.runs(self.geometry.blocks_touched(range)).filter_map(move |(residence, run)| {
            Some((self.geometry.bytes_of(run).intersect(range)?, residence))
        })
    }

    /// Makes these blocks local; gives the runs that were not.
    pub fn mark_local(&mut self, blocks: Blocks) -> Vec<Blocks> {
        let turned: Vec<Blocks> = self.remote_runs(blocks).collect();
        for &run in &turned {
            self.turn(run);
        }
        turned
    }

    /// The volume has become larger; its new blocks are local.
    ///
    /// # Panics
    /// If it has become smaller, or is cut differently.
    pub fn grow(&mut self, geometry: Geometry) {
        let former = self.geometry;
        assert!(geometry.size_bytes() >= former.size_bytes(), "a volume never shrinks");
        assert_eq!(geometry.region_bytes(), former.region_bytes(), "regions stay as they are");
        let Some(added) = Blocks::between(former.block_count(), geometry.block_count()) else {
            self.geometry = geometry;
            return;
        };
        let region = (former.block_count() - 1) / former.region_blocks();
        let first = region * former.region_blocks();
        self.geometry = geometry;
        self.whole.lengthen(geometry.region_count());
        // The region that the volume ended in may have become longer.
        if !self.whole.get(region) {
            let len = geometry.region_end(first) - first;
            if let Some(bits) = self.partial.get_mut(&region) {
                bits.lengthen(len);
            }
            self.turn(added);
            return;
        }
        self.whole.set(region, geometry.region_count());
        self.blocks_local += added.count();
    }

    /// `run` is remote from end to end.
    fn turn(&mut self, run: Blocks) {
        self.blocks_local += run.count();
        let size = self.geometry.region_blocks();
        let mut at = run.first();
        while at < run.end() {
            let region = at / size;
            let region_first = region * size;
            let region_end = self.geometry.region_end(at);
            if at == region_first && region_end <= run.end() {
                let beyond = if run.end() == self.geometry.block_count() {
                    self.geometry.region_count()
                } else {
                    run.end() / size
                };
                self.whole.set(region, beyond);
                at = beyond * size;
                continue;
            }
            let end = region_end.min(run.end());
            let bits = self.partial.entry(region).or_insert_with(|| Bitmap::new(region_end - region_first));
            bits.set(at - region_first, end - region_first);
            if bits.is_full() {
                self.partial.remove(&region);
                self.whole.set(region, region + 1);
            }
            at = end;
        }
    }

    /// Residence at `block`, and the end of a stretch (not always the longest) that shares it. Does not look far
    /// beyond `end`.
    fn segment_at(&self, block: u64, end: u64) -> (Residence, u64) {
        let size = self.geometry.region_blocks();
        let count = self.geometry.block_count();
        let region = block / size;
        let region_limit = end.div_ceil(size);
        if self.whole.get(region) {
            let reach = self.whole.next(region, false, region_limit);
            return (Residence::Local, (reach * size).min(count));
        }
        if let Some(bits) = self.partial.get(&region) {
            let within = block - region * size;
            let local = bits.get(within);
            let residence = if local { Residence::Local } else { Residence::Remote };
            return (residence, region * size + bits.next(within, !local, bits.len));
        }
        let next_partial = self.partial.range(region..).next().map_or(u64::MAX, |(&region, _)| region);
        let end = self.whole.next(region, true, region_limit).min(next_partial);
        (Residence::Remote, end.saturating_mul(size).min(count))
    }
}

/// A fixed number of bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
    len: u64,
}

impl Bitmap {
    pub(crate) fn new(len: u64) -> Bitmap {
        Bitmap { words: vec![0; index(len.div_ceil(64))], len }
    }

    /// The new bits are clear.
    fn lengthen(&mut self, len: u64) {
        self.words.resize(index(len.div_ceil(64)), 0);
        self.len = len;
    }

    pub(crate) fn get(&self, bit: u64) -> bool {
        self.words[index(bit / 64)] >> (bit % 64) & 1 == 1
    }

    /// Sets the bits `first..end`.
    pub(crate) fn set(&mut self, first: u64, end: u64) {
        assert!(end <= self.len, "bit {end} must lie within the map");
        let mut at = first;
        while at < end {
            let word_end = (at / 64 + 1) * 64;
            let stop = end.min(word_end);
            let width = stop - at;
            let ones = if width == 64 { u64::MAX } else { ((1 << width) - 1) << (at % 64) };
            self.words[index(at / 64)] |= ones;
            at = stop;
        }
    }

    fn is_full(&self) -> bool {
        self.next(0, false, self.len) == self.len
    }

    /// The first bit from `from` on that has this value, or `limit` (at most the length) if none before it has.
    pub(crate) fn next(&self, from: u64, value: bool, limit: u64) -> u64 {
        let flip = if value { 0 } else { u64::MAX };
        let mut at = from;
        while at < limit {
            let word = (self.words[index(at / 64)] ^ flip) >> (at % 64);
            if word != 0 {
                return (at + u64::from(word.trailing_zeros())).min(limit);
            }
            at = (at / 64 + 1) * 64;
        }
        limit
    }
}

fn index(word: u64) -> usize {
    usize::try_from(word).expect("a bitmap fits in memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(first: u64, end: u64) -> Blocks {
        Blocks::between(first, end).unwrap()
    }

    #[test]
    fn an_empty_volume_of_8_tib_costs_a_mebibyte_and_turns_local_in_one_act() {
        let mut truth = Truth::all_remote(Geometry::new(8 << 40, 1 << 20).unwrap());
        assert_eq!(truth.whole.words.len() * 8, 1 << 20);
        let all = truth.geometry().all_blocks();
        assert_eq!(truth.mark_local(all), vec![all]);
        assert!(truth.is_complete() && truth.partial.is_empty());
    }

    #[test]
    fn a_short_last_block_counts_its_own_bytes() {
        let mut truth = Truth::all_remote(Geometry::new(8192 + 512, 4096).unwrap());
        truth.mark_local(blocks(2, 3));
        assert_eq!(truth.bytes_local(), 512);
        truth.mark_local(blocks(0, 1));
        assert_eq!(truth.bytes_local(), 4608);
    }

    proptest! {
        #[test]
        fn a_map_that_grows_keeps_what_it_knows_and_adds_local_blocks(
            size_sectors in 1_u64..2_000,
            more in prop::collection::vec(0_u64..2_000, 1..4),
            region_shift in 0_u32..9,
            marks in prop::collection::vec((0_u64..250, 1_u64..100), 0..10),
        ) {
            let shape = |sectors: u64| Geometry::new(sectors * 512, 4096 << region_shift).unwrap();
            let mut truth = Truth::all_remote(shape(size_sectors));
            let first_blocks = truth.geometry().block_count();
            for (first, count) in marks {
                let range = Blocks::between(first, (first + count).min(first_blocks));
                range.into_iter().for_each(|range| drop(truth.mark_local(range)));
            }
            let mut size_sectors = size_sectors;
            for sectors in more {
                let former = truth.clone();
                size_sectors += sectors;
                truth.grow(shape(size_sectors));
                let mut model = Truth::all_remote(shape(size_sectors));
                for block in 0..model.geometry().block_count() {
                    if block >= former.geometry().block_count() || former.is_local(block) {
                        model.mark_local(Blocks::one(block));
                    }
                }
                prop_assert_eq!(&truth, &model);
            }
        }

        #[test]
        fn the_map_agrees_with_a_list_of_blocks(
            size_blocks in 1_u64..700,
            region_shift in 0_u32..9,
            marks in prop::collection::vec((0_u64..700, 1_u64..400), 0..30),
        ) {
            let geometry = Geometry::new(size_blocks * 4096, 4096 << region_shift).unwrap();
            let mut truth = Truth::all_remote(geometry);
            let mut model = vec![false; usize::try_from(size_blocks).unwrap()];
            for (first, count) in marks {
                let Some(range) = Blocks::between(first, (first + count).min(size_blocks)) else { continue };
                let turned = truth.mark_local(range);
                let listed: Vec<u64> = turned.iter().flat_map(|run| run.first()..run.end()).collect();
                let expected: Vec<u64> =
                    (range.first()..range.end()).filter(|&block| !model[index(block)]).collect();
                prop_assert_eq!(listed, expected);
                (range.first()..range.end()).for_each(|block| model[index(block)] = true);
                prop_assert_eq!(truth.covers(range), true);
            }
            let mut seen = Vec::new();
            let mut last = None;
            for (residence, run) in truth.runs(geometry.all_blocks()) {
                prop_assert!(last != Some(residence), "runs are as long as can be");
                last = Some(residence);
                seen.extend((run.first()..run.end()).map(|_| residence == Residence::Local));
            }
            prop_assert_eq!(&seen, &model);
            let local = model.iter().filter(|&&local| local).count() as u64;
            prop_assert_eq!(truth.blocks_remote(), size_blocks - local);
            prop_assert!((0..size_blocks).all(|block| truth.is_local(block) == model[index(block)]));
            prop_assert!(truth.partial.values().all(|bits| !bits.is_full() && bits.next(0, true, bits.len) < bits.len));
        }
    }
}
