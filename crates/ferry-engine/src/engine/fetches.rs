//! What is asked of the source: fetches, who waits for them, and keeping what they bring.
//!
//! ```text
//!            ┌──── connection lost ────┐
//!            ▼                         │
//!  ask ─▶ Queued ─▶ under way ─────────┤─▶ failed: those who wait try again by themselves, later
//!                       │              
//!                       ▼
//!                     Held: readers are answered, remote blocks that nobody writes are copied in ─▶ dropped
//! ```
//!
//! Invariant: fetches are disjoint, whatever their state.

use std::collections::{BTreeMap, VecDeque};

use crate::blockset::BlockSet;
use crate::event::{Arrival, Content, Errno, FetchFailure};
use crate::geometry::Blocks;
use crate::limits::FETCH_BACKOFF_MS;
use crate::operation::{DataRef, Notice, OpId, Operation, Urgency};

use super::reads::Piece;
use super::{Engine, Op, Parked, Ticket, Until, Work};

/// A fetch, from being asked for to its buffer being dropped.
#[derive(Debug)]
pub(super) struct Fetch {
    blocks: Blocks,
    purpose: Purpose,
    state: State,
    waiters: Vec<Piece>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Guest,
    /// A reader of a snapshot waits for it: after the guest's turn, and within the budget.
    Reader,
    /// Before a guest that reads in sequence asks.
    Ahead,
    /// With how many attempts of these blocks have failed before.
    Background {
        attempts: u32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Queued { not_before_ms: u64 },
    UnderWay { epoch: u64 },
    Held { copy_ins: u32 },
}

/// Where each fetch is.
#[derive(Debug)]
pub(super) struct Fetches {
    /// First block → block after the last one, and the fetch.
    by_first: BTreeMap<u64, (u64, OpId)>,
    /// The same blocks as a set.
    blocks: BlockSet,
    /// Fetches for the guest and for readers that are not under way.
    queue: VecDeque<OpId>,
    /// Of fetches for the guest that are under way or held.
    guest_bytes: u64,
    /// As above, for readers.
    reader_bytes: u64,
}

impl Fetches {
    pub(super) const fn new() -> Fetches {
        Fetches {
            by_first: BTreeMap::new(),
            blocks: BlockSet::new(),
            queue: VecDeque::new(),
            guest_bytes: 0,
            reader_bytes: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    pub(super) fn blocks(&self) -> &BlockSet {
        &self.blocks
    }

    /// Whether a fetch for the guest waits for its turn.
    pub(super) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether the guest waits for the source.
    pub(super) fn guest_waits(&self) -> bool {
        self.guest_bytes > 0 || !self.queue.is_empty()
    }

    /// The fetch that has this block.
    pub(super) fn over(&self, block: u64) -> Option<(OpId, Blocks)> {
        let (&first, &(end, op)) = self.by_first.range(..=block).next_back()?;
        Blocks::between(first, end).filter(|blocks| blocks.contains(block)).map(|blocks| (op, blocks))
    }

    /// Where the next fetch after this block begins.
    pub(super) fn first_after(&self, block: u64) -> Option<u64> {
        self.by_first.range(block + 1..).next().map(|(&first, _)| first)
    }

    fn insert(&mut self, blocks: Blocks, op: OpId) {
        assert!(!self.blocks.intersects(blocks), "{blocks} must not be fetched twice at a time");
        self.by_first.insert(blocks.first(), (blocks.end(), op));
        self.blocks.insert(blocks);
    }

    /// Of what somebody waits for: bytes under way or held.
    fn bytes_for(&mut self, purpose: Purpose) -> &mut u64 {
        match purpose {
            Purpose::Guest => &mut self.guest_bytes,
            Purpose::Reader => &mut self.reader_bytes,
            Purpose::Ahead | Purpose::Background { .. } => panic!("nobody waits for what is fetched unasked"),
        }
    }

    fn remove(&mut self, blocks: Blocks) {
        self.by_first.remove(&blocks.first());
        self.blocks.remove(blocks);
    }
}

impl Engine {
    /// Asks the source for these blocks, which are not being fetched, for the guest or a reader of a snapshot.
    pub(super) fn ask(&mut self, blocks: Blocks, piece: Piece) {
        let state = State::Queued { not_before_ms: 0 };
        let purpose = self.purpose_of(piece);
        let fetch = Fetch { blocks, purpose, state, waiters: vec![piece] };
        let op = self.ops.insert(Op::Fetch(Box::new(fetch)));
        self.fetches.insert(blocks, op);
        self.fetches.queue.push_back(op);
    }

    fn purpose_of(&self, piece: Piece) -> Purpose {
        if self.snapshot_of(piece.ticket).is_some() { Purpose::Reader } else { Purpose::Guest }
    }

    pub(super) fn fetch_in_background(&mut self, blocks: Blocks, attempts: u32, out: &mut Vec<Operation>) {
        self.fetch_unasked(blocks, Purpose::Background { attempts }, Urgency::Background, out);
    }

    pub(super) fn fetch_ahead(&mut self, blocks: Blocks, out: &mut Vec<Operation>) {
        self.fetch_unasked(blocks, Purpose::Ahead, Urgency::Ahead, out);
    }

    /// Fetches what nobody waits for (yet).
    fn fetch_unasked(
        &mut self,
        blocks: Blocks,
        purpose: Purpose,
        urgency: Urgency,
        out: &mut Vec<Operation>,
    ) {
        let state = State::UnderWay { epoch: self.source.epoch };
        let fetch = Fetch { blocks, purpose, state, waiters: Vec::new() };
        let op = self.ops.insert(Op::Fetch(Box::new(fetch)));
        self.fetches.insert(blocks, op);
        let range = self.geometry().bytes_of(blocks);
        self.budget.spend(range.len_bytes());
        out.push(Operation::Fetch { op, range, urgency });
    }

    /// Starts what the guest waits for, then what readers wait for.
    pub(super) fn pump_fetches(&mut self, out: &mut Vec<Operation>) {
        if !self.source.up || self.fetches.queue.is_empty() || self.is_abandoning() {
            return;
        }
        self.start_fetches(Purpose::Guest, Urgency::Guest, out);
        self.start_fetches(Purpose::Reader, Urgency::Ahead, out);
    }

    /// Starts what is queued for this purpose, oldest first, within its share of buffers.
    fn start_fetches(&mut self, purpose: Purpose, urgency: Urgency, out: &mut Vec<Operation>) {
        let mut later = VecDeque::new();
        while let Some(op) = self.fetches.queue.pop_front() {
            let (now_ms, epoch, geometry) = (self.now_ms, self.source.epoch, self.geometry());
            let fetch = self.fetch_mut(op);
            let range = geometry.bytes_of(fetch.blocks);
            match fetch.state {
                State::Queued { .. } if fetch.purpose != purpose => later.push_back(op),
                State::Queued { not_before_ms } if not_before_ms > now_ms => later.push_back(op),
                State::Queued { .. } => {
                    let under_way = self.fetches.bytes_for(purpose);
                    let bytes = *under_way + range.len_bytes();
                    let is_held_back = purpose == Purpose::Reader && !self.budget.allows();
                    if is_held_back || (*under_way > 0 && bytes > self.limits.guest_fetch_bytes_max) {
                        self.fetches.queue.push_front(op);
                        break;
                    }
                    *under_way = bytes;
                    self.budget.spend(range.len_bytes());
                    self.fetch_mut(op).state = State::UnderWay { epoch };
                    out.push(Operation::Fetch { op, range, urgency });
                }
                State::UnderWay { .. } | State::Held { .. } => panic!("what is queued is not under way"),
            }
        }
        // What must pause keeps its place before what came after it.
        while let Some(op) = later.pop_back() {
            self.fetches.queue.push_front(op);
        }
    }

    /// If the fetch has arrived, the piece (of a read) is answered from its buffer.
    pub(super) fn copy_if_held(&mut self, fetch: OpId, piece: Piece, out: &mut Vec<Operation>) -> bool {
        let held = self.fetch_is_held(fetch);
        if held {
            self.copy_fetched(fetch, piece, out);
        }
        held
    }

    pub(super) fn fetch_is_held(&self, op: OpId) -> bool {
        matches!(self.ops.get(op), Some(Op::Fetch(fetch)) if matches!(fetch.state, State::Held { .. }))
    }

    /// Whether the fetch has, or may get, a buffer.
    pub(super) fn fetch_is_out(&self, op: OpId) -> bool {
        matches!(self.ops.get(op), Some(Op::Fetch(fetch)) if !matches!(fetch.state, State::Queued { .. }))
    }

    pub(super) fn join_fetch(&mut self, fetch: OpId, piece: Piece) {
        let purpose = self.purpose_of(piece);
        let fetch = self.fetch_mut(fetch);
        if purpose == Purpose::Guest && matches!(fetch.state, State::Queued { .. }) {
            fetch.purpose = purpose;
        }
        fetch.waiters.push(piece);
    }

    /// Takes the pieces of a request out of all fetches; gives how many there were.
    pub(super) fn leave_fetches(&mut self, ticket: Ticket) -> usize {
        let ops: Vec<OpId> = self.fetches.by_first.values().map(|&(_, op)| op).collect();
        ops.into_iter()
            .map(|op| self.fetch_mut(op).waiters.extract_if(.., |piece| piece.ticket == ticket).count())
            .sum()
    }

    /// Fetches that are not under way are not needed any more when the guest has written their blocks meanwhile, or
    /// when whoever waited has given up: a guest that comes and goes must not make the queue grow.
    pub(super) fn dissolve_needless_fetches(&mut self, out: &mut Vec<Operation>) {
        let queued: Vec<OpId> = self.fetches.queue.iter().copied().collect();
        for op in queued {
            let fetch = self.fetch_mut(op);
            let (blocks, is_wanted) = (fetch.blocks, !fetch.waiters.is_empty());
            let is_owed = self.snapshots.owed_within(blocks).next().is_some();
            if is_wanted && (is_owed || !self.truth.covers(blocks)) {
                continue;
            }
            self.fetches.queue.retain(|&queued| queued != op);
            self.hydration.leave_behind();
            for piece in self.take_fetch(op).waiters {
                self.plan_piece(piece, out);
            }
        }
    }

    /// The requests that wait for a fetch, each as often as it has pieces.
    pub(super) fn fetch_waiters(&self) -> impl Iterator<Item = Ticket> + '_ {
        let fetches = self.fetches.by_first.values().filter_map(|&(_, op)| match self.ops.get(op) {
            Some(Op::Fetch(fetch)) => Some(fetch),
            _ => None,
        });
        fetches.flat_map(|fetch| fetch.waiters.iter().map(|piece| piece.ticket))
    }

    pub(super) fn take_fetch_waiters(&mut self) -> Vec<Piece> {
        let ops: Vec<OpId> = self.fetches.by_first.values().map(|&(_, op)| op).collect();
        ops.into_iter().flat_map(|op| std::mem::take(&mut self.fetch_mut(op).waiters)).collect()
    }

    pub(super) fn forget_reconnect_pauses(&mut self) {
        let queued: Vec<OpId> = self.fetches.queue.iter().copied().collect();
        for op in queued {
            self.fetch_mut(op).state = State::Queued { not_before_ms: 0 };
        }
        self.hydration.forget_reconnect_pause();
    }

    pub(super) fn fetched(
        &mut self,
        op: OpId,
        result: Result<Arrival, FetchFailure>,
        out: &mut Vec<Operation>,
    ) {
        if !matches!(result, Err(FetchFailure::Disconnected)) {
            self.loss.source_answered();
        }
        let fetch = self.fetch_mut(op);
        let State::UnderWay { epoch } = fetch.state else { panic!("a fetch is completed once") };
        match result {
            Ok(arrival) => self.arrived(op, arrival, out),
            Err(FetchFailure::Disconnected) => self.fetch_disconnected(op, epoch, out),
            Err(failure @ (FetchFailure::Errno(_) | FetchFailure::Checksum | FetchFailure::ShortSource)) => {
                self.fetch_failed(op, failure, out)
            }
        }
    }

    fn arrived(&mut self, op: OpId, arrival: Arrival, out: &mut Vec<Operation>) {
        let fetch = self.fetch_mut(op);
        fetch.state = State::Held { copy_ins: 0 };
        let (blocks, purpose) = (fetch.blocks, fetch.purpose);
        let waiters = std::mem::take(&mut fetch.waiters);
        let bytes = self.geometry().bytes_of(blocks).len_bytes();
        if arrival.verified {
            self.tally.bytes_verified += bytes;
        }
        match purpose {
            Purpose::Guest | Purpose::Reader | Purpose::Ahead => {}
            Purpose::Background { .. } => self.hydration.source_gave(),
        }
        let mut edges = Vec::new();
        for piece in waiters {
            match self.requests.get(&piece.ticket).map(|active| &active.work) {
                Some(Work::Read(_)) => {
                    match arrival.content {
                        Content::Data => self.copy_fetched(op, piece, out),
                        Content::Zeroes => self.zero_buffer(piece, out),
                    }
                    self.end_piece(piece.ticket, Ok(()), out);
                }
                Some(Work::Write(_)) => edges.push(piece),
                None => {}
            }
        }
        match arrival.content {
            Content::Data => {
                self.tally.bytes_fetched += bytes - arrival.bytes_from_base;
                self.tally.bytes_from_base += arrival.bytes_from_base;
                self.keep(op, out);
            }
            Content::Zeroes => {
                self.claim_zeroes(blocks, out);
                self.drop_if_idle(op, out);
            }
        }
        // A write may go on when the block that it covers in part has been kept.
        self.parked.extend(edges.into_iter().map(|piece| Parked { piece, until: Until::Unlocked }));
        self.wake = true;
    }

    /// Copies in what is still remote and not being written by the guest.
    fn keep(&mut self, op: OpId, out: &mut Vec<Operation>) {
        let blocks = self.fetch_mut(op).blocks;
        let kept_for_snapshots = self.keep_for_snapshots(op, blocks, out);
        self.fetch_mut(op).state = State::Held { copy_ins: kept_for_snapshots };
        let yielded = self.yielded_to_writes(blocks);
        let remote: Vec<Blocks> = self.truth.remote_runs(blocks).collect();
        let free = remote.into_iter().flat_map(|run| self.locks.gaps(run));
        let runs: Vec<Blocks> = free.flat_map(|run| yielded.gaps(run)).collect();
        if self.durability.failed().is_some() || self.is_abandoning() {
            return self.drop_if_idle(op, out);
        }
        for run in runs {
            self.lock(run);
            let copy_in = self.ops.insert(Op::CopyIn { fetch: op, blocks: run });
            let range = self.geometry().bytes_of(run);
            let at = range.offset() - self.geometry().bytes_of(blocks).offset();
            out.push(Operation::WriteLocal { op: copy_in, range, data: DataRef::Fetch { op, at } });
            match &mut self.fetch_mut(op).state {
                State::Held { copy_ins } => *copy_ins += 1,
                State::Queued { .. } | State::UnderWay { .. } => panic!("it has just arrived"),
            }
        }
        self.drop_if_idle(op, out);
    }

    pub(super) fn copied_in(
        &mut self,
        fetch: OpId,
        blocks: Blocks,
        result: Result<(), Errno>,
        out: &mut Vec<Operation>,
    ) {
        self.unlock(blocks);
        match result {
            Ok(()) => {
                self.hydration.store_kept();
                self.became_local(blocks);
            }
            Err(errno) => self.keep_failed(blocks, errno, out),
        }
        self.copy_ended(fetch, out);
    }

    /// A part of what was fetched is kept, in the store or for a snapshot, or cannot be.
    pub(super) fn copy_ended(&mut self, fetch: OpId, out: &mut Vec<Operation>) {
        match &mut self.fetch_mut(fetch).state {
            State::Held { copy_ins } => *copy_ins -= 1,
            State::Queued { .. } | State::UnderWay { .. } => panic!("copy-ins come from what has arrived"),
        }
        self.drop_if_idle(fetch, out);
    }

    /// The store refused to keep what the source gave; whoever needs it kept hears it.
    pub(super) fn keep_failed(&mut self, blocks: Blocks, errno: Errno, out: &mut Vec<Operation>) {
        self.became_torn(blocks);
        self.tally.keep_errors += 1;
        self.hydration.store_refused(self.now_ms);
        out.push(Operation::Notice(Notice::KeepFailed { range: self.geometry().bytes_of(blocks), errno }));
        self.refuse_edges(blocks, errno, out);
    }

    fn fetch_disconnected(&mut self, op: OpId, epoch: u64, out: &mut Vec<Operation>) {
        // Lost on a connection that nobody has called down: wait a little, so as not to spin.
        let is_news = self.source.up && epoch == self.source.epoch;
        let not_before_ms = if is_news { self.now_ms + FETCH_BACKOFF_MS } else { 0 };
        let mut fetch = self.take_fetch(op);
        match fetch.purpose {
            purpose @ (Purpose::Guest | Purpose::Reader) => {
                let blocks = fetch.blocks;
                *self.fetches.bytes_for(purpose) -= self.geometry().bytes_of(blocks).len_bytes();
                fetch.state = State::Queued { not_before_ms };
                let op = self.ops.insert(Op::Fetch(fetch));
                self.fetches.insert(blocks, op);
                self.fetches.queue.push_front(op);
                self.wake = true;
            }
            Purpose::Ahead => {
                self.ahead.ended(self.geometry().bytes_of(fetch.blocks).len_bytes());
                self.hydration.leave_behind();
                for piece in fetch.waiters {
                    self.plan_piece(piece, out);
                }
            }
            Purpose::Background { attempts } => {
                self.hydration.disconnected(fetch.blocks, attempts, not_before_ms);
                for piece in fetch.waiters {
                    self.plan_piece(piece, out);
                }
            }
        }
    }

    fn fetch_failed(&mut self, op: OpId, failure: FetchFailure, out: &mut Vec<Operation>) {
        let fetch = self.take_fetch(op);
        let range = self.geometry().bytes_of(fetch.blocks);
        self.count_failure(failure);
        out.push(Operation::Notice(Notice::SourceFailed { range, failure }));
        match fetch.purpose {
            purpose @ (Purpose::Guest | Purpose::Reader) => {
                *self.fetches.bytes_for(purpose) -= range.len_bytes();
                self.hydration.guest_was_refused(fetch.blocks, self.now_ms);
            }
            Purpose::Ahead => {
                self.ahead.ended(range.len_bytes());
                self.hydration.leave_behind();
            }
            Purpose::Background { attempts } => {
                self.hydration.source_refused(fetch.blocks, attempts + 1, self.now_ms);
            }
        }
        self.suspect(fetch.blocks);
        for piece in fetch.waiters {
            self.retry_piece(fetch.blocks, piece, out);
        }
    }

    fn copy_fetched(&mut self, fetch: OpId, piece: Piece, out: &mut Vec<Operation>) {
        let start = self.geometry().bytes_of(self.fetch_mut(fetch).blocks).offset();
        let (request, gather) = self.reader(piece.ticket);
        if gather.fills_buffer() {
            let (at, len) = (piece.range.offset() - start, piece.range.len_bytes());
            let request_at = gather.buffer_at(piece.range);
            out.push(Operation::CopyFetched { fetch, at, request, request_at, len });
        }
    }

    fn zero_buffer(&mut self, piece: Piece, out: &mut Vec<Operation>) {
        let (request, gather) = self.reader(piece.ticket);
        if gather.fills_buffer() {
            let at = gather.buffer_at(piece.range);
            out.push(Operation::ZeroBuffer { request, at, len: piece.range.len_bytes() });
        }
    }

    fn drop_if_idle(&mut self, op: OpId, out: &mut Vec<Operation>) {
        if self.fetch_mut(op).state != (State::Held { copy_ins: 0 }) {
            return;
        }
        let fetch = self.take_fetch(op);
        match fetch.purpose {
            purpose @ (Purpose::Guest | Purpose::Reader) => {
                *self.fetches.bytes_for(purpose) -= self.geometry().bytes_of(fetch.blocks).len_bytes();
            }
            Purpose::Ahead => self.ahead.ended(self.geometry().bytes_of(fetch.blocks).len_bytes()),
            Purpose::Background { .. } => self.hydration.fetch_ended(),
        }
        self.wake = true;
        out.push(Operation::DropFetch { fetch: op });
    }

    fn take_fetch(&mut self, op: OpId) -> Box<Fetch> {
        match self.ops.remove(op) {
            Some(Op::Fetch(fetch)) => {
                self.fetches.remove(fetch.blocks);
                fetch
            }
            _ => panic!("a fetch's name names a fetch"),
        }
    }

    fn fetch_mut(&mut self, op: OpId) -> &mut Fetch {
        match self.ops.get_mut(op) {
            Some(Op::Fetch(fetch)) => fetch,
            _ => panic!("a fetch's name names a fetch"),
        }
    }
}
