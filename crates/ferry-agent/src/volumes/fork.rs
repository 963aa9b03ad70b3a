//! Forks: which clones read a snapshot of a copy, and when it is needed no longer.
//!
//! ```text
//!  records: the fork is named ─▶ snapshot ─▶ export ─▶ a clone of it is made, here or on another worker
//!                                   ▲                       │ whole: its own keeper detaches it from its source
//!                                   └── forgotten when nobody reads it any more (asked each second, also after a crash)
//! ```
//!
//! A snapshot ends with its server, so a fork whose snapshot is gone is only struck off; that fork's own source says why.
//! All of it is done under the keeper's lock of the copy, so a fork that is being made is not taken for one that is gone.

use super::keeper::Keeper;
use super::{Inner, Volumes, VolumesError, not_allowed};
use crate::records::{Change, ForkRecord, VolumeRecord};
use ferry_api::{AgentApi, ApiError, ErrorCode, Generation, Ownership, VolumeId, VolumeKey, VolumeRef};
use ferry_volume::control::Status;
use std::future::Future;

impl Volumes {
    /// Takes a snapshot of a copy and has `make` make a clone of it, which is given its URI and the copy's record. What keeps the machine of the copy
    /// still, `stillness`, goes as soon as the snapshot is there.
    ///
    /// # Errors
    /// The copy is not ours, is about to move, or is not whole; or `make` failed: the snapshot is forgotten then.
    pub async fn fork<T, F: Future<Output = Result<T, ApiError>>>(
        &self,
        key: VolumeKey,
        fork: ForkRecord,
        stillness: impl Sized,
        make: impl FnOnce(String, VolumeRecord) -> F,
    ) -> Result<T, ApiError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        if record.ownership != Ownership::Ours {
            return Err(not_allowed(&record, "forked").into());
        }
        self.inner.refuse_if_held(&record).await?;
        self.inner.serving(&record).await?;
        let (id, reader) = (fork.id.to_string(), fork.to.clone());
        self.inner.records.change(vec![Change::AddFork { key, fork: Box::new(fork) }]).await?;
        let made = async {
            let snapshot = id.clone();
            self.inner.ask(key, move |client| client.snapshot(&snapshot)).await?;
            drop(stillness);
            self.inner.admit(key, reader.as_ref()).await?;
            let listen = self.inner.export_listen;
            let address = self.inner.ask(key, move |client| client.export(listen)).await?;
            make(format!("{}~{id}", self.inner.export_uri(key, address)), record).await
        };
        let made = made.await;
        if made.is_err()
            && let Err(error) = self.inner.tend(key).await
        {
            let error = ApiError::from(error);
            tracing::warn!(volume = %key, %error, "what is left of a fork is cleaned up later");
        }
        // From here on it is looked after.
        keeper.poke();
        made
    }

    /// Refuses to go on with a copy that a fork still reads.
    ///
    /// # Errors
    /// `Conflict`.
    pub async fn refuse_if_forked(&self, key: VolumeKey) -> Result<(), ApiError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        if !self.inner.record(key).await?.forks.is_empty() {
            self.inner.tend(key).await?;
        }
        let record = self.inner.record(key).await?;
        let Some(fork) = record.forks.first() else { return Ok(()) };
        let message = format!(
            "volume {} is read by its fork {}, which is not whole yet; wait for that, or delete the fork",
            record.name, fork.name
        );
        Err(ApiError::new(ErrorCode::Conflict, message))
    }
}

impl Inner {
    /// Forgets snapshots that nobody reads any more. Tells whether any are left.
    pub(super) async fn tend_forks(&self, keeper: &Keeper) -> Result<bool, VolumesError> {
        let _held = keeper.lock().await;
        self.tend(keeper.key).await
    }

    /// As above; the caller holds the keeper's lock.
    async fn tend(&self, key: VolumeKey) -> Result<bool, VolumesError> {
        let (record, status) = (self.record(key).await?, self.status(key).await?);
        self.strike_lost_forks(&record, &status).await?;
        let mut left = false;
        for snapshot in status.snapshots {
            let fork = record.forks.iter().find(|fork| fork.id.to_string() == snapshot.id);
            if let Some(fork) = fork
                && self.is_reading(fork).await?
            {
                left = true;
                continue;
            }
            self.ask(key, move |client| client.forget_snapshot(&snapshot.id)).await?;
            if let Some(&ForkRecord { id, .. }) = fork {
                self.records.change(vec![Change::RemoveFork { key, fork: id }]).await?;
            }
        }
        Ok(left)
    }

    /// Strikes off the forks whose snapshot has ended with a server. The caller holds the keeper's lock.
    pub(super) async fn strike_lost_forks(
        &self,
        record: &VolumeRecord,
        status: &Status,
    ) -> Result<(), VolumesError> {
        let is_there = |id: VolumeId| status.snapshots.iter().any(|snapshot| snapshot.id == id.to_string());
        let key = record.key();
        for fork in record.forks.iter().filter(|fork| !is_there(fork.id)) {
            if self.is_reading(fork).await.unwrap_or(true) {
                tracing::error!(volume = %key, fork = %fork.name, "the snapshot that a fork reads is lost; fork again");
            }
            self.records.change(vec![Change::RemoveFork { key, fork: fork.id }]).await?;
        }
        Ok(())
    }

    /// Whether a fork still needs its snapshot. One whose worker does not answer may.
    async fn is_reading(&self, fork: &ForkRecord) -> Result<bool, VolumesError> {
        let Some(worker) = &fork.to else {
            let key = VolumeKey { id: fork.id, generation: Generation::FIRST };
            return Ok(self.records.volume(key).await?.is_some_and(|record| record.source.is_some()));
        };
        // A worker that is no longer configured cannot be asked, now or later.
        let Ok(peer) = self.peers.client(worker) else { return Ok(false) };
        match peer.volume(&VolumeRef::Id(fork.id)).await {
            Ok(volume) => Ok(volume.source.is_some()),
            Err(error) => Ok(error.code != ErrorCode::NotFound),
        }
    }
}
