//! The map file under everything that can happen to a file.

#![allow(clippy::unwrap_used)]

use ferry_engine::map::{self, RecordError, SUPERBLOCK_BYTES};
use ferry_engine::{Blocks, Geometry, GeometryError, MapError, MapLog, MapRecord, MapState, MarkId, Phase};
use proptest::prelude::*;

const SIZE_BLOCKS: u64 = 1_000;

fn fresh() -> MapState {
    let geometry = Geometry::new(SIZE_BLOCKS * 4096, 64 << 10).unwrap();
    MapState::fresh([9; 16], geometry, 5, Phase::Open, true)
}

fn blocks(first: u64, end: u64) -> Blocks {
    Blocks::between(first, end).unwrap()
}

/// A map with three frames, and where each of its frames begins.
fn three_frames() -> (Vec<u8>, Vec<usize>, MapState, MapLog) {
    let mut state = fresh();
    let (mut bytes, mut log) = map::compact(&state);
    let mut starts = Vec::new();
    for records in [
        vec![MapRecord::Local(blocks(0, 10)), MapRecord::Local(blocks(20, 21))],
        vec![MapRecord::LocalMask { first_block: 64, mask: 0xF0F0 }],
        vec![MapRecord::Local(blocks(900, 1_000)), MapRecord::Phase(Phase::Sealed)],
    ] {
        starts.push(bytes.len());
        bytes.extend(log.append(&records));
        records.iter().for_each(|&record| state.apply(record).unwrap());
    }
    (bytes, starts, state, log)
}

#[test]
fn what_was_appended_is_read_again() {
    let (bytes, _, state, log) = three_frames();
    let (read, read_log) = map::decode(&bytes).unwrap();
    assert_eq!(read, state);
    assert_eq!(read_log.bytes_valid(), log.bytes_valid());
    let mut both = [log, read_log];
    let frames = both.each_mut().map(|log| log.append(&[MapRecord::Local(blocks(30, 31))]));
    assert_eq!(frames[0], frames[1], "a log goes on where it was left");
}

#[test]
fn a_map_cut_anywhere_holds_its_whole_frames() {
    let (bytes, starts, ..) = three_frames();
    for cut in SUPERBLOCK_BYTES..bytes.len() {
        let (_, log) = map::decode(&bytes[..cut]).unwrap();
        let expected = starts.iter().copied().filter(|&start| start <= cut).max().unwrap();
        assert_eq!(log.bytes_valid(), expected as u64, "cut at {cut}");
    }
    for cut in 0..SUPERBLOCK_BYTES {
        assert_eq!(map::decode(&bytes[..cut]), Err(MapError::Short { bytes: cut }));
    }
}

#[test]
fn a_last_frame_with_any_sectors_missing_is_dropped() {
    let (bytes, starts, ..) = three_frames();
    let last = starts[2];
    for at in last..bytes.len() {
        let mut torn = bytes.clone();
        torn[at] = !torn[at];
        assert_eq!(map::decode(&torn).unwrap().1.bytes_valid(), last as u64);
        torn[last..at].fill(0);
        assert_eq!(map::decode(&torn).unwrap().1.bytes_valid(), last as u64);
    }
}

#[test]
fn a_volume_that_grew_knows_what_its_source_must_hold_until_it_needs_none() {
    let (mut bytes, _, mut state, mut log) = three_frames();
    let former = state.geometry().size_bytes();
    for size_bytes in [former + 512, former + 4096] {
        let grown = MapRecord::Grown { size_bytes };
        bytes.extend(log.append(&[grown]));
        state.apply(grown).unwrap();
        assert_eq!(state.apply(grown), Err(RecordError::Size { size_bytes }), "it grows or it does not");
    }
    assert_eq!((state.geometry().size_bytes(), state.source_bytes), (former + 4096, former));
    assert!(state.truth.is_local(SIZE_BLOCKS));
    assert_eq!(map::decode(&bytes).unwrap().0, state);
    let (fresh, _) = map::compact(&state);
    assert_eq!(map::decode(&fresh).unwrap().0, state);
    state.truth.mark_local(state.geometry().all_blocks());
    state.apply(MapRecord::SourceDetached).unwrap();
    assert_eq!(state.source_bytes, former + 4096);
    assert_eq!(map::decode(&map::compact(&state).0).unwrap().0, state);
}

#[test]
fn marks_and_what_changed_since_survive_compaction_and_ids_are_never_given_twice() {
    let mut state = fresh();
    let records = [
        MapRecord::MarkSet(MarkId(1)),
        MapRecord::MayChange(blocks(0, 256)),
        MapRecord::MarkSet(MarkId(2)),
        MapRecord::MayChange(blocks(512, 600)),
        MapRecord::MarkSet(MarkId(3)),
        MapRecord::MarkForgotten(MarkId(3)),
    ];
    records.iter().for_each(|&record| state.apply(record).unwrap());
    let (bytes, log) = map::compact(&state);
    let (again, _) = map::decode(&bytes).unwrap();
    assert_eq!((&again, log.bytes_valid()), (&state, bytes.len() as u64));
    assert_eq!(again.marks.next_id(), MarkId(4));
    assert!(again.marks.since(MarkId(1)).unwrap().covers(blocks(512, 600)));
    assert!(!again.marks.since(MarkId(2)).unwrap().contains(0));
    assert_eq!(state.apply(MapRecord::MarkSet(MarkId(3))), Err(RecordError::Mark { mark: MarkId(3) }));
    let unmarked = fresh().apply(MapRecord::MayChange(blocks(0, 1)));
    assert_eq!(unmarked, Err(RecordError::Unmarked));
}

#[test]
fn four_kibibytes_of_map_cannot_ask_for_gibibytes_of_memory() {
    let (mut bytes, _) = map::compact(&fresh());
    bytes[32..40].copy_from_slice(&(1_u64 << 50).to_le_bytes());
    bytes[40..48].copy_from_slice(&4096_u64.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..SUPERBLOCK_BYTES - 4]);
    bytes[SUPERBLOCK_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(map::decode(&bytes), Err(MapError::Geometry(GeometryError::TooManyRegions { .. }))));
}

#[test]
fn damage_before_a_whole_frame_is_refused() {
    let (bytes, starts, ..) = three_frames();
    for at in starts[0]..starts[2] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let frame = if at < starts[1] { 0 } else { 1 };
        let offset = starts[usize::from(frame > 0)];
        assert_eq!(map::decode(&damaged), Err(MapError::FrameDamaged { offset, frame }), "byte {at}");
    }
}

#[test]
fn a_damaged_superblock_is_refused() {
    let (bytes, ..) = three_frames();
    for at in 0..SUPERBLOCK_BYTES {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        let expected = if at < 8 { MapError::NotAMap } else { MapError::SuperblockDamaged };
        assert_eq!(map::decode(&damaged), Err(expected), "byte {at}");
    }
}

#[test]
fn a_frame_of_another_map_is_not_taken() {
    let (bytes, starts, ..) = three_frames();
    let other = MapState { generation: 6, ..fresh() };
    let (mut mixed, _) = map::compact(&other);
    mixed.extend_from_slice(&bytes[starts[0]..]);
    assert_eq!(map::decode(&mixed).unwrap().0, other);
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let (mut bytes, _) = map::compact(&fresh());
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..SUPERBLOCK_BYTES - 4]);
    bytes[SUPERBLOCK_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(map::decode(&bytes), Err(MapError::Version { version: 2 }));
}

#[test]
fn a_whole_frame_that_says_what_cannot_be_is_refused() {
    let (mut bytes, mut log) = map::compact(&fresh());
    let offset = bytes.len();
    bytes.extend(log.append(&[MapRecord::Local(blocks(999, 1_001))]));
    let source = RecordError::Beyond { first_block: 999, end_block: 1_001 };
    assert_eq!(map::decode(&bytes), Err(MapError::Record { offset, source }));
}

#[test]
fn an_8_tib_volume_costs_a_superblock_and_a_frame_however_much_is_zero() {
    let geometry = Geometry::new(8 << 40, 1 << 20).unwrap();
    let mut state = MapState::fresh([1; 16], geometry, 1, Phase::Open, true);
    assert_eq!(map::compact(&state).0.len(), SUPERBLOCK_BYTES);
    state.apply(MapRecord::Local(blocks(5, geometry.block_count()))).unwrap();
    let (bytes, _) = map::compact(&state);
    assert!(bytes.len() <= SUPERBLOCK_BYTES + 3 * 24, "{} bytes", bytes.len());
    assert_eq!(map::decode(&bytes).unwrap().0, state);
}

#[test]
fn a_log_asks_for_compaction_when_it_has_grown() {
    let (_, mut log) = map::compact(&fresh());
    let mut frames = 0;
    while !log.wants_compaction() {
        let _ = log.append(&[MapRecord::Local(blocks(1, 2))]);
        frames += 1;
    }
    assert_eq!(frames * 48 + SUPERBLOCK_BYTES, usize::try_from(log.bytes_valid()).unwrap());
    assert!(log.bytes_valid() > map::COMPACT_BYTES_MIN);
}

proptest! {
    #[test]
    fn a_compact_map_says_the_same_in_bounded_space(
        marks in prop::collection::vec((0..SIZE_BLOCKS, 1_u64..200), 0..400),
        every_other in any::<bool>(),
    ) {
        let mut state = fresh();
        for (first, count) in marks {
            state.apply(MapRecord::Local(blocks(first, (first + count.pow(2) / 200 + 1).min(SIZE_BLOCKS)))).unwrap();
        }
        if every_other {
            (0..SIZE_BLOCKS / 2).for_each(|n| state.apply(MapRecord::Local(blocks(2 * n, 2 * n + 1))).unwrap());
        }
        let (bytes, log) = map::compact(&state);
        prop_assert_eq!(map::decode(&bytes).unwrap(), (state, log));
        let words = usize::try_from(SIZE_BLOCKS.div_ceil(64)).unwrap();
        prop_assert!(bytes.len() <= SUPERBLOCK_BYTES + 24 + 2 * words * 24);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        noise in prop::collection::vec((0_usize..400, any::<u8>()), 0..20),
        tail in prop::collection::vec(any::<u8>(), 0..300),
        honest in any::<bool>(),
    ) {
        let (mut bytes, ..) = three_frames();
        for (at, value) in noise {
            let at = if at < 80 { at } else { SUPERBLOCK_BYTES + at - 80 };
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if honest {
            let crc = crc32c::crc32c(&bytes[..SUPERBLOCK_BYTES - 4]);
            bytes[SUPERBLOCK_BYTES - 4..SUPERBLOCK_BYTES].copy_from_slice(&crc.to_le_bytes());
        }
        bytes.extend(tail);
        if let Ok((_, log)) = map::decode(&bytes) {
            prop_assert!(log.bytes_valid() <= bytes.len() as u64);
        }
    }
}
