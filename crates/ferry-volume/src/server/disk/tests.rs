//! Frames of the map, on real files.

use super::*;
use crate::control::Phase;
use crate::ring::IoBackend;
use crate::store::{self, CreateOptions};
use ferry_engine::{Blocks, Residence};
use std::path::Path;
use std::time::Duration;

const BLOCKS: u64 = 2 * FRAME_RECORDS_MAX as u64 + 2_000;

fn store(dir: &Path) -> Store {
    let id = "01JD9Z6M4Q5R6S7T8V9WAXBYCZ".to_owned();
    let source = Some("file:///nowhere".parse().unwrap());
    let (size_bytes, region_bytes, phase) = (BLOCKS * ferry_engine::BLOCK_BYTES, 1 << 20, Phase::Open);
    let options = CreateOptions {
        dir: dir.to_owned(),
        id,
        size_bytes,
        region_bytes,
        generation: 1,
        phase,
        source,
        born_from: None,
        base: None,
        device: None,
        direct: false,
    };
    store::create(&options).unwrap();
    store::open(dir).unwrap().0
}

fn persist(store: &mut Store, records: Vec<MapRecord>) -> Result<(), Errno> {
    let mut ring = Ring::new(IoBackend::Portable).unwrap();
    let pool = Pool::new();
    let mut completed = Vec::new();
    let (mut inline, mut writeback) = (Inline::default(), Writeback::default());
    let mut turns = Turns::default();
    Disk {
        ring: &mut ring,
        store,
        pool: &pool,
        inline: &mut inline,
        writeback: &mut writeback,
        turns: &mut turns,
    }
    .persist(OpId::from_u64(1), records);
    loop {
        ring.wait(Duration::from_secs(60), &mut completed).unwrap();
        for done in std::mem::take(&mut completed) {
            let Purpose::Disk(job) = done.purpose else { panic!("only the disk works here") };
            let mut disk = Disk {
                ring: &mut ring,
                store,
                pool: &pool,
                inline: &mut inline,
                writeback: &mut writeback,
                turns: &mut turns,
            };
            if let Some((_, result)) = disk.completed(job, done.result) {
                return result;
            }
        }
    }
}

#[test]
fn more_records_than_a_frame_holds_are_told_all_the_same() {
    let tmp = tempfile::tempdir().unwrap();
    let mut open = store(tmp.path());
    let many = (0..BLOCKS).step_by(2).map(|block| MapRecord::Local(Blocks::one(block))).collect();
    persist(&mut open, many).unwrap();
    persist(&mut open, vec![MapRecord::Local(Blocks::one(1))]).unwrap();
    drop(open);
    let (_, state) = store::open(tmp.path()).unwrap();
    assert_eq!(state.truth.blocks_remote(), BLOCKS / 2 - 1);
}

#[test]
fn a_mark_is_in_one_frame_with_what_has_changed_since() {
    let local = MapRecord::Local(Blocks::one(1));
    let mut records = vec![local; FRAME_RECORDS_MAX - 1];
    records.push(MapRecord::MarkSet(ferry_engine::MarkId(1)));
    records.push(MapRecord::MayChange(Blocks::one(7)));
    let rest = records.split_off(first_frame(&records));
    assert!(matches!(rest[..], [MapRecord::MarkSet(_), MapRecord::MayChange(_)]));
    assert_eq!(first_frame(&rest), 2);
}

#[test]
fn nothing_is_durable_in_a_map_that_a_crash_may_not_bring_back() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, elsewhere) = (tmp.path().join("volume"), tmp.path().join("elsewhere"));
    let mut open = store(&dir);
    open.map_has_durable_name = false;
    std::fs::rename(&dir, &elsewhere).unwrap();
    persist(&mut open, vec![MapRecord::Local(Blocks::one(1))]).unwrap_err();
    std::fs::rename(&elsewhere, &dir).unwrap();
    persist(&mut open, vec![MapRecord::Local(Blocks::one(2))]).unwrap();
    drop(open);
    let (_, state) = store::open(&dir).unwrap();
    let local = state.truth.runs(state.geometry().all_blocks()).find(|(is, _)| *is == Residence::Local);
    assert_eq!(local, Some((Residence::Local, Blocks::one(2))));
}
