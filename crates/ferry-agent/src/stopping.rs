//! Whether the host of this worker may be stopped: gathers what [`ferry_crossing::stopping`] decides from.

use crate::core::Core;
use crate::peers::Peers;
use ferry_api::{AgentApi, ApiError, Job, SafeToStop, StopReason, Volume, WorkerName};
use ferry_crossing::CrossingRecord;
use ferry_crossing::stopping::{Facts, reasons, to_ask};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long another worker may take to tell how far its clones are, until that is unknown.
const TELL_MAX: Duration = Duration::from_secs(10);

/// What keeps the host from being stopped, given what is under way. That must have been read before this is called, in
/// the order that [`Facts`] has.
///
/// # Errors
/// The records cannot be read. A worker that cannot be asked is no error.
pub async fn safe_to_stop(
    core: &Core,
    crossings: Vec<CrossingRecord>,
    jobs: Vec<Job>,
) -> Result<SafeToStop, ApiError> {
    let machines = core.machines.list().await?;
    let volumes = core.volumes.list().await?;
    let (own, mut others) = (core.config.name.clone(), to_ask(&volumes));
    others.remove(&own);
    let mut told = ask(&core.peers, others).await;
    told.insert(own.clone(), Ok(volumes.clone()));
    let facts = Facts { crossings, jobs, machines, volumes, told };
    Ok(SafeToStop { worker: own, reasons: reasons(&facts) })
}

/// The same without asking others for how long.
///
/// # Errors
/// The records cannot be read.
pub async fn needed_here(
    core: &Core,
    crossings: Vec<CrossingRecord>,
    jobs: Vec<Job>,
) -> Result<Vec<StopReason>, ApiError> {
    let machines = core.machines.list().await?;
    let volumes = core.volumes.list().await?;
    Ok(reasons(&Facts { crossings, jobs, machines, volumes, told: BTreeMap::new() }))
}

/// Asks all of them at once what they have.
async fn ask(
    peers: &Peers,
    workers: BTreeSet<WorkerName>,
) -> BTreeMap<WorkerName, Result<Vec<Volume>, String>> {
    let mut asked = JoinSet::new();
    let mut told = BTreeMap::new();
    for worker in workers {
        let peer = match peers.client(&worker) {
            Ok(peer) => peer,
            Err(unknown) => {
                told.insert(worker, Err(unknown.message));
                continue;
            }
        };
        asked.spawn(async move {
            let answer = match timeout(TELL_MAX, peer.volumes()).await {
                Ok(answer) => answer.map_err(|error| error.message),
                Err(_) => Err(format!("worker {worker} did not answer within {} s", TELL_MAX.as_secs())),
            };
            (worker, answer)
        });
    }
    told.extend(asked.join_all().await);
    told
}
