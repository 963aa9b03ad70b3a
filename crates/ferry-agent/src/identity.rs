//! Whose state directory this is: the worker's name, in a small file of its own, for those who have the files alone.
//!
//! Invariant: what it says is the name that the last agent had that held the directory.

use ferry_api::{ApiError, ErrorCode, WorkerName};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Name of the file in the state directory.
const FILE: &str = "worker";

/// Why the name cannot be noted.
#[derive(Debug, thiserror::Error)]
#[error("cannot note the worker's name in {}; check that the agent may write there", path.display())]
pub struct IdentityError {
    path: std::path::PathBuf,
    #[source]
    cause: io::Error,
}

/// Notes the name of the worker whose state directory this is. The caller holds the directory.
///
/// # Errors
/// It cannot be written.
pub fn note(state_dir: &Path, name: &WorkerName) -> Result<(), IdentityError> {
    let path = state_dir.join(FILE);
    if fs::read_to_string(&path).is_ok_and(|noted| noted.trim() == name.as_str()) {
        return Ok(());
    }
    let fresh = path.with_extension("new");
    let written = File::create(&fresh)
        .and_then(|mut file| writeln!(file, "{name}").and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&fresh, &path))
        .and_then(|()| File::open(state_dir)?.sync_all());
    written.map_err(|cause| IdentityError { path, cause })
}

/// The worker whose state directory this is.
///
/// # Errors
/// It does not say: no agent of this version has held it.
pub fn of(state_dir: &Path) -> Result<WorkerName, ApiError> {
    let noted = fs::read_to_string(state_dir.join(FILE)).unwrap_or_default();
    noted.trim().parse().map_err(|_| {
        let dir = state_dir.display();
        let message = format!("{dir} does not say which worker's it is; say it, as in --state-dir w1={dir}");
        ApiError::new(ErrorCode::InvalidRequest, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_says_whose_it_is_once_an_agent_has_held_it() {
        let dir = tempfile::tempdir().unwrap();
        let refused = of(dir.path()).unwrap_err();
        assert!(refused.message.contains("--state-dir w1="), "{refused}");
        for name in ["w1", "w2", "w2"] {
            let name: WorkerName = name.parse().unwrap();
            note(dir.path(), &name).unwrap();
            assert_eq!(of(dir.path()).unwrap(), name);
        }
    }
}
