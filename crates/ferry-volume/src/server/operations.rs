//! What the engine wants done, done; and what the source found, told to the engine.

use super::Server;
use super::disk::Disk;
use super::doors::Door;
use super::source::{Failure, FetchEnd, Outcome};
use super::sources::Sources;
use crate::SourceUri;
use crate::buffer::Buffer;
use crate::control::Phase;
use crate::heat;
use crate::ring::Ring;
use ferry_engine::{
    Arrival, ByteRange, Command, Content, DataRef, Errno, Event, FetchFailure, Notice, OpId, Operation,
    RequestId, SourceExtent, Urgency,
};

/// What arrived from the source and is not dropped yet.
#[derive(Clone)]
pub(super) struct Fetched {
    buffer: Buffer,
    /// Where in the buffer the fetched range begins.
    lead: usize,
    urgency: Urgency,
}

/// What arrived and shall be kept in the store.
pub(super) struct CopyIn {
    op: OpId,
    range: ByteRange,
    buffer: Buffer,
    at: usize,
    /// It stays in the page cache.
    cached: bool,
}

impl Server {
    /// Tells the engine something and does what it wants. What happens meanwhile is told after that, since
    /// operations must be executed in the order in which they were given.
    pub(super) fn feed(&mut self, event: Event) {
        self.inbox.push_back(event);
        if self.feeding {
            return;
        }
        self.feeding = true;
        while let Some(event) = self.inbox.pop_front() {
            let mut operations = std::mem::take(&mut self.operations);
            self.engine.handle(event, &mut operations);
            for operation in operations.drain(..) {
                self.execute(operation);
            }
            self.operations = operations;
            self.with_sources(|_, _| {});
        }
        self.feeding = false;
    }

    fn execute(&mut self, operation: Operation) {
        match operation {
            Operation::ReadLocal { op, range, request, at } => {
                let buffer = self.request_buffer(request);
                if let Some((op, result)) = self.disk().read(op, range, buffer, at as usize) {
                    self.inbox.push_back(Event::Done { op, result });
                }
            }
            Operation::WriteLocal { op, range, data: DataRef::Request { id, at } } => {
                let buffer = self.request_buffer(id);
                if let Some((op, result)) = self.disk().write(op, range, buffer, at as usize) {
                    self.inbox.push_back(Event::Done { op, result });
                }
            }
            Operation::WriteLocal { op, range, data: DataRef::Fetch { op: fetch, at } } => {
                let Fetched { buffer, lead, urgency } = self.fetched(fetch);
                let cached = urgency != Urgency::Background;
                self.to_keep.push(CopyIn { op, range, buffer, at: lead + at as usize, cached });
            }
            Operation::ZeroLocal { op, range, punch } => self.disk().zero(op, range, punch),
            Operation::SyncLocal { op } => {
                self.sync_arrivals(op);
                self.disk().sync(op);
            }
            Operation::KeepLocal { op, snapshot, range } => self.keep(op, snapshot, range),
            Operation::KeepFetched { op, snapshot, range, data } => {
                let DataRef::Fetch { op: fetch, at } = data else {
                    unreachable!("a snapshot is given what came from the source")
                };
                let Fetched { buffer, lead, .. } = self.fetched(fetch);
                self.keep_fetched(op, snapshot, range, buffer, lead + at as usize);
            }
            Operation::ReadKept { op, snapshot, range, request, at } => {
                let buffer = self.request_buffer(request);
                self.read_kept(op, snapshot, range, buffer, at as usize);
            }
            Operation::Persist { op, records } => self.persist(op, records),
            Operation::ZeroBuffer { request, at, len } => {
                self.request_buffer(request).zero(at as usize, len as usize);
            }
            Operation::CopyFetched { fetch, at, request, request_at, len } => {
                let Fetched { buffer: from, lead, .. } = self.fetched(fetch);
                let to = self.request_buffer(request);
                to.copy_from(request_at as usize, &from, lead + at as usize, len as usize);
            }
            Operation::DropFetch { fetch } => {
                self.fetched.remove(&fetch.as_u64());
            }
            Operation::Fetch { op, range, urgency } => {
                self.sources.fetch(op, range, urgency, &self.pool, &mut self.ring);
            }
            Operation::QuerySource { op, range } => {
                self.sources.query(op, range, &self.pool, &mut self.ring);
            }
            Operation::Note { op, blocks } => self.note(op, blocks),
            Operation::Reply { request, result } => self.reply(request, result),
            Operation::Notice(notice) => self.notice(notice),
        }
    }

    /// Keeps what arrived. Those who waited for it have been answered before: a copy can take longer than their answer.
    pub(super) fn keep_what_came(&mut self) {
        for CopyIn { op, range, buffer, at, cached } in std::mem::take(&mut self.to_keep) {
            if let Some((op, result)) = self.disk().copy_in(op, range, buffer, at, cached) {
                self.feed(Event::Done { op, result });
            }
        }
    }

    fn notice(&mut self, notice: Notice) {
        // A source that fails says so at each try; what comes of it is said once.
        if matches!(notice, Notice::SourceFailed { .. } | Notice::SourceBad { .. }) {
            tracing::debug!(?notice, "volume");
        } else {
            tracing::info!(?notice, "volume");
        }
        match notice {
            Notice::Opened => self.follow_source(),
            Notice::Unsealed => {
                // Its guest is back, and whoever reads it is not.
                self.hold_hydration(false);
                // What they read would change under them from now on.
                self.close_connections(Door::Reader);
                self.forget_sealed_sums();
                self.follow_source();
            }
            Notice::HydrationComplete => self.ask_for_gaps(),
            Notice::SourceDetached => self.source_detached(),
            Notice::Grown { size_bytes } => self.grown(size_bytes),
            Notice::Sealed => self.begin_sealed_sums(),
            Notice::SourceAbandoned => self.source_abandoned(),
            Notice::CommandFailed { command: Command::AbandonSource, .. } => self.forget_losses(),
            Notice::CommandRefused { .. } | Notice::CommandFailed { .. } => {}
            Notice::SnapshotTaken { .. } | Notice::SnapshotForgotten { .. } | Notice::SnapshotLost { .. } => {
            }
            Notice::Adopted | Notice::Marked { .. } | Notice::MarkForgotten { .. } => {}
            Notice::SourceBad { range } => self.say_bad(range),
            Notice::SourceFailed { .. } | Notice::KeepFailed { .. } | Notice::PersistFailed { .. } => {}
            Notice::StoreFailed { .. } => self.store.notes.forsake(),
        }
        self.follow_snapshots(&notice);
        self.follow_growth(&notice);
        self.answer_commanded(&notice);
        if notice == Notice::Sealed {
            heat::keep(&self.store.dir, self.engine.heat());
        }
        if matches!(notice, Notice::Opened | Notice::Unsealed | Notice::Sealed) {
            self.follow_frontends();
        }
    }

    pub(super) fn disk(&mut self) -> Disk<'_> {
        let Self { ring, store, pool, inline, writeback, turns, .. } = self;
        Disk { ring, store, pool, inline, writeback, turns }
    }

    fn request_buffer(&self, request: RequestId) -> Buffer {
        let asked = self.requests.get(&request.0).expect("the engine names requests until it replied");
        asked.buffer.clone().expect("the engine touches buffers of reads and writes only")
    }

    fn fetched(&self, fetch: OpId) -> Fetched {
        self.fetched.get(&fetch.as_u64()).expect("the engine names a fetch until it drops it").clone()
    }

    /// Lets something happen at the sources and tells the engine what came of it.
    pub(super) fn with_sources(&mut self, act: impl FnOnce(&mut Sources, &mut Ring<super::Purpose>)) {
        act(&mut self.sources, &mut self.ring);
        let outcomes = self.sources.settle(&self.pool, &mut self.ring);
        // The background stops before it hears of a source, and goes on when all else has been heard.
        let waits = self.sources.wait_for_base();
        if waits {
            self.wait_for_base(waits);
        }
        for outcome in outcomes {
            match outcome {
                Outcome::Summed { op, end } => self.gap_told(op, end),
                Outcome::Up => {
                    self.feed(Event::SourceUp);
                    self.ask_for_gaps();
                }
                Outcome::Joined => self.ask_for_gaps(),
                Outcome::Down => self.feed(Event::SourceDown),
                // They are the sources' own affair.
                Outcome::Differences(_) => {}
                Outcome::Heat(hot) => self.feed(Event::SourceHeat { hot }),
                Outcome::Extents { op, offset, end } => {
                    let event = self.extents_found(op, offset, end);
                    self.feed(event);
                }
                Outcome::Fetched { op, range, end } => {
                    let event = self.fetch_ended(op, range, end);
                    self.feed(event);
                }
            }
        }
        if !waits {
            self.wait_for_base(waits);
        }
    }

    fn extents_found(&mut self, op: OpId, offset: u64, end: Result<Vec<SourceExtent>, Failure>) -> Event {
        if let Ok(extents) = &end {
            self.note_extents(offset, extents);
        }
        Event::Extents { op, result: end.map_err(failure) }
    }

    fn fetch_ended(&mut self, op: OpId, range: ByteRange, end: FetchEnd) -> Event {
        let result = match end {
            FetchEnd::Failed(why) => Err(failure(why)),
            FetchEnd::Mismatch { came } => {
                self.ledger.suspects.came_wrong(range, came);
                Err(FetchFailure::Checksum)
            }
            FetchEnd::Zeroes { verified } => {
                self.ledger.suspects.forget(range);
                self.note_zeroes(range);
                Ok(Arrival { content: Content::Zeroes, verified, bytes_from_base: 0 })
            }
            FetchEnd::Data { buffer, lead, crc32c, verified, urgency, bytes_from_base } => {
                self.ledger.suspects.forget(range);
                self.note_arrival(range, &buffer, lead, crc32c);
                self.fetched.insert(op.as_u64(), Fetched { buffer, lead, urgency });
                Ok(Arrival { content: Content::Data, verified, bytes_from_base })
            }
        };
        Event::Fetched { op, result }
    }

    /// Connects to the sources that the volume's description names, if it still needs any.
    pub(super) fn follow_source(&mut self) {
        let is_needed = !self.engine.status().complete || self.ledger.arrivals.lacks_sums();
        if self.store.config.source.is_none() || !is_needed || self.phase() == Phase::Standby {
            return;
        }
        let uris: Vec<SourceUri> = self.store.config.sources().cloned().collect();
        let wanted_bytes = self.engine.source_bytes();
        let base = self.store.config.base.clone();
        self.with_sources(|sources, _| sources.follow(&uris, base.as_ref(), wanted_bytes));
    }

    /// Disconnects from all sources.
    pub(super) fn leave_source(&mut self) {
        self.with_sources(|sources, _| sources.follow(&[], None, 0));
    }
}

fn failure(why: Failure) -> FetchFailure {
    match why {
        Failure::Disconnected => FetchFailure::Disconnected,
        Failure::Checksum => FetchFailure::Checksum,
        Failure::Errno(errno) => FetchFailure::Errno(Errno(errno)),
    }
}
