//! The file in which a volume server keeps what its guest touches often.
//!
//! Input: whether it is mended, then the file. Nothing would ever guess a checksum, so it is put right.

use ferry_engine::{ByteRange, Heat, heat};

/// First byte: the rest is the file.
pub const AS_IT_IS: u8 = 0;
/// First byte: the file without its checksum.
pub const MENDED: u8 = 1;

/// The volume it is for: more takes only memory and time.
pub const SIZE_BYTES: u64 = 1 << 33;

/// What is accepted is told in classes that are classes and cover the volume, and means the same when it is written anew.
pub fn run(bytes: &[u8]) {
    let [how, rest @ ..] = bytes else { return };
    let mut file = rest.to_vec();
    if how % 2 == MENDED {
        file.extend_from_slice(&crc32c::crc32c(rest).to_le_bytes());
    }
    let Some(read) = Heat::decode(&file, SIZE_BYTES) else { return };
    let whole = ByteRange::new(0, SIZE_BYTES).expect("a volume is not empty");
    let classes: Vec<(u64, u8)> = read.classes(whole).collect();
    assert!(classes.iter().all(|&(len, class)| len > 0 && class <= heat::CLASS_MAX));
    assert_eq!(classes.iter().map(|&(len, _)| len).sum::<u64>(), SIZE_BYTES);
    let again = Heat::decode(&read.encode(), SIZE_BYTES).expect("it was written by us");
    assert_eq!(again.classes(whole).collect::<Vec<_>>(), classes);
}
