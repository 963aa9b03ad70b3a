//! A source that is away, and one that is given up.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

mod support;

use ferry_engine::{
    Arrival, ByteRange, Command, Engine, Errno, Event, FetchFailure, Geometry, Limits, LossPolicy, MapRecord,
    MapState, Notice, OpId, Operation, Phase, Refusal, RequestId, RequestKind,
};
use std::num::NonZeroU64;
use support::{ask, done, tell};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A clone whose background does nothing by itself, of a source that is not there yet.
fn clone(phase: Phase) -> Engine {
    let geometry = Geometry::new(4 * MIB, MIB).unwrap();
    let mut engine = Engine::new(MapState::fresh([1; 16], geometry, 1, phase, true), Limits::default());
    tell(&mut engine, Event::Command(Command::PauseHydration));
    engine
}

fn range(offset: u64, len: u64) -> ByteRange {
    ByteRange::new(offset, len).unwrap()
}

fn read(engine: &mut Engine, id: u64, offset: u64, len: u64) -> Vec<Operation> {
    let kind = RequestKind::Read { range: range(offset, len) };
    ask(engine, id, kind)
}

fn write(engine: &mut Engine, id: u64, offset: u64, len: u64) -> Vec<Operation> {
    let kind = RequestKind::Write { range: range(offset, len), fua: false };
    ask(engine, id, kind)
}

fn tick(engine: &mut Engine, now_ms: u64) -> Vec<Operation> {
    tell(engine, Event::Tick { now_ms })
}

fn fail_after(ms: u64) -> Event {
    let policy = LossPolicy::FailAfter { ms: NonZeroU64::new(ms).unwrap() };
    Event::Command(Command::SetLossPolicy { policy })
}

fn ok(id: u64) -> Operation {
    Operation::Reply { request: RequestId(id), result: Ok(()) }
}

fn eio(id: u64) -> Operation {
    Operation::Reply { request: RequestId(id), result: Err(Errno::EIO) }
}

fn ops(operations: &[Operation]) -> Vec<OpId> {
    let op = |operation: &Operation| match operation {
        Operation::ReadLocal { op, .. }
        | Operation::WriteLocal { op, .. }
        | Operation::ZeroLocal { op, .. }
        | Operation::Fetch { op, .. }
        | Operation::SyncLocal { op }
        | Operation::Note { op, .. }
        | Operation::Persist { op, .. } => Some(*op),
        _ => None,
    };
    operations.iter().filter_map(op).collect()
}

#[test]
fn by_default_a_read_waits_for_ever() {
    let mut engine = clone(Phase::Open);
    assert_eq!(read(&mut engine, 1, 0, BLOCK), []);
    assert_eq!(tick(&mut engine, 1 << 50), []);
    let status = engine.status();
    assert_eq!((status.waiting_for_source, status.source_away_ms), (1, Some(1 << 50)));
    let fetch = tell(&mut engine, Event::SourceUp);
    let arrived = tell(&mut engine, Event::Fetched { op: ops(&fetch)[0], result: Ok(Arrival::DATA) });
    assert!(arrived.contains(&ok(1)));
    assert_eq!(engine.status().source_away_ms, None);
}

#[test]
fn a_read_that_has_waited_as_long_as_the_policy_says_fails_and_the_next_one_waits_anew() {
    let mut engine = clone(Phase::Open);
    tell(&mut engine, fail_after(30_000));
    tick(&mut engine, 100_000);
    assert_eq!(read(&mut engine, 1, 0, BLOCK), [], "it has not waited yet, however long the source was away");
    assert_eq!(tick(&mut engine, 129_900), []);
    assert_eq!(read(&mut engine, 2, 0, BLOCK), []);
    assert_eq!(tick(&mut engine, 130_000), [eio(1)]);
    assert_eq!(tick(&mut engine, 159_900), [eio(2)]);
    let (written, partial) = (write(&mut engine, 3, BLOCK, BLOCK), write(&mut engine, 4, 0, 512));
    assert_eq!((ops(&written).len(), partial), (1, vec![]));
    let noted = done(&mut engine, ops(&written)[0]);
    assert!(done(&mut engine, ops(&noted)[0]).contains(&ok(3)), "whole blocks need no source");
    assert!(tick(&mut engine, 189_900).contains(&eio(4)), "a part of a block needs it");
    assert_eq!(read(&mut engine, 5, 0, BLOCK), []);
    let fetch = tell(&mut engine, Event::SourceUp);
    let arrived = tell(&mut engine, Event::Fetched { op: ops(&fetch)[0], result: Ok(Arrival::DATA) });
    assert!(arrived.contains(&ok(5)), "the source is back");
}

#[test]
fn a_source_that_is_there_and_slow_fails_nobody() {
    let mut engine = clone(Phase::Open);
    tell(&mut engine, fail_after(1_000));
    tell(&mut engine, Event::SourceUp);
    let first = read(&mut engine, 1, 0, BLOCK);
    tell(&mut engine, Event::Fetched { op: ops(&first)[0], result: Ok(Arrival::ZEROES) });
    let slow = read(&mut engine, 2, BLOCK, BLOCK);
    assert!(!tick(&mut engine, 1 << 40).contains(&eio(2)));
    assert!(
        tell(&mut engine, Event::Fetched { op: ops(&slow)[0], result: Ok(Arrival::ZEROES) }).contains(&ok(2))
    );
}

#[test]
fn a_source_that_takes_connections_and_never_answers_is_away() {
    let mut engine = clone(Phase::Open);
    tell(&mut engine, fail_after(10_000));
    assert_eq!(read(&mut engine, 1, 0, BLOCK), []);
    for now_ms in [3_000, 6_000, 9_000] {
        let fetch = tell(&mut engine, Event::SourceUp);
        assert_eq!(tick(&mut engine, now_ms), []);
        tell(&mut engine, Event::SourceDown);
        let cut = Event::Fetched { op: ops(&fetch)[0], result: Err(FetchFailure::Disconnected) };
        assert_eq!(tell(&mut engine, cut), []);
    }
    assert_eq!(tick(&mut engine, 10_000), [eio(1)]);
}

#[test]
fn giving_up_the_source_answers_those_who_wait_with_zeroes_and_is_one_record() {
    let mut engine = clone(Phase::Open);
    let kept = write(&mut engine, 1, 0, BLOCK);
    let noting = done(&mut engine, ops(&kept)[0]);
    assert_eq!(done(&mut engine, ops(&noting)[0]), [ok(1)]);
    assert_eq!(read(&mut engine, 2, 0, 2 * BLOCK).len(), 1, "the local half is read at once");
    let lost: Vec<ByteRange> = engine.remote_ranges().collect();
    assert_eq!(lost, [range(BLOCK, 4 * MIB - BLOCK)]);
    let sync = tell(&mut engine, Event::Command(Command::AbandonSource));
    assert_eq!(write(&mut engine, 3, MIB, BLOCK), [], "what is remote may not change now");
    let persist = done(&mut engine, ops(&sync)[0]);
    let Operation::Persist { records, .. } = &persist[0] else { panic!("{persist:?}") };
    assert_eq!(records.last(), Some(&MapRecord::Abandoned));
    let ended = done(&mut engine, ops(&persist)[0]);
    assert!(ended.contains(&Operation::Notice(Notice::SourceAbandoned)), "{ended:?}");
    assert!(ended.contains(&Operation::Notice(Notice::HydrationComplete)), "{ended:?}");
    let reads_on = |o: &Operation| matches!(o, Operation::ReadLocal { request: RequestId(2), .. });
    assert!(ended.iter().any(reads_on), "{ended:?}");
    let writes_on = |o: &Operation| matches!(o, Operation::WriteLocal { .. });
    assert!(ended.iter().any(writes_on), "{ended:?}");
    assert!(engine.status().complete && engine.remote_ranges().next().is_none());
    let again = tell(&mut engine, Event::Command(Command::AbandonSource));
    assert_eq!(again, [Operation::Notice(Notice::SourceAbandoned)]);
}

#[test]
fn what_a_failed_write_left_is_zeroed_before_the_source_is_given_up() {
    let mut engine = clone(Phase::Open);
    let written = write(&mut engine, 1, 0, BLOCK);
    tell(&mut engine, Event::Done { op: ops(&written)[0], result: Err(Errno::ENOSPC) });
    let zeroing = tell(&mut engine, Event::Command(Command::AbandonSource));
    assert!(matches!(zeroing[..], [Operation::ZeroLocal { .. }]), "{zeroing:?}");
    let failed = tell(&mut engine, Event::Done { op: ops(&zeroing)[0], result: Err(Errno::EIO) });
    let (command, errno) = (Command::AbandonSource, Errno::EIO);
    assert!(failed.contains(&Operation::Notice(Notice::CommandFailed { command, errno })), "{failed:?}");
    assert_eq!(engine.status().bytes_remote, 4 * MIB, "a command that fails has changed nothing");
    let zeroing = tell(&mut engine, Event::Command(Command::AbandonSource));
    let sync = done(&mut engine, ops(&zeroing)[0]);
    assert!(matches!(sync[..], [Operation::SyncLocal { .. }]), "{sync:?}");
    assert_eq!(engine.status().bytes_remote, 4 * MIB, "and nothing changes before the map says so");
}

#[test]
fn a_volume_on_standby_gives_nothing_up() {
    let mut engine = clone(Phase::Standby);
    let command = Command::AbandonSource;
    let refusal = Notice::CommandRefused { command, refusal: Refusal::Standby };
    assert_eq!(tell(&mut engine, Event::Command(command)), [Operation::Notice(refusal)]);
}
