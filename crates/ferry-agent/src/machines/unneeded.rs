//! Removes what is left of machines of which no record tells, each decided again before it goes ([`ferry_crossing::garbage`]).
//!
//! Invariant: a machine's id is never given twice, so one that no record tells of will not be made again; it can only come
//! back by a move, whose record is there before its directory.

use super::{Machines, MachinesError};
use crate::garbage::has_ground;
use crate::lying::{Lying, MachineProcess};
use crate::records::ProcessMark;
use ferry_api::MachineId;
use ferry_crossing::garbage::{self, Verdict};
use ferry_crossing::target;

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
