//! The directory: which workers there are and which machines they have, as one worker has heard it.

use crate::{Capacity, Cordon, Labels, Mapping, RegionName, Room, WorkerName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

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
    /// By what it hears of the others, as [`HearsBy`] is written; none if its agent does not say so yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hears_by: Option<String>,
}

/// By what a worker hears of the others when they have news.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum HearsBy {
    /// By an open request to each of them.
    #[default]
    Requests,
    /// By datagrams that they send each other.
    Gossip,
    /// By what lies in a bucket of NATS servers.
    Nats {
        /// The bucket's name.
        bucket: String,
    },
}

impl fmt::Display for HearsBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests => f.write_str("open requests"),
            Self::Gossip => f.write_str("gossip"),
            Self::Nats { bucket } => write!(f, "the NATS bucket {bucket}"),
        }
    }
}

/// How a worker hears of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hears {
    /// By what.
    #[serde(flatten)]
    pub by: HearsBy,
    /// How long ago what others keep was last to be had, in milliseconds; none where nobody keeps it, or if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_ms_ago: Option<u64>,
    /// Why it is not to be had, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// How much of it was no member's word and was ignored, since the agent began.
    #[serde(default)]
    pub ignored: u64,
}

/// What one worker has heard of all. It is a cache: whoever acts asks the owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryView {
    /// Whose view it is.
    pub of: WorkerName,
    /// How it hears of the others.
    #[serde(default)]
    pub hears: Hears,
    /// What keeps news from being heard at once, each in one sentence. They are asked for all the same, only later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
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
    /// Whether its agent is there, by what is heard; none where that is not said, or not to be had now.
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
