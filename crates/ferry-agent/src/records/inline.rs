//! Records without a thread: whoever asks does it, in memory, past a gate. For simulations, in which time stands still
//! while something is done, and which choose what goes wrong.

use super::{Book, NewEntries, Records, RecordsError, Touched, counts, schema, transact_on_ballast};
use crate::failure::Failure;
use crate::host::Doing;
use crate::records::Change;
use rusqlite::Connection;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;

/// What stands between an agent and its records.
pub trait Gate: Send + Sync + std::fmt::Debug {
    /// Lets something through, at last or never: a reading, or a writing of these entries and changes.
    ///
    /// # Errors
    /// The write fails, for this reason.
    fn before<'a>(&'a self, write: Option<(&'a [String], &'a [Change])>) -> Doing<'a, Result<(), String>>;

    /// Lets the answer to a write that is durable come back, or never.
    fn after<'a>(&'a self, entries: &'a [String], changes: &'a [Change]) -> Doing<'a, ()>;
}

impl Book {
    /// A worker's records, blank. They outlive every agent that opens them.
    ///
    /// # Errors
    /// SQLite refuses.
    pub fn blank() -> Result<Self, RecordsError> {
        let path = std::path::Path::new(":memory:");
        let failed = |cause| RecordsError::Open { path: path.to_owned(), cause };
        let connection = Connection::open_in_memory().map_err(failed)?;
        Ok(Self(Arc::new(Mutex::new(schema::prepare(connection, path)?))))
    }

    /// Opens them for an agent.
    #[must_use]
    pub fn open(&self, gate: Arc<dyn Gate>) -> Records {
        let failure = Arc::new(Failure::default());
        let (touched, _) = broadcast::channel(super::TOUCHED_MAX);
        let inline = Inline { book: self.clone(), gate, failure: failure.clone() };
        let access = super::Access::Inline(Arc::new(inline));
        Records { access, failure, touched, appends: counts::append_seconds() }
    }
}

#[derive(Debug)]
pub(super) struct Inline {
    book: Book,
    gate: Arc<dyn Gate>,
    failure: Arc<Failure>,
}

impl Inline {
    pub(super) async fn write(
        &self,
        entries: Option<NewEntries>,
        changes: &[Change],
        touched: &broadcast::Sender<Touched>,
    ) -> Result<(), RecordsError> {
        let lines = entries.as_ref().map_or(&[][..], |new| &new.entries);
        let passed = self.gate.before(Some((lines, changes))).await;
        let lost = self.failure.reason().map(str::to_owned);
        let result = match lost.map_or(passed, Err) {
            Err(reason) => Err(RecordsError::Lost { reason }),
            Ok(()) => {
                let mut connection = self.book.0.lock().unwrap_or_else(PoisonError::into_inner);
                transact_on_ballast(None, &mut connection, entries.as_ref(), changes)
            }
        };
        match &result {
            Ok(()) => {
                self.gate.after(lines, changes).await;
                super::tell(touched, changes);
            }
            Err(RecordsError::Lost { reason }) => self.failure.say(reason.clone()),
            Err(_) => {}
        }
        result
    }

    pub(super) async fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, RecordsError>,
    ) -> Result<T, RecordsError> {
        self.gate.before(None).await.map_err(|reason| RecordsError::Lost { reason })?;
        read(&self.book.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
