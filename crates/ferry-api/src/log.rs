//! What machines wrote: pieces of their logs, by place.

use crate::WorkerName;
use serde::{Deserialize, Serialize};

/// Asks for what a machine wrote on this worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskLog {
    /// The place to read from, in bytes since its first output here; the oldest that is kept if not given.
    #[serde(default)]
    pub after: Option<u64>,
    /// At most so many of the last lines, if no place is given.
    #[serde(default)]
    pub lines: Option<u64>,
    /// How long to wait for more if there is nothing yet, in milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
}

/// A piece of what a machine wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineLog {
    /// The worker on which it wrote this. What it wrote elsewhere stayed there.
    pub worker: WorkerName,
    /// What it wrote; what is no UTF-8 is replaced.
    pub text: String,
    /// Its place. Later than asked for if what is between is not kept any more.
    pub from: u64,
    /// The place after it: where to go on.
    pub next: u64,
    /// Where all that was written ends.
    pub end: u64,
    /// The worker that has the machine now, if it has moved away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_to: Option<WorkerName>,
}
