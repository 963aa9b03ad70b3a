//! Which copy of a volume, and which worker's machine, is the real one: gathers what [`ferry_crossing::truth`] judges, from
//! this worker's disk and from the other workers' agents, or from the state directories of workers whose agents are down.
//!
//! Invariants: nothing here changes anything. Marks and directories are read before the records: what was handed over
//! meanwhile is then never taken for records from a backup.

mod at_rest;
mod disk;

pub use at_rest::{StateDir, truth_at_rest};

use crate::core::Core;
use crate::fences::Fences;
use disk::{Disk, Lying, Wanted};
use ferry_api::{
    AgentApi, ApiError, AskTestimony, SilentWorker, Subject, Testimony, Truth, TruthRef, VolumeKey,
    WorkerName,
};
use ferry_crossing::truth::{resolve, to_ask, truth as judge_all};
use ferry_volume::{LastState, StoreError};
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long another worker may take to tell, until it counts as silent.
const TELL_MAX: Duration = Duration::from_secs(10);

impl Disk for Core {
    fn fences(&self) -> &Fences {
        &self.fences
    }

    fn copies(&self) -> io::Result<Vec<VolumeKey>> {
        self.host.copies()
    }

    fn last_state(&self, copy: VolumeKey) -> Result<Option<LastState>, StoreError> {
        self.host.last_state(copy)
    }
}

/// What lies on this worker's disk about what is asked.
///
/// # Errors
/// The records cannot be read.
pub(crate) async fn testimony(core: &Core, ask: AskTestimony) -> Result<Testimony, ApiError> {
    let wanted = Wanted::from(ask);
    let subjects = {
        let wanted = wanted.clone();
        core.records.look(move |connection| Ok(wanted.found_in(connection)?.subjects(&wanted))).await?
    };
    let lying = Lying::about(core, &subjects);
    let worker = core.config.name.clone();
    Ok(core.records.look(move |connection| lying.told_with(&worker, &wanted, connection)).await?)
}

/// Which is the real one, by what this worker and all others tell.
///
/// # Errors
/// The reference means nothing or several things; the records cannot be read. A worker that is silent is no error.
pub(crate) async fn truth(core: &Core, of: &TruthRef) -> Result<Truth, ApiError> {
    let by_name = AskTestimony { named: Some(of.clone()), subjects: Vec::new() };
    let own = testimony(core, by_name.clone()).await?;
    let subjects = match resolve(of, std::slice::from_ref(&own)) {
        Err(error) if error.code == ferry_api::ErrorCode::NotFound => {
            let (told, _) = ask_peers(core, &by_name).await;
            resolve(of, &told)?
        }
        resolved => resolved?,
    };
    let ask = to_ask(&subjects);
    let (mut told, mut silent) = ask_peers(core, &ask).await;
    told.insert(0, testimony(core, ask).await?);
    silent.extend(unasked(&subjects, &told, &silent, "it is not among the peers that are configured here"));
    Ok(judge_all(&subjects, &told, silent))
}

/// Asks all others at once. Answers what was told, and who was silent.
async fn ask_peers(core: &Core, ask: &AskTestimony) -> (Vec<Testimony>, Vec<SilentWorker>) {
    let mut asked = JoinSet::new();
    for peer in core.peers.list() {
        let client = core.peers.client(&peer.name);
        let ask = ask.clone();
        asked.spawn(async move {
            let silent = |reason| SilentWorker { worker: peer.name.clone(), reason };
            let client = client.map_err(|error| silent(error.message))?;
            match timeout(TELL_MAX, client.peer_testimony(ask)).await {
                Ok(Ok(told)) if told.worker == peer.name => Ok(told),
                Ok(Ok(told)) => Err(silent(format!("the agent at its address calls itself {}", told.worker))),
                Ok(Err(error)) => Err(silent(error.message)),
                Err(_) => Err(silent(format!("it did not answer within {} s", TELL_MAX.as_secs()))),
            }
        });
    }
    let (mut told, mut silent) = (Vec::new(), Vec::new());
    for answer in asked.join_all().await {
        match answer {
            Ok(testimony) => told.push(testimony),
            Err(worker) => silent.push(worker),
        }
    }
    told.retain(|testimony| testimony.worker != core.config.name);
    silent.retain(|silent| silent.worker != core.config.name);
    told.sort_by(|a, b| a.worker.cmp(&b.worker));
    silent.sort_by(|a, b| a.worker.cmp(&b.worker));
    (told, silent)
}

/// Workers that own something, by what was told, and of which nothing was heard at all.
fn unasked(
    subjects: &[Subject],
    told: &[Testimony],
    silent: &[SilentWorker],
    reason: &str,
) -> Vec<SilentWorker> {
    let heard: BTreeSet<&WorkerName> =
        told.iter().map(|told| &told.worker).chain(silent.iter().map(|silent| &silent.worker)).collect();
    let claims = told.iter().flat_map(|testimony| &testimony.claims);
    let owners = claims.filter(|claim| subjects.contains(&claim.subject)).map(|claim| &claim.owner);
    let unheard: BTreeSet<&WorkerName> = owners.filter(|owner| !heard.contains(owner)).collect();
    unheard
        .into_iter()
        .map(|worker| SilentWorker { worker: worker.clone(), reason: reason.to_owned() })
        .collect()
}
