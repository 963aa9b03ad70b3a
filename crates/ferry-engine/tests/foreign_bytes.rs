//! The fuzz bodies of this crate on stable: seeds from valid files, and mutations of them.

#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/src/heat.rs"]
mod heat;
#[path = "../../../fuzz/src/map.rs"]
mod map;
#[path = "../../../fuzz/src/notes.rs"]
mod notes;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;
#[path = "../../../fuzz/src/sums.rs"]
mod sums;

use ferry_engine::sums::codec::{self, SumsOf};
use ferry_engine::{Blocks, ByteRange, Geometry, Heat, MapRecord, MapState, MarkId, Phase, Sums};

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
    let (mut grown, mut grown_log) = ferry_engine::map::compact(&state(true));
    for size_bytes in [1_000 * 4096 + 1024, 1_200 * 4096] {
        grown.extend(
            grown_log.append(&[MapRecord::Grown { size_bytes }, MapRecord::Local(blocks(990, 1_001))]),
        );
    }
    let (mut given_up, mut given_up_log) = ferry_engine::map::compact(&state(true));
    given_up.extend(given_up_log.append(&[MapRecord::Local(blocks(7, 9)), MapRecord::Abandoned]));
    let (mut marked, mut marked_log) = ferry_engine::map::compact(&state(false));
    marked.extend(marked_log.append(&[MapRecord::MarkSet(MarkId(1)), MapRecord::MayChange(blocks(3, 40))]));
    marked.extend(
        marked_log.append(&[MapRecord::MarkSet(MarkId(2)), MapRecord::MayChange(blocks(900, 1_001))]),
    );
    marked.extend(
        marked_log.append(&[MapRecord::MarkForgotten(MarkId(1)), MapRecord::MarkForgotten(MarkId(9))]),
    );
    let input = |file: &[u8], how: u8, cut: u8| {
        let log = &file[ferry_engine::map::SUPERBLOCK_BYTES..];
        [&[how, cut][..], &file[..map::HEAD_BYTES], log].concat()
    };
    let seeds = [
        ("as_it_is", [&[map::AS_IT_IS, 0][..], &file].concat()),
        ("without_source", input(&ferry_engine::map::compact(&state(false)).0, map::SUPERBLOCK_MENDED, 0)),
        ("torn", input(&file, map::SUPERBLOCK_MENDED, 5)),
        ("grown", input(&grown, map::FRAMES_MENDED, 0)),
        ("given_up", input(&given_up, map::FRAMES_MENDED, 0)),
        ("holes", input(&holes, map::FRAMES_MENDED, 0)),
        ("marked", input(&marked, map::FRAMES_MENDED, 0)),
        ("whole", input(&file, map::FRAMES_MENDED, 0)),
    ];
    smoke::smoke("map_decode", &seeds, map::run);
}

#[test]
fn a_file_of_checksums_that_is_understood_means_the_same_when_it_is_written_anew() {
    let geometry = Geometry::new(1_000 * 4096 + 512, 64 << 10).unwrap();
    let of = SumsOf { volume_id: [9; 16], generation: 5 };
    let mut known = Sums::new(geometry);
    let (mut file, mut log) = codec::compact(of, &known);
    known.open(7);
    known.zeroes(blocks(100, 900));
    known.arrived(blocks(0, 20), |part| part.count() as u32);
    known.changes(blocks(3, 40));
    file.extend(log.append(&known.take_news()));
    known.told(blocks(20, 30), 5);
    known.open(8);
    known.close();
    known.settle();
    file.extend(log.append(&known.take_news()));
    known.make_gappy();
    let seeds = [
        ("as_it_is", [&[sums::AS_IT_IS][..], &file].concat()),
        ("mended", [&[sums::MENDED][..], &file].concat()),
        ("anew", [&[sums::MENDED][..], &codec::compact(of, &known).0].concat()),
    ];
    smoke::smoke("sums_decode", &seeds, sums::run);
}

#[test]
fn notes_that_are_understood_mean_the_same_when_they_are_written_anew() {
    let (mut file, mut log) = ferry_engine::notes::compact(notes::OF, &[blocks(0, 10), blocks(20, 21)]);
    file.extend(log.append(&[blocks(900, 1_001)]));
    file.extend(log.append(&[blocks(30, 31), blocks(0, 1_001)]));
    let later = ferry_engine::notes::NotesOf { boot: 8, ..notes::OF };
    let seeds = [
        ("as_it_is", [&[notes::AS_IT_IS][..], &file].concat()),
        ("mended", [&[notes::MENDED][..], &file].concat()),
        ("torn", [&[notes::AS_IT_IS][..], &file[..file.len() - 9]].concat()),
        (
            "of_another_boot",
            [&[notes::AS_IT_IS][..], &ferry_engine::notes::compact(later, &[blocks(1, 2)]).0].concat(),
        ),
    ];
    smoke::smoke("notes_decode", &seeds, notes::run);
}

#[test]
fn a_file_of_heat_that_is_understood_means_the_same_when_it_is_written_anew() {
    let mut hot = Heat::new();
    for spot in [3, 9, 4, 9, 5_000, 9, 5_001] {
        hot.touch(ByteRange::new(spot * ferry_engine::heat::SPOT_BYTES, 4096).unwrap());
    }
    let file = hot.encode();
    let seeds = [
        ("as_it_is", [&[heat::AS_IT_IS][..], &file].concat()),
        ("mended", [&[heat::MENDED][..], &file[..file.len() - 4]].concat()),
        ("cold", [&[heat::AS_IT_IS][..], &Heat::new().encode()].concat()),
    ];
    smoke::smoke("heat_decode", &seeds, heat::run);
}
