//! Records that are only read: of a worker whose agent may be down, or not.
//!
//! Invariant: nothing is changed, not even by SQLite: no log is emptied, no index of it made, no lock of the agent taken.

use super::{FILE, RecordsError, schema};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// Looks at the files of records whose agent begins or ends meanwhile: either makes or removes the log and its index.
const LOOKS_MAX: u32 = 4;

/// Records that are only read.
pub(crate) struct RecordsAtRest {
    connection: Connection,
    /// What is read, where the originals cannot be without a change.
    _copied: Option<TempDir>,
}

impl RecordsAtRest {
    /// Opens the records in a state directory.
    ///
    /// # Errors
    /// They are not there, cannot be opened, or are from a later version.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, RecordsError> {
        let mut looks = 1;
        loop {
            match Self::open_as_they_lie(state_dir) {
                Err(error) if looks < LOOKS_MAX && has_changed_meanwhile(&error) => looks += 1,
                other => return other,
            }
        }
    }

    fn open_as_they_lie(state_dir: &Path) -> Result<Self, RecordsError> {
        let path = state_dir.join(FILE);
        let (log, index) = (beside(&path, "-wal"), beside(&path, "-shm"));
        let has_log = fs::metadata(&log).is_ok_and(|log| log.len() > 0);
        let (opened, copied) = match (has_log, index.exists()) {
            // An agent runs, or was killed. Its index of the log is not touched; SQLite makes one in memory if need be.
            (_, true) => (read_only(&path, "readonly_shm=1")?, None),
            // All is in the one file, and nobody has it open.
            (false, false) => (read_only(&path, "immutable=1")?, None),
            // A log without an index: copied by somebody. Nobody has it open, or there would be an index.
            (true, false) => {
                let dir = copy(&[&path, &log]).map_err(|cause| RecordsError::Io {
                    doing: "copy",
                    path: log,
                    cause,
                })?;
                (read_only(&dir.path().join(FILE), "mode=rw")?, Some(dir))
            }
        };
        schema::check_known(&opened, &path)?;
        Ok(Self { connection: opened, _copied: copied })
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// Whether this may come of files that were there, or not there, a moment before.
fn has_changed_meanwhile(error: &RecordsError) -> bool {
    if let RecordsError::Open { cause, .. } = error {
        return cause.sqlite_error_code() == Some(ErrorCode::CannotOpen);
    }
    matches!(error, RecordsError::Io { cause, .. } if cause.kind() == std::io::ErrorKind::NotFound)
}

fn read_only(path: &Path, how: &str) -> Result<Connection, RecordsError> {
    let flags = match how {
        "mode=rw" => OpenFlags::SQLITE_OPEN_READ_WRITE,
        _ => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let failed = |cause| RecordsError::Open { path: path.to_owned(), cause };
    let uri = format!("file:{}?{how}", percent_encoded(path));
    let connection = Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI).map_err(failed)?;
    connection.busy_timeout(schema::BUSY_TIMEOUT).map_err(failed)?;
    Ok(connection)
}

fn copy(files: &[&Path]) -> std::io::Result<TempDir> {
    let dir = tempfile::tempdir()?;
    for file in files {
        let name = file.file_name().expect("records have names");
        fs::copy(file, dir.path().join(name))?;
    }
    Ok(dir)
}

fn beside(path: &Path, ending: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// A path as it may stand in a URI.
fn percent_encoded(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes().iter();
    bytes
        .map(|byte| match byte {
            b'?' | b'#' | b'%' | 0x80.. => format!("%{byte:02X}"),
            _ => char::from(*byte).to_string(),
        })
        .collect()
}
