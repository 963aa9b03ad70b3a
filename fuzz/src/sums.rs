//! The files of checksums of regions.
//!
//! Input: how it is mended, then either the file as it is, or its head and its log. Nothing would ever guess a checksum,
//! so these are put right.

use crate::map::mend_frames;
use ferry_engine::sums::codec::{self, HEAD_BYTES};
use ferry_engine::{Blocks, Geometry};

/// First byte: the rest is the file.
pub const AS_IT_IS: u8 = 0;
/// First byte: the file, with magic, version and the head's checksum put right and every frame made whole.
pub const MENDED: u8 = 1;

/// More regions are possible; they only take memory and time.
const REGIONS_MAX: u64 = 1 << 14;

/// What is accepted means the same when it is written anew and after an append, and a leaf never changes.
pub fn run(bytes: &[u8]) {
    let [how, rest @ ..] = bytes else { return };
    let file = match how % 2 {
        AS_IT_IS => rest.to_vec(),
        _ => mended(rest),
    };
    if is_huge(&file) {
        return;
    }
    let Ok((of, mut sums, mut log)) = codec::decode(&file) else { return };
    let valid = usize::try_from(log.bytes_valid()).expect("it is a part of the file");
    assert!(valid <= file.len());
    let news = sums.take_news();
    let (fresh, fresh_log) = codec::compact(of, &sums);
    assert_eq!(codec::decode(&fresh), Ok((of, sums.clone(), fresh_log)), "it means the same anew");

    let before = sums.clone();
    let geometry = sums.geometry();
    let some = Blocks::between(geometry.block_count() / 3, geometry.block_count()).expect("it has blocks");
    sums.arrived(some, |part| part.count() as u32);
    sums.zeroes(Blocks::one(0));
    sums.changes(some);
    let mut longer = file[..valid].to_vec();
    longer.extend(log.append(&[news, sums.take_news()].concat()));
    let (_, again, _) = codec::decode(&longer).expect("a whole frame was appended to a whole file");
    assert_eq!(again, sums);
    for region in (0..geometry.region_count()).take(100) {
        assert!(
            before.leaf(region).is_none_or(|leaf| sums.leaf(region) == Some(leaf)),
            "a leaf never changes"
        );
    }
    let whole = sums.root_input(1, 0..geometry.region_count(), |_| {});
    assert_eq!(whole, sums.is_whole());
}

fn is_huge(file: &[u8]) -> bool {
    let number =
        |at: usize| file.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8")));
    let (Some(size_bytes), Some(region_bytes)) = (number(32), number(40)) else { return false };
    Geometry::new(size_bytes, region_bytes).is_ok_and(|geometry| geometry.region_count() > REGIONS_MAX)
}

fn mended(input: &[u8]) -> Vec<u8> {
    let mut file = input.to_vec();
    file.resize(file.len().max(HEAD_BYTES), 0);
    file[..8].copy_from_slice(codec::MAGIC);
    file[8..12].copy_from_slice(&codec::VERSION.to_le_bytes());
    let seed = crc32c::crc32c(&file[..HEAD_BYTES - 4]);
    file[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&seed.to_le_bytes());
    mend_frames(&mut file[HEAD_BYTES..], seed);
    file
}
