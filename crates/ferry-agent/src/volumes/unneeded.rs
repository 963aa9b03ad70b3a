//! Removes what nobody needs of copies, each decided again while the copy is held ([`ferry_crossing::garbage`]).
//!
//! Invariant: between the decision and the deed nobody else does anything with the copy.

use super::keeper::Doomed;
use super::{Inner, Volumes, VolumesError, view};
use crate::config::volume_dir;
use crate::lying::Place;
use crate::records::{ProcessMark, VolumeRecord};
use ferry_api::{ErrorCode, Ownership, VolumeKey};
use ferry_crossing::garbage::{self, Exported, Holds, Verdict};
use ferry_crossing::service::Service;
use ferry_volume::Left;
use ferry_volume::control::{Client, ControlError};
use std::path::Path;

/// The most that a creation which did not finish occupies: some small files beside an empty one.
const UNFINISHED_BYTES_MAX: u64 = 64 * 1024;

impl Volumes {
    /// What a copy of which no record tells holds, by what lies in its directory, which occupies so much.
    fn holds(&self, key: VolumeKey, bytes: u64) -> Holds {
        match self.inner.host.last_state(key) {
            Ok(None) if bytes > UNFINISHED_BYTES_MAX => Holds::Bytes,
            Ok(None) => Holds::Nothing,
            Ok(Some(last)) => Holds::Copy(view::phase(last.phase)),
            Err(error) => {
                Holds::Unreadable(ferry_api::ApiError::because(ErrorCode::Internal, &error).message)
            }
        }
    }

    /// Whether somebody does something with a copy at this moment.
    pub(crate) fn is_held(&self, key: VolumeKey) -> bool {
        self.inner.is_held(key)
    }

    /// What becomes of something in the directory of volumes of which no record tells.
    pub(crate) fn judge_unknown(&self, place: &Place) -> Verdict {
        let holds = place.copy.map_or(Holds::Nothing, |key| self.holds(key, place.bytes));
        garbage::directory(place.copy.is_some(), place.is_elsewhere, &holds)
    }

    /// Deletes the directory of a copy of which no record tells, with its server if it has one.
    ///
    /// # Errors
    /// [`VolumesError::Needed`]; a file operation failed.
    pub(crate) async fn clear_unknown(&self, key: VolumeKey) -> Result<(), VolumesError> {
        let _held = Inner::hold(&self.inner, key).await;
        self.refuse_if_known(key).await?;
        let Some(place) = self.place(key).await? else { return Ok(()) };
        needless(&place.path, self.judge_unknown(&place))?;
        self.inner.end_server(key, Doomed::Yes).await?;
        let leftover = self.inner.host.set_aside(key)?;
        self.inner.host.remove(leftover).await
    }

    /// Ends a volume server whose copy no record tells of.
    ///
    /// # Errors
    /// [`VolumesError::Needed`]; the system refuses.
    pub(crate) async fn clear_server(&self, key: VolumeKey, mark: ProcessMark) -> Result<(), VolumesError> {
        let _held = Inner::hold(&self.inner, key).await;
        self.refuse_if_known(key).await?;
        let directory = self.place(key).await?.map(|place| self.judge_unknown(&place));
        let path = volume_dir(&self.inner.state_dir, key);
        needless(&path, garbage::volume_server(directory.as_ref()))?;
        let ended = self.inner.host.end_process(mark).await;
        ended.map_err(|cause| VolumesError::Io { doing: "end the volume server of", path, cause })
    }

    /// Removes what is left of a copy whose deletion was cut off.
    ///
    /// # Errors
    /// A file operation failed.
    pub(crate) async fn clear_half_deleted(&self, key: VolumeKey) -> Result<(), VolumesError> {
        let _held = Inner::hold(&self.inner, key).await;
        // Whoever deletes it holds it: nobody does now.
        let lying = self.lying().await?;
        match lying.half_deleted.into_iter().find(|place| place.copy == Some(key)) {
            Some(place) => self.inner.host.remove(place.path).await,
            None => Ok(()),
        }
    }

    /// What volume servers have left in the directory of a copy that is to be served by nobody, and what becomes of it;
    /// none of a copy that somebody serves.
    ///
    /// # Errors
    /// The records cannot be read; the directory cannot be looked at.
    pub(crate) async fn left_by_server(
        &self,
        record: &VolumeRecord,
    ) -> Result<Option<(Left, Verdict)>, VolumesError> {
        let key = record.key();
        let is_retired = matches!(record.ownership, Ownership::Retired { .. });
        if !is_retired || self.inner.service(record).await? != Service::None || !self.inner.host.is_made(key)
        {
            return Ok(None);
        }
        let serves = match self.inner.status(key).await {
            Err(VolumesError::Control(ControlError::NotRunning { .. })) => false,
            Ok(_) | Err(_) => true,
        };
        let path = volume_dir(&self.inner.state_dir, key);
        let left = self.inner.host.left_by_server(key).await;
        let left = left.map_err(|cause| VolumesError::Io { doing: "look at", path, cause })?;
        Ok(Some((left, garbage::left_by_server(serves))))
    }

    /// Removes what [`Volumes::left_by_server`] tells.
    ///
    /// # Errors
    /// [`VolumesError::Needed`]; a file operation failed.
    pub(crate) async fn clear_left_by_server(&self, key: VolumeKey) -> Result<(), VolumesError> {
        let _held = Inner::hold(&self.inner, key).await;
        let Some(record) = self.inner.records.volume(key).await? else { return Ok(()) };
        let path = volume_dir(&self.inner.state_dir, key);
        let verdict = match self.left_by_server(&record).await? {
            Some((_, verdict)) => verdict,
            None => Verdict::Stays("its server is wanted again".to_owned()),
        };
        needless(&path, verdict)?;
        self.inner.host.clear_left_by_server(key).await
    }

    /// Where a copy that is in use here can be read from elsewhere, and what becomes of that; none if it cannot.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn judge_export(
        &self,
        record: &VolumeRecord,
    ) -> Result<Option<(String, Verdict)>, VolumesError> {
        if record.ownership != Ownership::Ours {
            return Ok(None);
        }
        // Of one that does not answer nothing is known, and it goes on.
        let Ok(status) = self.inner.status(record.key()).await else { return Ok(None) };
        let Some(address) = status.export else { return Ok(None) };
        let machine = match record.machine {
            Some(machine) => self.inner.records.machine(machine).await?,
            None => None,
        };
        let job = machine.is_some_and(|machine| machine.job.is_some());
        let forks = record.forks.len().max(status.snapshots.len());
        let verdict = garbage::export(Exported { job, forks, readers: status.readers });
        Ok(Some((self.inner.export_uri(record.key(), address), verdict)))
    }

    /// Has a copy that is in use here be read from elsewhere no longer.
    ///
    /// # Errors
    /// [`VolumesError::Needed`]; its server refuses.
    pub(crate) async fn clear_export(&self, key: VolumeKey) -> Result<(), VolumesError> {
        let _held = Inner::hold(&self.inner, key).await;
        let Some(record) = self.inner.records.volume(key).await? else { return Ok(()) };
        let Some((_, verdict)) = self.judge_export(&record).await? else { return Ok(()) };
        needless(&volume_dir(&self.inner.state_dir, key), verdict)?;
        self.inner.ask(key, Client::withdraw).await
    }

    async fn refuse_if_known(&self, key: VolumeKey) -> Result<(), VolumesError> {
        match self.inner.records.volume(key).await? {
            None => Ok(()),
            Some(_) => {
                let why = "the records tell of it by now".to_owned();
                Err(VolumesError::Needed { path: volume_dir(&self.inner.state_dir, key), why })
            }
        }
    }

    async fn place(&self, key: VolumeKey) -> Result<Option<Place>, VolumesError> {
        let lying = self.lying().await?;
        Ok(lying.volumes.into_iter().find(|place| place.copy == Some(key)))
    }

    /// What lies in the directories of this worker.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) async fn lying(&self) -> Result<crate::lying::Lying, VolumesError> {
        let path = self.inner.state_dir.clone();
        let lying = self.inner.host.lying().await;
        lying.map_err(|cause| VolumesError::Io { doing: "look at what lies in", path, cause })
    }
}

/// Refuses what is to stay.
fn needless(path: &Path, verdict: Verdict) -> Result<(), VolumesError> {
    match verdict {
        Verdict::Goes(_) => Ok(()),
        Verdict::Stays(why) => Err(VolumesError::Needed { path: path.to_owned(), why }),
    }
}
