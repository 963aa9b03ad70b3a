//! How each step of a move is done and undone.
//!
//! Invariant: every step may be repeated from its beginning at any time, and between `Stop` and `Boot` nothing
//! waits for anything but the machine, the two disks and the network.

use std::future::Future;
use std::sync::Arc;

use ferry_api::{
    ApiError, ErrorCode, HookName, Job, JobId, JobKind, MoveMode, Prepare, PrepareVolume, VolumeKey,
    WorkerName,
};
use ferry_crossing::hooks::awaits_after_move;
use ferry_crossing::moving::{later, refusal};
use ferry_crossing::reckoning::{
    against_volumes, against_worker, check_elsewhere, check_size, is_whole, lacks_source, plan_volume,
    progress,
};
use ferry_crossing::unreadable::unreadable;
use ferry_crossing::{
    Activated, Booted, Hydrated, MoveInput, MoveStep, Plan, Prepared, Reserved, Retired, Stopped, moving,
};
use ferry_fsm::{Event, Outcome, StepError, Terms};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::foresee::expect;
use super::task::{StepContext, Work};
use super::world::{Home, Target};
use super::{Clock, Executor, Journal};
use crate::records::{Change, RecordsError};

/// The first and the longest pause between two looks at how far the disks are, in milliseconds.
pub(super) const LOOK_MS: std::ops::RangeInclusive<u64> = 20..=500;
/// Attempts to tell a target that does not answer that a move was undone; after that it finds out by itself.
const RELEASE_ATTEMPTS_MAX: u32 = 3;

/// The queue of all moves away from this worker.
pub const MOVES: &str = "moves";

pub(super) type Context = StepContext<MoveStep>;

/// Moves machines from this worker to others.
#[derive(Debug)]
pub struct Mover<H, C> {
    pub(super) home: Arc<H>,
    pub(super) clock: C,
}

/// Takes on a move, in the queue of all moves. Answers as soon as it is durable. From then on the job holds the
/// machine; if it is to begin later, from when it begins.
///
/// # Errors
/// Another job holds the machine, or it is not ours; the records cannot be written.
pub async fn begin_move<J: Journal, H: Home, C: Clock>(
    executor: &Executor<J, C, Mover<H, C>>,
    input: MoveInput,
    terms: Terms,
) -> Result<Job, RecordsError> {
    begin_move_as(executor, JobId::fresh(), input, terms).await
}

/// As [`begin_move`], with an id that was chosen before.
///
/// # Errors
/// As there.
pub(super) async fn begin_move_as<J: Journal, H: Home, C: Clock>(
    executor: &Executor<J, C, Mover<H, C>>,
    job: JobId,
    input: MoveInput,
    terms: Terms,
) -> Result<Job, RecordsError> {
    begin_move_with(executor, job, input, terms, Vec::new()).await
}

/// As [`begin_move_as`], with changes of the records that become true with it, or it is not taken on.
///
/// # Errors
/// As there, and if the records refuse one of these changes.
pub(crate) async fn begin_move_with<J: Journal, H: Home, C: Clock>(
    executor: &Executor<J, C, Mover<H, C>>,
    job: JobId,
    input: MoveInput,
    terms: Terms,
    mut changes: Vec<Change>,
) -> Result<Job, RecordsError> {
    let kind = JobKind::Move {
        machine: input.machine,
        machine_name: input.machine_name.clone(),
        from: input.from.clone(),
        to: input.to.clone(),
    };
    let is_now = terms.not_before_ms.is_none();
    let claim = is_now.then_some(Change::Claim { machine: input.machine, job });
    let input = serde_json::to_value(input).expect("an input is plain data and always encodes");
    let terms = Terms { queue: Some(MOVES.to_owned()), ..terms };
    changes.extend(claim);
    executor.begin(job, kind, input, terms, changes).await
}

impl<H: Home, C: Clock> Mover<H, C> {
    /// Moves machines away from `home`.
    pub fn new(home: Arc<H>, clock: C) -> Self {
        Self { home, clock }
    }

    async fn plan(&self, input: &MoveInput) -> Result<Plan, StepError> {
        check_elsewhere(input)?;
        let machine = self.home.machine(input.machine).await.map_err(refusal)?;
        let target = self.home.target(&input.to).map_err(refusal)?;
        let info = target.worker(machine.spec.driver.kind()).await.map_err(refusal)?;
        first(against_worker(input, &info, &machine.spec))?;
        let (live, against) = self.against_live(input, &machine.spec, Some(&info)).await.map_err(refusal)?;
        first(against.into_iter().map(StepError::fatal).collect())?;
        let mut volumes = Vec::new();
        for disk in &machine.volumes {
            let key = VolumeKey { id: disk.volume, generation: disk.generation };
            let volume = self.home.volume(key).await.map_err(refusal)?;
            volumes.push(plan_volume(&volume)?);
        }
        first(against_volumes(&info, &volumes))?;
        let past = self.home.past_moves().await.map_err(refusal)?;
        Ok(Plan {
            expected: Some(expect(&past, &machine, input.mode)),
            generation: machine.generation,
            spec: machine.spec,
            created_at_ms: machine.created_at_ms,
            volumes,
            live,
        })
    }

    async fn reserve(&self, job: JobId, input: &MoveInput, plan: &Plan) -> Result<Reserved, ApiError> {
        let reserve = moving::reserve(job, input, plan);
        let reserved = self.home.target(&input.to)?.reserve(reserve).await;
        reserved.map(|crossing| moving::reserved(&crossing)).map_err(|error| said_by(&input.to, error))
    }

    async fn prepare(
        &self,
        context: &Context,
        input: &MoveInput,
        plan: &Plan,
        reserved: &Reserved,
    ) -> Result<Prepared, StepError> {
        let sources = self.stand_by(context.job, input, plan).await.map_err(refusal)?;
        let before = self.tell(context, input, plan, HookName::BeforeMove).await?;
        let ahead = self.copy_ahead(context, input, plan, reserved).await;
        let lease = self.take_lease(context, input, plan).await?;
        // Before the hook: a machine that is quiet waits for no round.
        let ahead = match ahead {
            Some(ahead) => Some(self.catch_up(context, input, plan, ahead).await),
            None => None,
        };
        // Here, and not in `Stop`: from there on the records want the machine down, and no agent that comes back asks first.
        let quiesced = async {
            let quiesced = self.tell(context, input, plan, HookName::Quiesce).await?;
            self.flush_all(plan).await.map_err(refusal)?;
            Ok(quiesced)
        };
        match quiesced.await {
            Ok(quiesced) => {
                let hooks = before.into_iter().chain(quiesced).collect();
                Ok(Prepared { sources, ahead, hooks, lease })
            }
            Err(error) => {
                self.end_lease(context, input, plan, lease).await;
                Err(error)
            }
        }
    }

    /// Has the target make clones that stand by; gives where they will read from.
    async fn stand_by(&self, job: JobId, input: &MoveInput, plan: &Plan) -> Result<Vec<String>, ApiError> {
        let sources = self.export_all(plan, &input.to).await?;
        let here = self.each(plan.keys(), |home, key| async move { home.volume(key).await }).await?;
        let volumes = plan.volumes.iter().zip(&sources).zip(here).map(|((planned, source), here)| {
            PrepareVolume { id: planned.id, source: source.clone(), pace: here.pace.as_set() }
        });
        let prepare = Prepare { job, volumes: volumes.collect() };
        let prepared = self.home.target(&input.to)?.prepare(prepare).await;
        prepared.map_err(|error| said_by(&input.to, error))?;
        Ok(sources)
    }

    async fn stop(&self, input: &MoveInput, plan: &Plan) -> Result<Stopped, ApiError> {
        // `Prepare` may have been long ago; this one is short, and the machine still runs.
        self.flush_all(plan).await?;
        self.home.halt(input.machine).await?;
        Ok(Stopped {
            last_exit: self.home.machine(input.machine).await?.last_exit,
            memory: None,
            kept_up: None,
        })
    }

    async fn activate(
        &self,
        job: JobId,
        input: &MoveInput,
        plan: &Plan,
        marks: &[u64],
    ) -> Result<Activated, ApiError> {
        // The target hears of it when machine and copies are marked: from then on it may write, and nothing else keeps
        // records from a backup, made before the hand-over, from having this worker write as well.
        let fence = self.each(plan.keys(), |home, key| {
            let to = input.to.clone();
            async move {
                // Again: such records may say "sealed" of a copy that was opened since.
                home.seal(key).await?;
                home.fence(key, &to, job).await
            }
        });
        let machine = self.home.fence_machine(input.machine, plan.generation, &input.to, job);
        let (fenced, barred, sources) = tokio::join!(fence, machine, self.export_all(plan, &input.to));
        fenced.and(barred)?;
        let here = match self.home.machine(input.machine).await {
            Ok(here) => Some(here.desired),
            Err(error) if error.code == ErrorCode::NotFound => None,
            Err(error) => return Err(error),
        };
        let holds = self.holds(plan, marks).await?;
        let activate = moving::activate(job, here, plan, sources?.into_iter().zip(holds).collect());
        let crossing = self.home.target(&input.to)?.activate(activate).await?;
        Ok(Activated { activated_at_ms: crossing.activated_at_ms })
    }

    /// Looks at the target until nothing is remote there, and the machine has been judged and told that it has arrived if it is to be.
    /// Meanwhile keeps the exports alive that it reads from.
    async fn hydrate(&self, context: &Context, input: &MoveInput, plan: &Plan) -> Result<Hydrated, ApiError> {
        let target = self.home.target(&input.to)?;
        let mut pause_ms = *LOOK_MS.start();
        loop {
            let crossing = target.crossing(context.job).await?;
            context.show(progress(plan, &crossing));
            context.waits_for(unreadable(&crossing));
            let awaits_judgement = input.undo_unhealthy && crossing.judged.is_none();
            let awaits = awaits_judgement || awaits_after_move(&plan.spec, &crossing);
            if !awaits && crossing.volumes.iter().all(is_whole) {
                return Ok(Hydrated { judged: crossing.judged, after_move: crossing.after_move });
            }
            if crossing.volumes.iter().any(lacks_source) {
                self.export_all(plan, &input.to).await?;
            }
            self.clock.sleep_until(self.clock.now_ms().saturating_add(pause_ms)).await;
            pause_ms = pause_ms.saturating_mul(2).min(*LOOK_MS.end());
        }
    }

    async fn retire(&self, job: JobId, input: &MoveInput, plan: &Plan) -> Result<Retired, ApiError> {
        self.home.target(&input.to)?.settle(job).await?;
        self.each(plan.keys(), |home, key| async move { home.retire(key).await }).await?;
        Ok(Retired { until_ms: self.clock.now_ms().saturating_add(input.retention_ms) })
    }

    async fn release(&self, context: &Context, input: &MoveInput) -> Result<(), ApiError> {
        let released = match self.home.target(&input.to) {
            Ok(target) => target.release(context.job).await,
            // A worker that is no longer configured cannot be told, now or later.
            Err(error) => {
                tracing::warn!(job = %context.job, %error, "the target is not told that the move was undone");
                return Ok(());
            }
        };
        match released {
            Err(error) if error.code.is_transient() && context.attempt >= RELEASE_ATTEMPTS_MAX => {
                tracing::warn!(job = %context.job, %error, "the target will find out by itself that the move was undone");
                Ok(())
            }
            other => other,
        }
    }

    pub(super) async fn export_all(&self, plan: &Plan, to: &WorkerName) -> Result<Vec<String>, ApiError> {
        self.each(plan.keys(), |home, key| {
            let to = to.clone();
            async move { home.export(key, to).await }
        })
        .await
    }

    pub(super) async fn flush_all(&self, plan: &Plan) -> Result<(), ApiError> {
        self.each(plan.keys(), |home, key| async move { home.flush(key).await }).await.map(drop)
    }

    /// Does the same to all copies at once; answers in their order. Also when one fails the others are done to
    /// their end: nothing of a step may still be under way when it is repeated or undone.
    pub(super) async fn each<T: Send + 'static, F: Future<Output = Result<T, ApiError>> + Send + 'static>(
        &self,
        keys: Vec<VolumeKey>,
        act: impl Fn(Arc<H>, VolumeKey) -> F,
    ) -> Result<Vec<T>, ApiError> {
        let mut acting = JoinSet::new();
        for (index, key) in keys.into_iter().enumerate() {
            let done = act(self.home.clone(), key);
            acting.spawn(async move { done.await.map(|answer| (index, answer)) }.in_current_span());
        }
        let mut answers = Vec::with_capacity(acting.len());
        while let Some(ended) = acting.join_next().await {
            match ended {
                Ok(answer) => answers.push(answer),
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            }
        }
        let mut answers = answers.into_iter().collect::<Result<Vec<_>, ApiError>>()?;
        answers.sort_by_key(|(index, _)| *index);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }
}

impl<H: Home, C: Clock> Work for Mover<H, C> {
    type Step = MoveStep;

    fn is_about(kind: &JobKind) -> bool {
        matches!(kind, JobKind::Move { .. })
    }

    async fn perform(&self, step: MoveStep, context: &Context) -> Result<Value, StepError> {
        let input = input(context)?;
        let job = context.job;
        if step == MoveStep::Plan {
            return memo(self.plan(&input).await?);
        }
        let plan: Plan = memo_of(context, MoveStep::Plan)?;
        match step {
            MoveStep::Plan | MoveStep::HandOver => unreachable!("done above, and a deed has no body"),
            MoveStep::Reserve => self.reserve(job, &input, &plan).await.map_err(refusal).and_then(memo),
            MoveStep::Prepare => {
                // A journal of before there were bases says nothing.
                let reserved = memo_of(context, MoveStep::Reserve).unwrap_or_default();
                let prepared = self.prepare(context, &input, &plan, &reserved).await;
                prepared.and_then(memo)
            }
            MoveStep::Stop if input.mode.is_live() => {
                self.flush_all(&plan).await.map_err(refusal)?;
                let prepared: Prepared = memo_of(context, MoveStep::Prepare)?;
                memo(self.pause(context, &input, &plan, prepared.ahead).await?)
            }
            MoveStep::Stop => self.stop(&input, &plan).await.map_err(refusal).and_then(memo),
            MoveStep::Seal => {
                if input.mode.is_live() {
                    self.check_paused(context, &input).await?;
                }
                let sealed = self.each(plan.keys(), |home, key| async move { home.seal(key).await }).await;
                sealed.map_err(refusal)?;
                for planned in &plan.volumes {
                    check_size(planned, &self.home.volume(planned.key()).await.map_err(refusal)?)?;
                }
                memo(self.adopt(job, &input, &plan, &moving::marks(&context.standing)).await)
            }
            MoveStep::Activate => {
                let activated = self.activate(job, &input, &plan, &moving::marks(&context.standing)).await;
                activated.map_err(later).and_then(memo)
            }
            MoveStep::Boot if input.mode.is_live() => memo(self.arrive(context, &input).await?),
            MoveStep::Boot => {
                let target = self.home.target(&input.to).map_err(later)?;
                let crossing = target.boot(job).await.map_err(later)?;
                memo(Booted { booted_at_ms: crossing.booted_at_ms, arrival: None })
            }
            MoveStep::Hydrate => {
                let prepared: Prepared = memo_of(context, MoveStep::Prepare)?;
                let end = self.end_lease(context, &input, &plan, prepared.lease);
                let ((), hydrated) = tokio::join!(end, self.hydrate(context, &input, &plan));
                hydrated.map_err(later).and_then(memo)
            }
            MoveStep::Verify => memo(self.verify(context, &input, &plan).await?),
            MoveStep::Retire => self.retire(job, &input, &plan).await.map_err(later).and_then(memo),
        }
    }

    async fn undo(&self, step: MoveStep, context: &Context) -> Result<(), StepError> {
        let input = input(context)?;
        let plan: Plan = memo_of(context, MoveStep::Plan)?;
        match step {
            MoveStep::Reserve => self.release(context, &input).await,
            MoveStep::Prepare => {
                let is_cold = input.mode == MoveMode::Cold;
                let undone = self.each(plan.keys(), |home, key| async move {
                    if !is_cold {
                        home.forget_marks(key, None).await?;
                    }
                    home.withdraw(key).await
                });
                let undone = undone.await.map(drop);
                if undone.is_ok() {
                    // It may have failed before there was one.
                    let prepared: Option<Prepared> = memo_of(context, MoveStep::Prepare).ok();
                    let lease = prepared.and_then(|prepared| prepared.lease);
                    self.end_lease(context, &input, &plan, lease).await;
                    self.tell_that_it_stays(context, &input, &plan).await;
                }
                undone
            }
            MoveStep::Stop if input.mode.is_live() => self.go_on(&input).await,
            MoveStep::Stop => self.home.let_run(input.machine).await,
            MoveStep::Seal => {
                self.each(plan.keys(), |home, key| async move { home.unseal(key).await }).await.map(drop)
            }
            MoveStep::Plan
            | MoveStep::HandOver
            | MoveStep::Activate
            | MoveStep::Boot
            | MoveStep::Hydrate
            | MoveStep::Verify
            | MoveStep::Retire => unreachable!("the line gives these steps no undo"),
        }
        .map_err(later)
    }

    fn deed(&self, _step: MoveStep, context: &Context) -> Result<Value, StepError> {
        moving::deed(&context.standing)
    }

    fn changes(&self, context: &Context, event: &Event) -> Vec<Change> {
        if let Event::Finished { outcome } = event {
            log_end(context.job, outcome);
        }
        moving::changes(context.job, &context.standing, event)
    }
}

/// A refusal of the target, which says "this worker" and "here" of itself.
fn said_by(target: &WorkerName, error: ApiError) -> ApiError {
    match error.code.is_transient() {
        true => error,
        false => ApiError { message: format!("worker {target} refuses: {}", error.message), ..error },
    }
}

/// The first of what speaks against it, if anything does.
fn first(against: Vec<StepError>) -> Result<(), StepError> {
    against.into_iter().next().map_or(Ok(()), Err)
}

fn input(context: &Context) -> Result<MoveInput, StepError> {
    moving::input(&context.standing)
}

fn memo_of<T: DeserializeOwned>(context: &Context, step: MoveStep) -> Result<T, StepError> {
    moving::memo_of(&context.standing, step)
}

fn memo(left: impl Serialize) -> Result<Value, StepError> {
    Ok(moving::memo(left))
}

fn log_end(job: JobId, outcome: &Outcome) {
    match outcome {
        Outcome::Succeeded => tracing::info!(%job, "the move is done"),
        Outcome::Failed { step, message } => {
            tracing::warn!(%job, step, message, "the move failed and was undone")
        }
        Outcome::Cancelled => tracing::info!(%job, "the move was cancelled and undone"),
    }
}
