//! One snapshot: where each of its blocks is.
//!
//! ```text
//!            ┌─ a guest's write is about to overwrite it: begun ─▶ kept
//!  shared ───┘
//!    ▲ arrives from the source
//!  remote ───┐
//!            └─ a guest's write has overwritten it unseen: owed ─▶ fetched ─▶ kept
//! ```
//!
//! Invariants: what is kept or owed has begun; what has not begun is in the store as it was, or at the source as it was,
//! as the volume's truth says; nothing is both kept and owed; where a block is owed, the side file is a hole.

use crate::blockmap::BlockMap;
use crate::blockset::BlockSet;
use crate::geometry::{BLOCK_BYTES, Blocks, ByteRange, Geometry};
use crate::limits::KEEP_BYTES;
use crate::truth::{Residence, Truth};

/// Where a part of a snapshot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeping {
    /// In the store, as it was.
    Shared,
    /// In the snapshot's side file.
    Kept,
    /// Only at the volume's source.
    Remote,
}

#[derive(Debug)]
pub(in crate::engine) struct Snapshot {
    /// Tells it from another of the same name.
    pub(in crate::engine) number: u64,
    /// The volume's when it was taken.
    geometry: Geometry,
    /// In the side file.
    kept: BlockMap,
    /// Is not in the store as it was, or will not be soon.
    begun: BlockMap,
    /// The guest has written here what was only at the source, which still has what the snapshot lacks.
    owed: BlockSet,
}

impl Snapshot {
    pub(super) fn new(number: u64, geometry: Geometry) -> Snapshot {
        let (kept, begun) = (BlockMap::new(geometry), BlockMap::new(geometry));
        Snapshot { number, geometry, kept, begun, owed: BlockSet::new() }
    }

    pub(in crate::engine) const fn size_bytes(&self) -> u64 {
        self.geometry.size_bytes()
    }

    pub(in crate::engine) const fn owed(&self) -> &BlockSet {
        &self.owed
    }

    /// These blocks in bytes, cut at the snapshot's end.
    pub(super) fn bytes_of(&self, blocks: Blocks) -> ByteRange {
        self.geometry.bytes_of(blocks)
    }

    /// Of these blocks of the volume, which may have grown, those that the snapshot has.
    fn own(&self, blocks: Blocks) -> Option<Blocks> {
        blocks.intersect(self.geometry.all_blocks())
    }

    /// The longest run in one place that starts at `block` and ends at or before `end`.
    fn run_at(&self, truth: &Truth, block: u64, end: u64) -> (Keeping, Blocks) {
        let (is_kept, run) = self.kept.run_at(block, end);
        if is_kept {
            return (Keeping::Kept, run);
        }
        if let Some(owed) = self.owed.run_over(block) {
            let run = owed.intersect(run).and_then(|owed| Blocks::between(block, owed.end()));
            return (Keeping::Remote, run.expect("both hold `block`"));
        }
        let end = self.owed.within(run).next().map_or(run.end(), Blocks::first);
        let (residence, run) = truth.run_at(block, end);
        match residence {
            Residence::Local => (Keeping::Shared, run),
            Residence::Remote => (Keeping::Remote, run),
        }
    }

    /// The parts of a range in order, cut at the snapshot's end.
    pub(super) fn runs<'a>(
        &'a self,
        truth: &'a Truth,
        range: ByteRange,
    ) -> impl Iterator<Item = (ByteRange, Keeping)> + 'a {
        let range = range.intersect(self.geometry.all_bytes());
        let mut left = range.map(|range| self.geometry.blocks_touched(range));
        std::iter::from_fn(move || {
            let blocks = left?;
            let (keeping, run) = self.run_at(truth, blocks.first(), blocks.end());
            left = Blocks::between(run.end(), blocks.end());
            let part = self.bytes_of(run).intersect(range?).expect("the blocks are of the range");
            Some((part, keeping))
        })
    }

    /// Whether all that it holds is in the store or in the side file.
    pub(super) fn needs_source(&self, truth: &Truth) -> bool {
        let is_needed = |run| !self.begun.covers(run);
        !self.owed.is_empty() || truth.remote_runs(self.geometry.all_blocks()).any(is_needed)
    }

    /// Whether a write of these blocks must wait until some of them are kept.
    pub(super) fn still_shares(&self, truth: &Truth, blocks: Blocks) -> bool {
        let Some(own) = self.own(blocks) else { return false };
        let is_shared = |run| self.kept.gaps(run).any(|gap| !self.owed.gaps(gap).is_empty());
        !self.kept.covers(own) && truth.local_runs(own).any(is_shared)
    }

    /// What of these blocks, and of the units around them, nobody keeps yet; from now on somebody does.
    pub(super) fn begin(&mut self, truth: &Truth, blocks: Blocks) -> Vec<Blocks> {
        let Some(own) = self.own(blocks).filter(|&own| !self.begun.covers(own)) else { return Vec::new() };
        const UNIT: u64 = KEEP_BYTES / BLOCK_BYTES;
        let end = self.geometry.block_count();
        let unit = |run: Blocks| {
            let (first, beyond) = (run.first() / UNIT * UNIT, run.end().div_ceil(UNIT) * UNIT);
            Blocks::between(first, beyond.min(end)).expect("it holds the run")
        };
        let mut units = BlockSet::new();
        truth.local_runs(own).for_each(|run| units.insert(unit(run)));
        let local: Vec<Blocks> = units.runs().flat_map(|unit| truth.local_runs(unit)).collect();
        local.into_iter().flat_map(|run| self.begun.insert(run)).collect()
    }

    /// These blocks, of which none is local, are about to be overwritten. Tells whether anything is owed now.
    pub(super) fn owe(&mut self, blocks: Blocks) -> bool {
        let Some(own) = self.own(blocks) else { return false };
        let new = self.begun.insert(own);
        new.iter().for_each(|&run| self.owed.insert(run));
        !new.is_empty()
    }

    /// Of these blocks, what the source has just given, or says is zero, is in the side file.
    pub(super) fn keep(&mut self, blocks: Blocks) {
        let Some(own) = self.own(blocks) else { return };
        self.owed.remove(own);
        self.kept.insert(own);
    }
}
