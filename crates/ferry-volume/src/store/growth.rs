//! A store that becomes larger: first the data file, then the map (which is the deed), then `volume.json`.
//!
//! ```text
//!   data file   map      volume.json    after a crash it is
//!   former      former   former         what it was
//!   longer      former   former         what it was: the data file is cut (nobody has written there)
//!   longer      grown    former         grown: `volume.json` follows
//!   longer      grown    grown          grown
//! ```
//! Any other mix was not left by a crash and is refused.

use super::direct::{UNIT_BYTES, whole_units};
use super::{Store, StoreError, bytes_of_store};
use crate::buffer::Pool;
use crate::directory::{DATA, DirectoryError, VolumeConfig};
use crate::extents::file_extents;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes looked at in one go.
const PIECE_BYTES: usize = 1 << 20;

/// Brings data file and description to the size that the map tells, if a growth was cut off between them.
///
/// # Errors
/// The files tell different stories, or a file operation failed.
pub(super) fn settle(
    dir: &Path,
    map_bytes: u64,
    data: &File,
    config: &mut VolumeConfig,
) -> Result<(), StoreError> {
    let path = dir.join(DATA);
    let length = data.metadata().map_err(DirectoryError::io("look at", &path))?.len();
    let has_bytes = bytes_of_store(map_bytes, &config.store);
    let left_by_growth = config.size_bytes <= map_bytes
        && has_bytes <= length
        && is_zero(data, has_bytes, length).map_err(DirectoryError::io("read", &path))?;
    if !left_by_growth {
        let (map, config) = (length.to_string(), config.size_bytes.to_string());
        return Err(StoreError::Mismatch { path, what: "the size", map, config });
    }
    if length > has_bytes {
        data.set_len(has_bytes).map_err(DirectoryError::io("cut", &path))?;
    }
    Ok(settle_description(dir, map_bytes, config)?)
}

/// Brings the description to the size that the map tells: all that can be left to do on a device.
///
/// # Errors
/// A file operation failed.
pub(super) fn settle_description(
    dir: &Path,
    map_bytes: u64,
    config: &mut VolumeConfig,
) -> Result<(), DirectoryError> {
    if config.size_bytes < map_bytes {
        config.size_bytes = map_bytes;
        config.write(dir)?;
    }
    Ok(())
}

/// Whether the bytes `start..end` of a file are zero.
fn is_zero(data: &File, start: u64, end: u64) -> io::Result<bool> {
    let piece = Pool::new().take(PIECE_BYTES);
    let mut at = start;
    while at < end {
        for extent in file_extents(data, at, end, 1)? {
            at = extent.end;
            // A filesystem with small blocks has holes where direct I/O could not begin.
            let mut from = start.max(extent.start - extent.start % UNIT_BYTES);
            let to = end.min(whole_units(extent.end));
            while extent.data && from < to {
                let len = PIECE_BYTES.min((to - from) as usize);
                piece.with_bytes_mut(0, len, |bytes| data.read_exact_at(bytes, from))?;
                if piece.with_bytes(0, len, |bytes| bytes.iter().any(|&byte| byte != 0)) {
                    return Ok(false);
                }
                from += len as u64;
            }
        }
    }
    Ok(true)
}

impl Store {
    /// Makes the data file this long if it is shorter; durable with the next sync. Until the map tells of it, the
    /// next opening cuts it back.
    pub(crate) fn lengthen(&self, size_bytes: u64) -> io::Result<()> {
        let length = rustix::fs::fstat(&*self.data)?.st_size as u64;
        let has_bytes = bytes_of_store(size_bytes, &self.config.store);
        match length < has_bytes {
            true => rustix::fs::ftruncate(&*self.data, has_bytes).map_err(io::Error::from),
            false => Ok(()),
        }
    }

    /// How many bytes the device has now.
    pub(crate) fn device_bytes(&self) -> io::Result<u64> {
        Ok(rustix::fs::seek(&*self.data, rustix::fs::SeekFrom::End(0))?)
    }

    /// The map tells that the volume has this size; the description follows.
    pub(crate) fn describe_growth(&mut self, size_bytes: u64) {
        if let Err(e) = self.describe(|config| config.size_bytes = size_bytes) {
            // The map is what counts; the next change of the description, or the next opening, tells of it.
            tracing::warn!(error = %e, "volume.json does not tell yet that the volume has grown");
            self.config.size_bytes = size_bytes;
        }
    }
}
