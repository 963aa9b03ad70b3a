//! All jobs of this worker, whatever their kind: people ask here, and the executor of the kind answers.
//!
//! Invariant: a kind of job has one executor, which alone writes its journals.

use std::sync::Arc;

use ferry_api::{
    ApiError, AskJobs, ChildJob, ErrorCode, EventsAfter, Job, JobEvents, JobId, JobJournal, JobKind,
};

use super::{
    Clock, Drain, Emptied, Executor, Fleet, JobRefusal, Journal, Mover, QueueFigures, Queues, Rebalance,
};
use crate::records::{JobRecord, RecordsError};
use tokio::sync::Mutex;

/// The executors of all kinds.
pub struct Office<J: Journal, C: Clock, H: Emptied> {
    journal: Arc<J>,
    queues: Arc<Queues>,
    /// Moves of one machine each.
    pub moves: Arc<Executor<J, C, Mover<H, C>>>,
    /// Moves of several machines as one job.
    pub fleets: Executor<J, C, Fleet<J, C, H>>,
    /// Drains of this worker.
    pub drains: Executor<J, C, Drain<J, C, H>>,
    /// Taken on one after the other, so that there is one.
    pub rebalancing: Mutex<()>,
    /// Parts of making workers alike.
    pub rebalances: Executor<J, C, Rebalance<J, C, H>>,
}

/// Has the executor of a job's kind answer.
macro_rules! of_kind {
    ($office:ident, $kind:expr, $call:ident ( $($with:expr),* )) => {
        match $kind {
            JobKind::Move { .. } => $office.moves.$call($($with),*).await,
            JobKind::Drain { .. } => $office.drains.$call($($with),*).await,
            JobKind::Rebalance { .. } => $office.rebalances.$call($($with),*).await,
            JobKind::Moves { .. } => $office.fleets.$call($($with),*).await,
        }
    };
}

impl<J: Journal, C: Clock, H: Emptied> Office<J, C, H> {
    /// Finds all unfinished jobs and lets them go on.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn open(journal: Arc<J>, clock: C, home: Arc<H>, queues: Queues) -> Result<Self, RecordsError> {
        let queues = Arc::new(queues);
        let mover = Arc::new(Mover::new(home.clone(), clock.clone()));
        let moves = Executor::start(journal.clone(), clock.clone(), mover, queues.clone()).await?;
        let moves = Arc::new(moves);
        let fleet = Arc::new(Fleet::new(moves.clone()));
        let fleets = Executor::start(journal.clone(), clock.clone(), fleet, queues.clone()).await?;
        let drain = Arc::new(Drain::new(journal.clone(), home.clone(), clock.clone(), moves.clone()));
        let drains = Executor::start(journal.clone(), clock.clone(), drain, queues.clone()).await?;
        let rebalance = Arc::new(Rebalance::new(journal.clone(), home, clock.clone(), moves.clone()));
        let rebalances = Executor::start(journal.clone(), clock, rebalance, queues.clone()).await?;
        Ok(Self { journal, queues, moves, fleets, drains, rebalancing: Mutex::default(), rebalances })
    }

    /// Resolves with the reason when a journal could not be kept and the agent must stop.
    pub async fn failure(&self) -> String {
        tokio::select! {
            biased;
            reason = self.moves.failure() => reason,
            reason = self.fleets.failure() => reason,
            reason = self.drains.failure() => reason,
            reason = self.rebalances.failure() => reason,
        }
    }

    /// Stops all jobs where they are, as a crash would; the next agent goes on with them.
    pub async fn leave(&self) {
        self.rebalances.leave().await;
        self.drains.leave().await;
        self.fleets.leave().await;
        self.moves.leave().await;
    }

    /// One job as it stands.
    ///
    /// # Errors
    /// No such job; the records cannot be read.
    pub async fn job(&self, id: JobId) -> Result<Job, ApiError> {
        let record = self.record(id).await?;
        let job = of_kind!(self, record.kind, job(id))?;
        self.with_children(job).await
    }

    /// The jobs asked for, the latest first.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn jobs(&self, asked: AskJobs) -> Result<Vec<Job>, ApiError> {
        let mut jobs = match asked.before {
            None => self.unfinished().await?,
            Some(_) => Vec::new(),
        };
        let ended_max = asked.ended_max.min(AskJobs::ENDED_MAX);
        for record in self.journal.ended_before(asked.before, ended_max).await? {
            // It may have ended between the two looks.
            if jobs.iter().all(|job| job.id != record.id) {
                jobs.push(of_kind!(self, record.kind, job(record.id))?);
            }
        }
        jobs.sort_by_key(|job| std::cmp::Reverse(job.id));
        Ok(jobs)
    }

    /// All jobs that have not ended.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn unfinished(&self) -> Result<Vec<Job>, ApiError> {
        let mut jobs = Vec::new();
        for record in self.journal.unfinished_jobs().await? {
            jobs.push(of_kind!(self, record.kind, job(record.id))?);
        }
        Ok(jobs)
    }

    /// How the queues stand.
    pub(crate) fn queues(&self) -> Vec<QueueFigures> {
        self.queues.figures()
    }

    /// A job with its journal, as it lies in the records.
    ///
    /// # Errors
    /// No such job; the records cannot be read.
    pub async fn journal_of(&self, id: JobId) -> Result<JobJournal, ApiError> {
        let job = self.job(id).await?;
        let rows = self.journal.journal(id, 0).await?;
        Ok(JobJournal { job, journal: rows.into_iter().map(|row| row.entry).collect() })
    }

    /// What happened in a job after an entry, waiting for something to happen if it is asked for.
    ///
    /// # Errors
    /// No such job; the records cannot be read.
    pub async fn events(&self, id: JobId, asked: EventsAfter) -> Result<JobEvents, ApiError> {
        let record = self.record(id).await?;
        let JobEvents { events, job } = of_kind!(self, record.kind, events(id, asked))?;
        Ok(JobEvents { events, job: self.with_children(job).await? })
    }

    /// Asks a job to undo itself. Durable when it answers.
    ///
    /// # Errors
    /// The job is past its point of no return, over, or unknown.
    pub async fn cancel(&self, id: JobId) -> Result<Job, ApiError> {
        let record = self.record(id).await?;
        of_kind!(self, record.kind, cancel(id))
    }

    /// Lets a job go on that is parked, pauses between two attempts or waits for its time. Durable when it answers.
    ///
    /// # Errors
    /// The job is neither, over, or unknown.
    pub async fn resume(&self, id: JobId) -> Result<Job, ApiError> {
        let record = self.record(id).await?;
        of_kind!(self, record.kind, resume(id))
    }

    async fn record(&self, id: JobId) -> Result<JobRecord, ApiError> {
        Ok(self.journal.job(id).await?.ok_or(JobRefusal::NoJob { job: id })?)
    }

    async fn with_children(&self, mut job: Job) -> Result<Job, ApiError> {
        if let JobKind::Drain { .. } | JobKind::Rebalance { .. } = &job.kind {
            for record in self.journal.children(job.id).await? {
                let JobKind::Move { machine_name, .. } = record.kind else { continue };
                let child = self.moves.job(record.id).await?;
                let (state, reason) = (Some(child.state), child.reason);
                job.children.push(ChildJob { job: record.id, machine_name, state, reason });
            }
        }
        if let JobKind::Moves { moves, .. } = &job.kind {
            for (id, machine_name) in moves {
                let child = match self.moves.job(*id).await {
                    Ok(child) => Some(child),
                    Err(error) if error.code == ErrorCode::NotFound => None,
                    Err(error) => return Err(error),
                };
                job.children.push(ChildJob {
                    job: *id,
                    machine_name: machine_name.clone(),
                    state: child.as_ref().map(|child| child.state),
                    reason: child.and_then(|child| child.reason),
                });
            }
        }
        Ok(job)
    }
}

impl<J: Journal, C: Clock, H: Emptied> std::fmt::Debug for Office<J, C, H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Office").field("moves", &self.moves).field("fleets", &self.fleets).finish()
    }
}
