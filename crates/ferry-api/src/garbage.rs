//! What jobs and killed processes have left on a worker, and what becomes of it.

use crate::{JobId, JobKind, MachineId, MachineName, VolumeKey, VolumeName, WorkerName};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Asks what lies on a worker that nobody needs, or has it cleared away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskGarbage {
    /// Whether copies that are kept after a move go before their time, too, where the volume is whole with its owner.
    #[serde(default)]
    pub retained: bool,
}

/// What was found on a worker beside what is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// The worker.
    pub worker: WorkerName,
    /// What nobody needs: it would go, or has gone.
    pub goes: Vec<Artefact>,
    /// What stays, and why.
    pub stays: Vec<Artefact>,
    /// What was to go and could not be removed; `why` tells what was in the way.
    pub failed: Vec<Artefact>,
}

/// One thing that a job or a process has made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artefact {
    /// What it is.
    #[serde(flatten)]
    pub what: Remnant,
    /// The job that made it, or left it behind; none if nothing tells which that was.
    pub job: Option<JobId>,
    /// What that job does or did; none if this worker does not remember it.
    pub job_does: Option<JobKind>,
    /// Since when it is there, in milliseconds since 1970, if that can be told.
    pub since_ms: Option<u64>,
    /// Bytes of the worker's filesystem that it occupies.
    pub bytes: u64,
    /// Why it may go without harm, or stays, in one sentence.
    pub why: String,
}

/// Kinds of things that jobs and killed processes leave behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Remnant {
    /// A copy that is kept after its volume has moved away.
    Retained {
        /// The copy.
        copy: VolumeKey,
        /// Name of the volume.
        name: VolumeName,
        /// The owner when it was retired.
        to: WorkerName,
        /// Until when it is kept, in milliseconds since 1970.
        until_ms: u64,
    },
    /// A copy of which the owner may still read.
    HandedOver {
        /// The copy.
        copy: VolumeKey,
        /// Name of the volume.
        name: VolumeName,
        /// The owner.
        to: WorkerName,
    },
    /// The room that a move to this worker has set aside.
    Reservation {
        /// The machine that was to come.
        machine: MachineName,
        /// Where from.
        from: WorkerName,
    },
    /// A copy that a move to this worker has set aside or made, and that is not this worker's yet.
    Clone {
        /// The copy.
        copy: VolumeKey,
        /// Name of the volume.
        name: VolumeName,
        /// Where it would be read from.
        from: WorkerName,
    },
    /// The address at which a volume that is in use here can be read from elsewhere.
    Export {
        /// The copy.
        copy: VolumeKey,
        /// Name of the volume.
        name: VolumeName,
        /// The address.
        uri: String,
    },
    /// Something in the directory of volumes of which no record tells.
    Directory {
        /// The copy that it holds, by its name.
        copy: Option<VolumeKey>,
        /// Where it is.
        path: PathBuf,
    },
    /// The directory of a copy whose deletion was cut off.
    HalfDeleted {
        /// The copy.
        copy: VolumeKey,
        /// Where it is.
        path: PathBuf,
    },
    /// A socket or a half-written file that a volume server has left when it was killed.
    DeadFile {
        /// The copy that it served.
        copy: VolumeKey,
        /// Where it is.
        path: PathBuf,
    },
    /// A block device or mount that a volume server has left when it was killed.
    Device {
        /// The copy that it served.
        copy: VolumeKey,
        /// Where it is.
        path: PathBuf,
    },
    /// A volume server whose volume no record tells of.
    VolumeServer {
        /// The copy that it serves.
        copy: VolumeKey,
        /// Its process number.
        pid: u32,
    },
    /// A process of a machine that no record tells of.
    MachineProcess {
        /// The machine.
        machine: MachineId,
        /// Its process number.
        pid: u32,
    },
    /// The directory of a machine that no record tells of.
    MachineDirectory {
        /// The machine.
        machine: MachineId,
        /// Where it is.
        path: PathBuf,
    },
    /// An image of containers that is unpacked, and that no machine here is made of.
    Image {
        /// Where it is.
        path: PathBuf,
    },
    /// What is left of the unpacking, or of the removal, of an image that was cut off.
    HalfUnpacked {
        /// Where it is.
        path: PathBuf,
    },
}
