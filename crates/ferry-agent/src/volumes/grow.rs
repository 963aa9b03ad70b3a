//! Volumes that become larger. The server's map is the deed, the record follows it.
//!
//! A growth and a move do not miss each other: each is done under the keeper's lock, a growth is refused once a job
//! holds the machine, and a move whose plan told another size than what was sealed is undone.

use super::room::check_limit;
use super::{Inner, Volumes, VolumesError, not_allowed};
use crate::records::{Change, ChangeRefused, RecordsError, VolumeRecord};
use ferry_api::{Ownership, VolumeKey};
use ferry_volume::control::{ControlError, Status};

impl Volumes {
    /// Makes a copy larger, also while its guest uses it. Durable when it answers.
    ///
    /// # Errors
    /// It is not ours or is about to move; the size cannot be; its server does not run or its disk refuses.
    pub async fn grow(&self, key: VolumeKey, size_bytes: u64) -> Result<(), VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        if record.ownership != Ownership::Ours {
            return Err(not_allowed(&record, "grown"));
        }
        self.inner.refuse_if_held(&record).await?;
        if record.store.is_none() {
            check_limit(self.inner.room_bytes, &record.name, size_bytes)?;
        }
        self.inner.serving(&record).await?;
        match self.inner.ask(key, move |client| client.grow(size_bytes)).await {
            Err(VolumesError::Control(ControlError::Refused { reason })) => {
                Err(VolumesError::BadSize { name: record.name, reason })
            }
            Err(other) => Err(other),
            Ok(()) => Ok(self.inner.records.change(vec![Change::Size { key, size_bytes }]).await?),
        }
    }
}

impl Inner {
    /// Refuses what must not be done while a job holds the machine.
    pub(super) async fn refuse_if_held(&self, record: &VolumeRecord) -> Result<(), VolumesError> {
        let Some(machine) = record.machine else { return Ok(()) };
        let machine = self.records.machine(machine).await?;
        match machine.and_then(|machine| machine.job.map(|job| (machine.name, job))) {
            Some((name, job)) => Err(RecordsError::from(ChangeRefused::Held { name, job }).into()),
            None => Ok(()),
        }
    }

    /// Tells the records of a growth that was cut off before they knew. The caller holds the keeper's lock.
    pub(super) async fn learn_size(
        &self,
        record: &VolumeRecord,
        status: &Status,
    ) -> Result<(), VolumesError> {
        let (key, size_bytes) = (record.key(), status.size_bytes);
        match record.size_bytes < size_bytes {
            true => Ok(self.records.change(vec![Change::Size { key, size_bytes }]).await?),
            false => Ok(()),
        }
    }
}
