//! The engine: decides, for every event, what must be done.
//!
//! ```text
//!  guest ──▶ reads ───▶ fetches ◀─── hydration        a fetch belongs to whoever asked first; others join it
//!    │         │           │
//!    │         ▼           ▼ copy-in
//!    └─────▶ writes ──▶ [ locks ] ──▶ truth ──▶ durability ──▶ map
//! ```
//!
//! What is remote is written under a lock of its blocks, so that a copy-in and a guest's write never meet: a copy-in
//! leaves out what is locked (it loses), a guest's write waits for the copy-ins that have begun. What is local is
//! written without a lock, since nothing but the guest writes there. Invariants:
//! - locked blocks are being written to the store, and at least one of them was remote when the lock was taken;
//! - fetches are disjoint; a block is fetched again only if the last fetch failed or could not be kept;
//! - `torn` blocks are remote and the store may hold garbage there: they turn local only by being written whole.

mod abandon;
mod adopt;
mod ahead;
mod as_is;
mod bad;
mod budget;
mod dirty;
mod durability;
mod fetches;
mod finish;
mod growth;
mod guard;
mod hot;
mod hydration;
mod loss;
mod notes;
mod phases;
mod reads;
mod sick;
mod snapshot;
mod writes;

use std::collections::{BTreeMap, VecDeque};

use crate::blockset::BlockSet;
use crate::event::{Command, Errno, Event, RequestId, RequestKind};
use crate::geometry::{BLOCK_BYTES, Blocks, ByteRange, Geometry};
use crate::heat::Heat;
use crate::limits::{BUDGET_BURST_MS, GUARD_TICK_MS, Limits, TICK_MS};
use crate::map::{MapState, Phase};
use crate::operation::{OpId, Operation};
use crate::slab::Slab;
use crate::status::EngineStatus;
use crate::truth::{Residence, Truth};

use ahead::Ahead;
use bad::Bad;
use budget::Budget;
use dirty::Dirty;
use durability::Durability;
use fetches::{Fetch, Fetches};
use finish::Finish;
use guard::Guard;
use hot::Hottest;
use hydration::Hydration;
use loss::Loss;
use reads::{Gather, Piece};
use snapshot::Snapshots;
pub use snapshot::{Keeping, SnapshotId};
use writes::Put;

/// One volume's engine.
#[derive(Debug)]
pub struct Engine {
    limits: Limits,
    truth: Truth,
    phase: Phase,
    has_source: bool,
    /// What the source must hold, in bytes; see [`MapState::source_bytes`].
    source_bytes: u64,
    /// What the volume is about to be, which the map says already.
    growth: Option<Geometry>,
    /// Every block is local and the map says so.
    complete: bool,
    now_ms: u64,
    source: Source,
    ops: Slab<Op>,
    /// Requests that are more than one operation. In order of arrival.
    requests: BTreeMap<Ticket, Active>,
    next_ticket: u64,
    parked: Vec<Parked>,
    locks: BlockSet,
    torn: BlockSet,
    fetches: Fetches,
    hydration: Hydration,
    bad: Bad,
    loss: Loss,
    ahead: Ahead,
    budget: Budget,
    guard: Guard,
    finish: Finish,
    hottest: Hottest,
    /// What the guest touches.
    heat: Heat,
    durability: Durability,
    snapshots: Snapshots,
    dirty: Dirty,
    deeds: VecDeque<Command>,
    /// Guest writes, trims and zeroes that are under way in the store.
    writes_in_flight: u64,
    /// A lock was released or blocks became local, so that those who wait should look again.
    wake: bool,
    tally: Tally,
}

/// The engine's own name for a request; unlike the shell's, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Ticket(u64);

#[derive(Debug)]
struct Active {
    id: RequestId,
    since_ms: u64,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Read(Gather),
    Write(Put),
}

/// What an operation under way is for.
#[derive(Debug)]
enum Op {
    /// A read of local blocks only.
    ReadWhole {
        request: RequestId,
        range: ByteRange,
    },
    /// The local part of a read.
    ReadPiece {
        piece: Piece,
    },
    /// A write, trim or zeroing of local blocks only.
    WriteWhole {
        request: RequestId,
        blocks: Blocks,
        fua: bool,
    },
    /// A write, trim or zeroing under lock.
    WriteLocked {
        ticket: Ticket,
    },
    /// Keeps a part of what was fetched. Under lock.
    CopyIn {
        fetch: OpId,
        blocks: Blocks,
    },
    /// Zeroes torn blocks that the source says are zero. Under lock.
    ZeroTorn {
        blocks: Blocks,
    },
    Fetch(Box<Fetch>),
    /// Zeroes torn blocks before the source is given up. Under lock.
    ZeroAbandoned {
        blocks: Blocks,
    },
    Query {
        blocks: Blocks,
        epoch: u64,
    },
    /// Copies a part of the store to a snapshot's side file.
    Keep {
        snapshot: (SnapshotId, u64),
        blocks: Blocks,
    },
    /// Keeps a part of what was fetched in a snapshot's side file.
    KeepFetched {
        snapshot: (SnapshotId, u64),
        fetch: OpId,
        blocks: Blocks,
    },
    /// A part of a read of a snapshot, in the store or in the side file.
    SnapshotPiece {
        ticket: Ticket,
    },
    Sync,
    Persist,
    /// Notes that blocks which a write touched are local; the write is answered then.
    Note {
        request: RequestId,
        blocks: Blocks,
    },
}

/// A piece of a request that waits for something other than a fetch.
#[derive(Debug)]
struct Parked {
    piece: Piece,
    until: Until,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Until {
    /// Its blocks are not being written any more.
    Unlocked,
    /// A server after this one would know that they are local.
    Known,
    /// This time.
    Ms(u64),
}

#[derive(Debug)]
struct Source {
    up: bool,
    /// Rises with each `SourceUp`: tells a loss that is being repaired from one that is news.
    epoch: u64,
}

/// Counters for the status.
#[derive(Debug, Default)]
struct Tally {
    bytes_fetched: u64,
    bytes_from_base: u64,
    bytes_zero_skipped: u64,
    bytes_claimed_by_guest: u64,
    bytes_verified: u64,
    bytes_read_ahead: u64,
    cold_reads: u64,
    fetch_errors: u64,
    checksum_errors: u64,
    keep_errors: u64,
}

impl Engine {
    /// An engine for the volume that `map` describes. The source counts as down until [`Event::SourceUp`].
    ///
    /// Before this, the shell has punched everything that the data file holds in remote ranges: after a crash it may
    /// hold what no bit vouches for. Where it cannot, [`Engine::store_may_hold_anything`] follows.
    #[must_use]
    pub fn new(map: MapState, limits: Limits) -> Engine {
        Engine {
            limits,
            complete: map.truth.is_complete(),
            budget: Budget::none(map.truth.geometry().region_bytes(), BUDGET_BURST_MS),
            guard: Guard::none(map.truth.geometry()),
            finish: Finish::none(),
            hottest: Hottest::new(),
            heat: Heat::new(),
            truth: map.truth,
            phase: map.phase,
            has_source: map.has_source,
            source_bytes: map.source_bytes,
            growth: None,
            now_ms: 0,
            source: Source { up: false, epoch: 0 },
            ops: Slab::new(),
            requests: BTreeMap::new(),
            next_ticket: 0,
            parked: Vec::new(),
            locks: BlockSet::new(),
            torn: BlockSet::new(),
            fetches: Fetches::new(),
            hydration: Hydration::new(),
            bad: Bad::new(),
            loss: Loss::new(map.has_source),
            ahead: Ahead::new(),
            durability: Durability::new(),
            snapshots: Snapshots::new(),
            dirty: Dirty::new(map.marks),
            deeds: VecDeque::new(),
            writes_in_flight: 0,
            wake: false,
            tally: Tally::default(),
        }
    }

    /// The store may hold anything where blocks are remote: it is on a device, which does not tell what is a hole, or was copied
    /// into while it stood by, and zeroing all of it would keep the guest waiting. What is zero is written when the source has said so.
    pub fn store_may_hold_anything(&mut self) {
        self.became_torn(self.geometry().all_blocks());
    }

    /// Takes one event and appends to `out` what must be done, in order.
    ///
    /// # Panics
    /// If the shell breaks a rule of [`crate::event`], such as completing an operation twice.
    pub fn handle(&mut self, event: Event, out: &mut Vec<Operation>) {
        match event {
            Event::Request { id, kind } => self.request(id, kind, out),
            Event::Cancel { id } => self.cancel(id, out),
            Event::Done { op, result } => self.done(op, result, out),
            Event::Fetched { op, result } => self.fetched(op, result, out),
            Event::Extents { op, result } => self.extents(op, result, out),
            Event::SourceUp => {
                self.source.up = true;
                self.source.epoch += 1;
                self.forget_reconnect_pauses();
            }
            Event::SourceDown => {
                self.source.up = false;
                self.loss.source_went(self.now_ms);
            }
            Event::Tick { now_ms } => {
                self.now_ms = self.now_ms.max(now_ms);
                self.budget.fill(self.now_ms);
                self.tell_bad(out);
                self.guard.fill(self.now_ms);
                self.fail_overdue(out);
                self.keep_to_finish();
                self.replan_due(out);
            }
            Event::SourceHeat { hot } => self.heard_heat(hot),
            Event::GuestWaited { p99_us } => self.guard.heard(p99_us, self.now_ms),
            Event::Command(command) => self.command(command, out),
        }
        self.settle(out);
    }

    /// The volume's geometry.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.truth.geometry()
    }

    /// What the source must hold, in bytes: less than the volume's size once it has grown.
    #[must_use]
    pub const fn source_bytes(&self) -> u64 {
        self.source_bytes
    }

    /// Which parts of the range are local, in order, each as long as can be.
    pub fn truth(&self, range: ByteRange) -> impl Iterator<Item = (ByteRange, Residence)> + '_ {
        self.truth.byte_runs(range)
    }

    /// Numbers for a person.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        let bytes_total = self.geometry().size_bytes();
        let bytes_local = self.truth.bytes_local();
        EngineStatus {
            bytes_total,
            bytes_local,
            bytes_remote: bytes_total - bytes_local,
            bytes_unpersisted: self.durability.blocks_unpersisted() * BLOCK_BYTES,
            bytes_fetched: self.tally.bytes_fetched,
            bytes_from_base: self.tally.bytes_from_base,
            bytes_zero_skipped: self.tally.bytes_zero_skipped,
            bytes_claimed_by_guest: self.tally.bytes_claimed_by_guest,
            bytes_verified: self.tally.bytes_verified,
            bytes_read_ahead: self.tally.bytes_read_ahead,
            cold_reads: self.tally.cold_reads,
            fetch_errors: self.tally.fetch_errors,
            checksum_errors: self.tally.checksum_errors,
            keep_errors: self.tally.keep_errors,
            bytes_sick: self.hydration.sick_blocks() * BLOCK_BYTES,
            bytes_bad: self.bad.block_count() * BLOCK_BYTES,
            bad_ranges: self.bad.range_count(),
            in_flight: self.ops.len() as u64,
            hot_ranges: self.hottest.len(),
            waiting_for_source: self.waiting_for_source().len() as u64,
            phase: self.phase,
            source_up: self.source.up,
            source_away_ms: self.source_away_ms(),
            loss_policy: self.loss.policy(),
            paused: self.hydration.is_paused(),
            budget_bytes_per_s: self.budget.bytes_per_s(),
            guard_us: self.guard.bound_us(),
            guard_bytes_per_s: self.guard.holds_back_to(),
            complete: self.complete,
            persist_failed: self.durability.persist_failed(),
            store_failed: self.durability.failed().is_some(),
            store_read_only: self.durability.failed() == Some(Errno::EROFS),
        }
    }

    /// Whether anything waits for time to pass. While this is false the shell may sleep until the next event.
    #[must_use]
    pub fn wants_tick(&self) -> bool {
        !self.complete || !self.parked.is_empty() || self.dirty.has_wishes()
    }

    /// How often time should be told while [`Engine::wants_tick`], in milliseconds.
    #[must_use]
    pub fn tick_ms(&self) -> u64 {
        if self.guard.is_on_watch() && self.may_hydrate() { GUARD_TICK_MS } else { TICK_MS }
    }

    fn request(&mut self, id: RequestId, kind: RequestKind, out: &mut Vec<Operation>) {
        let range = match kind {
            RequestKind::Read { range }
            | RequestKind::Write { range, .. }
            | RequestKind::Trim { range, .. }
            | RequestKind::WriteZeroes { range, .. }
            | RequestKind::Cache { range }
            | RequestKind::ReadSnapshot { range, .. } => Some(range),
            RequestKind::Flush => None,
        };
        if range.is_some_and(|range| !self.geometry().holds(range)) {
            return reply(id, Err(Errno::EINVAL), out);
        }
        if self.phase == Phase::Standby {
            return reply(id, Err(Errno::ESHUTDOWN), out);
        }
        self.guard.guest_asks();
        self.feel(kind);
        match kind {
            RequestKind::Read { range } => self.start_read(id, range, out),
            RequestKind::Cache { range } => self.start_cache(id, range, out),
            RequestKind::Flush => self.start_flush(id, out),
            RequestKind::ReadSnapshot { snapshot, range } => self.read_snapshot(id, snapshot, range, out),
            RequestKind::Write { .. } | RequestKind::Trim { .. } | RequestKind::WriteZeroes { .. } => {
                self.start_write(id, kind, out);
            }
        }
    }

    fn done(&mut self, op: OpId, result: Result<(), Errno>, out: &mut Vec<Operation>) {
        match self.ops.remove(op).expect("an operation is completed once") {
            Op::ReadWhole { request, range } => self.whole_read(request, range, result, out),
            Op::ReadPiece { piece } => self.piece_read(piece, result, out),
            Op::WriteWhole { request, blocks, fua } => self.whole_written(request, blocks, fua, result, out),
            Op::WriteLocked { ticket } => self.locked_written(ticket, result, out),
            Op::CopyIn { fetch, blocks } => self.copied_in(fetch, blocks, result, out),
            Op::ZeroTorn { blocks } => self.torn_zeroed(blocks, result, out),
            Op::ZeroAbandoned { blocks } => self.abandoned_zeroed(blocks, result, out),
            Op::Keep { snapshot, blocks } => self.kept(snapshot, blocks, result, out),
            Op::KeepFetched { snapshot, fetch, blocks } => {
                self.kept(snapshot, blocks, result, out);
                self.copy_ended(fetch, out);
            }
            Op::SnapshotPiece { ticket } => self.snapshot_piece_read(op, ticket, result, out),
            Op::Sync => self.synced(result, out),
            Op::Persist => self.persisted(result, out),
            Op::Note { request, blocks } => self.note_ended(request, blocks, result, out),
            Op::Fetch(_) => panic!("a fetch is completed by `Fetched`"),
            Op::Query { .. } => panic!("a query is completed by `Extents`"),
        }
    }

    /// Whatever can go on now, goes on.
    fn settle(&mut self, out: &mut Vec<Operation>) {
        self.grow_if_nothing_hinders(out);
        loop {
            self.pump_snapshots(out);
            if std::mem::take(&mut self.wake) {
                self.replan(out);
            }
            self.pump_fetches(out);
            self.pump_ahead(out);
            self.pump_hydration(out);
            if !self.wake {
                break;
            }
        }
        self.pump_abandon(out);
        self.pump_commit(out);
        self.pump_persist(out);
        self.announce_completion(out);
    }

    /// Those who waited for a lock or for blocks to become local look again.
    fn replan(&mut self, out: &mut Vec<Operation>) {
        self.replan_writes(out);
        self.dissolve_needless_fetches(out);
        let (ready, waiting): (Vec<Parked>, Vec<Parked>) = std::mem::take(&mut self.parked)
            .into_iter()
            .partition(|parked| parked.until == Until::Unlocked || !self.needs_the_source(parked.piece));
        self.parked = waiting;
        for parked in ready {
            self.plan_piece(parked.piece, out);
        }
    }

    /// Those whose pause is over try again.
    fn replan_due(&mut self, out: &mut Vec<Operation>) {
        let now_ms = self.now_ms;
        let due: Vec<Parked> = self
            .parked
            .extract_if(.., |parked| match parked.until {
                Until::Ms(due_ms) => due_ms <= now_ms,
                Until::Unlocked | Until::Known => false,
            })
            .collect();
        for parked in due {
            self.plan_piece(parked.piece, out);
        }
    }

    fn admit(&mut self, id: RequestId, work: Work) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.requests.insert(ticket, Active { id, since_ms: self.now_ms, work });
        ticket
    }

    /// The store holds these blocks now. Gives how many bytes were remote until now.
    fn became_local(&mut self, blocks: Blocks) -> u64 {
        let turned = self.truth.mark_local(blocks);
        if turned.is_empty() {
            return 0;
        }
        self.complete = false;
        self.wake = true;
        self.torn.remove(blocks);
        self.bad.heal(blocks);
        self.hydration.heal(blocks);
        let mut bytes = 0;
        for run in turned {
            bytes += self.geometry().bytes_of(run).len_bytes();
            self.durability.add(run, self.now_ms);
        }
        bytes
    }

    /// The store may hold anything in those of these blocks that are remote.
    fn became_torn(&mut self, blocks: Blocks) {
        for run in self.truth.remote_runs(blocks) {
            self.torn.insert(run);
        }
    }

    fn lock(&mut self, blocks: Blocks) {
        assert!(!self.locks.intersects(blocks), "{blocks} must not be locked twice");
        self.locks.insert(blocks);
    }

    fn unlock(&mut self, blocks: Blocks) {
        self.locks.remove(blocks);
        self.wake = true;
    }
}

fn reply(request: RequestId, result: Result<(), Errno>, out: &mut Vec<Operation>) {
    out.push(Operation::Reply { request, result });
}
