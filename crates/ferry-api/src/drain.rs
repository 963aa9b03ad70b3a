//! Emptying a worker: what is asked for, and the plan of it.

use crate::{Expected, Generation, GroupName, Job, MachineId, MachineName, MachineRef, MoveMode, WorkerName};
use serde::{Deserialize, Serialize};
use std::num::{NonZeroU32, NonZeroU64};

/// Asks for a worker to be emptied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskDrain {
    /// Only these machines; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<MachineRef>,
    /// Not these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<MachineRef>,
    /// What of each machine crosses before it stops.
    #[serde(default)]
    pub mode: MoveMode,
    /// So many moves at once; as many as the worker's configuration says if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<NonZeroU32>,
    /// So many of them at once to one target; no limit of its own if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel_per_link: Option<NonZeroU32>,
    /// Bytes a second that all of them together may take of the network; as fast as it goes if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_s: Option<NonZeroU64>,
    /// The worker is to be empty so many milliseconds after the drain begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Also machines of groups of which a worker that does not answer may have one down for a move, and those for which no worker
    /// keeps their own rules of placement (region, labels, apart): those are broken then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

impl AskDrain {
    /// Whether no machine is to stay: the worker is empty when it is done.
    #[must_use]
    pub fn is_of_all(&self) -> bool {
        self.only.is_empty() && self.except.is_empty()
    }
}

/// Asks for a worker to be emptied by a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartDrain {
    /// What is asked for; with a plan that of the plan.
    #[serde(default)]
    pub ask: AskDrain,
    /// The plan that is to be carried out as it stands, or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<DrainPlan>,
    /// How long the copies that stay behind are kept after nobody needs them, in hours; as configured there if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_hours: Option<u64>,
}

/// What came of that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrainStarted {
    /// The job: the one that was taken on, or the one that does the very same already. None if the plan does not fit the world.
    pub job: Option<Job>,
    /// In what the world is not as the plan says; nothing if a job does it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deviations: Vec<Deviation>,
}

/// Asks the drain of a worker to begin no further move, or to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseDrain {
    /// Whether it begins no further move; those that are under way go on in any case.
    pub paused: bool,
}

/// What a drain would do. Nothing is changed to find out, and nothing is promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainPlan {
    /// [`DrainPlan::FORMAT`] of whoever made it.
    pub format: u32,
    /// The worker that is emptied.
    pub from: WorkerName,
    /// When this was planned, in milliseconds since 1970 by the clock of that worker.
    pub made_at_ms: u64,
    /// What was asked for.
    pub ask: AskDrain,
    /// Its machines, those that move in the order in which they do, those that cannot last.
    pub machines: Vec<PlannedMove>,
    /// Workers that were not reckoned with, since they gave no bid, each with what was heard instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<(WorkerName, String)>,
}

impl DrainPlan {
    /// Version of the plan as a document.
    pub const FORMAT: u32 = 1;

    /// Those that move.
    pub fn moves(&self) -> impl Iterator<Item = &PlannedMove> {
        self.machines.iter().filter(|planned| planned.blocker().is_none())
    }

    /// Those that cannot.
    pub fn blocked(&self) -> impl Iterator<Item = &PlannedMove> {
        self.machines.iter().filter(|planned| planned.blocker().is_some())
    }

    /// Those that are not whole on their targets at the deadline, as far as that is known.
    pub fn late(&self) -> impl Iterator<Item = &PlannedMove> {
        let deadline_ms = self.ask.deadline_ms.unwrap_or(u64::MAX);
        self.moves().filter(move |planned| planned.whole_after_ms.is_some_and(|ms| ms > deadline_ms))
    }

    /// How many waves there are.
    #[must_use]
    pub fn waves(&self) -> u32 {
        self.moves().filter_map(|planned| planned.wave).max().unwrap_or(0)
    }

    /// When all of it is over, in milliseconds after it begins; none where that is not known.
    #[must_use]
    pub fn ends_after_ms(&self) -> Option<u64> {
        self.moves().map(|planned| planned.whole_after_ms).try_fold(0, |latest, ms| Some(latest.max(ms?)))
    }

    /// Bytes that cross.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.moves().map(|planned| planned.bytes_in_use).fold(0, u64::saturating_add)
    }
}

/// A machine in the plan of a drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub machine_name: MachineName,
    /// Its generation here.
    pub generation: Generation,
    /// Its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// Where it goes; none if it cannot.
    pub to: Option<WorkerName>,
    /// How it goes.
    pub mode: MoveMode,
    /// Why it goes like that, in one sentence.
    pub why: String,
    /// Its turn, from 1: a wave begins when the one before it is over, and never holds two machines of one group. None if it
    /// cannot move.
    pub wave: Option<u32>,
    /// How long it would be down.
    pub interruption: Expected,
    /// Bytes that its volumes have in use here: the most that crosses.
    pub bytes_in_use: u64,
    /// Bytes of them that cross before it stops.
    pub bytes_ahead: u64,
    /// When all of it is there, at the latest, in milliseconds after the drain begins; none where nothing is known of the network.
    pub whole_after_ms: Option<u64>,
    /// Why it cannot move now, each in one sentence; none: it can.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<String>,
    /// What `force` costs it, each in one sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<String>,
}

impl PlannedMove {
    /// Why it cannot move, the first thing first, if it cannot.
    #[must_use]
    pub fn blocker(&self) -> Option<&str> {
        self.blockers.first().map(String::as_str)
    }
}

/// In what the world is not as a plan says, of a drain or to make workers alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deviation {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub machine_name: MachineName,
    /// Of which kind.
    pub kind: DeviationKind,
    /// What, in one sentence.
    pub what: String,
}

/// Kinds of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviationKind {
    /// The machine is not here any more.
    Gone,
    /// The machine is here and the plan does not know it.
    Came,
    /// It went and came back since.
    ChangedHands,
    /// It cannot move now, and could.
    Blocked,
    /// Its target gives no bid.
    TargetSilent,
    /// Its target has become one that it cannot go to.
    TargetRefuses,
    /// It goes in another way.
    OtherMode,
    /// It has much more in use.
    Grew,
    /// Its move would not bring the two workers closer together any more.
    HelpsNoMore,
}
