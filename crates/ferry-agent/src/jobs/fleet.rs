//! How moves of several machines are led as children of one job.
//!
//! Invariant: a child is begun with the id that its parent's journal names for it, so at most once; and the parent ends
//! when all of them have.

use std::sync::Arc;

use ferry_api::{ApiError, ErrorCode, Job, JobId, JobKind, JobState};
use ferry_crossing::fleet::{Begun, ChildEnd, FleetInput, FleetMove, FleetStep, verdict};
use ferry_crossing::moving;
use ferry_fsm::{Event, StepError, Terms};
use serde_json::Value;

use super::mover::begin_move_as;
use super::task::{StepContext, Work};
use super::{Clock, Executor, Home, Journal, Mover};
use crate::records::{Change, RecordsError};

/// Leads moves that are children of one job.
pub struct Fleet<J: Journal, C: Clock, H: Home> {
    moves: Arc<Executor<J, C, Mover<H, C>>>,
}

/// Takes on a job that moves several machines. Answers as soon as it is durable.
///
/// # Errors
/// The records cannot be written.
pub async fn begin_fleet<J: Journal, C: Clock, H: Home>(
    executor: &Executor<J, C, Fleet<J, C, H>>,
    input: FleetInput,
) -> Result<Job, RecordsError> {
    let kind = JobKind::Moves {
        from: input.from.clone(),
        to: input.to.clone(),
        moves: input.moves.iter().map(|child| (child.job, child.machine_name.clone())).collect(),
    };
    executor.begin(JobId::fresh(), kind, moving::memo(input), Terms::default(), Vec::new()).await
}

impl<J: Journal, C: Clock, H: Home> Fleet<J, C, H> {
    /// Leads children that `moves` runs.
    pub fn new(moves: Arc<Executor<J, C, Mover<H, C>>>) -> Self {
        Self { moves }
    }

    /// The job of a child; none if it was never taken on.
    async fn child(&self, id: JobId) -> Result<Option<Job>, StepError> {
        match self.moves.job(id).await {
            Ok(job) => Ok(Some(job)),
            Err(error) if error.code == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(later(error)),
        }
    }

    async fn begin(&self, parent: JobId, input: &FleetInput) -> Result<Begun, StepError> {
        let mut begun = Begun::default();
        for child in &input.moves {
            if self.child(child.job).await?.is_some() {
                continue;
            }
            let (asked, terms) = input.child(parent, child);
            match begin_move_as(&self.moves, child.job, asked, terms).await {
                Ok(_) => {}
                Err(RecordsError::Refused(refused)) => begun.refused.push(ChildEnd {
                    machine_name: child.machine_name.clone(),
                    state: JobState::Failed,
                    reason: Some(refused.to_string()),
                }),
                Err(error) => return Err(later(error.into())),
            }
        }
        Ok(begun)
    }

    /// Waits until all children that were taken on have ended.
    async fn ends(&self, input: &FleetInput) -> Result<Vec<ChildEnd>, StepError> {
        let mut ends = Vec::new();
        for FleetMove { job, machine_name, .. } in &input.moves {
            if self.child(*job).await?.is_none() {
                continue;
            }
            let ended = self.moves.ended(*job).await.map_err(later)?;
            let (machine_name, state) = (machine_name.clone(), ended.state);
            ends.push(ChildEnd { machine_name, state, reason: ended.reason });
        }
        Ok(ends)
    }

    async fn arrive(&self, context: &Context, input: &FleetInput) -> Result<Vec<ChildEnd>, StepError> {
        let mut ends = tokio::select! {
            biased;
            ends = self.ends(input) => ends?,
            () = context.cancel_asked() => return Err(StepError::retry("it was cancelled")),
        };
        let begun: Begun = memo_of(context, FleetStep::Begin)?;
        ends.extend(begun.refused);
        verdict(&ends).map_err(StepError::fatal)?;
        Ok(ends)
    }

    /// Those that are past their hand-over only go forward, and are waited for like the others.
    async fn call_back(&self, input: &FleetInput) -> Result<(), StepError> {
        for child in &input.moves {
            match self.moves.cancel(child.job).await {
                Ok(_) => {}
                Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::Conflict) => {}
                Err(error) => return Err(later(error)),
            }
        }
        self.ends(input).await.map(drop)
    }
}

type Context = StepContext<FleetStep>;

impl<J: Journal, C: Clock, H: Home> Work for Fleet<J, C, H> {
    type Step = FleetStep;

    fn is_about(kind: &JobKind) -> bool {
        matches!(kind, JobKind::Moves { .. })
    }

    async fn perform(&self, step: FleetStep, context: &Context) -> Result<Value, StepError> {
        let input = input(context)?;
        match step {
            FleetStep::Begin => self.begin(context.job, &input).await.map(moving::memo),
            FleetStep::Arrive => self.arrive(context, &input).await.map(moving::memo),
        }
    }

    async fn undo(&self, step: FleetStep, context: &Context) -> Result<(), StepError> {
        match step {
            FleetStep::Begin => self.call_back(&input(context)?).await,
            FleetStep::Arrive => unreachable!("the line gives this step no undo"),
        }
    }

    fn deed(&self, _: FleetStep, _: &Context) -> Result<Value, StepError> {
        unreachable!("each child has a hand-over of its own")
    }

    fn changes(&self, context: &Context, event: &Event) -> Vec<Change> {
        let is_over = matches!(event, Event::Finished { .. });
        is_over.then_some(Change::FinishJob(context.job)).into_iter().collect()
    }
}

impl<J: Journal, C: Clock, H: Home> std::fmt::Debug for Fleet<J, C, H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

fn input(context: &Context) -> Result<FleetInput, StepError> {
    serde_json::from_value(context.standing.input.clone())
        .map_err(|error| StepError::fatal(format!("what was asked of this job is not understood: {error}")))
}

fn memo_of(context: &Context, step: FleetStep) -> Result<Begun, StepError> {
    let memo = context.standing.memo(step).cloned().unwrap_or(Value::Null);
    serde_json::from_value(memo).map_err(|error| {
        StepError::fatal(format!("what Begin left in the journal is not understood: {error}"))
    })
}

/// Nothing is final: whatever is in the way of the records is mended, or the agent stops.
fn later(error: ApiError) -> StepError {
    StepError::retry(error.message)
}
