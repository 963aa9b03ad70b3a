//! The map file.
//!
//! Input: how it is mended, what is cut off its end, then either the file as it is, or the first 64 bytes of its
//! superblock and its log. Nothing would ever guess a checksum, so these are put right.

use ferry_engine::map::{self, SUPERBLOCK_BYTES};
use ferry_engine::{Geometry, MapLog, MapRecord, MapState, Phase};

/// First byte: the rest is the file.
pub const AS_IT_IS: u8 = 0;
/// First byte: superblock and log, with magic, version and the superblock's checksum put right.
pub const SUPERBLOCK_MENDED: u8 = 1;
/// First byte: superblock and log, and every frame made whole, so that its records are read.
pub const FRAMES_MENDED: u8 = 2;
/// Bytes of the superblock that the input gives.
pub const HEAD_BYTES: usize = 64;

const SLOT_BYTES: usize = 24;
const FRAME_RECORDS_MAX: u32 = 6;
/// More regions are possible; they only take memory and time.
const REGIONS_MAX: u64 = 1 << 20;

/// What is accepted means the same after compaction, and after an append what was appended is there too.
pub fn run(bytes: &[u8]) {
    let [how, cut, rest @ ..] = bytes else { return };
    let mut file = match how % 3 {
        AS_IT_IS => rest.to_vec(),
        how => mended(rest, how == FRAMES_MENDED),
    };
    let cut_bytes = if cut % 2 == 1 { usize::from(*cut) } else { 0 };
    file.truncate(file.len().saturating_sub(cut_bytes));
    if is_huge(&file) {
        return;
    }
    let Ok((state, log)) = map::decode(&file) else { return };
    // It may have grown to that.
    if state.geometry().region_count() > REGIONS_MAX {
        return;
    }
    let valid = usize::try_from(log.bytes_valid()).expect("it is a part of the file");
    assert!(valid <= file.len());
    file.truncate(valid);
    assert_eq!(map::decode(&file).as_ref(), Ok(&(state.clone(), log)), "what was dropped meant something");
    append(&state, file, log);

    let (fresh, fresh_log) = map::compact(&state);
    assert_eq!(map::decode(&fresh).as_ref(), Ok(&(state.clone(), fresh_log)));
    append(&state, fresh, fresh_log);
}

fn append(state: &MapState, mut file: Vec<u8>, mut log: MapLog) {
    let mut expected = state.clone();
    let mut records: Vec<MapRecord> =
        state.truth.remote_runs(state.geometry().all_blocks()).take(2).map(MapRecord::Local).collect();
    records.push(MapRecord::Phase(match state.phase {
        Phase::Standby => Phase::Open,
        Phase::Open | Phase::Sealed => Phase::Sealed,
    }));
    for record in &records {
        expected.apply(*record).expect("these facts can be true of it");
    }
    file.extend(log.append(&records));
    let (again, again_log) = map::decode(&file).expect("a whole frame was appended to a whole map");
    assert_eq!(again, expected);
    assert_eq!(again_log.bytes_valid(), log.bytes_valid());
}

fn is_huge(file: &[u8]) -> bool {
    let number =
        |at: usize| file.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8")));
    let (Some(size_bytes), Some(region_bytes)) = (number(32), number(40)) else { return false };
    Geometry::new(size_bytes, region_bytes).is_ok_and(|geometry| geometry.region_count() > REGIONS_MAX)
}

fn mended(input: &[u8], frames: bool) -> Vec<u8> {
    let (head, log) = input.split_at(input.len().min(HEAD_BYTES));
    let mut file = vec![0; SUPERBLOCK_BYTES];
    file[..head.len()].copy_from_slice(head);
    file[..8].copy_from_slice(b"FERRYMAP");
    file[8..12].copy_from_slice(&map::MAP_VERSION.to_le_bytes());
    let seed = crc32c::crc32c(&file[..SUPERBLOCK_BYTES - 4]);
    file[SUPERBLOCK_BYTES - 4..].copy_from_slice(&seed.to_le_bytes());
    file.extend_from_slice(log);
    if frames {
        mend_frames(&mut file[SUPERBLOCK_BYTES..], seed);
    }
    file
}

/// Makes every frame of a log whole, whatever its records say.
pub fn mend_frames(mut log: &mut [u8], seed: u32) {
    for number in 0_u64.. {
        let slots = u32::try_from(log.len() / SLOT_BYTES).expect("inputs are short");
        let Some(records_max) = slots.checked_sub(1) else { return };
        let wanted = u32::from(log[4]) % (FRAME_RECORDS_MAX + 1);
        let count = wanted.min(records_max);
        let (frame, rest) = log.split_at_mut(SLOT_BYTES * (1 + count as usize));
        frame[..4].copy_from_slice(b"FRAM");
        frame[4..8].copy_from_slice(&count.to_le_bytes());
        frame[8..16].copy_from_slice(&number.to_le_bytes());
        frame[16..24].fill(0);
        let crc = crc32c::crc32c_append(seed, frame);
        frame[16..20].copy_from_slice(&crc.to_le_bytes());
        log = rest;
    }
}
