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
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Name of the file in the state directory.
const FILE: &str = "ballast";
/// Bytes that are kept.
const BALLAST_BYTES: u64 = 16 << 20;
/// Bytes given back at a time; more than any one note needs.
const PIECE_BYTES: u64 = 256 << 10;
/// Of what is free at most one part in so many is kept: a small file system is left to its volumes.
const FREE_PARTS_MIN: u64 = 4;

/// The room that is kept in a state directory, for all who write notes there.
#[derive(Clone, Debug)]
pub struct Ballast {
    state_dir: PathBuf,
    /// A piece was given since all was kept.
    is_given: Arc<AtomicBool>,
}

impl Ballast {
    /// Keeps room in a state directory, if less than all is kept and there is plenty.
    #[must_use]
    pub fn keep(state_dir: &Path) -> Self {
        let ballast = Self::of(state_dir);
        match ballast.try_keep() {
            // An agent before this one may have given some of it.
            Ok(()) => ballast.is_given.store(left(state_dir).is_some(), Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "no room can be kept for a disk that fills up"),
        }
        ballast
    }

    /// What may be kept there already; nothing more is.
    #[must_use]
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), is_given: Arc::default() }
    }

    /// Keeps all again once some of it was given, if there is plenty; else later.
    pub(crate) fn keep_again(&self) {
        if self.is_given.load(Ordering::Relaxed) && self.try_keep().is_ok() && left(&self.state_dir).is_none()
        {
            self.is_given.store(false, Ordering::Relaxed);
        }
    }

    fn try_keep(&self) -> io::Result<()> {
        let path = self.state_dir.join(FILE);
        if path.metadata().is_ok_and(|file| file.len() >= BALLAST_BYTES)
            || available_bytes(&self.state_dir)? < BALLAST_BYTES * FREE_PARTS_MIN
        {
            return Ok(());
        }
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        Ok(fallocate(&file, FallocateFlags::empty(), 0, BALLAST_BYTES)?)
    }

    /// Gives a piece back. Tells whether there was one.
    pub(crate) fn give(&self) -> bool {
        let taken = File::options().write(true).open(self.state_dir.join(FILE)).and_then(|file| {
            let kept_bytes = file.metadata()?.len();
            file.set_len(kept_bytes.saturating_sub(PIECE_BYTES))?;
            Ok(kept_bytes)
        });
        match taken {
            Ok(kept_bytes) if kept_bytes > 0 => {
                self.is_given.store(true, Ordering::Relaxed);
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
}

/// Bytes that are left of what is kept in a state directory, if some of it was given; also told by files alone.
#[must_use]
pub fn left(state_dir: &Path) -> Option<u64> {
    let kept_bytes = state_dir.join(FILE).metadata().ok()?.len();
    (kept_bytes < BALLAST_BYTES).then_some(kept_bytes)
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
        assert!(!Ballast::of(dir.path()).give(), "nothing was kept yet");
        let ballast = Ballast::keep(dir.path());
        assert_eq!(left(dir.path()), None);
        let pieces = (0..).take_while(|_| ballast.give()).count() as u64;
        assert_eq!((pieces, left(dir.path())), (BALLAST_BYTES / PIECE_BYTES, Some(0)));
        ballast.keep_again();
        assert_eq!(left(dir.path()), None);
        assert_eq!(dir.path().join(FILE).metadata().unwrap().len(), BALLAST_BYTES);
    }

    #[test]
    fn as_long_as_nothing_was_given_nobody_looks_whether_all_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::keep(dir.path());
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        ballast.keep_again();
        assert!(!dir.path().join(FILE).exists(), "it would be there again if somebody had looked");
    }

    #[test]
    fn what_the_agent_before_this_one_gave_is_kept_again_by_this_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), []).unwrap();
        let ballast = Ballast::of(dir.path());
        ballast.is_given.store(left(dir.path()).is_some(), Ordering::Relaxed);
        ballast.keep_again();
        assert_eq!(left(dir.path()), None);
    }
}
