//! The file of notes (`unflushed`): which blocks answered writes made local that the map does not know yet.
//!
//! ```text
//!  notes of a turn ─▶ append ─▶ replies of the turn       the map knows all: cut to its head
//!                                                         too long: a fresh one is renamed over it
//! ```
//!
//! No step waits for the disk, and a process that is killed at any moment leaves all notes that were appended. There is
//! no file before the first note, so a volume that is all there never has one.

use super::StoreError;
use crate::directory::{DirectoryError, UNFLUSHED};
use crate::sums_file::boot;
use ferry_engine::notes::{self, NotesLog, NotesOf};
use ferry_engine::{Blocks, MapState};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The notes of one copy.
pub(crate) struct Notes {
    path: PathBuf,
    of: NotesOf,
    file: Option<(File, NotesLog)>,
    is_forsaken: bool,
}

impl Notes {
    /// The notes beside this map, and what a server before this one noted in the same boot of the host. What another boot
    /// left is removed: the page cache that it speaks of is gone.
    ///
    /// # Errors
    /// A file operation failed, or notes that hold cannot be read.
    pub(super) fn open(dir: &Path, state: &MapState) -> Result<(Self, Vec<Blocks>), StoreError> {
        let path = dir.join(UNFLUSHED);
        let of = NotesOf { volume_id: state.volume_id, generation: state.generation, boot: boot() };
        let mut all = Self { path, of, file: None, is_forsaken: false };
        let bytes = match fs::read(&all.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((all, Vec::new())),
            other => other.map_err(DirectoryError::io("read", &all.path))?,
        };
        let decoded = notes::decode(&bytes, of, state.geometry());
        let decoded = decoded.map_err(|cause| StoreError::Notes { path: all.path.clone(), cause })?;
        let Some((found, log)) = decoded else {
            fs::remove_file(&all.path).map_err(DirectoryError::io("remove", &all.path))?;
            return Ok((all, Vec::new()));
        };
        all.file = Some((super::open_rw(&all.path)?, log));
        Ok((all, found))
    }

    /// Notes these blocks.
    ///
    /// # Errors
    /// They are not noted; the former notes still hold.
    pub(crate) fn append(&mut self, noted: &[Blocks]) -> io::Result<()> {
        if self.is_forsaken {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let Some((file, log)) = &mut self.file else { return self.write_anew(noted) };
        let mut longer = *log;
        let frame = longer.append(noted);
        file.write_all_at(&frame, log.bytes_valid())?;
        *log = longer;
        Ok(())
    }

    /// Whether nothing is noted.
    pub(crate) fn is_empty(&self) -> bool {
        self.file.as_ref().is_none_or(|(_, log)| log.is_empty())
    }

    /// Only these blocks are needed any more. What cannot be forgotten is only known twice.
    pub(crate) fn need_only(&mut self, mut noted: impl Iterator<Item = Blocks>) {
        let Some((file, log)) = &mut self.file else { return };
        let wants_compaction = log.wants_compaction();
        let result = match noted.next() {
            None => {
                log.clear();
                file.set_len(log.bytes_valid())
            }
            Some(first) if wants_compaction => {
                let noted: Vec<Blocks> = std::iter::once(first).chain(noted).collect();
                self.write_anew(&noted)
            }
            Some(_) => Ok(()),
        };
        if let Err(e) = result {
            tracing::warn!(error = %e, "notes of unflushed writes that the map knows stay");
        }
    }

    /// The store cannot be trusted beyond the map: no note holds any more, and none is taken.
    pub(crate) fn forsake(&mut self) {
        self.is_forsaken = true;
        if self.file.take().is_some()
            && let Err(e) = fs::remove_file(&self.path)
        {
            tracing::error!(error = %e, "notes that do not hold any more cannot be removed; remove the file `{UNFLUSHED}`");
        }
    }

    fn write_anew(&mut self, noted: &[Blocks]) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        let (bytes, log) = notes::compact(self.of, noted);
        file.write_all_at(&bytes, 0)?;
        fs::rename(&fresh, &self.path)?;
        self.file = Some((file, log));
        Ok(())
    }
}
