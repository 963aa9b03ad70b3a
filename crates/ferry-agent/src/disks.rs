//! What is wrong with the file systems that a worker lives on: that of its state directory, and that of its volumes where it is
//! another one (`STATE_DIR/volumes` may be a mount point).
//!
//! Invariant: looking changes nothing. Whether a file system has become read-only is known from opening a file there to write: what
//! is mounted how does not tell what the kernel has done after an error.

use crate::ballast;
use crate::config::volumes_dir;
use crate::records::LOCK_FILE;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// With fewer bytes free than this a file system is full: nothing of any size can be written any more.
const FULL_BYTES: u64 = 1 << 20;

/// A file system as it was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    is_read_only: bool,
    /// Bytes that are free for others than root; none if that is not known.
    free_bytes: Option<u64>,
    /// What is left of the room that the agent keeps, if it had to give of it.
    kept_bytes: Option<u64>,
}

/// What is wrong, each in one sentence that says what to do.
pub(crate) fn troubles(state_dir: &Path) -> Vec<String> {
    let own = Found { kept_bytes: ballast::left(state_dir), ..look(state_dir, &state_dir.join(LOCK_FILE)) };
    let own = against_state(own).map(|why| format!("the file system of {} {why}", state_dir.display()));
    let volumes = volumes_dir(state_dir);
    let apart = is_apart(state_dir, &volumes).then(|| look(&volumes, &of_some_volume(&volumes)));
    let apart = apart.and_then(against_volumes);
    own.into_iter()
        .chain(apart.map(|why| format!("the file system of {} {why}", volumes.display())))
        .collect()
}

/// Why nothing can be written in the state directory any more, if its file system is read-only.
pub(crate) fn read_only(state_dir: &Path) -> Option<String> {
    let is_read_only = look(state_dir, &state_dir.join(LOCK_FILE)).is_read_only;
    is_read_only.then(|| format!("the file system of {} is read-only", state_dir.display()))
}

/// Whether volumes lie on another file system than what the agent notes of them.
#[must_use]
pub fn is_apart(state_dir: &Path, volumes: &Path) -> bool {
    let device = |dir: &Path| dir.metadata().map(|dir| dir.dev());
    matches!((device(state_dir), device(volumes)), (Ok(own), Ok(other)) if own != other)
}

fn against_state(found: Found) -> Option<String> {
    match found {
        Found { is_read_only: true, .. } => Some(
            "is read-only, so the agent ends at its next note: mend it, then start the agent again"
                .to_owned(),
        ),
        Found { kept_bytes: Some(left), .. } => Some(format!(
            "is full, and the agent lives on the {} KiB that it has kept: make room there, or move machines away",
            left >> 10
        )),
        Found { free_bytes: Some(free), .. } if free < FULL_BYTES => Some(
            "is full, so that machines get no more room: make room there, or move machines away".to_owned(),
        ),
        Found { .. } => None,
    }
}

fn against_volumes(found: Found) -> Option<String> {
    match found {
        Found { is_read_only: true, .. } => Some(
            "is read-only, so that machines read and no longer write: move them away, then mend it"
                .to_owned(),
        ),
        Found { free_bytes: Some(free), .. } if free < FULL_BYTES => Some(
            "is full, so that machines get no more room: make room there, or move machines away".to_owned(),
        ),
        Found { .. } => None,
    }
}

/// Looks at a file system by a file in it that is there to be written.
fn look(dir: &Path, file: &Path) -> Found {
    let opened = File::options().write(true).open(file);
    let is_read_only = opened.is_err_and(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem);
    // Some file systems tell of no room at all.
    let told = rustix::fs::statvfs(dir).ok().filter(|told| told.f_blocks > 0);
    let free_bytes = told.map(|told| told.f_bavail.saturating_mul(told.f_frsize));
    Found { is_read_only, free_bytes, kept_bytes: None }
}

/// The lock of some volume: each has one, and to open it takes nothing from its server.
fn of_some_volume(volumes: &Path) -> PathBuf {
    let some = std::fs::read_dir(volumes).into_iter().flatten().flatten();
    let mut locks = some.map(|entry| entry.path().join(ferry_volume::directory::LOCK));
    locks.find(|lock| lock.exists()).unwrap_or_else(|| volumes.join(ferry_volume::directory::LOCK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_well_is_not_spoken_of() {
        let well = Found { free_bytes: Some(FULL_BYTES), ..Found::default() };
        for found in [well, Found::default()] {
            assert_eq!((against_state(found), against_volumes(found)), (None, None), "{found:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(troubles(dir.path()).is_empty());
        assert_eq!(read_only(dir.path()), None);
    }

    #[test]
    fn what_is_wrong_comes_with_what_to_do_the_worst_first() {
        let full = Found { free_bytes: Some(0), ..Found::default() };
        assert!(against_volumes(full).unwrap().contains("make room there"));
        let lives_on = Found { kept_bytes: Some(256 << 10), ..full };
        assert!(against_state(lives_on).unwrap().contains("on the 256 KiB that it has kept"));
        let read_only = Found { is_read_only: true, ..lives_on };
        assert!(against_state(read_only).unwrap().contains("start the agent again"));
        assert!(against_volumes(read_only).unwrap().contains("move them away"));
    }

    #[test]
    fn an_agent_that_lives_on_what_it_kept_says_so_until_it_keeps_all_of_it_again() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = ballast::Ballast::keep(dir.path());
        assert!(troubles(dir.path()).is_empty());
        assert!(ballast.give());
        assert!(troubles(dir.path())[0].contains("lives on the 16128 KiB"), "{:?}", troubles(dir.path()));
        ballast.keep_again();
        assert!(troubles(dir.path()).is_empty());
    }
}
