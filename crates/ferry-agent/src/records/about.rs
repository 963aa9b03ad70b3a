//! Reading for those who ask which copy is the real one.

use super::read::{many, unreadable};
use super::{CrossingRecord, MachineRecord, RecordsError, VolumeRecord};
use ferry_api::JobId;
use ferry_crossing::truth::Deed;
use ferry_crossing::{HandedOver, MoveInput, MoveStep};
use ferry_fsm::{Entry, Event, Step};
use rusqlite::Connection;

/// All records of what a worker has.
pub(crate) struct Everything {
    pub(crate) machines: Vec<MachineRecord>,
    pub(crate) volumes: Vec<VolumeRecord>,
    pub(crate) crossings: Vec<CrossingRecord>,
}

/// All records of what the worker has.
pub(crate) fn everything(c: &Connection) -> Result<Everything, RecordsError> {
    let volumes = "SELECT id || '@' || generation, record FROM volumes ORDER BY id, generation";
    Ok(Everything {
        machines: many(c, "machines", "SELECT id, record FROM machines ORDER BY id", ())?,
        volumes: many(c, "volumes", volumes, ())?,
        crossings: many(c, "crossings", "SELECT job, record FROM crossings ORDER BY job", ())?,
    })
}

/// The hand-over in the journal of a move. None if there is none, or it is not understood, or the journal is gone.
pub(crate) fn deed(c: &Connection, job: JobId) -> Result<Option<Deed>, RecordsError> {
    let sql = "SELECT seq, entry FROM journal WHERE job = ?1 ORDER BY seq";
    let mut statement = c.prepare_cached(sql).map_err(unreadable)?;
    let rows =
        statement.query_map([job.to_string()], |row| Ok((row.get(0)?, row.get(1)?))).map_err(unreadable)?;
    let mut input: Option<MoveInput> = None;
    for row in rows {
        let (seq, text): (i64, String) = row.map_err(unreadable)?;
        let Ok(Entry { at_ms, event, .. }) = serde_json::from_str(&text) else { continue };
        if let Event::Started { input: asked, .. } = event {
            input = serde_json::from_value(asked).ok();
        } else if let Event::Done { step, memo } = event
            && step == MoveStep::HandOver.name()
        {
            let memo: Option<HandedOver> = serde_json::from_value(memo).ok();
            let (seq, known) = (seq.unsigned_abs(), memo.zip(input));
            return Ok(known.map(|(memo, input)| Deed { job, seq, at_ms, machine: input.machine, memo }));
        }
    }
    Ok(None)
}
