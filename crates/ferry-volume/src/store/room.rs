//! Room for the next frames of the map, kept ahead of them: so that a volume whose disk others have filled up can be sealed all the
//! same, and its machine leave. What a move notes beside the map is kept in memory where it cannot be written.

use super::Store;
use crate::directory::{DirectoryError, VolumeConfig};
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

    /// As [`Store::describe`]; where the disk takes nothing more, full or read-only, until the server ends: whoever asks for such a
    /// thing asks again then.
    ///
    /// # Errors
    /// As there, for any other reason.
    pub(crate) fn describe_at_least_for_now(
        &mut self,
        change: impl FnOnce(&mut VolumeConfig),
    ) -> Result<(), DirectoryError> {
        let mut config = self.config.clone();
        change(&mut config);
        match self.describe(|described| described.clone_from(&config)) {
            Err(DirectoryError::Io { cause, .. }) if takes_nothing(&cause) => {
                tracing::warn!(error = %cause, "volume.json cannot be written; what was asked for holds until this server ends");
                self.config = config;
                Ok(())
            }
            other => other,
        }
    }
}

/// Whether a disk refuses to take anything more for now, as opposed to having failed.
fn takes_nothing(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem)
}
