//! Guest reads, and pieces: the parts of a request that each wait for one thing.
//!
//! A read of local blocks is one operation. Any other is cut into runs: local ones are read from the store, remote ones
//! wait for a fetch (an own one, or one that is under way or in a buffer already) or, where the guest itself is
//! writing, for that write; what a guest wrote and nobody after this process would know of waits too ([`super::notes`]).
//! Invariant: a read replies when its last piece has ended, so nothing touches its buffer then.

use crate::blockset::BlockSet;
use crate::event::{Errno, RequestId};
use crate::geometry::{Blocks, ByteRange};
use crate::limits::CACHE_BYTES_MAX;
use crate::operation::Operation;
use crate::truth::Residence;

use super::snapshot::SnapshotId;
use super::{Active, Engine, Op, Parked, Ticket, Until, Work, reply};

/// A read that is more than one operation.
#[derive(Debug)]
pub(super) struct Gather {
    range: ByteRange,
    of: Of,
    pub(super) pieces: u32,
    error: Option<Errno>,
}

/// What is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Of {
    Volume,
    /// The volume, but there is no buffer to fill.
    Cache,
    Snapshot(SnapshotId),
}

/// A part of a request that waits: bytes of a read, or the one block that a write covers in part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) ticket: Ticket,
    pub(super) range: ByteRange,
    /// How many fetches of it have failed.
    pub(super) attempts: u32,
}

impl Gather {
    /// Where the range's first byte goes in the request's buffer.
    pub(super) fn buffer_at(&self, range: ByteRange) -> u64 {
        range.offset() - self.range.offset()
    }

    pub(super) fn fills_buffer(&self) -> bool {
        self.of != Of::Cache
    }

    pub(super) fn snapshot(&self) -> Option<SnapshotId> {
        match self.of {
            Of::Snapshot(id) => Some(id),
            Of::Volume | Of::Cache => None,
        }
    }
}

impl Engine {
    pub(super) fn start_read(&mut self, id: RequestId, range: ByteRange, out: &mut Vec<Operation>) {
        let blocks = self.geometry().blocks_touched(range);
        let is_cold = !self.truth.covers(blocks);
        if !self.truth.is_complete() {
            self.ahead.guest_reads(range, is_cold, self.geometry());
        }
        if !is_cold && !self.durability.has_unknown(blocks) {
            let op = self.ops.insert(Op::ReadWhole { request: id, range });
            out.push(Operation::ReadLocal { op, range, request: id, at: 0 });
            return;
        }
        self.tally.cold_reads += u64::from(is_cold);
        self.gather(id, range, Of::Volume, out);
    }

    pub(super) fn start_cache(&mut self, id: RequestId, range: ByteRange, out: &mut Vec<Operation>) {
        let len = range.len_bytes().min(CACHE_BYTES_MAX);
        let range = ByteRange::new(range.offset(), len).expect("it is part of a range");
        if self.truth.covers(self.geometry().blocks_touched(range)) {
            return reply(id, Ok(()), out);
        }
        self.gather(id, range, Of::Cache, out);
    }

    pub(super) fn gather(&mut self, id: RequestId, range: ByteRange, of: Of, out: &mut Vec<Operation>) {
        let gather = Gather { range, of, pieces: 1, error: None };
        let ticket = self.admit(id, Work::Read(gather));
        self.plan_piece(Piece { ticket, range, attempts: 0 }, out);
    }

    /// Finds out what the piece waits for now; it may end, or fall into several.
    pub(super) fn plan_piece(&mut self, piece: Piece, out: &mut Vec<Operation>) {
        match self.requests.get(&piece.ticket).map(|active| &active.work) {
            Some(Work::Read(gather)) => {
                match (gather.error, gather.snapshot()) {
                    (Some(_), _) => {}
                    (None, Some(snapshot)) => self.plan_snapshot_read(piece, snapshot, out),
                    (None, None) => self.plan_read(piece, out),
                }
                self.end_piece(piece.ticket, Ok(()), out);
            }
            Some(Work::Write(_)) => self.plan_edge(piece),
            // A write that no longer needs its edges has gone ahead and may be over.
            None => {}
        }
    }

    fn plan_read(&mut self, piece: Piece, out: &mut Vec<Operation>) {
        let blocks = self.geometry().blocks_touched(piece.range);
        let runs: Vec<(Residence, Blocks)> = self.truth.runs(blocks).collect();
        for (residence, run) in runs {
            match residence {
                Residence::Local => self.plan_local(piece, run, out),
                Residence::Remote => self.plan_remote(piece, run, out),
            }
        }
    }

    /// What was being written meanwhile is read once more, when a server after this one would know of it.
    pub(super) fn whole_read(
        &mut self,
        request: RequestId,
        range: ByteRange,
        result: Result<(), Errno>,
        out: &mut Vec<Operation>,
    ) {
        if result.is_ok() && self.has_unknown(range) {
            return self.gather(request, range, Of::Volume, out);
        }
        reply(request, result, out);
    }

    /// As [`Engine::whole_read`].
    pub(super) fn piece_read(&mut self, piece: Piece, result: Result<(), Errno>, out: &mut Vec<Operation>) {
        if result.is_ok() && self.has_unknown(piece.range) {
            return self.plan_piece(piece, out);
        }
        self.end_piece(piece.ticket, result, out);
    }

    fn has_unknown(&self, range: ByteRange) -> bool {
        self.durability.has_unknown(self.geometry().blocks_touched(range))
    }

    /// A server after this one would know that these blocks are local: who waits to read them looks again.
    pub(super) fn became_known(&mut self, blocks: Blocks) {
        self.durability.unknown.remove(blocks);
        self.wake |= self.parked.iter().any(|parked| parked.until == Until::Known);
    }

    /// `run` is local; what only this process knows waits.
    fn plan_local(&mut self, piece: Piece, run: Blocks, out: &mut Vec<Operation>) {
        let mut known = BlockSet::new();
        known.insert(run);
        for unknown in self.durability.unknown(run).collect::<Vec<_>>() {
            known.remove(unknown);
            self.reader(piece.ticket).1.pieces += 1;
            self.parked.push(Parked { piece: self.part(piece, unknown), until: Until::Known });
        }
        for part in known.runs() {
            self.read_local(self.part(piece, part), out);
        }
    }

    fn read_local(&mut self, piece: Piece, out: &mut Vec<Operation>) {
        let (request, gather) = self.reader(piece.ticket);
        if !gather.fills_buffer() {
            return;
        }
        gather.pieces += 1;
        let at = gather.buffer_at(piece.range);
        let op = self.ops.insert(Op::ReadPiece { piece });
        out.push(Operation::ReadLocal { op, range: piece.range, request, at });
    }

    /// `run` is remote: whoever holds or fetches a part of it already is joined, the rest is asked for.
    pub(super) fn plan_remote(&mut self, piece: Piece, run: Blocks, out: &mut Vec<Operation>) {
        let mut at = run.first();
        while at < run.end() {
            let rest = Blocks::between(at, run.end()).expect("`at` is before the end");
            if let Some((fetch, blocks)) = self.fetches.over(at) {
                let part = blocks.intersect(rest).expect("the fetch is over `at`");
                if !self.copy_if_held(fetch, self.part(piece, part), out) {
                    self.reader(piece.ticket).1.pieces += 1;
                    let part = self.part(piece, part);
                    self.join_fetch(fetch, part);
                }
                at = part.end();
                continue;
            }
            let end = self.fetches.first_after(at).map_or(rest.end(), |first| first.min(rest.end()));
            let end = self.ask_end(piece, at, end.min(self.geometry().region_end(at)));
            let free = Blocks::between(at, end).expect("a fetch after `at` starts after it");
            self.reader(piece.ticket).1.pieces += 1;
            // What the guest is writing, or is about to, will be local in a moment.
            let mut busy = BlockSet::new();
            if !self.is_owed(piece.ticket, free) {
                busy = self.yielded_to_writes(free);
                self.locks.within(free).for_each(|locked| busy.insert(locked));
            }
            let locked = busy.runs().next();
            at = match locked {
                Some(locked) if locked.first() == at => {
                    let piece = self.part(piece, locked);
                    self.parked.push(Parked { piece, until: Until::Unlocked });
                    locked.end()
                }
                Some(locked) => {
                    let free = Blocks::between(at, locked.first()).expect("the lock starts after `at`");
                    self.ask(free, self.part(piece, free));
                    free.end()
                }
                None => {
                    self.ask(free, self.part(piece, free));
                    free.end()
                }
            };
        }
    }

    fn part(&self, piece: Piece, blocks: Blocks) -> Piece {
        let range =
            self.geometry().bytes_of(blocks).intersect(piece.range).expect("the blocks are of the piece");
        Piece { range, ..piece }
    }

    pub(super) fn reader(&mut self, ticket: Ticket) -> (RequestId, &mut Gather) {
        match self.requests.get_mut(&ticket) {
            Some(Active { id, work: Work::Read(gather), .. }) => (*id, gather),
            Some(Active { work: Work::Write(_), .. }) | None => {
                panic!("the caller has seen that this is a read")
            }
        }
    }

    /// A piece of a read has ended.
    pub(super) fn end_piece(&mut self, ticket: Ticket, result: Result<(), Errno>, out: &mut Vec<Operation>) {
        if let Err(errno) = result {
            self.give_up(ticket, errno);
        }
        let (request, gather) = self.reader(ticket);
        gather.pieces -= 1;
        if gather.pieces == 0 {
            let result = gather.error.map_or(Ok(()), Err);
            self.requests.remove(&ticket);
            reply(request, result, out);
        }
    }

    /// A read that fails waits for nothing any more, except for what touches its buffer.
    fn give_up(&mut self, ticket: Ticket, errno: Errno) {
        let waiting = self.forget_pieces(ticket);
        let (_, gather) = self.reader(ticket);
        gather.error.get_or_insert(errno);
        gather.pieces -= waiting;
    }

    /// Takes all pieces of a request from where they wait; gives how many there were.
    pub(super) fn forget_pieces(&mut self, ticket: Ticket) -> u32 {
        let parked = self.parked.extract_if(.., |parked| parked.piece.ticket == ticket).count();
        let joined = self.leave_fetches(ticket);
        self.wake |= joined > 0;
        u32::try_from(parked + joined).expect("pieces are counted in 32 bits")
    }

    pub(super) fn cancel(&mut self, id: RequestId, out: &mut Vec<Operation>) {
        if let Some((&ticket, _)) = self.requests.iter().find(|(_, active)| active.id == id) {
            self.fail_request(ticket, Errno::ECANCELED, out);
        }
    }

    /// A request waits for nothing any more; a write whose work in the store has begun is finished.
    pub(super) fn fail_request(&mut self, ticket: Ticket, errno: Errno, out: &mut Vec<Operation>) {
        match self.requests.get(&ticket).map(|active| &active.work) {
            Some(Work::Read(_)) => {
                // Held open by a piece of our own while the others are taken away.
                self.reader(ticket).1.pieces += 1;
                self.end_piece(ticket, Err(errno), out);
            }
            Some(Work::Write(put)) if put.is_writing() => {}
            Some(Work::Write(_)) => self.refuse_put(ticket, errno, out),
            None => {}
        }
    }
}
