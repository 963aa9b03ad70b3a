//! The end of a worker, on request: what would be missed is asked first, then machines stop, then volume servers end, then
//! the agent does.
//!
//! Invariants: nothing new is taken on from the moment of the question. Jobs are left where they are, as a crash would, and
//! what the records want of machines stays: the next agent goes on with all of it.

use crate::core::Core;
use ferry_api::{
    ApiError, ErrorCode, SafeToStop, ShutDownWorker, StopReason, StoppedMachine, WorkerShutDown,
};
use std::future::Future;
use tokio::sync::watch;

/// How far the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody wants it.
    Up,
    /// Somebody does: nothing new is taken on.
    Going,
    /// Only the agent is left.
    Gone,
}

/// Whether this worker is being shut down.
#[derive(Debug)]
pub(crate) struct Shutdown(watch::Sender<Stage>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(watch::Sender::new(Stage::Up))
    }
}

impl Shutdown {
    /// Refuses new work while the worker is being shut down.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(crate) fn admit(&self) -> Result<(), ApiError> {
        match *self.0.borrow() {
            Stage::Up => Ok(()),
            Stage::Going | Stage::Gone => {
                let message =
                    "this worker is being shut down and takes nothing on; ask again when it is back";
                Err(ApiError::new(ErrorCode::Unavailable, message))
            }
        }
    }

    /// Resolves when only the agent is left.
    pub(crate) async fn gone(&self) {
        let mut stage = self.0.subscribe();
        // The sender is this.
        let _ = stage.wait_for(|stage| *stage == Stage::Gone).await;
    }

    /// Does it, unless something keeps the worker and it is not forced. `safe` asks what does, `leave` stops all jobs.
    ///
    /// # Errors
    /// It is under way already; the records cannot be read.
    pub(crate) async fn run(
        &self,
        core: &Core,
        wish: ShutDownWorker,
        safe: impl Future<Output = Result<SafeToStop, ApiError>>,
        leave: impl Future<Output = ()>,
    ) -> Result<WorkerShutDown, ApiError> {
        if self.0.send_replace(Stage::Going) != Stage::Up {
            return Err(ApiError::new(ErrorCode::Conflict, "this worker is being shut down already"));
        }
        let mut reasons = match safe.await {
            Ok(told) => told.reasons,
            Err(error) => {
                self.0.send_replace(Stage::Up);
                return Err(error);
            }
        };
        if wish.machines_may_stop {
            reasons.retain(|reason| !matches!(reason, StopReason::Machine { .. }));
        }
        let mut answer = WorkerShutDown {
            worker: core.config.name.clone(),
            done: false,
            reasons,
            machines: Vec::new(),
            volumes: Vec::new(),
            left: Vec::new(),
        };
        if !answer.reasons.is_empty() && !wish.force {
            self.0.send_replace(Stage::Up);
            return Ok(answer);
        }
        tracing::info!(forced = !answer.reasons.is_empty(), "this worker is being shut down");
        leave.await;
        let ended = end(core, &mut answer).await;
        // Also when something went wrong: jobs are left, so that this agent is good for nothing any more.
        self.0.send_replace(Stage::Gone);
        ended.map(|()| answer)
    }
}

async fn end(core: &Core, answer: &mut WorkerShutDown) -> Result<(), ApiError> {
    for record in core.machines.go_down().await? {
        let name = record.name.clone();
        match record.process {
            Some(process) => answer.left.push(format!("machine {name} goes on as process {}", process.pid)),
            None => {
                let exit = record.last_exit;
                answer.machines.push(StoppedMachine { machine: record.id, name, exit });
            }
        }
    }
    let (ended, left) = core.volumes.go_down().await?;
    answer.volumes = ended;
    answer.left.extend(left);
    answer.done = true;
    tracing::info!(
        machines = answer.machines.len(),
        volumes = answer.volumes.len(),
        left = answer.left.len(),
        "machines and volume servers of this worker have ended"
    );
    Ok(())
}
