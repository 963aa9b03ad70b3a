//! Small worlds, searched exhaustively: three blocks, two or three requests, and every order of completions, with one
//! operation that fails, one connection that breaks and one power loss at every point where they can.
//!
//! A world is a path of choices, run anew for each path; a state that was seen before is not gone on from. At the end of
//! every path all goes well again, everything must come to its end, and every byte must be what the oracle allows.
#![allow(clippy::print_stdout, reason = "a search tells how far it went, and the way to what it found")]

mod snapshots;

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use ferry_engine::{
    Arrival, Blocks, ByteRange, Command, DataRef, Engine, Errno, Event, FetchFailure, Geometry, Limits,
    MapLog, MapState, Notice, OpId, Operation, Phase, RequestId, RequestKind, Residence, SnapshotId,
    SourceExtent, map,
};

use crate::oracle::{Failed, GUEST_VALUE_MIN, Oracle};
use snapshots::Taken;

/// The world's unit: half a block. A byte of the oracle stands for a cell.
const CELL_BYTES: u64 = 2048;
const CELLS: usize = 6;
/// Two blocks of data with a block of zeroes between them.
const SOURCE: [u8; CELLS] = [1, 1, 0, 0, 2, 3];
const LIMITS: Limits = Limits {
    hydration_fetches_max: 1,
    guest_fetch_bytes_max: 8192,
    persist_every_bytes: 8192,
    persist_every_runs: 2,
    persist_every_ms: 1_000,
    count_heat: true,
};

/// What is done in a world, in this order, at any time.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// First cell and number of cells.
    Read(u64, u64),
    Write(u64, u64),
    WriteDurably(u64, u64),
    Trim(u64, u64),
    Zero(u64, u64),
    Flush,
    Seal,
    Snapshot,
    ReadSnapshot(u64, u64),
}

const SNAPSHOT: SnapshotId = SnapshotId(1);

/// How often what may go wrong in a world.
#[derive(Clone, Copy, Debug, Hash)]
struct Luck {
    failures: u32,
    cuts: u32,
    crashes: u32,
    kills: u32,
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    NextDeed,
    Complete(usize),
    Fail(usize),
    Cut,
    /// What was not durable is lost, kept, or a bit of each.
    Crash(usize),
    /// The process is killed, and what it was about to do is done, or not, or a bit of each.
    Kill(usize),
}

struct Guest {
    kind: RequestKind,
    buffer: Vec<u8>,
    touched_store: bool,
}

/// An operation under way.
#[derive(Debug)]
struct Pending {
    operation: Operation,
    /// The connection broke meanwhile.
    cut: bool,
    /// Of a sync: which version of each cell it makes durable.
    durable: Vec<usize>,
}

struct Small<'a> {
    deeds: &'a [Deed],
    done: usize,
    luck: Luck,
    engine: Engine,
    geometry: Geometry,
    oracle: Oracle,
    /// Of each cell the contents that a crash may leave, oldest first.
    cells: Vec<Vec<u8>>,
    broken: bool,
    map_bytes: Vec<u8>,
    map_log: MapLog,
    /// Holds until power is lost.
    notes: Vec<Blocks>,
    pending: Vec<Pending>,
    guests: BTreeMap<RequestId, Guest>,
    fetched: BTreeMap<OpId, Vec<u8>>,
    next_request: u64,
    now_ms: u64,
    sealed: bool,
    taken: Option<Taken>,
}

fn bytes(first: u64, count: u64) -> ByteRange {
    ByteRange::new(first * CELL_BYTES, count * CELL_BYTES).unwrap()
}

/// The same range in cells, as the oracle counts.
fn in_cells(range: ByteRange) -> ByteRange {
    ByteRange::between(range.offset() / CELL_BYTES, range.end() / CELL_BYTES).unwrap()
}

fn span(range: ByteRange) -> std::ops::Range<usize> {
    crate::oracle::span(in_cells(range))
}

impl<'a> Small<'a> {
    fn new(deeds: &'a [Deed], luck: Luck) -> Small<'a> {
        let geometry = Geometry::new(CELLS as u64 * CELL_BYTES, 8192).unwrap();
        let state = MapState::fresh([7; 16], geometry, 3, Phase::Open, true);
        let (map_bytes, map_log) = map::compact(&state);
        let mut small = Small {
            deeds,
            done: 0,
            luck,
            engine: Engine::new(state, LIMITS),
            geometry,
            oracle: Oracle::new(&SOURCE),
            cells: vec![vec![0]; CELLS],
            broken: false,
            map_bytes,
            map_log,
            notes: Vec::new(),
            pending: Vec::new(),
            guests: BTreeMap::new(),
            fetched: BTreeMap::new(),
            next_request: 0,
            now_ms: 0,
            sealed: false,
            taken: None,
        };
        small.tell(Event::SourceUp);
        small
    }

    fn choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        if self.done < self.deeds.len() {
            choices.push(Choice::NextDeed);
        }
        choices.extend((0..self.pending.len()).map(Choice::Complete));
        if self.luck.failures > 0 {
            let reads = |o: &Operation| matches!(o, Operation::ReadLocal { .. } | Operation::ReadKept { .. });
            let fails = |pending: &Pending| !reads(&pending.operation);
            choices.extend((0..self.pending.len()).filter(|&at| fails(&self.pending[at])).map(Choice::Fail));
        }
        if self.luck.cuts > 0 && self.pending.iter().any(|pending| asks_source(&pending.operation)) {
            choices.push(Choice::Cut);
        }
        if self.luck.crashes > 0 && !self.cells.is_empty() {
            choices.extend((0..3).map(Choice::Crash));
        }
        if self.luck.kills > 0 {
            choices.extend((0..3).map(Choice::Kill));
        }
        choices
    }

    fn take(&mut self, choice: Choice) {
        match choice {
            Choice::NextDeed => {
                let deed = self.deeds[self.done];
                self.done += 1;
                self.begin(deed);
            }
            Choice::Complete(at) => self.complete(at, true),
            Choice::Fail(at) => {
                self.luck.failures -= 1;
                self.complete(at, false);
            }
            Choice::Cut => {
                self.luck.cuts -= 1;
                self.pending.iter_mut().for_each(|pending| pending.cut = true);
                self.tell(Event::SourceDown);
            }
            Choice::Crash(how) => {
                self.luck.crashes -= 1;
                self.crash(how);
            }
            Choice::Kill(how) => {
                self.luck.kills -= 1;
                self.kill(how);
            }
        }
    }

    fn begin(&mut self, deed: Deed) {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let value = GUEST_VALUE_MIN + u8::try_from(self.next_request).unwrap();
        let mut buffer = Vec::new();
        let kind = match deed {
            Deed::Seal => return self.tell(Event::Command(Command::Seal)),
            Deed::Snapshot => return self.tell(Event::Command(Command::Snapshot { id: SNAPSHOT })),
            Deed::ReadSnapshot(first, count) => {
                let range = bytes(first, count);
                buffer = vec![crate::oracle::GARBAGE; span(range).len()];
                RequestKind::ReadSnapshot { snapshot: SNAPSHOT, range }
            }
            Deed::Flush => {
                self.oracle.flush_issued(id);
                RequestKind::Flush
            }
            Deed::Read(first, count) => {
                let range = bytes(first, count);
                buffer = vec![crate::oracle::GARBAGE; span(range).len()];
                self.oracle.read_issued(id, in_cells(range));
                RequestKind::Read { range }
            }
            Deed::Write(first, count) | Deed::WriteDurably(first, count) => {
                let (range, fua) = (bytes(first, count), matches!(deed, Deed::WriteDurably(..)));
                buffer = vec![value; span(range).len()];
                self.oracle.write_issued(id, in_cells(range), value, fua);
                RequestKind::Write { range, fua }
            }
            Deed::Trim(first, count) => {
                let range = bytes(first, count);
                if let Some(covered) = self.geometry.blocks_covered(range) {
                    self.oracle.write_issued(id, in_cells(self.geometry.bytes_of(covered)), 0, false);
                }
                RequestKind::Trim { range, fua: false }
            }
            Deed::Zero(first, count) => {
                let range = bytes(first, count);
                self.oracle.write_issued(id, in_cells(range), 0, false);
                RequestKind::WriteZeroes { range, fua: false, no_hole: false }
            }
        };
        self.guests.insert(id, Guest { kind, buffer, touched_store: false });
        self.tell(Event::Request { id, kind });
    }

    fn tell(&mut self, event: Event) {
        let mut out = Vec::new();
        self.engine.handle(event, &mut out);
        let mut noted = Vec::new();
        for operation in out {
            match operation {
                // Where nothing can come of when a note is taken, there are fewer orders to try.
                Operation::Note { op, blocks } if self.luck.kills + self.luck.failures == 0 => {
                    self.notes.push(blocks);
                    noted.push(op);
                }
                Operation::ZeroBuffer { request, at, len } => self.buffer(request, at, len).fill(0),
                Operation::CopyFetched { fetch, at, request, request_at, len } => {
                    let bytes = self.fetched[&fetch][cell(at)..cell(at + len)].to_vec();
                    self.buffer(request, request_at, len).copy_from_slice(&bytes);
                }
                Operation::DropFetch { fetch } => {
                    self.fetched.remove(&fetch).expect("a buffer is dropped once");
                }
                Operation::Reply { request, result } => self.reply(request, result),
                Operation::Notice(Notice::Sealed) => {
                    self.oracle.sealed();
                    self.sealed = true;
                }
                Operation::Notice(Notice::SnapshotTaken { .. }) => self.snapshot_taken(),
                Operation::Notice(Notice::SnapshotLost { .. }) => self.taken = None,
                Operation::Notice(_) => {}
                operation => self.start(operation),
            }
        }
        noted.into_iter().for_each(|op| self.tell(Event::Done { op, result: Ok(()) }));
    }

    fn start(&mut self, operation: Operation) {
        if let Operation::WriteLocal { data: DataRef::Request { id, .. }, .. } = operation {
            self.guests.get_mut(&id).unwrap().touched_store = true;
        }
        if let Operation::ZeroLocal { .. } = operation {
            self.guests.values_mut().for_each(|guest| guest.touched_store = true);
        }
        let is_sync = matches!(operation, Operation::SyncLocal { .. });
        let latest = || self.cells.iter().map(|versions| versions.len() - 1).collect();
        let durable = if is_sync { latest() } else { Vec::new() };
        self.pending.push(Pending { operation, cut: false, durable });
    }

    fn stored(&self, range: ByteRange) -> Vec<u8> {
        span(range).map(|cell| *self.cells[cell].last().unwrap()).collect()
    }

    fn complete(&mut self, at: usize, ok: bool) {
        let Pending { operation, cut, durable } = self.pending.remove(at);
        let outcome = if ok { Ok(()) } else { Err(Errno::ENOSPC) };
        match operation {
            Operation::ReadLocal { op, range, request, at } => {
                let read = self.stored(range);
                self.buffer(request, at, range.len_bytes()).copy_from_slice(&read);
                self.tell(Event::Done { op, result: Ok(()) });
            }
            Operation::ReadKept { op, range, request, at, .. } => {
                if let Some(taken) = &self.taken {
                    let read = taken.side[span(range)].to_vec();
                    self.buffer(request, at, range.len_bytes()).copy_from_slice(&read);
                }
                self.tell(Event::Done { op, result: Ok(()) });
            }
            Operation::KeepLocal { op, range, .. } => {
                let content = self.stored(range);
                self.keep(range, &content, ok);
                self.tell(Event::Done { op, result: outcome });
            }
            Operation::KeepFetched { op, range, data, .. } => {
                self.keep(range, &self.content(data, range), ok);
                self.tell(Event::Done { op, result: outcome });
            }
            Operation::WriteLocal { op, range, data } => {
                self.put(range, &self.content(data, range), ok);
                self.tell(Event::Done { op, result: outcome });
            }
            Operation::ZeroLocal { op, range, .. } => {
                self.put(range, &vec![0; span(range).len()], ok);
                self.tell(Event::Done { op, result: outcome });
            }
            Operation::SyncLocal { op } => {
                self.broken |= !ok;
                if !self.broken {
                    self.cells.iter_mut().zip(durable).for_each(|(versions, durable)| {
                        versions.drain(..durable);
                    });
                }
                self.tell(Event::Done { op, result: outcome });
            }
            Operation::Persist { op, records } => {
                if ok {
                    self.map_bytes.extend(self.map_log.append(&records));
                }
                self.tell(Event::Done { op, result: outcome });
                self.notes = self.engine.noted().collect();
            }
            Operation::Note { op, blocks } => {
                self.notes.extend(ok.then_some(blocks));
                self.tell(Event::Done { op, result: outcome });
            }
            Operation::Fetch { op, range, .. } => {
                let result = asked(ok, cut).map(|()| {
                    self.fetched.insert(op, SOURCE[span(range)].to_vec());
                    Arrival::DATA
                });
                self.tell(Event::Fetched { op, result });
            }
            Operation::QuerySource { op, range } => {
                let extents = |cells: std::ops::Range<usize>| {
                    cells.map(|at| SourceExtent { len_bytes: CELL_BYTES, zero: SOURCE[at] == 0 }).collect()
                };
                self.tell(Event::Extents { op, result: asked(ok, cut).map(|()| extents(span(range))) });
            }
            other => panic!("{other:?} has no id"),
        }
    }

    /// A write that fails leaves half of itself, and garbage where the blocks are remote.
    fn put(&mut self, range: ByteRange, content: &[u8], ok: bool) {
        let remote = |at: usize| {
            let byte = bytes(at as u64, 1);
            self.engine.truth(byte).any(|(_, residence)| residence == Residence::Remote)
        };
        let span = span(range);
        let landed: Vec<Option<u8>> = span
            .clone()
            .zip(content)
            .map(|(at, &value)| match ok {
                true => Some(value),
                false if remote(at) => Some(crate::oracle::GARBAGE),
                false => at.is_multiple_of(2).then_some(value),
            })
            .collect();
        for (at, value) in span.zip(landed) {
            self.cells[at].extend(value);
        }
    }

    fn content(&self, data: DataRef, range: ByteRange) -> Vec<u8> {
        let (buffer, at) = match data {
            DataRef::Request { id, at } => (&self.guests[&id].buffer, at),
            DataRef::Fetch { op, at } => (&self.fetched[&op], at),
        };
        buffer[cell(at)..cell(at + range.len_bytes())].to_vec()
    }

    fn buffer(&mut self, request: RequestId, at: u64, len: u64) -> &mut [u8] {
        &mut self.guests.get_mut(&request).expect("the buffer lives until the reply").buffer
            [cell(at)..cell(at + len)]
    }

    fn reply(&mut self, request: RequestId, result: Result<(), Errno>) {
        let guest = self.guests.remove(&request).expect("a request is answered once");
        match (guest.kind, result) {
            (RequestKind::Read { .. }, result) => {
                self.oracle.read_done(request, result.is_ok().then_some(guest.buffer.as_slice()));
            }
            (RequestKind::ReadSnapshot { range, .. }, result) => match (&self.taken, result) {
                (Some(taken), Ok(())) => assert_eq!(guest.buffer, taken.content[span(range)]),
                (None, Ok(())) => panic!("there is nothing to read"),
                (_, Err(_)) => {}
            },
            (RequestKind::Flush, result) => self.oracle.flush_done(request, result.is_ok()),
            (RequestKind::Trim { .. }, _) if !self.oracle.expects(request) => {}
            (_, Ok(())) => self.oracle.write_done(request),
            (_, Err(_)) if !guest.touched_store => self.oracle.write_failed(request, &Failed::Untouched),
            (_, Err(_)) => {
                let engine = &self.engine;
                let is_remote =
                    |at: u64| engine.truth(bytes(at, 1)).all(|(_, residence)| residence == Residence::Remote);
                self.oracle.write_failed(request, &Failed::Touched(&is_remote));
            }
        }
    }

    fn crash(&mut self, how: usize) {
        let keeps = |at: usize| how == 1 || (how == 2 && at.is_multiple_of(2));
        self.give_to_kernel(how);
        for (at, versions) in self.cells.iter_mut().enumerate() {
            let left = if keeps(at) { *versions.last().unwrap() } else { versions[0] };
            *versions = vec![left];
        }
        self.broken = false;
        self.notes.clear();
        self.oracle.crashed();
        self.reopen();
    }

    /// The store has all that was given to it. After a failed sync what the map does not know is not trusted.
    fn kill(&mut self, how: usize) {
        if self.engine.status().store_failed {
            return self.crash(how);
        }
        self.give_to_kernel(how);
        self.oracle.killed();
        self.reopen();
    }

    /// What is under way ends without anybody hearing of it.
    fn give_to_kernel(&mut self, how: usize) {
        let keeps = |at: usize| how == 1 || (how == 2 && at.is_multiple_of(2));
        for (number, pending) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            let (range, content) = match pending.operation {
                Operation::WriteLocal { range, data, .. } => (range, self.content(data, range)),
                Operation::ZeroLocal { range, .. } => (range, vec![0; span(range).len()]),
                Operation::Persist { records, .. } => {
                    let frame = self.map_log.append(&records);
                    let torn = [0, frame.len(), frame.len() / 2][how];
                    self.map_bytes.extend(&frame[..torn]);
                    continue;
                }
                Operation::Note { blocks, .. } => {
                    self.notes.extend(keeps(number).then_some(blocks));
                    continue;
                }
                _ => continue,
            };
            for (at, value) in span(range).zip(content).filter(|(at, _)| keeps(at + number)) {
                self.cells[at].push(value);
            }
        }
    }

    fn reopen(&mut self) {
        self.taken = None;
        self.guests.clear();
        self.fetched.clear();
        let (state, log) = map::decode(&self.map_bytes).expect("a torn tail is no damage");
        self.map_bytes.truncate(usize::try_from(log.bytes_valid()).unwrap());
        self.map_log = log;
        assert!(!self.sealed || state.phase == Phase::Sealed, "a seal is for good");
        self.engine = Engine::new(state, LIMITS);
        self.notes.iter().for_each(|&blocks| self.engine.take_up_note(blocks));
        for (range, residence) in self.engine.truth(self.geometry.all_bytes()) {
            if residence == Residence::Remote {
                span(range).for_each(|at| self.cells[at].push(0));
            }
        }
        self.tell(Event::SourceUp);
    }

    /// From here on all goes well.
    fn run_out(&mut self) {
        self.luck = NO_LUCK_NEEDED;
        if self.engine.status().store_failed {
            self.crash(2);
        }
        self.tell(Event::SourceUp);
        for _ in 0..500 {
            if !self.pending.is_empty() {
                self.complete(0, true);
            } else if self.engine.wants_tick() {
                self.now_ms += 1_000;
                self.tell(Event::Tick { now_ms: self.now_ms });
            } else {
                break;
            }
        }
        let status = self.engine.status();
        assert!(status.complete && status.in_flight == 0, "hydration ends: {status:?}");
        assert!(self.oracle.is_quiet() && self.guests.is_empty(), "every request is answered");
        self.check_snapshot();
        self.check();
        self.crash(0);
        self.check();
    }

    fn check(&self) {
        for (at, (versions, mask)) in self.cells.iter().zip(&self.oracle.now).enumerate() {
            let value = versions.last().unwrap();
            assert!(mask >> value & 1 == 1, "cell {at} of the store is {value}, allowed {mask:#b}");
        }
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.done, self.luck, &self.cells, &self.map_bytes, &self.oracle.now, &self.oracle.durable)
            .hash(&mut hasher);
        let is_noted =
            |block| self.notes.iter().any(|blocks| (blocks.first()..blocks.end()).contains(&block));
        (0..self.geometry.block_count()).for_each(|block| is_noted(block).hash(&mut hasher));
        self.taken.as_ref().map(|taken| (&taken.content, &taken.side)).hash(&mut hasher);
        format!("{:?}{:?}", self.engine, self.pending).hash(&mut hasher);
        hasher.finish()
    }
}

fn cell(bytes: u64) -> usize {
    usize::try_from(bytes / CELL_BYTES).unwrap()
}

fn asks_source(operation: &Operation) -> bool {
    matches!(operation, Operation::Fetch { .. } | Operation::QuerySource { .. })
}

fn asked(ok: bool, cut: bool) -> Result<(), FetchFailure> {
    match (ok, cut) {
        (_, true) => Err(FetchFailure::Disconnected),
        (false, false) => Err(FetchFailure::Errno(Errno::EIO)),
        (true, false) => Ok(()),
    }
}

/// Goes every way through a world. Gives how many states it has.
fn search(deeds: &[Deed], luck: Luck) -> usize {
    let mut seen = HashSet::new();
    let mut paths: Vec<Vec<Choice>> = vec![Vec::new()];
    while let Some(path) = paths.pop() {
        let told = std::panic::AssertUnwindSafe(|| {
            let mut small = Small::new(deeds, luck);
            path.iter().for_each(|&choice| small.take(choice));
            if !seen.insert(small.fingerprint()) {
                return Vec::new();
            }
            let choices = small.choices();
            small.run_out();
            choices
        });
        let choices = std::panic::catch_unwind(told).unwrap_or_else(|cause| {
            // The way there is what a person needs.
            println!("{deeds:?} with {luck:?} fails on {path:?}");
            std::panic::resume_unwind(cause)
        });
        paths.extend(choices.into_iter().map(|choice| [path.as_slice(), &[choice]].concat()));
    }
    println!("{deeds:?} with {luck:?}: {} states", seen.len());
    seen.len()
}

const NO_LUCK_NEEDED: Luck = Luck { failures: 0, cuts: 0, crashes: 0, kills: 0 };
const FAILURE: Luck = Luck { failures: 1, ..NO_LUCK_NEEDED };
const CUT: Luck = Luck { cuts: 1, ..NO_LUCK_NEEDED };
const CRASH: Luck = Luck { crashes: 1, ..NO_LUCK_NEEDED };
const KILL: Luck = Luck { kills: 1, ..NO_LUCK_NEEDED };

/// Pairs of requests that meet on the same blocks.
const MEETINGS: [&[Deed]; 9] = [
    &[Deed::Write(0, 2), Deed::Flush],
    &[Deed::Write(0, 1), Deed::Read(0, 2)],
    &[Deed::Write(1, 1), Deed::Trim(0, 4)],
    &[Deed::Write(0, 2), Deed::Write(0, 2)],
    &[Deed::Read(0, 6), Deed::Write(3, 2)],
    &[Deed::Trim(0, 6), Deed::Flush],
    &[Deed::Zero(1, 1), Deed::Flush],
    &[Deed::WriteDurably(3, 1), Deed::Read(2, 2)],
    &[Deed::Write(4, 2), Deed::Seal],
];

fn search_all(worlds: &[&[Deed]], luck: Luck) {
    let states: usize = worlds.iter().map(|deeds| search(deeds, luck)).sum();
    assert!(states > worlds.len() * 100, "{states} states are no search");
}

#[test]
fn one_failure_at_any_point_of_any_order_costs_nobody_else_anything() {
    search_all(&MEETINGS, FAILURE);
}

#[test]
fn a_connection_that_breaks_at_any_point_of_any_order_costs_nothing() {
    search_all(&MEETINGS, CUT);
}

#[test]
fn power_lost_at_any_point_of_any_order_costs_only_what_was_not_flushed() {
    search_all(&MEETINGS, CRASH);
}

#[test]
fn a_kill_at_any_point_of_any_order_costs_nothing_that_was_answered() {
    search_all(&MEETINGS, KILL);
}
