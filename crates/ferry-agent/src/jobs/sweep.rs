//! Lets a target forget moves that were undone while it could not be told.
//!
//! Invariant: a reservation is given up only when the source's own journal says that its job failed or was
//! cancelled; from a source that is away, or knows nothing, nothing is concluded.

use std::future::Future;

use ferry_api::{ApiError, JobId, JobState, WorkerName};
use ferry_crossing::target::is_undone;

use super::Clock;

/// Time between two looks, in milliseconds.
const LOOK_MS: u64 = 60_000;

/// Moves that are on their way to this worker.
pub trait Guests: Send + Sync + 'static {
    /// Those that were reserved or prepared here and are not ours yet, each with its source.
    fn expected(&self) -> impl Future<Output = Result<Vec<(JobId, WorkerName)>, ApiError>> + Send;

    /// How the job stands on its source.
    fn asked(&self, from: &WorkerName, job: JobId)
    -> impl Future<Output = Result<JobState, ApiError>> + Send;

    /// Undoes reservation and clones, as [`ferry_api::AgentApi::peer_release`] does.
    fn release(&self, job: JobId) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Removes what is left of moves that were released before, but not to the end.
    fn clean_up(&self) -> impl Future<Output = Result<(), ApiError>> + Send;
}

/// Looks for ever for moves that nobody will finish.
pub async fn sweep<G: Guests, C: Clock>(guests: &G, clock: &C) {
    loop {
        // At once: this agent may have been away while a move was undone.
        if let Err(error) = sweep_once(guests).await {
            tracing::warn!(%error, "cannot look which moves to this worker were undone");
        }
        clock.sleep_until(clock.now_ms().saturating_add(LOOK_MS)).await;
    }
}

async fn sweep_once<G: Guests>(guests: &G) -> Result<(), ApiError> {
    guests.clean_up().await?;
    for (job, from) in guests.expected().await? {
        let undone = match guests.asked(&from, job).await {
            Ok(state) => is_undone(state),
            Err(error) => {
                tracing::debug!(%job, %from, %error, "the source of an expected move does not answer");
                false
            }
        };
        if undone {
            tracing::info!(%job, %from, "a move to this worker was undone; its reservation is released");
            if let Err(error) = guests.release(job).await {
                tracing::warn!(%job, %error, "a reservation cannot be released to the end; it is tried again");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use ferry_api::ErrorCode;

    use super::*;

    #[derive(Default)]
    struct Inn {
        expected: Mutex<HashMap<JobId, Option<JobState>>>,
        /// Released, and what is left of it cannot be deleted at first.
        stuck: Mutex<Option<JobId>>,
    }

    impl Guests for Inn {
        async fn expected(&self) -> Result<Vec<(JobId, WorkerName)>, ApiError> {
            let from: WorkerName = "alpha".parse().unwrap();
            Ok(self.expected.lock().unwrap().keys().map(|job| (*job, from.clone())).collect())
        }

        async fn asked(&self, _from: &WorkerName, job: JobId) -> Result<JobState, ApiError> {
            let away = ApiError::new(ErrorCode::Unreachable, "alpha does not answer");
            self.expected.lock().unwrap()[&job].ok_or(away)
        }

        async fn release(&self, job: JobId) -> Result<(), ApiError> {
            self.expected.lock().unwrap().remove(&job);
            match *self.stuck.lock().unwrap() == Some(job) {
                true => Err(ApiError::new(ErrorCode::Internal, "the directory is not empty")),
                false => Ok(()),
            }
        }

        async fn clean_up(&self) -> Result<(), ApiError> {
            let mut stuck = self.stuck.lock().unwrap();
            *stuck = stuck.filter(|job| self.expected.lock().unwrap().contains_key(job));
            Ok(())
        }
    }

    #[tokio::test]
    async fn only_what_the_source_says_was_undone_is_released() {
        let states = [
            None,
            Some(JobState::Running),
            Some(JobState::Unwinding),
            Some(JobState::Parked),
            Some(JobState::Succeeded),
            Some(JobState::Failed),
            Some(JobState::Cancelled),
        ];
        let expected = states.iter().map(|state| (JobId::fresh(), *state)).collect();
        let inn = Inn { expected: Mutex::new(expected), ..Inn::default() };
        sweep_once(&inn).await.unwrap();
        let left: Vec<_> = inn.expected.lock().unwrap().values().copied().collect();
        assert_eq!(left.len(), 5);
        assert!(!left.contains(&Some(JobState::Failed)) && !left.contains(&Some(JobState::Cancelled)));
    }

    #[tokio::test]
    async fn a_release_that_does_not_end_is_ended_later_and_does_not_keep_the_others() {
        let jobs: Vec<JobId> = (0..4).map(|_| JobId::fresh()).collect();
        let expected = jobs.iter().map(|job| (*job, Some(JobState::Failed))).collect();
        let inn = Inn { expected: Mutex::new(expected), stuck: Mutex::new(Some(jobs[0])) };
        sweep_once(&inn).await.unwrap();
        assert!(inn.expected.lock().unwrap().is_empty());
        assert_eq!(*inn.stuck.lock().unwrap(), Some(jobs[0]));
        sweep_once(&inn).await.unwrap();
        assert_eq!(*inn.stuck.lock().unwrap(), None);
    }
}
