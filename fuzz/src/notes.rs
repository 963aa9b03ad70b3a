//! The file of notes of unflushed writes.
//!
//! Input: how it is mended, then either the file as it is, or its head and its log. Nothing would ever guess a checksum,
//! so these are put right.

use crate::map::mend_frames;
use ferry_engine::notes::{self, HEAD_BYTES, NotesOf};
use ferry_engine::{Blocks, Geometry};

/// First byte: the rest is the file.
pub const AS_IT_IS: u8 = 0;
/// First byte: the file, with its head up to the boot and the checksums put right.
pub const MENDED: u8 = 1;

/// Whose notes are read.
pub const OF: NotesOf = NotesOf { volume_id: [9; 16], generation: 5, boot: 7 };

/// The volume that they are of.
pub fn geometry() -> Geometry {
    Geometry::new(1_000 * 4096 + 512, 64 << 10).expect("it can be")
}

/// What is accepted is in the volume, means the same when it is written anew, and goes on after an append; for another
/// boot it is nothing.
pub fn run(bytes: &[u8]) {
    let [how, rest @ ..] = bytes else { return };
    let file = match how % 2 {
        AS_IT_IS => rest.to_vec(),
        _ => mended(rest),
    };
    let later = NotesOf { boot: OF.boot + 1, ..OF };
    let foreign = notes::decode(&file, later, geometry());
    let Ok(Some((noted, mut log))) = notes::decode(&file, OF, geometry()) else { return };
    assert_eq!(foreign, Ok(None), "a file is of one boot");
    let valid = usize::try_from(log.bytes_valid()).expect("it is a part of the file");
    assert!(valid <= file.len());
    assert!(noted.iter().all(|blocks| blocks.end() <= geometry().block_count()));
    let (fresh, fresh_log) = notes::compact(OF, &noted);
    let again = notes::decode(&fresh, OF, geometry()).expect("it was written by us").expect("of this boot");
    assert_eq!(
        (&again.0, again.1.bytes_valid()),
        (&noted, fresh_log.bytes_valid()),
        "it means the same anew"
    );
    let more = [Blocks::one(3)];
    let mut longer = file;
    longer.truncate(valid);
    longer.extend(log.append(&more));
    let (all, _) = notes::decode(&longer, OF, geometry()).expect("as before").expect("as before");
    assert_eq!(all, [&noted[..], &more].concat());
}

fn mended(input: &[u8]) -> Vec<u8> {
    let mut file = input.to_vec();
    file.resize(file.len().max(HEAD_BYTES), 0);
    let (head, _) = notes::compact(OF, &[]);
    file[..48].copy_from_slice(&head[..48]);
    let seed = crc32c::crc32c(&file[..HEAD_BYTES - 4]);
    file[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&seed.to_le_bytes());
    mend_frames(&mut file[HEAD_BYTES..], seed);
    file
}
