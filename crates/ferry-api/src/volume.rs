//! Volumes: disks with an id that never changes and a generation that rises with each hand-over.

use crate::{
    AttachedFrontend, BadRanges, Generation, JobId, LossPolicy, MachineId, Mismatch, StandIn, VolumeId,
    VolumeName, VolumePace, WorkerName,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Unit of copying when nothing else is asked for, in bytes.
pub const REGION_BYTES_DEFAULT: u32 = 1024 * 1024;

/// Asks for a volume that begins as a clone of something that is already there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportVolume {
    /// Its id; a fresh one if not given. Agents choose it when they fork to another worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<VolumeId>,
    /// Name of the volume.
    pub name: VolumeName,
    /// Path of a raw file on the worker (absolute, or as `file://PATH`), or an NBD URI.
    pub source: String,
    /// Size in bytes, if it shall be checked against or smaller than what the source says. The volume has this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Unit of copying in bytes, a power of two; [`REGION_BYTES_DEFAULT`] if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region_bytes: Option<u32>,
    /// The block device on the worker that shall hold its bytes, all for itself (absolute path); what it held is lost.
    /// Without one they lie in a file of the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<PathBuf>,
    /// Whether its bytes pass by the page cache of their worker's system, wherever the volume is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
}

/// Asks for an independent clone of a volume as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForkVolume {
    /// Name of the clone.
    pub name: VolumeName,
    /// The worker that shall have it; none: the one that has the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<WorkerName>,
}

/// A clone that reads a snapshot of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFork {
    /// The clone's id.
    pub id: VolumeId,
    /// Its name when it was made.
    pub name: VolumeName,
    /// The worker that has it.
    pub worker: WorkerName,
    /// Bytes kept for it so far because they were overwritten; none while the volume's server does not answer.
    pub bytes_kept: Option<u64>,
    /// Bytes that it still needs from the source of the volume, which is not detached before; the volume itself does not
    /// need them any more.
    #[serde(default)]
    pub bytes_owed: u64,
    /// Connections that read it.
    pub readers: u32,
}

/// Asks for a larger volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrowVolume {
    /// The size from then on in bytes, a multiple of 512; never less than it has.
    pub size_bytes: u64,
}

/// A copy of a volume on a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Its id, the same on every worker.
    pub id: VolumeId,
    /// Its name.
    pub name: VolumeName,
    /// Generation this copy belongs to.
    pub generation: Generation,
    /// The worker that holds this copy.
    pub worker: WorkerName,
    /// The machine whose disk it is.
    pub machine: Option<MachineId>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Unit of copying in bytes.
    pub region_bytes: u32,
    /// What this worker may do with it.
    pub ownership: Ownership,
    /// Whether its volume server runs.
    pub server: ServerState,
    /// How the volume stands; none while its server does not answer.
    pub phase: Option<VolumePhase>,
    /// Where its remote blocks come from.
    pub source: Option<VolumeSource>,
    /// How far the clone is; none while its server does not answer.
    pub hydration: Option<Hydration>,
    /// How hydration is paced.
    #[serde(flatten)]
    pub pace: VolumePace,
    /// Ways to it beside its NBD socket; empty while its server does not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frontends: Vec<AttachedFrontend>,
    /// What becomes of requests that wait for a source that is away.
    #[serde(default)]
    pub loss_policy: LossPolicy,
    /// NBD URI for the guest, on this worker.
    pub guest_uri: String,
    /// NBD URI for other workers, while the volume is exported.
    pub export_uri: Option<String>,
    /// The block device that holds its bytes; none: a file of the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<PathBuf>,
    /// Whether its bytes pass by the page cache of their worker's system, wherever the volume is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
    /// Bytes the store occupies, on a block device all of the volume's; none while its server does not answer.
    pub store_bytes_allocated: Option<u64>,
    /// What its server cannot write on its disk, and what comes of that, in one sentence; none while all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_trouble: Option<String>,
    /// Connections that read it over the network; none while its server does not answer.
    #[serde(default)]
    pub readers: Option<u32>,
    /// Clones that read a snapshot of it and are not whole yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forks: Vec<VolumeFork>,
    /// How it differs from the copies before it.
    #[serde(flatten)]
    pub lineage: Lineage,
    /// Since when this copy exists, in milliseconds since 1970.
    pub created_at_ms: u64,
}

/// How a copy differs from those before it: what a move of it needs not copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The generation that it was made from, while it is known exactly what has changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born_from: Option<Generation>,
    /// Bytes that may have changed since: what the way back copies at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_changed: Option<u64>,
    /// A copy that gives what has not changed between that generation and its source's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<VolumeBase>,
    /// Its hydration rests: whoever reads it needs from it only what has changed here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rests: bool,
    /// What was copied into it while its machine still ran on its source, until it is handed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precopied: Option<Precopied>,
}

/// How copying ahead of a hand-over stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Precopied {
    /// What the source says not to have changed since this mark of its is held; none: nothing is held yet.
    pub held_since: Option<u64>,
    /// Whether a round is under way.
    pub copies: bool,
    /// Bytes that this round, or the last one, is about.
    pub bytes_to_copy: u64,
    /// Bytes of them that were copied.
    pub bytes_copied: u64,
    /// Why the last round ended before it was done, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// A copy of an earlier generation that a clone reads beside its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeBase {
    /// The generation of that copy.
    pub generation: Generation,
    /// The worker that has it; none: the clone's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerName>,
    /// Whether it is asked for what has not changed; none while the clone's server does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_used: Option<bool>,
    /// The last thing that went wrong with it, if anything did since the last connection. Its source gives all that it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// What a worker may do with its copy of a volume.
///
/// ```text
/// target  Reserved ─▶ Prepared ─▶ Ours ─▶ Sealed ─▶ HandedOver ─▶ Retired ─▶ (deleted)   source
///             └───────────┴─▶ (deleted)    ▲─────────┘ undo
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Ownership {
    /// Room is set aside for a volume that is to come with `job`; there is no copy yet.
    Reserved {
        /// The move.
        job: JobId,
        /// The worker it comes from.
        from: WorkerName,
    },
    /// An empty clone stands by for `job`; nobody may write it.
    Prepared {
        /// The move.
        job: JobId,
        /// The worker it comes from.
        from: WorkerName,
    },
    /// This worker owns the volume and its machine may write it.
    Ours,
    /// `job` sealed it on the way to another worker; may still be taken back.
    Sealed {
        /// The move.
        job: JobId,
    },
    /// Another worker owns the volume from the next generation on. Never to be written here again.
    HandedOver {
        /// The owner of the next generation.
        to: WorkerName,
        /// The move that handed it over.
        job: JobId,
    },
    /// Nobody reads it any more; kept as a base until a time, then deleted.
    Retired {
        /// The owner of the next generation.
        to: WorkerName,
        /// When it is deleted, in milliseconds since 1970.
        until_ms: u64,
    },
}

/// Whether the volume server of a copy runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ServerState {
    /// None is needed.
    NotNeeded,
    /// It answers.
    Running {
        /// Its process id.
        pid: u32,
    },
    /// It should run and does not answer.
    Down {
        /// Why, in one sentence.
        reason: String,
    },
}

/// Whether a volume serves its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumePhase {
    /// Serves nobody.
    Standby,
    /// Serves its guest.
    Open,
    /// Unchangeable at its generation.
    Sealed,
}

/// How the link of a clone to its source stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSource {
    /// Its URI.
    pub uri: String,
    /// The worker that serves it, if it is one of ours.
    pub worker: Option<WorkerName>,
    /// Whether the clone is connected to it now; none while the volume's server does not answer.
    pub connected: Option<bool>,
    /// The last thing that went wrong with it, if anything did since the last connection.
    pub last_error: Option<String>,
    /// It was a snapshot of another volume, which has ended before this fork of it was whole, and will not come back.
    #[serde(default)]
    pub is_gone: bool,
    /// What it gave with a wrong checksum three times or more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mismatches: Vec<Mismatch>,
    /// What it cannot give.
    #[serde(default)]
    pub bad: BadRanges,
    /// For how long it has answered nothing, in milliseconds; none while it is there.
    #[serde(default)]
    pub away_ms: Option<u64>,
    /// Requests of the machine that wait for it.
    #[serde(default)]
    pub requests_waiting: u64,
    /// The longest time in the last 10 to 20 seconds in which it has sent nothing although it was asked, in milliseconds; none if
    /// that was not long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_ms: Option<u64>,
    /// Those that stand in for it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<StandIn>,
}

/// How far a clone has become local.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hydration {
    /// Nothing is remote any more, durably.
    pub complete: bool,
    /// Size of the volume, in bytes.
    pub bytes_total: u64,
    /// Bytes that are local (fetched, written by the guest, or known to be zero).
    pub bytes_local: u64,
    /// Bytes that are still remote.
    pub bytes_remote: u64,
    /// Bytes of remote blocks that hold data, as far as the source has been asked: what is still to copy.
    pub bytes_to_copy: u64,
    /// Bytes that crossed from the source.
    pub bytes_fetched: u64,
    /// Bytes that came from its base instead.
    #[serde(default)]
    pub bytes_from_base: u64,
    /// Bytes that never crossed because they are zero.
    pub bytes_zero: u64,
    /// Fetched bytes whose checksum was compared with the source's.
    pub bytes_verified: u64,
    /// Bytes that nobody has any more, because the source was given up; zero unless the guest wrote them since.
    #[serde(default)]
    pub bytes_abandoned: u64,
    /// Guest reads that had to wait for the source.
    pub cold_reads: u64,
    /// Fetches that failed; each is tried again.
    pub fetch_errors: u64,
    /// Fetches whose checksum was wrong; each is fetched again.
    pub checksum_errors: u64,
    /// Bytes a second that arrived lately.
    pub rate_bytes_per_s: u64,
}
