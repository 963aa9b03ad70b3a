//! Readers of snapshots. A part that is in the store is read there, while no write of it begins; one that is at the source
//! is fetched, as for the guest but after it, and kept.

use crate::event::{Errno, RequestId};
use crate::geometry::{Blocks, ByteRange};
use crate::operation::{OpId, Operation};

use super::{Keeping, SnapshotId};
use crate::engine::reads::{Of, Piece};
use crate::engine::{Engine, Op, Ticket, Work, reply};

impl Engine {
    pub(in crate::engine) fn read_snapshot(
        &mut self,
        request: RequestId,
        id: SnapshotId,
        range: ByteRange,
        out: &mut Vec<Operation>,
    ) {
        let Some(found) = self.snapshots.live.get(&id) else {
            return reply(request, Err(Errno::ESHUTDOWN), out);
        };
        if range.end() > found.size_bytes() {
            return reply(request, Err(Errno::EINVAL), out);
        }
        self.gather(request, range, Of::Snapshot(id), out);
    }

    pub(in crate::engine) fn plan_snapshot_read(
        &mut self,
        piece: Piece,
        id: SnapshotId,
        out: &mut Vec<Operation>,
    ) {
        let snapshot = self.snapshots.live.get(&id).expect("readers end with their snapshot");
        let runs: Vec<(ByteRange, Keeping)> = snapshot.runs(&self.truth, piece.range).collect();
        for (range, keeping) in runs {
            let part = Piece { range, ..piece };
            match keeping {
                Keeping::Remote => {
                    let blocks = self.geometry().blocks_touched(range);
                    self.plan_remote(part, blocks, out);
                }
                Keeping::Shared | Keeping::Kept => self.read_snapshot_part(part, id, keeping, out),
            }
        }
    }

    fn read_snapshot_part(
        &mut self,
        piece: Piece,
        snapshot: SnapshotId,
        keeping: Keeping,
        out: &mut Vec<Operation>,
    ) {
        let range = piece.range;
        let op = self.ops.insert(Op::SnapshotPiece { ticket: piece.ticket });
        let (request, gather) = self.reader(piece.ticket);
        gather.pieces += 1;
        let at = gather.buffer_at(range);
        if keeping == Keeping::Kept {
            return out.push(Operation::ReadKept { op, snapshot, range, request, at });
        }
        self.snapshots.store_reads.insert(op, (snapshot, range));
        out.push(Operation::ReadLocal { op, range, request, at });
    }

    pub(in crate::engine) fn snapshot_piece_read(
        &mut self,
        op: OpId,
        ticket: Ticket,
        result: Result<(), Errno>,
        out: &mut Vec<Operation>,
    ) {
        self.wake |= self.snapshots.store_reads.remove(&op).is_some();
        self.end_piece(ticket, result, out);
    }

    /// Whether a piece still waits for something that only the source has.
    pub(in crate::engine) fn needs_the_source(&self, piece: Piece) -> bool {
        let blocks = self.geometry().blocks_touched(piece.range);
        match self.snapshot_of(piece.ticket).and_then(|id| self.snapshots.live.get(&id)) {
            Some(snapshot) => {
                snapshot.runs(&self.truth, piece.range).any(|(_, keeping)| keeping == Keeping::Remote)
            }
            None => !self.truth.covers(blocks),
        }
    }

    /// The snapshot that a request reads, if it reads one.
    pub(in crate::engine) fn snapshot_of(&self, ticket: Ticket) -> Option<SnapshotId> {
        match self.requests.get(&ticket).map(|active| &active.work) {
            Some(Work::Read(gather)) => gather.snapshot(),
            Some(Work::Write(_)) | None => None,
        }
    }

    /// Whether these blocks, which a piece needs from the source, are the guest's by now: then no write of them is waited for.
    pub(in crate::engine) fn is_owed(&self, ticket: Ticket, blocks: Blocks) -> bool {
        let snapshot = self.snapshot_of(ticket).and_then(|id| self.snapshots.live.get(&id));
        snapshot.is_some_and(|snapshot| snapshot.owed().gaps(blocks).is_empty())
    }

    /// The readers of a snapshot that is gone get an error; nobody waits for them.
    pub(super) fn end_readers(&mut self, id: SnapshotId, out: &mut Vec<Operation>) {
        self.snapshots.store_reads.retain(|_, (snapshot, _)| *snapshot != id);
        let readers: Vec<Ticket> =
            self.requests.keys().copied().filter(|&ticket| self.snapshot_of(ticket) == Some(id)).collect();
        for ticket in readers {
            self.fail_request(ticket, Errno::ESHUTDOWN, out);
        }
    }
}
