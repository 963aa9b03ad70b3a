//! What needs not cross again, for people: the base of a move or of a volume.

use ferry_agent::jobs::Reserved;
use ferry_api::{Job, Volume, VolumeBase};

use super::job::{memo, step};
use crate::output::bytes::Bytes;

/// The step that leaves in the journal what the target has already.
const RESERVE: &str = "Reserve";

/// What `volume show` adds of the copies before this one.
pub fn of_volume(volume: &Volume) -> Vec<(&'static str, String)> {
    let lineage = &volume.lineage;
    let changed = lineage.born_from.zip(lineage.bytes_changed).map(|(born_from, bytes)| {
        format!("{} since generation {born_from}: what the way back copies at most", Bytes(bytes))
    });
    let base = lineage.base.as_ref().map(|base| {
        let trouble = base.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let used = match base.is_used {
            Some(true) => "read for what has not changed",
            Some(false) => "not read",
            None => "not known whether it is read",
        };
        format!("{} ({used}{trouble})", named(base))
    });
    let rests = lineage.rests.then(|| "its hydration rests: its reader has the rest from a base".to_owned());
    [("changed", changed), ("base", base), ("rests", rests)]
        .into_iter()
        .filter_map(|(name, fact)| Some((name, fact?)))
        .collect()
}

/// What `job show` adds: what the target has of the volumes already.
pub fn of_job(job: &Job) -> Vec<(&'static str, String)> {
    let reserved: Reserved = step(job, RESERVE).and_then(memo).unwrap_or_default();
    let bases = reserved.volumes.iter().filter_map(|volume| volume.base.as_ref());
    bases.map(|base| ("base", format!("{}: only what has changed since crosses", named(base)))).collect()
}

fn named(base: &VolumeBase) -> String {
    match &base.worker {
        None => format!("generation {}, kept by the target", base.generation),
        Some(worker) => format!("generation {} on worker {worker}", base.generation),
    }
}
