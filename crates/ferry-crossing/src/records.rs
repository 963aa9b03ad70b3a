//! What the records hold, as types. Each is stored as JSON in its row, beside the columns that SQLite checks.

use ferry_api::{
    Arrival, Cordon, CrossingState, Desired, Exit, Generation, GroupName, HookRun, JobId, JobKind, Judged,
    Lease, MachineId, MachineName, MachineSpec, MachineVolume, Ownership, Reserve, VolumeId, VolumeKey,
    VolumeName, WorkerName,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::PathBuf;

/// What was set for the worker as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// The most that all hydrations together fetch in the background a second; none: as much as goes.
    #[serde(default)]
    pub budget_bytes_per_s: Option<NonZeroU64>,
    /// The same of those that read from one other worker.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pair_budgets_bytes_per_s: BTreeMap<WorkerName, NonZeroU64>,
    /// Whether it takes no machines, by the word of a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<Cordon>,
    /// The drain that empties it, until that ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainRecord>,
    /// Which move may have a machine of a group down, as far as this worker is asked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub leases: BTreeMap<GroupName, Lease>,
}

/// A drain that is under way. While it is there, the worker takes no machines, whatever a person says of that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRecord {
    /// The job.
    pub job: JobId,
    /// When it was taken on, in milliseconds since 1970.
    pub since_ms: u64,
    /// Whether it begins no further move.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

impl WorkerRecord {
    /// Whether it takes no machines, by the word of a person or of a drain.
    #[must_use]
    pub fn cordon_now(&self) -> Option<Cordon> {
        let by_drain = |drain: &DrainRecord| {
            let paused = if drain.paused { ", which is paused" } else { "" };
            let reason = format!("it is drained by job {}{paused}", drain.job);
            Cordon { since_ms: drain.since_ms, reason: Some(reason) }
        };
        self.drain.as_ref().map(by_drain).or_else(|| self.cordon.clone())
    }
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// Its id.
    pub id: MachineId,
    /// Its name.
    pub name: MachineName,
    /// What it runs.
    pub spec: MachineSpec,
    /// Its disks, at the generations that this worker has or had them.
    pub volumes: Vec<MachineVolume>,
    /// What its owner wants.
    pub desired: Desired,
    /// How often it has changed hands.
    pub generation: Generation,
    /// Whether it is ours.
    pub standing: Standing,
    /// The job that holds it. No other job and no person may change it meanwhile.
    pub job: Option<JobId>,
    /// Whether that job keeps it down: it does not run whatever is desired.
    pub halted: bool,
    /// Whether it is being destroyed: no job takes it and nobody starts it any more.
    #[serde(default)]
    pub doomed: bool,
    /// Its first process, when it was last known to run.
    pub process: Option<ProcessMark>,
    /// Whether the memory of that process moves, so that it is neither ended nor taken for one that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryMoves>,
    /// How it ended the last time.
    pub last_exit: Option<Exit>,
    /// How long its last start here took until its first process ran, in milliseconds; none before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ms: Option<u64>,
    /// When it was created, in milliseconds since 1970.
    pub created_at_ms: u64,
}

impl MachineRecord {
    /// Whether it is to run on this worker now.
    #[must_use]
    pub fn shall_run(&self) -> bool {
        let is_wanted = self.desired == Desired::Running && !self.halted;
        self.standing == Standing::Ours && is_wanted && !self.lost_its_memory()
    }

    /// Whether it came with its memory and that was lost on the way. Then it may still run where it came from, so it is not
    /// started anew before that worker, which has seen to it that it does not, or a person says so.
    #[must_use]
    pub fn lost_its_memory(&self) -> bool {
        self.memory == Some(MemoryMoves::Here) && self.process.is_none()
    }

    /// The copies of its disks on this worker.
    pub fn volume_keys(&self) -> impl Iterator<Item = VolumeKey> + '_ {
        self.volumes.iter().map(|v| VolumeKey { id: v.volume, generation: v.generation })
    }
}

/// Where the memory of a machine moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryMoves {
    /// Away: the job that keeps the machine down does so by pausing it, and its process holds the memory until the machine goes
    /// on at the target, or here.
    Away,
    /// It has left, or never will: its process is ended without being asked.
    Left,
    /// Here: its process waits for it. Without a process it was lost.
    Here,
}

/// Whether a machine is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// This worker owns it.
    Ours,
    /// Another worker owns it from the next generation on. Never to be started here again at this generation.
    HandedOver {
        /// That worker.
        to: WorkerName,
        /// The move.
        job: JobId,
    },
}

/// A process that is known for sure, also when its number was given to another one meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    /// Its number.
    pub pid: u32,
    /// Its start time as in `/proc/PID/stat`, in clock ticks since the host booted.
    pub start_ticks: u64,
    /// The host's boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// When it was started, in milliseconds since 1970.
    pub started_at_ms: u64,
}

impl ProcessMark {
    /// Whether both are of the same process, whenever they were made.
    #[must_use]
    pub fn is_of_the_same(&self, other: &Self) -> bool {
        (self.pid, self.start_ticks, &self.boot_id) == (other.pid, other.start_ticks, &other.boot_id)
    }
}

/// A copy of a volume on this worker. Its directory is `volumes/ID@GENERATION`, so that a volume that comes back
/// never meets what it left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// The volume.
    pub id: VolumeId,
    /// The generation of this copy.
    pub generation: Generation,
    /// Its name.
    pub name: VolumeName,
    /// The machine whose disk it is.
    pub machine: Option<MachineId>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Unit of copying in bytes.
    pub region_bytes: u32,
    /// What this worker may do with it.
    pub ownership: Ownership,
    /// Where its remote blocks come from, as long as it needs that.
    pub source: Option<SourceRecord>,
    /// A copy of an earlier generation that gives what its source says has not changed since, as long as it needs that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseRecord>,
    /// Whether its own hydration rests, since its reader has a base: it would copy for nobody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rests: bool,
    /// Whether its directory was made. Only one that was not may be made: a directory that is missing later is
    /// a loss, which no empty one may hide.
    pub made: bool,
    /// Bytes its store is expected to occupy once it is hydrated; 0 for a volume without source, and for one whose
    /// source does not tell.
    pub bytes_expected: u64,
    /// The block device that holds its bytes; none: a file in its directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<PathBuf>,
    /// Whether its bytes pass by the page cache.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
    /// How far its file system is, if it was created empty to have one. Of all other volumes it is not known whether
    /// they hold something, and none is ever made on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemMark>,
    /// Clones that read a snapshot of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forks: Vec<ForkRecord>,
    /// When this copy was made, in milliseconds since 1970.
    pub created_at_ms: u64,
}

/// How far the file system of a volume is that was created empty to have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilesystemMark {
    /// Nothing was written to it yet.
    Blank,
    /// One is being made, or that was cut off; no machine has had it yet.
    Making,
    /// It was made, and is never made again.
    Made,
}

/// A clone that reads a snapshot of a copy; the snapshot is named after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkRecord {
    /// The clone.
    pub id: VolumeId,
    /// Its name when it was made.
    pub name: VolumeName,
    /// The worker that has it; none: this one.
    pub to: Option<WorkerName>,
}

impl VolumeRecord {
    /// Which copy this is.
    #[must_use]
    pub fn key(&self) -> VolumeKey {
        VolumeKey { id: self.id, generation: self.generation }
    }
}

/// Where the remote blocks of a clone come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Its URI, as last known.
    pub uri: String,
    /// The worker that serves it; that one's agent knows where it is now.
    pub worker: Option<WorkerName>,
}

/// A copy of an earlier generation beside the source of a clone. Nothing depends on it: its source gives all that it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// The generation of that copy.
    pub generation: Generation,
    /// The worker that has it; none: this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerName>,
}

/// A job of this worker. How it stands is in its journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// The job whose child it is, if that finds its children by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// When it was taken on, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// Whether it has ended, so that nobody has to replay it to know.
    pub finished: bool,
}

/// An entry of a journal.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalRow {
    /// The job.
    pub job: JobId,
    /// Its place, from 1.
    pub seq: u64,
    /// What it says.
    pub entry: serde_json::Value,
}

/// A move of which this worker is the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrossingRecord {
    /// The move.
    pub job: JobId,
    /// How far it is.
    pub state: CrossingState,
    /// What was reserved; none for a move that was released before it was ever reserved here.
    pub reserve: Option<Reserve>,
    /// When this worker came to own the machine, in milliseconds since 1970.
    pub activated_at_ms: Option<u64>,
    /// When its first process started here, in milliseconds since 1970.
    pub booted_at_ms: Option<u64>,
    /// How the machine was found to be here, if the move was to be undone in case that it is not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
    /// The machine that waits for its memory, or has waited for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaited: Option<AwaitedMachine>,
    /// What came of telling it that it has arrived; none: it was not told, or wants no such thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_move: Option<HookRun>,
}

/// A machine that is made before it is this worker's, to wait for its memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitedMachine {
    /// Its first process.
    pub process: ProcessMark,
    /// Where it waits, as `HOST:PORT`; none before it does.
    pub at: Option<String>,
    /// How it began here in the end.
    pub arrival: Option<Arrival>,
}
