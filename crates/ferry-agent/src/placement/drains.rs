//! The drain of this worker: asked for, found again.

use super::know;
use crate::core::Core;
use crate::jobs::{Clock, Mover, Office, begin_drain};
use crate::records::{ChangeRefused, Records, RecordsError};
use ferry_api::{ApiError, Deviation, DrainPlan, DrainStarted, ErrorCode, JobId, StartDrain};
use ferry_crossing::drain::DrainInput;
use serde::de::DeserializeOwned;

/// The drain that is under way here.
///
/// # Errors
/// There is none.
pub(crate) async fn drain_of(core: &Core) -> Result<JobId, ApiError> {
    let drain = core.records.worker().await?.drain;
    drain.map(|drain| drain.job).ok_or_else(|| {
        let message =
            format!("worker {} is not being drained; there is nothing to pause or cancel", core.config.name);
        ApiError::new(ErrorCode::Conflict, message)
    })
}

/// Takes on the drain of this worker, if it may begin.
///
/// # Errors
/// As [`ready`]; the records cannot be written.
pub(crate) async fn start_drain<C: Clock>(
    core: &Core,
    mover: &Mover<Core, C>,
    jobs: &Office<Records, C, Core>,
    start: StartDrain,
    retention_ms: u64,
    now_ms: u64,
) -> Result<DrainStarted, ApiError> {
    let job = match ready(core, mover, start, retention_ms, now_ms).await? {
        Ready::Begin(input) => begin_drain(&jobs.drains, *input, now_ms).await?,
        Ready::Already(job) => jobs.job(job).await?,
        Ready::Deviates(deviations) => return Ok(DrainStarted { job: None, deviations }),
    };
    Ok(DrainStarted { job: Some(job), deviations: Vec::new() })
}

/// What is to be done about a drain that is asked for.
enum Ready {
    /// It may begin.
    Begin(Box<DrainInput>),
    /// It is under way.
    Already(JobId),
    /// The world is not as its plan says.
    Deviates(Vec<Deviation>),
}

/// Whether a drain may begin: whether the world is as its plan says, or every machine can leave.
///
/// # Errors
/// Another drain is under way; a machine cannot leave; the plan is of another worker or version.
async fn ready<C: Clock>(
    core: &Core,
    mover: &Mover<Core, C>,
    start: StartDrain,
    retention_ms: u64,
    now_ms: u64,
) -> Result<Ready, ApiError> {
    let StartDrain { ask, plan, retention_hours: _ } = start;
    let ask = plan.as_ref().map_or(ask, |plan| plan.ask.clone());
    if let Some(plan) = &plan {
        check(core, plan)?;
    }
    let input = DrainInput { from: core.config.name.clone(), ask, plan, retention_ms };
    if let Some(drain) = core.records.worker().await?.drain {
        // The same drain: whoever asks for it again sees it go on.
        if asked_of(core, drain.job).await?.as_ref() == Some(&input) {
            return Ok(Ready::Already(drain.job));
        }
        return Err(RecordsError::from(ChangeRefused::Drained(drain.job)).into());
    }
    let known = know(core, mover, &input.ask, now_ms).await?;
    match &input.plan {
        None => known.refuse_if_blocked(input.ask.clone())?,
        Some(plan) => {
            let deviations = known.against(plan);
            if !deviations.is_empty() {
                return Ok(Ready::Deviates(deviations));
            }
        }
    }
    Ok(Ready::Begin(Box::new(input)))
}

/// What was asked of a job; none if it is something else.
pub(super) async fn asked_of<I: DeserializeOwned>(core: &Core, job: JobId) -> Result<Option<I>, ApiError> {
    let rows = core.records.journal(job, 0).await?;
    let opening = rows.first().and_then(|row| row.entry.get("input").cloned());
    Ok(opening.and_then(|input| serde_json::from_value(input).ok()))
}

fn check(core: &Core, plan: &DrainPlan) -> Result<(), ApiError> {
    let wrong = if plan.format != DrainPlan::FORMAT {
        format!(
            "the plan has format {} and this version knows {}; make it again",
            plan.format,
            DrainPlan::FORMAT
        )
    } else if plan.from != core.config.name {
        format!("the plan is of worker {} and this is {}; ask that one", plan.from, core.config.name)
    } else {
        return Ok(());
    };
    Err(ApiError::new(ErrorCode::InvalidRequest, wrong))
}
