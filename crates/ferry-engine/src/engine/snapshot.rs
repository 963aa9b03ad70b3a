//! Snapshots: a volume as it was at one instant, for readers, while its guest writes on.
//!
//! ```text
//!  guest's write ─▶ touches what a snapshot still shares? ──no──▶ writes, as ever
//!                     │ yes: held
//!                     ▼
//!                  KeepLocal (store ─▶ the snapshot's side file), reads of it from the store end ──▶ writes
//! ```
//!
//! A snapshot is taken when no write is under way in the store: those that come meanwhile are held, too. What a guest's
//! write would overwrite is kept first, in units of [`KEEP_BYTES`]; a reader gets what was kept from the side file and the
//! rest from the store. Only a volume that is all local has snapshots, so nothing but the guest writes there. Invariants:
//! - a unit that is not kept has in the store what it had when the snapshot was taken;
//! - no write is under way in a range that a reader of a snapshot reads from the store;
//! - the guest comes first: if a unit cannot be kept, the snapshot is lost, loudly, and the write goes on.
//!
//! A snapshot is not durable: it ends with the engine.

use std::collections::{BTreeMap, VecDeque};

use crate::blockmap::Bitmap;
use crate::event::{Command, Errno, RequestId, RequestKind};
use crate::geometry::ByteRange;
use crate::limits::{KEEP_BYTES, SNAPSHOTS_MAX};
use crate::map::Phase;
use crate::operation::{Notice, Operation, Refusal};

use super::{Engine, Op, reply};

/// Names a snapshot for as long as it lives; whoever takes it chooses (a ULID as a number).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SnapshotId(pub u128);

/// Where a part of a snapshot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeping {
    /// In the store, as it was.
    Shared,
    /// In the snapshot's side file.
    Kept,
}

/// All snapshots of a volume, and who waits because of them.
#[derive(Debug)]
pub(super) struct Snapshots {
    live: BTreeMap<SnapshotId, Snapshot>,
    /// How many were taken: a name may come back, what is under way for the one before is not for this one.
    taken: u64,
    /// To be taken as soon as no write is under way.
    asked: VecDeque<SnapshotId>,
    /// Guest writes that wait, oldest first.
    held: VecDeque<(RequestId, RequestKind)>,
    reads: BTreeMap<RequestId, Reading>,
    /// Something ended that somebody may have waited for.
    look_again: bool,
}

#[derive(Debug)]
struct Snapshot {
    number: u64,
    size_bytes: u64,
    /// Units that are in the side file.
    kept: Bitmap,
    /// Units that are, or are on their way there.
    begun: Bitmap,
}

/// A read of a snapshot.
#[derive(Debug)]
struct Reading {
    snapshot: SnapshotId,
    number: u64,
    /// What is read from the store.
    from_store: Vec<ByteRange>,
    pieces: u32,
    error: Option<Errno>,
}

impl Snapshots {
    pub(super) const fn new() -> Snapshots {
        Snapshots {
            live: BTreeMap::new(),
            taken: 0,
            asked: VecDeque::new(),
            held: VecDeque::new(),
            reads: BTreeMap::new(),
            look_again: false,
        }
    }

    fn is_idle(&self) -> bool {
        self.live.is_empty() && self.asked.is_empty() && self.held.is_empty()
    }

    fn is_live(&self, id: SnapshotId, number: u64) -> bool {
        self.live.get(&id).is_some_and(|snapshot| snapshot.number == number)
    }

    fn is_read_from_store(&self, range: ByteRange) -> bool {
        let overlaps = |part: &ByteRange| part.intersect(range).is_some();
        self.reads.values().any(|read| {
            // Readers of a snapshot that is gone get an error: nobody waits for them.
            self.is_live(read.snapshot, read.number) && read.from_store.iter().any(overlaps)
        })
    }
}

impl Snapshot {
    fn new(number: u64, size_bytes: u64) -> Snapshot {
        let units = size_bytes.div_ceil(KEEP_BYTES);
        Snapshot { number, size_bytes, kept: Bitmap::new(units), begun: Bitmap::new(units) }
    }

    /// The units that a range touches; none beyond the snapshot's end.
    fn units(&self, range: ByteRange) -> Option<(u64, u64)> {
        let end = range.end().min(self.size_bytes);
        (range.offset() < end).then(|| (range.offset() / KEEP_BYTES, end.div_ceil(KEEP_BYTES)))
    }

    fn bytes(&self, first: u64, end: u64) -> ByteRange {
        ByteRange::between(first * KEEP_BYTES, (end * KEEP_BYTES).min(self.size_bytes))
            .expect("a run of units is not empty")
    }

    fn runs(&self, range: ByteRange) -> impl Iterator<Item = (ByteRange, Keeping)> + '_ {
        let (mut at, end) = self.units(range).unwrap_or((0, 0));
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let kept = self.kept.get(at);
            let reach = self.kept.next(at, !kept, end);
            let part = self.bytes(at, reach).intersect(range).expect("the units are of the range");
            at = reach;
            Some((part, if kept { Keeping::Kept } else { Keeping::Shared }))
        })
    }

    /// The runs of these units that nobody keeps yet; from now on somebody does.
    fn begin(&mut self, first: u64, end: u64) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        let mut at = self.begun.next(first, false, end);
        while at < end {
            let reach = self.begun.next(at, true, end);
            runs.push((at, reach));
            at = self.begun.next(reach, false, end);
        }
        runs.iter().for_each(|&(at, reach)| self.begun.set(at, reach));
        runs
    }
}

impl Engine {
    /// The parts of a range of a snapshot, in order, each as long as can be; cut at the snapshot's end. None if there is
    /// no such snapshot.
    pub fn snapshot(
        &self,
        snapshot: SnapshotId,
        range: ByteRange,
    ) -> Option<impl Iterator<Item = (ByteRange, Keeping)> + '_> {
        self.snapshots.live.get(&snapshot).map(|found| found.runs(range))
    }

    /// The snapshots there are, each with its size in bytes.
    pub fn snapshots(&self) -> impl Iterator<Item = (SnapshotId, u64)> + '_ {
        self.snapshots.live.iter().map(|(&id, snapshot)| (id, snapshot.size_bytes))
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
            Phase::Open | Phase::Sealed if !self.truth.is_complete() => Some(Refusal::NotComplete),
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
        self.snapshots.live.remove(&id);
        self.snapshots.look_again = true;
        out.push(Operation::Notice(Notice::SnapshotForgotten { id }));
    }

    /// Whether a guest's write must wait for a snapshot. If so, it is taken care of.
    pub(super) fn hold_write(&mut self, id: RequestId, kind: RequestKind, out: &mut Vec<Operation>) -> bool {
        if self.snapshots.is_idle() || self.write_refusal().is_some() || !self.must_wait(kind, out) {
            return false;
        }
        self.snapshots.held.push_back((id, kind));
        true
    }

    /// Whether a write must still wait; begins to keep what it would overwrite.
    fn must_wait(&mut self, kind: RequestKind, out: &mut Vec<Operation>) -> bool {
        let (RequestKind::Write { range, .. }
        | RequestKind::Trim { range, .. }
        | RequestKind::WriteZeroes { range, .. }) = kind
        else {
            return false;
        };
        if !self.snapshots.asked.is_empty() {
            return true;
        }
        let mut waits = self.snapshots.is_read_from_store(range);
        for (&id, snapshot) in &mut self.snapshots.live {
            let Some((first, end)) = snapshot.units(range) else { continue };
            waits |= snapshot.kept.next(first, false, end) < end;
            for (first, end) in snapshot.begin(first, end) {
                let op = self.ops.insert(Op::Keep { snapshot: id, number: snapshot.number, first, end });
                out.push(Operation::KeepLocal { op, snapshot: id, range: snapshot.bytes(first, end) });
            }
        }
        waits
    }

    pub(super) fn kept(
        &mut self,
        (id, number): (SnapshotId, u64),
        (first, end): (u64, u64),
        result: Result<(), Errno>,
        out: &mut Vec<Operation>,
    ) {
        self.snapshots.look_again = true;
        let live = self.snapshots.live.get_mut(&id);
        let Some(snapshot) = live.filter(|snapshot| snapshot.number == number) else { return };
        match result {
            Ok(()) => snapshot.kept.set(first, end),
            Err(errno) => {
                self.snapshots.live.remove(&id);
                out.push(Operation::Notice(Notice::SnapshotLost { id, errno }));
            }
        }
    }

    pub(super) fn read_snapshot(
        &mut self,
        request: RequestId,
        snapshot: SnapshotId,
        range: ByteRange,
        out: &mut Vec<Operation>,
    ) {
        let Some(found) = self.snapshots.live.get(&snapshot) else {
            return reply(request, Err(Errno::ESHUTDOWN), out);
        };
        if range.end() > found.size_bytes {
            return reply(request, Err(Errno::EINVAL), out);
        }
        let mut reading =
            Reading { snapshot, number: found.number, from_store: Vec::new(), pieces: 0, error: None };
        for (part, keeping) in found.runs(range) {
            reading.pieces += 1;
            let op = self.ops.insert(Op::SnapshotPiece { request });
            let at = part.offset() - range.offset();
            out.push(match keeping {
                Keeping::Kept => Operation::ReadKept { op, snapshot, range: part, request, at },
                Keeping::Shared => {
                    reading.from_store.push(part);
                    Operation::ReadLocal { op, range: part, request, at }
                }
            });
        }
        self.snapshots.reads.insert(request, reading);
    }

    pub(super) fn snapshot_piece_read(
        &mut self,
        request: RequestId,
        result: Result<(), Errno>,
        out: &mut Vec<Operation>,
    ) {
        let reading = self.snapshots.reads.get_mut(&request).expect("it waits for its pieces");
        reading.error = reading.error.or(result.err());
        reading.pieces -= 1;
        if reading.pieces > 0 {
            return;
        }
        let reading = self.snapshots.reads.remove(&request).expect("it was just there");
        self.snapshots.look_again = true;
        // What was read from the store means nothing once nobody keeps writers away.
        let gone = (!self.snapshots.is_live(reading.snapshot, reading.number)).then_some(Errno::ESHUTDOWN);
        reply(request, reading.error.or(gone).map_or(Ok(()), Err), out);
    }

    /// Takes the snapshots that were asked for, if no write is under way, and lets go on who may.
    pub(super) fn pump_snapshots(&mut self, out: &mut Vec<Operation>) {
        if self.snapshots.is_idle() {
            return;
        }
        if !self.snapshots.asked.is_empty() && self.writes_in_flight == 0 && !self.has_waiting_puts() {
            self.snapshots.look_again = true;
            let size_bytes = self.geometry().size_bytes();
            while let Some(id) = self.snapshots.asked.pop_front() {
                self.snapshots.taken += 1;
                let number = self.snapshots.taken;
                // Two may have asked for the same one.
                self.snapshots.live.entry(id).or_insert_with(|| Snapshot::new(number, size_bytes));
                out.push(Operation::Notice(Notice::SnapshotTaken { id }));
            }
        }
        if !std::mem::take(&mut self.snapshots.look_again) {
            return;
        }
        for (id, kind) in std::mem::take(&mut self.snapshots.held) {
            if self.must_wait(kind, out) {
                self.snapshots.held.push_back((id, kind));
            } else {
                self.start_write(id, kind, out);
            }
        }
    }

    /// Answers a held write without carrying it out. Tells whether it was one.
    pub(super) fn drop_held_write(&mut self, id: RequestId, errno: Errno, out: &mut Vec<Operation>) -> bool {
        let found = self.snapshots.held.iter().position(|(held, _)| *held == id);
        found.and_then(|at| self.snapshots.held.remove(at)).is_some_and(|(id, _)| {
            reply(id, Err(errno), out);
            true
        })
    }

    /// Refuses all held writes.
    pub(super) fn refuse_held_writes(&mut self, errno: Errno, out: &mut Vec<Operation>) {
        for (id, _) in std::mem::take(&mut self.snapshots.held) {
            reply(id, Err(errno), out);
        }
    }
}
