//! The directory: which workers there are and which machines they have, as one worker has heard it.

use crate::{Capacity, Cordon, Labels, Mapping, RegionName, Room, WorkerName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// In which state which worker's map of machines is: in which life of its agent, and which revision.
pub type Digest = BTreeMap<WorkerName, (u64, u64)>;

/// What a worker says of itself, beside its machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AboutWorker {
    /// Version of its agent's program.
    pub program_version: String,
    /// [`crate::SPEC_VERSION`] of its agent.
    pub spec_version: u32,
    /// How much room it has for volumes.
    pub room: Room,
    /// What all its machines together may take.
    pub capacity: Capacity,
    /// Its load: processors that were busy or waited for, in thousandths of one, on average over the last minute.
    pub busy_cpu_millis: u64,
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionName>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Whether nothing is to come there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<Cordon>,
    /// What is wrong with it, each in one sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
}

/// What one worker has heard of all. It is a cache: whoever acts asks the owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryView {
    /// Whose view it is.
    pub of: WorkerName,
    /// The workers, by name; the one that is asked is among them.
    pub workers: Vec<KnownWorker>,
    /// The machines, each once, in the order of their ids.
    pub machines: Vec<KnownMachine>,
}

/// What is known of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownWorker {
    /// Its name.
    pub name: WorkerName,
    /// How long ago it last said something, in milliseconds; none if it never did.
    pub heard_ms_ago: Option<u64>,
    /// Whether its agent is there, by the gossip of the workers; none where they do not gossip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_there: Option<bool>,
    /// Whether that is recent enough to be relied upon.
    pub is_fresh: bool,
    /// How many machines it has, as far as is known.
    pub machines: u64,
    /// What it said of itself then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<AboutWorker>,
}

/// What is known of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMachine {
    /// Where it is: the highest generation that somebody told of.
    #[serde(flatten)]
    pub mapping: Mapping,
    /// Who told that.
    pub told_by: WorkerName,
    /// How old that is, in milliseconds.
    pub heard_ms_ago: u64,
    /// Whether its owner has said so itself, and not too long ago.
    pub is_certain: bool,
}
