//! What the engine promises of marks, and what they cost, with a shell that does everything at once.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use ferry_engine::limits::{LISTING_ATTEMPTS_MAX, MARKS_MAX};
use ferry_engine::{
    Arrival, ByteRange, Command, Engine, Errno, Event, Geometry, Limits, MapRecord, MapState, MarkId, Notice,
    OpId, Operation, Phase, Refusal, RequestId, RequestKind,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// An engine and what its map would say after a crash.
struct Bench {
    engine: Engine,
    map: MapState,
    next: u64,
    persists: u64,
}

impl Bench {
    fn new(size_bytes: u64, has_source: bool) -> Bench {
        let geometry = Geometry::new(size_bytes, MIB).unwrap();
        let map = MapState::fresh([1; 16], geometry, 1, Phase::Open, has_source);
        Bench { engine: Engine::new(map.clone(), Limits::default()), map, next: 0, persists: 0 }
    }

    fn marked(size_bytes: u64) -> Bench {
        let mut bench = Bench::new(size_bytes, false);
        bench.mark();
        bench.persists = 0;
        bench
    }

    fn mark(&mut self) -> MarkId {
        let out = self.tell(Event::Command(Command::Mark));
        let mark = self.run(out).into_iter().find_map(|operation| match operation {
            Operation::Notice(Notice::Marked { mark }) => Some(mark),
            _ => None,
        });
        mark.unwrap()
    }

    fn tell(&mut self, event: Event) -> Vec<Operation> {
        let mut out = Vec::new();
        self.engine.handle(event, &mut out);
        out
    }

    fn write(&mut self, offset: u64, len: u64) -> Vec<Operation> {
        self.next += 1;
        let kind = RequestKind::Write { range: range(offset, len), fua: false };
        self.tell(Event::Request { id: RequestId(self.next), kind })
    }

    fn done(&mut self, op: OpId) -> Vec<Operation> {
        self.tell(Event::Done { op, result: Ok(()) })
    }

    /// Does all that is asked for, and what comes of that; gives everything that was not an operation on the store.
    fn run(&mut self, operations: Vec<Operation>) -> Vec<Operation> {
        let mut said = Vec::new();
        let mut todo = std::collections::VecDeque::from(operations);
        while let Some(operation) = todo.pop_front() {
            match operation {
                Operation::Persist { op, records } => {
                    records.iter().for_each(|&record| self.map.apply(record).unwrap());
                    self.persists += 1;
                    todo.extend(self.done(op));
                }
                Operation::WriteLocal { op, .. }
                | Operation::Note { op, .. }
                | Operation::ZeroLocal { op, .. }
                | Operation::SyncLocal { op } => todo.extend(self.done(op)),
                other => said.push(other),
            }
        }
        said
    }

    fn write_all(&mut self, offset: u64, len: u64) {
        let out = self.write(offset, len);
        let said = self.run(out);
        assert_eq!(said, [Operation::Reply { request: RequestId(self.next), result: Ok(()) }]);
    }

    fn changed(&self, mark: MarkId) -> Vec<(u64, u64)> {
        let runs = self.engine.changed_since(mark, self.engine.geometry().all_bytes()).unwrap();
        runs.filter(|(_, changed)| *changed).map(|(run, _)| (run.offset(), run.len_bytes())).collect()
    }
}

fn range(offset: u64, len: u64) -> ByteRange {
    ByteRange::new(offset, len).unwrap()
}

fn persist(operations: &[Operation]) -> (OpId, Vec<MapRecord>) {
    let [Operation::Persist { op, records }] = operations else { panic!("{operations:?}") };
    (*op, records.clone())
}

#[test]
fn without_a_mark_a_write_is_one_operation_and_nothing_is_kept() {
    let mut bench = Bench::new(64 * MIB, false);
    bench.write_all(0, 4096);
    assert_eq!(bench.persists, 0);
    assert!(bench.engine.marks().is_empty());
    assert!(bench.engine.changed_since(MarkId(2), range(0, 4096)).is_none());
}

#[test]
fn the_first_write_into_a_region_waits_for_the_map_and_the_next_for_nothing() {
    let mut bench = Bench::marked(64 * MIB);
    let (op, records) = persist(&bench.write(5 * MIB, 4096));
    assert!(matches!(records[..], [MapRecord::MayChange(blocks)] if blocks.first() == 5 * 256));
    let out = bench.done(op);
    assert!(matches!(out[..], [Operation::WriteLocal { .. }]), "{out:?}");
    let out = bench.write(5 * MIB + 65_536, 4096);
    assert!(matches!(out[..], [Operation::WriteLocal { .. }]), "{out:?}");
    assert_eq!(bench.changed(MarkId(2)), [(5 * MIB, 4096), (5 * MIB + 65_536, 4096)]);
}

#[test]
fn all_who_wait_for_the_map_share_one_frame_even_while_a_flush_waits_for_the_disk() {
    let mut bench = Bench::marked(GIB);
    let kind = RequestKind::Flush;
    let out = bench.tell(Event::Request { id: RequestId(900), kind });
    let [Operation::SyncLocal { op: sync }] = out[..] else { panic!("{out:?}") };
    let (first, _) = persist(&bench.write(5 * MIB, 4096));
    assert_eq!(bench.write(105 * MIB, 4096), [], "one frame at a time");
    assert_eq!(bench.write(205 * MIB, 4096), []);
    let out = bench.done(first);
    let [Operation::WriteLocal { .. }, Operation::Persist { records, .. }] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(records.len(), 2);
    let out = bench.done(sync);
    assert_eq!(out, [Operation::Reply { request: RequestId(900), result: Ok(()) }]);
}

#[test]
fn a_guest_that_writes_64_gib_in_sequence_hardly_ever_waits_for_the_map() {
    let mut bench = Bench::marked(64 * GIB);
    let mut waits = 0;
    for at in 0..64 * 1_024 {
        let out = bench.write(at * MIB, MIB);
        waits += u32::from(!out.iter().any(|operation| matches!(operation, Operation::WriteLocal { .. })));
        bench.run(out);
    }
    assert!(waits <= 4, "{waits} waits");
    assert!(bench.persists <= 64 * 16 + 16, "{} frames", bench.persists);
}

#[test]
fn a_guest_that_writes_here_and_there_in_a_gibibyte_waits_few_times() {
    let mut bench = Bench::marked(1_024 * GIB);
    let mut at = 12_345_u64;
    for _ in 0..100_000 {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bench.write_all(500 * GIB + (at >> 33) % (GIB / 4096) * 4096, 4096);
    }
    assert!(bench.persists < 80, "{} frames", bench.persists);
}

#[test]
fn even_a_guest_that_writes_everywhere_waits_a_bounded_number_of_times() {
    let mut bench = Bench::marked(8_192 * GIB);
    let mut at = 12_345_u64;
    for _ in 0..20_000 {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bench.write_all((at >> 20) % (8_192 * GIB / 4096) * 4096, 4096);
    }
    assert!(bench.persists < 1_500, "{} frames", bench.persists);
}

#[test]
fn a_write_that_was_under_way_when_a_mark_was_set_counts_as_changed_since() {
    let mut bench = Bench::new(64 * MIB, false);
    let slow = bench.write(7 * MIB, 4096);
    let mark = bench.mark();
    assert_eq!(bench.changed(mark), [(7 * MIB, 4096)]);
    bench.run(slow);
    let after_a_crash = Engine::new(bench.map.clone(), Limits::default());
    let runs: Vec<_> = after_a_crash.changed_since(mark, range(7 * MIB, 4096)).unwrap().collect();
    assert_eq!(runs, [(range(7 * MIB, 4096), true)]);
}

#[test]
fn after_a_crash_every_region_that_may_have_changed_is_wholly_listed_and_no_other() {
    let mut bench = Bench::new(GIB, false);
    bench.write_all(0, 4096);
    let mark = bench.mark();
    bench.write_all(7 * MIB + 4096, 4096);
    bench.engine = Engine::new(bench.map.clone(), Limits::default());
    assert_eq!(bench.changed(mark), [(7 * MIB, MIB)]);
    bench.persists = 0;
    bench.write_all(7 * MIB, 4096);
    assert_eq!(bench.persists, 0, "the map knows of this region");
    let later = bench.mark();
    bench.write_all(9 * MIB, 4096);
    assert_eq!(bench.changed(later), [(9 * MIB, 4096)], "what happened since is known exactly");
    assert_eq!(bench.changed(mark), [(7 * MIB, MIB), (9 * MIB, 4096)]);
}

#[test]
fn trims_and_zeroes_are_changes_and_what_arrives_from_the_source_is_none() {
    let mut bench = Bench::new(16 * MIB, true);
    let out = bench.tell(Event::Command(Command::PauseHydration));
    bench.run(out);
    bench.tell(Event::SourceUp);
    let mark = bench.mark();
    let kind = RequestKind::Read { range: range(0, 4096) };
    let out = bench.tell(Event::Request { id: RequestId(900), kind });
    let [Operation::Fetch { op, .. }] = out[..] else { panic!("{out:?}") };
    let out = bench.tell(Event::Fetched { op, result: Ok(Arrival::DATA) });
    bench.run(out);
    assert_eq!(bench.engine.status().bytes_local, 4096);
    assert_eq!(bench.changed(mark), []);
    let trim = RequestKind::Trim { range: range(2 * MIB, 8192), fua: false };
    let zero = RequestKind::WriteZeroes { range: range(4 * MIB, 4096), fua: false, no_hole: true };
    for (id, kind) in [(901, trim), (902, zero)] {
        let out = bench.tell(Event::Request { id: RequestId(id), kind });
        bench.run(out);
    }
    assert_eq!(bench.changed(mark), [(2 * MIB, 8192), (4 * MIB, 4096)]);
}

#[test]
fn a_sealed_volume_keeps_its_marks_until_they_are_forgotten() {
    let mut bench = Bench::marked(64 * MIB);
    bench.write_all(3 * MIB, 4096);
    let out = bench.tell(Event::Command(Command::Seal));
    bench.run(out);
    assert_eq!(bench.changed(MarkId(2)), [(3 * MIB, 4096)]);
    let forget = Command::ForgetMark { mark: MarkId(2) };
    for _ in 0..2 {
        let out = bench.tell(Event::Command(forget));
        let said = bench.run(out);
        assert_eq!(said, [Operation::Notice(Notice::MarkForgotten { mark: MarkId(2) })]);
    }
    assert!(bench.engine.marks().is_empty() && bench.map.marks.is_empty());
    assert_eq!(bench.mark(), MarkId(3), "an id is never given twice");
}

#[test]
fn writes_wait_while_the_map_cannot_be_told_and_fail_when_that_lasts() {
    let mut bench = Bench::marked(64 * MIB);
    let (mut op, _) = persist(&bench.write(0, 4096));
    let mut now_ms = 0;
    for attempt in 1.. {
        let out = bench.tell(Event::Done { op, result: Err(Errno::ENOSPC) });
        assert!(out.contains(&Operation::Notice(Notice::PersistFailed { errno: Errno::ENOSPC })));
        let replied = Operation::Reply { request: RequestId(bench.next), result: Err(Errno::ENOSPC) };
        if out.contains(&replied) {
            assert_eq!(attempt, LISTING_ATTEMPTS_MAX);
            break;
        }
        assert!(bench.engine.wants_tick());
        now_ms += 10_000;
        op = persist(&bench.tell(Event::Tick { now_ms })).0;
    }
    assert!(!bench.engine.wants_tick(), "nobody waits any more");
    bench.tell(Event::Tick { now_ms: now_ms + 10_000 });
    bench.write_all(0, 4096);
}

#[test]
fn a_mark_that_cannot_be_made_durable_is_none_and_holds_nobody_up() {
    let mut bench = Bench::new(64 * MIB, false);
    let out = bench.tell(Event::Command(Command::Mark));
    let [Operation::SyncLocal { op }] = out[..] else { panic!("{out:?}") };
    let out = bench.write(0, 4096);
    assert!(matches!(out[..], [Operation::WriteLocal { .. }]), "the sync holds nobody up: {out:?}");
    let (op, records) = persist(&bench.done(op));
    assert!(matches!(records[..], [MapRecord::MarkSet(MarkId(2)), MapRecord::MayChange(_)]));
    assert_eq!(bench.write(0, 4096), [], "it must be known first whether there is a mark");
    let out = bench.tell(Event::Done { op, result: Err(Errno::EIO) });
    let failed = Notice::CommandFailed { command: Command::Mark, errno: Errno::EIO };
    assert!(out.contains(&Operation::Notice(failed)));
    assert!(matches!(out.last(), Some(Operation::WriteLocal { .. })), "{out:?}");
    assert!(bench.engine.marks().is_empty());
}

#[test]
fn there_are_only_so_many_marks() {
    let mut bench = Bench::new(64 * MIB, false);
    for _ in 0..MARKS_MAX {
        bench.mark();
    }
    let out = bench.tell(Event::Command(Command::Mark));
    let refused = Notice::CommandRefused { command: Command::Mark, refusal: Refusal::TooManyMarks };
    assert_eq!(out, [Operation::Notice(refused)]);
}

#[test]
fn an_unseal_forgets_every_mark_but_that_of_the_birth_with_the_frame_that_opens() {
    let geometry = Geometry::new(64 * MIB, MIB).unwrap();
    let map = MapState::fresh([1; 16], geometry, 1, Phase::Open, true).born();
    let engine = Engine::new(map.clone(), Limits::default());
    let mut bench = Bench { engine, map, next: 0, persists: 0 };
    let mark = bench.mark();
    let out = bench.tell(Event::Command(Command::Seal));
    bench.run(out);
    assert!(bench.map.marks.since(mark).is_some(), "a seal keeps it");
    let out = bench.tell(Event::Command(Command::Unseal));
    let [Operation::SyncLocal { op }] = out[..] else { panic!("{out:?}") };
    let out = bench.done(op);
    let (_, records) = persist(&out);
    assert_eq!(records, [MapRecord::MarkForgotten(mark), MapRecord::Phase(Phase::Open)]);
    bench.run(out);
    let kept = |marks: &ferry_engine::Marks| marks.iter().map(|(mark, _)| mark).collect::<Vec<_>>();
    assert_eq!(kept(bench.engine.marks()), [MarkId::BIRTH]);
    assert_eq!(kept(&bench.map.marks), [MarkId::BIRTH]);
    assert!(bench.mark() > mark, "an id is never given twice");
}
