//! What a worker tells about itself.

use crate::{Capacity, DriverInfo, DriverKind, Labels, RegionName, WorkerName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::PathBuf;

/// Version of the calls in this crate. Two agents move machines between each other only if theirs are equal.
pub const API_VERSION: u32 = 1;

/// What is asked of a worker about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskWorker {
    /// The one driver to ask for what it can, as `?driver=qemu`; none: all of them.
    #[serde(default)]
    pub driver: Option<DriverKind>,
}

/// A worker and its agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// The worker's name.
    pub name: WorkerName,
    /// [`API_VERSION`] of its agent.
    pub api_version: u32,
    /// [`crate::SPEC_VERSION`] of its agent.
    #[serde(default = "spec_version_first")]
    pub spec_version: u32,
    /// Version of the program.
    pub program_version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// When the agent started, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// Where the agent keeps everything.
    pub state_dir: PathBuf,
    /// The address the agent listens on.
    pub listen: String,
    /// How much room the worker has for volumes.
    pub room: Room,
    /// The processors and the memory that its host has, whatever of them is taken; none if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has: Option<Capacity>,
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionName>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Whether nothing is to come here, by the word of a person or of a drain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<Cordon>,
    /// Which drivers can run machines here, and why others cannot. An agent that does not tell knows only `process`.
    #[serde(default)]
    pub drivers: Vec<DriverInfo>,
    /// Whether volumes in files of this worker can have direct I/O.
    #[serde(default)]
    pub direct_io: bool,
    /// The most that all hydrations together fetch in the background a second; none: as much as goes.
    #[serde(default)]
    pub budget_bytes_per_s: Option<NonZeroU64>,
    /// The same of those that read from one other worker.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pair_budgets_bytes_per_s: BTreeMap<WorkerName, NonZeroU64>,
    /// Machines this worker runs or may run.
    pub machines: u64,
    /// Copies of volumes on this worker, of any ownership.
    pub volumes: u64,
    /// The other workers it knows.
    pub peers: Vec<PeerInfo>,
    /// What is wrong with its disks, each in one sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
}

/// A worker takes no machines, until that is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// Why, in the words of whoever asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Asks for a worker to take no machines from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskCordon {
    /// Why, for those who meet it; at most [`AskCordon::REASON_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl AskCordon {
    /// The longest reason, in bytes.
    pub const REASON_BYTES_MAX: usize = 200;
}

/// What an agent understands that does not tell.
fn spec_version_first() -> u32 {
    1
}

/// Another worker, as configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its name.
    pub name: WorkerName,
    /// Where its agent listens.
    pub url: String,
}

/// Room for volumes on a worker, in bytes.
///
/// Volumes are sparse, so room counts bytes in use, not sizes: a volume takes what its store occupies, a clone
/// takes what it will occupy once hydrated, a reservation takes what was said to be in use on the source. What
/// guests will write later is not set aside; a full disk reaches the guest as `ENOSPC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Configured limit for all volumes together (`room_bytes`), if any. No single volume may be larger than it.
    pub limit_bytes: Option<u64>,
    /// Bytes that volumes occupy now.
    pub used_bytes: u64,
    /// Bytes of them that copies occupy which were handed over: these go once nobody needs them any more.
    #[serde(default)]
    pub handed_over_bytes: u64,
    /// Bytes promised to clones and reservations and not yet occupied.
    pub promised_bytes: u64,
    /// Bytes that are left for further volumes.
    pub free_bytes: u64,
}
