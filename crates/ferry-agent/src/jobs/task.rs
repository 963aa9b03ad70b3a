//! One job's task: decide, append, act, and append what came of it with what is decided next, until it is over.
//!
//! Invariant: this task is the only writer of its journal, and its standing is what the journal replays to.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use ferry_api::{Job, JobId, JobKind, Progress};
use ferry_fsm::{
    Act, Answer, Entry, Event, Illegal, Standing, Step, StepError, UnwindReason, conclude, decide,
};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{Instrument, info_span};

use super::clock::NAP_MS;
use super::executor::JobRefusal;
use super::journal::Journal;
use super::queues::{Place, Queues};
use super::{Clock, view};
use crate::moments;
use crate::records::{Change, RecordsError};

/// How the steps of one kind of job are done.
pub trait Work: Send + Sync + 'static {
    /// Its line.
    type Step: Step;

    /// Whether a job of that kind has this line.
    fn is_about(kind: &JobKind) -> bool;

    /// Does a step; the answer is its memo. Idempotent: a step that was cut off by a crash is done again.
    fn perform(
        &self,
        step: Self::Step,
        context: &StepContext<Self::Step>,
    ) -> impl Future<Output = Result<Value, StepError>> + Send;

    /// Undoes a step, also one that failed or was cut off halfway. Idempotent.
    fn undo(
        &self,
        step: Self::Step,
        context: &StepContext<Self::Step>,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// What a deed leaves in the journal.
    fn deed(&self, step: Self::Step, context: &StepContext<Self::Step>) -> Result<Value, StepError>;

    /// The changes of the records that come with an entry, in the same transaction. The entry is not yet applied
    /// to the standing. The records may refuse those of a deed and of `admitted`; all others must fit also when
    /// repeated.
    fn changes(&self, context: &StepContext<Self::Step>, event: &Event) -> Vec<Change>;
}

/// What a step may know of its job.
#[derive(Debug)]
pub struct StepContext<S> {
    /// The job.
    pub job: JobId,
    /// Where it stands.
    pub standing: Standing<S>,
    /// The attempt, of the step or of its undo, from 1.
    pub attempt: u32,
    /// The time at which the entry or step began, in milliseconds since 1970.
    pub now_ms: u64,
    shows: watch::Sender<Shows>,
    cancel_asked: watch::Receiver<bool>,
}

/// What a job shows of itself beside its journal. Not durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Shows {
    /// How far the bytes are.
    pub(super) progress: Option<Progress>,
    /// What its step waits for, in one sentence.
    pub(super) waits_for: Option<String>,
}

impl<S> StepContext<S> {
    /// Shows how far the bytes are. Not durable.
    pub fn show(&self, progress: Progress) {
        self.shows.send_modify(|shows| shows.progress = Some(progress));
    }

    /// Shows what the step waits for, in one sentence, or that it goes on. Not durable.
    pub fn waits_for(&self, what: Option<String>) {
        self.shows.send_if_modified(|shows| {
            let is_news = shows.waits_for != what;
            shows.waits_for = what;
            is_news
        });
    }

    /// Resolves when somebody has asked to cancel the job, for steps that can be left at any time.
    pub async fn cancel_asked(&self) {
        let mut asked = self.cancel_asked.clone();
        if asked.wait_for(|asked| *asked).await.is_err() {
            // The task is gone, and with it whoever could ask.
            std::future::pending().await
        }
    }
}

/// Why a job's task cannot go on, and with it the agent.
#[derive(Debug, thiserror::Error)]
pub(super) enum TaskError {
    /// The entry was not appended.
    #[error("the journal of a job cannot be kept")]
    Records(#[from] RecordsError),
    /// The entry would have made a journal that cannot be replayed: a mistake in this program.
    #[error("the next entry of a job's journal would be illegal")]
    Illegal(#[from] Illegal),
}

type Reply = oneshot::Sender<Result<Job, JobRefusal>>;

/// What can be asked of a running job.
pub(super) enum Command {
    Cancel(Reply),
    Resume(Reply),
}

/// A job that runs: everything its task owns.
pub(super) struct Task<J, C, W: Work> {
    pub(super) journal: Arc<J>,
    pub(super) clock: C,
    pub(super) work: Arc<W>,
    pub(super) id: JobId,
    pub(super) kind: JobKind,
    pub(super) standing: Standing<W::Step>,
    pub(super) last_seq: u64,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) shown: watch::Sender<Job>,
    pub(super) shows: watch::Sender<Shows>,
    /// Whether somebody has asked to cancel.
    pub(super) cancel_asked: watch::Sender<bool>,
    pub(super) queues: Arc<Queues>,
    /// Where it stands in the queue that its terms name.
    pub(super) place: Option<Place>,
}

impl<J: Journal, C: Clock, W: Work> Task<J, C, W> {
    /// Runs the job to its end.
    ///
    /// # Errors
    /// An append failed: the agent must stop.
    pub(super) async fn run(mut self) -> Result<(), TaskError> {
        let mut announced = None;
        loop {
            let act = match announced.take() {
                Some(act) => act,
                None => self.announce(Vec::new()).await?,
            };
            self.keep_place(&act);
            match act {
                Act::Admit { until_ms } => announced = self.admit(until_ms).await?,
                Act::Begin { step, attempt } => announced = Some(self.perform(step, attempt).await?),
                Act::Commit { step, attempt } => announced = Some(self.commit(step, attempt).await?),
                Act::Undo { step, attempt } => announced = Some(self.undo(step, attempt).await?),
                Act::WaitUntil { at_ms } => {
                    // The clock may have been set back since that was decided: then the time is far away.
                    let look_ms = self.clock.now_ms().saturating_add(NAP_MS);
                    self.pause(Some(at_ms.min(look_ms))).await?;
                }
                Act::WaitForPerson { until_ms } => self.pause(until_ms).await?,
                Act::Unwind { .. } | Act::Park { .. } => {}
                Act::Finish { .. } | Act::Rest => return Ok(()),
            }
        }
    }

    /// A job that waits for a person holds nobody up; one that goes on has its place again.
    fn keep_place(&mut self, act: &Act<W::Step>) {
        if matches!(act, Act::WaitForPerson { .. }) {
            self.place = None;
        } else if self.standing.admitted {
            self.come_back();
        } else if self.place.is_none()
            && let Some(queue) = &self.standing.terms.queue
            && matches!(act, Act::Admit { .. })
        {
            self.place = Some(self.queues.join(queue, self.id, self.standing.due_ms()));
        }
    }

    /// A job that was let in has its place, if it gave it up meanwhile.
    fn come_back(&mut self) {
        if self.place.is_none()
            && let Some(queue) = &self.standing.terms.queue
        {
            self.place = Some(self.queues.come_back(queue, self.id));
        }
    }

    /// A job of which nothing can go on now holds nobody up either; once something can, it has its place again.
    fn give_turn(&mut self) {
        let held_up = self.shows.borrow().progress.is_some_and(|progress| progress.held_up);
        if held_up {
            self.place = None;
        } else if self.standing.admitted {
            self.come_back();
        }
    }

    /// Waits for the job's turn, then lets it in. None: something else happened, decide again.
    async fn admit(&mut self, until_ms: Option<u64>) -> Result<Option<Act<W::Step>>, TaskError> {
        self.show();
        let clock = self.clock.clone();
        if let Some(place) = &mut self.place {
            let command = tokio::select! {
                biased;
                command = self.commands.recv() => command,
                () = place.turn() => None,
                () = sleep_until(&clock, until_ms) => return Ok(None),
            };
            if let Some(command) = command {
                self.answer(command).await?;
                return Ok(None);
            }
        }
        self.answer_all().await?;
        if !matches!(decide(&self.standing, self.clock.now_ms()), Act::Admit { .. }) {
            return Ok(None);
        }
        match self.append_with_next(vec![Event::Admitted]).await {
            Err(TaskError::Records(RecordsError::Refused(refused))) => {
                let step = W::Step::LINE[0].name().to_owned();
                let reason = UnwindReason::Failed { step, message: refused.to_string() };
                self.append_with_next(vec![Event::UnwindBegun { reason }]).await.map(Some)
            }
            other => other.map(Some),
        }
    }

    async fn perform(&mut self, step: W::Step, attempt: u32) -> Result<Act<W::Step>, TaskError> {
        let (work, context) = (self.work.clone(), self.context(&self.standing, attempt));
        let span = info_span!("step", step = step.name(), attempt);
        let ended = self.while_answering(work.perform(step, &context).instrument(span)).await?;
        let name = step.name().to_owned();
        let event = match moments::end(&name, ended).await {
            Ok(memo) => Event::Done { step: name, memo },
            Err(error) => Event::Failed { step: name, attempt, error },
        };
        // Whether that is still so is seen again at the next attempt.
        self.shows
            .send_modify(|shows| shows.progress.iter_mut().for_each(|progress| progress.held_up = false));
        self.announce(vec![event]).await
    }

    async fn commit(&mut self, step: W::Step, attempt: u32) -> Result<Act<W::Step>, TaskError> {
        self.answer_all().await?;
        if !matches!(decide(&self.standing, self.clock.now_ms()), Act::Commit { .. }) {
            return self.announce(Vec::new()).await;
        }
        // From here to the append nobody is answered: a cancel comes before the deed, or too late.
        let name = step.name().to_owned();
        let memo = self.work.deed(step, &self.context(&self.standing, attempt));
        let refused = match moments::end(&name, memo).await {
            Ok(memo) => match self.append_with_next(vec![Event::Done { step: name.clone(), memo }]).await {
                Err(TaskError::Records(RecordsError::Refused(refused))) => {
                    StepError::fatal(refused.to_string())
                }
                other => return other,
            },
            Err(error) => error,
        };
        self.append_with_next(vec![Event::Failed { step: name, attempt, error: refused }]).await
    }

    async fn undo(&mut self, step: W::Step, attempt: u32) -> Result<Act<W::Step>, TaskError> {
        let (work, context) = (self.work.clone(), self.context(&self.standing, attempt));
        let span = info_span!("undo", step = step.name(), attempt);
        let ended = self.while_answering(work.undo(step, &context).instrument(span)).await?;
        let name = step.name().to_owned();
        let event = match ended {
            Ok(()) => Event::Undone { step: name },
            Err(error) => Event::UndoFailed { step: name, attempt, error },
        };
        self.announce(vec![event]).await
    }

    /// Appends what happened together with the announcement of what follows from it, as one: between `Stop` and
    /// `Boot` every append is a flush of the disk. Answers what is announced.
    async fn announce(&mut self, happened: Vec<Event>) -> Result<Act<W::Step>, TaskError> {
        self.answer_all().await?;
        self.append_with_next(happened).await
    }

    async fn append_with_next(&mut self, happened: Vec<Event>) -> Result<Act<W::Step>, TaskError> {
        let (events, act) = conclude(&self.standing, happened, self.clock.now_ms())?;
        self.append(events).await?;
        Ok(act)
    }

    /// Waits for a time, or for what a person has to say.
    async fn pause(&mut self, until_ms: Option<u64>) -> Result<(), TaskError> {
        let clock = self.clock.clone();
        let command = tokio::select! {
            biased;
            command = self.commands.recv() => command,
            () = sleep_until(&clock, until_ms) => None,
        };
        match command {
            Some(command) => self.answer(command).await,
            None => Ok(()),
        }
    }

    /// Does `doing` to its end, and meanwhile what a person asks for.
    async fn while_answering<T>(&mut self, doing: impl Future<Output = T>) -> Result<T, TaskError> {
        let mut doing = pin!(doing);
        let mut shown = self.shows.subscribe();
        loop {
            tokio::select! {
                biased;
                ended = &mut doing => return Ok(ended),
                Some(command) = self.commands.recv() => self.answer(command).await?,
                Ok(()) = shown.changed() => {
                    self.give_turn();
                    self.show();
                }
            }
        }
    }

    /// Answers what people have asked for meanwhile.
    async fn answer_all(&mut self) -> Result<(), TaskError> {
        while let Ok(command) = self.commands.try_recv() {
            self.answer(command).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, command: Command) -> Result<(), TaskError> {
        let (reply, answer, refusal) = match command {
            Command::Cancel(reply) => {
                (reply, self.standing.ask_to_cancel(), JobRefusal::PastNoReturn { job: self.id })
            }
            Command::Resume(reply) => {
                (reply, self.standing.ask_to_resume(), JobRefusal::NotParked { job: self.id })
            }
        };
        let said = match answer {
            Answer::Already => Ok(()),
            Answer::Append(event) => Ok(self.append(vec![event]).await?),
            Answer::Refuse => Err(refusal),
        };
        let _ = reply.send(said.map(|()| self.shown.borrow().clone()));
        Ok(())
    }

    /// Appends entries: checked against the standing first, durable then, and only then true.
    async fn append(&mut self, events: Vec<Event>) -> Result<(), TaskError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut next = self.standing.clone();
        let (mut written, mut counts, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        for event in events {
            changes.extend(self.work.changes(&self.context(&next, 0), &event));
            let entry = Entry::new(self.clock.now_ms(), event);
            next.apply(&entry)?;
            counts.extend(next.counted(entry.at_ms, &entry.event));
            written.push(serde_json::to_value(&entry).expect("entries are plain data and always encode"));
        }
        self.journal.append(self.id, self.last_seq + 1, &written, counts, changes).await?;
        self.standing = next;
        self.cancel_asked.send_replace(self.standing.cancel_asked);
        self.last_seq += u64::try_from(written.len()).expect("a job appends a few entries at a time");
        self.show();
        Ok(())
    }

    fn context(&self, standing: &Standing<W::Step>, attempt: u32) -> StepContext<W::Step> {
        StepContext {
            job: self.id,
            standing: standing.clone(),
            attempt,
            now_ms: self.clock.now_ms(),
            shows: self.shows.clone(),
            cancel_asked: self.cancel_asked.subscribe(),
        }
    }

    fn show(&self) {
        let shows = self.shows.borrow().clone();
        self.shown.send_replace(view::job(self.id, &self.kind, &self.standing, shows, self.last_seq));
    }
}

/// Returns at that time; never, if there is none.
async fn sleep_until(clock: &impl Clock, at_ms: Option<u64>) {
    match at_ms {
        Some(at_ms) => clock.sleep_until(at_ms).await,
        None => std::future::pending().await,
    }
}
