//! Frames: how the files of a volume that are only appended to say several things at once, or none of them.
//!
//! A frame is a header and records, all of one length, so that everything behind a file's head lies on one grid. Its
//! checksum is seeded with the head's own, so that no frame of another file fits, and its number rises by one. The
//! drawing is in docs/formats.md.

/// Frame headers and records are both this long.
pub(crate) const SLOT_BYTES: usize = 24;

const MAGIC: &[u8; 4] = b"FRAM";

/// A frame of these records; `encode_record` appends [`SLOT_BYTES`] for each.
pub(crate) fn encode<R: Copy>(
    seed: u32,
    number: u64,
    records: &[R],
    encode_record: impl Fn(R, &mut Vec<u8>),
) -> Vec<u8> {
    let mut frame = Vec::with_capacity((records.len() + 1) * SLOT_BYTES);
    let count = u32::try_from(records.len()).expect("a frame has fewer than 2^32 records");
    frame.extend_from_slice(MAGIC);
    frame.extend_from_slice(&count.to_le_bytes());
    frame.extend_from_slice(&number.to_le_bytes());
    frame.extend_from_slice(&[0; 8]);
    for record in records {
        encode_record(*record, &mut frame);
    }
    let crc = crc32c::crc32c_append(seed, &frame);
    frame[16..20].copy_from_slice(&crc.to_le_bytes());
    frame
}

/// The records of the whole frame at `offset`, if there is one and it has this number.
pub(crate) fn whole(bytes: &[u8], offset: usize, seed: u32, number: u64) -> Option<&[u8]> {
    let rest = bytes.get(offset..)?;
    let header = rest.get(..SLOT_BYTES)?;
    if &header[0..4] != MAGIC || u64_at(header, 8) != number || u32_at(header, 20) != 0 {
        return None;
    }
    let count = usize::try_from(u32_at(header, 4)).ok()?;
    let records = rest.get(SLOT_BYTES..SLOT_BYTES.checked_add(count.checked_mul(SLOT_BYTES)?)?)?;
    let mut blank = [0; SLOT_BYTES];
    blank[..16].copy_from_slice(&header[..16]);
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed, &blank), records);
    (crc == u32_at(header, 16)).then_some(records)
}

/// Whether a whole frame with a higher number lies anywhere behind the break at `offset`: everything lies on the grid,
/// so it is found wherever the break is.
pub(crate) fn more_follows(bytes: &[u8], offset: usize, seed: u32, number: u64) -> bool {
    let mut at = offset + SLOT_BYTES;
    while at + SLOT_BYTES <= bytes.len() {
        if &bytes[at..at + 4] == MAGIC {
            let later = u64_at(bytes, at + 8);
            if later > number && whole(bytes, at, seed, later).is_some() {
                return true;
            }
        }
        at += SLOT_BYTES;
    }
    false
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
