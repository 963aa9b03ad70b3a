//! Blocks that the source cannot give: found one by one, told once, tried again, forgotten when they are local.
//!
//! ```text
//!  fetch fails ─┬─ background: its halves are tried next (hydration) ─┐
//!               └─ guest: its blocks are asked for one by one ────────┴─▶ one block alone fails: it is bad
//! ```
//!
//! A fetch that fails tells only that something in its range is bad. Invariants: a bad block is remote; a request is
//! failed for blocks of its own, never for what shared a fetch with them.

use crate::blockset::BlockSet;
use crate::event::{Errno, FetchFailure};
use crate::geometry::{Blocks, ByteRange};
use crate::limits::{FETCH_ATTEMPTS_MAX, FETCH_BACKOFF_MS, backoff_ms};
use crate::operation::{Notice, Operation};

use super::reads::Piece;
use super::{Engine, Parked, Until, Work};

/// What the source cannot give.
#[derive(Debug)]
pub(super) struct Bad {
    blocks: BlockSet,
    /// Found since the last tick. Told together, so that a bad stretch is told as one.
    untold: BlockSet,
}

impl Bad {
    pub(super) const fn new() -> Bad {
        Bad { blocks: BlockSet::new(), untold: BlockSet::new() }
    }

    /// These blocks are local now.
    pub(super) fn heal(&mut self, blocks: Blocks) {
        self.blocks.remove(blocks);
        self.untold.remove(blocks);
    }

    pub(super) fn block_count(&self) -> u64 {
        self.blocks.block_count()
    }

    pub(super) fn range_count(&self) -> u64 {
        self.blocks.run_count() as u64
    }
}

impl Engine {
    /// The exact ranges that the source failed to give, in order; tried again from time to time.
    pub fn bad_ranges(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.bad.blocks.runs().map(|run| self.geometry().bytes_of(run))
    }

    /// Where one fetch for the guest that starts at `at` ends: a piece that failed before is asked for block by
    /// block, and so is what is known to be bad, so that it does not spoil its neighbours.
    pub(super) fn ask_end(&self, piece: Piece, at: u64, end: u64) -> u64 {
        if piece.attempts > 0 || self.bad.blocks.run_over(at).is_some() {
            return at + 1;
        }
        let ahead = Blocks::between(at, end).expect("the caller gives blocks in order");
        self.bad.blocks.within(ahead).next().map_or(end, Blocks::first)
    }

    /// The source could not give all of these blocks.
    pub(super) fn suspect(&mut self, blocks: Blocks) {
        if blocks.count() > 1 || self.truth.is_local(blocks.first()) || self.bad.blocks.intersects(blocks) {
            return;
        }
        self.bad.blocks.insert(blocks);
        self.bad.untold.insert(blocks);
    }

    pub(super) fn tell_bad(&mut self, out: &mut Vec<Operation>) {
        let untold = std::mem::take(&mut self.bad.untold);
        let ranges = untold.runs().map(|run| self.geometry().bytes_of(run));
        out.extend(ranges.map(|range| Operation::Notice(Notice::SourceBad { range })));
    }

    /// A fetch of these blocks, for which the piece waited, brought nothing.
    pub(super) fn retry_piece(&mut self, failed: Blocks, piece: Piece, out: &mut Vec<Operation>) {
        let own = self.geometry().blocks_touched(piece.range);
        // It may be somebody else's block that is bad: then the piece has not had its own try yet.
        let attempts = if failed == own { piece.attempts + 1 } else { piece.attempts.max(1) };
        let piece = Piece { attempts, ..piece };
        if !self.needs_the_source(piece) {
            return self.plan_piece(piece, out);
        }
        if attempts < FETCH_ATTEMPTS_MAX {
            let until = Until::Ms(self.now_ms + backoff_ms(FETCH_BACKOFF_MS, attempts));
            self.parked.push(Parked { piece, until });
            return;
        }
        self.fail_piece(piece, out);
    }

    /// The request of this piece, which waits for the source, fails.
    pub(super) fn fail_piece(&mut self, piece: Piece, out: &mut Vec<Operation>) {
        match self.requests.get(&piece.ticket).map(|active| &active.work) {
            Some(Work::Read(_)) => self.end_piece(piece.ticket, Err(Errno::EIO), out),
            Some(Work::Write(put)) if put.is_writing() => {}
            Some(Work::Write(_)) => self.refuse_put(piece.ticket, Errno::EIO, out),
            None => {}
        }
    }

    pub(super) fn count_failure(&mut self, failure: FetchFailure) {
        self.tally.fetch_errors += 1;
        self.tally.checksum_errors += u64::from(failure == FetchFailure::Checksum);
    }
}
