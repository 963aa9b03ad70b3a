//! Making workers alike: what is asked for, the plan of it, and what a worker tells of machines that might leave it.

use crate::{
    Deviation, Expected, Generation, Job, JobId, MachineId, MachineName, MachineRef, MachineSpec, MoveMode,
    PlannedMove, ReserveVolume, WorkerName,
};
use serde::{Deserialize, Serialize};
use std::num::{NonZeroU32, NonZeroU64};

/// By what workers are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BalanceBy {
    /// The part of their room that their own volumes take. Copies that were handed over, which go by themselves, are not counted.
    #[default]
    Room,
    /// The part of their processors that their machines are known to take, by the limits of these.
    Load,
}

/// Asks for the moves that make workers alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskRebalance {
    /// By what they are compared.
    #[serde(default)]
    pub by: BalanceBy,
    /// A gap between the fullest and the emptiest worker that is left alone, in thousandths of a worker.
    #[serde(default = "AskRebalance::tolerance_default")]
    pub tolerance_permille: u32,
    /// Only these machines; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<MachineRef>,
    /// Not these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<MachineRef>,
    /// What of each machine crosses before it stops.
    #[serde(default)]
    pub mode: MoveMode,
    /// So many moves at once from one worker; as many as its configuration says if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<NonZeroU32>,
    /// So many of them at once to one target; no limit of its own if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel_per_link: Option<NonZeroU32>,
    /// Bytes a second that all moves from one worker together may take of the network; as fast as it goes if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_s: Option<NonZeroU64>,
}

impl AskRebalance {
    /// The gap that is left alone unless something else is asked for, in thousandths of a worker.
    pub const TOLERANCE_PERMILLE: u32 = 100;

    fn tolerance_default() -> u32 {
        Self::TOLERANCE_PERMILLE
    }
}

impl Default for AskRebalance {
    fn default() -> Self {
        Self {
            by: BalanceBy::default(),
            tolerance_permille: Self::TOLERANCE_PERMILLE,
            only: Vec::new(),
            except: Vec::new(),
            mode: MoveMode::default(),
            max_parallel: None,
            max_parallel_per_link: None,
            bandwidth_bytes_per_s: None,
        }
    }
}

/// The few moves that make workers alike. Nothing is changed to find out, and nothing is promised.
///
/// A worker either gives machines or takes them. So whatever part of the plan is carried out, in whatever order, no worker
/// becomes fuller than the fullest was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalancePlan {
    /// [`RebalancePlan::FORMAT`] of whoever made it.
    pub format: u32,
    /// When this was planned, in milliseconds since 1970.
    pub made_at_ms: u64,
    /// What was asked for.
    pub ask: AskRebalance,
    /// The workers that are compared, the fullest first.
    pub workers: Vec<WorkerFill>,
    /// What each worker that gives machines does, by name.
    pub parts: Vec<RebalancePart>,
    /// Machines that cannot move now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stay: Vec<Stays>,
    /// Workers that were not reckoned with, since they gave no bid, each with what was heard instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<(WorkerName, String)>,
}

impl RebalancePlan {
    /// Version of the plan as a document.
    pub const FORMAT: u32 = 1;
    /// The most moves of one plan.
    pub const MOVES_MAX: usize = 256;

    /// All moves, each with the worker that the machine leaves.
    pub fn moves(&self) -> impl Iterator<Item = (&WorkerName, &PlannedMove)> {
        self.parts.iter().flat_map(|part| part.moves.iter().map(|planned| (&part.from, planned)))
    }

    /// The gap between the fullest and the emptiest worker, in thousandths, before and after.
    #[must_use]
    pub fn gaps_permille(&self) -> (u32, u32) {
        let gap = |fill: fn(&WorkerFill) -> u32| {
            let fills = || self.workers.iter().map(fill);
            fills().max().unwrap_or(0) - fills().min().unwrap_or(0)
        };
        (gap(|worker| worker.before_permille), gap(|worker| worker.after_permille))
    }
}

/// How full a worker is, in thousandths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFill {
    /// The worker.
    pub worker: WorkerName,
    /// When this was planned.
    pub before_permille: u32,
    /// When all of it is done.
    pub after_permille: u32,
}

/// What one worker does for a plan: a job of its own, which leads its moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalancePart {
    /// The worker that its machines leave, on which the job runs.
    pub from: WorkerName,
    /// The id of that job, so that a plan is carried out once, however often that is asked for.
    pub job: JobId,
    /// Its moves in order.
    pub moves: Vec<PlannedMove>,
}

/// A machine that cannot move now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stays {
    /// Its name.
    pub machine_name: MachineName,
    /// Where it is.
    pub worker: WorkerName,
    /// Why, in one sentence.
    pub why: String,
}

/// Asks a worker to do its part of a plan, as it stands or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRebalance {
    /// The plan.
    pub plan: RebalancePlan,
    /// How long the copies that stay behind are kept after nobody needs them, in hours; as configured there if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_hours: Option<u64>,
    /// Only to say in what the world is not as the plan says: nothing begins.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_check: bool,
}

/// What came of that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RebalanceStarted {
    /// The job: the one that was taken on, or the one that does this part already, or has done it. None if nothing began.
    pub job: Option<Job>,
    /// In what the world is not as the plan says; nothing if a job does it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deviations: Vec<Deviation>,
}

/// Asks a worker which of its machines could leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskDepartures {
    /// What of each of them is to cross before it stops.
    #[serde(default)]
    pub mode: MoveMode,
}

/// The machines of a worker, each as a move of it would find it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departures {
    /// All that are there.
    pub machines: Vec<Departure>,
    /// How many bytes a second have been seen to cross from there lately; none if nothing has been seen.
    pub rate_bytes_per_s: Option<NonZeroU64>,
}

/// A machine that might leave its worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub machine_name: MachineName,
    /// Its generation there.
    pub generation: Generation,
    /// What it is.
    pub spec: MachineSpec,
    /// Its disks, as a target would be asked to make room for them.
    pub volumes: Vec<ReserveVolume>,
    /// How it would go.
    pub mode: MoveMode,
    /// Why like that, in one sentence.
    pub why: String,
    /// How long it would be down.
    pub interruption: Expected,
    /// Bytes that would cross before it stops.
    pub bytes_ahead: u64,
    /// Why it cannot leave now, whoever would take it, each in one sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<String>,
}
