//! What the engine promises about snapshots, one promise a test; `model` has every order of everything.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

mod support;

use ferry_engine::{
    Arrival, ByteRange, Command, Engine, Event, Geometry, Limits, MapState, Notice, OpId, Operation, Phase,
    Refusal, RequestId, RequestKind, SnapshotId, Urgency,
};
use std::collections::VecDeque;
use support::{ask, done, tell};

const REGION_BYTES: u64 = 1 << 20;
const SNAPSHOT: SnapshotId = SnapshotId(7);

fn engine(size_bytes: u64, has_source: bool) -> Engine {
    let geometry = Geometry::new(size_bytes, REGION_BYTES).unwrap();
    Engine::new(MapState::fresh([1; 16], geometry, 1, Phase::Open, has_source), Limits::default())
}

fn range(offset: u64, len: u64) -> ByteRange {
    ByteRange::new(offset, len).unwrap()
}

fn take_snapshot(engine: &mut Engine) {
    let taken = tell(engine, Event::Command(Command::Snapshot { id: SNAPSHOT }));
    assert_eq!(taken, [Operation::Notice(Notice::SnapshotTaken { id: SNAPSHOT })]);
}

#[test]
fn a_trim_that_waits_for_a_snapshot_zeroes_what_it_covered_when_it_was_asked() {
    let mut engine = engine(4096 + 512, false);
    take_snapshot(&mut engine);
    let kept = ask(&mut engine, 1, RequestKind::Trim { range: range(4096, 512), fua: false });
    let [Operation::KeepLocal { op: keep, .. }] = kept[..] else { panic!("{kept:?}") };
    // The short last block becomes whole, so the trim would cover it only in part.
    let grows = tell(&mut engine, Event::Command(Command::Grow { size_bytes: 8192 }));
    let [Operation::SyncLocal { op: sync }] = grows[..] else { panic!("{grows:?}") };
    let synced = done(&mut engine, sync);
    let [Operation::Persist { op: persist, .. }] = synced[..] else { panic!("{synced:?}") };
    done(&mut engine, persist);
    let zeroes = done(&mut engine, keep);
    assert!(
        matches!(zeroes[..], [Operation::ZeroLocal { range: zeroed, .. }] if zeroed == range(4096, 512)),
        "{zeroes:?}"
    );
}

/// A clone whose background does nothing by itself, with a source that is there.
fn quiet_clone(size_bytes: u64) -> Engine {
    let mut engine = engine(size_bytes, true);
    tell(&mut engine, Event::Command(Command::PauseHydration));
    tell(&mut engine, Event::SourceUp);
    engine
}

fn write(offset: u64, len: u64) -> RequestKind {
    RequestKind::Write { range: range(offset, len), fua: false }
}

fn read_snapshot(offset: u64, len: u64) -> RequestKind {
    RequestKind::ReadSnapshot { snapshot: SNAPSHOT, range: range(offset, len) }
}

/// The fetch that is the only operation among these, and what it asks for.
fn fetch(operations: &[Operation]) -> (OpId, ByteRange) {
    let [Operation::Fetch { op, range, .. }] = *operations else { panic!("{operations:?}") };
    (op, range)
}

#[test]
fn a_write_of_a_whole_remote_block_waits_for_nothing_and_a_reader_of_the_snapshot_gets_what_the_source_has() {
    let mut engine = quiet_clone(REGION_BYTES);
    take_snapshot(&mut engine);
    let started = ask(&mut engine, 1, write(8192, 4096));
    let [Operation::WriteLocal { op, .. }] = started[..] else { panic!("{started:?}") };
    done(&mut engine, op);
    assert_eq!(engine.bytes_owed(SNAPSHOT), 4096);
    let (fetch, fetched) = fetch(&ask(&mut engine, 2, read_snapshot(8192, 4096)));
    assert_eq!(fetched, range(8192, 4096));
    let kept = tell(&mut engine, Event::Fetched { op: fetch, result: Ok(Arrival::DATA) });
    let [
        Operation::CopyFetched { .. },
        Operation::Reply { request: RequestId(2), result: Ok(()) },
        Operation::KeepFetched { op: keep, range: given, .. },
    ] = kept[..]
    else {
        panic!("the guest's block is not written again: {kept:?}")
    };
    assert_eq!(given, range(8192, 4096));
    done(&mut engine, keep);
    assert_eq!(engine.bytes_owed(SNAPSHOT), 0);
    let again = ask(&mut engine, 3, read_snapshot(8192, 4096));
    assert!(matches!(again[..], [Operation::ReadKept { .. }]), "{again:?}");
}

#[test]
fn a_volume_whose_snapshot_is_owed_something_is_not_complete_and_is_when_that_is_forgotten() {
    let mut engine = quiet_clone(8192);
    take_snapshot(&mut engine);
    let mut work = VecDeque::from(ask(&mut engine, 1, write(0, 8192)));
    let mut notices = Vec::new();
    let mut commands = VecDeque::from([Command::DetachSource, Command::ForgetSnapshot { id: SNAPSHOT }]);
    loop {
        match work.pop_front() {
            Some(
                Operation::WriteLocal { op, .. }
                | Operation::SyncLocal { op }
                | Operation::Note { op, .. }
                | Operation::Persist { op, .. },
            ) => work.extend(done(&mut engine, op)),
            Some(Operation::Notice(notice)) => notices.push(notice),
            Some(Operation::Reply { .. }) => {}
            Some(other) => panic!("{other:?}"),
            None => match commands.pop_front() {
                Some(command) => work.extend(tell(&mut engine, Event::Command(command))),
                None => break,
            },
        }
    }
    let (command, refusal) = (Command::DetachSource, Refusal::NotComplete);
    let refused = Notice::CommandRefused { command, refusal };
    let forgotten = Notice::SnapshotForgotten { id: SNAPSHOT };
    assert_eq!(notices, [refused, forgotten, Notice::HydrationComplete]);
}

#[test]
fn what_readers_of_a_snapshot_wait_for_comes_after_what_the_guest_waits_for() {
    let mut engine = quiet_clone(4 * REGION_BYTES);
    take_snapshot(&mut engine);
    tell(&mut engine, Event::SourceDown);
    assert_eq!(ask(&mut engine, 1, read_snapshot(0, 4096)), []);
    assert_eq!(ask(&mut engine, 2, RequestKind::Read { range: range(REGION_BYTES, 4096) }), []);
    let asked: Vec<(ByteRange, Urgency)> = tell(&mut engine, Event::SourceUp)
        .into_iter()
        .filter_map(|operation| match operation {
            Operation::Fetch { range, urgency, .. } => Some((range, urgency)),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [(range(REGION_BYTES, 4096), Urgency::Guest), (range(0, 4096), Urgency::Ahead)]);
}
