//! The worker's records: one SQLite file, written by one thread, and the only truth about what this worker owns.
//!
//! ```text
//!   Records (a handle, cheap to clone) ──command──▶ the one thread that owns the connection ──▶ records.db
//!                                     ◀──answer───   (WAL, synchronous=FULL)
//! ```
//!
//! Invariants: what was answered is durable. Journal entries and the changes they stand for are one transaction
//! ([`Records::append`]). When a write fails the thread writes nothing any more, every later call fails with
//! [`RecordsError::Lost`] and [`Records::failure`] resolves, upon which the agent must stop: nothing may act on a
//! decision that is not in the journal. Only a write that found the disk full, and was rolled back, is done again, on the
//! room that is kept for it. A state directory is held by one agent only ([`StateLock`]).

pub(crate) mod about;
mod at_rest;
mod counts;
mod inline;
mod lock;
mod read;
mod rows;
mod schema;

use rows::lost;

// What the records hold and how they may change is decided in the heart; here is where they lie.
pub(crate) use at_rest::RecordsAtRest;
pub(crate) use counts::CountRow;
pub use ferry_crossing::{
    AwaitedMachine, Change, ChangeRefused, CrossingRecord, DrainRecord, FilesystemMark, ForkRecord,
    JobRecord, JournalRow, MachineRecord, MemoryMoves, ProcessMark, SourceRecord, Standing, Touched,
    VolumeRecord, WorkerRecord,
};
pub use inline::Gate;
pub(crate) use lock::FILE as LOCK_FILE;
pub use lock::StateLock;

use crate::ballast::Ballast;
use crate::disks;
use crate::failure::Failure;
use crate::moments::{self, When};
use ferry_api::{ApiError, ErrorCode, JobId};
use ferry_fsm::Count;
use prometheus_client::metrics::histogram::Histogram;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::{broadcast, mpsc, oneshot};

/// Name of the file in the state directory.
const FILE: &str = "records.db";
/// Changes that a listener may be behind before it has to look at everything.
const TOUCHED_MAX: usize = 1024;
/// As SQLite says it.
const FULL: &str = "database or disk is full";

/// Why the records did not answer.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// Another agent holds the state directory.
    #[error(
        "the state directory {} is in use by another agent ({holder}, which holds {}); \
         stop that one or choose another state_dir", state_dir.display(), lock.display()
    )]
    InUse {
        /// The state directory.
        state_dir: PathBuf,
        /// The file it holds.
        lock: PathBuf,
        /// What is known about it.
        holder: String,
    },
    /// A file of the state directory cannot be made or opened.
    #[error("cannot {doing} {}; check that the agent may write there", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// The file cannot be opened as records.
    #[error("cannot open the records {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        cause: rusqlite::Error,
    },
    /// The file was written by a later version of Ferry.
    #[error("the records {} have format {found}, this version knows up to {known}; use the later version of ferry", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The last one known here.
        known: i64,
    },
    /// A change does not fit what the records say; nothing was written.
    #[error(transparent)]
    Refused(#[from] ChangeRefused),
    /// Reading failed.
    #[error("the records cannot be read")]
    Read(#[source] Arc<rusqlite::Error>),
    /// A record does not say what it should.
    #[error("the {table} record {key} is not understood; it may be from another version of ferry")]
    Damaged {
        /// Kind of record.
        table: &'static str,
        /// Its key.
        key: String,
        /// What is wrong.
        #[source]
        cause: Arc<serde_json::Error>,
    },
    /// Nothing can be written where the records lie.
    #[error(
        "the file system of the state directory {} is read-only, so that no agent can keep its journal there; mend it and start the \
         agent again (machines and volume servers that run go on meanwhile)", state_dir.display()
    )]
    ReadOnly {
        /// The state directory.
        state_dir: PathBuf,
    },
    /// There is no room for a write; nothing was changed.
    #[error("{FULL}")]
    Full,
    /// A write failed. Nothing is written any more and the agent stops.
    #[error(
        "the records could not be written, so the agent stops: {reason}; free space or mend the disk and start it again"
    )]
    Lost {
        /// What went wrong.
        reason: String,
    },
}

impl RecordsError {
    /// What is said of a write that failed, if the disk says more than SQLite does.
    fn on_disk(self, state_dir: &Path) -> Self {
        let Self::Lost { reason } = self else { return self };
        let why = disks::read_only(state_dir).map(|why| format!("{why} ({reason})"));
        Self::Lost { reason: why.unwrap_or(reason) }
    }
}

impl From<RecordsError> for ApiError {
    fn from(error: RecordsError) -> Self {
        let code = match &error {
            RecordsError::Refused(refused) => refused.code(),
            RecordsError::Full | RecordsError::Lost { .. } => ErrorCode::Unavailable,
            RecordsError::InUse { .. }
            | RecordsError::Io { .. }
            | RecordsError::Open { .. }
            | RecordsError::TooNew { .. }
            | RecordsError::ReadOnly { .. }
            | RecordsError::Read(_)
            | RecordsError::Damaged { .. } => ErrorCode::Internal,
        };
        Self::because(code, &error)
    }
}

type Read = Box<dyn FnOnce(&Connection) + Send>;

enum Command {
    Read(Read),
    Write {
        entries: Option<NewEntries>,
        changes: Vec<Change>,
        answer: oneshot::Sender<Result<(), RecordsError>>,
    },
}

struct NewEntries {
    job: JobId,
    seq: u64,
    entries: Vec<String>,
    counts: Vec<Count>,
}

/// A worker's records in memory.
#[derive(Clone, Debug)]
pub struct Book(Arc<Mutex<Connection>>);

#[derive(Clone, Debug)]
enum Access {
    Thread(mpsc::UnboundedSender<Command>),
    Inline(Arc<inline::Inline>),
}

/// A handle on the worker's records.
#[derive(Clone, Debug)]
pub struct Records {
    access: Access,
    failure: Arc<Failure>,
    touched: broadcast::Sender<Touched>,
    appends: Histogram,
}

impl Records {
    /// Opens the records in `state_dir`, making them if there are none, and starts their thread.
    ///
    /// # Errors
    /// The file cannot be opened or is from a later version.
    pub fn open(state_dir: &Path) -> Result<Self, RecordsError> {
        Self::open_with(state_dir, None)
    }

    /// The same for an agent that holds the directory, with the room that is kept there. It is given back when the last write that was asked for is over: the
    /// next agent must not read before that.
    ///
    /// # Errors
    /// As [`Records::open`].
    pub fn open_held(state_dir: &Path, held: StateLock, ballast: Ballast) -> Result<Self, RecordsError> {
        Self::open_with(state_dir, Some((held, ballast)))
    }

    fn open_with(state_dir: &Path, held: Option<(StateLock, Ballast)>) -> Result<Self, RecordsError> {
        let connection = schema::open(&state_dir.join(FILE))?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let failure = Arc::new(Failure::default());
        let end = ThreadEnd(failure.clone());
        let (touched, _) = broadcast::channel(TOUCHED_MAX);
        let tell = touched.clone();
        let (held, ballast) = held.unzip();
        let dir = state_dir.to_owned();
        std::thread::Builder::new()
            .name("records".to_owned())
            .spawn(move || {
                run(connection, inbox, (&dir, ballast.as_ref()), &end, &tell);
                drop(held);
            })
            .map_err(|cause| RecordsError::Io {
                doing: "start the thread for",
                path: state_dir.join(FILE),
                cause,
            })?;
        Ok(Self { access: Access::Thread(commands), failure, touched, appends: counts::append_seconds() })
    }

    /// Resolves with the reason when a write has failed and the agent must stop.
    pub async fn failure(&self) -> String {
        self.failure.told().await.to_owned()
    }

    /// What is changed from now on, told after it is durable. A receiver that lags must look at everything.
    #[must_use]
    pub fn touched(&self) -> broadcast::Receiver<Touched> {
        self.touched.subscribe()
    }

    /// Has whoever listens look at something although the records say nothing new of it.
    pub(crate) fn tell(&self, what: Touched) {
        // Nobody need listen.
        let _ = self.touched.send(what);
    }

    /// Makes `changes` in order, all or none. Durable when it answers.
    ///
    /// # Errors
    /// [`RecordsError::Refused`] when one does not fit, then none is made; [`RecordsError::Lost`].
    pub async fn change(&self, changes: Vec<Change>) -> Result<(), RecordsError> {
        self.write(None, changes).await
    }

    /// Appends entries to the journal of `job`, the first as number `seq` (from 1, without gaps), together with the
    /// `changes` they stand for: `changes` are made in order, then the entries are written and `counts` added to those of
    /// all jobs, all in one transaction.
    /// Durable when it answers. A new job is made by `Change::AddJob` among the changes of its first entry.
    ///
    /// # Errors
    /// [`RecordsError::Refused`] when a change or `seq` does not fit, then nothing is written;
    /// [`RecordsError::Lost`], upon which nothing may be done any more.
    pub async fn append(
        &self,
        job: JobId,
        seq: u64,
        entries: &[serde_json::Value],
        counts: Vec<Count>,
        changes: Vec<Change>,
    ) -> Result<(), RecordsError> {
        let entries = entries.iter().map(ToString::to_string).collect();
        let begun = Instant::now();
        let written = self.write(Some(NewEntries { job, seq, entries, counts }), changes).await;
        self.appends.observe(begun.elapsed().as_secs_f64());
        written
    }

    async fn write(&self, entries: Option<NewEntries>, changes: Vec<Change>) -> Result<(), RecordsError> {
        let commands = match &self.access {
            Access::Inline(inline) => return inline.write(entries, &changes, &self.touched).await,
            Access::Thread(commands) => commands,
        };
        let (answer, answered) = oneshot::channel();
        commands.send(Command::Write { entries, changes, answer }).map_err(|_| self.lost())?;
        answered.await.map_err(|_| self.lost())?
    }

    /// Runs `read` on the records' thread, after all writes asked for before.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, RecordsError> + Send + 'static,
    ) -> Result<T, RecordsError> {
        let commands = match &self.access {
            Access::Inline(inline) => return inline.read(read).await,
            Access::Thread(commands) => commands,
        };
        let (answer, answered) = oneshot::channel();
        let command = Command::Read(Box::new(move |connection| {
            // Whoever asked may have gone away meanwhile.
            let _ = answer.send(read(connection));
        }));
        commands.send(command).map_err(|_| self.lost())?;
        answered.await.map_err(|_| self.lost())?
    }

    /// Runs `look` as [`Records::read`] does, for rooms that know what they look for better than the records do.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> Result<T, RecordsError> + Send + 'static,
    ) -> Result<T, RecordsError> {
        self.read(look).await
    }

    fn lost(&self) -> RecordsError {
        let reason = self.failure.reason().unwrap_or(THREAD_ENDED);
        RecordsError::Lost { reason: reason.to_owned() }
    }
}

const THREAD_ENDED: &str = "the thread of the records ended";

/// Held by the thread: that it ends, of a panic, is a failure.
struct ThreadEnd(Arc<Failure>);

impl Drop for ThreadEnd {
    fn drop(&mut self) {
        self.0.say(THREAD_ENDED.to_owned());
    }
}

/// The thread that owns the connection.
fn run(
    mut connection: Connection,
    mut inbox: mpsc::UnboundedReceiver<Command>,
    (state_dir, ballast): (&Path, Option<&Ballast>),
    ThreadEnd(failure): &ThreadEnd,
    touched: &broadcast::Sender<Touched>,
) {
    while let Some(command) = inbox.blocking_recv() {
        match command {
            Command::Read(read) => read(&connection),
            Command::Write { entries, changes, answer } => {
                let lost = failure.reason().map(str::to_owned);
                let lines = entries.as_ref().map_or(&[][..], |new| &new.entries);
                moments::write(When::Before, lines, &changes);
                let result = match lost {
                    Some(reason) => Err(RecordsError::Lost { reason }),
                    None => transact_on_ballast(ballast, &mut connection, entries.as_ref(), &changes),
                };
                let result = result.map_err(|error| error.on_disk(state_dir));
                if result.is_ok() {
                    moments::write(When::After, lines, &changes);
                }
                if let Err(RecordsError::Lost { reason }) = &result {
                    tracing::error!(%reason, "the records could not be written");
                    failure.say(reason.clone());
                }
                if result.is_ok() {
                    tell(touched, &changes);
                }
                // Whoever asked may have gone away meanwhile; what was written stays written.
                let _ = answer.send(result);
            }
        }
    }
}

/// Tells whoever listens what these changes are about.
fn tell(touched: &broadcast::Sender<Touched>, changes: &[Change]) {
    for what in changes.iter().filter_map(Change::touches) {
        // Nobody need listen.
        let _ = touched.send(what);
    }
}

/// As [`transact`]; where the disk is full, again on the room that is kept.
fn transact_on_ballast(
    ballast: Option<&Ballast>,
    connection: &mut Connection,
    entries: Option<&NewEntries>,
    changes: &[Change],
) -> Result<(), RecordsError> {
    loop {
        match transact(connection, entries, changes) {
            // It was rolled back before it is done again.
            Err(RecordsError::Full) if ballast.is_some_and(Ballast::give) => {}
            Err(RecordsError::Full) => return Err(RecordsError::Lost { reason: FULL.to_owned() }),
            Ok(()) => {
                ballast.inspect(|ballast| ballast.keep_again());
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

fn transact(
    connection: &mut Connection,
    entries: Option<&NewEntries>,
    changes: &[Change],
) -> Result<(), RecordsError> {
    let transaction = connection.transaction().map_err(lost)?;
    for change in changes {
        change.apply(&mut rows::InTransaction(&transaction))?;
    }
    if let Some(NewEntries { job, seq, entries, counts }) = entries {
        let last = read::last_seq(&transaction, *job)?;
        if last + 1 != *seq {
            return Err(ChangeRefused::EntryOutOfOrder { job: *job, seq: *seq, last }.into());
        }
        for (seq, entry) in (*seq..).zip(entries) {
            transaction
                .execute(
                    "INSERT INTO journal (job, seq, entry) VALUES (?1, ?2, ?3)",
                    rusqlite::params![job.to_string(), to_sql(seq), entry],
                )
                .map_err(lost)?;
        }
        counts::add(&transaction, counts)?;
    }
    transaction.commit().map_err(lost)
}

/// A count or generation as SQLite holds it. What callers make up may be beyond all there is; then it stays that.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
