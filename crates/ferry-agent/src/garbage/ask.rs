//! What other workers tell of what lies here. One that does not answer is asked once only.

use crate::core::Core;
use ferry_api::{AgentApi, ApiError, Generation, JobId, Volume, VolumeKey, WorkerName};
use ferry_crossing::garbage::{Asked, Told, Whole, told_by};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;
use tokio::time::timeout;

/// How long another worker may take to answer.
const TELL_MAX: Duration = Duration::from_secs(10);

/// The other workers, and what they have told so far.
pub(super) struct Others<'a> {
    core: &'a Core,
    silent: BTreeMap<WorkerName, String>,
    volumes: BTreeMap<WorkerName, Vec<Volume>>,
}

impl<'a> Others<'a> {
    /// Nobody was asked yet.
    pub(super) fn of(core: &'a Core) -> Self {
        Self { core, silent: BTreeMap::new(), volumes: BTreeMap::new() }
    }

    /// How a job stands on the worker that leads it.
    pub(super) async fn job(&mut self, leader: &WorkerName, job: JobId) -> Asked {
        let core = self.core;
        if let Some(why) = self.silent.get(leader) {
            return Err(why.clone());
        }
        let asking = async { core.peers.client(leader)?.job(job).await };
        match in_time(leader, asking).await {
            Ok(job) => Ok(job.state),
            Err(error) if error.code == ferry_api::ErrorCode::NotFound => {
                Err(format!("worker {leader} does not know job {job}"))
            }
            Err(error) => {
                self.silent.insert(leader.clone(), error.message.clone());
                Err(error.message)
            }
        }
    }

    /// Whether the volume of a copy, which left here for `to`, is whole with whoever owns it now.
    pub(super) async fn whole(&mut self, copy: VolumeKey, to: &WorkerName) -> Whole {
        let (mut next, mut asked) = (to.clone(), BTreeSet::new());
        while asked.insert(next.clone()) {
            match self.told_of(&next, copy.id, copy.generation).await {
                Err(why) => return Whole::Unknown(why),
                Ok(Told::Answer(whole)) => return whole,
                Ok(Told::AskNext(worker)) => next = worker,
            }
        }
        Whole::Unknown("the workers point at each other, so that nobody says that he owns it".to_owned())
    }

    async fn told_of(
        &mut self,
        worker: &WorkerName,
        id: ferry_api::VolumeId,
        left_at: Generation,
    ) -> Result<Told, String> {
        let core = self.core;
        if let Some(why) = self.silent.get(worker) {
            return Err(why.clone());
        }
        if !self.volumes.contains_key(worker) {
            let asking = async {
                match *worker == core.config.name {
                    true => Ok(core.volumes.list().await?),
                    false => core.peers.client(worker)?.volumes().await,
                }
            };
            match in_time(worker, asking).await {
                Ok(told) => drop(self.volumes.insert(worker.clone(), told)),
                Err(error) => {
                    self.silent.insert(worker.clone(), error.message.clone());
                    return Err(error.message);
                }
            }
        }
        Ok(told_by(worker, &self.volumes[worker], id, left_at))
    }
}

async fn in_time<T>(
    worker: &WorkerName,
    asking: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let late = || {
        let message = format!("worker {worker} did not answer within {} s", TELL_MAX.as_secs());
        ApiError::new(ferry_api::ErrorCode::Unreachable, message)
    };
    timeout(TELL_MAX, asking).await.unwrap_or_else(|_| Err(late()))
}
