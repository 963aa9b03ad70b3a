//! Bases: kept copies of an earlier generation that a copy reads beside its source.
//!
//! Invariant: nothing depends on a base. What it gives, the source gives, too, so whatever goes wrong with one is told and
//! left at that.

use super::keeper::Keeper;
use super::{Inner, Volumes, VolumesError, not_allowed};
use crate::records::VolumeRecord;
use ferry_api::{AgentApi, ApiError, Ownership, Reserve, ReserveVolume, VolumeId, VolumeKey};
use ferry_crossing::service::{self, Service, Wish};
use ferry_crossing::{BaseRecord, target};
use ferry_volume::LastState;
use ferry_volume::control::{Phase, Status};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Volumes {
    /// What there is already of the volumes that are to come.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn bases(&self, reserve: &Reserve) -> Result<BTreeMap<VolumeId, BaseRecord>, VolumesError> {
        let mut bases = BTreeMap::new();
        for volume in &reserve.volumes {
            let kept = self.kept(volume).await?;
            let reached = |worker: &_| self.inner.peers.client(worker).is_ok();
            bases.extend(target::base(volume, kept.as_ref(), reached).map(|base| (volume.id, base)));
        }
        Ok(bases)
    }

    /// The copy here that a volume's copy on its source was made from, if it can be read as it lies there.
    async fn kept(&self, volume: &ReserveVolume) -> Result<Option<VolumeRecord>, VolumesError> {
        let Some(generation) = volume.born_from else { return Ok(None) };
        let key = VolumeKey { id: volume.id, generation };
        let Some(record) = self.inner.records.volume(key).await? else { return Ok(None) };
        if !matches!(record.ownership, Ownership::Retired { .. }) {
            return Ok(Some(record));
        }
        match self.inner.host.last_state(key) {
            Ok(last) => {
                let is_whole = |last: &LastState| last.phase == Phase::Sealed && last.bytes_remote == 0;
                Ok(last.filter(is_whole).map(|_| record))
            }
            Err(error) => {
                let error = ferry_api::ApiError::because(ferry_api::ErrorCode::Internal, &error);
                tracing::warn!(volume = %key, %error, "a copy that was kept is of no use for the way back");
                Ok(None)
            }
        }
    }

    /// Has a copy that was just made read its base from the start. Without it nothing is missing.
    pub async fn take_base(&self, key: VolumeKey, status: &Status) {
        let keeper = Inner::keeper(&self.inner, key);
        self.inner.follow_base(&keeper, status).await;
    }

    /// The retired copies, each with the time until which it is kept, in milliseconds since 1970; without those that
    /// another copy here still reads.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn retired(&self) -> Result<Vec<(VolumeKey, u64)>, VolumesError> {
        let mut retired = Vec::new();
        let records = self.inner.records.volumes().await?;
        for copies in records.chunk_by(|a, b| a.id == b.id) {
            if !copies.iter().any(|copy| matches!(copy.ownership, Ownership::Retired { .. })) {
                continue;
            }
            // A volume whose source was given up has none either, and is not whole: what is kept may be all there is.
            let mut whole = Vec::new();
            for copy in copies.iter().filter(|copy| copy.source.is_none()) {
                let counted = self.show(copy.key()).await?.hydration;
                whole.extend(counted.filter(|c| c.complete && c.bytes_abandoned == 0).map(|_| copy.key()));
            }
            for copy in copies {
                let Ownership::Retired { until_ms, .. } = copy.ownership else { continue };
                let key = copy.key();
                let until_ms = service::kept_until(key, until_ms, copies, |key| whole.contains(&key));
                retired.extend(until_ms.map(|until_ms| (key, until_ms)));
            }
        }
        Ok(retired)
    }
}

impl Inner {
    /// Whether another copy here reads this one beside its source.
    pub(super) async fn is_base(&self, key: VolumeKey) -> Result<bool, VolumesError> {
        Ok(service::is_base(key, &self.records.copies(key.id).await?))
    }

    /// What the server of a copy is to do.
    pub(super) async fn service(&self, record: &VolumeRecord) -> Result<Service, VolumesError> {
        let is_base = match record.ownership {
            Ownership::Retired { .. } => self.is_base(record.key()).await?,
            Ownership::Reserved { .. }
            | Ownership::Prepared { .. }
            | Ownership::Ours
            | Ownership::Sealed { .. }
            | Ownership::HandedOver { .. } => false,
        };
        Ok(service::wanted(&record.ownership, is_base))
    }

    /// Sees to it that the hydration of a copy rests if its record says so: a server that was started again has forgotten it.
    pub(super) async fn resting(
        &self,
        record: &VolumeRecord,
        status: Status,
    ) -> Result<Status, VolumesError> {
        if !record.rests || status.hydration_held || status.hydration.complete {
            return Ok(status);
        }
        let key = record.key();
        self.ask(key, |client| client.hold_hydration(true)).await?;
        self.status(key).await
    }

    /// Sees to it that a copy reads its base, wherever that is served now.
    pub(super) async fn follow_base(self: &Arc<Self>, keeper: &Keeper, status: &Status) {
        let is_connected = status.base.as_ref().is_some_and(|base| base.connected);
        if is_connected || status.hydration.complete {
            return;
        }
        if let Err(error) = self.tell_base(keeper, status).await {
            tracing::debug!(volume = %keeper.key, %error, "a copy goes on without its base");
        }
    }

    async fn tell_base(self: &Arc<Self>, keeper: &Keeper, status: &Status) -> Result<(), ApiError> {
        let key = keeper.key;
        let Some(base) = self.record(key).await?.base else { return Ok(()) };
        let of = VolumeKey { generation: base.generation, ..key };
        let uri = match &base.worker {
            None => Volumes { inner: Arc::clone(self) }.export(of, Some(&self.worker)).await?,
            Some(worker) => self.peers.client(worker)?.peer_export(of, None).await?.uri,
        };
        if status.base.as_ref().is_some_and(|known| known.uri == uri) {
            return Ok(());
        }
        let uri = uri.parse().map_err(VolumesError::from)?;
        let told = ferry_volume::Base { uri, generation: base.generation.0 };
        let _held = keeper.lock().await;
        // It may have been let go while the other agent was asked.
        if self.record(key).await?.base.as_ref() == Some(&base) {
            self.ask(key, move |client| client.set_base(Some(told))).await?;
        }
        Ok(())
    }

    /// Refuses what the records do not allow for a copy.
    pub(super) async fn permit(
        &self,
        record: &VolumeRecord,
        wish: Wish,
        what: &'static str,
    ) -> Result<(), VolumesError> {
        let is_base = self.is_base(record.key()).await?;
        if service::may(&record.ownership, is_base, wish) {
            return Ok(());
        }
        Err(not_allowed(record, what))
    }
}
