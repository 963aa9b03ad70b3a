//! The keeper of one copy: compares what its server does with what the records say, whenever one of them changed.

use super::view::phase;
use super::{Inner, VolumesError};
use crate::config::volume_dir;
use crate::drivers::Watch;
use crate::mutex::locked;
use crate::records::{Change, SourceRecord, Touched, VolumeRecord};
use ferry_api::{AgentApi, Generation, Ownership, VolumeKey, WorkerName};
use ferry_crossing::Subject;
use ferry_crossing::service::{Correction, Service, correction, in_words, is_served_when_barred};
use ferry_volume::Credentials;
use ferry_volume::control::{Client, ControlError, Phase, Status};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{MutexGuard, Notify, OwnedMutexGuard, oneshot};
use tokio::time::Instant;

/// How long a server that was started may take until it answers.
const START_MAX: Duration = Duration::from_secs(20);
/// How often a server that was started is tried.
const START_POLL: Duration = Duration::from_millis(5);
/// How often a server that went away before it answered is asked again until it counts as trouble.
const GOING_ASKS_MAX: u32 = 200;
/// How long a server may take to tell its status.
const STATUS_MAX: Duration = Duration::from_secs(10);
/// How often a clone that still needs its source is asked how that goes.
const SOURCE_POLL: Duration = Duration::from_secs(1);
/// A server that ran shorter than this is started again later, not at once.
const RAN_WELL: Duration = Duration::from_secs(10);
/// First and longest wait before something that failed is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Whether a copy is about to be deleted, so that its last writes do not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doomed {
    /// It is.
    Yes,
    /// It is kept.
    No,
}

/// Keeps one copy.
pub(super) struct Keeper {
    pub(super) key: VolumeKey,
    lock: Arc<tokio::sync::Mutex<()>>,
    poked: Notify,
    trouble: Mutex<Option<String>>,
    /// Its last reader is gone for good, which the records are about to say.
    unread: AtomicBool,
}

impl Keeper {
    /// Looks at the records again, soon.
    pub(super) fn poke(&self) {
        self.poked.notify_one();
    }

    /// Keeps everybody else from doing anything with this copy.
    pub(super) async fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().await
    }

    /// From now on no server is started for it as long as the records say that it was handed over: they are about to say
    /// that it is retired. The caller holds the lock.
    pub(super) fn give_up(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// What went wrong the last time, if anything did.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does now what is to be done.
    pub(super) async fn converge(&self, inner: &Inner) -> Result<Option<Status>, VolumesError> {
        let result = {
            let _held = self.lock().await;
            match inner.records.volume(self.key).await {
                Ok(Some(_)) if inner.is_going_down() => {
                    inner.end_server(self.key, Doomed::No).await.map(|()| None)
                }
                Ok(Some(VolumeRecord { ownership: Ownership::HandedOver { .. }, .. }))
                    if self.unread.load(Ordering::Relaxed) =>
                {
                    inner.end_server(self.key, Doomed::No).await.map(|()| None)
                }
                Ok(Some(record)) => inner.pass(&record).await,
                Ok(None) => Err(VolumesError::NotHere(self.key)),
                Err(e) => Err(e.into()),
            }
        };
        let trouble =
            result.as_ref().err().map(|e| ferry_api::ApiError::because(ferry_api::ErrorCode::Internal, e));
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble.map(|e| e.message);
        result
    }

    /// The keeper's task; ends when the copy is gone from the records.
    async fn run(self: Arc<Self>, inner: Arc<Inner>) {
        let (mut failures, mut ended) = (0, false);
        loop {
            let began = Instant::now();
            match self.converge(&inner).await {
                Err(VolumesError::NotHere(_)) => return inner.forget(&self).await,
                Ok(None) => {
                    (failures, ended) = (0, false);
                    self.poked.notified().await;
                }
                Ok(Some(status)) => {
                    if ended {
                        tracing::warn!(volume = %self.key, pid = status.pid, "a volume server that ended unasked runs again");
                    }
                    ended = self.watch(&inner, &status).await;
                    failures = if ended && began.elapsed() < RAN_WELL { failures + 1 } else { 0 };
                    if failures > 0 {
                        self.pause(failures).await;
                    }
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(volume = %self.key, error = self.trouble(), "a volume is not as it should be");
                    if let VolumesError::Records(_) = error {
                        // The agent is about to stop.
                        failures += 5;
                    }
                    self.pause(failures).await;
                }
            }
        }
    }

    async fn pause(&self, failures: u32) {
        let wait = BACKOFF.0.saturating_mul(1 << failures.min(10)).min(BACKOFF.1);
        tokio::select! {
            biased;
            () = self.poked.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    /// Waits until there is something to do for a server that does what it should. Tells whether it ended.
    async fn watch(&self, inner: &Arc<Inner>, status: &Status) -> bool {
        let watch = match inner.host.watch(status.pid) {
            Ok(Some(watch)) => watch,
            Ok(None) => return true,
            Err(error) => {
                tracing::warn!(volume = %self.key, %error, "cannot watch a volume server");
                tokio::time::sleep(SOURCE_POLL).await;
                return false;
            }
        };
        loop {
            tokio::select! {
                biased;
                ended = watch.ended() => {
                    tracing::info!(volume = %self.key, pid = status.pid, %ended, "a volume server ended");
                    return true;
                }
                () = self.poked.notified() => return false,
                () = tokio::time::sleep(SOURCE_POLL), if !status.snapshots.is_empty() || status.source.is_some() => {
                    if !self.look_after(inner, status).await {
                        return false;
                    }
                }
            }
        }
    }

    /// Sees how forks and source of a copy stand. Tells whether it still has those that it had.
    async fn look_after(&self, inner: &Arc<Inner>, status: &Status) -> bool {
        let forks = match status.snapshots.is_empty() {
            true => Ok(true),
            false => inner.tend_forks(self).await,
        };
        let source = match status.source.is_none() {
            true => Ok(true),
            false => inner.follow_source(self).await,
        };
        for (looked, what) in [(forks, "the forks"), (source, "the source")] {
            match looked {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    let error = ferry_api::ApiError::from(error);
                    tracing::debug!(volume = %self.key, %error, "cannot look after {what} of a volume");
                }
            }
        }
        true
    }
}

impl Inner {
    /// The keeper of a copy; begins to keep it if nobody does yet.
    pub(super) fn keeper(inner: &Arc<Self>, key: VolumeKey) -> Arc<Keeper> {
        let mut keepers = inner.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = || {
            let keeper = Keeper {
                key,
                lock: Arc::default(),
                poked: Notify::new(),
                trouble: Mutex::default(),
                unread: AtomicBool::new(false),
            };
            let keeper = Arc::new(keeper);
            tokio::spawn(Arc::clone(&keeper).run(Arc::clone(inner)));
            keeper
        };
        Arc::clone(keepers.entry(key).or_insert_with(begin))
    }

    fn is_going_down(&self) -> bool {
        self.going_down.load(Ordering::Relaxed)
    }

    /// Holds a copy, also one of which no record tells: nobody else does anything with it meanwhile.
    pub(super) async fn hold(inner: &Arc<Self>, key: VolumeKey) -> OwnedMutexGuard<()> {
        loop {
            let keeper = Self::keeper(inner, key);
            let held = Arc::clone(&keeper.lock).lock_owned().await;
            // One that was forgotten meanwhile keeps nobody away any more.
            if inner
                .keepers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&key)
                .is_some_and(|k| Arc::ptr_eq(k, &keeper))
            {
                return held;
            }
        }
    }

    /// Whether somebody does something with a copy at this moment.
    pub(super) fn is_held(&self, key: VolumeKey) -> bool {
        let keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        keepers.get(&key).is_some_and(|keeper| keeper.lock.try_lock().is_err())
    }

    /// Lets the keeper of a copy go that is in the records no more. Not while somebody holds that copy.
    async fn forget(self: &Arc<Self>, keeper: &Arc<Keeper>) {
        let key = keeper.key;
        {
            let _held = keeper.lock().await;
            let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
            if keepers.get(&key).is_some_and(|kept| Arc::ptr_eq(kept, keeper)) {
                keepers.remove(&key);
            }
        }
        // One of the same name may have come meanwhile, and have told this keeper so.
        if let Ok(Some(_)) = self.records.volume(key).await {
            Self::keeper(self, key).poke();
        }
    }

    /// What went wrong with a copy the last time, if anything did.
    pub(super) fn trouble(&self, key: VolumeKey) -> Option<String> {
        let keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        keepers.get(&key).and_then(|keeper| keeper.trouble())
    }

    /// The record of a copy.
    pub(super) async fn record(&self, key: VolumeKey) -> Result<VolumeRecord, VolumesError> {
        self.records.volume(key).await?.ok_or(VolumesError::NotHere(key))
    }

    /// Does what is to be done for a copy. The caller holds its keeper's lock.
    async fn pass(&self, record: &VolumeRecord) -> Result<Option<Status>, VolumesError> {
        let key = record.key();
        let service = self.service(record).await?;
        if service == Service::None {
            self.end_server(key, Doomed::No).await?;
            return Ok(None);
        }
        let status = self.serving(record).await?;
        match correction(service, phase(status.phase), status.export.is_some()) {
            Correction::Nothing => return self.resting(record, status).await.map(Some),
            Correction::Open => self.ask(key, Client::open).await?,
            Correction::Unseal => self.ask(key, Client::unseal).await?,
            Correction::Seal => self.ask(key, Client::seal).await?,
            Correction::Export => {
                // For whom is said by whoever asks for it; until then for nobody.
                self.admit(key, Some(&self.worker)).await?;
                let listen = self.export_listen;
                let _address: SocketAddr = self.ask(key, move |client| client.export(listen)).await?;
            }
            Correction::Astray(is) => return Err(VolumesError::Astray { key, phase: status.phase, is }),
        }
        let status = self.status(key).await?;
        self.resting(record, status).await.map(Some)
    }

    /// A server for the copy that reads from the right source, started if none runs. It is refused for a copy
    /// that would be written although it is fenced. The caller holds the keeper's lock.
    pub(super) async fn serving(&self, record: &VolumeRecord) -> Result<Status, VolumesError> {
        let key = record.key();
        if self.is_going_down() {
            return Err(VolumesError::GoingDown);
        }
        if !is_served_when_barred(self.service(record).await?)
            && let Some(fence) = self.fences.barring(Subject::Volume(key.id), key.generation)?
        {
            return Err(VolumesError::Fenced { key, fence });
        }
        if !record.made {
            self.host.make(record.clone()).await?;
            self.records.change(vec![Change::Made(key)]).await?;
        }
        let status = match self.status(key).await {
            Err(VolumesError::Control(ControlError::NotRunning { .. } | ControlError::Gone { .. })) => {
                let status = self.launch(key).await?;
                // What its machine had mounted may have gone with the server before this one.
                if let Some(machine) = record.machine {
                    self.records.tell(Touched::Machine(machine));
                }
                status
            }
            other => other?,
        };
        self.certify(key, &status).await?;
        self.keep_out(key).await;
        self.learn_size(record, &status).await?;
        self.strike_lost_forks(record, &status).await?;
        let (Some(source), Some(has)) = (&record.source, &status.source) else { return Ok(status) };
        if source.uri == has.uri {
            return Ok(status);
        }
        let uri = source.uri.clone();
        self.ask(key, move |client| client.set_source(&uri)).await?;
        self.status(key).await
    }

    /// Starts the server of a copy and waits until it answers.
    async fn launch(&self, key: VolumeKey) -> Result<Status, VolumesError> {
        let dir = volume_dir(&self.state_dir, key);
        if !self.host.is_made(key) {
            return Err(VolumesError::Lost { path: dir });
        }
        let pid = self.host.launch(key).map_err(|cause| VolumesError::Launch { key, cause })?;
        let not_serving = |what| VolumesError::NotServing {
            key,
            what,
            said: self.host.last_words(key),
            log: dir.join(ferry_volume::directory::SERVER_LOG),
        };
        let watch = self.host.watch(pid).map_err(|cause| VolumesError::Io {
            doing: "watch",
            path: dir.clone(),
            cause,
        })?;
        let watch = watch.ok_or_else(|| not_serving("ended at once"))?;
        let deadline = Instant::now() + START_MAX;
        let mut ended = std::pin::pin!(watch.ended());
        loop {
            match self.status(key).await {
                Err(VolumesError::Control(ControlError::NotRunning { .. } | ControlError::Gone { .. })) => {}
                other => {
                    // Without its share it would take what it can get.
                    self.budget_news.notify_one();
                    return other;
                }
            }
            tokio::select! {
                biased;
                _ = &mut ended => return Err(not_serving("ended at once")),
                () = tokio::time::sleep(START_POLL) => {}
            }
            if Instant::now() > deadline {
                return Err(not_serving("was started and does not answer"));
            }
        }
    }

    /// What the server of a copy tells.
    pub(super) async fn status(&self, key: VolumeKey) -> Result<Status, VolumesError> {
        let asked = tokio::time::timeout(STATUS_MAX, self.ask(key, Client::status));
        asked.await.map_err(|_| VolumesError::Silent(key))?
    }

    /// Asks the server of a copy.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        key: VolumeKey,
        request: impl FnOnce(&mut Client) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, VolumesError> {
        let (tell, told) = oneshot::channel();
        // Whoever asked may have gone away meanwhile.
        let question = move |client: &mut Client| drop(tell.send(request(client)));
        self.host.ask(key, Box::new(question)).await?;
        Ok(told.await.expect("whoever is asked tells")?)
    }

    /// Ends the server of a copy if it runs, and waits until it has ended. If it cannot make its last writes
    /// durable it goes on, unless the copy is doomed.
    pub(super) async fn end_server(&self, key: VolumeKey, doomed: Doomed) -> Result<(), VolumesError> {
        let mut status = self.status(key).await;
        for _ in 0..GOING_ASKS_MAX {
            if !matches!(status, Err(VolumesError::Control(ControlError::Gone { .. }))) {
                break;
            }
            // It is dying, and its socket a moment later than it.
            tokio::time::sleep(START_POLL).await;
            status = self.status(key).await;
        }
        let status = match status {
            Err(VolumesError::Control(ControlError::NotRunning { .. })) => return Ok(()),
            other => other?,
        };
        let dir = volume_dir(&self.state_dir, key);
        let watch = self.host.watch(status.pid).map_err(|cause| VolumesError::Io {
            doing: "watch",
            path: dir,
            cause,
        })?;
        match self.ask(key, Client::shutdown).await {
            // It may be gone before its answer is.
            Ok(())
            | Err(VolumesError::Control(ControlError::Gone { .. } | ControlError::NotRunning { .. })) => {}
            Err(VolumesError::Control(ControlError::Refused { reason })) if doomed == Doomed::Yes => {
                tracing::info!(volume = %key, reason, "the server of a volume that is deleted is killed");
                watch.iter().for_each(Watch::kill_group);
            }
            Err(other) => return Err(other),
        }
        if let Some(watch) = watch {
            watch.ended().await;
        }
        Ok(())
    }

    /// Sees how a clone gets on with its source. If it has lost one that another worker serves, that worker's
    /// agent is asked where it is now; a clone of something foreign that is whole is detached from it. Tells
    /// whether the copy still has a source.
    async fn follow_source(self: &Arc<Self>, keeper: &Keeper) -> Result<bool, VolumesError> {
        let key = keeper.key;
        let status = self.status(key).await?;
        let record = self.record(key).await?;
        let (Some(link), Some(source)) = (&status.source, &record.source) else { return Ok(false) };
        if status.phase == Phase::Standby {
            // It reads nothing yet, and is told its source again when it becomes ours. Asking for it now would have
            // a source listen again that has just undone the move.
            return Ok(true);
        }
        self.follow_base(keeper, &status).await;
        match (&source.worker, status.hydration.complete) {
            (None, true) => {
                let _held = keeper.lock().await;
                self.ask(key, Client::detach_source).await?;
                self.records.change(vec![Change::Source { key, source: None }]).await?;
                Ok(false)
            }
            (Some(worker), false) if !link.connected => {
                let Ok(peer) = self.peers.client(worker) else { return Ok(true) };
                let sealed =
                    VolumeKey { id: key.id, generation: Generation(key.generation.0.saturating_sub(1)) };
                let Ok(export) = peer.peer_export(sealed, None).await else { return Ok(true) };
                if export.uri == link.uri {
                    return Ok(true);
                }
                tracing::info!(volume = %key, uri = %export.uri, ownership = in_words(&record.ownership), "the source moved");
                let source = SourceRecord { uri: export.uri.clone(), worker: Some(worker.clone()) };
                let _held = keeper.lock().await;
                if self.record(key).await?.source != record.source {
                    // Detached, or told another one, while the other agent was asked.
                    return Ok(true);
                }
                self.records.change(vec![Change::Source { key, source: Some(source) }]).await?;
                self.ask(key, move |client| client.set_source(&export.uri)).await?;
                Ok(true)
            }
            (None | Some(_), _) => Ok(true),
        }
    }

    /// Has a server use certificates that was started before its worker had any.
    async fn certify(&self, key: VolumeKey, status: &Status) -> Result<(), VolumesError> {
        let Some(credentials) = self.credentials.clone().filter(|_| !status.secured) else { return Ok(()) };
        self.ask(key, move |client| client.certify(credentials.dir())).await
    }

    /// Has nobody read a copy who belongs to the cluster no more, whatever its server remembers.
    async fn keep_out(&self, key: VolumeKey) {
        let Some(own) = self.credentials.as_ref().and_then(Credentials::identity) else { return };
        let expelled = locked(&self.expelled).clone();
        for reader in expelled.iter().filter_map(|worker| named_as(&own, &self.worker, worker)) {
            if let Err(error) = self.ask(key, move |client| client.expel(&reader)).await {
                tracing::warn!(volume = %key, %error, "a worker that was revoked may still read a volume");
            }
        }
    }

    /// Lets a worker of the cluster read a copy, and nobody whom nobody has named. What has certificates that name no workers is
    /// read by whoever has one.
    pub(super) async fn admit(
        &self,
        key: VolumeKey,
        reader: Option<&WorkerName>,
    ) -> Result<(), VolumesError> {
        let own = self.credentials.as_ref().and_then(Credentials::identity);
        let Some(reader) = own.and_then(|own| named_as(&own, &self.worker, reader.unwrap_or(&self.worker)))
        else {
            return Ok(());
        };
        self.ask(key, move |client| client.admit(&reader)).await
    }

    /// The NBD URI of an export.
    pub(super) fn export_uri(&self, key: VolumeKey, address: SocketAddr) -> String {
        let scheme = if self.credentials.is_some() { "nbds" } else { "nbd" };
        format!("{scheme}://{}:{}/{key}", self.advertise, address.port())
    }
}

/// What the certificate of another worker names, if that of this one, `own`, names it as those of a cluster do.
fn named_as(own: &str, me: &WorkerName, other: &WorkerName) -> Option<String> {
    let (cluster, name) = own.rsplit_once('/')?;
    (name == me.as_str()).then(|| format!("{cluster}/{other}"))
}
