//! Whether the host of a worker may be stopped, and what keeps it from that.

use crate::{Exit, JobId, MachineId, MachineName, VolumeId, VolumeKey, VolumeName, WorkerName};
use serde::{Deserialize, Serialize};

/// What would be missed if the host of a worker were stopped at this moment. Nothing keeps new work from beginning later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SafeToStop {
    /// The worker.
    pub worker: WorkerName,
    /// What keeps it from being stopped; it is safe if nothing does.
    pub reasons: Vec<StopReason>,
}

/// One thing that keeps a worker from being stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StopReason {
    /// A volume was handed over, and its owner reads this copy until the move is verified.
    Copy {
        /// This worker's copy.
        copy: VolumeKey,
        /// Name of the volume.
        name: VolumeName,
        /// The owner.
        to: WorkerName,
        /// What the owner still has to copy.
        left: StillToCopy,
    },
    /// A fork reads a snapshot, which ends with this host. What the fork does not have by then it will never have.
    Fork {
        /// The volume whose snapshot it is.
        copy: VolumeKey,
        /// Name of that volume.
        name: VolumeName,
        /// The fork.
        fork: VolumeId,
        /// Its name when it was made.
        fork_name: VolumeName,
        /// The worker that has it.
        to: WorkerName,
        /// What it still has to copy.
        left: StillToCopy,
    },
    /// Somebody reads a volume over the network, and the records do not say who: a backup, or a volume that has it as its
    /// second source.
    Readers {
        /// This worker's copy.
        copy: VolumeKey,
        /// Name of the volume.
        name: VolumeName,
        /// How many connections; none while the volume's server does not answer, and nobody knows.
        connections: Option<u32>,
    },
    /// This worker leads a job that has not ended.
    Job {
        /// The job.
        job: JobId,
        /// The machine that it moves.
        machine: MachineName,
        /// Where to.
        to: WorkerName,
        /// The first step that is not done.
        step: Option<String>,
        /// Whether it waits for a person.
        parked: bool,
        /// Milliseconds until all has crossed, if it can be told.
        eta_ms: Option<u64>,
    },
    /// A machine is on its way here, and would have nowhere to run.
    Arrival {
        /// The move.
        job: JobId,
        /// The machine.
        machine: MachineName,
        /// Where it comes from.
        from: WorkerName,
    },
    /// A machine runs here, or is to run here.
    Machine {
        /// The machine.
        machine: MachineId,
        /// Its name.
        name: MachineName,
    },
}

/// What a clone on another worker still has to copy from here, as that worker tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StillToCopy {
    /// Bytes, as far as they have been counted; none if that worker cannot tell.
    pub bytes: Option<u64>,
    /// Milliseconds that they take at the rate at which they came lately; none if nothing came, or nobody can tell.
    pub eta_ms: Option<u64>,
    /// Why nobody can tell, in one sentence.
    pub unknown: Option<String>,
}

/// Asks a worker to stop its machines, end its volume servers, and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutDownWorker {
    /// Machines that run here may go down: they alone keep it from nothing.
    #[serde(default)]
    pub machines_may_stop: bool,
    /// Whatever keeps it from being stopped.
    #[serde(default)]
    pub force: bool,
}

/// What came of a shutdown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerShutDown {
    /// The worker.
    pub worker: WorkerName,
    /// Whether it was done: if not, nothing has changed, and `reasons` say why.
    pub done: bool,
    /// What kept the worker from being stopped, or did not, because that was forced.
    pub reasons: Vec<StopReason>,
    /// Machines that were stopped. They start again with the next agent.
    pub machines: Vec<StoppedMachine>,
    /// Copies whose volume servers have ended, with everything durable.
    pub volumes: Vec<VolumeKey>,
    /// What could not be ended and goes on, in one sentence each.
    pub left: Vec<String>,
}

/// A machine that was stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedMachine {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: MachineName,
    /// How it ended.
    pub exit: Option<Exit>,
}
