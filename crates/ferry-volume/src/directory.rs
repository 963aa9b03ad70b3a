//! A volume's directory: what lies in it, who may use it, and how it begins.
//!
//! ```text
//! <id>/  data          the bytes, sparse
//!        map           which blocks are local; phase and generation (crash-safe, see docs/formats.md)
//!        unflushed     which blocks are local and not in the map yet; holds for one boot of the host
//!        volume.json   what the volume is: id, sizes, source, export, budget (replaced whole, never edited in place)
//!        lock          held by the one server that has the volume open
//!        control.sock  for the agent        guest.sock  for the guest        server.log
//!        vhost.sock   for a virtual machine monitor, while that frontend is attached
//! ```
//!
//! Invariant: a directory with a `volume.json` is complete; one without is a creation that did not finish.

use crate::SourceUri;
use crate::base::Base;
use crate::control::LossPolicy;
use crate::frontend::Frontend;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Name of the control socket in the directory.
pub const CONTROL_SOCKET: &str = "control.sock";
/// Name of the guest's NBD socket in the directory.
pub const GUEST_SOCKET: &str = "guest.sock";
/// Name of the socket that speaks vhost-user-blk, while that frontend is attached.
pub const VHOST_SOCKET: &str = "vhost.sock";
/// Name of the log file of the server.
pub const SERVER_LOG: &str = "server.log";
/// Name of the file that lists what was lost when a source was given up.
pub const ABANDONED: &str = "abandoned.json";
pub(crate) const DATA: &str = "data";
pub(crate) const MAP: &str = "map";
/// Name of the file that notes what is local and not in the map yet.
pub(crate) const UNFLUSHED: &str = "unflushed";
pub(crate) const CONFIG: &str = "volume.json";
/// What the names of the side files of snapshots begin with.
pub(crate) const SIDE_FILE: &str = "snapshot-";
/// What the name of a file ends with that is about to replace another one.
pub(crate) const FRESH: &str = ".new";
/// Name of the file that the one server holds which has the volume open.
pub const LOCK: &str = "lock";
/// Version of `volume.json` that this program writes and reads.
const CONFIG_FORMAT: u32 = 1;
/// Longest path of a unix socket, in bytes (`sun_path` holds 108 with its closing NUL).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why a volume's directory could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A file operation failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The path is too long for a unix socket.
    #[error(
        "{} is too long: the path of a socket in it would have {length} bytes, at most {SOCKET_PATH_BYTES_MAX} work; \
         choose a shorter state directory", path.display()
    )]
    PathTooLong {
        /// The directory.
        path: PathBuf,
        /// Bytes the longest socket path in it would have.
        length: usize,
    },
    /// Another volume is there already.
    #[error("{} already holds another volume ({found}); remove it or choose another directory", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// `volume.json` does not say what it should.
    #[error("{} is not a volume description this version understands: {reason}", path.display())]
    BadConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The size or region size cannot be.
    #[error("a volume of {size_bytes} bytes in regions of {region_bytes} bytes cannot be made: {reason}")]
    BadGeometry {
        /// Asked size.
        size_bytes: u64,
        /// Asked region size.
        region_bytes: u32,
        /// Why not.
        reason: String,
    },
    /// Another process has the volume open.
    #[error("{} is in use by another volume server; end that one first", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

impl DirectoryError {
    pub(crate) fn io<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + 'a {
        move |cause| Self::Io { doing, path: path.to_owned(), cause }
    }
}

/// Where a volume's bytes lie and how they get there, if not through the page cache to the file `data`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// A block device, by a path that names the same one after a restart of the host; none: the file `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<PathBuf>,
    /// Past the page cache.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
}

/// What a volume is: the content of `volume.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeConfig {
    /// Version of this file.
    pub format: u32,
    /// The volume's id (a ULID).
    pub id: String,
    /// Size in bytes, a multiple of 512.
    pub size_bytes: u64,
    /// Unit of copying in bytes, a power of two.
    pub region_bytes: u32,
    /// Generation of this copy.
    pub generation: u64,
    /// Where remote blocks come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceUri>,
    /// Where other workers read it; listened on again after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<SocketAddr>,
    /// Who may read there over TLS, by the URI that a certificate names; none: whoever has a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readers: Option<Vec<String>>,
    /// The most that hydration fetches in the background a second; none: as much as goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_bytes_per_s: Option<NonZeroU64>,
    /// Sources that stand in for the first, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_sources: Vec<SourceUri>,
    /// What becomes of guest requests that wait for a source that is away.
    #[serde(default, skip_serializing_if = "LossPolicy::is_wait")]
    pub loss_policy: LossPolicy,
    /// What is attached while the volume is open; attached again after a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frontends: Vec<Frontend>,
    /// What 99 of 100 requests of the guest may take before hydration backs off, in microseconds; none: no guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard_us: Option<NonZeroU64>,
    /// When hydration shall be complete, in milliseconds since 1970; none: whenever it comes to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_by_ms: Option<u64>,
    /// Where its bytes lie, and how they get there.
    #[serde(default, skip_serializing_if = "StoreConfig::is_usual")]
    pub store: StoreConfig,
    /// The generation of the copy that it was made from, exactly; the map has a mark of that moment. None if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born_from: Option<u64>,
    /// What its source was itself made from, if that can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
}

impl StoreConfig {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

impl VolumeConfig {
    pub(crate) fn new(id: String, size_bytes: u64, region_bytes: u32, generation: u64) -> Self {
        Self {
            format: CONFIG_FORMAT,
            id,
            size_bytes,
            region_bytes,
            generation,
            source: None,
            export: None,
            readers: None,
            budget_bytes_per_s: None,
            more_sources: Vec::new(),
            loss_policy: LossPolicy::Wait,
            frontends: Vec::new(),
            guard_us: None,
            finish_by_ms: None,
            store: StoreConfig::default(),
            born_from: None,
            base: None,
        }
    }

    /// Reads the description of the volume in `dir`.
    ///
    /// # Errors
    /// It is not there, not readable, or not of a format this version knows.
    pub fn read(dir: &Path) -> Result<Self, DirectoryError> {
        let path = dir.join(CONFIG);
        let text = fs::read_to_string(&path).map_err(DirectoryError::io("read", &path))?;
        let bad = |reason| DirectoryError::BadConfig { path: path.clone(), reason };
        let config: Self = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if config.format != CONFIG_FORMAT {
            return Err(bad(format!("its format is {}, known is {CONFIG_FORMAT}", config.format)));
        }
        Ok(config)
    }

    /// Replaces the description in `dir`, durably and whole.
    ///
    /// # Errors
    /// A file operation failed; the former description is still there.
    pub fn write(&self, dir: &Path) -> Result<(), DirectoryError> {
        let mut text = serde_json::to_string_pretty(self).expect("a volume description always encodes");
        text.push('\n');
        replace_file(dir, CONFIG, text.as_bytes())
    }
}

/// Replaces `dir/name` by `content` so that a crash leaves either the former or the new file, never a mix.
pub(crate) fn replace_file(dir: &Path, name: &str, content: &[u8]) -> Result<(), DirectoryError> {
    put_in_place(dir, name, content)?;
    sync_dir(dir)
}

/// The same, but until [`sync_dir`] a crash may still bring the former file back. Gives the new one, open to read
/// and write.
pub(crate) fn put_in_place(dir: &Path, name: &str, content: &[u8]) -> Result<File, DirectoryError> {
    let path = dir.join(name);
    let fresh = dir.join(format!("{name}{FRESH}"));
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&fresh);
    let mut file = file.map_err(DirectoryError::io("create", &fresh))?;
    file.write_all(content).map_err(DirectoryError::io("write", &fresh))?;
    file.sync_all().map_err(DirectoryError::io("make durable", &fresh))?;
    fs::rename(&fresh, &path).map_err(DirectoryError::io("replace", &path))?;
    Ok(file)
}

/// Makes the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), DirectoryError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(DirectoryError::io("make durable", dir))
}

/// Removes the side files of a server that has ended: nobody knows any more what they hold.
pub(crate) fn remove_side_files(dir: &Path) -> Result<(), DirectoryError> {
    let failed = DirectoryError::io("read", dir);
    for entry in fs::read_dir(dir).map_err(&failed)? {
        let path = entry.map_err(&failed)?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(SIDE_FILE.as_bytes())) {
            fs::remove_file(&path).map_err(DirectoryError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Refuses a directory in which a socket's path would be too long.
///
/// # Errors
/// [`DirectoryError::PathTooLong`].
pub fn check_socket_paths(dir: &Path) -> Result<(), DirectoryError> {
    let length = dir.as_os_str().len() + 1 + CONTROL_SOCKET.len();
    if length > SOCKET_PATH_BYTES_MAX {
        return Err(DirectoryError::PathTooLong { path: dir.to_owned(), length });
    }
    Ok(())
}

/// Holds a volume's directory for one process; given back when dropped or when the process dies.
#[derive(Debug)]
pub struct DirectoryLock(OwnedFd);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing would not do: a child that another thread has forked, and that has not executed its program yet,
        // has a copy of the descriptor and would hold the lock for that moment. Nothing follows if this fails.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// Takes the volume's directory for this process.
///
/// # Errors
/// [`DirectoryError::InUse`] when another process holds it.
pub fn lock(dir: &Path) -> Result<DirectoryLock, DirectoryError> {
    let path = dir.join(LOCK);
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| DirectoryError::io("open", &path)(e.into()))?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DirectoryLock(fd)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DirectoryError::InUse { path: dir.to_owned() }),
        Err(e) => Err(DirectoryError::io("lock", &path)(e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_from_before_budgets_has_none_and_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let config = VolumeConfig::new("01JD9Z6M4Q5R6S7T8V9WAXBYCZ".to_owned(), 4096, 4096, 1);
        config.write(dir.path()).unwrap();
        assert!(!fs::read_to_string(dir.path().join(CONFIG)).unwrap().contains("budget"));
        assert_eq!(VolumeConfig::read(dir.path()).unwrap(), config);
        let paced = VolumeConfig { budget_bytes_per_s: NonZeroU64::new(1), ..config };
        paced.write(dir.path()).unwrap();
        assert_eq!(VolumeConfig::read(dir.path()).unwrap(), paced);
    }

    #[test]
    fn a_description_from_before_direct_io_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = VolumeConfig::new("01JD9Z6M4Q5R6S7T8V9WAXBYCZ".to_owned(), 4096, 4096, 1);
        config.store.device = Some("/dev/vg0/db".into());
        config.write(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join(CONFIG)).unwrap();
        assert!(text.contains("/dev/vg0/db") && !text.contains("direct"), "{text}");
        config.store.direct = true;
        config.write(dir.path()).unwrap();
        assert_eq!(VolumeConfig::read(dir.path()).unwrap(), config);
    }

    #[test]
    fn a_directory_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let _held = lock(dir.path()).unwrap();
        assert!(matches!(lock(dir.path()), Err(DirectoryError::InUse { .. })));
    }

    #[test]
    fn a_lock_is_given_back_although_a_forked_child_still_has_its_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        let _in_a_child = held.0.try_clone().unwrap();
        drop(held);
        lock(dir.path()).unwrap();
    }
}
