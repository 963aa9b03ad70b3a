//! Sources that are lost: how long they are waited for, and giving them up.

use super::{Inner, Volumes, VolumesError, not_allowed, service};
use crate::config::volume_dir;
use crate::records::Change;
use ferry_api::{AbandonSource, ChangeSources, LossPolicy, Losses, Span, VolumeKey};
use ferry_volume::control::{self, Client};
use ferry_volume::directory::ABANDONED;

impl Volumes {
    /// Says what becomes of requests that wait for the source of a copy; its server remembers it.
    ///
    /// # Errors
    /// Nobody serves the copy, or its server refuses.
    pub async fn on_source_loss(&self, key: VolumeKey, policy: LossPolicy) -> Result<(), VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        if service::wanted(&record.ownership, false) == service::Service::None {
            return Err(not_allowed(&record, "given another policy"));
        }
        self.inner.serving(&record).await?;
        let policy = match policy {
            LossPolicy::Wait => control::LossPolicy::Wait,
            LossPolicy::FailAfterMs(ms) => control::LossPolicy::FailAfterMs(ms),
        };
        self.inner.ask(key, move |client| client.set_loss_policy(policy)).await
    }

    /// Adds or takes away a source that stands in for the first one of a copy; its server remembers it.
    ///
    /// # Errors
    /// Nobody serves the copy, or its server refuses.
    pub async fn change_sources(&self, key: VolumeKey, change: ChangeSources) -> Result<(), VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        if service::wanted(&record.ownership, false) == service::Service::None {
            return Err(not_allowed(&record, "given other sources"));
        }
        self.inner.serving(&record).await?;
        let change = move |client: &mut Client| match change {
            ChangeSources::Add(uri) => client.add_source(&uri),
            ChangeSources::Remove(uri) => client.remove_source(&uri),
        };
        self.inner.ask(key, change).await
    }

    /// Tells what giving up the source of a copy costs, or gives it up.
    ///
    /// # Errors
    /// Nobody serves the copy, or its server refuses.
    pub async fn abandon_source(
        &self,
        key: VolumeKey,
        abandon: AbandonSource,
    ) -> Result<Losses, VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        if service::wanted(&record.ownership, false) == service::Service::None {
            return Err(not_allowed(&record, "separated from its source"));
        }
        self.inner.serving(&record).await?;
        let Some(lose_bytes) = abandon.lose_bytes else {
            let told = self.inner.ask(key, Client::losses).await?;
            let span = |span: &control::Span| Span { offset: span.offset, len_bytes: span.len_bytes };
            let listed = told.listed.iter().map(span).collect();
            return Ok(Losses { abandoned: false, bytes: told.bytes, count: told.count, listed, list: None });
        };
        self.inner.ask(key, move |client| client.abandon_source(lose_bytes, abandon.force)).await?;
        self.inner.records.change(vec![Change::Source { key, source: None }]).await?;
        let bytes = self.inner.status(key).await?.hydration.bytes_abandoned;
        let list = volume_dir(&self.inner.state_dir, key).join(ABANDONED);
        let list = Some(list.display().to_string());
        Ok(Losses { abandoned: true, bytes, count: 0, listed: Vec::new(), list })
    }
}
