//! What a machine asks of a worker.

use ferry_api::{MachineId, MachineName, MachineSpec, Resident, WorkerName};
use ferry_crossing::PlannedVolume;

/// What a machine asks of a worker: its spec says with what it runs and where it may be, its volumes how much room it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirements {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: MachineName,
    /// Where it is, so that this worker is not the one that is looked for.
    pub from: WorkerName,
    /// What it is.
    pub spec: MachineSpec,
    /// Its disks, as a move would plan them.
    pub volumes: Vec<PlannedVolume>,
}

impl Requirements {
    /// Bytes that its volumes will take.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.volumes.iter().map(|planned| planned.bytes_in_use).fold(0, u64::saturating_add)
    }

    /// What it is to others once it has been taken.
    #[must_use]
    pub fn as_resident(&self) -> Resident {
        resident(self.machine, &self.name, &self.spec)
    }

    /// Whether it needs a block device of each of its volumes that it mounts.
    pub(crate) fn needs_block_device(&self) -> bool {
        !self.spec.mounts.is_empty()
    }
}

/// What a machine is to others on its worker.
#[must_use]
pub fn resident(machine: MachineId, name: &MachineName, spec: &MachineSpec) -> Resident {
    Resident {
        machine,
        name: name.clone(),
        group: spec.placement.group.clone(),
        apart: spec.placement.apart.clone(),
        demand: spec.demand(),
    }
}
