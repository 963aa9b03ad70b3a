//! Dirty tracking: what the guest may have changed since each mark, also over a crash.
//!
//! ```text
//!  write ─▶ listed? ── yes ─▶ changed (exact, in memory) ─▶ store
//!              │ no
//!              ▼
//!           wanted ─▶ Persist "these blocks may change" (no sync, all who wait share it) ─▶ listed
//! ```
//!
//! In memory it is exact: the blocks that were given to the store. What must survive a crash is only that they *may*
//! have changed, so it is told of wide stretches before the first write to them ([`stretches`]), and writes into these
//! cost nothing more. Invariants:
//! - a guest's write is given to the store only when the map says, durably, that its blocks may have changed since the
//!   newest mark;
//! - what was in the store before a mark is durable, or counts as changed since the mark: else a crash after the mark
//!   could bring back what was there before, unnoticed. So a mark is a commit, and what is given to the store from its
//!   `SyncLocal` on counts as changed since;
//! - a mark and what has changed since are told in one frame ([`MapRecord::MarkSet`]).

mod stretches;

use crate::blockmap::BlockMap;
use crate::blockset::BlockSet;
use crate::event::Errno;
use crate::geometry::{Blocks, ByteRange, Geometry};
use crate::limits::{FETCH_BACKOFF_MS, LISTING_ATTEMPTS_MAX, LISTING_RECORDS_MAX, backoff_ms};
use crate::map::MapRecord;
use crate::marks::{MarkId, Marks};
use crate::operation::{Notice, Operation};

use super::{Engine, Op};
use stretches::{Stretches, coarse};

/// What is known of changes, and what the map is about to be told.
#[derive(Debug)]
pub(super) struct Dirty {
    marks: Marks,
    /// What the map says may have changed since the newest mark; none without a mark.
    listed: Option<BlockMap>,
    /// What the map is to be told next.
    wanted: BlockSet,
    /// What it is being told.
    under_way: BlockSet,
    making: Option<Making>,
    stretches: Stretches,
    failures: u32,
    not_before_ms: u64,
}

/// A mark that is being made durable.
#[derive(Debug)]
struct Making {
    /// What was given to the store, or still under way there, since its sync began.
    changed: BlockMap,
    /// What its frame, when that is under way, says may have changed since.
    listed: Option<BlockMap>,
}

impl Dirty {
    pub(super) fn new(marks: Marks) -> Dirty {
        Dirty {
            listed: marks.since_newest().cloned(),
            marks,
            wanted: BlockSet::new(),
            under_way: BlockSet::new(),
            making: None,
            stretches: Stretches::new(),
            failures: 0,
            not_before_ms: 0,
        }
    }

    pub(super) fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Whether something waits to be told to the map.
    pub(super) fn has_wishes(&self) -> bool {
        !self.wanted.is_empty()
    }

    pub(super) fn grow(&mut self, geometry: Geometry) {
        self.marks.grow(geometry);
        self.listed.iter_mut().for_each(|listed| listed.grow(geometry));
        if let Some(making) = &mut self.making {
            making.changed.grow(geometry);
            making.listed.iter_mut().for_each(|listed| listed.grow(geometry));
        }
    }

    /// Whether the guest may change these blocks now. If not, the map is told of them as soon as can be.
    pub(super) fn admits(&mut self, blocks: Blocks) -> bool {
        let is_mark_under_way = self.making.as_ref().is_some_and(|making| making.listed.is_some());
        let Some(listed) = &self.listed else {
            if is_mark_under_way {
                self.want(blocks);
            }
            return !is_mark_under_way;
        };
        if is_mark_under_way || !listed.covers(blocks) {
            self.want(blocks);
            return false;
        }
        if let Some(ahead) = self.stretches.ahead_of(blocks, listed.geometry())
            && !listed.covers(ahead)
        {
            self.wanted.insert(ahead);
        }
        true
    }

    fn want(&mut self, blocks: Blocks) {
        let is_asked = |set: &BlockSet| set.gaps(blocks).is_empty();
        if is_asked(&self.wanted) || is_asked(&self.under_way) {
            return;
        }
        let geometry = self.marks.geometry();
        self.wanted.insert(self.stretches.over(blocks, geometry));
    }

    /// These blocks are given to the store.
    pub(super) fn change(&mut self, blocks: Blocks) {
        self.marks.change(blocks);
        if let Some(making) = &mut self.making {
            making.changed.insert(blocks);
        }
    }

    /// What the next frame tells of changes to come, at most so much as a frame should hold.
    pub(super) fn take_wishes(&mut self, now_ms: u64) -> Vec<MapRecord> {
        if self.wanted.is_empty() || self.not_before_ms > now_ms {
            return Vec::new();
        }
        let told: Vec<Blocks> = self.wanted.runs().take(LISTING_RECORDS_MAX).collect();
        for &blocks in &told {
            self.wanted.remove(blocks);
            self.under_way.insert(blocks);
            if let Some(listed) = self.making.as_mut().and_then(|making| making.listed.as_mut()) {
                listed.insert(blocks);
            }
        }
        self.stretches.count_frame();
        told.into_iter().map(MapRecord::MayChange).collect()
    }

    /// What the frame of the mark that is being made begins with. From here on, until it is durable, nothing changes.
    pub(super) fn mark_records(&mut self) -> Vec<MapRecord> {
        let mark = self.marks.next_id();
        let making = self.making.as_mut().expect("the caller is about to make a mark");
        let mut listed = BlockMap::new(making.changed.geometry());
        let runs = coarse(&making.changed, LISTING_RECORDS_MAX);
        runs.iter().for_each(|&run| drop(listed.insert(run)));
        making.listed = Some(listed);
        let changes = runs.into_iter().map(MapRecord::MayChange);
        std::iter::once(MapRecord::MarkSet(mark)).chain(changes).collect()
    }

    fn listed(&mut self) {
        self.failures = 0;
        let told = std::mem::take(&mut self.under_way);
        if let Some(listed) = &mut self.listed {
            told.runs().for_each(|run| drop(listed.insert(run)));
        }
    }

    /// Tells whether those who wait should give up.
    fn not_listed(&mut self, now_ms: u64) -> bool {
        self.wanted.absorb(std::mem::take(&mut self.under_way));
        self.failures = (self.failures + 1).min(LISTING_ATTEMPTS_MAX);
        self.not_before_ms = now_ms + backoff_ms(FETCH_BACKOFF_MS, self.failures);
        let gives_up = self.failures == LISTING_ATTEMPTS_MAX;
        if gives_up {
            self.wanted = BlockSet::new();
        }
        gives_up
    }

    /// Without a mark nothing is kept track of.
    fn rest_if_unmarked(&mut self) {
        if self.marks.is_empty() {
            self.listed = None;
            self.wanted = BlockSet::new();
            self.stretches = Stretches::new();
            self.failures = 0;
        }
    }
}

impl Engine {
    /// The marks that are kept, oldest first, and what may have changed since each.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        self.dirty.marks()
    }

    /// Which parts of the range may have changed since a mark, in order, each as long as can be; none if the mark is
    /// not kept.
    pub fn changed_since(
        &self,
        mark: MarkId,
        range: ByteRange,
    ) -> Option<impl Iterator<Item = (ByteRange, bool)> + '_> {
        let changed = self.marks().since(mark)?;
        let runs = changed.runs(self.geometry().blocks_touched(range));
        Some(
            runs.filter_map(move |(is_in, run)| {
                Some((self.geometry().bytes_of(run).intersect(range)?, is_in))
            }),
        )
    }

    /// The sync of a mark's commit begins.
    pub(super) fn begin_mark(&mut self) {
        let mut changed = BlockMap::new(self.geometry());
        for op in self.ops.values() {
            match op {
                Op::WriteWhole { blocks, .. } => drop(changed.insert(*blocks)),
                Op::WriteLocked { ticket } => drop(changed.insert(self.put(*ticket).blocks())),
                Op::ReadWhole { .. }
                | Op::ReadPiece { .. }
                | Op::CopyIn { .. }
                | Op::ZeroTorn { .. }
                | Op::ZeroAbandoned { .. }
                | Op::Fetch(_)
                | Op::Query { .. }
                | Op::Keep { .. }
                | Op::KeepFetched { .. }
                | Op::SnapshotPiece { .. }
                | Op::Sync
                | Op::Persist
                | Op::Note { .. } => {}
            }
        }
        self.dirty.making = Some(Making { changed, listed: None });
    }

    /// The map knows the mark.
    pub(super) fn mark_made(&mut self, out: &mut Vec<Operation>) {
        let making = self.dirty.making.take().expect("a mark that is made was begun");
        let mark = self.dirty.marks.next_id();
        assert!(self.dirty.marks.set(mark), "there was room when the mark was judged");
        making.changed.within(self.geometry().all_blocks()).for_each(|run| self.dirty.marks.change(run));
        self.dirty.listed = making.listed;
        self.dirty.stretches.begin_anew();
        self.wake = true;
        out.push(Operation::Notice(Notice::Marked { mark }));
    }

    pub(super) fn mark_not_made(&mut self) {
        self.dirty.making = None;
        self.dirty.rest_if_unmarked();
        self.wake = true;
    }

    pub(super) fn mark_forgotten(&mut self, mark: MarkId) {
        self.dirty.marks.forget(mark);
        self.dirty.rest_if_unmarked();
        self.wake = true;
    }

    /// A frame that told of changes to come is durable, or is not.
    pub(super) fn listing_ended(&mut self, result: Result<(), Errno>, out: &mut Vec<Operation>) {
        if self.dirty.under_way.is_empty() {
            return;
        }
        match result {
            Ok(()) => self.dirty.listed(),
            Err(errno) => {
                if self.dirty.not_listed(self.now_ms) {
                    self.refuse_unlisted_puts(errno, out);
                }
            }
        }
        self.wake = true;
    }
}
