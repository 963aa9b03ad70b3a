//! What one agent asks of another for a move. All calls are idempotent and keyed by the job.

use crate::{
    Arrival, Desired, Generation, HookRun, JobId, Machine, MachineId, MachineName, MachineSpec, PaceVolume,
    Volume, VolumeId, VolumeKey, VolumeName, WorkerName,
};
use serde::{Deserialize, Serialize};

/// Asks a target to set aside room for a machine (nothing is created yet).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserve {
    /// The move.
    pub job: JobId,
    /// The source.
    pub from: WorkerName,
    /// [`crate::API_VERSION`] of the source's agent.
    pub api_version: u32,
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub machine_name: MachineName,
    /// Its generation on the target, one above the source's.
    pub machine_generation: Generation,
    /// What it runs.
    pub spec: MachineSpec,
    /// When it was created, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// Its disks.
    pub volumes: Vec<ReserveVolume>,
    /// Whether the target takes the machine back to the source if its health check fails there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undo_unhealthy: bool,
}

/// Asks a target to keep room for a machine for a while: what its move will reserve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// What the move will ask for.
    pub reserve: Reserve,
    /// Also against rules of placement.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

impl Hold {
    /// For how long room is kept, in milliseconds.
    pub const FOR_MS: u64 = 60_000;
}

/// A disk that is to cross.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReserveVolume {
    /// The volume.
    pub id: VolumeId,
    /// Its name in the machine.
    pub name: VolumeName,
    /// Its generation on the target, one above the source's.
    pub generation: Generation,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Unit of copying in bytes.
    pub region_bytes: u32,
    /// Bytes in use on the source: what the clone will come to occupy.
    pub bytes_in_use: u64,
    /// Whether its bytes pass by the page cache, there as here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
    /// The generation that the source's copy was made from, while that knows exactly what has changed since. A copy of that
    /// generation that is still kept somewhere gives all the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born_from: Option<Generation>,
    /// The worker that serves that generation, as long as the source's copy still reads from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<WorkerName>,
}

/// Asks a target to make the clones and start their servers; they stand by and serve nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepare {
    /// The move.
    pub job: JobId,
    /// One for each reserved volume.
    pub volumes: Vec<PrepareVolume>,
}

/// A clone to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrepareVolume {
    /// The volume.
    pub id: VolumeId,
    /// NBD URI where the source's copy can be read once it is sealed.
    pub source: String,
    /// The pace that was set for it on the source.
    #[serde(default, skip_serializing_if = "PaceVolume::changes_nothing")]
    pub pace: PaceVolume,
}

/// Asks a target to copy into its clones while the machine still runs on the source, or, once that is sealed, to keep what is
/// right of that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precopy {
    /// The move.
    pub job: JobId,
    /// One for each reserved volume.
    pub volumes: Vec<PrecopyVolume>,
}

/// A clone that is copied into ahead of the hand-over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrecopyVolume {
    /// The volume.
    pub id: VolumeId,
    /// NBD URI of the source's copy: the live one for a round, else the sealed one.
    pub source: String,
    /// The mark that was set on the source for this round. None: the source is sealed; keep what it says not to have changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u64>,
    /// The mark since which changes are asked for: that of the round before. None: copy everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
}

/// Tells a target that it owns machine and volumes from now on: the source's journal has handed them over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activate {
    /// The move.
    pub job: JobId,
    /// Whether the machine shall run: it may have ended by itself, for good, after it was reserved.
    pub desired: Desired,
    /// One for each reserved volume.
    pub volumes: Vec<ActivateVolume>,
}

/// A clone that becomes the volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivateVolume {
    /// The volume.
    pub id: VolumeId,
    /// Its generation on the target.
    pub generation: Generation,
    /// NBD URI where the sealed copy is exported now.
    pub source: String,
    /// What the clone kept of what was copied ahead is right: the sealed copy was not written since it told that. If not, the
    /// clone gives it up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub holds: bool,
}

/// How a move stands on the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Crossing {
    /// The move.
    pub job: JobId,
    /// The source.
    pub from: WorkerName,
    /// The machine.
    pub machine: MachineId,
    /// How far it is.
    pub state: CrossingState,
    /// When the target came to own the machine, in milliseconds since 1970.
    pub activated_at_ms: Option<u64>,
    /// When its first process started on the target, in milliseconds since 1970.
    pub booted_at_ms: Option<u64>,
    /// Where the machine's memory is to be sent, as `HOST:PORT`, while a machine waits for it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_to: Option<String>,
    /// How it began, if its memory was to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival: Option<Arrival>,
    /// What came of telling it that it has arrived; none: it was not told yet, or wants no such thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_move: Option<HookRun>,
    /// The machine on the target, once it is the target's.
    pub machine_now: Option<Machine>,
    /// The clones.
    pub volumes: Vec<CrossingVolume>,
    /// How the machine was found to be, of a move that is undone if it is not well; none before that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
}

/// What a target has found of a machine that arrived, and done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "judged", rename_all = "snake_case")]
pub enum Judged {
    /// It passed its health check; it stays.
    Well {
        /// When that was noted, in milliseconds since 1970.
        at_ms: u64,
    },
    /// It did not, and is taken back.
    TakenBack {
        /// The move back, on the worker that was the target.
        job: JobId,
        /// What was wrong with it, in one sentence.
        why: String,
        /// When that was decided, in milliseconds since 1970.
        at_ms: u64,
    },
    /// It stays, since it was not for this move to decide any more.
    Stays {
        /// Why, in one sentence.
        why: String,
        /// When that was decided, in milliseconds since 1970.
        at_ms: u64,
    },
}

/// How far a move is on the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrossingState {
    /// Room is set aside.
    Reserved,
    /// Clones stand by.
    Prepared,
    /// The target owns machine and volumes.
    Activated,
    /// The machine was started (or it is not wanted to run).
    Booted,
    /// Nothing is owed any more: the clones are whole and need no source.
    Settled,
    /// It was undone; nothing is left of it.
    Released,
}

/// A clone of a move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossingVolume {
    /// Which copy.
    pub key: VolumeKey,
    /// How it stands; none before it is prepared and after it was deleted.
    pub volume: Option<Volume>,
}

/// Where a sealed copy can be read now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeExport {
    /// Which copy.
    pub key: VolumeKey,
    /// Its NBD URI.
    pub uri: String,
}
