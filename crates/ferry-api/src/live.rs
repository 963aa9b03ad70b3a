//! Moving the memory of a machine that runs.

use crate::JobId;
use serde::{Deserialize, Serialize};

/// What counts of a worker, or of a machine that runs there, when memory is to move to another worker or from one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveFacts {
    /// The program that runs the machine, with its exact version: no other one is sure to understand its memory.
    pub program: String,
    /// Whether it runs on KVM, or could.
    pub kvm: bool,
    /// The host's CPU, if it may be seen by a machine on KVM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Whether memory comes and goes over mutual TLS.
    pub tls: bool,
    /// Whether nobody but this host can come to where memory arrives.
    pub local: bool,
}

/// Asks a target to make a machine that waits for its memory. It can do nothing with its disks before they are the target's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The move.
    pub job: JobId,
    /// How the machine runs on the source.
    pub facts: LiveFacts,
}

/// How a machine whose memory was to come began on the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrival {
    /// It goes on with its memory.
    Live,
    /// Its memory was lost after the hand-over; it was started anew from its disks.
    Rebooted,
}
