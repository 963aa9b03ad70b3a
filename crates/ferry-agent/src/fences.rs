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

/// The marks of this worker.
#[derive(Clone, Debug)]
pub struct Fences {
    dir: PathBuf,
    /// Held while a mark is compared and replaced.
    turn: Arc<Mutex<()>>,
}

impl Fences {
    /// The marks in a state directory, which must exist.
    ///
    /// # Errors
    /// Their directory cannot be made.
    pub fn open(state_dir: &Path) -> Result<Self, FenceError> {
        let dir = state_dir.join(DIRECTORY);
        fs::create_dir_all(&dir).map_err(io("make", &dir))?;
        sync(state_dir)?;
        Ok(Self { dir, turn: Arc::default() })
    }

    /// What is remembered of something, if it was ever handed over.
    ///
    /// # Errors
    /// Its mark cannot be read or understood: it is to be taken for handed over.
    pub fn of(&self, subject: Subject) -> Result<Option<Fence>, FenceError> {
        let path = self.path(subject);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io("open", &path)(e)),
        };
        let mut mark = Vec::new();
        file.take(MARK_BYTES_MAX).read_to_end(&mut mark).map_err(io("read", &path))?;
        decode(&mark).map(Some).map_err(|reason| FenceError::Bad { path, reason })
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

    /// Remembers that something was handed over. Durable when it returns; waits for the disk meanwhile.
    ///
    /// # Errors
    /// The mark cannot be written, or what it says so far not understood.
    pub fn raise(&self, subject: Subject, fence: &Fence) -> Result<(), FenceError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if fence.rises_above(self.of(subject)?.as_ref()) {
            let (path, fresh) = (self.path(subject), self.path(subject).with_extension("new"));
            let mut file = File::create(&fresh).map_err(io("make", &fresh))?;
            file.write_all(&encode(fence)).and_then(|()| file.sync_all()).map_err(io("write", &fresh))?;
            fs::rename(&fresh, &path).map_err(io("replace", &path))?;
        }
        // Also when it says so already: whoever wrote that may have died before it was durable.
        sync(&self.dir)
    }

    fn path(&self, subject: Subject) -> PathBuf {
        self.dir.join(match subject {
            Subject::Machine(id) => format!("machine-{id}"),
            Subject::Volume(id) => format!("volume-{id}"),
        })
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

    #[test]
    fn a_mark_outlives_the_agent_and_only_rises() {
        let dir = tempfile::tempdir().unwrap();
        let subject = Subject::Volume(VolumeId::fresh());
        let (first, third) = (fence(1), fence(3));
        let fences = Fences::open(dir.path()).unwrap();
        assert_eq!(fences.of(subject).unwrap(), None);
        fences.raise(subject, &first).unwrap();
        fences.raise(subject, &third).unwrap();
        fences.raise(subject, &fence(2)).unwrap();
        fences.raise(subject, &fence(3)).unwrap();
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

    #[test]
    fn a_mark_that_cannot_be_understood_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let subject = Subject::Volume(VolumeId::fresh());
        let fences = Fences::open(dir.path()).unwrap();
        fs::write(fences.path(subject), "").unwrap();
        assert!(matches!(fences.of(subject), Err(FenceError::Bad { .. })));
        assert!(matches!(fences.raise(subject, &fence(1)), Err(FenceError::Bad { .. })));
    }
}
