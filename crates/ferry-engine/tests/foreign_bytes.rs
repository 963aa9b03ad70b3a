//! The fuzz body of the map on stable: seeds from valid maps, and mutations of them.

#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/src/map.rs"]
mod map;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

use ferry_engine::{Blocks, Geometry, MapRecord, MapState, Phase};

fn blocks(first: u64, end: u64) -> Blocks {
    Blocks::between(first, end).unwrap()
}

#[test]
fn a_map_that_is_understood_means_the_same_after_compaction() {
    let geometry = Geometry::new(1_000 * 4096 + 512, 64 << 10).unwrap();
    let state = |has_source| MapState::fresh([9; 16], geometry, 5, Phase::Open, has_source);
    let (mut file, mut log) = ferry_engine::map::compact(&state(true));
    file.extend(log.append(&[MapRecord::Local(blocks(0, 10)), MapRecord::Local(blocks(20, 21))]));
    file.extend(log.append(&[MapRecord::LocalMask { first_block: 64, mask: 0xf0f0 }]));
    file.extend(log.append(&[MapRecord::Local(blocks(900, 1_001)), MapRecord::Phase(Phase::Sealed)]));
    file.extend(log.append(&[MapRecord::Local(blocks(0, 1_001)), MapRecord::SourceDetached]));
    // Holes of one block, at the seams of the words that a compact map is made of.
    let (mut holes, mut holes_log) = ferry_engine::map::compact(&state(true));
    let records = [(0, 127), (128, 300), (301, 512), (513, 577), (640, 1_000)];
    holes.extend(holes_log.append(&records.map(|(first, end)| MapRecord::Local(blocks(first, end)))));
    let input = |file: &[u8], how: u8, cut: u8| {
        let log = &file[ferry_engine::map::SUPERBLOCK_BYTES..];
        [&[how, cut][..], &file[..map::HEAD_BYTES], log].concat()
    };
    let seeds = [
        ("as_it_is", [&[map::AS_IT_IS, 0][..], &file].concat()),
        ("without_source", input(&ferry_engine::map::compact(&state(false)).0, map::SUPERBLOCK_MENDED, 0)),
        ("torn", input(&file, map::SUPERBLOCK_MENDED, 5)),
        ("holes", input(&holes, map::FRAMES_MENDED, 0)),
        ("whole", input(&file, map::FRAMES_MENDED, 0)),
    ];
    smoke::smoke("map_decode", &seeds, map::run);
}
