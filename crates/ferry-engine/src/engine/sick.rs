//! What the source refused to give: ranges that the background tries again, in halves at once, single blocks later and
//! later.
//!
//! Invariant: ranges are disjoint, at most about [`SICK_RANGES_MAX`]; the set of their blocks holds none that nobody
//! lacks.

use std::collections::BTreeMap;

use crate::blockset::BlockSet;
use crate::geometry::Blocks;
use crate::limits::{BACKGROUND_BACKOFF_MS, SICK_RANGES_MAX, backoff_ms};

/// All that is sick.
#[derive(Debug)]
pub(super) struct SickRanges {
    by_first: BTreeMap<u64, Sick>,
    blocks: BlockSet,
}

/// A range that is tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sick {
    pub(super) blocks: Blocks,
    pub(super) attempts: u32,
    due_ms: u64,
}

impl SickRanges {
    pub(super) const fn new() -> SickRanges {
        SickRanges { by_first: BTreeMap::new(), blocks: BlockSet::new() }
    }

    pub(super) fn blocks(&self) -> &BlockSet {
        &self.blocks
    }

    /// There are so many that nothing else is tried.
    pub(super) fn is_full(&self) -> bool {
        self.by_first.len() >= SICK_RANGES_MAX
    }

    /// The background asked for these blocks in vain, for the `attempts`th time. Halves are tried next, to tell the bad
    /// blocks from their neighbours.
    pub(super) fn refused(&mut self, blocks: Blocks, attempts: u32, now_ms: u64) {
        let middle = blocks.first() + blocks.count() / 2;
        let halves = [Blocks::between(blocks.first(), middle), Blocks::between(middle, blocks.end())];
        if blocks.count() > 1 && self.by_first.len() + 2 <= SICK_RANGES_MAX {
            // Halves have not been tried: what is bad in them is found without waiting longer each time.
            let due_ms = now_ms + BACKGROUND_BACKOFF_MS;
            for half in halves.into_iter().flatten() {
                self.add(Sick { blocks: half, attempts: 0, due_ms });
            }
        } else {
            let due_ms = now_ms + backoff_ms(BACKGROUND_BACKOFF_MS, attempts);
            self.add(Sick { blocks, attempts, due_ms });
        }
    }

    /// The guest asked for these blocks in vain. One that was alone is left out of larger fetches.
    pub(super) fn guest_was_refused(&mut self, blocks: Blocks, now_ms: u64) {
        if blocks.count() == 1 && !self.blocks.intersects(blocks) && !self.is_full() {
            let due_ms = now_ms + BACKGROUND_BACKOFF_MS;
            self.add(Sick { blocks, attempts: 1, due_ms });
        }
    }

    /// These blocks are local now.
    pub(super) fn heal(&mut self, blocks: Blocks) {
        if self.by_first.is_empty() {
            return;
        }
        self.blocks.remove(blocks);
        let within = self.by_first.range(blocks.first()..blocks.end());
        let healed: Vec<u64> =
            within.filter(|(_, sick)| sick.blocks.end() <= blocks.end()).map(|(&first, _)| first).collect();
        for first in healed {
            self.by_first.remove(&first);
        }
    }

    pub(super) fn take_due(&mut self, now_ms: u64) -> Option<Sick> {
        let (&first, _) = self.by_first.iter().find(|(_, sick)| sick.due_ms <= now_ms)?;
        let sick = self.by_first.remove(&first).expect("it was just found");
        self.blocks.remove(sick.blocks);
        Some(sick)
    }

    /// What is left of a range that is tried again, and which runs of it nobody lacks.
    pub(super) fn put_back(&mut self, sick: Sick, left: Blocks, local: impl Iterator<Item = Blocks>) {
        self.add(Sick { blocks: left, ..sick });
        local.for_each(|run| self.blocks.remove(run));
    }

    fn add(&mut self, sick: Sick) {
        self.by_first.insert(sick.blocks.first(), sick);
        self.blocks.insert(sick.blocks);
    }
}
