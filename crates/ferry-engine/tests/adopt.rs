//! What the engine promises of what was copied before the volume was opened.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

mod support;

use ferry_engine::{
    Blocks, Command, Engine, Errno, Event, Geometry, Limits, MapRecord, MapState, Notice, OpId, Operation,
    Phase, RequestKind, Residence, SourceExtent,
};
use support::{ask, done, tell};

const REGION_BYTES: u64 = 1 << 20;
const REGION_BLOCKS: u64 = REGION_BYTES / 4096;

fn standby(regions: u64) -> Engine {
    let geometry = Geometry::new(regions * REGION_BYTES, REGION_BYTES).unwrap();
    Engine::new(MapState::fresh([1; 16], geometry, 2, Phase::Standby, true), Limits::default())
}

fn blocks(first: u64, end: u64) -> Blocks {
    Blocks::between(first, end).unwrap()
}

/// Has what was taken over made durable, up to the append to the map; gives what that says.
fn adopt(engine: &mut Engine) -> (OpId, Vec<MapRecord>) {
    let asked = tell(engine, Event::Command(Command::Adopt));
    let [Operation::SyncLocal { op }] = asked[..] else { panic!("{asked:?}") };
    match &done(engine, op)[..] {
        [Operation::Persist { op, records }] => (*op, records.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_copied_before_the_volume_was_opened_is_local_when_store_and_map_are_durable() {
    let mut engine = standby(2);
    engine.adopt(blocks(0, 7));
    engine.adopt(blocks(8, REGION_BLOCKS));
    let (persist, records) = adopt(&mut engine);
    assert_eq!(records, [MapRecord::Local(blocks(0, 7)), MapRecord::Local(blocks(8, REGION_BLOCKS))]);
    assert_eq!(done(&mut engine, persist), [Operation::Notice(Notice::Adopted)]);
    let whole = engine.geometry().all_bytes();
    let remote: Vec<_> = engine.truth(whole).filter(|(_, is)| *is == Residence::Remote).collect();
    assert_eq!(remote.len(), 2, "{remote:?}");
    assert_eq!(engine.status().bytes_remote, REGION_BYTES + 4096);
    let opened = tell(&mut engine, Event::Command(Command::Open));
    let [Operation::SyncLocal { op }] = opened[..] else { panic!("{opened:?}") };
    let [Operation::Persist { op, .. }] = done(&mut engine, op)[..] else { panic!("a phase is told") };
    done(&mut engine, op);
    let range = engine.geometry().bytes_of(blocks(2, 7));
    let read = ask(&mut engine, 1, RequestKind::Read { range });
    assert!(matches!(read[..], [Operation::ReadLocal { .. }]), "{read:?}");
}

#[test]
fn nothing_to_take_over_is_done_at_once() {
    let asked = tell(&mut standby(1), Event::Command(Command::Adopt));
    assert_eq!(asked, [Operation::Notice(Notice::Adopted)]);
}

#[test]
fn a_volume_that_was_copied_whole_is_complete_before_anybody_uses_it() {
    let mut engine = standby(1);
    engine.adopt(blocks(0, REGION_BLOCKS));
    let (persist, _) = adopt(&mut engine);
    let ended = done(&mut engine, persist);
    assert_eq!(ended, [Operation::Notice(Notice::Adopted), Operation::Notice(Notice::HydrationComplete)]);
}

#[test]
fn what_the_map_could_not_be_told_is_told_to_whoever_asked() {
    let mut engine = standby(1);
    engine.adopt(blocks(0, 1));
    let (persist, _) = adopt(&mut engine);
    let ended = tell(&mut engine, Event::Done { op: persist, result: Err(Errno::ENOSPC) });
    let failed = Notice::CommandFailed { command: Command::Adopt, errno: Errno::ENOSPC };
    assert!(ended.contains(&Operation::Notice(failed)), "{ended:?}");
    let (persist, records) = adopt(&mut engine);
    assert_eq!(records, [MapRecord::Local(blocks(0, 1))]);
    assert_eq!(done(&mut engine, persist), [Operation::Notice(Notice::Adopted)]);
}

#[test]
fn what_was_copied_and_has_changed_since_is_written_before_it_is_called_zero() {
    let mut engine = standby(1);
    engine.adopt(blocks(8, REGION_BLOCKS));
    engine.store_may_hold_anything();
    let (persist, _) = adopt(&mut engine);
    done(&mut engine, persist);
    let opened = tell(&mut engine, Event::Command(Command::Open));
    let [Operation::SyncLocal { op }] = opened[..] else { panic!("{opened:?}") };
    let [Operation::Persist { op, .. }] = done(&mut engine, op)[..] else { panic!("a phase is told") };
    done(&mut engine, op);
    let asks = tell(&mut engine, Event::SourceUp);
    let query = asks.iter().find_map(|operation| match operation {
        Operation::QuerySource { op, .. } => Some(*op),
        _ => None,
    });
    let extent = SourceExtent { len_bytes: REGION_BYTES, zero: true };
    let zeroed = tell(&mut engine, Event::Extents { op: query.unwrap(), result: Ok(vec![extent]) });
    let range = engine.geometry().bytes_of(blocks(0, 8));
    let is_it =
        |operation: &Operation| matches!(operation, Operation::ZeroLocal { range: at, .. } if *at == range);
    assert!(zeroed.iter().any(is_it), "{zeroed:?}");
    assert_eq!(engine.status().bytes_remote, 8 * 4096, "not before that is done");
}
