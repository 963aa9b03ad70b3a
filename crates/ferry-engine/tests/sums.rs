//! Checksums of regions: the same root whatever the order in which bytes arrive, and a file that never claims too much.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ferry_engine::sums::codec::{self, HEAD_BYTES, SumsOf};
use ferry_engine::sums::{combine, crc32c_of_zeroes};
use ferry_engine::{BLOCK_BYTES, Blocks, Geometry, Sums};
use proptest::prelude::*;

const REGION_BLOCKS: u64 = 4;
/// The last region is short, and so is its last block.
const SIZE_BYTES: u64 = 21 * BLOCK_BYTES + 512;
const BLOCKS: u64 = 22;
const OF: SumsOf = SumsOf { volume_id: [7; 16], generation: 3 };

fn geometry() -> Geometry {
    Geometry::new(SIZE_BYTES, REGION_BLOCKS * BLOCK_BYTES).unwrap()
}

/// A volume some blocks of which are zero.
fn content(zero: &[bool]) -> Vec<u8> {
    (0..SIZE_BYTES)
        .map(|at| if zero[(at / BLOCK_BYTES) as usize] { 0 } else { (at * 31 / 7) as u8 | 1 })
        .collect()
}

fn crc_of(content: &[u8], blocks: Blocks) -> u32 {
    let range = geometry().bytes_of(blocks);
    crc32c::crc32c(&content[range.offset() as usize..range.end() as usize])
}

fn root(sums: &Sums) -> Option<Vec<u8>> {
    let mut input = Vec::new();
    sums.root_input(1, 0..geometry().region_count(), |part| input.extend_from_slice(part)).then_some(input)
}

/// As the server of the sealed volume sums it: region by region.
fn sealed(content: &[u8]) -> Sums {
    let mut sums = Sums::new(geometry());
    for region in 0..geometry().region_count() {
        sums.arrived(sums.blocks_of(region), |blocks| crc_of(content, blocks));
    }
    sums
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Arrives(u64, u64),
    SaidToBeZero(u64, u64),
    GuestWrites(u64, u64),
    /// The server is killed and reads its file again.
    Restart,
    /// The file is written anew.
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    let run = || (0..BLOCKS, 1..9_u64);
    prop_oneof![
        4 => run().prop_map(|(first, count)| Step::Arrives(first, count)),
        2 => run().prop_map(|(first, count)| Step::SaidToBeZero(first, count)),
        2 => run().prop_map(|(first, count)| Step::GuestWrites(first, count)),
        1 => Just(Step::Restart),
        1 => Just(Step::Compact),
    ]
}

fn blocks(first: u64, count: u64) -> Blocks {
    Blocks::between(first, (first + count).min(BLOCKS)).unwrap()
}

proptest! {
    #[test]
    fn the_checksum_of_two_parts_is_that_of_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..300) {
        let (first, second) = bytes.split_at(at.min(bytes.len()));
        let combined = combine(crc32c::crc32c(first), crc32c::crc32c(second), second.len() as u64);
        prop_assert_eq!(combined, crc32c::crc32c(&bytes));
    }

    #[test]
    fn zeroes_are_summed_without_looking_at_them(len in 0_usize..70_000) {
        prop_assert_eq!(crc32c_of_zeroes(len as u64), crc32c::crc32c(&vec![0; len]));
    }

    #[test]
    fn the_root_is_that_of_the_source_in_whatever_order_its_bytes_arrive(
        zero in prop::collection::vec(any::<bool>(), BLOCKS as usize),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let content = content(&zero);
        let mut sums = Sums::new(geometry());
        let (mut file, mut log) = codec::compact(OF, &sums);
        let mut changed = vec![false; geometry().region_count() as usize];
        for step in steps {
            match step {
                Step::Arrives(first, count) => {
                    sums.arrived(blocks(first, count), |part| crc_of(&content, part));
                }
                Step::SaidToBeZero(first, count) => {
                    let said = blocks(first, count);
                    for block in (said.first()..said.end()).filter(|&block| zero[block as usize]) {
                        let end = (block..said.end()).find(|&at| !zero[at as usize]).unwrap_or(said.end());
                        sums.zeroes(Blocks::between(block, end).unwrap());
                    }
                }
                Step::GuestWrites(first, count) => {
                    let written = blocks(first, count);
                    sums.changes(written);
                    (written.first()..written.end()).for_each(|b| changed[(b / REGION_BLOCKS) as usize] = true);
                }
                Step::Restart => {
                    file.extend(log.append(&sums.take_news()));
                    let (of, again, again_log) = codec::decode(&file).unwrap();
                    prop_assert_eq!((of, &again, again_log.bytes_valid()), (OF, &sums, log.bytes_valid()));
                    (sums, log) = (again, again_log);
                }
                Step::Compact => {
                    sums.take_news();
                    (file, log) = codec::compact(OF, &sums);
                    let (_, again, again_log) = codec::decode(&file).unwrap();
                    prop_assert_eq!((&again, again_log), (&sums, log));
                }
            }
        }
        for (region, &is_changed) in changed.iter().enumerate() {
            prop_assert_eq!(sums.is_changed(region as u64), is_changed);
        }
        let known = sums.tally().bytes_arrived + sums.tally().bytes_zero;
        let mut told = 0;
        while let Some(region) = sums.first_unknown(0) {
            prop_assert_eq!(root(&sums), None);
            for gap in sums.gaps(sums.blocks_of(region)) {
                told += geometry().bytes_of(gap).len_bytes();
                sums.told(gap, crc_of(&content, gap));
            }
        }
        prop_assert_eq!((known + told, sums.tally().bytes_told), (SIZE_BYTES, told));
        prop_assert_eq!(root(&sums), root(&sealed(&content)));
    }

    #[test]
    fn a_file_that_was_cut_anywhere_knows_less_and_nothing_else(cut in 0_usize..2000) {
        let content = content(&[false; BLOCKS as usize]);
        let mut sums = Sums::new(geometry());
        let (mut file, mut log) = codec::compact(OF, &sums);
        for region in 0..geometry().region_count() {
            sums.arrived(sums.blocks_of(region), |part| crc_of(&content, part));
            file.extend(log.append(&sums.take_news()));
        }
        file.truncate(HEAD_BYTES + cut);
        let (_, found, _) = codec::decode(&file).unwrap();
        prop_assert!(!found.is_gappy());
        for region in 0..geometry().region_count() {
            prop_assert!(found.leaf(region).is_none_or(|leaf| Some(leaf) == sums.leaf(region)));
        }
    }
}

#[test]
fn a_frame_that_went_bad_in_the_middle_makes_what_is_lacking_unproven() {
    let mut sums = Sums::new(geometry());
    let (mut file, mut log) = codec::compact(OF, &sums);
    for region in 0..3 {
        sums.arrived(sums.blocks_of(region), |_| 1);
        file.extend(log.append(&sums.take_news()));
    }
    file[HEAD_BYTES + 60] ^= 1;
    let (_, found, _) = codec::decode(&file).unwrap();
    assert!(found.is_gappy() && found.first_unknown(0) == Some(1));
}

#[test]
fn one_wrong_byte_makes_another_root() {
    let mut content = content(&[false; BLOCKS as usize]);
    let before = root(&sealed(&content));
    content[70_000] ^= 1;
    assert_ne!(root(&sealed(&content)), before);
}

#[test]
fn a_volume_that_another_boot_left_open_is_in_doubt_until_it_was_looked_at() {
    let mut sums = Sums::new(geometry());
    sums.open(1);
    sums.open(1);
    assert!(!sums.is_doubtful(), "a server that was killed told the page cache all it knew");
    sums.close();
    sums.open(2);
    assert!(!sums.is_doubtful(), "it was closed");
    sums.open(3);
    assert!(sums.is_doubtful());
    sums.settle();
    assert!(!sums.is_doubtful());
}

#[test]
fn an_empty_volume_of_8_tib_is_summed_in_one_record() {
    let geometry = Geometry::new(8 << 40, 1 << 20).unwrap();
    let mut sums = Sums::new(geometry);
    sums.zeroes(geometry.all_blocks());
    assert!(sums.is_whole() && sums.take_news().len() == 1);
    let mut bytes = 0;
    assert!(sums.root_input(1, 0..geometry.region_count(), |part| bytes += part.len()));
    assert!(bytes < 100);
    assert!(codec::compact(OF, &sums).0.len() < 300);
}
