//! How workers see to it that no two machines of one group are down for a move at the same time: what a mover asks of each of
//! them before it stops a machine. All calls are idempotent and keyed by the lease.

use crate::{GroupName, JobId, LeaseId, MachineName, WorkerName};
use serde::{Deserialize, Serialize};

/// That one machine of a group may be down for its move, and no other of that group. One attempt of one move has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The lease: another attempt of the same move has another one.
    pub id: LeaseId,
    /// The move.
    pub job: JobId,
    /// The worker that leads it, and that knows whether it is over.
    pub from: WorkerName,
    /// The machine that moves.
    pub machine_name: MachineName,
}

/// Asks a worker to let no machine of a group down while one of them moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskLease {
    /// The worker that is meant. Another one that is reached by mistake refuses.
    pub at: WorkerName,
    /// The group.
    pub group: GroupName,
    /// What is asked for.
    pub lease: Lease,
    /// Whether it is given also while another move has it whose worker does not answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// What a worker says to that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum LeaseAnswer {
    /// It is given; durable when answered.
    Given,
    /// Another move has it.
    Held {
        /// That one.
        by: Lease,
        /// What was heard instead of an answer when that move's worker was asked whether it still needs it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        silent: Option<String>,
    },
}

/// Tells a worker that a lease is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndLease {
    /// The group.
    pub group: GroupName,
    /// The lease. Nothing changes if another one is given by now.
    pub id: LeaseId,
}

/// Asks the worker that leads a move whether that still needs a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskNeed {
    /// The move.
    pub job: JobId,
    /// The lease.
    pub id: LeaseId,
}

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseNeed {
    /// Whether it does. What it does not need any more it never needs again.
    pub needed: bool,
}
