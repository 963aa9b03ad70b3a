//! Records as rows of SQLite, within one transaction.

use super::{JobRecord, MachineRecord, RecordsError, Standing, VolumeRecord, WorkerRecord, read, to_sql};
use ferry_api::{JobId, MachineId, MachineName, VolumeKey};
use ferry_crossing::{CrossingRecord, Rows};
use rusqlite::{Transaction, params};
use serde::Serialize;

/// The rows of a transaction.
pub(super) struct InTransaction<'a>(pub(super) &'a Transaction<'a>);

impl Rows for InTransaction<'_> {
    type Error = RecordsError;

    fn machine(&self, id: MachineId) -> Result<Option<MachineRecord>, RecordsError> {
        read::machine(self.0, id)
    }

    fn is_name_taken(&self, name: &MachineName) -> Result<bool, RecordsError> {
        let sql = "SELECT count(*) FROM machines WHERE name = ?1 AND ours = 1";
        let taken: i64 = self.0.query_row(sql, [name.to_string()], |row| row.get(0)).map_err(lost)?;
        Ok(taken > 0)
    }

    fn volume(&self, key: VolumeKey) -> Result<Option<VolumeRecord>, RecordsError> {
        read::volume(self.0, key)
    }

    fn job(&self, id: JobId) -> Result<Option<JobRecord>, RecordsError> {
        read::job(self.0, id)
    }

    fn worker(&self) -> Result<WorkerRecord, RecordsError> {
        Ok(read::worker(self.0)?.unwrap_or_default())
    }

    fn put_machine(&mut self, machine: &MachineRecord) -> Result<(), RecordsError> {
        let ours = machine.standing == Standing::Ours;
        self.execute(
            "INSERT INTO machines (id, name, ours, record) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (id) DO UPDATE SET name = ?2, ours = ?3, record = ?4",
            params![machine.id.to_string(), machine.name.to_string(), ours, encode(machine)],
        )
    }

    fn remove_machine(&mut self, id: MachineId) -> Result<(), RecordsError> {
        self.execute("DELETE FROM machines WHERE id = ?1", [id.to_string()])
    }

    fn put_volume(&mut self, volume: &VolumeRecord) -> Result<(), RecordsError> {
        self.execute(
            "INSERT OR REPLACE INTO volumes (id, generation, record) VALUES (?1, ?2, ?3)",
            params![volume.id.to_string(), to_sql(volume.generation.0), encode(volume)],
        )
    }

    fn remove_volume(&mut self, key: VolumeKey) -> Result<(), RecordsError> {
        self.execute(
            "DELETE FROM volumes WHERE id = ?1 AND generation = ?2",
            params![key.id.to_string(), to_sql(key.generation.0)],
        )
    }

    fn put_job(&mut self, job: &JobRecord) -> Result<(), RecordsError> {
        self.execute(
            "INSERT INTO jobs (id, finished, record) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET finished = ?2, record = ?3",
            params![job.id.to_string(), job.finished, encode(job)],
        )
    }

    fn remove_job(&mut self, id: JobId) -> Result<(), RecordsError> {
        self.execute("DELETE FROM journal WHERE job = ?1", [id.to_string()])?;
        self.execute("DELETE FROM jobs WHERE id = ?1", [id.to_string()])
    }

    fn put_crossing(&mut self, crossing: &CrossingRecord) -> Result<(), RecordsError> {
        let sql = "INSERT OR REPLACE INTO crossings (job, record) VALUES (?1, ?2)";
        self.execute(sql, params![crossing.job.to_string(), encode(crossing)])
    }

    fn remove_crossing(&mut self, job: JobId) -> Result<(), RecordsError> {
        self.execute("DELETE FROM crossings WHERE job = ?1", [job.to_string()])
    }

    fn put_worker(&mut self, worker: &WorkerRecord) -> Result<(), RecordsError> {
        self.execute("INSERT OR REPLACE INTO worker (one, record) VALUES (1, ?1)", [encode(worker)])
    }
}

impl InTransaction<'_> {
    fn execute(&self, sql: &str, params: impl rusqlite::Params) -> Result<(), RecordsError> {
        self.0.prepare_cached(sql).and_then(|mut s| s.execute(params)).map(drop).map_err(lost)
    }
}

fn encode(record: &impl Serialize) -> String {
    serde_json::to_string(record).expect("records are plain data and always encode")
}

pub(super) fn lost(cause: rusqlite::Error) -> RecordsError {
    match cause.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => RecordsError::Full,
        _ => RecordsError::Lost { reason: cause.to_string() },
    }
}
