//! Room that is kept for the agent's own notes, given back piece by piece where the file system is full.
//!
//! ```text
//!   STATE_DIR/ballast    zeroes, allocated; as long as the agent needs none of it, BALLAST_BYTES
//! ```
//!
//! A machine that fills the disk would else keep its worker from writing that it leaves. Pieces, and not all at once: machines take
//! what is free, too. The file alone says how much is left, so whoever needs a piece takes it without asking anybody.

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::File;
use std::io;
use std::path::Path;

/// Name of the file in the state directory.
const FILE: &str = "ballast";
/// Bytes that are kept.
const BALLAST_BYTES: u64 = 16 << 20;
/// Bytes given back at a time; more than any one note needs.
const PIECE_BYTES: u64 = 256 << 10;
/// Of what is free at most one part in so many is kept: a small file system is left to its volumes.
const FREE_PARTS_MIN: u64 = 4;

/// Keeps room, if less than all is kept and there is plenty.
pub(crate) fn keep(state_dir: &Path) {
    if let Err(error) = try_keep(state_dir) {
        tracing::warn!(%error, "no room can be kept for a disk that fills up");
    }
}

/// The same once some of it was given back, if there is plenty again; else later.
pub(crate) fn keep_again(state_dir: &Path) {
    if state_dir.join(FILE).metadata().is_ok_and(|file| file.len() < BALLAST_BYTES) {
        // Whoever calls has other things to do, and comes again.
        let _ = try_keep(state_dir);
    }
}

fn try_keep(state_dir: &Path) -> io::Result<()> {
    let path = state_dir.join(FILE);
    if path.metadata().is_ok_and(|file| file.len() >= BALLAST_BYTES)
        || available_bytes(state_dir)? < BALLAST_BYTES * FREE_PARTS_MIN
    {
        return Ok(());
    }
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    Ok(fallocate(&file, FallocateFlags::empty(), 0, BALLAST_BYTES)?)
}

/// Gives a piece back. Tells whether there was one.
pub(crate) fn give(state_dir: &Path) -> bool {
    let taken = File::options().write(true).open(state_dir.join(FILE)).and_then(|file| {
        let kept_bytes = file.metadata()?.len();
        file.set_len(kept_bytes.saturating_sub(PIECE_BYTES))?;
        Ok(kept_bytes)
    });
    match taken {
        Ok(kept_bytes) if kept_bytes > 0 => {
            let left_bytes = kept_bytes.saturating_sub(PIECE_BYTES);
            tracing::warn!(
                left_bytes,
                "the file system of the state directory is full: the agent lives on the room that it has kept; make room \
                 there, or move machines away"
            );
            true
        }
        Ok(_) | Err(_) => false,
    }
}

fn available_bytes(state_dir: &Path) -> io::Result<u64> {
    let filesystem = statvfs(state_dir)?;
    Ok(filesystem.f_bavail.saturating_mul(filesystem.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_given_piece_by_piece_until_nothing_is_left_and_kept_again() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!give(dir.path()), "nothing was kept yet");
        keep(dir.path());
        let pieces = (0..).take_while(|_| give(dir.path())).count() as u64;
        assert_eq!(pieces, BALLAST_BYTES / PIECE_BYTES);
        keep(dir.path());
        assert_eq!(dir.path().join(FILE).metadata().unwrap().len(), BALLAST_BYTES);
    }
}
