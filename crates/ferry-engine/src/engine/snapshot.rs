//! Snapshots: a volume as it was at one instant, for readers, while its guest writes on.
//!
//! ```text
//!  guest's write ─▶ touches what a snapshot still shares? ──no──▶ writes, as ever; what was remote is owed from now on
//!                     │ yes: held                                     └─▶ fetched in the background ─▶ KeepFetched
//!                     ▼
//!                  KeepLocal (store ─▶ the snapshot's side file), reads of it from the store end ──▶ writes
//! ```
//!
//! A snapshot is taken when no write is under way in the store: those that come meanwhile are held, too. What a guest's
//! write would overwrite is kept first, in units of [`KEEP_BYTES`](crate::limits::KEEP_BYTES); a reader gets what was kept
//! from the side file and the rest from the store, or from the volume's source where that alone has it. A write of what is
//! remote fetches nothing first: the source has not changed, so the snapshot is *owed* that block, and hydration is not
//! complete before it has got it. A copy-in changes nothing for a snapshot: it brings what the snapshot would have fetched.
//! Invariants:
//! - a block that is local, and was not begun, has in the store what it had when the snapshot was taken;
//! - no write is under way in a range that a reader of a snapshot reads from the store;
//! - the guest comes first: if something cannot be kept, the snapshot is lost, loudly, and the write goes on;
//! - nobody waits for the network for a snapshot's sake but its readers.
//!
//! A snapshot is not durable: it ends with the engine.

mod one;
mod readers;

use std::collections::{BTreeMap, VecDeque};

use crate::blockset::BlockSet;
use crate::event::{Command, Errno};
use crate::geometry::{BLOCK_BYTES, Blocks, ByteRange};
use crate::limits::SNAPSHOTS_MAX;
use crate::map::Phase;
use crate::operation::{DataRef, Notice, OpId, Operation, Refusal};

use super::{Engine, Op};
pub use one::Keeping;
use one::Snapshot;

/// Names a snapshot for as long as it lives; whoever takes it chooses (a ULID as a number).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SnapshotId(pub u128);

/// All snapshots of a volume, and who waits because of them.
#[derive(Debug)]
pub(super) struct Snapshots {
    live: BTreeMap<SnapshotId, Snapshot>,
    /// How many were taken: a name may come back, what is under way for the one before is not for this one.
    taken: u64,
    /// To be taken as soon as no write is under way.
    asked: VecDeque<SnapshotId>,
    /// What readers read from the store at the moment.
    store_reads: BTreeMap<OpId, (SnapshotId, ByteRange)>,
}

impl Snapshots {
    pub(super) const fn new() -> Snapshots {
        Snapshots { live: BTreeMap::new(), taken: 0, asked: VecDeque::new(), store_reads: BTreeMap::new() }
    }

    fn is_idle(&self) -> bool {
        self.live.is_empty() && self.asked.is_empty()
    }

    fn is_read_from_store(&self, range: ByteRange) -> bool {
        self.store_reads.values().any(|(_, read)| read.intersect(range).is_some())
    }

    /// Whether a snapshot lacks something that only the source has, and that the volume itself does not want.
    pub(super) fn are_owed_anything(&self) -> bool {
        self.live.values().any(|snapshot| !snapshot.owed().is_empty())
    }

    /// What of these blocks is owed, in order for each snapshot.
    pub(super) fn owed_within(&self, blocks: Blocks) -> impl Iterator<Item = Blocks> + '_ {
        self.live.values().flat_map(move |snapshot| snapshot.owed().within(blocks))
    }

    /// All that is owed to any.
    pub(super) fn owed(&self) -> BlockSet {
        let mut owed = BlockSet::new();
        let runs = self.live.values().flat_map(|snapshot| snapshot.owed().runs());
        runs.for_each(|run| owed.insert(run));
        owed
    }

    fn live(&mut self, (id, number): (SnapshotId, u64)) -> Option<&mut Snapshot> {
        self.live.get_mut(&id).filter(|snapshot| snapshot.number == number)
    }
}

impl Engine {
    /// The parts of a range of a snapshot, in order; cut at the snapshot's end. None if there is no such snapshot.
    pub fn snapshot(
        &self,
        snapshot: SnapshotId,
        range: ByteRange,
    ) -> Option<impl Iterator<Item = (ByteRange, Keeping)> + '_> {
        self.snapshots.live.get(&snapshot).map(|found| found.runs(&self.truth, range))
    }

    /// The snapshots there are, each with its size in bytes.
    pub fn snapshots(&self) -> impl Iterator<Item = (SnapshotId, u64)> + '_ {
        self.snapshots.live.iter().map(|(&id, snapshot)| (id, snapshot.size_bytes()))
    }

    /// Bytes of a snapshot that only the source has, and that the volume itself does not need any more. 0 if there is no such
    /// snapshot.
    #[must_use]
    pub fn bytes_owed(&self, snapshot: SnapshotId) -> u64 {
        self.snapshots.live.get(&snapshot).map_or(0, |found| found.owed().block_count() * BLOCK_BYTES)
    }

    pub(super) fn snapshot_asked(&mut self, id: SnapshotId, out: &mut Vec<Operation>) {
        let command = Command::Snapshot { id };
        let under_way = self.snapshots.live.len() + self.snapshots.asked.len();
        if self.snapshots.asked.contains(&id) {
            return self.snapshots.asked.push_back(id);
        }
        let refusal = match self.phase {
            _ if self.snapshots.live.contains_key(&id) => {
                return out.push(Operation::Notice(Notice::SnapshotTaken { id }));
            }
            Phase::Standby => Some(Refusal::Standby),
            Phase::Open | Phase::Sealed => (under_way >= SNAPSHOTS_MAX).then_some(Refusal::TooManySnapshots),
        };
        match refusal {
            Some(refusal) => out.push(Operation::Notice(Notice::CommandRefused { command, refusal })),
            None => self.snapshots.asked.push_back(id),
        }
    }

    pub(super) fn forget_snapshot(&mut self, id: SnapshotId, out: &mut Vec<Operation>) {
        let asked = self.snapshots.asked.len();
        self.snapshots.asked.retain(|&asked| asked != id);
        for _ in self.snapshots.asked.len()..asked {
            let (command, refusal) = (Command::Snapshot { id }, Refusal::Forgotten);
            out.push(Operation::Notice(Notice::CommandRefused { command, refusal }));
        }
        out.push(Operation::Notice(Notice::SnapshotForgotten { id }));
        self.end_snapshot(id, out);
    }

    fn lose_snapshot(&mut self, id: SnapshotId, errno: Errno, out: &mut Vec<Operation>) {
        out.push(Operation::Notice(Notice::SnapshotLost { id, errno }));
        self.end_snapshot(id, out);
    }

    fn end_snapshot(&mut self, id: SnapshotId, out: &mut Vec<Operation>) {
        self.wake = true;
        let Some(snapshot) = self.snapshots.live.remove(&id) else { return };
        self.end_readers(id, out);
        // Nobody wants these any more, unless somebody else does: then they are found again.
        snapshot.owed().runs().for_each(|run| self.hydration.heal(run));
        self.hydration.leave_behind();
    }

    /// Whether a guest's write may be given to the store; begins to keep what it would overwrite.
    pub(super) fn snapshots_admit(
        &mut self,
        range: ByteRange,
        blocks: Blocks,
        out: &mut Vec<Operation>,
    ) -> bool {
        if self.snapshots.is_idle() {
            return true;
        }
        if !self.snapshots.asked.is_empty() {
            return false;
        }
        let mut waits = self.snapshots.is_read_from_store(range);
        for (&id, snapshot) in &mut self.snapshots.live {
            for blocks in snapshot.begin(&self.truth, blocks) {
                let op = self.ops.insert(Op::Keep { snapshot: (id, snapshot.number), blocks });
                out.push(Operation::KeepLocal { op, snapshot: id, range: snapshot.bytes_of(blocks) });
            }
            waits |= snapshot.still_shares(&self.truth, blocks);
        }
        !waits
    }

    /// The guest overwrites these blocks, of which some are remote.
    pub(super) fn owe_to_snapshots(&mut self, blocks: Blocks) {
        for run in self.truth.remote_runs(blocks) {
            for snapshot in self.snapshots.live.values_mut() {
                if snapshot.owe(run) {
                    self.hydration.is_owed(run, self.truth.geometry().region_blocks());
                }
            }
        }
    }

    pub(super) fn kept(
        &mut self,
        snapshot: (SnapshotId, u64),
        blocks: Blocks,
        result: Result<(), Errno>,
        out: &mut Vec<Operation>,
    ) {
        self.wake = true;
        let Some(found) = self.snapshots.live(snapshot) else { return };
        match result {
            Ok(()) => found.keep(blocks),
            Err(errno) => self.lose_snapshot(snapshot.0, errno, out),
        }
    }

    /// A fetch has arrived: snapshots keep what they are owed of it, and what a write is about to overwrite that was not
    /// kept in the store for its sake. Gives how many operations that takes.
    pub(super) fn keep_for_snapshots(
        &mut self,
        fetch: OpId,
        blocks: Blocks,
        out: &mut Vec<Operation>,
    ) -> u32 {
        if self.snapshots.live.is_empty() {
            return 0;
        }
        for yielded in self.yielded_to_writes(blocks).runs() {
            self.owe_to_snapshots(yielded);
        }
        let start = self.geometry().bytes_of(blocks).offset();
        let mut count = 0;
        for (&id, snapshot) in &self.snapshots.live {
            for run in snapshot.owed().within(blocks) {
                let op =
                    self.ops.insert(Op::KeepFetched { snapshot: (id, snapshot.number), fetch, blocks: run });
                let range = snapshot.bytes_of(run);
                let data = DataRef::Fetch { op: fetch, at: range.offset() - start };
                out.push(Operation::KeepFetched { op, snapshot: id, range, data });
                count += 1;
            }
        }
        count
    }

    /// The source says that these blocks are zero: so is the side file where a snapshot is owed them.
    pub(super) fn snapshots_hear_zeroes(&mut self, blocks: Blocks) {
        for snapshot in self.snapshots.live.values_mut() {
            let owed: Vec<Blocks> = snapshot.owed().within(blocks).collect();
            for run in owed {
                snapshot.keep(run);
                self.hydration.heal(run);
                self.wake = true;
            }
        }
    }

    /// The source is given up, and with it what only it had.
    pub(super) fn lose_snapshots_that_need_the_source(&mut self, out: &mut Vec<Operation>) {
        let needs = self.snapshots.live.iter().filter(|(_, snapshot)| snapshot.needs_source(&self.truth));
        let lost: Vec<SnapshotId> = needs.map(|(&id, _)| id).collect();
        for id in lost {
            self.lose_snapshot(id, Errno::ENODATA, out);
        }
    }

    /// Takes the snapshots that were asked for, if no write is under way.
    pub(super) fn pump_snapshots(&mut self, out: &mut Vec<Operation>) {
        if self.snapshots.asked.is_empty() || self.writes_in_flight > 0 {
            return;
        }
        self.wake = true;
        let geometry = self.geometry();
        while let Some(id) = self.snapshots.asked.pop_front() {
            self.snapshots.taken += 1;
            let number = self.snapshots.taken;
            // Two may have asked for the same one.
            self.snapshots.live.entry(id).or_insert_with(|| Snapshot::new(number, geometry));
            out.push(Operation::Notice(Notice::SnapshotTaken { id }));
        }
    }
}
