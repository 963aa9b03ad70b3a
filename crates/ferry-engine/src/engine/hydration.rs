//! Copying in the background, until nothing is remote.
//!
//! ```text
//!  cursor ─▶ query ─▶ zero:  local at once, nothing crosses the wire
//!     ▲              └ data:  window ─▶ fetch, a region at most ─▶ kept
//!     │                                   │ refused by the source
//!     └── left behind (start over)        └─▶ sick: in halves, see `sick`
//! ```
//!
//! Background fetches have their own share of buffers, so that the guest's load never stops them. While the guest waits
//! for the source or for a flush, that share is small ([`BESIDE_GUEST`]); when nobody waits it grows by one with each
//! fetch that ends. A budget ([`super::budget`]) and a guard of the guest's latency ([`super::guard`]) hold back further
//! fetches, never queries. Invariant: while blocks are remote and the source is up, something is under way, or waits for
//! a tick.

use std::collections::VecDeque;

use crate::event::{Errno, FetchFailure, SourceExtent};
use crate::geometry::{BLOCK_BYTES, Blocks, ByteRange};
use crate::limits::{
    BACKGROUND_BACKOFF_MS, EXTENTS_MAX, FAILURES_IN_A_ROW_MAX, FETCH_BACKOFF_MS, QUERY_ATTEMPTS_MAX,
    QUERY_BYTES_MAX, WINDOW_RUNS_MAX, ZERO_BYTES_MAX, backoff_ms,
};
use crate::map::Phase;
use crate::operation::{Notice, OpId, Operation};

use super::sick::SickRanges;
use super::{Engine, Op};

/// Background fetches under way while the guest waits for the source or for a flush: enough to keep the link busy,
/// few enough not to be in the way.
pub(super) const BESIDE_GUEST: u32 = 2;
/// How many regions are taken for data when the source cannot say.
const BLIND_REGIONS: u64 = 64;

/// Where the background stands.
#[derive(Debug)]
pub(super) struct Hydration {
    paused: bool,
    /// What is known to be data, and not fetched yet, with failed attempts.
    window: VecDeque<(Blocks, u32)>,
    /// The next block to ask the source about.
    cursor: u64,
    query_under_way: bool,
    query_attempts: u32,
    fetches_in_flight: u32,
    /// How many background fetches may be under way while nobody waits.
    pace: u32,
    /// What the source refused to give.
    sick: SickRanges,
    /// Blocks behind the cursor may have stayed remote.
    left_behind: bool,
    refusals_in_a_row: u32,
    store_refusals_in_a_row: u32,
    not_before_ms: u64,
    /// As above, but over as soon as the source is up again.
    reconnect_not_before_ms: u64,
}

impl Hydration {
    pub(super) const fn new() -> Hydration {
        Hydration {
            paused: false,
            window: VecDeque::new(),
            cursor: 0,
            query_under_way: false,
            query_attempts: 0,
            fetches_in_flight: 0,
            pace: BESIDE_GUEST,
            sick: SickRanges::new(),
            left_behind: false,
            refusals_in_a_row: 0,
            store_refusals_in_a_row: 0,
            not_before_ms: 0,
            reconnect_not_before_ms: 0,
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    pub(super) fn sick_blocks(&self) -> u64 {
        self.sick.blocks().block_count()
    }

    pub(super) fn leave_behind(&mut self) {
        self.left_behind = true;
    }

    /// These blocks are owed to a snapshot. What is more than a region may well be zero: that is asked about first.
    pub(super) fn is_owed(&mut self, blocks: Blocks, region_blocks: u64) {
        if blocks.count() <= region_blocks && self.window.len() < WINDOW_RUNS_MAX {
            self.window.push_back((blocks, 0));
        } else {
            self.left_behind = true;
        }
    }

    pub(super) fn forget_reconnect_pause(&mut self) {
        self.reconnect_not_before_ms = 0;
    }

    pub(super) fn source_gave(&mut self) {
        self.refusals_in_a_row = 0;
    }

    pub(super) fn store_kept(&mut self) {
        self.store_refusals_in_a_row = 0;
    }

    /// The store could not keep what arrived. What was under way when a pause began is no news when it fails too:
    /// a burst counts once, or one bad moment would cost the longest pause.
    pub(super) fn store_refused(&mut self, now_ms: u64) {
        self.left_behind = true;
        if now_ms < self.not_before_ms {
            return;
        }
        self.store_refusals_in_a_row += 1;
        self.not_before_ms = now_ms + backoff_ms(BACKGROUND_BACKOFF_MS, self.store_refusals_in_a_row);
    }

    pub(super) fn fetch_ended(&mut self) {
        self.fetches_in_flight -= 1;
        self.pace = self.pace.saturating_add(1);
    }

    pub(super) fn disconnected(&mut self, blocks: Blocks, attempts: u32, not_before_ms: u64) {
        self.fetches_in_flight -= 1;
        self.window.push_front((blocks, attempts));
        self.reconnect_not_before_ms = self.reconnect_not_before_ms.max(not_before_ms);
    }

    /// The source refused to give these blocks for the `attempts`th time. Halves are tried next, to tell the bad
    /// blocks from their neighbours.
    pub(super) fn source_refused(&mut self, blocks: Blocks, attempts: u32, now_ms: u64) {
        self.fetches_in_flight -= 1;
        // As with the store: what fails during a pause is no news.
        if now_ms >= self.not_before_ms {
            self.refusals_in_a_row += 1;
            if let Some(beyond) = self.refusals_in_a_row.checked_sub(FAILURES_IN_A_ROW_MAX) {
                self.not_before_ms = now_ms + backoff_ms(BACKGROUND_BACKOFF_MS, beyond + 1);
            }
        }
        self.sick.refused(blocks, attempts, now_ms);
    }

    /// The guest asked the source for these blocks in vain.
    pub(super) fn guest_was_refused(&mut self, blocks: Blocks, now_ms: u64) {
        self.left_behind = true;
        self.sick.guest_was_refused(blocks, now_ms);
    }

    /// These blocks are local now.
    pub(super) fn heal(&mut self, blocks: Blocks) {
        self.sick.heal(blocks);
    }

    /// The block up to which the source was asked.
    pub(super) fn asked_up_to(&self) -> u64 {
        self.cursor
    }

    /// How many blocks are known to be data, and not fetched yet.
    pub(super) fn window_blocks(&self) -> u64 {
        self.window.iter().map(|(run, _)| run.count()).sum()
    }

    /// How many runs are known to be data, and not fetched yet.
    pub(super) fn window_runs(&self) -> usize {
        self.window.len()
    }

    /// Whether at least so many blocks are known to be data.
    fn window_holds(&self, blocks: u64) -> bool {
        let mut sum = 0;
        self.window.iter().any(|(run, _)| {
            sum += run.count();
            sum >= blocks
        })
    }
}

impl Engine {
    /// Fetches and asks ahead as far as the limits allow.
    pub(super) fn pump_hydration(&mut self, out: &mut Vec<Operation>) {
        if !self.may_hydrate() {
            return;
        }
        let share = self.background_share();
        while self.hydration.fetches_in_flight < share && self.budget.allows() && self.guard.allows() {
            let Some((blocks, attempts)) = self.next_in_background() else { break };
            self.hydration.fetches_in_flight += 1;
            self.guard.spend(self.geometry().bytes_of(blocks).len_bytes());
            self.fetch_in_background(blocks, attempts, out);
        }
        if self.query_ahead(out) {
            return;
        }
        if self.pass_is_over() && self.is_anything_behind() {
            self.hydration.left_behind = false;
            self.hydration.cursor = 0;
            self.query_ahead(out);
        }
    }

    /// How many background fetches may be under way now.
    fn background_share(&mut self) -> u32 {
        let most = self.limits.hydration_fetches_max;
        if self.guard.is_on_watch() {
            // They are small, and it lets them through one by one.
            return most;
        }
        // Who reads in sequence waits as soon as what is fetched ahead comes too late.
        let guest_waits =
            self.fetches.guest_waits() || self.ahead.is_under_way() || self.durability.somebody_waits();
        self.hydration.pace =
            if guest_waits { self.finish.beside_guest() } else { self.hydration.pace.min(most) };
        self.hydration.pace.min(most)
    }

    pub(super) fn may_hydrate(&self) -> bool {
        let hydration = &self.hydration;
        self.lacks_anything()
            && self.has_source
            && self.source.up
            && self.phase != Phase::Standby
            && self.durability.failed().is_none()
            && !self.is_abandoning()
            && !hydration.paused
            && hydration.not_before_ms <= self.now_ms
            && hydration.reconnect_not_before_ms <= self.now_ms
    }

    /// The next blocks to fetch, within a region and a piece, and how often they have failed.
    fn next_in_background(&mut self) -> Option<(Blocks, u32)> {
        let most_blocks = self.guard.piece_blocks(self.geometry());
        while let Some(sick) = self.hydration.sick.take_due(self.now_ms) {
            if let Some(found) = self.first_to_fetch(sick.blocks).map(|found| found.up_to(most_blocks)) {
                if let Some(left) = Blocks::between(found.end(), sick.blocks.end()) {
                    let owed = self.snapshots.owed();
                    let local = self.truth.local_runs(left).flat_map(|run| owed.gaps(run));
                    self.hydration.sick.put_back(sick, left, local);
                }
                return Some((found, sick.attempts));
            }
            // Somebody else fetches or writes it. If that fails, it comes again.
            self.hydration.left_behind = true;
        }
        if self.hydration.sick.is_full() {
            return None;
        }
        if let Some(found) = self.next_hot(most_blocks) {
            return Some((found, 0));
        }
        while let Some((run, attempts)) = self.hydration.window.pop_front() {
            let (found, rest) = self.carve(run, most_blocks);
            rest.into_iter().for_each(|rest| self.hydration.window.push_front((rest, attempts)));
            if let Some(found) = found {
                return Some((found, attempts));
            }
        }
        None
    }

    /// What to fetch of a run, within its first region that is not local, and what is left of the run after that.
    pub(super) fn carve(&self, run: Blocks, most_blocks: u64) -> (Option<Blocks>, Option<Blocks>) {
        let Some(first) = self.first_lacking(run) else { return (None, None) };
        let region_end = self.geometry().region_end(first).min(run.end());
        let part = Blocks::between(first, region_end).expect("a region ends after its blocks");
        let found = self.first_to_fetch(part).map(|found| found.up_to(most_blocks));
        (found, Blocks::between(found.map_or(region_end, Blocks::end), run.end()))
    }

    /// Whether something is needed that only the source has: by the volume, or by a snapshot.
    pub(super) fn lacks_anything(&self) -> bool {
        !self.truth.is_complete() || self.snapshots.are_owed_anything()
    }

    /// The first of these blocks that is remote or owed to a snapshot.
    fn first_lacking(&self, blocks: Blocks) -> Option<u64> {
        let remote = self.truth.remote_runs(blocks).next();
        remote.into_iter().chain(self.snapshots.owed_within(blocks)).map(Blocks::first).min()
    }

    /// The first of these blocks that are remote, or owed to a snapshot, and that nobody fetches, writes, or has failed to
    /// get. (What is owed is written all the time: that is why.)
    pub(super) fn first_to_fetch(&self, blocks: Blocks) -> Option<Blocks> {
        let yielded = self.yielded_to_writes(blocks);
        let untried = |run: Blocks| {
            let not_fetched = self.fetches.blocks().gaps(run).into_iter();
            not_fetched.flat_map(|run| self.hydration.sick.blocks().gaps(run))
        };
        let remote = self
            .truth
            .remote_runs(blocks)
            .flat_map(|run| self.locks.gaps(run))
            .flat_map(|run| yielded.gaps(run))
            .flat_map(untried)
            .next();
        let owed = self.snapshots.owed_within(blocks).flat_map(untried);
        remote.into_iter().chain(owed).min_by_key(|run| run.first())
    }

    /// How many blocks are remote or owed to a snapshot.
    fn blocks_lacking(&self) -> u64 {
        let owed = self.snapshots.owed();
        let local = owed.runs().flat_map(|run| self.truth.local_runs(run)).map(Blocks::count);
        self.truth.blocks_remote() + local.sum::<u64>()
    }

    /// Asks about what comes next, unless enough is known or nothing comes. Gives whether a query is under way, or
    /// waits for the zeroes that the last one was about.
    fn query_ahead(&mut self, out: &mut Vec<Operation>) -> bool {
        let enough = 2 * u64::from(self.limits.hydration_fetches_max) * self.geometry().region_blocks();
        let is_enough = self.hydration.window_holds(enough) && !self.wants_to_know_all();
        if self.hydration.query_under_way || is_enough {
            return self.hydration.query_under_way;
        }
        let total = self.geometry().block_count();
        let Some(ahead) = Blocks::between(self.hydration.cursor, total) else { return false };
        let Some(first) = self.first_lacking(ahead) else {
            self.hydration.cursor = total;
            return false;
        };
        let is_torn = self.torn.intersects(Blocks::one(first));
        if is_torn && self.ops.values().any(|op| matches!(op, Op::ZeroTorn { .. })) {
            return true;
        }
        let most_bytes = if is_torn { ZERO_BYTES_MAX } else { QUERY_BYTES_MAX };
        let end = total.min(first + most_bytes / BLOCK_BYTES);
        let blocks = Blocks::between(first, end).expect("a remote block lies ahead");
        self.hydration.query_under_way = true;
        let op = self.ops.insert(Op::Query { blocks, epoch: self.source.epoch });
        out.push(Operation::QuerySource { op, range: self.geometry().bytes_of(blocks) });
        true
    }

    fn pass_is_over(&self) -> bool {
        let hydration = &self.hydration;
        hydration.cursor == self.geometry().block_count()
            && hydration.window.is_empty()
            && !hydration.query_under_way
            && hydration.fetches_in_flight == 0
    }

    /// Whether there is something that only another pass will find. The second half is a net: it cannot be fast,
    /// since what others fetch or write at the moment is theirs, and so is what a write waits to put there: it may wait for time
    /// to pass, and asking again meanwhile would never end.
    fn is_anything_behind(&self) -> bool {
        self.hydration.left_behind
            || (self.fetches.is_empty()
                && self.locks.is_empty()
                && self.yielded_to_writes(self.geometry().all_blocks()).is_empty()
                && self.blocks_lacking() > self.hydration.sick_blocks())
    }

    pub(super) fn extents(
        &mut self,
        op: OpId,
        result: Result<Vec<SourceExtent>, FetchFailure>,
        out: &mut Vec<Operation>,
    ) {
        let Some(Op::Query { blocks, epoch }) = self.ops.remove(op) else {
            panic!("a query is completed once")
        };
        self.hydration.query_under_way = false;
        if !matches!(result, Err(FetchFailure::Disconnected)) {
            self.loss.source_answered();
        }
        match result {
            Ok(extents) => {
                self.hydration.query_attempts = 0;
                self.learn_extents(blocks, &extents, out);
            }
            Err(FetchFailure::Disconnected) => {
                if self.source.up && epoch == self.source.epoch {
                    self.hydration.reconnect_not_before_ms = self.now_ms + FETCH_BACKOFF_MS;
                }
            }
            Err(failure @ (FetchFailure::Errno(_) | FetchFailure::Checksum | FetchFailure::ShortSource)) => {
                self.count_failure(failure);
                let range = self.geometry().bytes_of(blocks);
                out.push(Operation::Notice(Notice::SourceFailed { range, failure }));
                self.query_failed(blocks);
            }
        }
    }

    /// A source that cannot tell is taken at its data.
    fn query_failed(&mut self, blocks: Blocks) {
        self.hydration.query_attempts += 1;
        if self.hydration.query_attempts < QUERY_ATTEMPTS_MAX {
            let pause_ms = backoff_ms(FETCH_BACKOFF_MS, self.hydration.query_attempts);
            self.hydration.not_before_ms = self.hydration.not_before_ms.max(self.now_ms + pause_ms);
            return;
        }
        self.hydration.query_attempts = 0;
        self.take_for_data(
            blocks.first(),
            blocks.end().min(blocks.first() + BLIND_REGIONS * self.geometry().region_blocks()),
        );
    }

    fn take_for_data(&mut self, first: u64, end: u64) {
        self.hydration.window.extend(Blocks::between(first, end).map(|run| (run, 0)));
        self.hydration.cursor = end;
    }

    /// Zeroes become local, the rest goes to the window. A block counts as zero only if all of it is. What an answer
    /// covers only in part is asked about again; an answer that covers nothing is no answer.
    fn learn_extents(&mut self, asked: Blocks, extents: &[SourceExtent], out: &mut Vec<Operation>) {
        let limit = self.geometry().bytes_of(asked).end();
        let mut at = asked.first() * BLOCK_BYTES;
        let mut known = asked.first();
        let mut zero_from = None;
        for extent in extents.iter().take(EXTENTS_MAX) {
            let end = at.saturating_add(extent.len_bytes).min(limit);
            if end == at {
                continue;
            }
            if extent.zero {
                zero_from.get_or_insert(at);
            } else if let Some(start) = zero_from.take() {
                known = self.learn_zeroes(known, start, at, out);
            }
            at = end;
        }
        if let Some(start) = zero_from {
            known = self.learn_zeroes(known, start, at, out);
        }
        let covered = if at == limit { asked.end() } else { at / BLOCK_BYTES };
        let covered = covered.max(asked.first() + 1);
        // Nothing is asked twice: at worst the first block of a useless answer is fetched.
        self.take_for_data(known, covered.max(known));
    }

    /// The bytes `start..end` are zero; what lies between `known` and them is data. Gives up to where is known now.
    fn learn_zeroes(&mut self, known: u64, start: u64, end: u64, out: &mut Vec<Operation>) -> u64 {
        let range = ByteRange::between(start, end);
        let Some(zero) = range.and_then(|range| self.geometry().blocks_covered(range)) else { return known };
        let Some(zero) = Blocks::between(zero.first().max(known), zero.end()) else { return known };
        self.hydration.window.extend(Blocks::between(known, zero.first()).map(|run| (run, 0)));
        self.claim_zeroes(zero, out);
        zero.end()
    }

    /// The source says that these blocks are zero. The store has holes there, except where it is torn; what somebody
    /// writes at the moment is left to them.
    pub(super) fn claim_zeroes(&mut self, blocks: Blocks, out: &mut Vec<Operation>) {
        if self.is_abandoning() {
            return self.hydration.leave_behind();
        }
        self.snapshots_hear_zeroes(blocks);
        let remote: Vec<Blocks> = self.truth.remote_runs(blocks).collect();
        let free: Vec<Blocks> = remote.into_iter().flat_map(|run| self.locks.gaps(run)).collect();
        for run in free {
            let torn: Vec<Blocks> = self.torn.within(run).collect();
            for clean in self.torn.gaps(run) {
                self.tally.bytes_zero_skipped += self.became_local(clean);
            }
            if self.durability.failed().is_some() {
                continue;
            }
            for blocks in torn {
                self.lock(blocks);
                let op = self.ops.insert(Op::ZeroTorn { blocks });
                let range = self.geometry().bytes_of(blocks);
                out.push(Operation::ZeroLocal { op, range, punch: true });
            }
        }
    }

    pub(super) fn torn_zeroed(
        &mut self,
        blocks: Blocks,
        result: Result<(), Errno>,
        out: &mut Vec<Operation>,
    ) {
        self.unlock(blocks);
        match result {
            Ok(()) => self.tally.bytes_zero_skipped += self.became_local(blocks),
            Err(errno) => self.keep_failed(blocks, errno, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: u64 = 16;

    #[test]
    fn a_burst_of_fetches_that_the_source_refuses_costs_one_first_pause() {
        let mut hydration = Hydration { fetches_in_flight: 16, ..Hydration::new() };
        for block in 0..BURST {
            hydration.source_refused(Blocks::one(block), 1, 5_000);
        }
        assert_eq!(hydration.not_before_ms, 5_000 + BACKGROUND_BACKOFF_MS);
    }

    #[test]
    fn a_burst_that_the_store_cannot_keep_costs_one_first_pause_and_the_next_a_longer_one() {
        let mut hydration = Hydration::new();
        (0..BURST).for_each(|_| hydration.store_refused(5_000));
        assert_eq!(hydration.not_before_ms, 5_000 + BACKGROUND_BACKOFF_MS);
        (0..BURST).for_each(|_| hydration.store_refused(9_000));
        assert_eq!(hydration.not_before_ms, 9_000 + 2 * BACKGROUND_BACKOFF_MS);
        hydration.store_kept();
        hydration.store_refused(20_000);
        assert_eq!(hydration.not_before_ms, 20_000 + BACKGROUND_BACKOFF_MS);
    }
}
