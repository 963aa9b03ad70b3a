//! A file of checksums of regions (`arrived.sums`, `sealed.sums`), kept in step with what is known of them in memory.
//!
//! What is learnt is appended without waiting for the disk. So it outlives this process at once, and a power loss only
//! after [`SumsFile::descriptor`] was made durable; a server that finds that another boot of the host left the file open
//! knows that the last marks may be missing (see [`ferry_engine::sums`]).

use crate::directory::{self, DirectoryError};
use crate::ring::Descriptor;
use ferry_engine::sums::codec::{self, SumsLog, SumsOf};
use ferry_engine::{Geometry, Sums};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The checksums of what arrived from the source.
pub(crate) const ARRIVED: &str = "arrived.sums";
/// The checksums of what was sealed.
pub(crate) const SEALED: &str = "sealed.sums";

/// Bytes that are hashed at a time.
const HASHED_BYTES: usize = 16 << 10;

/// An open file of checksums.
pub(crate) struct SumsFile {
    dir: PathBuf,
    name: &'static str,
    of: SumsOf,
    pub(crate) sums: Sums,
    log: SumsLog,
    fd: Descriptor,
}

impl SumsFile {
    /// Makes the file, durably, in place of one that may be there.
    ///
    /// # Errors
    /// A file operation failed.
    pub(crate) fn make(
        dir: &Path,
        name: &'static str,
        of: SumsOf,
        mut sums: Sums,
    ) -> Result<Self, DirectoryError> {
        let (bytes, log) = codec::compact(of, &sums);
        sums.take_news();
        let file = directory::put_in_place(dir, name, &bytes)?;
        directory::sync_dir(dir)?;
        Ok(Self { dir: dir.to_owned(), name, of, sums, log, fd: Rc::new(OwnedFd::from(file)) })
    }

    /// Opens the file of this very copy; none if there is none, or one that cannot be used, which is then said.
    ///
    /// # Errors
    /// A file operation failed.
    pub(crate) fn open(
        dir: &Path,
        name: &'static str,
        of: SumsOf,
        geometry: Geometry,
    ) -> Result<Option<Self>, DirectoryError> {
        let path = dir.join(name);
        let file = match std::fs::OpenOptions::new().read(true).write(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(DirectoryError::io("open", &path))?,
        };
        let bytes = std::fs::read(&path).map_err(DirectoryError::io("read", &path))?;
        let (sums, log) = match read(&bytes, of, geometry) {
            Ok(read) => read,
            Err(reason) => {
                tracing::warn!(path = %path.display(), reason, "checksums cannot be used; they are begun anew");
                return Ok(None);
            }
        };
        // What was being appended when the power went is cut off.
        file.set_len(log.bytes_valid()).map_err(DirectoryError::io("cut", &path))?;
        Ok(Some(Self { dir: dir.to_owned(), name, of, sums, log, fd: Rc::new(OwnedFd::from(file)) }))
    }

    /// Appends what was learnt since the last time.
    ///
    /// # Errors
    /// The file can be relied on no more: [`SumsFile::remove`] it.
    pub(crate) fn tell(&mut self) -> io::Result<()> {
        if !self.sums.has_news() {
            return Ok(());
        }
        let mut offset = self.log.bytes_valid();
        let frame = self.log.append(&self.sums.take_news());
        let mut rest = &frame[..];
        while !rest.is_empty() {
            let count = rustix::io::pwrite(&*self.fd, rest, offset)?;
            rest = &rest[count..];
            offset += count as u64;
        }
        if self.log.wants_compaction() {
            let fresh = Self::make(&self.dir, self.name, self.of, self.sums.clone());
            *self = fresh.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Makes durable what was told; waits for the disk.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&*self.fd)?)
    }

    /// What is to be made durable, for those who do not wait for the disk.
    pub(crate) fn descriptor(&self) -> Descriptor {
        self.fd.clone()
    }

    /// Takes the file away: nothing is claimed on its strength any more.
    pub(crate) fn remove(self) {
        remove(&self.dir, self.name);
    }
}

/// Takes a file of checksums away, if it is there.
pub(crate) fn remove(dir: &Path, name: &str) {
    match std::fs::remove_file(dir.join(name)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(error = %e, name, "checksums that are no longer true cannot be removed");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Reads what a file of checksums says of this copy.
fn read(bytes: &[u8], of: SumsOf, geometry: Geometry) -> Result<(Sums, SumsLog), String> {
    let (found, sums, log) = codec::decode(bytes).map_err(|e| e.to_string())?;
    // A volume may have grown since; it never shrinks.
    let fits = sums.geometry().size_bytes() <= geometry.size_bytes()
        && sums.geometry().region_bytes() == geometry.region_bytes();
    if found != of || !fits {
        return Err("they are of another copy".to_owned());
    }
    Ok((sums, log))
}

/// The same file, to be read past the page cache; as it is where the filesystem does not let us.
pub(crate) fn past_the_cache(fd: &Descriptor) -> Descriptor {
    use rustix::fs::{Mode, OFlags};
    let again = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let direct = rustix::fs::open(again, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty());
    direct.map_or_else(|_| fd.clone(), Rc::new)
}

/// The root of these regions as text, for the generation that was sealed; none while a leaf is missing.
pub(crate) fn root(sums: &Sums, generation: u64, regions: Range<u64>) -> Option<String> {
    let mut hasher = blake3::Hasher::new();
    // Leaves are a few bytes each, and a hash likes more at a time.
    let mut gathered = Vec::with_capacity(2 * HASHED_BYTES);
    let is_whole = sums.root_input(generation, regions, |part| {
        gathered.extend_from_slice(part);
        if gathered.len() >= HASHED_BYTES {
            hasher.update(&gathered);
            gathered.clear();
        }
    });
    hasher.update(&gathered);
    is_whole.then(|| hasher.finalize().to_hex().to_string())
}

/// The boot of this host as a number: what the page cache was told is there as long as it stays the same. Where the
/// boot has no name, no two servers share one.
pub(crate) fn boot() -> u64 {
    let name = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        now.as_nanos().to_le_bytes().to_vec()
    });
    let hash = blake3::hash(&name);
    let (first, _) = hash.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first)
}
