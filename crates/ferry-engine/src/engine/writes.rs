//! Guest writes, trims and zeroes.
//!
//! A write of local blocks is one operation. Any other waits, without holding anything, until
//! 1. the blocks that it covers only in part (its edges) are local: they are fetched and kept first,
//! 2. nothing else writes to its blocks, and
//! 3. no snapshot shares them ([`super::snapshot`]);
//!
//! then it locks its blocks and is one operation, too. Blocks that it covers whole are never fetched. Invariant: a
//! locked write that succeeds makes all its blocks local; one that fails leaves those that were remote torn.

use crate::blockset::BlockSet;
use crate::event::{Command, Errno, RequestId, RequestKind};
use crate::geometry::{Blocks, ByteRange};
use crate::map::Phase;
use crate::operation::{DataRef, OpId, Operation};

use super::reads::Piece;
use super::{Active, Engine, Op, Parked, Ticket, Until, Work, reply};

/// A write, trim or zeroing that is more than one operation.
#[derive(Debug)]
pub(super) struct Put {
    range: ByteRange,
    blocks: Blocks,
    deed: PutDeed,
    fua: bool,
    stage: Stage,
}

/// What is done to the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PutDeed {
    Write,
    Zero { punch: bool },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Not planned yet.
    Fresh,
    /// So many edges are being fetched.
    Edges {
        missing: u32,
    },
    /// Something else writes to its blocks.
    Blocked,
    /// A snapshot is about to be taken, or still shares its blocks.
    Held,
    /// The map does not say yet that its blocks may change.
    Unlisted,
    Writing,
}

impl Put {
    pub(super) fn is_writing(&self) -> bool {
        self.stage == Stage::Writing
    }

    /// It has all that it needs, and what it waits for is under way in the store or the map.
    fn only_waits_for_its_turn(&self) -> bool {
        matches!(self.stage, Stage::Blocked | Stage::Held | Stage::Unlisted)
    }

    pub(super) fn blocks(&self) -> Blocks {
        self.blocks
    }

    /// The blocks at either end that the range covers only in part.
    fn edges(&self, engine: &Engine) -> impl Iterator<Item = u64> {
        let covered = engine.geometry().blocks_covered(self.range);
        let (first, last) = (self.blocks.first(), self.blocks.end() - 1);
        let partial = move |block: u64| !covered.is_some_and(|blocks| blocks.contains(block));
        let second = (last != first && partial(last)).then_some(last);
        partial(first).then_some(first).into_iter().chain(second)
    }
}

impl Engine {
    pub(super) fn start_write(&mut self, id: RequestId, kind: RequestKind, out: &mut Vec<Operation>) {
        if let Some(errno) = self.write_refusal() {
            return reply(id, Err(errno), out);
        }
        let (range, deed, fua) = match kind {
            RequestKind::Write { range, fua } => (range, PutDeed::Write, fua),
            RequestKind::WriteZeroes { range, fua, no_hole } => {
                (range, PutDeed::Zero { punch: !no_hole }, fua)
            }
            RequestKind::Trim { range, fua } => {
                // A trim is a hint: what it covers only in part stays as it is. What it covers is settled now: a short
                // last block may become longer while it waits.
                let Some(covered) = self.geometry().blocks_covered(range) else {
                    return reply(id, Ok(()), out);
                };
                (self.geometry().bytes_of(covered), PutDeed::Zero { punch: true }, fua)
            }
            RequestKind::Read { .. }
            | RequestKind::ReadSnapshot { .. }
            | RequestKind::Cache { .. }
            | RequestKind::Flush => {
                panic!("the caller has seen that this is a write")
            }
        };
        let blocks = self.geometry().blocks_touched(range);
        if self.truth.covers(blocks) && self.snapshots_admit(range, blocks, out) && self.dirty.admits(blocks)
        {
            self.dirty.change(blocks);
            self.durability.guest_writes(blocks);
            let op = self.ops.insert(Op::WriteWhole { request: id, blocks, fua });
            self.writes_in_flight += 1;
            out.push(put_operation(op, id, range, deed));
            return;
        }
        let put = Put { range, blocks, deed, fua, stage: Stage::Fresh };
        let ticket = self.admit(id, Work::Write(put));
        self.plan_write(ticket, out);
    }

    pub(super) fn write_refusal(&self) -> Option<Errno> {
        match self.phase {
            Phase::Standby => Some(Errno::ESHUTDOWN),
            Phase::Sealed => Some(Errno::EPERM),
            Phase::Open if self.deeds.contains(&Command::Seal) => Some(Errno::EPERM),
            Phase::Open => self.durability.failed().map(|_| Errno::EIO),
        }
    }

    /// Waiting writes look again, oldest first.
    pub(super) fn replan_writes(&mut self, out: &mut Vec<Operation>) {
        let waiting: Vec<Ticket> = self.waiting_puts().map(|(ticket, _)| ticket).collect();
        for ticket in waiting {
            self.plan_write(ticket, out);
        }
    }

    /// Asks for what the write misses, or lets it wait, or starts it.
    fn plan_write(&mut self, ticket: Ticket, out: &mut Vec<Operation>) {
        let put = self.put(ticket);
        let (range, blocks, stage) = (put.range, put.blocks, put.stage);
        let is_listed = self.dirty.admits(blocks);
        let put = self.put(ticket);
        let missing: Vec<u64> = put.edges(self).filter(|&block| !self.truth.is_local(block)).collect();
        if !missing.is_empty() {
            if matches!(stage, Stage::Edges { missing } if missing > 0) {
                return;
            }
            let count = u32::try_from(missing.len()).expect("a range has two edges");
            self.put_mut(ticket).stage = Stage::Edges { missing: count };
            for block in missing {
                let range = self.geometry().bytes_of(Blocks::one(block));
                self.plan_edge(Piece { ticket, range, attempts: 0 });
            }
            return;
        }
        if !self.truth.covers(blocks) && (self.locks.intersects(blocks) || self.is_abandoning()) {
            self.put_mut(ticket).stage = Stage::Blocked;
            return;
        }
        if !self.snapshots_admit(range, blocks, out) {
            self.put_mut(ticket).stage = Stage::Held;
            return;
        }
        if !is_listed {
            self.put_mut(ticket).stage = Stage::Unlisted;
            return;
        }
        self.put_in_store(ticket, out);
    }

    fn put_in_store(&mut self, ticket: Ticket, out: &mut Vec<Operation>) {
        let (request, put) = self.writer(ticket);
        let (blocks, range, deed, fua) = (put.blocks, put.range, put.deed, put.fua);
        put.stage = Stage::Writing;
        self.dirty.change(blocks);
        self.writes_in_flight += 1;
        let op = if self.truth.covers(blocks) {
            self.requests.remove(&ticket);
            self.durability.guest_writes(blocks);
            self.ops.insert(Op::WriteWhole { request, blocks, fua })
        } else {
            self.lock(blocks);
            self.owe_to_snapshots(blocks);
            self.ops.insert(Op::WriteLocked { ticket })
        };
        out.push(put_operation(op, request, range, deed));
    }

    /// The block that a write covers in part must be kept; `piece` is the whole block.
    pub(super) fn plan_edge(&mut self, piece: Piece) {
        let block = self.geometry().blocks_touched(piece.range).first();
        if self.truth.is_local(block) {
            return self.edge_ended(piece.ticket);
        }
        if self.put(piece.ticket).is_writing() {
            return;
        }
        let one = Blocks::one(block);
        let fetch = self.fetches.over(block).map(|(fetch, _)| fetch);
        match fetch {
            // Whoever writes there, or is about to, will make it local.
            _ if self.locks.intersects(one) || !self.yielded_to_writes(one).is_empty() => {
                self.park_unlocked(piece);
            }
            // It has arrived, but lost against another write: look again when the buffer is gone.
            Some(fetch) if self.fetch_is_held(fetch) => self.park_unlocked(piece),
            Some(fetch) => self.join_fetch(fetch, piece),
            None => self.ask(one, piece),
        }
    }

    fn park_unlocked(&mut self, piece: Piece) {
        self.parked.push(Parked { piece, until: Until::Unlocked });
    }

    fn edge_ended(&mut self, ticket: Ticket) {
        match &mut self.put_mut(ticket).stage {
            Stage::Edges { missing } => *missing = missing.saturating_sub(1),
            Stage::Fresh | Stage::Blocked | Stage::Held | Stage::Unlisted | Stage::Writing => {}
        }
        self.wake = true;
    }

    /// Of these blocks, those that all others leave to a guest's write that only waits for its turn. Without this a
    /// trim of the whole volume would wait until all of it is hydrated. Nobody waits for each other: what such a
    /// write waits for is under way in the store or the map.
    pub(super) fn yielded_to_writes(&self, blocks: Blocks) -> BlockSet {
        let mut yielded = BlockSet::new();
        for (_, put) in self.waiting_puts().filter(|(_, put)| put.only_waits_for_its_turn()) {
            put.blocks.intersect(blocks).into_iter().for_each(|part| yielded.insert(part));
        }
        yielded
    }

    /// Writes that need one of these blocks kept, which the store has just refused to do.
    pub(super) fn refuse_edges(&mut self, blocks: Blocks, errno: Errno, out: &mut Vec<Operation>) {
        let needs =
            |put: &Put| put.edges(self).any(|edge| blocks.contains(edge) && !self.truth.is_local(edge));
        let refused: Vec<Ticket> =
            self.waiting_puts().filter(|(_, put)| needs(put)).map(|(ticket, _)| ticket).collect();
        for ticket in refused {
            self.refuse_put(ticket, errno, out);
        }
    }

    /// Refuses all writes that have not touched the store.
    pub(super) fn refuse_waiting_puts(&mut self, errno: Errno, out: &mut Vec<Operation>) {
        let waiting: Vec<Ticket> = self.waiting_puts().map(|(ticket, _)| ticket).collect();
        for ticket in waiting {
            self.refuse_put(ticket, errno, out);
        }
    }

    /// Refuses the writes that only wait for the map.
    pub(super) fn refuse_unlisted_puts(&mut self, errno: Errno, out: &mut Vec<Operation>) {
        let unlisted = |put: &Put| put.stage == Stage::Unlisted;
        let refused: Vec<Ticket> =
            self.waiting_puts().filter(|(_, put)| unlisted(put)).map(|(ticket, _)| ticket).collect();
        for ticket in refused {
            self.refuse_put(ticket, errno, out);
        }
    }

    pub(super) fn refuse_put(&mut self, ticket: Ticket, errno: Errno, out: &mut Vec<Operation>) {
        assert!(!self.put(ticket).is_writing(), "a write under way ends by itself");
        self.forget_pieces(ticket);
        let active = self.requests.remove(&ticket).expect("it waits");
        // Copy-ins and readers that made way for it look again.
        self.hydration.leave_behind();
        self.wake = true;
        reply(active.id, Err(errno), out);
    }

    pub(super) fn locked_written(
        &mut self,
        ticket: Ticket,
        result: Result<(), Errno>,
        out: &mut Vec<Operation>,
    ) {
        let (request, put) = self.writer(ticket);
        let (blocks, fua) = (put.blocks, put.fua);
        self.requests.remove(&ticket);
        self.writes_in_flight -= 1;
        self.unlock(blocks);
        if let Err(errno) = result {
            self.became_torn(blocks);
            self.hydration.leave_behind();
            return reply(request, Err(errno), out);
        }
        self.tally.bytes_claimed_by_guest += self.became_local(blocks);
        self.durability.guest_writes(blocks);
        self.written(request, blocks, fua, out);
    }

    pub(super) fn whole_written(
        &mut self,
        request: RequestId,
        blocks: Blocks,
        fua: bool,
        result: Result<(), Errno>,
        out: &mut Vec<Operation>,
    ) {
        self.writes_in_flight -= 1;
        match result {
            Ok(()) => self.written(request, blocks, fua, out),
            Err(errno) => reply(request, Err(errno), out),
        }
    }

    fn written(&mut self, request: RequestId, blocks: Blocks, fua: bool, out: &mut Vec<Operation>) {
        let is_news = self.durability.guest_wrote(blocks);
        match (fua, is_news) {
            (true, _) => self.start_flush(request, out),
            (false, true) => self.note_and_reply(request, blocks, out),
            (false, false) => reply(request, Ok(()), out),
        }
    }

    fn waiting_puts(&self) -> impl Iterator<Item = (Ticket, &Put)> {
        self.requests.iter().filter_map(|(&ticket, active)| match &active.work {
            Work::Write(put) if !put.is_writing() => Some((ticket, put)),
            Work::Write(_) | Work::Read(_) => None,
        })
    }

    pub(super) fn put(&self, ticket: Ticket) -> &Put {
        match self.requests.get(&ticket) {
            Some(Active { work: Work::Write(put), .. }) => put,
            Some(Active { work: Work::Read(_), .. }) | None => {
                panic!("the caller has seen that this is a write")
            }
        }
    }

    fn writer(&mut self, ticket: Ticket) -> (RequestId, &mut Put) {
        match self.requests.get_mut(&ticket) {
            Some(Active { id, work: Work::Write(put), .. }) => (*id, put),
            Some(Active { work: Work::Read(_), .. }) | None => {
                panic!("the caller has seen that this is a write")
            }
        }
    }

    fn put_mut(&mut self, ticket: Ticket) -> &mut Put {
        self.writer(ticket).1
    }
}

fn put_operation(op: OpId, request: RequestId, range: ByteRange, deed: PutDeed) -> Operation {
    match deed {
        PutDeed::Write => Operation::WriteLocal { op, range, data: DataRef::Request { id: request, at: 0 } },
        PutDeed::Zero { punch } => Operation::ZeroLocal { op, range, punch },
    }
}
