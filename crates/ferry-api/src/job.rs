//! Jobs: durable pieces of work, each a line of steps in a journal.

use crate::{JobId, MachineId, MachineName, MachineRef, NameError, WorkerName};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Asks for a machine to cross to another worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartMove {
    /// The machine.
    pub machine: MachineRef,
    /// The target.
    pub to: MoveTo,
    /// How long the copy on the source is kept after nobody needs it, in hours; as configured there if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_hours: Option<u64>,
    /// It does not begin before that time, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    /// It does not begin before so many milliseconds have passed by the source's clock; `at_ms` goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
    /// What is not handed over so many milliseconds after the move is due is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_ms: Option<u64>,
    /// What crosses before the machine stops.
    #[serde(default)]
    pub mode: MoveMode,
    /// Whether the target takes the machine back here, with all that it wrote, if its health check fails there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undo_unhealthy: bool,
    /// Whether it passes workers that do not answer and may have a machine of its group that is down for a move.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Where a machine is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MoveTo {
    /// To whichever worker fits it best.
    Auto,
    /// To this one.
    Worker(WorkerName),
}

impl MoveTo {
    /// The word for [`MoveTo::Auto`], which is therefore no name of a worker.
    pub const AUTO: &'static str = "auto";
}

impl From<WorkerName> for MoveTo {
    fn from(worker: WorkerName) -> Self {
        Self::Worker(worker)
    }
}

impl FromStr for MoveTo {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == Self::AUTO { Ok(Self::Auto) } else { text.parse().map(Self::Worker) }
    }
}

impl TryFrom<String> for MoveTo {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<MoveTo> for String {
    fn from(to: MoveTo) -> Self {
        match to {
            MoveTo::Auto => MoveTo::AUTO.to_owned(),
            MoveTo::Worker(worker) => worker.to_string(),
        }
    }
}

/// What of a machine's disks crosses before it stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveMode {
    /// Nothing: it stops at once, and its disks follow.
    Cold,
    /// All that it does not write again meanwhile: it is copied in rounds while the machine runs. Where that cannot be, the
    /// move is a cold one, and says why.
    Warm,
    /// Warm where that can be and pays, else cold; the move says why.
    #[default]
    Auto,
    /// Its memory as well: it is paused for a moment and goes on at the target. Refused where that cannot be.
    Live,
}

impl MoveMode {
    /// What a job means that does not say: it is of before there was another one.
    #[must_use]
    pub const fn unsaid() -> Self {
        Self::Cold
    }

    /// Whether the machine moves with its memory.
    #[must_use]
    pub fn is_live(&self) -> bool {
        *self == Self::Live
    }

    /// Whether nothing crosses before the machine stops.
    #[must_use]
    pub fn is_cold(&self) -> bool {
        *self == Self::Cold
    }
}

impl StartMove {
    /// A move at once, with all the time it needs.
    #[must_use]
    pub fn new(machine: MachineRef, to: MoveTo) -> Self {
        Self {
            machine,
            to,
            retention_hours: None,
            at_ms: None,
            after_ms: None,
            within_ms: None,
            mode: MoveMode::default(),
            undo_unhealthy: false,
            force: false,
        }
    }
}

/// Asks for a machine to be taken back to the worker that it came here from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UndoMove {
    /// The machine.
    pub machine: MachineRef,
    /// The move that is meant; refused if the machine has moved on since. None: the one that brought it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<JobId>,
    /// As in [`StartMove`], for the copy that the way back leaves here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_hours: Option<u64>,
}

/// Asks for the move that a machine is about to make to be undone before it is handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelMove {
    /// The machine.
    pub machine: MachineRef,
}

/// Asks for several machines to cross to another worker, as children of one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartMoves {
    /// The machines; from 1 to [`StartMoves::MACHINES_MAX`].
    pub machines: Vec<MachineRef>,
    /// The target.
    pub to: WorkerName,
    /// As in [`StartMove`], for each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_hours: Option<u64>,
    /// As in [`StartMove`], for each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    /// As in [`StartMove`], for each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
    /// As in [`StartMove`], for each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_ms: Option<u64>,
    /// As in [`StartMove`], for each of them.
    #[serde(default)]
    pub mode: MoveMode,
    /// As in [`StartMove`], for each of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undo_unhealthy: bool,
    /// As in [`StartMove`], for each of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

impl StartMoves {
    /// The most machines of one job.
    pub const MACHINES_MAX: usize = 256;
}

/// A job as its journal tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// How it stands.
    pub state: JobState,
    /// Its steps in order, also those not begun.
    pub steps: Vec<JobStep>,
    /// Why it failed, unwinds, waits or is parked, in one sentence.
    pub reason: Option<String>,
    /// How far the bytes are, while they follow.
    pub progress: Option<Progress>,
    /// What it waits for before it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// When it is undone unless it is handed over, in milliseconds since 1970; none when nothing is to be undone any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_at_ms: Option<u64>,
    /// The job whose child it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// Its children, if it has some, where one job is looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<ChildJob>,
    /// When it was asked for, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// When it ended, in milliseconds since 1970.
    pub finished_at_ms: Option<u64>,
    /// Number of the last event in its journal.
    pub last_seq: u64,
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobKind {
    /// A machine to another worker.
    Move {
        /// The machine.
        machine: MachineId,
        /// Its name.
        machine_name: MachineName,
        /// The source.
        from: WorkerName,
        /// The target.
        to: WorkerName,
    },
    /// All machines of a worker to others, each by a move of its own.
    Drain {
        /// The worker that is emptied.
        from: WorkerName,
    },
    /// Machines of a worker to others that are emptier, each by a move of its own.
    Rebalance {
        /// The worker that they leave.
        from: WorkerName,
    },
    /// Several machines to another worker, each by a move of its own.
    Moves {
        /// The source.
        from: WorkerName,
        /// The target.
        to: WorkerName,
        /// The moves, with their machines.
        moves: Vec<(JobId, MachineName)>,
    },
}

/// A job that is a child of another, as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildJob {
    /// The job.
    pub job: JobId,
    /// Its machine.
    pub machine_name: MachineName,
    /// How it stands; none if it was not, or could not be, taken on.
    pub state: Option<JobState>,
    /// Why it failed, unwinds, waits or is parked, in one sentence.
    pub reason: Option<String>,
}

/// What a job waits for before it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// A time, in milliseconds since 1970.
    pub until_ms: Option<u64>,
    /// Its turn in this queue.
    pub queue: Option<String>,
    /// Its place in the queue, from 1; none while it is not due.
    pub place: Option<u64>,
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It has not begun: it waits for its time or its turn.
    Waiting,
    /// It goes forward.
    Running,
    /// It undoes what it did, in reverse.
    Unwinding,
    /// It waits for a person (`ferry job resume`).
    Parked,
    /// It did what it was asked.
    Succeeded,
    /// It failed, and everything is as before.
    Failed,
    /// It was cancelled, and everything is as before.
    Cancelled,
}

impl JobState {
    /// Whether nothing will change any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Waiting | Self::Running | Self::Unwinding | Self::Parked => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// A step of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStep {
    /// Its name, like `HandOver`.
    pub step: String,
    /// How it stands.
    pub state: StepState,
    /// How often it was begun.
    pub attempts: u32,
    /// When it was first begun, in milliseconds since 1970.
    pub started_at_ms: Option<u64>,
    /// When it was done or undone, in milliseconds since 1970.
    pub finished_at_ms: Option<u64>,
    /// What went wrong the last time, in one sentence.
    pub error: Option<String>,
    /// What it left in the journal for later steps and for people.
    pub memo: Option<serde_json::Value>,
}

/// How a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun.
    Waiting,
    /// Begun, or between two attempts.
    Running,
    /// Done.
    Done,
    /// Failed for good.
    Failed,
    /// Done and then undone.
    Undone,
}

/// How far the bytes of a job are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes that have to cross, as far as is known.
    pub bytes_total: u64,
    /// Bytes that have crossed, or came from a base.
    pub bytes_done: u64,
    /// Bytes of these that never crossed from the source: a base had them.
    #[serde(default)]
    pub bytes_from_base: u64,
    /// Bytes a second, lately.
    pub rate_bytes_per_s: u64,
    /// Milliseconds until all has crossed at that rate, if it can be told.
    pub eta_ms: Option<u64>,
    /// Guest reads that had to wait for the source.
    pub cold_reads: u64,
    /// Bytes whose checksum was compared with the source's.
    pub bytes_verified: u64,
    /// Whether all that is left cannot be read, so that nothing more comes before that has changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held_up: bool,
}

/// An entry of a job's journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobEvent {
    /// The job.
    pub job: JobId,
    /// Its place in the journal, from 1.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: JobEventKind,
}

/// What an entry of a job's journal says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum JobEventKind {
    /// The job was taken on.
    Started,
    /// Its time and its turn have come.
    Admitted,
    /// A step begins.
    Begun {
        /// The step.
        step: String,
        /// From 1.
        attempt: u32,
    },
    /// A step is done.
    Done {
        /// The step.
        step: String,
        /// What it left behind.
        memo: Option<serde_json::Value>,
    },
    /// An attempt failed.
    Failed {
        /// The step.
        step: String,
        /// From 1.
        attempt: u32,
        /// Why, in one sentence.
        error: String,
        /// Whether it will be tried again.
        retry: bool,
    },
    /// Everything done so far is undone from now on.
    UnwindBegun {
        /// Why, in one sentence.
        reason: String,
    },
    /// A step was undone.
    Undone {
        /// The step.
        step: String,
    },
    /// A step could not be undone; it is tried again.
    UndoFailed {
        /// The step.
        step: String,
        /// Why, in one sentence.
        error: String,
    },
    /// A person asked to cancel.
    CancelAsked,
    /// The job waits for a person.
    Parked {
        /// Why, in one sentence.
        reason: String,
    },
    /// A person let it go on.
    Resumed,
    /// The end.
    Finished {
        /// How.
        outcome: JobState,
    },
}

/// Asks for jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskJobs {
    /// How many of those that have ended; at most [`AskJobs::ENDED_MAX`] are given at once.
    #[serde(default = "AskJobs::ended_default")]
    pub ended_max: u64,
    /// Only those that have ended and were taken on before this one; without it all that have not ended come, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<JobId>,
}

impl AskJobs {
    /// The most ended jobs that a worker gives at once.
    pub const ENDED_MAX: u64 = 1_000;

    fn ended_default() -> u64 {
        50
    }
}

impl Default for AskJobs {
    fn default() -> Self {
        Self { ended_max: Self::ended_default(), before: None }
    }
}

/// A job with its journal as it lies in the worker's records (docs/formats.md): to be kept elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobJournal {
    /// The job.
    pub job: Job,
    /// Its entries in order.
    pub journal: Vec<serde_json::Value>,
}

/// Asks for what happened in a job after an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsAfter {
    /// Number of the last event already seen; 0 for none.
    #[serde(default)]
    pub after: u64,
    /// How long to wait for the next event if there is none yet, in milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
}

impl EventsAfter {
    /// Longest wait a worker grants, in milliseconds.
    pub const WAIT_MS_MAX: u64 = 30_000;
}

/// What happened in a job, and how it stands now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobEvents {
    /// Events in order; empty if none came while waiting, or if the job has ended.
    pub events: Vec<JobEvent>,
    /// The job after them.
    pub job: Job,
}
