//! Why the records refuse a change, in one sentence each.

use ferry_api::{ErrorCode, GroupName, JobId, MachineId, MachineName, VolumeKey, VolumeName, WorkerName};

/// Why a change does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    /// No such machine.
    #[error("there is no machine {0} here; `ferry machine list` shows those there are")]
    NoMachine(MachineId),
    /// No such copy.
    #[error("there is no copy {0} of a volume here; `ferry volume list` shows those there are")]
    NoVolume(VolumeKey),
    /// No such job.
    #[error("there is no job {0} here; `ferry job list` shows those there are")]
    NoJob(JobId),
    /// The name is in use.
    #[error("a machine named {0} is already here; choose another name or destroy that one")]
    MachineNameTaken(MachineName),
    /// The machine is here.
    #[error("machine {0} is already here; it cannot be created or arrive a second time")]
    MachineHere(MachineId),
    /// The copy is here.
    #[error("the copy {0} of a volume is already here; it cannot be made a second time")]
    VolumeHere(VolumeKey),
    /// The job is there.
    #[error("job {0} is already there")]
    JobThere(JobId),
    /// Another job holds the machine.
    #[error(
        "machine {name} is already moving with job {job}; wait for it (`ferry job watch {job}`) and ask again"
    )]
    Held {
        /// The machine.
        name: MachineName,
        /// The job.
        job: JobId,
    },
    /// The memory of the machine is still to arrive, or was lost on the way.
    #[error(
        "the memory of machine {0} is still on its way here with the move that brings it; wait until that has started it (`ferry \
         machine show {0}` tells what it waits for, and what to do if the worker that it left is gone for good)"
    )]
    Arriving(MachineName),
    /// The worker is being emptied.
    #[error(
        "this worker is being drained by job {0}; watch that (`ferry job watch {0}`), or cancel it (`ferry job cancel {0}`)"
    )]
    Drained(JobId),
    /// A job does not empty the worker.
    #[error("job {0} does not drain this worker any more")]
    NotDrained(JobId),
    /// Another move has the lease of the group.
    #[error("another machine of group {0} may be down for its move; ask again in a moment")]
    LeaseGiven(GroupName),
    /// The machine is being destroyed.
    #[error(
        "machine {0} is being destroyed; if that does not end, ask for it again (`ferry machine destroy {0}`)"
    )]
    Doomed(MachineName),
    /// A job does not hold the machine.
    #[error("job {job} does not hold machine {name}")]
    NotHeld {
        /// The machine.
        name: MachineName,
        /// The job.
        job: JobId,
    },
    /// The machine was handed over.
    #[error("machine {name} was handed over to worker {to} with job {job}; ask the agent of that worker")]
    MachineHandedOver {
        /// The machine.
        name: MachineName,
        /// Its owner.
        to: WorkerName,
        /// The move.
        job: JobId,
    },
    /// A job that has not ended is not forgotten.
    #[error("job {0} has not ended; it is kept until it has")]
    JobNotOver(JobId),
    /// The machine is not to run, or runs already.
    #[error("machine {0} may not be started now")]
    MayNotStart(MachineName),
    /// The machine has a process.
    #[error("machine {0} still runs")]
    StillRuns(MachineName),
    /// The copy cannot become that.
    #[error("the copy {key} of a volume is {is} and cannot become {becomes}")]
    Ownership {
        /// The copy.
        key: VolumeKey,
        /// What it is.
        is: &'static str,
        /// What it was to become.
        becomes: &'static str,
    },
    /// The volume is a disk already.
    #[error("volume {name} is already a disk of machine {machine}; a volume belongs to one machine")]
    Attached {
        /// The volume.
        name: VolumeName,
        /// The machine.
        machine: MachineId,
    },
    /// An entry does not follow the last one.
    #[error("entry {seq} of job {job} does not follow entry {last}")]
    EntryOutOfOrder {
        /// The job.
        job: JobId,
        /// Number of the entry.
        seq: u64,
        /// Number of the last one.
        last: u64,
    },
}

impl ChangeRefused {
    /// The kind of refusal.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoMachine(_) | Self::NoVolume(_) | Self::NoJob(_) => ErrorCode::NotFound,
            Self::MachineNameTaken(_) | Self::MachineHere(_) | Self::VolumeHere(_) | Self::JobThere(_) => {
                ErrorCode::AlreadyExists
            }
            Self::Held { .. } | Self::Arriving(_) | Self::Drained(_) | Self::LeaseGiven(_) => ErrorCode::Busy,
            Self::MachineHandedOver { .. } => ErrorCode::HandedOver,
            Self::NotHeld { .. }
            | Self::NotDrained(_)
            | Self::Doomed(_)
            | Self::MayNotStart(_)
            | Self::StillRuns(_)
            | Self::Ownership { .. }
            | Self::JobNotOver(_)
            | Self::Attached { .. } => ErrorCode::Conflict,
            Self::EntryOutOfOrder { .. } => ErrorCode::Internal,
        }
    }
}
