//! Requests of a ublk driver: the input is a descriptor, of a disk of 1 GiB.

use ferry_volume::ublk::request::DESCRIPTOR_BYTES;
use ferry_volume::ublk::{Ask, RANGE_SECTORS_MAX, REQUEST_BYTES_MAX, Range, SECTOR_BYTES, parse};

const DISK_BYTES: u64 = 1 << 30;

/// What is accepted lies on the disk and is no longer than was agreed on.
pub fn run(bytes: &[u8]) {
    let Some(descriptor) = bytes.first_chunk::<DESCRIPTOR_BYTES>() else { return };
    match parse(descriptor, DISK_BYTES) {
        Ok(Ask::Read(range) | Ask::Write { range, .. }) => on_disk(range, u64::from(REQUEST_BYTES_MAX)),
        Ok(Ask::Discard(range) | Ask::WriteZeroes { range, .. }) => {
            on_disk(range, u64::from(RANGE_SECTORS_MAX) * SECTOR_BYTES);
        }
        Ok(Ask::Flush) | Err(_) => {}
    }
}

fn on_disk(range: Range, len_max: u64) {
    assert!(range.len > 0 && range.len <= len_max && range.len.is_multiple_of(SECTOR_BYTES));
    assert!(range.offset.is_multiple_of(SECTOR_BYTES) && range.offset + range.len <= DISK_BYTES);
}
