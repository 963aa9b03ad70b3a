//! What each block of the soak's volume may hold. A block holds a stamp: 0 is zeroes, any other number fills the block with
//! words that follow from it and from the place.
//!
//! Invariant: a block's first candidate is what was last answered, and the last one is what the guest reads now; after a
//! kill the block may hold either, and what is found then becomes the only one.

use anyhow::{bail, ensure};

pub const BLOCK_BYTES: usize = 4096;

pub struct Oracle {
    blocks: Vec<Vec<u64>>,
    newest: u64,
}

impl Oracle {
    /// All blocks are zero.
    pub fn new(blocks: usize) -> Self {
        Self { blocks: vec![vec![0]; blocks], newest: 0 }
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// A stamp that no block has had.
    pub fn fresh_stamp(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }

    /// The guest is about to make `count` blocks from `first` on hold `stamp`.
    pub fn attempt(&mut self, first: usize, count: usize, stamp: u64) {
        for block in &mut self.blocks[first..first + count] {
            block.push(stamp);
        }
    }

    /// The last attempt at these blocks was answered: no kill takes it back, flushed or not.
    pub fn answered(&mut self, first: usize, count: usize) {
        for block in &mut self.blocks[first..first + count] {
            block.drain(..block.len() - 1);
        }
    }

    /// The blocks that a kill left in doubt.
    pub fn doubtful(&self) -> Vec<usize> {
        (0..self.blocks.len()).filter(|block| self.blocks[*block].len() > 1).collect()
    }

    /// A block was read after a kill: it must hold one of its candidates.
    pub fn settle(&mut self, block: usize, bytes: &[u8]) -> anyhow::Result<()> {
        let candidates = &mut self.blocks[block];
        let found = candidates.iter().rev().copied().find(|stamp| holds(bytes, block, *stamp));
        let Some(found) = found else {
            bail!("block {block} holds {} after a kill, none of {candidates:?}", told(bytes, block));
        };
        *candidates = vec![found];
        Ok(())
    }

    /// Blocks from `first` on were read: each must hold what was last written.
    pub fn check(&self, first: usize, bytes: &[u8]) -> anyhow::Result<()> {
        for (block, bytes) in (first..).zip(bytes.chunks(BLOCK_BYTES)) {
            let stamp = *self.blocks[block].last().expect("a block always has a candidate");
            ensure!(
                holds(bytes, block, stamp),
                "block {block} holds {} instead of {stamp}",
                told(bytes, block)
            );
        }
        Ok(())
    }
}

/// The bytes of `count` blocks from `first` on with this stamp.
pub fn content(first: usize, count: usize, stamp: u64) -> Vec<u8> {
    (first..first + count).flat_map(|block| words(block, stamp)).flat_map(u64::to_le_bytes).collect()
}

fn words(block: usize, stamp: u64) -> impl Iterator<Item = u64> {
    let place = (block as u64) << 16;
    (0..BLOCK_BYTES as u64 / 8).map(move |word| match (stamp, word) {
        (0, _) => 0,
        (stamp, 0) => stamp,
        (stamp, word) => stamp.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ place ^ word,
    })
}

fn holds(bytes: &[u8], block: usize, stamp: u64) -> bool {
    bytes
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .eq(words(block, stamp))
}

fn told(bytes: &[u8], block: usize) -> String {
    let stamp = u64::from_le_bytes(bytes[..8].try_into().expect("a block is longer"));
    if holds(bytes, block, stamp) {
        format!("stamp {stamp}")
    } else {
        format!("a torn or foreign block (first word {stamp})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answered_write_that_is_missing_after_a_kill_is_found() {
        let mut oracle = Oracle::new(2);
        oracle.attempt(1, 1, 1);
        oracle.answered(1, 1);
        assert!(oracle.settle(1, &content(1, 1, 0)).is_err());
        assert!(oracle.settle(1, &content(0, 1, 1)).is_err(), "the bytes of another place");
        oracle.settle(1, &content(1, 1, 1)).expect("it is there");
    }

    #[test]
    fn an_unanswered_write_may_be_there_or_not_but_then_it_stays_so() {
        let mut oracle = Oracle::new(1);
        oracle.attempt(0, 1, 1);
        assert_eq!(oracle.doubtful(), [0]);
        oracle.settle(0, &content(0, 1, 0)).expect("it was not answered");
        oracle.check(0, &content(0, 1, 0)).expect("as it was found");
        assert!(oracle.check(0, &content(0, 1, 1)).is_err());
    }
}
