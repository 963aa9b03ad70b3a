//! A shell that executes operations in any order, with any luck, on a disk and a map that forget at a crash.

use std::collections::BTreeMap;

use ferry_engine::{
    Arrival, Blocks, ByteRange, Command, DataRef, Engine, Errno, Event, FetchFailure, Geometry, Limits,
    LossPolicy, MapLog, MapRecord, MapState, Notice, OpId, Operation, Phase, RequestId, RequestKind,
    Residence, SourceExtent, Urgency, limits::BUDGET_BURST_MS, map,
};

use crate::marks::MarksSeen;
use crate::oracle::{Failed, GARBAGE, Oracle, span};
use crate::snapshots::Snapshots;
use crate::store::{Store, SyncPoint};

/// Deterministic choices from a seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % sides as u64).unwrap()
    }
}

/// What can go wrong, in percent of completions.
#[derive(Clone, Copy, Debug)]
pub struct Luck {
    pub local_fails: usize,
    pub source_fails: usize,
    pub sync_fails: usize,
}

pub const GOOD_LUCK: Luck = Luck { local_fails: 0, source_fails: 0, sync_fails: 0 };

pub struct World {
    pub engine: Engine,
    pub oracle: Oracle,
    pub luck: Luck,
    limits: Limits,
    pub geometry: Geometry,
    pub source: Vec<u8>,
    source_up: bool,
    pub now_ms: u64,
    pub store: Store,
    map_bytes: Vec<u8>,
    map_log: MapLog,
    /// Hold until power is lost.
    notes: Vec<Blocks>,
    pub snapshots: Snapshots,
    pub pending: Vec<Pending>,
    pub requests: BTreeMap<RequestId, Guest>,
    pub marks: MarksSeen,
    fetched: BTreeMap<OpId, Vec<u8>>,
    next_request: u64,
    pub next_value: u8,
    /// Where the guest's last read ended.
    pub read_end: u64,
    /// How often each block was fetched with success.
    pub fetches: Vec<u32>,
    pub notices: Vec<Notice>,
    must_be_sealed: bool,
    pub(super) unseals_asked: u32,
    must_be_complete: bool,
    /// What giving up the source costs, while that is being told to the map.
    losing: Option<Vec<ByteRange>>,
    /// Ticks after which a request that waits for an absent source must have failed.
    loss_policy: LossPolicy,
    budget: Option<Budget>,
    dice: Dice,
}

/// What the background was told to keep to, and what it has fetched since.
struct Budget {
    bytes_per_s: u64,
    since_ms: u64,
    bytes: u64,
}

pub struct Guest {
    pub kind: RequestKind,
    buffer: Vec<u8>,
    touched_store: bool,
}

pub struct Pending {
    pub operation: Operation,
    /// The source's connection was lost while it was under way.
    cut: bool,
    sync_point: Option<SyncPoint>,
}

impl World {
    pub fn new(geometry: Geometry, source: Vec<u8>, luck: Luck, limits: Limits, seed: u64) -> World {
        let state = MapState::fresh([7; 16], geometry, 3, Phase::Open, true);
        let (map_bytes, map_log) = map::compact(&state);
        World {
            engine: Engine::new(state, limits),
            oracle: Oracle::new(&source),
            luck,
            limits,
            geometry,
            store: Store::new(source.len()),
            fetches: vec![0; usize::try_from(geometry.block_count()).unwrap()],
            source,
            source_up: false,
            now_ms: 0,
            map_bytes,
            map_log,
            notes: Vec::new(),
            snapshots: Snapshots::default(),
            pending: Vec::new(),
            marks: MarksSeen::default(),
            requests: BTreeMap::new(),
            fetched: BTreeMap::new(),
            next_request: 0,
            next_value: crate::oracle::GUEST_VALUE_MIN,
            read_end: 0,
            notices: Vec::new(),
            must_be_sealed: false,
            unseals_asked: 0,
            must_be_complete: false,
            losing: None,
            loss_policy: LossPolicy::Wait,
            budget: None,
            dice: Dice(seed),
        }
    }

    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    pub fn waiting(&self) -> Vec<RequestId> {
        self.requests.keys().copied().collect()
    }

    pub fn request(&mut self, kind: RequestKind) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let mut buffer = Vec::new();
        match kind {
            RequestKind::Read { range } => {
                buffer = vec![GARBAGE; span(range).len()];
                self.oracle.read_issued(id, range);
                self.read_end = range.end();
            }
            RequestKind::Write { range, fua } => {
                let value = self.next_value;
                self.next_value += 1;
                assert!(value < GARBAGE, "the caller stops when values run out");
                buffer = vec![value; span(range).len()];
                self.oracle.write_issued(id, range, value, fua);
            }
            RequestKind::WriteZeroes { range, fua, .. } => self.oracle.write_issued(id, range, 0, fua),
            RequestKind::Trim { range, fua } => {
                if let Some(covered) = self.geometry.blocks_covered(range) {
                    self.oracle.write_issued(id, self.geometry.bytes_of(covered), 0, fua);
                }
            }
            RequestKind::Flush => self.oracle.flush_issued(id),
            RequestKind::ReadSnapshot { range, snapshot } => {
                buffer = vec![GARBAGE; span(range).len()];
                self.snapshots.read_begins(id, snapshot);
            }
            RequestKind::Cache { .. } => {}
        }
        self.requests.insert(id, Guest { kind, buffer, touched_store: false });
        self.tell(Event::Request { id, kind });
        id
    }

    pub fn source_goes(&mut self, up: bool) {
        self.source_up = up;
        if !up {
            for pending in &mut self.pending {
                pending.cut = true;
            }
        }
        self.tell(if up { Event::SourceUp } else { Event::SourceDown });
    }

    pub fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        self.tell(Event::Tick { now_ms: self.now_ms });
    }

    pub fn command(&mut self, command: Command) {
        self.command_of_marks(command);
        if command == Command::Unseal {
            self.must_be_sealed = false;
            self.unseals_asked += 1;
        }
        if let Command::SetLossPolicy { policy } = command {
            self.loss_policy = policy;
        }
        if let Command::SetBudget { bytes_per_s } = command {
            let since_ms = self.now_ms;
            self.budget = bytes_per_s.map(|rate| Budget { bytes_per_s: rate.get(), since_ms, bytes: 0 });
        }
        self.tell(Event::Command(command));
    }

    pub fn tell(&mut self, event: Event) {
        let mut out = Vec::new();
        self.engine.handle(event, &mut out);
        for operation in out {
            self.execute(operation);
        }
        for bad in self.engine.bad_ranges() {
            let is_remote = |(_, residence): (_, Residence)| residence == Residence::Remote;
            assert!(self.engine.truth(bad).all(is_remote), "what is local is not bad: {bad:?}");
        }
    }

    fn execute(&mut self, operation: Operation) {
        match operation {
            Operation::ZeroBuffer { request, at, len } => self.buffer_part(request, at, len).fill(0),
            Operation::CopyFetched { fetch, at, request, request_at, len } => {
                let from = usize::try_from(at).unwrap();
                let bytes = self.fetched[&fetch][from..from + usize::try_from(len).unwrap()].to_vec();
                self.buffer_part(request, request_at, len).copy_from_slice(&bytes);
            }
            Operation::DropFetch { fetch } => {
                self.fetched.remove(&fetch).expect("a buffer is dropped once");
                let used = |data: DataRef| matches!(data, DataRef::Fetch { op, .. } if op == fetch);
                assert!(!self.pending.iter().any(|pending| pending.data().is_some_and(used)));
            }
            Operation::Reply { request, result } => self.reply(request, result),
            Operation::Notice(notice) => self.notice(notice),
            Operation::ReadLocal { .. }
            | Operation::WriteLocal { .. }
            | Operation::ZeroLocal { .. }
            | Operation::Fetch { .. }
            | Operation::QuerySource { .. }
            | Operation::SyncLocal { .. }
            | Operation::KeepLocal { .. }
            | Operation::KeepFetched { .. }
            | Operation::ReadKept { .. }
            | Operation::Note { .. }
            | Operation::Persist { .. } => self.start(operation),
        }
    }

    fn start(&mut self, operation: Operation) {
        self.given_to_store(&operation);
        if let (Operation::Fetch { range, urgency: Urgency::Background | Urgency::Ahead, .. }, Some(budget)) =
            (&operation, &mut self.budget)
        {
            budget.bytes += range.len_bytes();
            let earned = budget.bytes_per_s * (self.now_ms - budget.since_ms + BUDGET_BURST_MS) / 1_000;
            let most = earned + self.geometry.region_bytes();
            assert!(budget.bytes <= most, "{} bytes, the budget allows {most}", budget.bytes);
        }
        if let Operation::KeepLocal { op, snapshot, .. }
        | Operation::KeepFetched { op, snapshot, .. }
        | Operation::ReadKept { op, snapshot, .. } = operation
        {
            self.snapshots.operation_begins(op, snapshot);
        }
        self.check_against_snapshots(&operation);
        match &operation {
            Operation::Fetch { .. } | Operation::QuerySource { .. } => assert!(self.source_up),
            Operation::WriteLocal { data: DataRef::Request { id, .. }, .. } => {
                self.requests.get_mut(id).unwrap().touched_store = true;
            }
            Operation::Persist { records, .. } => {
                if records.last() == Some(&MapRecord::Abandoned) {
                    self.losing = Some(self.engine.remote_ranges().collect());
                    self.assert_zero_where_remote();
                }
                let under_way = |p: &Pending| matches!(p.operation, Operation::Persist { .. });
                assert!(!self.pending.iter().any(under_way), "one frame is appended at a time");
            }
            _ => {}
        }
        // A zeroing names no request; each guest zeroing that waits counts as having touched the store.
        if matches!(operation, Operation::ZeroLocal { .. }) {
            self.requests.values_mut().for_each(|guest| guest.touched_store = true);
        }
        let is_sync = matches!(operation, Operation::SyncLocal { .. });
        let sync_point = is_sync.then(|| self.store.sync_begins());
        self.pending.push(Pending { operation, cut: false, sync_point });
    }

    /// Completes one operation that is under way.
    pub fn complete(&mut self, index: usize) {
        let pending = self.pending.remove(index);
        let fails = |dice: &mut Dice, percent: usize| dice.roll(100) < percent;
        match pending.operation {
            Operation::ReadLocal { op, range, request, at } => {
                let bytes = self.store.read(range);
                self.buffer_part(request, at, range.len_bytes()).copy_from_slice(&bytes);
                self.tell(Event::Done { op, result: Ok(()) });
            }
            Operation::WriteLocal { op, range, data } => {
                let bytes = self.bytes_of(data, range.len_bytes());
                let ok = !fails(&mut self.dice, self.luck.local_fails);
                self.put(op, range, &bytes, ok);
            }
            Operation::ZeroLocal { op, range, .. } => {
                let bytes = vec![0; span(range).len()];
                let ok = !fails(&mut self.dice, self.luck.local_fails);
                self.put(op, range, &bytes, ok);
            }
            Operation::KeepLocal { op, range, .. } => {
                let ok = !fails(&mut self.dice, self.luck.local_fails);
                self.keep(op, range, ok);
            }
            Operation::KeepFetched { op, range, data, .. } => {
                let bytes = self.bytes_of(data, range.len_bytes());
                let ok = !fails(&mut self.dice, self.luck.local_fails);
                self.keep_fetched(op, range, &bytes, ok);
            }
            Operation::ReadKept { op, range, request, at, .. } => {
                let bytes = self.snapshots.side(op, range);
                self.buffer_part(request, at, range.len_bytes()).copy_from_slice(&bytes);
                self.tell(Event::Done { op, result: Ok(()) });
            }
            Operation::SyncLocal { op } => {
                let ok = !fails(&mut self.dice, self.luck.sync_fails);
                self.store.sync_ends(pending.sync_point.unwrap(), ok);
                self.tell(Event::Done { op, result: if ok { Ok(()) } else { Err(Errno::EIO) } });
            }
            Operation::Persist { op, .. } | Operation::Note { op, .. }
                if fails(&mut self.dice, self.luck.local_fails) =>
            {
                self.tell(Event::Done { op, result: Err(Errno::ENOSPC) });
            }
            Operation::Persist { op, records } => self.persist(op, &records),
            Operation::Note { op, blocks } => {
                self.notes.push(blocks);
                self.tell(Event::Done { op, result: Ok(()) });
            }
            Operation::Fetch { op, range, .. } => {
                assert!(range.len_bytes() <= self.geometry.region_bytes());
                let result = self.ask_source(pending.cut).map(|()| self.source[span(range)].to_vec());
                let result = result.map(|bytes| {
                    let zero = bytes.iter().all(|&byte| byte == 0) && self.dice.roll(2) == 0;
                    let blocks = self.geometry.blocks_touched(range);
                    for block in blocks.first()..blocks.end() {
                        self.fetches[usize::try_from(block).unwrap()] += 1;
                    }
                    self.fetched.insert(op, if zero { Vec::new() } else { bytes });
                    if zero { Arrival::ZEROES } else { Arrival::DATA }
                });
                self.tell(Event::Fetched { op, result });
            }
            Operation::QuerySource { op, range } => {
                let result = self.ask_source(pending.cut).map(|()| self.extents(span(range)));
                self.tell(Event::Extents { op, result });
            }
            _ => unreachable!("only what has an id is under way"),
        }
    }

    fn persist(&mut self, op: OpId, records: &[MapRecord]) {
        assert!(!records.is_empty());
        self.map_bytes.extend(self.map_log.append(records));
        self.tell(Event::Done { op, result: Ok(()) });
        if self.dice.roll(2) == 0 {
            self.notes = self.engine.noted().collect();
        }
    }

    fn ask_source(&mut self, cut: bool) -> Result<(), FetchFailure> {
        if cut {
            return Err(FetchFailure::Disconnected);
        }
        if self.dice.roll(100) >= self.luck.source_fails {
            return Ok(());
        }
        Err(match self.dice.roll(4) {
            0 => FetchFailure::Errno(Errno::EIO),
            1 => FetchFailure::Checksum,
            2 => FetchFailure::ShortSource,
            _ => FetchFailure::Disconnected,
        })
    }

    /// True in content, and in form whatever a source may come up with.
    fn extents(&mut self, asked: std::ops::Range<usize>) -> Vec<SourceExtent> {
        let mut extents = Vec::new();
        let style = self.dice.roll(6);
        if style == 0 {
            return vec![SourceExtent { len_bytes: asked.len() as u64, zero: false }];
        }
        let mut at = asked.start;
        while at < asked.end {
            let longest = if style == 1 { 4096 * 3 } else { asked.len() };
            let zero = self.source[at] == 0;
            let same = |&byte: &u8| (byte == 0) == zero;
            let len = self.source[at..asked.end].iter().take(longest).take_while(|byte| same(byte)).count();
            if style == 2 {
                extents.push(SourceExtent { len_bytes: 0, zero: !zero });
            }
            // A source may always say less: data instead of zero.
            let zero = zero && (style != 3 || self.dice.roll(3) > 0);
            extents.push(SourceExtent { len_bytes: len as u64, zero });
            at += len;
        }
        match style {
            4 => extents.truncate(self.dice.roll(3)),
            5 if !extents.last().is_some_and(|extent| extent.zero) => {
                extents.last_mut().unwrap().len_bytes = u64::MAX;
            }
            _ => {}
        }
        extents
    }

    /// A write that fails leaves any part of itself, and garbage where the blocks are remote.
    fn put(&mut self, op: OpId, range: ferry_engine::ByteRange, bytes: &[u8], ok: bool) {
        if ok {
            self.store.write(range, bytes, |_| true);
            return self.tell(Event::Done { op, result: Ok(()) });
        }
        let dice = &mut self.dice;
        self.store.write(range, bytes, |_| dice.roll(2) == 0);
        let runs: Vec<_> = self.engine.truth(range).collect();
        for (run, residence) in runs {
            if residence == Residence::Remote {
                let garbage = vec![GARBAGE; span(run).len()];
                let dice = &mut self.dice;
                self.store.write(run, &garbage, |_| dice.roll(2) == 0);
            }
        }
        self.tell(Event::Done { op, result: Err(Errno::ENOSPC) });
    }

    fn reply(&mut self, request: RequestId, result: Result<(), Errno>) {
        let guest = self.requests.remove(&request).expect("a request is answered once");
        let touches = |p: &Pending| p.request() == Some(request);
        assert!(!self.pending.iter().any(touches), "nothing touches the buffer after the reply");
        match (guest.kind, result) {
            (RequestKind::Read { .. }, result) => {
                self.oracle.read_done(request, result.is_ok().then_some(guest.buffer.as_slice()));
            }
            (RequestKind::ReadSnapshot { range, .. }, result) => {
                let source_may_fail = self.luck.source_fails > 0 || self.loss_policy != LossPolicy::Wait;
                self.snapshots.read_done(request, range, result.map(|()| &guest.buffer), source_may_fail);
            }
            (RequestKind::Flush, result) => self.oracle.flush_done(request, result.is_ok()),
            (RequestKind::Cache { .. }, _) => {}
            (RequestKind::Trim { .. }, _) if !self.oracle.expects(request) => {}
            (_, Ok(())) => self.oracle.write_done(request),
            (_, Err(_)) if !guest.touched_store => self.oracle.write_failed(request, &Failed::Untouched),
            (_, Err(_)) => {
                let engine = &self.engine;
                let is_remote = |at: u64| {
                    let byte = ferry_engine::ByteRange::new(at, 1).unwrap();
                    engine.truth(byte).all(|(_, residence)| residence == Residence::Remote)
                };
                self.oracle.write_failed(request, &Failed::Touched(&is_remote));
            }
        }
    }

    fn notice(&mut self, notice: Notice) {
        self.notices.push(notice);
        self.notice_of_marks(notice);
        match notice {
            Notice::Sealed => {
                self.oracle.sealed();
                self.must_be_sealed = self.unseals_asked == 0;
            }
            Notice::Unsealed
            | Notice::CommandRefused { command: Command::Unseal, .. }
            | Notice::CommandFailed { command: Command::Unseal, .. } => self.unseals_asked -= 1,
            Notice::SnapshotTaken { id } => self.snapshot_taken(id),
            Notice::SnapshotForgotten { id } | Notice::SnapshotLost { id, .. } => self.snapshots.end(id),
            Notice::Grown { size_bytes } => {
                assert_eq!(self.engine.geometry().size_bytes(), size_bytes);
                self.grown(self.engine.geometry());
            }
            Notice::SourceAbandoned if self.losing.is_some() => {
                self.source_up = false;
                let losing = self.losing.take().unwrap();
                self.oracle.abandoned(&losing);
                self.must_be_complete = true;
            }
            Notice::CommandFailed { command: Command::AbandonSource, .. } => self.losing = None,
            Notice::HydrationComplete => {
                let (state, _) = map::decode(&self.map_bytes).unwrap();
                assert!(state.truth.is_complete(), "the map knows before anybody is told");
                self.must_be_complete = true;
            }
            _ => {}
        }
    }

    /// Power is lost and comes back: all that was not durable is gone or not, piece by piece.
    pub fn crash(&mut self) {
        self.check_marks();
        self.give_to_kernel();
        let dice = &mut self.dice;
        self.store.crash(|versions| dice.roll(versions));
        self.notes.clear();
        self.oracle.crashed();
        self.reopen();
    }

    /// The process is killed. The store has all that it was given; but after a failed sync what the map does not know is
    /// not trusted.
    pub fn kill(&mut self) {
        if self.engine.status().store_failed {
            return self.crash();
        }
        self.check_marks();
        self.give_to_kernel();
        self.oracle.killed();
        self.reopen();
    }

    /// What is under way ends, in part, without anybody hearing of it.
    fn give_to_kernel(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            match pending.operation {
                Operation::WriteLocal { range, data, .. } => {
                    let bytes = self.bytes_of(data, range.len_bytes());
                    let dice = &mut self.dice;
                    self.store.write(range, &bytes, |_| dice.roll(2) == 0);
                }
                Operation::ZeroLocal { range, .. } => {
                    let dice = &mut self.dice;
                    self.store.write(range, &vec![0; span(range).len()], |_| dice.roll(2) == 0);
                }
                Operation::Persist { records, .. } => {
                    let frame = self.map_log.append(&records);
                    let torn = self.dice.roll(frame.len() + 1);
                    self.map_bytes.extend(&frame[..torn]);
                }
                Operation::Note { blocks, .. } => {
                    self.notes.extend((self.dice.roll(2) == 0).then_some(blocks))
                }
                _ => {}
            }
        }
        self.unseals_asked = 0;
        self.requests.clear();
        self.snapshots = Snapshots::default();
        self.fetched.clear();
    }

    fn reopen(&mut self) {
        let (state, log) = map::decode(&self.map_bytes).expect("a torn tail is no damage");
        self.map_bytes.truncate(usize::try_from(log.bytes_valid()).unwrap());
        self.map_log = log;
        assert!(!self.must_be_sealed || state.phase == Phase::Sealed);
        assert!(!self.must_be_complete || state.truth.is_complete());
        self.settle_losses(&state);
        if self.dice.roll(2) == 0 {
            (self.map_bytes, self.map_log) = map::compact(&state);
            assert_eq!(map::decode(&self.map_bytes).unwrap(), (state.clone(), self.map_log));
        }
        self.store.set_len(usize::try_from(state.geometry().size_bytes()).unwrap());
        self.grown(state.geometry());
        // What the shell owes the engine: remote ranges are holes (not synced: that is the engine's to do). Or it says
        // that they are not, as on a device.
        let filling = if self.dice.roll(3) == 0 { GARBAGE } else { 0 };
        self.engine = Engine::new(state, self.limits);
        self.notes.iter().for_each(|&blocks| self.engine.take_up_note(blocks));
        for range in self.engine.remote_ranges() {
            self.store.write(range, &vec![filling; span(range).len()], |_| true);
        }
        if filling == GARBAGE {
            self.engine.store_may_hold_anything();
        }
        self.source_up = false;
        self.budget = None;
        self.loss_policy = LossPolicy::Wait;
        self.marks_after_crash();
        self.tick(0);
    }

    /// A crash while the source was being given up leaves all of it done, or nothing.
    fn settle_losses(&mut self, state: &MapState) {
        let Some(losing) = self.losing.take() else { return };
        if !state.has_source {
            return self.oracle.abandoned(&losing);
        }
        let is_remote = |(_, residence): (_, Residence)| residence == Residence::Remote;
        let all_remote = losing.iter().all(|&range| state.truth.byte_runs(range).all(is_remote));
        assert!(all_remote, "a part of the source was given up");
    }

    /// When the map is told, garbage where blocks are remote would become the truth.
    fn assert_zero_where_remote(&self) {
        for range in self.engine.remote_ranges() {
            assert!(self.store.read(range).iter().all(|&byte| byte == 0), "{range:?} is not zero");
        }
    }

    pub fn store_bytes(&self) -> Vec<u8> {
        self.store.read(self.geometry.all_bytes())
    }

    fn bytes_of(&self, data: DataRef, len: u64) -> Vec<u8> {
        let (buffer, at) = match data {
            DataRef::Request { id, at } => (&self.requests[&id].buffer, at),
            DataRef::Fetch { op, at } => (&self.fetched[&op], at),
        };
        let at = usize::try_from(at).unwrap();
        buffer[at..at + usize::try_from(len).unwrap()].to_vec()
    }

    fn buffer_part(&mut self, request: RequestId, at: u64, len: u64) -> &mut [u8] {
        let at = usize::try_from(at).unwrap();
        let buffer = &mut self.requests.get_mut(&request).expect("the buffer lives until the reply").buffer;
        &mut buffer[at..at + usize::try_from(len).unwrap()]
    }
}

impl Pending {
    fn data(&self) -> Option<DataRef> {
        match self.operation {
            Operation::WriteLocal { data, .. } | Operation::KeepFetched { data, .. } => Some(data),
            _ => None,
        }
    }

    fn request(&self) -> Option<RequestId> {
        match self.operation {
            Operation::ReadLocal { request, .. } | Operation::ReadKept { request, .. } => Some(request),
            Operation::WriteLocal { data: DataRef::Request { id, .. }, .. } => Some(id),
            _ => None,
        }
    }
}
