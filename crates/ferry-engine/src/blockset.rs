//! A set of blocks as sorted runs: costs as much as it has runs, however long they are.
//!
//! Invariant: runs are disjoint and not adjacent.

use std::collections::BTreeMap;

use crate::geometry::Blocks;

/// A set of blocks.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct BlockSet {
    /// First block → block after the last one.
    runs: BTreeMap<u64, u64>,
}

impl BlockSet {
    pub(crate) const fn new() -> BlockSet {
        BlockSet { runs: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(crate) fn run_count(&self) -> usize {
        self.runs.len()
    }

    pub(crate) fn block_count(&self) -> u64 {
        self.runs().map(Blocks::count).sum()
    }

    pub(crate) fn runs(&self) -> impl Iterator<Item = Blocks> + '_ {
        self.runs.iter().map(|(&first, &end)| run(first, end))
    }

    /// The parts of the set within `blocks`, in order.
    pub(crate) fn within(&self, blocks: Blocks) -> impl Iterator<Item = Blocks> + '_ {
        let start = self.run_over(blocks.first()).map_or(blocks.first(), Blocks::first);
        self.runs
            .range(start..blocks.end())
            .filter_map(move |(&first, &end)| run(first, end).intersect(blocks))
    }

    pub(crate) fn intersects(&self, blocks: Blocks) -> bool {
        !self.runs.is_empty() && self.within(blocks).next().is_some()
    }

    /// The parts of `blocks` that are not in the set, in order.
    pub(crate) fn gaps(&self, blocks: Blocks) -> Vec<Blocks> {
        let mut gaps = Vec::new();
        let mut at = blocks.first();
        if !self.runs.is_empty() {
            for part in self.within(blocks) {
                gaps.extend(Blocks::between(at, part.first()));
                at = part.end();
            }
        }
        gaps.extend(Blocks::between(at, blocks.end()));
        gaps
    }

    /// The run that `block` is in.
    pub(crate) fn run_over(&self, block: u64) -> Option<Blocks> {
        let (&first, &end) = self.runs.range(..=block).next_back()?;
        (block < end).then(|| run(first, end))
    }

    pub(crate) fn insert(&mut self, blocks: Blocks) {
        let (mut first, mut end) = (blocks.first(), blocks.end());
        if let Some((&before, &before_end)) = self.runs.range(..=first).next_back()
            && before_end >= first
        {
            first = before;
            end = end.max(before_end);
        }
        while let Some((&next, &next_end)) = self.runs.range(first..=end).next_back() {
            // Runs are disjoint, so the last one that starts in reach is also the one that ends last.
            end = end.max(next_end);
            self.runs.remove(&next);
        }
        self.runs.insert(first, end);
    }

    pub(crate) fn remove(&mut self, blocks: Blocks) {
        if self.runs.is_empty() {
            return;
        }
        let parts: Vec<Blocks> = self.within(blocks).collect();
        for part in parts {
            let whole = self.run_over(part.first()).expect("`within` gives parts of runs");
            self.runs.remove(&whole.first());
            if whole.first() < part.first() {
                self.runs.insert(whole.first(), part.first());
            }
            if part.end() < whole.end() {
                self.runs.insert(part.end(), whole.end());
            }
        }
    }

    /// Adds all of `other`.
    pub(crate) fn absorb(&mut self, other: BlockSet) {
        if self.runs.is_empty() {
            *self = other;
            return;
        }
        for blocks in other.runs() {
            self.insert(blocks);
        }
    }
}

fn run(first: u64, end: u64) -> Blocks {
    Blocks::between(first, end).expect("runs are not empty")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_of_runs_is_the_same_set_as_one_of_blocks(
            acts in prop::collection::vec((any::<bool>(), 0_u64..60, 1_u64..12), 1..60)
        ) {
            let mut set = BlockSet::new();
            let mut model = std::collections::BTreeSet::new();
            for (add, first, count) in acts {
                let blocks = Blocks::between(first, first + count).unwrap();
                if add {
                    set.insert(blocks);
                    model.extend(first..first + count);
                } else {
                    set.remove(blocks);
                    (first..first + count).for_each(|block| { model.remove(&block); });
                }
                let listed: Vec<u64> = set.runs().flat_map(|run| run.first()..run.end()).collect();
                prop_assert_eq!(listed, model.iter().copied().collect::<Vec<_>>());
                prop_assert!(set.runs().zip(set.runs().skip(1)).all(|(a, b)| a.end() < b.first()));
                prop_assert_eq!(set.block_count(), model.len() as u64);
                let part: Vec<u64> = set.within(blocks).flat_map(|run| run.first()..run.end()).collect();
                let gaps: Vec<u64> = set.gaps(blocks).iter().flat_map(|run| run.first()..run.end()).collect();
                let missing: Vec<u64> = (first..first + count).filter(|block| !model.contains(block)).collect();
                prop_assert_eq!(gaps, missing);
                prop_assert_eq!(part, model.range(first..first + count).copied().collect::<Vec<_>>());
            }
        }
    }
}
