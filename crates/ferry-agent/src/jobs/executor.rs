//! All jobs of one kind on this worker: found again at the start, one task each, and what people may ask of them.
//!
//! Invariant: when a journal cannot be kept, every task stops at once and `failure` resolves; the agent then ends,
//! and the next one goes on from what is durable.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferry_api::{ApiError, ErrorCode, EventsAfter, Job, JobEvent, JobEvents, JobId, JobKind, JobState};
use ferry_fsm::{Standing, Step, Terms, replay};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{Instrument, info_span};

use super::journal::{Journal, entries};
use super::queues::{Place, Queues};
use super::task::{Command, Shows, Task, TaskError, Work};
use super::{Clock, view};
use crate::failure::Failure;
use crate::mutex::locked;
use crate::records::{Change, JobRecord, RecordsError};

/// Requests that may wait for one job's task.
const COMMANDS_MAX: usize = 16;

/// Why a job did not do what a person asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobRefusal {
    /// No such job.
    #[error("there is no job {job} here; `ferry job list` shows those there are")]
    NoJob {
        /// The id.
        job: JobId,
    },
    /// It has ended.
    #[error("job {job} has already ended; `ferry job show {job}` tells how")]
    Over {
        /// The job.
        job: JobId,
    },
    /// It cannot be cancelled any more.
    #[error(
        "job {job} is past its point of no return and only goes forward; take the machine back with `ferry move --undo {job}`"
    )]
    PastNoReturn {
        /// The job.
        job: JobId,
    },
    /// It does not wait for anybody.
    #[error("job {job} is neither parked nor waiting for a time; there is nothing to resume")]
    NotParked {
        /// The job.
        job: JobId,
    },
    /// Its journal cannot be replayed.
    #[error("the journal of job {job} cannot be read by this version of ferry: {reason}")]
    Unreadable {
        /// The job.
        job: JobId,
        /// Why.
        reason: String,
    },
    /// The agent is stopping.
    #[error("the agent is stopping; ask again when it is back")]
    Stopping,
}

impl From<JobRefusal> for ApiError {
    fn from(refusal: JobRefusal) -> Self {
        let code = match &refusal {
            JobRefusal::NoJob { .. } => ErrorCode::NotFound,
            JobRefusal::Over { .. } | JobRefusal::PastNoReturn { .. } | JobRefusal::NotParked { .. } => {
                ErrorCode::Conflict
            }
            JobRefusal::Unreadable { .. } => ErrorCode::Internal,
            JobRefusal::Stopping => ErrorCode::Unavailable,
        };
        Self::new(code, refusal.to_string())
    }
}

/// Runs the jobs of one kind. Dropping it stops their tasks where they are, as a crash would.
pub struct Executor<J, C, W: Work> {
    journal: Arc<J>,
    clock: C,
    work: Arc<W>,
    queues: Arc<Queues>,
    crew: Arc<Crew>,
    tasks: Mutex<JoinSet<()>>,
}

/// What the executor and its tasks share.
struct Crew {
    at_work: Mutex<HashMap<JobId, Handle>>,
    unreadable: Mutex<HashMap<JobId, Job>>,
    failure: Failure,
}

#[derive(Clone)]
struct Handle {
    commands: mpsc::Sender<Command>,
    shown: watch::Receiver<Job>,
}

impl<J: Journal, C: Clock, W: Work> Executor<J, C, W> {
    /// Finds all unfinished jobs in the journal and lets them go on.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn start(
        journal: Arc<J>,
        clock: C,
        work: Arc<W>,
        queues: Arc<Queues>,
    ) -> Result<Self, RecordsError> {
        let crew = Arc::new(Crew {
            at_work: Mutex::default(),
            unreadable: Mutex::default(),
            failure: Failure::default(),
        });
        let executor = Self { journal, clock, work, queues, crew, tasks: Mutex::default() };
        let mut found = Vec::new();
        let mut unfinished = executor.journal.unfinished_jobs().await?;
        unfinished.retain(|record| W::is_about(&record.kind));
        for record in unfinished {
            let rows = executor.journal.journal(record.id, 0).await?;
            let last_seq = rows.last().map_or(0, |row| row.seq);
            match replay::<W::Step>(&entries(&rows)) {
                Ok(standing) => found.push((record, standing, last_seq)),
                Err(error) => {
                    tracing::error!(job = %record.id, %error, "a job's journal is refused; the job waits for a person");
                    let job = view::unreadable(&record, &error, last_seq);
                    locked(&executor.crew.unreadable).insert(record.id, job);
                }
            }
        }
        // Who was at work is counted before anybody is let in, and the others come in the order in which they were due.
        found.sort_by_key(|(record, standing, _)| (!standing.admitted, standing.due_ms(), record.id));
        let places: Vec<_> =
            found.iter().map(|(record, standing, _)| executor.place(record.id, standing)).collect();
        for ((record, standing, last_seq), place) in found.into_iter().zip(places) {
            executor.spawn(record.id, record.kind, standing, last_seq, place);
        }
        Ok(executor)
    }

    /// Takes on a job. `changes` become true with its first entry, or it is not taken on; they need not add the
    /// job itself. Answers as soon as that is durable.
    ///
    /// # Errors
    /// The records refuse a change, or cannot be written.
    pub async fn begin(
        &self,
        id: JobId,
        kind: JobKind,
        input: Value,
        terms: Terms,
        changes: Vec<Change>,
    ) -> Result<Job, RecordsError> {
        let created_at_ms = self.clock.now_ms();
        let parent = terms.parent.as_ref().and_then(|parent| parent.parse().ok());
        let opening = Standing::<W::Step>::opening(created_at_ms, input, terms);
        let standing = Standing::start(&opening).expect("an opening opens");
        let record = JobRecord { id, kind: kind.clone(), parent, created_at_ms, finished: false };
        let mut all = vec![Change::AddJob(Box::new(record))];
        all.extend(changes);
        let written = serde_json::to_value(&opening).expect("entries are plain data and always encode");
        let counts = standing.counted(created_at_ms, &opening.event).into_iter().collect();
        let appended = self.journal.append(id, 1, &[written], counts, all).await;
        if let Err(RecordsError::Lost { reason }) = &appended {
            self.crew.fail(reason.clone());
        }
        appended?;
        let job = view::job(id, &kind, &standing, Shows::default(), 1);
        let place = self.place(id, &standing);
        self.spawn(id, kind, standing, 1, place);
        Ok(job)
    }

    /// The place of a job in the queue of its terms, if it works or waits for its turn at the moment.
    fn place(&self, id: JobId, standing: &Standing<W::Step>) -> Option<Place> {
        let queue = standing.terms.queue.as_deref().filter(|_| standing.parked.is_none())?;
        let is_due = standing.waits_until_ms().is_none_or(|at_ms| at_ms <= self.clock.now_ms());
        match standing.admitted {
            true => Some(self.queues.come_back(queue, id)),
            false => is_due.then(|| self.queues.join(queue, id, standing.due_ms())),
        }
    }

    /// Resolves with the reason when a journal could not be kept and the agent must stop.
    pub async fn failure(&self) -> String {
        self.crew.failure.told().await.to_owned()
    }

    /// One job as it stands.
    ///
    /// # Errors
    /// No such job; the records cannot be read.
    pub async fn job(&self, id: JobId) -> Result<Job, ApiError> {
        match self.present(id) {
            Some(job) => Ok(job),
            None => {
                let record = self.journal.job(id).await?.ok_or(JobRefusal::NoJob { job: id })?;
                self.replayed(record).await
            }
        }
    }

    /// Waits until a job has ended.
    ///
    /// # Errors
    /// No such job; the records cannot be read.
    pub async fn ended(&self, id: JobId) -> Result<Job, ApiError> {
        let mut after = 0;
        loop {
            let told = self.events(id, EventsAfter { after, wait_ms: EventsAfter::WAIT_MS_MAX }).await?;
            if told.job.state.is_final() {
                return Ok(told.job);
            }
            after = told.job.last_seq;
        }
    }

    /// What happened in a job after an entry, waiting for something to happen if it is asked for.
    ///
    /// # Errors
    /// No such job; the records cannot be read.
    pub async fn events(&self, id: JobId, asked: EventsAfter) -> Result<JobEvents, ApiError> {
        let wait = Duration::from_millis(asked.wait_ms.min(EventsAfter::WAIT_MS_MAX));
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let shown = self.handle(id).map(|handle| handle.shown);
            let job = self.job(id).await?;
            let events = self.events_after(id, asked.after).await?;
            let Some(mut shown) = shown else { return Ok(JobEvents { events, job }) };
            if !events.is_empty() || job.state.is_final() {
                return Ok(JobEvents { events, job });
            }
            let news = shown.wait_for(|now| now.last_seq > job.last_seq);
            // A task that is gone without an end stops with its agent; there is nothing to wait for.
            let told = tokio::time::timeout_at(deadline, news).await.is_ok_and(|news| news.is_ok());
            if !told && (self.handle(id).is_some() || tokio::time::Instant::now() >= deadline) {
                return Ok(JobEvents { events, job: self.job(id).await? });
            }
        }
    }

    /// Asks a job to undo itself. Durable when it answers.
    ///
    /// # Errors
    /// The job is past its point of no return, over, or unknown.
    pub async fn cancel(&self, id: JobId) -> Result<Job, ApiError> {
        self.command(id, Command::Cancel).await
    }

    /// Lets a job go on that is parked or pauses between two attempts. Durable when it answers.
    ///
    /// # Errors
    /// The job is neither, over, or unknown.
    pub async fn resume(&self, id: JobId) -> Result<Job, ApiError> {
        self.command(id, Command::Resume).await
    }

    async fn command(
        &self,
        id: JobId,
        command: impl FnOnce(oneshot::Sender<Result<Job, JobRefusal>>) -> Command,
    ) -> Result<Job, ApiError> {
        if let Some(handle) = self.handle(id) {
            let (reply, answer) = oneshot::channel();
            if handle.commands.send(command(reply)).await.is_ok()
                && let Ok(answer) = answer.await
            {
                return Ok(answer?);
            }
            if self.crew.failure.reason().is_some() {
                return Err(JobRefusal::Stopping.into());
            }
        }
        let job = self.job(id).await?;
        if job.state.is_final() {
            return Err(JobRefusal::Over { job: id }.into());
        }
        Err(JobRefusal::Unreadable { job: id, reason: job.reason.unwrap_or_default() }.into())
    }

    async fn events_after(&self, id: JobId, after: u64) -> Result<Vec<JobEvent>, ApiError> {
        let rows = self.journal.journal(id, after).await?;
        let read = entries(&rows);
        let numbered = rows.iter().zip(&read);
        Ok(numbered.filter_map(|(row, entry)| view::event(id, row.seq, entry)).collect())
    }

    async fn replayed(&self, record: JobRecord) -> Result<Job, ApiError> {
        let rows = self.journal.journal(record.id, 0).await?;
        let last_seq = rows.last().map_or(0, |row| row.seq);
        Ok(match replay::<W::Step>(&entries(&rows)) {
            Ok(standing) => view::job(record.id, &record.kind, &standing, Shows::default(), last_seq),
            Err(error) => view::unreadable(&record, &error, last_seq),
        })
    }

    fn handle(&self, id: JobId) -> Option<Handle> {
        locked(&self.crew.at_work).get(&id).cloned()
    }

    /// The job as it is shown while it runs, with progress.
    fn present(&self, id: JobId) -> Option<Job> {
        let mut shown = self.handle(id).map(|handle| handle.shown.borrow().clone());
        if let Some(waiting) = shown.as_mut().and_then(|job| job.waiting.as_mut()) {
            waiting.place = waiting.queue.as_deref().and_then(|queue| self.queues.place(queue, id));
        }
        shown.or_else(|| locked(&self.crew.unreadable).get(&id).cloned())
    }

    /// Stops all jobs where they are, as a crash would; the next agent goes on with them.
    pub async fn leave(&self) {
        let mut tasks = std::mem::take(&mut *locked(&self.tasks));
        tasks.shutdown().await;
    }

    fn spawn(
        &self,
        id: JobId,
        kind: JobKind,
        standing: Standing<W::Step>,
        last_seq: u64,
        place: Option<Place>,
    ) {
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (shown, watched) = watch::channel(view::job(id, &kind, &standing, Shows::default(), last_seq));
        let (shows, _) = watch::channel(Shows::default());
        let cancel_asked = standing.cancel_asked;
        let task = Task {
            journal: self.journal.clone(),
            clock: self.clock.clone(),
            work: self.work.clone(),
            id,
            kind,
            standing,
            last_seq,
            commands: inbox,
            shown,
            shows,
            cancel_asked: watch::channel(cancel_asked).0,
            queues: self.queues.clone(),
            place,
        };
        locked(&self.crew.at_work).insert(id, Handle { commands, shown: watched });
        let crew = self.crew.clone();
        let mut tasks = locked(&self.tasks);
        while tasks.try_join_next().is_some() {}
        // The id of a job is that of its span in every life of the agent.
        let span = info_span!("job", job = %id, line = W::Step::NAME);
        tasks.spawn(async move { crew.oversee(id, task.run()).await }.instrument(span));
    }
}

impl Crew {
    /// Runs one job's task until it ends or the agent must stop.
    async fn oversee(&self, id: JobId, task: impl Future<Output = Result<(), TaskError>>) {
        let _alarm = Alarm { crew: self, id };
        let ended = tokio::select! {
            biased;
            ended = task => ended,
            _ = self.failure.told() => return,
        };
        match ended {
            Ok(()) => drop(locked(&self.at_work).remove(&id)),
            Err(error) => self.fail(ApiError::because(ErrorCode::Internal, &error).message),
        }
    }

    fn fail(&self, reason: String) {
        tracing::error!(%reason, "a job cannot be kept up; the agent stops");
        self.failure.say(reason);
    }
}

/// A job's task that panics must not leave its machine in silence: the agent stops, and the next one goes on from
/// the journal.
struct Alarm<'a> {
    crew: &'a Crew,
    id: JobId,
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.crew.fail(format!("the task of job {} panicked; its log says where", self.id));
        }
    }
}

impl<J, C, W: Work> std::fmt::Debug for Executor<J, C, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at_work: Vec<(JobId, JobState)> = locked(&self.crew.at_work)
            .iter()
            .map(|(id, handle)| (*id, handle.shown.borrow().state))
            .collect();
        f.debug_struct("Executor").field("at_work", &at_work).finish_non_exhaustive()
    }
}
