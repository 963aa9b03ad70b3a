//! Which blocks are local: the volume's truth, in memory. Blocks never turn remote; those by which a volume grows are
//! local from the first.

use crate::blockmap::BlockMap;
use crate::geometry::{Blocks, ByteRange, Geometry};

/// Where the truth of a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residence {
    /// In this store.
    Local,
    /// Only at the source.
    Remote,
}

impl Residence {
    const fn of(is_local: bool) -> Residence {
        if is_local { Residence::Local } else { Residence::Remote }
    }
}

/// The map of a volume's blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Truth {
    local: BlockMap,
}

impl Truth {
    /// Nothing is local.
    #[must_use]
    pub fn all_remote(geometry: Geometry) -> Truth {
        Truth { local: BlockMap::new(geometry) }
    }

    /// Everything is local.
    #[must_use]
    pub fn all_local(geometry: Geometry) -> Truth {
        let mut truth = Truth::all_remote(geometry);
        truth.mark_local(geometry.all_blocks());
        truth
    }

    /// The volume's geometry.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.local.geometry()
    }

    /// Whether nothing is remote.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.local.is_full()
    }

    /// How many blocks are only at the source.
    #[must_use]
    pub const fn blocks_remote(&self) -> u64 {
        self.geometry().block_count() - self.local.count()
    }

    /// How many bytes are local.
    #[must_use]
    pub fn bytes_local(&self) -> u64 {
        self.local.bytes()
    }

    /// Whether this block is local.
    #[must_use]
    pub fn is_local(&self, block: u64) -> bool {
        self.local.contains(block)
    }

    /// Whether all these blocks are local.
    #[must_use]
    pub fn covers(&self, blocks: Blocks) -> bool {
        self.local.covers(blocks)
    }

    /// The longest run of one residence that starts at `block` and ends at or before `end`.
    #[must_use]
    pub fn run_at(&self, block: u64, end: u64) -> (Residence, Blocks) {
        let (is_local, run) = self.local.run_at(block, end);
        (Residence::of(is_local), run)
    }

    /// The runs of these blocks, in order, each as long as can be.
    pub fn runs(&self, blocks: Blocks) -> impl Iterator<Item = (Residence, Blocks)> + '_ {
        self.local.runs(blocks).map(|(is_local, run)| (Residence::of(is_local), run))
    }

    /// The remote runs of these blocks, in order.
    pub fn remote_runs(&self, blocks: Blocks) -> impl Iterator<Item = Blocks> + '_ {
        self.local.gaps(blocks)
    }

    /// The local runs of these blocks, in order.
    pub fn local_runs(&self, blocks: Blocks) -> impl Iterator<Item = Blocks> + '_ {
        self.local.within(blocks)
    }

    /// The runs of this range in bytes, cut to the range.
    pub fn byte_runs(&self, range: ByteRange) -> impl Iterator<Item = (ByteRange, Residence)> + '_ {
        self.runs(self.geometry().blocks_touched(range)).filter_map(move |(residence, run)| {
            Some((self.geometry().bytes_of(run).intersect(range)?, residence))
        })
    }

    /// Makes these blocks local; gives the runs that were not.
    pub fn mark_local(&mut self, blocks: Blocks) -> Vec<Blocks> {
        self.local.insert(blocks)
    }

    /// The volume has become larger; its new blocks are local.
    ///
    /// # Panics
    /// If it has become smaller, or is cut differently.
    pub fn grow(&mut self, geometry: Geometry) {
        let former_blocks = self.geometry().block_count();
        self.local.grow(geometry);
        if let Some(added) = Blocks::between(former_blocks, geometry.block_count()) {
            self.local.insert(added);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(first: u64, end: u64) -> Blocks {
        Blocks::between(first, end).unwrap()
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
    }
}
