//! What a volume server that was killed has left in its directory, beside what the volume is made of.
//!
//! Invariant: whoever removes it holds the directory, so that no server is there, or comes meanwhile.

use crate::directory::{self, CONTROL_SOCKET, DirectoryError, FRESH, GUEST_SOCKET, SIDE_FILE, VHOST_SOCKET};
use crate::server::{clear_devices, devices_left};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What lies in the directory of a volume and belongs to a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Sockets, side files of snapshots, and files that were about to replace others.
    pub files: Vec<PathBuf>,
    /// Block devices and mounts.
    pub devices: Vec<PathBuf>,
}

impl Left {
    /// Looks in the directory of a volume; whether a server is there now is another question.
    ///
    /// # Errors
    /// The system refuses.
    pub fn look(dir: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            let is_socket =
                [CONTROL_SOCKET, GUEST_SOCKET, VHOST_SOCKET].iter().any(|socket| name == socket.as_bytes());
            if is_socket || name.starts_with(SIDE_FILE.as_bytes()) || name.ends_with(FRESH.as_bytes()) {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(Self { files, devices: devices_left(dir).map_err(io::Error::other)? })
    }

    /// Removes all of it, unless a server has the volume.
    ///
    /// # Errors
    /// [`DirectoryError::InUse`]; the system refuses.
    pub fn clear(dir: &Path) -> Result<(), DirectoryError> {
        let _held = directory::lock(dir)?;
        let left = Self::look(dir).map_err(DirectoryError::io("look at", dir))?;
        if !left.devices.is_empty() {
            clear_devices(dir)
                .map_err(io::Error::other)
                .map_err(DirectoryError::io("clear the devices on", dir))?;
        }
        for path in left.files {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(DirectoryError::io("remove", &path)(e));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn what_a_killed_server_left_is_told_and_removed_and_the_volume_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        drop(UnixListener::bind(at(GUEST_SOCKET)).unwrap());
        for name in ["map", "map.new", "data", "volume.json", "snapshot-x", "lock"] {
            fs::write(at(name), "x").unwrap();
        }
        let left = Left::look(dir.path()).unwrap();
        assert_eq!(left.files, [at(GUEST_SOCKET), at("map.new"), at("snapshot-x")]);
        Left::clear(dir.path()).unwrap();
        assert_eq!(Left::look(dir.path()).unwrap(), Left::default());
        assert!(["map", "data", "volume.json"].iter().all(|name| at(name).exists()));
    }

    #[test]
    fn nothing_is_removed_while_a_server_has_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join(CONTROL_SOCKET);
        let _listens = UnixListener::bind(&socket).unwrap();
        let _held = directory::lock(dir.path()).unwrap();
        assert!(matches!(Left::clear(dir.path()), Err(DirectoryError::InUse { .. })));
        assert!(socket.exists());
    }
}
