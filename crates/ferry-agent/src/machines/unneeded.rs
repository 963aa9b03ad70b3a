//! Removes what is left of machines of which no record tells, each decided again before it goes ([`ferry_crossing::garbage`]).
//!
//! Invariant: a machine's id is never given twice, so one that no record tells of will not be made again; it can only come
//! back by a move, whose record is there before its directory.

use super::{Machines, MachinesError};
use crate::drivers::oci::images::{self, Images};
use crate::garbage::has_ground;
use crate::lying::{Lying, MachineProcess};
use crate::records::ProcessMark;
use ferry_api::MachineId;
use ferry_crossing::garbage::{self, Verdict};
use ferry_crossing::target;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

impl Machines {
    /// Ends a process of a machine of which no record tells.
    ///
    /// # Errors
    /// [`MachinesError::Needed`]; the system refuses.
    pub(crate) async fn clear_process(
        &self,
        machine: MachineId,
        mark: ProcessMark,
    ) -> Result<(), MachinesError> {
        let failed = |doing| move |cause| MachinesError::Io { doing, path: self.inner.dir(machine), cause };
        let running = self.inner.host.running().await.map_err(failed("look at the processes of"))?;
        let is_it = |process: &MachineProcess| process.mark.is_of_the_same(&mark);
        let Some(process) = running.machines.into_iter().find(is_it) else { return Ok(()) };
        let verdict = garbage::machine_process(has_ground(&self.lying().await?, machine, &process.disks));
        self.needless("a process", machine, verdict).await?;
        self.inner.host.end_process(mark).await.map_err(failed("end a process of"))
    }

    /// Removes the directory of a machine of which no record tells.
    ///
    /// # Errors
    /// [`MachinesError::Needed`]; a file operation failed.
    pub(crate) async fn clear_directory(&self, machine: MachineId) -> Result<(), MachinesError> {
        let lying = self.lying().await?;
        let Some(found) = lying.machines.iter().find(|place| place.machine == machine) else {
            return Ok(());
        };
        let verdict = garbage::machine_directory(found.holds_files, found.place.is_elsewhere);
        self.needless("the directory", machine, verdict).await?;
        let removed = self.inner.host.remove_machine_dir(machine).await;
        removed.map_err(|cause| MachinesError::Io { doing: "remove", path: self.inner.dir(machine), cause })
    }

    /// Where the images are unpacked of which machines are made that the records tell of, or that are on their way here.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn images_in_use(&self, images: &Images) -> Result<BTreeSet<PathBuf>, MachinesError> {
        let mut used = BTreeSet::new();
        for record in self.inner.records.machines().await? {
            used.extend(images.used_by(&record.spec, Some(self.inner.dir(record.id))).await);
        }
        for reserve in self.inner.records.crossings_under_way().await?.into_iter().filter_map(|c| c.reserve) {
            used.extend(images.used_by(&reserve.spec, None).await);
        }
        Ok(used)
    }

    /// Removes an unpacked image that no machine is made of, or what of one was left half done.
    ///
    /// # Errors
    /// [`MachinesError::ImageNeeded`]; a file operation failed.
    pub(crate) async fn clear_image(&self, path: &Path) -> Result<(), MachinesError> {
        let Some(images) = self.inner.host.images() else { return Ok(()) };
        let failed = |doing| move |cause| MachinesError::Io { doing, path: path.to_owned(), cause };
        // Whoever starts a machine from now on unpacks its image again.
        let held = images.hold().await;
        let lying = images.lying().await.map_err(failed("look at"))?;
        let Some(found) = lying.into_iter().find(|place| place.path == path) else { return Ok(()) };
        match images::judge(&found, &self.images_in_use(images).await?, false) {
            Verdict::Goes(_) => images.remove(&held, found.path).await.map_err(failed("remove")),
            Verdict::Stays(why) => Err(MachinesError::ImageNeeded { path: found.path, why }),
        }
    }

    async fn lying(&self) -> Result<Lying, MachinesError> {
        let path = self.inner.state_dir.clone();
        let lying = self.inner.host.lying().await;
        lying.map_err(|cause| MachinesError::Io { doing: "look at what lies in", path, cause })
    }

    /// Refuses what is to stay, and whatever the records tell of by now.
    async fn needless(
        &self,
        what: &'static str,
        machine: MachineId,
        verdict: Verdict,
    ) -> Result<(), MachinesError> {
        let is_awaited = self.inner.records.crossings_under_way().await?;
        let is_awaited = is_awaited.iter().any(|crossing| target::awaits(crossing, machine));
        let verdict = match self.inner.records.machine(machine).await? {
            None if !is_awaited => verdict,
            _ => Verdict::Stays("the records tell of it by now".to_owned()),
        };
        match verdict {
            Verdict::Goes(_) => Ok(()),
            Verdict::Stays(why) => Err(MachinesError::Needed { what, machine, why }),
        }
    }
}
