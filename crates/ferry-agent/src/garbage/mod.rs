//! What jobs and killed processes have left on this worker: finds it, and removes what nobody needs.
//!
//! ```text
//!   directories · processes ─┐
//!   records ─────────────────┼─survey─▶ things with their verdicts ──clear──▶ each decided again as it goes
//!   other workers ───────────┘           ([`ferry_crossing::garbage`])
//! ```
//!
//! Invariant: what lies and runs here is looked at before the records are read. Whatever is made is in the records first,
//! and whatever is deleted leaves them last, so nothing that is under way is taken for something unknown.

mod ask;
mod survey;

use crate::core::Core;
use crate::jobs::{Attic, Guests};
use crate::records::ProcessMark;
use ferry_api::{ApiError, Artefact, AskGarbage, Garbage, Remnant};
use ferry_crossing::garbage::Verdict;
pub(crate) use survey::has_ground;
use survey::survey;

/// A thing that was found.
struct Found {
    /// What is told of it; why is yet to be filled in.
    artefact: Artefact,
    verdict: Verdict,
    /// Which process it is, if it is one.
    process: Option<ProcessMark>,
}

impl Found {
    /// As it is told: whether it goes, and why.
    fn told(self) -> (bool, Artefact) {
        let (goes, why) = match self.verdict {
            Verdict::Goes(why) => (true, why),
            Verdict::Stays(why) => (false, why),
        };
        (goes, Artefact { why, ..self.artefact })
    }
}

/// Tells what there is, at `now_ms` by the clock by which things grow old. Changes nothing.
///
/// # Errors
/// The records or the directories cannot be read. A worker that cannot be asked is no error.
pub(crate) async fn look(core: &Core, ask: AskGarbage, now_ms: u64) -> Result<Garbage, ApiError> {
    let mut garbage = nothing(core);
    for found in survey(core, ask, now_ms).await? {
        let (goes, artefact) = found.told();
        if goes { &mut garbage.goes } else { &mut garbage.stays }.push(artefact);
    }
    Ok(garbage)
}

/// Removes what [`look`] would tell now.
///
/// # Errors
/// As of [`look`]. What cannot be removed is told in the answer.
pub(crate) async fn clear(core: &Core, ask: AskGarbage, now_ms: u64) -> Result<Garbage, ApiError> {
    let mut garbage = nothing(core);
    for found in survey(core, ask, now_ms).await? {
        let process = found.process.clone();
        let (goes, artefact) = found.told();
        if !goes {
            garbage.stays.push(artefact);
            continue;
        }
        match remove(core, &artefact, process).await {
            Ok(()) => {
                tracing::info!(what = ?artefact.what, job = ?artefact.job, why = artefact.why, "cleared away");
                garbage.goes.push(artefact);
            }
            Err(error) => {
                tracing::warn!(what = ?artefact.what, job = ?artefact.job, %error, "cannot be cleared away");
                garbage.failed.push(Artefact { why: error.message, ..artefact });
            }
        }
    }
    Ok(garbage)
}

fn nothing(core: &Core) -> Garbage {
    let worker = core.config.name.clone();
    Garbage { worker, goes: Vec::new(), stays: Vec::new(), failed: Vec::new() }
}

/// Removes one thing; whatever does it decides again while nobody else does anything with it.
async fn remove(core: &Core, artefact: &Artefact, process: Option<ProcessMark>) -> Result<(), ApiError> {
    match (&artefact.what, artefact.job) {
        (Remnant::Retained { copy, .. }, _) => core.delete(*copy).await,
        // Both go with the job.
        (Remnant::Reservation { .. } | Remnant::Clone { .. }, Some(job)) => core.release(job).await,
        (Remnant::Export { copy, .. }, _) => Ok(core.volumes.clear_export(*copy).await?),
        (Remnant::Directory { copy: Some(copy), .. }, _) => Ok(core.volumes.clear_unknown(*copy).await?),
        (Remnant::HalfDeleted { copy, .. }, _) => Ok(core.volumes.clear_half_deleted(*copy).await?),
        (Remnant::DeadFile { copy, .. } | Remnant::Device { copy, .. }, _) => {
            Ok(core.volumes.clear_left_by_server(*copy).await?)
        }
        (Remnant::VolumeServer { copy, .. }, _) => match process {
            Some(mark) => Ok(core.volumes.clear_server(*copy, mark).await?),
            None => Ok(()),
        },
        (Remnant::MachineProcess { machine, .. }, _) => match process {
            Some(mark) => Ok(core.machines.clear_process(*machine, mark).await?),
            None => Ok(()),
        },
        (Remnant::MachineDirectory { machine, .. }, _) => Ok(core.machines.clear_directory(*machine).await?),
        (Remnant::Image { path } | Remnant::HalfUnpacked { path }, _) => {
            Ok(core.machines.clear_image(path).await?)
        }
        // These never go.
        (
            Remnant::HandedOver { .. }
            | Remnant::Directory { copy: None, .. }
            | Remnant::Reservation { .. }
            | Remnant::Clone { .. },
            _,
        ) => Ok(()),
    }
}
