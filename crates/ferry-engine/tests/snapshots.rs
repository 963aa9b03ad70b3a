//! What the engine promises about snapshots, one promise a test; `model` has every order of everything.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use ferry_engine::{
    ByteRange, Command, Engine, Event, Geometry, Limits, MapState, Notice, OpId, Operation, Phase, RequestId,
    RequestKind, SnapshotId,
};

const REGION_BYTES: u64 = 1 << 20;
const SNAPSHOT: SnapshotId = SnapshotId(7);

fn engine(size_bytes: u64, has_source: bool) -> Engine {
    let geometry = Geometry::new(size_bytes, REGION_BYTES).unwrap();
    Engine::new(MapState::fresh([1; 16], geometry, 1, Phase::Open, has_source), Limits::default())
}

fn tell(engine: &mut Engine, event: Event) -> Vec<Operation> {
    let mut out = Vec::new();
    engine.handle(event, &mut out);
    out
}

fn ask(engine: &mut Engine, id: u64, kind: RequestKind) -> Vec<Operation> {
    tell(engine, Event::Request { id: RequestId(id), kind })
}

fn done(engine: &mut Engine, op: OpId) -> Vec<Operation> {
    tell(engine, Event::Done { op, result: Ok(()) })
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
