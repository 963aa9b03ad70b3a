//! What the executor needs of the worker's records: journals, and changes that stand or fall with an entry.
//!
//! Invariant: when `append` has answered `Ok`, entries and changes are durable, all; otherwise none ever is.

use std::future::Future;

use ferry_api::JobId;
use ferry_fsm::{Count, Entry};
use serde_json::Value;

use crate::records::{Change, JobRecord, JournalRow, Records, RecordsError};

/// The journals of all jobs. One writer; what it has answered is durable.
pub trait Journal: Send + Sync + 'static {
    /// See [`Records::append`].
    fn append(
        &self,
        job: JobId,
        seq: u64,
        entries: &[Value],
        counts: Vec<Count>,
        changes: Vec<Change>,
    ) -> impl Future<Output = Result<(), RecordsError>> + Send;

    /// See [`Records::journal`].
    fn journal(
        &self,
        job: JobId,
        after: u64,
    ) -> impl Future<Output = Result<Vec<JournalRow>, RecordsError>> + Send;

    /// See [`Records::unfinished_jobs`].
    fn unfinished_jobs(&self) -> impl Future<Output = Result<Vec<JobRecord>, RecordsError>> + Send;

    /// See [`Records::ended_before`].
    fn ended_before(
        &self,
        before: Option<JobId>,
        jobs_max: u64,
    ) -> impl Future<Output = Result<Vec<JobRecord>, RecordsError>> + Send;

    /// See [`Records::children`].
    fn children(&self, parent: JobId) -> impl Future<Output = Result<Vec<JobRecord>, RecordsError>> + Send;

    /// See [`Records::job`].
    fn job(&self, id: JobId) -> impl Future<Output = Result<Option<JobRecord>, RecordsError>> + Send;
}

impl Journal for Records {
    async fn append(
        &self,
        job: JobId,
        seq: u64,
        entries: &[Value],
        counts: Vec<Count>,
        changes: Vec<Change>,
    ) -> Result<(), RecordsError> {
        Self::append(self, job, seq, entries, counts, changes).await
    }

    async fn journal(&self, job: JobId, after: u64) -> Result<Vec<JournalRow>, RecordsError> {
        Self::journal(self, job, after).await
    }

    async fn unfinished_jobs(&self) -> Result<Vec<JobRecord>, RecordsError> {
        Self::unfinished_jobs(self).await
    }

    async fn ended_before(
        &self,
        before: Option<JobId>,
        jobs_max: u64,
    ) -> Result<Vec<JobRecord>, RecordsError> {
        Self::ended_before(self, before, jobs_max).await
    }

    async fn children(&self, parent: JobId) -> Result<Vec<JobRecord>, RecordsError> {
        Self::children(self, parent).await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, RecordsError> {
        Self::job(self, id).await
    }
}

/// The entries of a journal as the heart reads them. An entry that cannot be read as one of any version becomes
/// an unknown one, which parks the job instead of losing it.
pub(super) fn entries(rows: &[JournalRow]) -> Vec<Entry> {
    rows.iter().map(|row| read_entry(&row.entry)).collect()
}

fn read_entry(value: &Value) -> Entry {
    serde_json::from_value(value.clone()).unwrap_or_else(|_| {
        let at_ms = value.get("at_ms").and_then(Value::as_u64).unwrap_or_default();
        Entry::new(at_ms, ferry_fsm::Event::Unknown)
    })
}
