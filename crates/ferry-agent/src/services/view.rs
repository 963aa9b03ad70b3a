//! What this worker has heard of all, for people and scripts.

use super::{Inner, Services};
use crate::mutex::locked;
use ferry_api::{AboutWorker, ApiError, Bid, DirectoryView, KnownMachine, KnownWorker, WorkerName};
use ferry_crossing::directory::{Known, Teller};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;

/// How long what a worker says of itself is repeated before it looks again.
const ABOUT_PAUSE: Duration = Duration::from_secs(5);

/// What a worker says of itself, out of what it offers to machines.
pub(crate) fn about(bid: Bid) -> AboutWorker {
    let Bid { worker, frontends: _, capacity, busy_cpu_millis, residents: _, troubles } = bid;
    AboutWorker {
        program_version: worker.program_version,
        spec_version: worker.spec_version,
        room: worker.room,
        capacity,
        busy_cpu_millis,
        region: worker.region,
        labels: worker.labels,
        cordon: worker.cordon,
        troubles,
    }
}

impl Services {
    /// What this worker says of itself; `look` is asked at most once in [`ABOUT_PAUSE`], however many others want to know.
    ///
    /// # Errors
    /// What `look` says.
    pub(crate) async fn about(
        &self,
        look: impl Future<Output = Result<Bid, ApiError>>,
    ) -> Result<AboutWorker, ApiError> {
        let mut said = self.inner.said.lock().await;
        if let Some((at, about)) = &*said
            && at.elapsed() < ABOUT_PAUSE
        {
            return Ok(about.clone());
        }
        let about = about(look.await?);
        *said = Some((Instant::now(), about.clone()));
        Ok(about)
    }

    /// What is known here of all workers and their machines; `own` is what this one says of itself.
    pub(crate) fn view(&self, own: AboutWorker) -> DirectoryView {
        let Inner { me, directory, about, followed, .. } = &*self.inner;
        let (now_ms, directory) = (self.inner.now_ms(), locked(directory));
        locked(about).insert(me.clone(), own);
        let there = self.inner.gossips.load(Relaxed).then(|| self.inner.there());
        let (tellers, abouts, followed) = (directory.tellers(now_ms), locked(about), locked(followed));
        let known = |name: &WorkerName| tellers.iter().find(|teller| teller.name == *name);
        let names: BTreeSet<&WorkerName> =
            tellers.iter().map(|teller| &teller.name).chain(followed.iter()).collect();
        let is_there = |name: &WorkerName| there.as_ref().map(|there| name == me || there.contains(name));
        let worker = |name| KnownWorker {
            is_there: is_there(name),
            ..worker(name, known(name), abouts.get(name).cloned())
        };
        let workers = names.into_iter().map(worker);
        DirectoryView {
            of: me.clone(),
            workers: workers.collect(),
            machines: directory.all(now_ms).into_iter().map(machine).collect(),
        }
    }
}

fn worker(name: &WorkerName, teller: Option<&Teller>, about: Option<AboutWorker>) -> KnownWorker {
    KnownWorker {
        name: name.clone(),
        heard_ms_ago: teller.map(|teller| teller.heard_ms_ago),
        is_there: None,
        is_fresh: teller.is_some_and(|teller| teller.is_fresh),
        machines: teller.map_or(0, |teller| u64::try_from(teller.machines).unwrap_or(u64::MAX)),
        about,
    }
}

fn machine(known: Known) -> KnownMachine {
    let Known { mapping, told_by, heard_ms_ago, is_certain } = known;
    KnownMachine { mapping, told_by, heard_ms_ago, is_certain }
}
