//! A set of a volume's blocks as bits: for sets that may become large and ragged.
//!
//! One bit a region says that all of it is in the set (1 MiB for 8 TiB at the default region size); only a region of
//! which some blocks are in it and some are not has a bitmap of its blocks. Invariant: a partial bitmap has a set and a
//! clear bit, and its region's bit is clear.

use std::collections::BTreeMap;

use crate::geometry::{BLOCK_BYTES, Blocks, Geometry};

/// A set of blocks. Blocks never leave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockMap {
    geometry: Geometry,
    whole: Bitmap,
    partial: BTreeMap<u64, Bitmap>,
    count: u64,
}

impl BlockMap {
    /// The empty set.
    #[must_use]
    pub fn new(geometry: Geometry) -> BlockMap {
        let whole = Bitmap::new(geometry.region_count());
        BlockMap { geometry, whole, partial: BTreeMap::new(), count: 0 }
    }

    /// The volume's geometry.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// How many blocks are in the set.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Whether every block of the volume is in the set.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.count == self.geometry.block_count()
    }

    /// How many bytes are in the set; the last block of the volume may be short.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let last = self.geometry.block_count() - 1;
        let lacking = self.geometry.block_count() * BLOCK_BYTES - self.geometry.size_bytes();
        self.count * BLOCK_BYTES - if self.contains(last) { lacking } else { 0 }
    }

    /// Whether this block is in the set.
    #[must_use]
    pub fn contains(&self, block: u64) -> bool {
        let region = block / self.geometry.region_blocks();
        self.whole.get(region)
            || self.partial.get(&region).is_some_and(|bits| bits.get(block % self.geometry.region_blocks()))
    }

    /// Whether all these blocks are in the set.
    #[must_use]
    pub fn covers(&self, blocks: Blocks) -> bool {
        self.is_full() || {
            let (is_in, run) = self.run_at(blocks.first(), blocks.end());
            is_in && run.end() == blocks.end()
        }
    }

    /// The longest run, in the set or outside it, that starts at `block` and ends at or before `end`.
    #[must_use]
    pub fn run_at(&self, block: u64, end: u64) -> (bool, Blocks) {
        let (is_in, mut reach) = self.segment_at(block, end);
        while reach < end {
            let (next, next_reach) = self.segment_at(reach, end);
            if next != is_in {
                break;
            }
            reach = next_reach;
        }
        (is_in, Blocks::between(block, reach.min(end)).expect("a run has at least its first block"))
    }

    /// The runs of these blocks, in order, each as long as can be, and whether they are in the set.
    pub fn runs(&self, blocks: Blocks) -> impl Iterator<Item = (bool, Blocks)> + '_ {
        let mut at = blocks.first();
        std::iter::from_fn(move || {
            if at >= blocks.end() {
                return None;
            }
            let (is_in, run) = self.run_at(at, blocks.end());
            at = run.end();
            Some((is_in, run))
        })
    }

    /// The runs of these blocks that are in the set, in order.
    pub fn within(&self, blocks: Blocks) -> impl Iterator<Item = Blocks> + '_ {
        self.runs(blocks).filter(|(is_in, _)| *is_in).map(|(_, run)| run)
    }

    /// The runs of these blocks that are not in the set, in order.
    pub fn gaps(&self, blocks: Blocks) -> impl Iterator<Item = Blocks> + '_ {
        self.runs(blocks).filter(|(is_in, _)| !*is_in).map(|(_, run)| run)
    }

    /// Adds these blocks; gives the runs that were not in the set.
    pub fn insert(&mut self, blocks: Blocks) -> Vec<Blocks> {
        let added: Vec<Blocks> = self.gaps(blocks).collect();
        for &run in &added {
            self.add(run);
        }
        added
    }

    /// Adds all of `other`.
    pub fn absorb(&mut self, other: &BlockMap) {
        for run in other.within(other.geometry.all_blocks()) {
            self.insert(run);
        }
    }

    /// The volume has become larger; its new blocks are not in the set.
    ///
    /// # Panics
    /// If it has become smaller, or is cut differently.
    pub fn grow(&mut self, geometry: Geometry) {
        let former = self.geometry;
        assert!(geometry.size_bytes() >= former.size_bytes(), "a volume never shrinks");
        assert_eq!(geometry.region_bytes(), former.region_bytes(), "regions stay as they are");
        self.geometry = geometry;
        self.whole.lengthen(geometry.region_count());
        // The region that the volume ended in may have become longer.
        let region = (former.block_count() - 1) / former.region_blocks();
        let first = region * former.region_blocks();
        let (former_len, len) = (former.block_count() - first, geometry.region_end(first) - first);
        if len == former_len {
            return;
        }
        if self.whole.get(region) {
            let mut bits = Bitmap::new(len);
            bits.set(0, former_len);
            self.whole.clear(region);
            self.partial.insert(region, bits);
        } else if let Some(bits) = self.partial.get_mut(&region) {
            bits.lengthen(len);
        }
    }

    /// None of `run` is in the set.
    fn add(&mut self, run: Blocks) {
        self.count += run.count();
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

    /// Whether `block` is in the set, and the end of a stretch (not always the longest) that shares it. Does not look far
    /// beyond `end`.
    fn segment_at(&self, block: u64, end: u64) -> (bool, u64) {
        let size = self.geometry.region_blocks();
        let count = self.geometry.block_count();
        let region = block / size;
        let region_limit = end.div_ceil(size);
        if self.whole.get(region) {
            let reach = self.whole.next(region, false, region_limit);
            return (true, (reach * size).min(count));
        }
        if let Some(bits) = self.partial.get(&region) {
            let within = block - region * size;
            let is_in = bits.get(within);
            return (is_in, region * size + bits.next(within, !is_in, bits.len));
        }
        let next_partial = self.partial.range(region..).next().map_or(u64::MAX, |(&region, _)| region);
        let end = self.whole.next(region, true, region_limit).min(next_partial);
        (false, end.saturating_mul(size).min(count))
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

    fn clear(&mut self, bit: u64) {
        self.words[index(bit / 64)] &= !(1 << (bit % 64));
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

    #[test]
    fn an_empty_set_of_8_tib_costs_a_mebibyte_and_is_filled_in_one_act() {
        let mut map = BlockMap::new(Geometry::new(8 << 40, 1 << 20).unwrap());
        assert_eq!(map.whole.words.len() * 8, 1 << 20);
        let all = map.geometry().all_blocks();
        assert_eq!(map.insert(all), vec![all]);
        assert!(map.is_full() && map.partial.is_empty());
    }

    proptest! {
        #[test]
        fn a_map_that_grows_keeps_what_it_knows(
            size_sectors in 1_u64..2_000,
            more in 0_u64..2_000,
            region_shift in 0_u32..9,
            marks in prop::collection::vec((0_u64..250, 1_u64..100), 0..10),
        ) {
            let shape = |sectors: u64| Geometry::new(sectors * 512, 4096 << region_shift).unwrap();
            let mut map = BlockMap::new(shape(size_sectors));
            let mut model = BlockMap::new(shape(size_sectors + more));
            for (first, count) in marks {
                let end = (first + count).min(map.geometry().block_count());
                if let Some(range) = Blocks::between(first, end) {
                    map.insert(range);
                    model.insert(range);
                }
            }
            map.grow(model.geometry());
            prop_assert_eq!(map, model);
        }

        #[test]
        fn the_map_agrees_with_a_list_of_blocks(
            size_blocks in 1_u64..700,
            region_shift in 0_u32..9,
            marks in prop::collection::vec((0_u64..700, 1_u64..400), 0..30),
        ) {
            let geometry = Geometry::new(size_blocks * 4096, 4096 << region_shift).unwrap();
            let mut map = BlockMap::new(geometry);
            let mut model = vec![false; usize::try_from(size_blocks).unwrap()];
            for (first, count) in marks {
                let Some(range) = Blocks::between(first, (first + count).min(size_blocks)) else { continue };
                let added = map.insert(range);
                let listed: Vec<u64> = added.iter().flat_map(|run| run.first()..run.end()).collect();
                let expected: Vec<u64> =
                    (range.first()..range.end()).filter(|&block| !model[index(block)]).collect();
                prop_assert_eq!(listed, expected);
                (range.first()..range.end()).for_each(|block| model[index(block)] = true);
                prop_assert_eq!(map.covers(range), true);
            }
            let mut seen = Vec::new();
            let mut last = None;
            for (is_in, run) in map.runs(geometry.all_blocks()) {
                prop_assert!(last != Some(is_in), "runs are as long as can be");
                last = Some(is_in);
                seen.extend((run.first()..run.end()).map(|_| is_in));
            }
            prop_assert_eq!(&seen, &model);
            let local = model.iter().filter(|&&local| local).count() as u64;
            prop_assert_eq!(map.count(), local);
            prop_assert!((0..size_blocks).all(|block| map.contains(block) == model[index(block)]));
            prop_assert!(map.partial.values().all(|bits| !bits.is_full() && bits.next(0, true, bits.len) < bits.len));
        }
    }
}
