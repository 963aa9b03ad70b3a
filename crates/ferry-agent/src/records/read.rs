//! Reading the records.

use super::{
    CrossingRecord, JobRecord, JournalRow, MachineRecord, Records, RecordsError, VolumeRecord, WorkerRecord,
    to_sql,
};
use ferry_api::{JobId, MachineId, MachineRef, VolumeId, VolumeKey};
use rusqlite::{Connection, OptionalExtension, Params, params};
use serde::de::DeserializeOwned;
use std::sync::Arc;

impl Records {
    /// What was set for the worker as a whole.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn worker(&self) -> Result<WorkerRecord, RecordsError> {
        Ok(self.read(worker).await?.unwrap_or_default())
    }

    /// All machines there are records of, the first created first.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn machines(&self) -> Result<Vec<MachineRecord>, RecordsError> {
        self.read(|c| many(c, "machines", "SELECT id, record FROM machines ORDER BY id", ())).await
    }

    /// One machine.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn machine(&self, id: MachineId) -> Result<Option<MachineRecord>, RecordsError> {
        self.read(move |c| machine(c, id)).await
    }

    /// The machine a person means: by id, or by name (one of ours before one that was handed over).
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn find_machine(&self, reference: &MachineRef) -> Result<Option<MachineRecord>, RecordsError> {
        let sql = "SELECT id, record FROM machines WHERE name = ?1 ORDER BY ours DESC, id DESC LIMIT 1";
        match reference {
            MachineRef::Id(id) => self.machine(*id).await,
            MachineRef::Name(name) => {
                let name = name.to_string();
                self.read(move |c| one(c, "machines", sql, [name])).await
            }
        }
    }

    /// All copies of volumes, by id and generation.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn volumes(&self) -> Result<Vec<VolumeRecord>, RecordsError> {
        let sql = "SELECT id || '@' || generation, record FROM volumes ORDER BY id, generation";
        self.read(move |c| many(c, "volumes", sql, ())).await
    }

    /// One copy of a volume.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn volume(&self, key: VolumeKey) -> Result<Option<VolumeRecord>, RecordsError> {
        self.read(move |c| volume(c, key)).await
    }

    /// The copies of a volume here, by generation.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn copies(&self, id: VolumeId) -> Result<Vec<VolumeRecord>, RecordsError> {
        let sql = "SELECT id || '@' || generation, record FROM volumes WHERE id = ?1 ORDER BY generation";
        self.read(move |c| many(c, "volumes", sql, [id.to_string()])).await
    }

    /// The copy of a volume with the highest generation here.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn latest_volume(&self, id: VolumeId) -> Result<Option<VolumeRecord>, RecordsError> {
        let sql = "SELECT id || '@' || generation, record FROM volumes WHERE id = ?1 ORDER BY generation DESC LIMIT 1";
        self.read(move |c| one(c, "volumes", sql, [id.to_string()])).await
    }

    /// Jobs that have ended, the last taken on first, from the one before `before` on.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn ended_before(
        &self,
        before: Option<JobId>,
        jobs_max: u64,
    ) -> Result<Vec<JobRecord>, RecordsError> {
        let sql = "SELECT id, record FROM jobs WHERE finished = 1 AND id < ?1 ORDER BY id DESC LIMIT ?2";
        // Behind every id.
        let before = before.map_or_else(|| "~".to_owned(), |id| id.to_string());
        self.read(move |c| many(c, "jobs", sql, params![before, to_sql(jobs_max)])).await
    }

    /// Jobs that have ended, the first taken on first, from the one after `after` on.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn ended_from(
        &self,
        after: Option<JobId>,
        jobs_max: u64,
    ) -> Result<Vec<JobRecord>, RecordsError> {
        let sql = "SELECT id, record FROM jobs WHERE finished = 1 AND id > ?1 ORDER BY id LIMIT ?2";
        let after = after.map_or_else(String::new, |id| id.to_string());
        self.read(move |c| many(c, "jobs", sql, params![after, to_sql(jobs_max)])).await
    }

    /// The children of a job that names itself in them, the first taken on first.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn children(&self, parent: JobId) -> Result<Vec<JobRecord>, RecordsError> {
        let sql = "SELECT id, record FROM jobs WHERE parent = ?1 ORDER BY id";
        self.read(move |c| many(c, "jobs", sql, [parent.to_string()])).await
    }

    /// How many jobs have ended and are kept.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn ended_count(&self) -> Result<u64, RecordsError> {
        self.read(|c| count(c, "SELECT count(*) FROM jobs WHERE finished = 1")).await
    }

    /// Jobs that have not ended, the first taken on first.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn unfinished_jobs(&self) -> Result<Vec<JobRecord>, RecordsError> {
        self.read(|c| many(c, "jobs", "SELECT id, record FROM jobs WHERE finished = 0 ORDER BY id", ())).await
    }

    /// One job.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn job(&self, id: JobId) -> Result<Option<JobRecord>, RecordsError> {
        self.read(move |c| job(c, id)).await
    }

    /// The journal of a job after entry number `after` (0: all of it), in order.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn journal(&self, job: JobId, after: u64) -> Result<Vec<JournalRow>, RecordsError> {
        self.read(move |c| {
            let sql = "SELECT seq, entry FROM journal WHERE job = ?1 AND seq > ?2 ORDER BY seq";
            let mut statement = c.prepare_cached(sql).map_err(unreadable)?;
            let rows = statement
                .query_map(params![job.to_string(), to_sql(after)], |row| Ok((row.get(0)?, row.get(1)?)))
                .map_err(unreadable)?;
            rows.map(|row| {
                let (seq, text): (i64, String) = row.map_err(unreadable)?;
                let entry = decode("journal", &format!("{job}/{seq}"), &text)?;
                Ok(JournalRow { job, seq: seq.unsigned_abs(), entry })
            })
            .collect()
        })
        .await
    }

    /// A move of which this worker is the target.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn crossing(&self, job: JobId) -> Result<Option<CrossingRecord>, RecordsError> {
        self.read(move |c| {
            one(c, "crossings", "SELECT job, record FROM crossings WHERE job = ?1", [job.to_string()])
        })
        .await
    }

    /// Moves of which this worker is the target and that are not over here.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn crossings_under_way(&self) -> Result<Vec<CrossingRecord>, RecordsError> {
        let sql = "SELECT job, record FROM crossings WHERE is_over = 0 ORDER BY job";
        self.read(move |c| many(c, "crossings", sql, ())).await
    }

    /// Moves to this worker that were released, and for whose memory a process may still wait here.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn crossings_awaiting_in_vain(&self) -> Result<Vec<CrossingRecord>, RecordsError> {
        let sql = "SELECT job, record FROM crossings WHERE is_over = 1 AND json_extract(record, '$.state') = 'released' \
                   AND json_extract(record, '$.awaited') IS NOT NULL ORDER BY job";
        self.read(move |c| many(c, "crossings", sql, ())).await
    }

    /// Moves of a machine of which this worker is or was the target.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn crossings_of(&self, machine: MachineId) -> Result<Vec<CrossingRecord>, RecordsError> {
        let sql = "SELECT job, record FROM crossings WHERE machine = ?1 ORDER BY job";
        self.read(move |c| many(c, "crossings", sql, [machine.to_string()])).await
    }

    /// Moves to this worker that are over here, the first taken on first, from the one after `after` on.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn crossings_over_from(
        &self,
        after: Option<JobId>,
        crossings_max: u64,
    ) -> Result<Vec<CrossingRecord>, RecordsError> {
        let sql = "SELECT job, record FROM crossings WHERE is_over = 1 AND job > ?1 ORDER BY job LIMIT ?2";
        let after = after.map_or_else(String::new, |id| id.to_string());
        self.read(move |c| many(c, "crossings", sql, params![after, to_sql(crossings_max)])).await
    }

    /// How many moves to this worker are over here and remembered.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn crossings_over_count(&self) -> Result<u64, RecordsError> {
        self.read(|c| count(c, "SELECT count(*) FROM crossings WHERE is_over = 1")).await
    }
}

pub(super) fn worker(c: &Connection) -> Result<Option<WorkerRecord>, RecordsError> {
    one(c, "worker", "SELECT 'this', record FROM worker", ())
}

pub(super) fn machine(c: &Connection, id: MachineId) -> Result<Option<MachineRecord>, RecordsError> {
    one(c, "machines", "SELECT id, record FROM machines WHERE id = ?1", [id.to_string()])
}

pub(super) fn volume(c: &Connection, key: VolumeKey) -> Result<Option<VolumeRecord>, RecordsError> {
    let sql = "SELECT id || '@' || generation, record FROM volumes WHERE id = ?1 AND generation = ?2";
    one(c, "volumes", sql, params![key.id.to_string(), to_sql(key.generation.0)])
}

pub(super) fn job(c: &Connection, id: JobId) -> Result<Option<JobRecord>, RecordsError> {
    one(c, "jobs", "SELECT id, record FROM jobs WHERE id = ?1", [id.to_string()])
}

/// Number of the last entry in the journal of a job, 0 if there is none.
pub(super) fn last_seq(c: &Connection, job: JobId) -> Result<u64, RecordsError> {
    let sql = "SELECT coalesce(max(seq), 0) FROM journal WHERE job = ?1";
    let last: i64 = c.query_row(sql, [job.to_string()], |row| row.get(0)).map_err(unreadable)?;
    Ok(last.unsigned_abs())
}

/// The one number that `sql` asks for.
pub(super) fn count(c: &Connection, sql: &str) -> Result<u64, RecordsError> {
    let count: i64 = c.query_row(sql, (), |row| row.get(0)).map_err(unreadable)?;
    Ok(count.unsigned_abs())
}

fn one<T: DeserializeOwned>(
    c: &Connection,
    table: &'static str,
    sql: &str,
    params: impl Params,
) -> Result<Option<T>, RecordsError> {
    let mut statement = c.prepare_cached(sql).map_err(unreadable)?;
    let row: Option<(String, String)> =
        statement.query_row(params, |row| Ok((row.get(0)?, row.get(1)?))).optional().map_err(unreadable)?;
    row.map(|(key, text)| decode(table, &key, &text)).transpose()
}

pub(super) fn many<T: DeserializeOwned>(
    c: &Connection,
    table: &'static str,
    sql: &str,
    params: impl Params,
) -> Result<Vec<T>, RecordsError> {
    let mut statement = c.prepare_cached(sql).map_err(unreadable)?;
    let rows = statement.query_map(params, |row| Ok((row.get(0)?, row.get(1)?))).map_err(unreadable)?;
    rows.map(|row| {
        let (key, text): (String, String) = row.map_err(unreadable)?;
        decode(table, &key, &text)
    })
    .collect()
}

fn decode<T: DeserializeOwned>(table: &'static str, key: &str, text: &str) -> Result<T, RecordsError> {
    serde_json::from_str(text).map_err(|cause| RecordsError::Damaged {
        table,
        key: key.to_owned(),
        cause: Arc::new(cause),
    })
}

pub(super) fn unreadable(cause: rusqlite::Error) -> RecordsError {
    RecordsError::Read(Arc::new(cause))
}
