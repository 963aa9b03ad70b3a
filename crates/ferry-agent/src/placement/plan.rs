//! What a drain would do, from facts of this moment; and the one that is begun.

use super::{market, wants};
use crate::core::Core;
use crate::jobs::{Clock, Home, Looked, Mover};
use crate::records::Standing;
use ferry_api::{
    ApiError, AskDrain, Deviation, DrainPlan, ErrorCode, Job, MachineId, MachineRef, MoveMode, StepState,
    WorkerName,
};
use ferry_crossing::{MoveStep, Receipt};
use ferry_fsm::Step;
use ferry_placement::drain::{Candidate, Circumstances, is_asked, plan};
use ferry_placement::{Market, compare};
use std::collections::BTreeSet;
use std::num::NonZeroU64;

/// A machine that was looked at, as one of a drain.
pub(crate) fn candidate(from: &WorkerName, looked: &Looked) -> Candidate {
    Candidate {
        wants: wants(from, looked),
        generation: looked.plan.generation,
        mode: looked.mode,
        why: looked.why.clone(),
        interruption: looked.interruption,
        bytes_ahead: looked.bytes_ahead(),
        blockers: looked.blockers.clone(),
    }
}

/// What is known when a drain is planned.
pub(crate) struct Known {
    candidates: Vec<Candidate>,
    /// Machines that a job holds already.
    held: BTreeSet<MachineId>,
    circumstances: Circumstances,
    market: Market,
}

/// Looks at all machines that are asked for, and asks all workers what they offer.
///
/// # Errors
/// A machine that is named is not here; one cannot be looked at.
pub(crate) async fn know<C: Clock>(
    core: &Core,
    mover: &Mover<Core, C>,
    ask: &AskDrain,
    now_ms: u64,
) -> Result<Known, ApiError> {
    check(core, ask).await?;
    let past = core.past_moves().await?;
    let from = core.config.name.clone();
    let (mut candidates, mut held) = (Vec::new(), BTreeSet::new());
    for record in core.records.machines().await? {
        let is_here = record.standing == Standing::Ours && !record.doomed;
        if !is_here || !is_asked(&ask.only, &ask.except, record.id, &record.name) {
            continue;
        }
        held.extend(record.job.map(|_| record.id));
        let looked = looked_at(mover, record.id, ask.mode, &past).await?;
        candidates.extend(looked.map(|looked| candidate(&from, &looked)));
    }
    let circumstances = Circumstances { from, now_ms, rate_bytes_per_s: rate_bytes_per_s(&past) };
    Ok(Known { candidates, held, circumstances, market: market(core).await })
}

/// A machine as a move of it would find it; none if it has left meanwhile.
pub(super) async fn looked_at<C: Clock>(
    mover: &Mover<Core, C>,
    machine: MachineId,
    mode: MoveMode,
    past: &[Job],
) -> Result<Option<Looked>, ApiError> {
    match mover.look(machine, mode, past).await {
        Ok(looked) => Ok(Some(looked)),
        Err(error) if error.code == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Known {
    /// What a drain would do.
    pub(crate) fn plan(&self, ask: AskDrain) -> DrainPlan {
        plan(ask, &self.circumstances, &self.candidates, self.market.clone())
    }

    /// In what the world is not as a plan says.
    pub(crate) fn against(&self, plan: &DrainPlan) -> Vec<Deviation> {
        compare(plan, &self.candidates, self.market.clone())
    }

    /// Refuses a drain that leaves a machine here. Those that move already are waited for.
    ///
    /// # Errors
    /// `Conflict`, with the first of them and what is missing where.
    pub(crate) fn refuse_if_blocked(&self, ask: AskDrain) -> Result<(), ApiError> {
        let plan = self.plan(ask);
        let stuck: Vec<_> = plan.blocked().filter(|planned| !self.held.contains(&planned.machine)).collect();
        let Some(first) = stuck.first() else { return Ok(()) };
        let more = match stuck.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more (`ferry drain {} --plan` names them)", plan.from),
        };
        let message = format!(
            "nothing has begun, since machine {}{more} cannot leave: {}; mend that, or leave it here (--except {})",
            first.machine_name,
            first.blocker().unwrap_or_default(),
            first.machine_name
        );
        Err(ApiError::new(ErrorCode::Conflict, message))
    }
}

/// Every machine that is named is here.
async fn check(core: &Core, ask: &AskDrain) -> Result<(), ApiError> {
    for machine in ask.only.iter().chain(&ask.except) {
        let machine: &MachineRef = machine;
        core.meant(machine).await?;
    }
    Ok(())
}

/// How fast disks followed by the last moves from here, all together; none if none was large enough to tell.
pub(super) fn rate_bytes_per_s(past: &[Job]) -> Option<NonZeroU64> {
    let measured = past.iter().filter_map(hydrated).filter(|(bytes, _)| *bytes >= TOLD_BYTES_MIN);
    let (bytes, ms) = measured.fold((0_u64, 0_u64), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    NonZeroU64::new(bytes.saturating_mul(1_000).checked_div(ms)?)
}

/// Less than that crosses too fast to tell how fast.
const TOLD_BYTES_MIN: u64 = 16 << 20;

/// Bytes that crossed in the `Hydrate` of a move, and its milliseconds.
fn hydrated(job: &Job) -> Option<(u64, u64)> {
    let step =
        |of: MoveStep| job.steps.iter().find(|step| step.step == of.name() && step.state == StepState::Done);
    let hydrate = step(MoveStep::Hydrate)?;
    let receipt: Receipt = serde_json::from_value(step(MoveStep::Verify)?.memo.clone()?).ok()?;
    let bytes =
        receipt.volumes.iter().filter_map(|volume| volume.counted).map(|counted| counted.bytes_fetched);
    Some((bytes.sum(), hydrate.finished_at_ms?.saturating_sub(hydrate.started_at_ms?)))
}
