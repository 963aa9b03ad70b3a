//! What the engine promises, one promise a test.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

mod support;

use ferry_engine::limits::FETCH_ATTEMPTS_MAX;
use ferry_engine::{
    Arrival, Blocks, ByteRange, Command, DataRef, Engine, Errno, Event, FetchFailure, Geometry, Limits,
    MapRecord, MapState, Notice, OpId, Operation, Phase, Refusal, RequestId, RequestKind, SourceExtent,
    Urgency,
};

use std::collections::VecDeque;
use support::{ask, done, tell};

const MIB: u64 = 1 << 20;

fn engine(size_bytes: u64, phase: Phase, has_source: bool) -> Engine {
    let geometry = Geometry::new(size_bytes, MIB).unwrap();
    Engine::new(MapState::fresh([1; 16], geometry, 1, phase, has_source), Limits::default())
}

/// A clone whose background does nothing by itself.
fn quiet_clone(size_bytes: u64) -> Engine {
    let mut engine = engine(size_bytes, Phase::Open, true);
    tell(&mut engine, Event::Command(Command::PauseHydration));
    engine
}

/// A write of what the map does not know is done, and noted; gives what came of both.
fn written(engine: &mut Engine, op: OpId) -> Vec<Operation> {
    let mut came = done(engine, op);
    let note = came.iter().position(|operation| matches!(operation, Operation::Note { .. }));
    let Operation::Note { op, .. } = came.remove(note.expect("it is noted before it is answered")) else {
        unreachable!("it was looked for")
    };
    came.extend(done(engine, op));
    came
}

fn arrive(engine: &mut Engine, op: OpId) -> Vec<Operation> {
    tell(engine, Event::Fetched { op, result: Ok(Arrival::DATA) })
}

fn range(offset: u64, len: u64) -> ByteRange {
    ByteRange::new(offset, len).unwrap()
}

fn write(offset: u64, len: u64) -> RequestKind {
    RequestKind::Write { range: range(offset, len), fua: false }
}

fn read(offset: u64, len: u64) -> RequestKind {
    RequestKind::Read { range: range(offset, len) }
}

fn ok(id: u64) -> Operation {
    Operation::Reply { request: RequestId(id), result: Ok(()) }
}

fn failed(id: u64, errno: Errno) -> Operation {
    Operation::Reply { request: RequestId(id), result: Err(errno) }
}

/// The one operation with an id among these.
fn op(operations: &[Operation]) -> OpId {
    let mut ops = operations.iter().filter_map(|operation| match operation {
        Operation::ReadLocal { op, .. }
        | Operation::WriteLocal { op, .. }
        | Operation::ZeroLocal { op, .. }
        | Operation::Fetch { op, .. }
        | Operation::QuerySource { op, .. }
        | Operation::SyncLocal { op }
        | Operation::Note { op, .. }
        | Operation::Persist { op, .. } => Some(*op),
        _ => None,
    });
    let only = ops.next().unwrap();
    assert_eq!(ops.next(), None, "{operations:?}");
    only
}

#[test]
fn a_local_volume_is_one_operation_in_and_one_out() {
    let mut engine = engine(64 * MIB, Phase::Open, false);
    let started = ask(&mut engine, 1, write(512, 100));
    assert!(matches!(started[..], [Operation::WriteLocal { .. }]), "{started:?}");
    assert_eq!(done(&mut engine, op(&started)), [ok(1)]);
    let started = ask(&mut engine, 2, read(0, 8 * MIB));
    assert!(matches!(started[..], [Operation::ReadLocal { .. }]), "{started:?}");
    assert_eq!(done(&mut engine, op(&started)), [ok(2)]);
    let started = ask(&mut engine, 3, RequestKind::Flush);
    assert!(matches!(started[..], [Operation::SyncLocal { .. }]), "{started:?}");
    assert_eq!(done(&mut engine, op(&started)), [ok(3)]);
    assert!(!engine.wants_tick());
}

#[test]
fn a_write_of_whole_blocks_and_reading_it_need_no_source() {
    let mut engine = quiet_clone(4 * MIB);
    let started = ask(&mut engine, 1, write(4096, 8192));
    assert!(matches!(started[..], [Operation::WriteLocal { .. }]), "{started:?}");
    assert_eq!(written(&mut engine, op(&started)), [ok(1)]);
    let started = ask(&mut engine, 2, read(5000, 100));
    assert!(matches!(started[..], [Operation::ReadLocal { .. }]), "{started:?}");
}

#[test]
fn a_write_of_a_part_of_a_remote_block_fetches_that_block_alone_and_first() {
    let mut engine = quiet_clone(4 * MIB);
    tell(&mut engine, Event::SourceUp);
    let started = ask(&mut engine, 1, write(4096 + 512, 8192 - 512));
    let Operation::Fetch { op: fetch, range: fetched, urgency } = started[0] else { panic!("{started:?}") };
    assert_eq!((fetched, urgency, started.len()), (range(4096, 4096), Urgency::Guest, 1));
    let kept = arrive(&mut engine, fetch);
    assert!(matches!(kept[..], [Operation::WriteLocal { data: DataRef::Fetch { .. }, .. }]), "{kept:?}");
    let went_on = done(&mut engine, op(&kept));
    let data = DataRef::Request { id: RequestId(1), at: 0 };
    assert_eq!(went_on[0], Operation::DropFetch { fetch });
    assert!(matches!(went_on[1], Operation::WriteLocal { data: given, .. } if given == data), "{went_on:?}");
    assert_eq!(written(&mut engine, op(&went_on)), [ok(1)]);
}

#[test]
fn a_read_is_answered_before_it_is_kept_and_the_next_one_is_local() {
    let mut engine = quiet_clone(4 * MIB);
    tell(&mut engine, Event::SourceUp);
    let started = ask(&mut engine, 1, read(100, 5000));
    let arrived = arrive(&mut engine, op(&started));
    assert!(
        matches!(arrived[0], Operation::CopyFetched { at: 100, request_at: 0, len: 5000, .. }),
        "{arrived:?}"
    );
    assert_eq!(arrived[1], ok(1));
    let joined = ask(&mut engine, 2, read(0, 4096));
    assert!(matches!(joined[..], [Operation::CopyFetched { .. }, Operation::Reply { .. }]), "{joined:?}");
    done(&mut engine, op(&arrived));
    let again = ask(&mut engine, 3, read(0, 8192));
    assert!(matches!(again[..], [Operation::ReadLocal { .. }]), "{again:?}");
}

#[test]
fn a_copy_in_loses_against_a_write() {
    let mut engine = quiet_clone(4 * MIB);
    tell(&mut engine, Event::SourceUp);
    let fetch = op(&ask(&mut engine, 1, read(0, 4096)));
    let written = ask(&mut engine, 2, write(0, 4096));
    let arrived = arrive(&mut engine, fetch);
    assert!(
        matches!(arrived[..], [Operation::CopyFetched { .. }, _, Operation::DropFetch { .. }]),
        "{arrived:?}"
    );
    assert_eq!(self::written(&mut engine, op(&written)), [ok(2)]);
}

#[test]
fn zeroes_of_the_source_cost_one_query_and_one_record_however_many() {
    let mut engine = engine(1 << 40, Phase::Open, true);
    let query = tell(&mut engine, Event::SourceUp);
    let extents = vec![SourceExtent { len_bytes: 1 << 40, zero: true }];
    let learned = tell(&mut engine, Event::Extents { op: op(&query), result: Ok(extents) });
    assert!(matches!(learned[..], [Operation::SyncLocal { .. }]), "{learned:?}");
    let told = done(&mut engine, op(&learned));
    let Operation::Persist { records, .. } = &told[0] else { panic!("{told:?}") };
    assert_eq!((told.len(), records.len()), (1, 1));
    assert!(!engine.status().complete, "not before the map knows");
    let ended = done(&mut engine, op(&told));
    assert_eq!(ended, [Operation::Notice(Notice::HydrationComplete)]);
    assert!(engine.status().complete && !engine.wants_tick());
}

#[test]
fn a_bad_block_costs_a_reader_an_error_and_the_rest_nothing() {
    let mut engine = quiet_clone(4 * MIB);
    tell(&mut engine, Event::SourceUp);
    let mut operations = ask(&mut engine, 1, read(0, 4096));
    let mut now_ms = 0;
    for attempt in 1..=FETCH_ATTEMPTS_MAX {
        let result = Err(FetchFailure::Errno(Errno::EIO));
        let answer = tell(&mut engine, Event::Fetched { op: op(&operations), result });
        assert_eq!(answer.contains(&failed(1, Errno::EIO)), attempt == FETCH_ATTEMPTS_MAX, "{answer:?}");
        now_ms += 10_000;
        operations = tell(&mut engine, Event::Tick { now_ms });
    }
    assert_eq!(operations, []);
    let good = ask(&mut engine, 2, read(4096, 4096));
    assert!(arrive(&mut engine, op(&good)).contains(&ok(2)));
}

#[test]
fn reads_wait_while_the_source_is_away_and_go_on_when_it_is_back() {
    let mut engine = quiet_clone(4 * MIB);
    tell(&mut engine, Event::SourceUp);
    let fetch = op(&ask(&mut engine, 1, read(0, 4096)));
    tell(&mut engine, Event::SourceDown);
    assert_eq!(tell(&mut engine, Event::Fetched { op: fetch, result: Err(FetchFailure::Disconnected) }), []);
    assert_eq!(tell(&mut engine, Event::Tick { now_ms: 1 << 40 }), []);
    assert_eq!(engine.status().waiting_for_source, 1);
    let again = tell(&mut engine, Event::SourceUp);
    assert!(arrive(&mut engine, op(&again)).contains(&ok(1)));
}

#[test]
fn a_full_disk_reaches_the_guest_and_the_block_stays_at_the_source() {
    let mut engine = quiet_clone(4 * MIB);
    tell(&mut engine, Event::SourceUp);
    let written = ask(&mut engine, 1, write(0, 4096));
    let refused = tell(&mut engine, Event::Done { op: op(&written), result: Err(Errno::ENOSPC) });
    assert_eq!(refused, [failed(1, Errno::ENOSPC)]);
    let fetch = op(&ask(&mut engine, 2, read(0, 4096)));
    let arrived = tell(&mut engine, Event::Fetched { op: fetch, result: Ok(Arrival::ZEROES) });
    let zeroed = |operation: &Operation| matches!(operation, Operation::ZeroLocal { .. });
    assert!(arrived.iter().any(zeroed), "what the failed write left is zeroed first: {arrived:?}");
}

#[test]
fn a_trim_of_everything_ends_although_the_background_never_stops() {
    let mut engine = engine(64 * MIB, Phase::Open, true);
    let query = op(&tell(&mut engine, Event::SourceUp));
    let extents = vec![SourceExtent { len_bytes: 64 * MIB, zero: false }];
    let fetches = tell(&mut engine, Event::Extents { op: query, result: Ok(extents) });
    let ops: Vec<OpId> = fetches.iter().map(|fetch| op(std::slice::from_ref(fetch))).collect();
    let kept = arrive(&mut engine, ops[0]);
    let all = engine.geometry().all_bytes();
    assert_eq!(ask(&mut engine, 1, RequestKind::Trim { range: all, fua: false }), []);
    assert!(arrive(&mut engine, ops[1]).iter().all(|next| !matches!(next, Operation::WriteLocal { .. })));
    let copied = done(&mut engine, op(&kept[..1]));
    let zero = copied.iter().find(|next| matches!(next, Operation::ZeroLocal { .. })).unwrap();
    assert!(written(&mut engine, op(std::slice::from_ref(zero))).contains(&ok(1)));
    assert_eq!(engine.status().bytes_remote, 0);
}

#[test]
fn a_sealed_volume_refuses_writes_and_serves_reads() {
    let mut engine = engine(4 * MIB, Phase::Open, false);
    let under_way = ask(&mut engine, 1, write(0, 4096));
    assert_eq!(tell(&mut engine, Event::Command(Command::Seal)), []);
    assert_eq!(ask(&mut engine, 2, write(0, 4096)), [failed(2, Errno::EPERM)]);
    let drained = done(&mut engine, op(&under_way));
    assert_eq!(drained[0], ok(1));
    let told = done(&mut engine, op(&drained));
    assert_eq!(done(&mut engine, op(&told)), [Operation::Notice(Notice::Sealed)]);
    assert_eq!(engine.status().phase, Phase::Sealed);
    assert_eq!(ask(&mut engine, 3, write(0, 4096)), [failed(3, Errno::EPERM)]);
    assert!(matches!(ask(&mut engine, 4, read(0, 512))[..], [Operation::ReadLocal { .. }]));
    let command = Command::Open;
    let refusal = Notice::CommandRefused { command, refusal: Refusal::Sealed };
    assert_eq!(tell(&mut engine, Event::Command(command)), [Operation::Notice(refusal)]);
}

#[test]
fn a_volume_on_standby_serves_nobody_and_fetches_nothing() {
    let mut engine = engine(4 * MIB, Phase::Standby, true);
    assert_eq!(tell(&mut engine, Event::SourceUp), []);
    assert_eq!(ask(&mut engine, 1, read(0, 512)), [failed(1, Errno::ESHUTDOWN)]);
    let sync = tell(&mut engine, Event::Command(Command::Open));
    let told = done(&mut engine, op(&sync));
    let opened = done(&mut engine, op(&told));
    assert!(opened.contains(&Operation::Notice(Notice::Opened)), "{opened:?}");
    assert_eq!(ask(&mut engine, 2, read(4 * MIB, 1)), [failed(2, Errno::EINVAL)]);
}

#[test]
fn after_a_failed_sync_nothing_is_promised_any_more() {
    let mut engine = engine(4 * MIB, Phase::Open, false);
    let sync = op(&ask(&mut engine, 1, RequestKind::Flush));
    let notice = Operation::Notice(Notice::StoreFailed { errno: Errno::EIO });
    assert_eq!(
        tell(&mut engine, Event::Done { op: sync, result: Err(Errno::EIO) }),
        [notice, failed(1, Errno::EIO)]
    );
    assert_eq!(ask(&mut engine, 2, RequestKind::Flush), [failed(2, Errno::EIO)]);
    assert_eq!(ask(&mut engine, 3, write(0, 512)), [failed(3, Errno::EIO)]);
}

#[test]
fn a_whole_volume_whose_store_takes_no_writes_any_more_is_sealed_as_it_is_and_opened_again() {
    let read_only = Err(Errno::EROFS);
    for fails_at_sync in [true, false] {
        let mut engine = engine(4 * MIB, Phase::Open, false);
        let sync = op(&tell(&mut engine, Event::Command(Command::Seal)));
        let told = match fails_at_sync {
            true => tell(&mut engine, Event::Done { op: sync, result: read_only }),
            false => {
                let persist = op(&done(&mut engine, sync));
                tell(&mut engine, Event::Done { op: persist, result: read_only })
            }
        };
        let failed_first = Operation::Notice(Notice::StoreFailed { errno: Errno::EROFS });
        assert!(told.contains(&failed_first), "{told:?}");
        assert_eq!(told.last(), Some(&Operation::Notice(Notice::Sealed)), "{told:?}");
        assert_eq!(engine.status().phase, Phase::Sealed);
        assert!(engine.status().store_read_only);
        assert_eq!(ask(&mut engine, 1, write(0, 4096)), [failed(1, Errno::EPERM)]);
        assert!(matches!(ask(&mut engine, 2, read(0, 512))[..], [Operation::ReadLocal { .. }]));
        let opened = tell(&mut engine, Event::Command(Command::Unseal));
        assert_eq!(opened, [Operation::Notice(Notice::Unsealed)]);
        assert_eq!(
            ask(&mut engine, 3, write(0, 512)),
            [failed(3, Errno::EIO)],
            "it takes no writes here either"
        );
        assert_eq!(tell(&mut engine, Event::Command(Command::Seal)), [Operation::Notice(Notice::Sealed)]);
    }
}

#[test]
fn a_seal_that_the_map_knows_is_not_taken_back_without_a_word_to_it() {
    let mut engine = engine(4 * MIB, Phase::Sealed, false);
    let sync = op(&tell(&mut engine, Event::Command(Command::Unseal)));
    let told = tell(&mut engine, Event::Done { op: sync, result: Err(Errno::EROFS) });
    let kept = Notice::CommandFailed { command: Command::Unseal, errno: Errno::EROFS };
    assert_eq!(told.last(), Some(&Operation::Notice(kept)), "{told:?}");
    assert_eq!(engine.status().phase, Phase::Sealed);
}

#[test]
fn a_volume_that_is_not_whole_or_whose_store_fails_otherwise_is_not_sealed_as_it_is() {
    for (has_source, errno) in [(true, Errno::EROFS), (false, Errno::EIO)] {
        let mut engine = engine(4 * MIB, Phase::Open, has_source);
        let sync = op(&tell(&mut engine, Event::Command(Command::Seal)));
        let told = tell(&mut engine, Event::Done { op: sync, result: Err(errno) });
        let refused = Notice::CommandFailed { command: Command::Seal, errno };
        assert!(told.contains(&Operation::Notice(refused)), "{told:?}");
        assert_eq!(engine.status().phase, Phase::Open);
    }
}

#[test]
fn a_flush_after_a_failed_persist_tells_the_map_again() {
    let mut engine = quiet_clone(4 * MIB);
    let written = op(&ask(&mut engine, 1, write(0, 4096)));
    done(&mut engine, written);
    let sync = op(&ask(&mut engine, 2, RequestKind::Flush));
    let persist = done(&mut engine, sync);
    let refused = tell(&mut engine, Event::Done { op: op(&persist), result: Err(Errno::ENOSPC) });
    assert!(refused.contains(&failed(2, Errno::ENOSPC)), "{refused:?}");
    let sync = op(&ask(&mut engine, 3, RequestKind::Flush));
    let again = done(&mut engine, sync);
    let told = |operations: &[Operation]| match operations {
        [Operation::Persist { records, .. }] => records.clone(),
        _ => panic!("the guest's block must be told to the map: {operations:?}"),
    };
    assert_eq!(told(&again), told(&persist));
    assert_eq!(done(&mut engine, op(&again)), [ok(3)]);
}

#[test]
fn a_source_that_answers_nonsense_is_copied_block_by_block() {
    let mut engine = engine(8192, Phase::Open, true);
    let query = op(&tell(&mut engine, Event::SourceUp));
    let nonsense = vec![SourceExtent { len_bytes: 0, zero: true }; 3];
    let next = tell(&mut engine, Event::Extents { op: query, result: Ok(nonsense) });
    let [Operation::Fetch { .. }, Operation::QuerySource { op: query, .. }] = next[..] else {
        panic!("{next:?}")
    };
    let endless = vec![SourceExtent { len_bytes: u64::MAX, zero: true }; 2];
    tell(&mut engine, Event::Extents { op: query, result: Ok(endless) });
    assert_eq!(engine.status().bytes_remote, 4096, "only what the source vouched for is zero");
}

#[test]
fn the_background_keeps_a_small_share_while_the_guest_waits_and_grows_when_nobody_does() {
    let mut engine = engine(256 * MIB, Phase::Open, true);
    let query = op(&tell(&mut engine, Event::SourceUp));
    let all = SourceExtent { len_bytes: 256 * MIB, zero: false };
    let mut in_flight =
        VecDeque::from(fetches(&tell(&mut engine, Event::Extents { op: query, result: Ok(vec![all]) })));
    assert_eq!(in_flight.len(), 2, "it begins gently");
    let mut most = 0;
    while most < 16 {
        let next = in_flight.pop_front().unwrap();
        let zeroes = Event::Fetched { op: next, result: Ok(Arrival::ZEROES) };
        in_flight.extend(fetches(&tell(&mut engine, zeroes)));
        most = most.max(in_flight.len());
    }
    let waits = ask(&mut engine, 1, read(255 * MIB, 4096));
    assert_eq!(fetches(&waits).len(), 1);
    while in_flight.len() > 2 {
        let next = in_flight.pop_front().unwrap();
        let out = tell(&mut engine, Event::Fetched { op: next, result: Ok(Arrival::ZEROES) });
        assert_eq!(fetches(&out), [], "the guest waits");
    }
    let next = in_flight.pop_front().unwrap();
    let out = tell(&mut engine, Event::Fetched { op: next, result: Ok(Arrival::ZEROES) });
    assert_eq!(fetches(&out).len(), 1, "the share is never nothing");
}

/// The fetches among these.
fn fetches(operations: &[Operation]) -> Vec<OpId> {
    let ops = operations.iter().filter_map(|operation| match operation {
        Operation::Fetch { op, .. } => Some(*op),
        _ => None,
    });
    ops.collect()
}

#[test]
fn a_write_that_the_map_does_not_know_is_noted_once_before_it_is_answered() {
    let mut engine = quiet_clone(4 * MIB);
    let started = ask(&mut engine, 1, write(4096, 8192));
    let noting = done(&mut engine, op(&started));
    let [Operation::Note { op: note, blocks }] = noting[..] else { panic!("{noting:?}") };
    assert_eq!((blocks.first(), blocks.end()), (1, 3));
    assert_eq!(done(&mut engine, note), [ok(1)]);
    let again = ask(&mut engine, 2, write(4096 + 512, 512));
    assert_eq!(done(&mut engine, op(&again)), [ok(2)], "it is noted already");
    assert_eq!(engine.noted().map(|run| (run.first(), run.end())).collect::<Vec<_>>(), [(1, 3)]);
    let sync = ask(&mut engine, 3, RequestKind::Flush);
    let persist = done(&mut engine, op(&sync));
    assert_eq!(done(&mut engine, op(&persist)), [ok(3)]);
    assert_eq!(engine.noted().count(), 0, "the map knows");
    let known = ask(&mut engine, 4, write(4096, 4096));
    assert_eq!(done(&mut engine, op(&known)), [ok(4)]);
}

#[test]
fn a_write_that_cannot_be_noted_is_durable_before_it_is_answered() {
    let mut engine = quiet_clone(4 * MIB);
    let started = ask(&mut engine, 1, write(4096, 8192));
    let noting = done(&mut engine, op(&started));
    let sync = tell(&mut engine, Event::Done { op: op(&noting), result: Err(Errno::ENOSPC) });
    assert!(matches!(sync[..], [Operation::SyncLocal { .. }]), "{sync:?}");
    let persist = done(&mut engine, op(&sync));
    assert!(matches!(persist[..], [Operation::Persist { .. }]), "{persist:?}");
    assert_eq!(done(&mut engine, op(&persist)), [ok(1)]);
}

/// A clone with one block that was copied in and is not in the map.
fn clone_with_a_block_that_only_it_knows() -> Engine {
    let mut engine = quiet_clone(4 * MIB);
    tell(&mut engine, Event::SourceUp);
    let fetch = ask(&mut engine, 100, read(4096, 4096));
    let arrived = arrive(&mut engine, op(&fetch));
    for operation in arrived {
        if let Operation::WriteLocal { op, .. } = operation {
            done(&mut engine, op);
        }
    }
    engine
}

#[test]
fn a_read_gives_what_is_written_only_when_a_server_that_is_killed_would_know_of_it() {
    let mut engine = clone_with_a_block_that_only_it_knows();
    let before = ask(&mut engine, 1, read(4096, 4096));
    assert!(matches!(before[..], [Operation::ReadLocal { .. }]), "{before:?}");
    let writing = ask(&mut engine, 2, write(4096, 4096));
    let around = ask(&mut engine, 3, read(0, 12288));
    assert!(around.iter().all(|operation| matches!(operation, Operation::Fetch { .. })), "{around:?}");
    assert_eq!(ask(&mut engine, 4, read(4096, 4096)), [], "its bytes may be in the store already");
    let noting = done(&mut engine, op(&writing));
    assert_eq!(ask(&mut engine, 5, read(4096 + 512, 512)), []);
    let noted = done(&mut engine, op(&noting));
    assert!(noted.contains(&ok(2)), "{noted:?}");
    let reads = noted.iter().filter(|operation| matches!(operation, Operation::ReadLocal { .. }));
    assert_eq!(reads.count(), 3, "{noted:?}");
}

#[test]
fn a_read_of_what_can_neither_be_noted_nor_told_to_the_map_waits_for_room() {
    let mut engine = clone_with_a_block_that_only_it_knows();
    let writing = ask(&mut engine, 2, write(4096, 4096));
    let noting = done(&mut engine, op(&writing));
    assert_eq!(ask(&mut engine, 3, read(4096, 4096)), []);
    let sync = tell(&mut engine, Event::Done { op: op(&noting), result: Err(Errno::ENOSPC) });
    let persist = done(&mut engine, op(&sync));
    let refused = tell(&mut engine, Event::Done { op: op(&persist), result: Err(Errno::ENOSPC) });
    assert_eq!(
        refused,
        [Operation::Notice(Notice::PersistFailed { errno: Errno::ENOSPC }), failed(2, Errno::ENOSPC)]
    );
    // It is tried again without anybody's asking.
    assert!(engine.wants_tick());
    let sync = tell(&mut engine, Event::Tick { now_ms: 3_600_000 });
    let persist = done(&mut engine, op(&sync));
    let told = done(&mut engine, op(&persist));
    assert!(matches!(told[..], [Operation::ReadLocal { request: RequestId(3), .. }]), "{told:?}");
}

#[test]
fn what_was_noted_is_local_at_once_and_the_map_is_told_by_the_next_flush() {
    let mut engine = quiet_clone(4 * MIB);
    engine.take_up_note(Blocks::between(1, 3).unwrap());
    let read = ask(&mut engine, 1, read(4096, 8192));
    assert!(matches!(read[..], [Operation::ReadLocal { .. }]), "{read:?}");
    let sync = ask(&mut engine, 2, RequestKind::Flush);
    let persist = done(&mut engine, op(&sync));
    let [Operation::Persist { records, .. }] = &persist[..] else { panic!("{persist:?}") };
    assert_eq!(records[..], [MapRecord::Local(Blocks::between(1, 3).unwrap())]);
}
