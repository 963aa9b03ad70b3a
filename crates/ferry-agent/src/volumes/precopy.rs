//! Copying ahead of a hand-over: the live export and the marks on the source, the rounds on the target.

use super::{Inner, Volumes, VolumesError};
use ferry_api::{PrecopyVolume, VolumeKey};
use ferry_crossing::service::Wish;

impl Volumes {
    /// Exports a copy to other workers while its guest writes, until it is withdrawn or its server starts again. Answers the
    /// NBD URI.
    ///
    /// # Errors
    /// The records do not allow it, or the server does not run or refuses.
    pub async fn export_live(&self, key: VolumeKey) -> Result<String, VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        self.inner.permit(&record, Wish::Export, "exported").await?;
        let status = self.inner.serving(&record).await?;
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
