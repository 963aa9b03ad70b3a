//! What is counted of all jobs, also of those that were forgotten: added in the transaction of the journal entry that it
//! follows from, so that no restart, kill or pruned history loses or repeats any of it.

use super::read::{count, unreadable};
use super::rows::lost;
use super::{Records, RecordsError, to_sql};
use ferry_fsm::{Count, Counted, DURATION_BOUNDS_MS};
use prometheus_client::metrics::histogram::Histogram;
use rusqlite::{Connection, params};

/// Bounds of the classes of how long an append takes, in seconds.
const APPEND_BOUNDS_S: [f64; 12] =
    [0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0];

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CountRow {
    /// The line of the jobs.
    pub(crate) line: String,
    /// The step; empty for what is about whole jobs.
    pub(crate) step: String,
    /// What is counted, as [`name`] has it.
    pub(crate) what: String,
    /// How much.
    pub(crate) value: u64,
}

/// How long appends take, none so far.
pub(super) fn append_seconds() -> Histogram {
    Histogram::new(APPEND_BOUNDS_S)
}

/// Adds `counts`, within the transaction that makes them true.
pub(super) fn add(c: &Connection, counts: &[Count]) -> Result<(), RecordsError> {
    let sql = "INSERT INTO counts (line, step, what, value) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT (line, step, what) DO UPDATE SET value = value + excluded.value";
    for Count { line, step, what } in counts {
        let step = step.as_deref().unwrap_or_default();
        let mut statement = c.prepare_cached(sql).map_err(lost)?;
        statement.execute(params![line, step, name(*what), 1]).map_err(lost)?;
        if let Counted::Done { took_ms } = what {
            statement.execute(params![line, step, CountRow::DONE_MS, to_sql(*took_ms)]).map_err(lost)?;
        }
    }
    Ok(())
}

impl CountRow {
    /// All the time that a step took when it was done, in milliseconds.
    pub(crate) const DONE_MS: &'static str = "done_ms";
    /// How often a step was done within so many milliseconds, and not within the next smaller bound: the bound follows.
    pub(crate) const DONE_WITHIN_MS: &'static str = "done_within_ms:";
    /// How often a step was done and took longer.
    pub(crate) const DONE_LATER: &'static str = "done_later";
}

/// The name of a count in the records. Never changes once released.
fn name(what: Counted) -> String {
    let name = match what {
        Counted::Started => "started",
        Counted::Parked => "parked",
        Counted::Succeeded => "succeeded",
        Counted::Failed => "failed",
        Counted::Cancelled => "cancelled",
        Counted::StepFailed => "step_failed",
        Counted::Undone => "undone",
        Counted::UndoFailed => "undo_failed",
        Counted::Done { took_ms } => {
            return match DURATION_BOUNDS_MS.iter().find(|bound_ms| took_ms <= **bound_ms) {
                Some(bound_ms) => format!("{}{bound_ms}", CountRow::DONE_WITHIN_MS),
                None => CountRow::DONE_LATER.to_owned(),
            };
        }
    };
    name.to_owned()
}

impl Records {
    /// Everything that was ever counted.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn counts(&self) -> Result<Vec<CountRow>, RecordsError> {
        self.read(|c| {
            let sql = "SELECT line, step, what, value FROM counts ORDER BY line, step, what";
            let mut statement = c.prepare_cached(sql).map_err(unreadable)?;
            let rows = statement.query_map((), |row| {
                let value: i64 = row.get(3)?;
                let value = value.unsigned_abs();
                Ok(CountRow { line: row.get(0)?, step: row.get(1)?, what: row.get(2)?, value })
            });
            rows.map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)
        })
        .await
    }

    /// Bytes of the records, without what is still only in their log.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn size_bytes(&self) -> Result<u64, RecordsError> {
        let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        self.read(move |c| count(c, sql)).await
    }

    /// How long appends to journals took since the agent started, from when they were asked for until they were durable.
    pub(crate) fn append_seconds(&self) -> Histogram {
        self.appends.clone()
    }
}
