//! Copying ahead of a hand-over: the live export and the marks on the source, the rounds on the target.

use super::keeper::Doomed;
use super::{Inner, Volumes, VolumesError, set_pace};
use crate::records::{Change, VolumeRecord};
use ferry_api::{PaceVolume, PrecopyVolume, VolumeKey, WorkerName};
use ferry_crossing::service::Wish;
use ferry_volume::control::{Phase, Status};

impl Volumes {
    /// Exports a copy to another worker while its guest writes, until it is withdrawn or its server starts again. Answers the
    /// NBD URI.
    ///
    /// # Errors
    /// The records do not allow it, or the server does not run or refuses.
    pub async fn export_live(&self, key: VolumeKey, reader: &WorkerName) -> Result<String, VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        self.inner.permit(&record, Wish::Export, "exported").await?;
        let status = self.inner.serving(&record).await?;
        self.inner.admit(key, Some(reader)).await?;
        let listen = status.export.unwrap_or(self.inner.export_listen);
        let address = self.inner.ask(key, move |client| client.export_live(listen)).await?;
        Ok(format!("{}+live", self.inner.export_uri(key, address)))
    }

    /// Sets a mark: what the guest changes from now on is known.
    ///
    /// # Errors
    /// The server does not run or refuses.
    pub async fn mark(&self, key: VolumeKey) -> Result<u64, VolumesError> {
        self.inner.ask(key, |client| client.mark()).await
    }

    /// Forgets all marks but one, or all.
    ///
    /// # Errors
    /// The server does not run or refuses.
    pub async fn forget_marks(&self, key: VolumeKey, but: Option<u64>) -> Result<(), VolumesError> {
        for mark in self.inner.status(key).await?.marks {
            if Some(mark.mark) != but {
                self.inner.ask(key, move |client| client.forget_mark(mark.mark)).await?;
            }
        }
        Ok(())
    }

    /// Bytes that may have changed since a mark; none if it is not kept.
    ///
    /// # Errors
    /// The server does not run.
    pub async fn bytes_changed_since(&self, key: VolumeKey, mark: u64) -> Result<Option<u64>, VolumesError> {
        let marks = self.inner.status(key).await?.marks;
        Ok(marks.into_iter().find(|kept| kept.mark == mark).map(|kept| kept.bytes_changed))
    }

    /// Makes a clone that stands by anew if it kept something of what was copied ahead: nobody answers for that any more, and
    /// what is local is never remote again.
    ///
    /// # Errors
    /// Its server does not run or refuses, or its directory cannot be made.
    pub async fn give_up_copied(&self, key: VolumeKey) -> Result<(), VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        let status = self.inner.serving(&record).await?;
        if status.phase != Phase::Standby || status.hydration.bytes_local == 0 {
            return Ok(());
        }
        tracing::warn!(volume = %key, "what was copied ahead is not what its source holds; all of it follows");
        self.inner.end_server(key, Doomed::Yes).await?;
        // First: a directory of a copy that counts as made is missed.
        let blank = VolumeRecord { made: false, ..record };
        let again = vec![Change::RemoveVolume(key), Change::AddVolume(Box::new(blank.clone()))];
        self.inner.records.change(again).await?;
        let leftover = self.inner.host.set_aside(key)?;
        self.inner.serving(&blank).await?;
        self.inner.ask(key, move |client| set_pace(client, pace_of(&status))).await?;
        self.inner.host.remove(leftover).await
    }

    /// Copies into a clone that stands by, or keeps what was copied and is right.
    ///
    /// # Errors
    /// The server does not run or refuses.
    pub async fn precopy(&self, key: VolumeKey, wish: PrecopyVolume) -> Result<(), VolumesError> {
        let PrecopyVolume { source, mark, since, .. } = wish;
        let ask = move |client: &mut ferry_volume::control::Client| match (mark, since) {
            (Some(mark), since) => client.precopy(&source, mark, since),
            (None, Some(since)) => client.adopt(&source, since).map(drop),
            // Nothing was copied.
            (None, None) => Ok(()),
        };
        self.inner.ask(key, ask).await
    }
}

/// What was set for a clone when it was prepared.
fn pace_of(status: &Status) -> PaceVolume {
    PaceVolume {
        budget_bytes_per_s: status.budget_bytes_per_s.map(Some),
        guard_us: status.guard_us.map(Some),
        finish_by_ms: None,
    }
}
