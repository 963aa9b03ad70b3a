//! What this worker handed over, remembered for ever: one small file for each machine and volume that ever left it.
//!
//! ```text
//!   state_dir/handed-over/volume-ULID    drawn in docs/formats.md; no part of the records, and of no backup of them
//!                         machine-ULID
//! ```
//!
//! Invariants: a mark is durable before the target of a move hears that it owns anything; what it says only rises
//! ([`ferry_crossing::Fence`]); it is never deleted, also not with the copy that was handed over. One that cannot be read
//! bars everything.

use crate::ballast::Ballast;
use crate::host::{Doing, blocking};
use ferry_api::{ApiError, ErrorCode, Generation, JobId, WorkerName};
use ferry_crossing::{Fence, Subject};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Name of the directory of all marks in the state directory.
const DIRECTORY: &str = "handed-over";
/// Version of a mark that this program writes and reads.
const FORMAT: u32 = 1;
/// Longest mark that is read, in bytes; the longest that is written is below 256.
const MARK_BYTES_MAX: u64 = 1024;

/// Why a mark cannot be read or left.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
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
    /// It does not say what it should.
    #[error(
        "{} is not the mark of a hand-over that this version understands ({reason}); find out who owns what it is about, \
         and do not delete it before", path.display()
    )]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<FenceError> for ApiError {
    fn from(error: FenceError) -> Self {
        Self::because(ErrorCode::Internal, &error)
    }
}

/// Something that waits for the disk.
pub type Raising = Box<dyn FnOnce() -> Result<(), FenceError> + Send>;

/// Where the marks of a worker lie.
pub trait Shelf: Send + Sync + std::fmt::Debug {
    /// Name of a mark, for people.
    fn path(&self, subject: Subject) -> PathBuf;

    /// A mark as it lies there, if it does; of one that is too long only its beginning.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&self, subject: Subject) -> Result<Option<Vec<u8>>, FenceError>;

    /// Puts a mark in the place of the former one, whole or not at all; without one, only makes durable what is there.
    /// Durable when it returns.
    ///
    /// # Errors
    /// It cannot be written.
    fn replace(&self, subject: Subject, mark: Option<Vec<u8>>) -> Result<(), FenceError>;

    /// Does what waits for the disk beside everything else.
    fn aside(&self, act: Raising) -> Doing<'static, Result<(), FenceError>>;
}

/// The marks of this worker.
#[derive(Clone, Debug)]
pub struct Fences {
    shelf: Arc<dyn Shelf>,
    /// Held while a mark is compared and replaced.
    turn: Arc<Mutex<()>>,
}

/// Marks in files.
#[derive(Debug)]
struct Directory {
    dir: PathBuf,
    ballast: Ballast,
}

impl Directory {
    fn put(&self, subject: Subject, mark: &[u8]) -> Result<(), FenceError> {
        let (path, fresh) = (self.path(subject), self.path(subject).with_extension("new"));
        let mut file = File::create(&fresh).map_err(io("make", &fresh))?;
        file.write_all(mark).and_then(|()| file.sync_all()).map_err(io("write", &fresh))?;
        fs::rename(&fresh, &path).map_err(io("replace", &path))?;
        sync(&self.dir)
    }
}

impl Shelf for Directory {
    fn path(&self, subject: Subject) -> PathBuf {
        self.dir.join(match subject {
            Subject::Machine(id) => format!("machine-{id}"),
            Subject::Volume(id) => format!("volume-{id}"),
        })
    }

    fn read(&self, subject: Subject) -> Result<Option<Vec<u8>>, FenceError> {
        let path = self.path(subject);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io("open", &path)(e)),
        };
        let mut mark = Vec::new();
        file.take(MARK_BYTES_MAX).read_to_end(&mut mark).map_err(io("read", &path))?;
        Ok(Some(mark))
    }

    fn replace(&self, subject: Subject, mark: Option<Vec<u8>>) -> Result<(), FenceError> {
        let Some(mark) = mark else { return sync(&self.dir) };
        loop {
            match self.put(subject, &mark) {
                Err(FenceError::Io { cause, .. })
                    if cause.kind() == io::ErrorKind::StorageFull && self.ballast.give() => {}
                other => return other,
            }
        }
    }

    fn aside(&self, act: Raising) -> Doing<'static, Result<(), FenceError>> {
        blocking(act)
    }
}

impl Fences {
    /// The marks in a state directory, which must exist.
    ///
    /// # Errors
    /// Their directory cannot be made.
    pub fn open(state_dir: &Path) -> Result<Self, FenceError> {
        Self::open_on(state_dir, Ballast::of(state_dir))
    }

    /// The same, with room that is kept for them.
    ///
    /// # Errors
    /// As [`Fences::open`].
    pub(crate) fn open_on(state_dir: &Path, ballast: Ballast) -> Result<Self, FenceError> {
        let dir = state_dir.join(DIRECTORY);
        fs::create_dir_all(&dir).map_err(io("make", &dir))?;
        sync(state_dir)?;
        Ok(Self::on(Arc::new(Directory { dir, ballast })))
    }

    /// The marks that lie somewhere else than in files.
    #[must_use]
    pub fn on(shelf: Arc<dyn Shelf>) -> Self {
        Self { shelf, turn: Arc::default() }
    }

    /// The marks in a state directory that are only to be read: nothing is made there.
    #[must_use]
    pub(crate) fn of_state_dir(state_dir: &Path) -> Self {
        let ballast = Ballast::of(state_dir);
        Self::on(Arc::new(Directory { dir: state_dir.join(DIRECTORY), ballast }))
    }

    /// What is remembered of something, if it was ever handed over.
    ///
    /// # Errors
    /// Its mark cannot be read or understood: it is to be taken for handed over.
    pub fn of(&self, subject: Subject) -> Result<Option<Fence>, FenceError> {
        let Some(mark) = self.shelf.read(subject)? else { return Ok(None) };
        let bad = |reason| FenceError::Bad { path: self.shelf.path(subject), reason };
        decode(&mark).map(Some).map_err(bad)
    }

    /// The fence that bars something of this generation, if one does.
    ///
    /// # Errors
    /// As [`Fences::of`].
    pub fn barring(&self, subject: Subject, generation: Generation) -> Result<Option<Fence>, FenceError> {
        Ok(self.of(subject)?.filter(|fence| fence.bars(generation)))
    }

    /// What is remembered of each of these.
    ///
    /// # Errors
    /// As [`Fences::of`].
    pub fn of_all(
        &self,
        subjects: impl IntoIterator<Item = Subject>,
    ) -> Result<BTreeMap<Subject, Fence>, FenceError> {
        let known = subjects.into_iter().filter_map(|subject| match self.of(subject) {
            Ok(fence) => fence.map(|fence| Ok((subject, fence))),
            Err(error) => Some(Err(error)),
        });
        known.collect()
    }

    /// Remembers that something was handed over. Durable when it answers.
    ///
    /// # Errors
    /// The mark cannot be written, or what it says so far not understood.
    pub async fn raise(&self, subject: Subject, fence: Fence) -> Result<(), FenceError> {
        let this = self.clone();
        self.shelf.aside(Box::new(move || this.raise_now(subject, &fence))).await
    }

    fn raise_now(&self, subject: Subject, fence: &Fence) -> Result<(), FenceError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let rises = fence.rises_above(self.of(subject)?.as_ref());
        // Also when it says so already: whoever wrote that may have died before it was durable.
        self.shelf.replace(subject, rises.then(|| encode(fence)))
    }
}

/// A mark as it lies on the disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    format: u32,
    generation: u64,
    to: WorkerName,
    job: JobId,
    crc32c: u32,
}

fn encode(fence: &Fence) -> Vec<u8> {
    let Fence { generation, to, job } = fence.clone();
    let mark = Mark { format: FORMAT, generation: generation.0, to, job, crc32c: checksum(fence) };
    let mut text = serde_json::to_vec(&mark).expect("a mark is plain data and always encodes");
    text.push(b'\n');
    text
}

fn decode(text: &[u8]) -> Result<Fence, String> {
    let Mark { format, generation, to, job, crc32c } =
        serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if format != FORMAT {
        return Err(format!("its format is {format}, known is {FORMAT}"));
    }
    let fence = Fence { generation: Generation(generation), to, job };
    if crc32c != checksum(&fence) {
        return Err("its checksum does not fit".to_owned());
    }
    Ok(fence)
}

fn checksum(fence: &Fence) -> u32 {
    let Fence { generation, to, job } = fence;
    crc32c::crc32c(format!("{generation} {to} {job}").as_bytes())
}

fn sync(dir: &Path) -> Result<(), FenceError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io("make durable", dir))
}

fn io<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> FenceError + 'a {
    move |cause| FenceError::Io { doing, path: path.to_owned(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::VolumeId;

    fn fence(generation: u64) -> Fence {
        Fence { generation: Generation(generation), to: "w2".parse().unwrap(), job: JobId::fresh() }
    }

    #[tokio::test]
    async fn a_mark_outlives_the_agent_and_only_rises() {
        let dir = tempfile::tempdir().unwrap();
        let subject = Subject::Volume(VolumeId::fresh());
        let (first, third) = (fence(1), fence(3));
        let fences = Fences::open(dir.path()).unwrap();
        assert_eq!(fences.of(subject).unwrap(), None);
        for raised in [first, third.clone(), fence(2), fence(3)] {
            fences.raise(subject, raised).await.unwrap();
        }
        let again = Fences::open(dir.path()).unwrap();
        assert_eq!(again.of(subject).unwrap(), Some(third));
        assert!(again.barring(subject, Generation(3)).unwrap().is_some());
        assert!(again.barring(subject, Generation(4)).unwrap().is_none());
    }

    #[test]
    fn a_mark_lies_on_the_disk_as_it_is_drawn_in_the_documentation() {
        let job = "01JD9Z6M4Q5R6S7T8V9WAXBYCZ";
        let fence = Fence { job: job.parse().unwrap(), ..fence(3) };
        let drawn = format!(
            "{{\"format\":1,\"generation\":3,\"to\":\"w2\",\"job\":\"{job}\",\"crc32c\":3132096868}}\n"
        );
        assert_eq!(String::from_utf8(encode(&fence)).unwrap(), drawn);
    }

    #[test]
    fn a_mark_that_is_damaged_anywhere_never_says_anything_else() {
        let known = fence(3);
        let whole = encode(&known);
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                assert!(
                    decode(&damaged).is_err() || decode(&damaged) == Ok(known.clone()),
                    "byte {at}, bit {bit}"
                );
            }
            assert!(decode(&whole[..at]).is_err() || at + 1 == whole.len(), "cut at {at}");
        }
    }

    #[tokio::test]
    async fn a_mark_that_cannot_be_understood_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let subject = Subject::Volume(VolumeId::fresh());
        let fences = Fences::open(dir.path()).unwrap();
        fs::write(fences.shelf.path(subject), "").unwrap();
        assert!(matches!(fences.of(subject), Err(FenceError::Bad { .. })));
        assert!(matches!(fences.raise(subject, fence(1)).await, Err(FenceError::Bad { .. })));
    }
}
