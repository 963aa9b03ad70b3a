//! Room for the next frames of the map, kept ahead of them: so that a volume whose disk others have filled up can be sealed all the
//! same, and its machine leave.

use super::Store;
use rustix::fs::{FallocateFlags, fallocate};
use std::io;

/// Bytes that are kept behind the last frame: room for thousands of records, of which a seal is one.
const AHEAD_BYTES: u64 = 64 << 10;

impl Store {
    /// Sees to it that the next frames have room. Where there is none, or where a file system cannot keep any, they take their chance.
    pub(crate) fn keep_map_room(&mut self) {
        let end = self.log.bytes_valid();
        if self.map_room_end.saturating_sub(end) >= AHEAD_BYTES / 2 {
            return;
        }
        if fallocate(&*self.map, FallocateFlags::KEEP_SIZE, end, AHEAD_BYTES).is_ok() {
            self.map_room_end = end + AHEAD_BYTES;
        }
    }
}

/// Whether a disk refuses to take anything more for now, as opposed to having failed.
pub(super) fn takes_nothing(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem)
}
