//! What fills the directory: this worker's own records, and the other workers, each of which is asked for all it knows and
//! answers when that changes, or is asked when a hint says that it did. So news is pushed the moment it is durable, and pulled again if a push is lost.

use super::{Inner, Reached, Telling};
use crate::host::now_ms;
use crate::mutex::locked;
use crate::peers::Peers;
use crate::records::{MachineRecord, Records, RecordsError, Touched};
use ferry_api::http::Client;
use ferry_api::{AgentApi, AskMappings, JobId, Mapping, Mappings, WorkerName};
use ferry_crossing::directory::{VALID_MS, told_of};
use ferry_crossing::feed::Feed;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::{AbortHandle, JoinSet};

/// First and longest pause before a worker is asked again that did not answer.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Takes over what the records say now, and tells it to whoever waits for news.
pub(super) async fn look_at_own(
    inner: &Inner,
    records: &Records,
    reached_at: &str,
) -> Result<(), RecordsError> {
    let machines = records.machines().await?;
    let jobs: BTreeSet<JobId> = records.unfinished_jobs().await?.iter().map(|job| job.id).collect();
    let told = |record: &MachineRecord| told_of(record, &inner.me, |job| jobs.contains(&job));
    let mut mappings: Vec<Mapping> = machines.iter().filter_map(told).collect();
    let reached_at = reached_at.to_owned();
    if mappings.len() > Mappings::MACHINES_MAX {
        tracing::warn!(
            machines = mappings.len(),
            "too many machines; not all of them are told to other workers"
        );
        mappings.truncate(Mappings::MACHINES_MAX);
    }
    inner.change(|directory, now_ms| directory.learn(&inner.me, mappings.clone(), now_ms, VALID_MS));
    inner.told.send_if_modified(|told| {
        let is_first = told.is_none();
        let telling = told.get_or_insert_with(|| Telling { feed: Feed::new(now_ms()), reached_at });
        telling.feed.tell(mappings) || is_first
    });
    let revision = inner.told.borrow().as_ref().map_or(0, |telling| telling.feed.revision());
    inner.revision.send_if_modified(|told| std::mem::replace(told, revision) != revision);
    Ok(())
}

impl Inner {
    /// Takes over what a worker told when the revision `known` was named. Gives the one that is known now.
    fn take_over(&self, known: u64, told: Mappings) -> u64 {
        let Mappings { worker, revision, since, gone, valid_ms, reached_at: _, mappings, about } = told;
        if since.is_some_and(|since| since != known) {
            // Changes of something else: all is asked for.
            return 0;
        }
        if let Some(about) = about {
            locked(&self.about).insert(worker.clone(), about);
        }
        self.change(|directory, now_ms| {
            let is_new = match since {
                Some(_) => directory.learn_changes(&worker, (mappings, &gone), now_ms, valid_ms),
                None => directory.learn(&worker, mappings, now_ms, valid_ms),
            };
            is_new | directory.collect(now_ms)
        });
        revision
    }
}

/// Looks at the records whenever a machine has changed, for ever.
pub(super) async fn follow_own(
    inner: Arc<Inner>,
    records: Records,
    mut touched: broadcast::Receiver<Touched>,
    reached_at: String,
) {
    loop {
        match touched.recv().await {
            Ok(Touched::Volume(_)) => continue,
            Ok(Touched::Machine(_) | Touched::MachineWithVolumes(_)) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
        if let Err(error) = look_at_own(&inner, &records, &reached_at).await {
            tracing::warn!(%error, "cannot read where machines are");
        }
    }
}

/// Follows all other workers, those too that come later, for ever.
pub(super) async fn follow_all(inner: Arc<Inner>, peers: Peers) {
    let mut watch = peers.watch();
    let mut following = JoinSet::new();
    let mut followed: BTreeMap<WorkerName, (String, AbortHandle)> = BTreeMap::new();
    loop {
        let clients = watch.borrow_and_update().clone();
        *locked(&inner.followed) = clients.keys().filter(|name| **name != inner.me).cloned().collect();
        followed.retain(|name, (url, follower)| {
            let goes_on = clients.get(name).is_some_and(|client| client.url() == url);
            if !goes_on {
                follower.abort();
            }
            goes_on
        });
        for (name, client) in clients {
            if name != inner.me && !followed.contains_key(&name) {
                let url = client.url().to_owned();
                let follower = following.spawn(follow(Arc::clone(&inner), name.clone(), client));
                followed.insert(name, (url, follower));
            }
        }
        // The sender is `peers`.
        let _ = watch.changed().await;
    }
}

/// Follows what another worker tells, for ever.
async fn follow(inner: Arc<Inner>, worker: WorkerName, client: Client) {
    let (mut known, mut pause, mut is_silent, mut seen) = (0, AGAIN.0, false, (0, 0));
    loop {
        let hinted = inner.is_hinted();
        let wait_ms = if hinted { 0 } else { AskMappings::WAIT_MS_MAX };
        let ask = AskMappings { known, wait_ms, changes: true };
        match client.peer_mappings(ask).await {
            Ok(told) if told.worker == worker => {
                (pause, is_silent) = (AGAIN.0, false);
                let reached = Reached { at: told.reached_at.clone(), tls: client.tls().cloned() };
                locked(&inner.reached_at).insert(worker.clone(), reached);
                known = inner.take_over(known, told);
                if hinted && known > 0 {
                    seen = inner.until_news(&worker, seen).await;
                }
                continue;
            }
            Ok(told) if !is_silent => {
                tracing::warn!(%worker, says = %told.worker, "another worker answers where this one should; correct the peer's url");
            }
            Err(error) if !is_silent => {
                tracing::info!(%worker, %error, "it is not known where the machines of a worker are");
            }
            Ok(_) | Err(_) => {}
        }
        is_silent = true;
        inner.change(|directory, now_ms| directory.collect(now_ms));
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(AGAIN.1);
    }
}
