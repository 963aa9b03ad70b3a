//! Large files are given back in small pieces. A file system that tells its disk what is free (`discard`) does so as it commits, and
//! whoever flushes meanwhile waits for that: with 16 GiB at once every guest of the host stands still for a large part of a second.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How much is given back between two commits, in bytes.
const PIECE_BYTES: u64 = 64 << 20;
/// Unit in which the system counts the space of a file, in bytes.
const STAT_BLOCK_BYTES: u64 = 512;

/// Gives back what the files of a directory occupy; of those that are small nothing. Nothing else may need them.
///
/// # Errors
/// The system's.
pub(super) fn files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let found = entry.metadata()?;
        if found.is_file() && occupied(&found) > PIECE_BYTES {
            file(&entry.path())?;
        }
    }
    Ok(())
}

fn occupied(found: &fs::Metadata) -> u64 {
    found.blocks().saturating_mul(STAT_BLOCK_BYTES)
}

fn file(path: &Path) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let mut found = file.metadata()?;
    let mut committed = occupied(&found);
    while found.len() > 0 {
        file.set_len(found.len().saturating_sub(PIECE_BYTES))?;
        found = file.metadata()?;
        // Holes cost nothing, so that a sparse file does not take long.
        if committed.saturating_sub(occupied(&found)) >= PIECE_BYTES {
            file.sync_all()?;
            committed = occupied(&found);
        }
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_a_large_sparse_file_occupies_is_given_back_and_small_files_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let (large, small) = (dir.path().join("data"), dir.path().join("map"));
        let file = File::create(&large).unwrap();
        file.set_len(1 << 40).unwrap();
        for at in [0, 1 << 30, (1 << 40) - PIECE_BYTES] {
            file.write_all_at(&vec![7; PIECE_BYTES as usize], at).unwrap();
        }
        fs::write(&small, "here").unwrap();
        files(dir.path()).unwrap();
        assert_eq!(fs::metadata(&large).unwrap().blocks(), 0);
        assert_eq!(fs::read(&small).unwrap(), b"here");
    }
}
