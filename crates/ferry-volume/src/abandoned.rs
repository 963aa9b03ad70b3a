//! What was lost when a source was given up: a list beside the volume, for people and for receipts.
//!
//! Invariant: it is durable before the map says that the source is given up. So a list beside a map that still has its
//! source is of an attempt that was cut off, and is removed when the volume is opened.

use crate::control::Span;
use crate::directory::{self, ABANDONED, DirectoryError, VolumeConfig};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Version of the file that this program writes and reads.
const FORMAT: u32 = 1;

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Abandoned {
    /// Version of this file.
    pub format: u32,
    /// The volume's id.
    pub id: String,
    /// Generation of this copy.
    pub generation: u64,
    /// The source that was given up.
    pub source: Option<String>,
    /// All ranges together, in bytes.
    pub bytes: u64,
    /// What nobody has any more, in order.
    pub ranges: Vec<Span>,
}

impl Abandoned {
    pub(crate) fn new(config: &VolumeConfig, ranges: Vec<Span>) -> Self {
        Self {
            format: FORMAT,
            id: config.id.clone(),
            generation: config.generation,
            source: config.source.as_ref().map(ToString::to_string),
            bytes: ranges.iter().map(|span| span.len_bytes).sum(),
            ranges,
        }
    }

    /// Writes the list into `dir`, durably and whole.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), DirectoryError> {
        let mut text = serde_json::to_vec(self).expect("a list of ranges always encodes");
        text.push(b'\n');
        directory::replace_file(dir, ABANDONED, &text)
    }

    /// How many bytes were given up of the volume in `dir`; 0 without a list.
    pub(crate) fn bytes_in(dir: &Path, config: &VolumeConfig) -> Result<u64, DirectoryError> {
        let path = dir.join(ABANDONED);
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other.map_err(DirectoryError::io("read", &path))?,
        };
        let bad = |reason| DirectoryError::BadConfig { path: path.clone(), reason };
        let list: Self = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        if (list.format, &list.id, list.generation) != (FORMAT, &config.id, config.generation) {
            return Err(bad(format!(
                "it is of volume {}@{} in format {}",
                list.id, list.generation, list.format
            )));
        }
        Ok(list.bytes)
    }

    /// Removes a list that came to nothing.
    pub(crate) fn remove(dir: &Path) -> Result<(), DirectoryError> {
        let path = dir.join(ABANDONED);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(DirectoryError::io("remove", &path)(e)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
