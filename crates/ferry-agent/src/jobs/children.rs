//! Moves that are children of a job of this worker: found in the records, and called back.

use std::sync::Arc;

use ferry_api::{ApiError, ErrorCode, Job, JobId, MachineName, StepState};
use ferry_fsm::{Step, StepError};
use ferry_placement::{Stage, UnderWay};

use super::{Clock, Executor, Home, Journal, MoveStep, Mover};

/// Time between two looks at what is under way, in milliseconds.
pub(super) const LOOK_MS: u64 = 200;
/// So many machines are named in a sentence.
pub(super) const NAMED_MAX: usize = 4;

/// Finds the children of any job.
pub(super) struct Children<J: Journal, C: Clock, H: Home> {
    journal: Arc<J>,
    clock: C,
    moves: Arc<Executor<J, C, Mover<H, C>>>,
}

impl<J: Journal, C: Clock, H: Home> Children<J, C, H> {
    /// Those that `moves` runs and `journal` keeps.
    pub(super) fn new(journal: Arc<J>, clock: C, moves: Arc<Executor<J, C, Mover<H, C>>>) -> Self {
        Self { journal, clock, moves }
    }

    /// All of them, as they stand.
    pub(super) async fn of(&self, parent: JobId) -> Result<Vec<Job>, StepError> {
        let mut children = Vec::new();
        for record in self.journal.children(parent).await.map_err(|error| later(error.into()))? {
            children.push(self.moves.job(record.id).await.map_err(later)?);
        }
        Ok(children)
    }

    /// Cancels those that are not past their hand-over, and waits until each is undone or past it. Those that are go forward
    /// by themselves.
    pub(super) async fn call_back(&self, parent: JobId) -> Result<(), StepError> {
        loop {
            let mut open = 0;
            for child in self.of(parent).await? {
                if child.state.is_final() || is_past(&child, MoveStep::HandOver) {
                    continue;
                }
                open += 1;
                match self.moves.cancel(child.id).await {
                    Ok(_) => {}
                    Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::Conflict) => {}
                    Err(error) => return Err(later(error)),
                }
            }
            if open == 0 {
                return Ok(());
            }
            self.clock.sleep_until(self.clock.now_ms().saturating_add(LOOK_MS)).await;
        }
    }
}

fn is_past(job: &Job, step: MoveStep) -> bool {
    job.steps.iter().any(|found| found.step == step.name() && found.state == StepState::Done)
}

/// How far a move is.
pub(super) fn stage(job: &Job) -> Stage {
    match is_past(job, MoveStep::Boot) {
        false => Stage::Leaves,
        true if job.progress.is_some_and(|progress| progress.held_up) => Stage::HeldUp,
        true => Stage::Follows,
    }
}

/// How many moves are under way and not held up, and of how many of them the machine does not run on its target yet.
pub(super) fn counts(under_way: &[UnderWay]) -> (usize, usize) {
    let count = |is_meant: fn(Stage) -> bool| under_way.iter().filter(|one| is_meant(one.stage)).count();
    (count(|stage| stage != Stage::HeldUp), count(|stage| stage == Stage::Leaves))
}

/// `2 machines cannot leave (db: no worker takes it: ...; web: ...)`
pub(super) fn in_a_sentence(what: &str, stuck: &[(MachineName, String)]) -> String {
    let named = stuck.iter().take(NAMED_MAX).map(|(name, why)| format!("{name}: {why}"));
    let named = named.collect::<Vec<_>>().join("; ");
    match stuck.len() {
        1 => format!("machine {named}"),
        count => format!("{count} machines {what} ({named})"),
    }
}

/// Nothing is final: whatever is in the way of the records is mended, or the agent stops.
pub(super) fn later(error: ApiError) -> StepError {
    StepError::retry(error.message)
}
