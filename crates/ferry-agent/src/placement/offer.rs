//! What this worker offers to machines.

use crate::core::Core;
use crate::means::Means;
use crate::records::Standing;
use ferry_api::{ApiError, Bid, Capacity, ErrorCode, JobId, Resident, WorkerInfo};
use ferry_crossing::target::is_expected;
use ferry_placement::resident;
use tokio::time::Instant;

/// The bid of this worker, which says `worker` of itself, `troubles` included. What is held for `but` is as good as free.
///
/// # Errors
/// The records cannot be read.
pub(crate) async fn bid(
    core: &Core,
    mut worker: WorkerInfo,
    troubles: Option<String>,
    but: Option<JobId>,
) -> Result<Bid, ApiError> {
    let (held, held_bytes) = core.target.holds.but(but, Instant::now());
    let mut residents = residents(core).await?;
    residents.extend(held);
    worker.room.free_bytes = worker.room.free_bytes.saturating_sub(held_bytes);
    worker.room.promised_bytes = worker.room.promised_bytes.saturating_add(held_bytes);
    let (means, trouble) = match core.host.means() {
        Ok(means) => (means, None),
        Err(error) => (Means::default(), Some(ApiError::because(ErrorCode::Internal, &error).message)),
    };
    let capacity = Capacity {
        cpu_millis: core.config.cpu_millis.unwrap_or(means.cpu_millis),
        memory_bytes: core.config.memory_bytes.unwrap_or(means.memory_bytes),
    };
    let troubles = troubles.into_iter().chain(trouble).chain(worker.troubles.clone()).collect();
    Ok(Bid {
        worker,
        frontends: core.host.frontends().await,
        capacity,
        busy_cpu_millis: means.busy_cpu_millis,
        residents,
        troubles,
    })
}

/// Machines that are here, or on their way here.
async fn residents(core: &Core) -> Result<Vec<Resident>, ApiError> {
    let machines = core.records.machines().await?;
    let here = machines.iter().filter(|machine| machine.standing == Standing::Ours);
    let here = here.map(|machine| resident(machine.id, &machine.name, &machine.spec));
    let crossings = core.records.crossings_under_way().await?;
    let coming = crossings.iter().filter(|crossing| is_expected(crossing));
    let coming = coming.filter_map(|crossing| crossing.reserve.as_ref());
    let coming = coming.map(|reserve| resident(reserve.machine, &reserve.machine_name, &reserve.spec));
    Ok(here.chain(coming).collect())
}
