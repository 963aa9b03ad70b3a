//! Sockets in the directories of machines.

use super::DriverError;
use std::path::Path;

/// The longest path that a unix socket can have, in bytes (unix(7), `sun_path` with its end).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A socket that can be made, as far as its path goes.
pub(super) fn checked(socket: &Path) -> Result<&Path, DriverError> {
    if socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok(socket);
    }
    Err(DriverError::LongPath { path: socket.to_owned(), bytes_max: SOCKET_PATH_BYTES_MAX })
}
